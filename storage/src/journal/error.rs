//! What can go wrong in a journal, one condition each.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::format::FormatError;
use crate::model::{EntryId, FilePos, LaneId, LogIndex};

/// A running journal's failure. Cloned to everyone who waits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// A write or sync failed: nothing more is accepted, because what is on disk is not known. The process ends and
    /// recovers; it must not go on as if the journal were clean.
    #[error("journal {} is given up: {action} failed: {error}; check the disk, then start again", file.display())]
    Poisoned {
        /// What was done.
        action: &'static str,
        /// To which file.
        file: PathBuf,
        /// The system's answer.
        error: Arc<io::Error>,
    },
    /// The journal was closed.
    #[error("journal is closed")]
    Closed,
    /// An entry larger than a journal takes.
    #[error("entry {id} of lane {lane} has {bytes} bytes, more than the {max} a journal takes")]
    EntryTooLarge {
        /// Lane.
        lane: LaneId,
        /// Entry.
        id: EntryId,
        /// Its size. Bytes.
        bytes: u64,
        /// The limit. Bytes.
        max: u64,
    },
    /// An append that would leave a hole.
    #[error("entry {found} of lane {lane} does not continue the log, which ends before {expected}")]
    NotContiguous {
        /// Lane.
        lane: LaneId,
        /// Entry offered.
        found: EntryId,
        /// Index that would continue.
        expected: LogIndex,
    },
    /// Reading an entry back failed.
    #[error("entry {index} of lane {lane} cannot be read from {} at {at}: {error}", file.display())]
    Read {
        /// Lane.
        lane: LaneId,
        /// Entry.
        index: LogIndex,
        /// File.
        file: PathBuf,
        /// Place.
        at: FilePos,
        /// The system's answer.
        error: Arc<io::Error>,
    },
    /// What was read back is not what was written.
    #[error("entry {index} of lane {lane} is corrupt in {} at {at}: {error}; restore this replica", file.display())]
    Corrupt {
        /// Lane.
        lane: LaneId,
        /// Entry.
        index: LogIndex,
        /// File.
        file: PathBuf,
        /// Place.
        at: FilePos,
        /// What is wrong.
        error: FormatError,
    },
}

/// Why a journal cannot be opened. Nothing is served or voted from it.
#[derive(Debug, thiserror::Error)]
pub enum JournalOpenError {
    /// The system refused.
    #[error("journal {}: {action} failed: {error}", path.display())]
    Io {
        /// What was done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The layout file is damaged.
    #[error("journal layout {} is damaged: {error}; restore it or this replica", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: FormatError,
    },
    /// There are journal files with commits but no layout file to say which count.
    #[error("{} holds journal files but no layout file; restore the layout file or remove the directory", dir.display())]
    LayoutMissing {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// A commit is damaged that is known to have been durable: not a torn tail.
    #[error(
        "journal {} is corrupt at {at}: commit {sequence} cannot be read ({error}), yet commit {proof} in {} shows that \
         it was durable; restore this replica from another or from the bucket",
        file.display(), proof_file.display()
    )]
    Corrupt {
        /// File of the damage.
        file: PathBuf,
        /// Its place.
        at: FilePos,
        /// The commit that should be there.
        sequence: u64,
        /// What is wrong with it.
        error: FormatError,
        /// A later commit that is whole.
        proof: u64,
        /// Where that is.
        proof_file: PathBuf,
    },
    /// The commits are whole but their content contradicts itself.
    #[error("journal {} is inconsistent: lane {lane} has entry {found} where {expected} should be", dir.display())]
    Hole {
        /// The journal's directory.
        dir: PathBuf,
        /// Lane.
        lane: LaneId,
        /// Index that is missing.
        expected: LogIndex,
        /// Index found instead.
        found: LogIndex,
    },
    /// The journal is empty where its layout says it is not.
    #[error("journal {} should begin with commit {expected} but holds none: {error}; restore this replica", file.display())]
    Lost {
        /// File.
        file: PathBuf,
        /// First commit expected.
        expected: u64,
        /// What is there.
        error: FormatError,
    },
}
