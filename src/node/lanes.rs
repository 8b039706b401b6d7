//! The lanes of a shard: recovered from its checkpoint, their groups started, ended.
//!
//! Owns: which lanes a shard runs. A lane stays what it is for ever; on which shard it runs follows from the number of
//! shards (`controller::state::shard_of`), so a broker started with fewer shards runs several on one. Does not own: what
//! becomes of the process when a lane dies; [`abort`] is the broker's answer. Shard-local.

use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::engine::{Engine, Recovered};
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, NodeId, PartitionId, ShardId};
use tidewater_tiering::keys::Home;
use tidewater_tiering::manifest::LaneManifest;

use super::source::ShardSource;
use super::status::ShardFailure;
use crate::controller::lane::ControllerLane;
use crate::controller::state::shard_of;
use crate::partition::state::lane::{DataLane, RecoveredState, membership_of};
use crate::partition::state::replica::Replica;
use crate::partition::shard::PartitionShard;
use crate::raft::{Lane, LaneFatal, LaneOptions};

/// A shard among the shards of its node. A *message*.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// This one.
    pub here: ShardId,
    /// How many there are.
    pub shards: u16,
    /// Data lanes of the node: as many as it ever had shards.
    pub lanes: u32,
    /// The node.
    pub node: NodeId,
    /// The cluster in its bucket.
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

/// The lanes of a shard.
pub struct Lanes {
    /// The partitions of its data lanes.
    pub partitions: Rc<PartitionShard>,
    data: Vec<(Rc<DataLane>, Option<Bytes>)>,
    /// The controller's lane, on shard 0.
    pub controller: Option<Rc<ControllerLane>>,
    controller_membership: Option<Bytes>,
}

impl Lanes {
    /// As the engine recovered them; nothing of the journal is applied yet. From here on checkpoints find all lanes and
    /// partitions, so that one may be taken while the journal is applied.
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

    /// Starts every lane's Raft group and proposer, and watches for a group that dies. When it returns, every lane leads
    /// and has applied all that its journal held. `on_death` is told of a lane whose log fails later.
    ///
    /// # Errors
    /// A group did not start, or a newer version wrote to its log.
    pub async fn start_groups(
        &self,
        env: &Env,
        seat: &Seat,
        engine: &Engine,
        on_death: impl Fn(LaneFatal) + Clone + 'static,
    ) -> Result<(), ShardFailure> {
        let here = seat.here;
        for (lane, membership) in &self.data {
            let options = LaneOptions::single(lane.id, seat.node).from_checkpoint(lane.applied(), membership.clone());
            let raft = Lane::start(env, engine.lane(lane.id), Rc::clone(lane) as _, options).await;
            let raft = raft.map_err(|e| ShardFailure::new(here, &e))?;
            watch(env, &raft, on_death.clone());
            lane.attach(raft);
        }
        if let Some(lane) = &self.controller {
            let membership = self.controller_membership.clone();
            let applied = lane.checkpoint().map(|c| c.applied);
            let options = LaneOptions::single(LaneId::CONTROLLER, seat.node).from_checkpoint(applied, membership);
            let raft = Lane::start(env, engine.lane(LaneId::CONTROLLER), Rc::clone(lane) as _, options).await;
            let raft = raft.map_err(|e| ShardFailure::new(here, &e))?;
            watch(env, &raft, on_death.clone());
            lane.attach(raft);
        }
        for (lane, _) in &self.data {
            lane.led().await.map_err(|e| ShardFailure::new(here, &e))?;
        }
        if let Some(lane) = &self.controller {
            lane.led().await.map_err(|e| ShardFailure::new(here, &e))?;
        }
        Ok(())
    }

    /// What the engine asks for its checkpoints.
    #[must_use]
    pub fn source(&self) -> Rc<ShardSource> {
        Rc::new(ShardSource { partitions: Rc::clone(&self.partitions), controller: self.controller.clone() })
    }

    /// Ends the groups.
    pub(super) async fn shutdown(&self) {
        for (lane, _) in &self.data {
            if let Some(raft) = lane.raft() {
                raft.shutdown().await;
            }
        }
        if let Some(raft) = self.controller.as_ref().and_then(|lane| lane.raft()) {
            raft.shutdown().await;
        }
    }
}

/// A partition's checkpoint blob is malformed.
#[derive(Debug, thiserror::Error)]
#[error("the checkpoint of partition {0} is malformed or of a newer version")]
struct BadReplicaBlob(PartitionId);

fn recover_replica(engine: &Engine, id: PartitionId, lane: LaneId, blob: &Bytes) -> Result<Replica, BadReplicaBlob> {
    let log = engine.partition(id).ok_or(BadReplicaBlob(id))?;
    Replica::decode(id, lane, blob, log).ok_or(BadReplicaBlob(id))
}

fn watch(env: &Env, raft: &Lane, on_death: impl Fn(LaneFatal) + 'static) {
    let raft = raft.clone();
    env.tasks.spawn("lane watch", async move { on_death(raft.fatal().await) });
}

/// A lane that died takes the process with it: a headless broker is worse than a restart.
pub(super) fn abort(fatal: LaneFatal) {
    tracing::error!(lane = %fatal.lane, reason = %fatal.reason, "a lane's log failed; the broker stops, a restart recovers");
    std::process::abort();
}
