//! The lanes of a shard: recovered from its checkpoint, their Raft groups started and stopped.
//!
//! Owns: which lanes a shard runs. A lane is permanent; the number of shards decides on which shard it runs
//! (`controller::state::shard_of`), so a broker with fewer shards than lanes runs several lanes on one. Does not own:
//! what happens to the process when a lane fails; the broker calls [`abort`]. Shard-local.

use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::codec::CodecError;
use tidewater_storage::engine::{Engine, Recovered};
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, NodeId, PartitionId, ShardId};
use tidewater_tiering::keys::Home;
use tidewater_tiering::manifest::LaneManifest;

use super::source::ShardSource;
use super::status::ShardFailure;
use crate::controller::lane::ControllerLane;
use crate::controller::state::shard_of;
use crate::partition::shard::PartitionShard;
use crate::partition::state::lane::{DataLane, RecoveredState};
use crate::partition::state::lane_blob::membership_of;
use crate::partition::state::replica::Replica;
use crate::raft::{Lane, LaneFatal, LaneOptions};

/// A shard among the shards of its node. A *message*.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub here: ShardId,
    /// Shards of the node.
    pub shards: u16,
    /// Data lanes of the node: the highest number of shards it has had.
    pub lanes: u32,
    pub node: NodeId,
    pub home: Home,
    /// `producer.id.expiration.ms`.
    pub forget_producers_after_ms: u64,
}

impl Seat {
    /// The data lanes that run here.
    fn data_lanes(self) -> impl Iterator<Item = LaneId> {
        (1..=self.lanes).map(LaneId).filter(move |lane| shard_of(*lane, self.shards) == self.here)
    }
}

pub struct Lanes {
    /// The partitions of the data lanes.
    pub partitions: Rc<PartitionShard>,
    data: Vec<(Rc<DataLane>, Option<Bytes>)>,
    /// On shard 0.
    pub controller: Option<Rc<ControllerLane>>,
    controller_membership: Option<Bytes>,
}

impl Lanes {
    /// The lanes as the checkpoint has them, before the journal is applied. From here on checkpoints include all lanes
    /// and partitions, so one may be taken while the journal is applied.
    ///
    /// # Errors
    /// A checkpoint blob is malformed.
    pub fn recover(env: &Env, seat: &Seat, engine: &Engine, recovered: Recovered) -> Result<Self, ShardFailure> {
        let here = seat.here;
        let partitions = Rc::new(PartitionShard::new(here, env.clone()));
        let blob_of = |lane: LaneId| {
            let found = recovered.lanes.iter().find(|l| l.lane == lane);
            found.map_or((None, Bytes::new()), |l| (l.applied, l.state.clone()))
        };
        let runs_here = |lane: LaneId| seat.data_lanes().any(|here| here == lane);
        if let Some(foreign) = recovered.partitions.iter().find(|partition| !runs_here(partition.as_of.0)) {
            let (partition, lane) = (foreign.id, foreign.as_of.0);
            let why = format!(
                "its checkpoint has partition {partition} of lane {lane}, which does not run on this shard; put back the shard's directory or node.json as they were"
            );
            return Err(ShardFailure { shard: here, why });
        }
        let mut data = Vec::new();
        for lane in seat.data_lanes() {
            let (applied, blob) = blob_of(lane);
            let membership = membership_of(&blob);
            let mut replicas = Vec::new();
            for found in recovered.partitions.iter().filter(|p| p.as_of.0 == lane) {
                let replica = recover_replica(engine, found.id, lane, &found.state);
                replicas.push((replica.map_err(|e| ShardFailure::new(here, &e))?, found.as_of.1));
            }
            let state = RecoveredState { applied, blob, replicas };
            let fresh = LaneManifest::new(seat.home, lane);
            let lane = DataLane::recover(lane, env.clone(), engine.clone(), state, fresh);
            let lane = lane.map_err(|e| ShardFailure::new(here, &e))?;
            lane.forget_producers_after(seat.forget_producers_after_ms);
            let lane = Rc::new(lane);
            partitions.add_lane(Rc::clone(&lane), engine.clone());
            data.push((lane, membership));
        }
        let (controller, controller_membership) = if here == ShardId(0) {
            let (applied, blob) = blob_of(LaneId::CONTROLLER);
            let recovered = ControllerLane::recover(engine.clone(), applied, &blob);
            let (lane, membership) = recovered.map_err(|e| ShardFailure::new(here, &e))?;
            (Some(Rc::new(lane)), membership)
        } else {
            (None, None)
        };
        Ok(Self { partitions, data, controller, controller_membership })
    }

