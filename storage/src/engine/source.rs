//! What the engine needs from the layer above to take a checkpoint.

use bytes::Bytes;

use super::error::EngineError;
use crate::model::{EntryId, LaneId, LogIndex, PartitionId};

/// A lane's state at one instant. A *message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneCheckpoint {
    /// Last entry that the lane has applied.
    pub applied: EntryId,
    /// Membership and everything else the lane needs for a start, opaque here.
    pub state: Bytes,
}

/// A partition's state at one instant. A *message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    /// The partition's lane, and the index up to which the lane's entries are applied to the partition.
    pub as_of: (LaneId, LogIndex),
    /// Epochs, producers, manifest and everything else the layer above keeps, opaque here.
    pub state: Bytes,
}

/// The layer above. Shard-local. The engine makes all calls of one checkpoint without an await between them: the
/// answers are as of one instant, at which every applied batch has been appended to its log.
pub trait CheckpointSource {
    /// The lane's state; `None` if it has applied no entry yet.
    fn lane(&self, lane: LaneId) -> Option<LaneCheckpoint>;
    /// The partition's state; `None` only if it was dropped.
    fn partition(&self, partition: PartitionId) -> Option<PartitionCheckpoint>;
    /// The lane's state up to `applied` is durable without the journal: its log may be purged up to there.
    fn checkpointed(&self, lane: LaneId, applied: EntryId);
    /// The engine has ended, and what is on disk is unknown. The process must end and recover.
    fn failed(&self, error: &EngineError) {
        tracing::error!(%error, "storage engine ended");
    }
}
