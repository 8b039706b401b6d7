//! Errors of a journal: of a running one, and of opening one.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::FormatError;
use crate::model::{EntryId, FilePos, LaneId, LogIndex};

/// A failure of a running journal. Every pending call gets a clone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A write or sync failed, so what is on disk is unknown. The journal accepts nothing more; the process must end
    /// and recover.
    #[error("journal {} has ended: {action} failed: {error}; check the disk, then start again", file.display())]
    Poisoned { action: &'static str, file: PathBuf, error: Arc<io::Error> },
    /// The journal was closed.
    #[error("journal is closed")]
    Closed,
    /// An entry larger than [`super::Journal::entry_bytes_max`].
    #[error("entry {id} of lane {lane} has {bytes} bytes, more than the {max} a journal accepts")]
    EntryTooLarge { lane: LaneId, id: EntryId, bytes: u64, max: u64 },
    /// An append that would leave a gap.
    #[error("entry {found} of lane {lane} does not continue the log, which ends before {expected}")]
    NotContiguous {
        lane: LaneId,
        found: EntryId,
        /// Index that would continue the log.
        expected: LogIndex,
    },
    /// The disk did not return an entry.
    #[error("entry {index} of lane {lane} cannot be read from {} at {at}: {error}", file.display())]
    Read { lane: LaneId, index: LogIndex, file: PathBuf, at: FilePos, error: Arc<io::Error> },
    /// The bytes read back are not those written.
    #[error("entry {index} of lane {lane} is corrupt in {} at {at}: {error}; restore this replica", file.display())]
    Corrupt { lane: LaneId, index: LogIndex, file: PathBuf, at: FilePos, error: FormatError },
}

/// Why a journal cannot be opened. The shard must neither serve nor vote.
#[derive(Debug, thiserror::Error)]
pub enum JournalOpenError {
    /// A call of the file system failed.
    #[error("journal {}: {action} failed: {error}", path.display())]
    Io { action: &'static str, path: PathBuf, error: io::Error },
    /// The layout file is damaged.
    #[error("journal layout {} is damaged: {error}; restore it or this replica", path.display())]
    Layout { path: PathBuf, error: FormatError },
    /// There are journal files with commits, but no layout file that says which of them are live.
    #[error("{} holds journal files but no layout file; restore the layout file or remove the directory", dir.display())]
    LayoutMissing { dir: PathBuf },
    /// A damaged commit that was durable; a torn last commit would not have been.
    #[error(
        "journal {} is corrupt at {at}: commit {sequence} cannot be read ({error}), yet commit {proof} in {} shows that \
         it was durable; restore this replica from another or from the bucket",
        file.display(), proof_file.display()
    )]
    Corrupt {
        file: PathBuf,
        at: FilePos,
        /// Number of the damaged commit.
        sequence: u64,
        error: FormatError,
        /// Number of a later commit, which says that the damaged one was durable.
        proof: u64,
        proof_file: PathBuf,
    },
    /// The commits are valid, but a lane's entries have a gap.
    #[error("journal {} is inconsistent: lane {lane} has entry {found} where {expected} should be", dir.display())]
    Hole { dir: PathBuf, lane: LaneId, expected: LogIndex, found: LogIndex },
    /// The journal ends before a commit that its layout says was durable.
    #[error("journal {} should hold commit {expected} but ends before it: {error}; restore this replica", file.display())]
    Lost { file: PathBuf, expected: u64, error: FormatError },
}
