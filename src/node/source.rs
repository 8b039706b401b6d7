//! The state that a shard's checkpoints contain: its data lanes and partitions, and on shard 0 the controller's lane.

use std::rc::Rc;

use tidewater_storage::engine::{CheckpointSource, EngineError, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::model::{EntryId, LaneId, PartitionId};

use crate::controller::lane::ControllerLane;
use crate::partition::shard::PartitionShard;

/// Shard-local.
pub struct ShardSource {
    pub partitions: Rc<PartitionShard>,
    /// On shard 0.
    pub controller: Option<Rc<ControllerLane>>,
}

impl CheckpointSource for ShardSource {
    fn lane(&self, id: LaneId) -> Option<LaneCheckpoint> {
        match &self.controller {
            Some(controller) if id == LaneId::CONTROLLER => controller.checkpoint(),
            _ => self.partitions.lane_checkpoint(id),
        }
    }

    fn partition(&self, id: PartitionId) -> Option<PartitionCheckpoint> {
        self.partitions.partition_checkpoint(id)
    }

    fn checkpointed(&self, id: LaneId, applied: EntryId) {
        let raft = match &self.controller {
            Some(controller) if id == LaneId::CONTROLLER => controller.status.raft().cloned(),
            _ => self.partitions.lane(id).and_then(|lane| lane.status.raft().cloned()),
        };
        if let Some(raft) = raft {
            raft.purge(applied);
        }
    }

    fn failed(&self, error: &EngineError) {
        tracing::error!(%error, "the storage engine failed; the broker stops, a restart recovers everything acknowledged");
        std::process::abort();
    }
}
