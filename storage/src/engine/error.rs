//! Errors of a shard's engine, an enum per operation.

use crate::budget::DiskFull;
use crate::checkpoint::CheckpointError;
use crate::disposition::Disposition;
use crate::journal::{JournalError, JournalOpenError};
use crate::log::{LogStateError, WriteBackError};
use crate::model::{EntryId, LaneId, PartitionId};

use crate::codec::CodecError;

/// Why a shard cannot be opened. It must not serve.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The shard's directory cannot be created.
    #[error("{dir}: {source}")]
    Dir { dir: std::path::PathBuf, source: std::io::Error },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Journal(#[from] JournalOpenError),
    /// A lane's record in the checkpoint.
    #[error("checkpoint record of lane {lane}: {source}")]
    Lane { lane: LaneId, source: CodecError },
    /// The shard's record in the checkpoint.
    #[error("checkpoint record of the shard: {0}")]
    Shard(CodecError),
    /// A partition's record in the checkpoint.
    #[error("checkpoint record of partition {partition}: {source}")]
    Partition { partition: PartitionId, source: CodecError },
    /// A partition's log in its record.
    #[error("checkpoint record of partition {partition}: {source}")]
    Log { partition: PartitionId, source: LogStateError },
    /// The journal was purged beyond the checkpoint: one of the two was lost or replaced by an older copy.
    #[error(
        "lane {lane} is applied up to {applied:?} in the checkpoint but its log was purged up to {purged}: entries between \
         are lost here; restore this replica"
    )]
    Gap { lane: LaneId, applied: Option<EntryId>, purged: EntryId },
    /// The journal ends before a commit that was durable when the checkpoint was taken.
    #[error("the journal ends at commit {found}, the checkpoint saw {expected} durable; restore this replica")]
    JournalBehind { expected: u64, found: u64 },
}

/// Why a checkpoint was not taken, or why the engine ended.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// [`super::Engine::set_source`] was not called.
    #[error("no checkpoint source is set")]
    NoSource,
    /// The source has no state for a partition that exists: a fault of the layer above.
    #[error("partition {0} exists but its owner has no state for it; no checkpoint is taken")]
    Stateless(PartitionId),
    /// The source has no state for a lane whose log was purged: a fault of the layer above.
    #[error("lane {0} was purged but its owner has no state for it; the whole checkpoint is not written")]
    Laneless(LaneId),
    /// Partitions were trimmed or dropped faster than they could be written.
    #[error("partitions changed under the checkpoint {0} times")]
    Unsettled(u32),
    /// The checkpoint store.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A segment file.
    #[error(transparent)]
    WriteBack(#[from] WriteBackError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The engine ended earlier.
    #[error("the storage engine has ended after an error; start again")]
    Ended,
}

impl EngineError {
    /// [`Disposition::Fatal`]: the process must end and recover. Of the others the next attempt may do better.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NoSource | Self::Stateless(_) | Self::Laneless(_) | Self::Unsettled(_) => Disposition::Retry,
            // The next checkpoint does without the lost page.
            Self::Checkpoint(error) if error.is_lost_page() => Disposition::Retry,
            Self::Checkpoint(error) if error.disposition().passes() => Disposition::Retry,
            Self::WriteBack(error) => error.disposition(),
            Self::Checkpoint(_) | Self::Journal(_) | Self::Ended => Disposition::Fatal,
        }
    }
}

/// Why a write must not be proposed now. Each passes without anyone acting, except a full disk budget.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// The disk budget is used up; passes when something is deleted.
    #[error(transparent)]
    Disk(#[from] DiskFull),
    /// The journal is nearly full; passes with the next checkpoints.
    #[error("journal is nearly full ({used} of {capacity} bytes); checkpoints are behind, try again shortly")]
    Journal { used: u64, capacity: u64 },
    /// Too many bytes are not written back yet; passes with write-back.
    #[error("{resident} bytes wait to be written to segments, the memory for them is {cap}; try again shortly")]
    Memory {
        /// Bytes in memory.
        resident: u64,
        cap: u64,
    },
}
