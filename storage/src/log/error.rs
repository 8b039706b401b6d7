//! Errors of one partition's log, an enum per operation.

use std::io;
use std::path::PathBuf;

use crate::codec::CodecError;
use crate::disposition::Disposition;
use crate::env::is_disk_full;
use crate::model::{BatchError, FilePos, Offset, OffsetRange, PartitionId};
use crate::segment::format::IndexFileError;
use crate::segment::rebuild::RebuildError;

/// Why a read failed. None of these errors ends the log.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is no longer on this disk; the bucket may have it.
    #[error("offset {offset} of {partition} lies below the local start {start}")]
    BelowStart {
        partition: PartitionId,
        offset: Offset,
        /// First offset on this disk.
        start: Offset,
    },
    /// The offset is not written yet.
    #[error("offset {offset} of {partition} lies above the log's end {end}")]
    AboveEnd {
        partition: PartitionId,
        offset: Offset,
        /// First offset after the log.
        end: Offset,
    },
    /// The bytes of a run are not those written.
    #[error(
        "{file} is damaged: the run at byte {pos} has checksum {found:#010x}, its index says {expected:#010x}; \
         trim the partition past it or restore the file"
    )]
    Corrupt {
        file: PathBuf,
        pos: FilePos,
        /// Offsets that cannot be read from this disk.
        offsets: OffsetRange,
        expected: u32,
        found: u32,
    },
    /// The file ends within a run.
    #[error("{file} is cut short: {have} bytes where {need} were expected from byte {pos}; restore the file")]
    Short {
        file: PathBuf,
        pos: FilePos,
        /// Offsets that cannot be read from this disk.
        offsets: OffsetRange,
        have: u64,
        need: u64,
    },
    /// A run with the right checksum that does not consist of batches: a fault of this program.
    #[error("{file} holds no batch at byte {pos}: {source}")]
    Batch {
        file: PathBuf,
        pos: FilePos,
        /// Offsets that cannot be read from this disk.
        offsets: OffsetRange,
        source: BatchError,
    },
    /// The index file is unusable and cannot be rebuilt from its segment.
    #[error("{file} cannot be indexed again: {source}; trim the partition past it or restore the file")]
    Index {
        file: PathBuf,
        /// Offsets that cannot be read from this disk.
        offsets: OffsetRange,
        source: RebuildError,
    },
    /// The disk did not return the bytes.
    #[error("reading {file}: {source}")]
    Io { file: PathBuf, source: io::Error },
}

impl ReadError {
    /// The offsets whose bytes on this disk are damaged. `None` if the disk did not return them, or does not hold them.
    #[must_use]
    pub fn damaged(&self) -> Option<OffsetRange> {
        match self {
            Self::Corrupt { offsets, .. } | Self::Short { offsets, .. } | Self::Batch { offsets, .. } => Some(*offsets),
            Self::Index { source: RebuildError::Io(_), .. } => None,
            Self::Index { offsets, .. } => Some(*offsets),
            Self::BelowStart { .. } | Self::AboveEnd { .. } | Self::Io { .. } => None,
        }
    }
}

/// A write-back failed. What was not written stays in memory and journal.
#[derive(Debug, thiserror::Error)]
#[error("writing {file}: {source}")]
pub struct WriteBackError {
    pub file: PathBuf,
    pub source: io::Error,
    /// A failed sync is never retried: the process must end and recover.
    pub sync: bool,
}

impl WriteBackError {
    /// [`Disposition::Retry`] only after a full disk: nothing is lost then, and space may become free.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        if !self.sync && is_disk_full(&self.source) { Disposition::Retry } else { Disposition::Fatal }
    }
}

/// Why bytes are not a log's record in the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogStateError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Segments that do not follow each other or do not fit the bounds.
    #[error("segment {0} of the log record does not fit")]
    Segment(usize),
    /// The open segment's index.
    #[error("open segment's index: {0}")]
    Index(#[from] IndexFileError),
}
