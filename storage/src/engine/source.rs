//! What the engine asks of the layer above when a checkpoint is taken.

use bytes::Bytes;

use super::error::EngineError;
use crate::model::{EntryId, LaneId, LogIndex, PartitionId};

/// A lane at this instant. A *message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneCheckpoint {
    /// Last entry its state machine has applied.
    pub applied: EntryId,
    /// Membership and whatever else the lane needs to start again.
    pub state: Bytes,
}

/// A partition at this instant. A *message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCheckpoint {
    /// The lane it is in, and the index up to which it has been applied to this partition.
    pub as_of: (LaneId, LogIndex),
    /// Its derived state: epochs, producers, pointers, whatever the layer above keeps.
    pub state: Bytes,
}

/// The layer above. Shard-local. All calls are made between two awaits: lanes and partitions answer as of one instant,
/// at which every applied batch has been appended to its log.
pub trait CheckpointSource {
    /// The lane; `None` if it has applied nothing yet.
    fn lane(&self, lane: LaneId) -> Option<LaneCheckpoint>;
    /// The partition. `None` only if it was dropped.
    fn partition(&self, partition: PartitionId) -> Option<PartitionCheckpoint>;
    /// Everything of `lane` up to `applied` is durable without the journal: its log may be purged up to there.
    fn checkpointed(&self, lane: LaneId, applied: EntryId);
    /// The engine has ended: what is on disk is not known any more. The process must end and recover.
    fn failed(&self, error: &EngineError) {
        tracing::error!(%error, "storage engine ended");
    }
}
