//! The lanes of one shard: recovered, started, watched; and what checkpoints hold of them. As `src/node` does it, but
//! where that aborts the process, the world is told.

use std::rc::Rc;

use bytes::Bytes;
use tidewater::controller::lane::ControllerLane;
use tidewater::controller::state::{data_lanes, shard_of};
use tidewater::node::source::ShardSource;
use tidewater::partition::lane::{DataLane, RecoveredState, membership_of};
use tidewater::partition::replica::Replica;
use tidewater::partition::shard::PartitionShard;
use tidewater::raft::{Lane, LaneOptions};
use tidewater_storage::engine::{
    CheckpointSource, Engine, EngineError, LaneCheckpoint, PartitionCheckpoint, Recovered,
};
use tidewater_storage::env::Env;
use tidewater_storage::model::{EntryId, LaneId, NodeId, PartitionId, ShardId};
use tidewater_tiering::manifest::LaneManifest;

use crate::defect::Defect;
use crate::node::NoStart;
use crate::world::{Obituaries, World};

/// A shard's lanes.
pub(crate) struct Lanes {
    pub(crate) partitions: Rc<PartitionShard>,
    data: Vec<(Rc<DataLane>, Option<Bytes>)>,
    pub(crate) controller: Option<Rc<ControllerLane>>,
    controller_membership: Option<Bytes>,
}

impl Lanes {
    pub(crate) fn recover(
        env: &Env,
        world: &World,
        here: ShardId,
        engine: &Engine,
        recovered: &Recovered,
    ) -> Result<Self, NoStart> {
        let blob_of = |lane: LaneId| {
            let found = recovered.lanes.iter().find(|known| known.lane == lane);
            found.map_or((None, Bytes::new()), |known| (known.applied, known.state.clone()))
        };
        let shards = world.plan.shards;
        let mut data = Vec::new();
        for lane in data_lanes(shards).filter(|lane| shard_of(*lane, shards) == here) {
            let (applied, blob) = blob_of(lane);
            let membership = membership_of(&blob);
            let mut replicas = Vec::new();
            for found in recovered.partitions.iter().filter(|found| found.as_of.0 == lane) {
                let log = engine.partition(found.id).expect("a recovered partition has its log");
                let replica = Replica::decode(found.id, lane, &found.state, log);
                replicas.push((replica.ok_or("a partition's checkpoint does not decode")?, found.as_of.1));
            }
            let state = RecoveredState { applied, blob, replicas };
            let fresh = LaneManifest::new(world.home(), lane);
            let lane = DataLane::recover(lane, env.clone(), engine.clone(), state, fresh);
            data.push((Rc::new(lane.map_err(|error| error.to_string())?), membership));
        }
        let (mut controller, mut controller_membership) = (None, None);
        if here == ShardId(0) {
            let (applied, blob) = blob_of(LaneId::CONTROLLER);
            let recovered = ControllerLane::recover(engine.clone(), applied, &blob);
            let (lane, membership) = recovered.map_err(|error| error.to_string())?;
            (controller, controller_membership) = (Some(Rc::new(lane)), membership);
        }
        let partitions = Rc::new(PartitionShard::new(here, env.clone()));
        Ok(Self { partitions, data, controller, controller_membership })
    }

    /// What checkpoints ask.
    pub(crate) fn source(&self, world: &World) -> Rc<dyn CheckpointSource> {
        let inner = ShardSource { partitions: Rc::clone(&self.partitions), controller: self.controller.clone() };
        Rc::new(Source { inner, defect: world.plan.defect, obituaries: world.obituaries() })
    }

    /// Starts every lane's Raft group and proposer; resolves when all lead.
    pub(crate) async fn start_groups(&self, env: &Env, world: &World, engine: &Engine) -> Result<(), NoStart> {
        for (lane, membership) in &self.data {
            let options = LaneOptions::single(lane.id, NodeId(0)).from_checkpoint(lane.applied(), membership.clone());
            let raft = Lane::start(env, engine.lane(lane.id), Rc::clone(lane) as _, options).await;
            let raft = raft.map_err(|error| error.to_string())?;
            watch(env, world, &raft);
            lane.attach(raft);
            self.partitions.add_lane(Rc::clone(lane), engine.clone());
        }
        if let Some(lane) = &self.controller {
            let applied = lane.checkpoint().map(|checkpoint| checkpoint.applied);
            let membership = self.controller_membership.clone();
            let options = LaneOptions::single(LaneId::CONTROLLER, NodeId(0)).from_checkpoint(applied, membership);
            let raft = Lane::start(env, engine.lane(LaneId::CONTROLLER), Rc::clone(lane) as _, options).await;
            let raft = raft.map_err(|error| error.to_string())?;
            watch(env, world, &raft);
            lane.attach(raft);
        }
        for (lane, _) in &self.data {
            while lane.leading().is_none() {
                lane.leadership_bell.heard().await;
            }
        }
        if let Some(lane) = &self.controller {
            while lane.leading().is_none() {
                lane.leadership_bell.heard().await;
            }
        }
        Ok(())
    }
}

/// A group that died takes the broker with it.
fn watch(env: &Env, world: &World, raft: &Lane) {
    let (raft, obituaries) = (raft.clone(), world.obituaries());
    drop(env.tasks.spawn("lane watch", async move { obituaries.tell(raft.fatal().await.to_string()) }));
}

/// The shard's own source, and what a simulated process does instead of aborting.
struct Source {
    inner: ShardSource,
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
        self.obituaries.tell(format!("the storage engine failed: {error}"));
    }
}
