//! What can go wrong with one partition's log, an enum per operation.

use std::io;
use std::path::PathBuf;

use crate::codec::CodecError;
use crate::env::is_disk_full;
use crate::model::{BatchError, FilePos, Offset, OffsetRange, PartitionId};
use crate::segment::format::IndexFileError;
use crate::segment::rebuild::RebuildError;

/// Why a read gave nothing. The log goes on after any of them.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Asked for what this disk no longer holds; the bucket may.
    #[error("offset {offset} of {partition} lies below the local start {start}")]
    BelowStart {
        partition: PartitionId,
        offset: Offset,
        /// First offset here.
        start: Offset,
    },
    /// Asked for what is not there yet.
    #[error("offset {offset} of {partition} lies above the log's end {end}")]
    AboveEnd {
        partition: PartitionId,
        offset: Offset,
        /// First offset after the log.
        end: Offset,
    },
    /// A run of batches is not what was written.
    #[error(
        "{file} is damaged: the run at byte {pos} has checksum {found:#010x}, its index says {expected:#010x}; \
         trim the partition past it or restore the file"
    )]
    Corrupt {
        file: PathBuf,
        pos: FilePos,
        /// Offsets that cannot be read because of it.
        offsets: OffsetRange,
        expected: u32,
        found: u32,
    },
    /// The file ends within a run.
    #[error("{file} is cut short: {have} bytes where {need} were expected from byte {pos}; restore the file")]
    Short {
        file: PathBuf,
        pos: FilePos,
        /// Offsets that cannot be read because of it.
        offsets: OffsetRange,
        have: u64,
        need: u64,
    },
    /// A run whose sum holds but that is not made of batches: a defect of ours.
    #[error("{file} holds no batch at byte {pos}: {source}")]
    Batch {
        file: PathBuf,
        pos: FilePos,
        /// Offsets that cannot be read because of it.
        offsets: OffsetRange,
        source: BatchError,
    },
    /// The index file is unusable and cannot be made again from its segment.
    #[error("{file} cannot be indexed again: {source}; trim the partition past it or restore the file")]
    Index {
        file: PathBuf,
        /// Offsets that cannot be read because of it.
        offsets: OffsetRange,
        source: RebuildError,
    },
    /// The disk.
    #[error("reading {file}: {source}")]
    Io { file: PathBuf, source: io::Error },
}

impl ReadError {
    /// The offsets whose bytes on this disk are not what was written; `None` when the disk only did not give them.
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

/// Writing back failed. What was not written stays in memory and journal.
#[derive(Debug, thiserror::Error)]
#[error("writing {file}: {source}")]
pub struct WriteBackError {
    pub file: PathBuf,
    pub source: io::Error,
    /// A failed sync is never retried: the process must end and recover.
    pub sync: bool,
}

impl WriteBackError {
    /// May it be tried again later? Only when the disk is full: nothing was lost and space may come free.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        !self.sync && is_disk_full(&self.source)
    }
}

/// Why the checkpoint's record of a log is not one.
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