    /// Starts every lane's Raft group and proposer. On return every lane leads and has applied its journal. `on_death`
    /// is called for a lane whose log fails later.
    ///
    /// # Errors
    /// A Raft group did not start, or a newer version wrote to its log.
    pub async fn start_groups(
        &self,
        env: &Env,
        seat: &Seat,
        engine: &Engine,
        on_death: impl Fn(LaneFatal) + Clone + 'static,
    ) -> Result<(), ShardFailure> {
        let here = seat.here;
        for (lane, membership) in &self.data {
            let options =
                LaneOptions::single(lane.id, seat.node).from_checkpoint(lane.status.applied(), membership.clone());
            let raft = Lane::start(env, engine.lane(lane.id), Rc::clone(lane) as _, options).await;
            let raft = raft.map_err(|e| ShardFailure::new(here, &e))?;
            watch(env, &raft, on_death.clone());
            lane.status.attach(raft);
        }
        if let Some(lane) = &self.controller {
            let membership = self.controller_membership.clone();
            let applied = lane.checkpoint().map(|c| c.applied);
            let options = LaneOptions::single(LaneId::CONTROLLER, seat.node).from_checkpoint(applied, membership);
            let raft = Lane::start(env, engine.lane(LaneId::CONTROLLER), Rc::clone(lane) as _, options).await;
            let raft = raft.map_err(|e| ShardFailure::new(here, &e))?;
            watch(env, &raft, on_death.clone());
            lane.status.attach(raft);
        }
        for (lane, _) in &self.data {
            lane.status.led().await.map_err(|e| ShardFailure::new(here, &e))?;
        }
        if let Some(lane) = &self.controller {
            lane.status.led().await.map_err(|e| ShardFailure::new(here, &e))?;
        }
        Ok(())
    }

    #[must_use]
    pub fn source(&self) -> Rc<ShardSource> {
        Rc::new(ShardSource { partitions: Rc::clone(&self.partitions), controller: self.controller.clone() })
    }

    /// Stops the Raft groups.
    pub(super) async fn shutdown(&self) {
        for (lane, _) in &self.data {
            if let Some(raft) = lane.status.raft() {
                raft.shutdown().await;
            }
        }
        if let Some(raft) = self.controller.as_ref().and_then(|lane| lane.status.raft()) {
            raft.shutdown().await;
        }
    }
}

/// A partition's checkpoint blob cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint of partition {partition} cannot be read: {source}")]
struct BadReplicaBlob {
    partition: PartitionId,
    source: CodecError,
}

fn recover_replica(engine: &Engine, id: PartitionId, lane: LaneId, blob: &Bytes) -> Result<Replica, BadReplicaBlob> {
    let log = engine.partition(id).expect("the engine recovered the partition with its log");
    Replica::decode(id, lane, blob, log).map_err(|source| BadReplicaBlob { partition: id, source })
}

fn watch(env: &Env, raft: &Lane, on_death: impl Fn(LaneFatal) + 'static) {
    let raft = raft.clone();
    env.tasks.spawn("lane watch", async move { on_death(raft.fatal().await) });
}

/// Ends the process when a lane fails: its partitions would answer nothing, and a restart recovers them.
pub(super) fn abort(fatal: LaneFatal) {
    tracing::error!(lane = %fatal.lane, reason = %fatal.reason, "a lane's log failed; the broker stops, a restart recovers");
    std::process::abort();
}
