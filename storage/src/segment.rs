//! Segment files: a partition's committed batches back to back and nothing else, with a sparse index beside them.
//!
//! Owns: where files lie, the index of runs and its file form, rebuilding an index from its file, the bounded set of
//! open handles. Does not own: which batches go into which segment and when they are written (`log`), nor which
//! segments exist (the checkpoint says so; directories are never listed to find out). Shard-local.
//!
//! Crash behaviour: a block below what a durable checkpoint names is never written again, so a torn write can only hit
//! bytes that the journal still holds. Index files are a convenience: absent or damaged ones are rebuilt.

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

/// What direct I/O is aligned to, in bytes, and the unit in which segments grow.
pub const BLOCK: u64 = 4096;

/// One segment as the outside sees it. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub offsets: OffsetRange,
    /// Bytes of its batches, written to the file or not yet.
    pub bytes: u64,
    /// Greatest timestamp of its batches.
    pub max_timestamp: TimestampMs,
    /// Will it grow no more?
    pub closed: bool,
    /// Maximum timestamp of its first batch: what `segment.ms` counts from.
    pub created: TimestampMs,
}

/// `bytes` down to a whole number of blocks.
pub(crate) const fn block_floor(bytes: u64) -> u64 {
    bytes - bytes % BLOCK
}

/// `bytes` up to a whole number of blocks.
pub(crate) const fn block_ceil(bytes: u64) -> u64 {
    block_floor(bytes + BLOCK - 1)
}

/// The directory of one partition below the shard's: `p/<topic id>/<index>-<incarnation>`.
#[must_use]
pub fn partition_dir(shard_dir: &Path, id: PartitionId) -> PathBuf {
    shard_dir.join("p").join(id.topic.to_string()).join(format!("{}-{}", id.index, id.incarnation))
}

/// The file of the segment that starts at `base`: 20 digits, `.log`.
#[must_use]
pub fn log_path(partition_dir: &Path, base: Offset) -> PathBuf {
    partition_dir.join(format!("{:020}.log", base.get()))
}

/// Its index file: 20 digits, `.idx`.
#[must_use]
pub fn index_path(partition_dir: &Path, base: Offset) -> PathBuf {
    partition_dir.join(format!("{:020}.idx", base.get()))
}
