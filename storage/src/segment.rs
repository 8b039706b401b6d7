//! Segment files: a partition's committed batches back to back and nothing else, with a sparse index beside each.
//!
//! Owns: paths of the files, the index of runs and its file format, rebuilding an index from its segment, the bounded
//! set of open files. Does not own: which batches a segment holds and when they are written (`log`); which segments
//! exist (the checkpoint; directories are never listed). Shard-local.
//!
//! Crash behaviour: blocks below what a durable checkpoint names are never written again, so a torn write can only hit
//! bytes that the journal still holds. An absent or damaged index file is rebuilt.

pub(crate) mod files;
pub mod format;
pub mod index;
pub(crate) mod index_cache;
pub(crate) mod rebuild;
pub(crate) mod state;

use std::path::{Path, PathBuf};

pub use files::Handles;
pub use format::{IndexFile, IndexFileError};
pub use index::{Run, SegmentIndex};

use crate::model::{Offset, OffsetRange, PartitionId, TimestampMs};

/// Alignment of direct I/O, and the unit in which segment files grow. Bytes.
pub const BLOCK: u64 = 4096;

/// One segment, for callers of the log. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub offsets: OffsetRange,
    /// Bytes of its batches, written to the file or not.
    pub bytes: u64,
    /// Greatest timestamp of its batches.
    pub max_timestamp: TimestampMs,
    /// No batch will be added.
    pub closed: bool,
    /// Greatest timestamp of its first batch, from which `segment.ms` counts.
    pub created: TimestampMs,
}

/// `bytes` rounded down to whole blocks.
pub(crate) const fn block_floor(bytes: u64) -> u64 {
    bytes - bytes % BLOCK
}

/// `bytes` rounded up to whole blocks.
pub(crate) const fn block_ceil(bytes: u64) -> u64 {
    block_floor(bytes + BLOCK - 1)
}

/// The directory of one partition below the shard's: `p/<topic id>/<index>-<incarnation>`.
#[must_use]
pub fn partition_dir(shard_dir: &Path, id: PartitionId) -> PathBuf {
    shard_dir.join("p").join(id.topic.to_string()).join(format!("{}-{}", id.index, id.incarnation))
}

/// The file of the segment that begins at `base`: 20 digits, `.log`.
#[must_use]
pub fn log_path(partition_dir: &Path, base: Offset) -> PathBuf {
    partition_dir.join(format!("{:020}.log", base.get()))
}

/// The index file of the segment that begins at `base`: 20 digits, `.idx`.
#[must_use]
pub fn index_path(partition_dir: &Path, base: Offset) -> PathBuf {
    partition_dir.join(format!("{:020}.idx", base.get()))
}
