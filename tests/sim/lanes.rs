//! The lanes of one shard are the product's own (`node::lanes`). Here: where it sits in the simulated world, and where
//! the product would abort the process, the world gets a report.

use std::rc::Rc;

use tidewater::limits::PRODUCER_ID_EXPIRATION_MS;
use tidewater::node::lanes::{Lanes, Seat};
use tidewater::node::source::ShardSource;
use tidewater_storage::engine::{CheckpointSource, EngineError, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::model::{EntryId, LaneId, PartitionId, ReplicaId, ShardId};

use crate::defect::Defect;
use crate::world::{Obituaries, World};

/// Shard `here` of the world's broker.
pub(crate) fn seat(world: &World, here: ShardId) -> Seat {
    let shards = world.plan.shards;
    let forget_producers_after_ms = PRODUCER_ID_EXPIRATION_MS;
    let (lanes, ReplicaId { node, incarnation }) = (u32::from(shards), world.replica());
    Seat { here, shards, lanes, node, incarnation, home: world.home(), forget_producers_after_ms }
}

pub(crate) fn source(lanes: &Lanes, world: &World) -> Rc<dyn CheckpointSource> {
    Rc::new(Source { inner: lanes.source(), defect: world.plan.defect, obituaries: world.obituaries() })
}

/// The shard's own source, and what a simulated process does instead of aborting.
struct Source {
    inner: Rc<ShardSource>,
    defect: Option<Defect>,
    obituaries: Obituaries,
}

impl CheckpointSource for Source {
    fn lane(&self, lane: LaneId) -> Option<LaneCheckpoint> {
        let checkpoint = self.inner.lane(lane)?;
        if self.defect == Some(Defect::PurgeBeforeCheckpoint) {
            self.inner.checkpointed(lane, checkpoint.applied);
        }
        Some(checkpoint)
    }

    fn partition(&self, partition: PartitionId) -> Option<PartitionCheckpoint> {
        self.inner.partition(partition)
    }

    fn checkpointed(&self, lane: LaneId, applied: EntryId) {
        self.inner.checkpointed(lane, applied);
    }

    fn failed(&self, error: &EngineError) {
        self.obituaries.note(format!("the storage engine failed: {error}"));
    }
}
