//! What a shard's checkpoints hold: its data lanes and partitions, and on shard 0 the controller's lane.

use std::rc::Rc;

use tidewater_storage::engine::{CheckpointSource, EngineError, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::model::{EntryId, LaneId, PartitionId};

use crate::controller::lane::ControllerLane;
use crate::partition::shard::PartitionShard;

/// One shard's state for its checkpoints. Shard-local.
pub struct ShardSource {
    /// Its partitions.
    pub partitions: Rc<PartitionShard>,
    /// The controller, on shard 0.
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
            Some(controller) if id == LaneId::CONTROLLER => controller.raft().cloned(),
            _ => self.partitions.lane(id).and_then(|lane| lane.raft().cloned()),
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
