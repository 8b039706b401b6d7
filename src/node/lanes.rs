//! The lanes of a shard: recovered from its checkpoint, made when the lane table names them, their Raft groups started
//! and stopped. Their rebuilds are in `rebuilding`.
//!
//! Owns: which groups of a shard run. Does not own: which lanes fall to the shard, that is `assignment`; and what
//! happens to the process when a lane fails: the broker calls [`abort`]. Shard-local.
//!
//! A lane of the checkpoint is recovered before anything is applied, and its group starts when an image of the
//! controller names this broker's replica of it ([`Lanes::ensure`]). The controller's own lane needs no image.

mod assignment;
mod rebuilding;

pub use assignment::{Assignment, Seat, assignments};

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::codec::CodecError;
use tidewater_storage::engine::{Engine, Recovered, RecoveredLane};
use tidewater_storage::env::{Env, Notify};
use tidewater_storage::model::{LaneId, NodeId, PartitionId, ReplicaId, ShardId};
use tidewater_tiering::manifest::LaneManifest;

use super::source::ShardSource;
use super::status::ShardFailure;
use crate::config::node::CATCH_UP_BYTES;
use crate::controller::image::LaneImage;
use crate::controller::lane::ControllerLane;
use crate::partition::follow;
use crate::partition::shard::PartitionShard;
use crate::partition::state::lane::{DataLane, RecoveredState};
use crate::partition::state::lane_blob::membership_of;
use crate::partition::state::replica::Replica;
use crate::raft::network::{PeerError, PeerReply, PeerRequest, PeerTransport};
use crate::raft::{Apply, Lane, LaneFatal, LaneOptions, LaneStatus};

type OnDeath = Rc<dyn Fn(LaneFatal)>;

/// Puts a witness between a data lane and its Raft group, in a simulation.
pub type Witnessed = Rc<dyn Fn(&Rc<DataLane>) -> Rc<dyn Apply>>;

pub struct Lanes {
    seat: Seat,
    env: Env,
    engine: Engine,
    /// The partitions of the data lanes.
    pub partitions: Rc<PartitionShard>,
    /// Data lanes whose group has not started, with the membership of the checkpoint.
    waiting: RefCell<BTreeMap<LaneId, Option<Bytes>>>,
    /// The lanes whose groups run.
    running: RefCell<BTreeMap<LaneId, Assignment>>,
    /// Lanes of this shard that have to be rebuilt before their group may run.
    rebuilds: RefCell<BTreeMap<LaneId, Assignment>>,
    /// On shard 0.
    pub controller: Option<Rc<ControllerLane>>,
    controller_membership: Option<Bytes>,
    transport: RefCell<Option<Rc<dyn PeerTransport>>>,
    witnessed: RefCell<Option<Witnessed>>,
    catch_up_bytes: Cell<u64>,
    /// Groups that are being started.
    starting: Cell<usize>,
    /// One of them has started, or failed.
    started: Notify,
    /// See [`Lanes::shutdown`].
    stopping: Cell<bool>,
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
        let of_controller = |found: &&RecoveredLane| found.lane == LaneId::CONTROLLER && !found.rebuilding;
        let controller = recovered.lanes.iter().find(of_controller);
        let (controller, controller_membership) = if here == ShardId(0) {
            let (applied, blob) = controller.map_or((None, Bytes::new()), |found| (found.applied, found.state.clone()));
            let recovered = ControllerLane::recover(engine.clone(), applied, &blob);
            let (lane, membership) = recovered.map_err(|e| ShardFailure::new(here, &e))?;
            (Some(Rc::new(lane)), membership)
        } else {
            (None, None)
        };
        let lanes = Self {
            seat: *seat,
            env: env.clone(),
            engine: engine.clone(),
            partitions,
            waiting: RefCell::default(),
            running: RefCell::default(),
            rebuilds: RefCell::default(),
            controller,
            controller_membership,
            transport: RefCell::default(),
            witnessed: RefCell::default(),
            catch_up_bytes: Cell::new(CATCH_UP_BYTES),
            starting: Cell::new(0),
            started: Notify::default(),
            stopping: Cell::new(false),
        };
        lanes.recover_data(recovered)?;
        Ok(lanes)
    }

    fn recover_data(&self, recovered: Recovered) -> Result<(), ShardFailure> {
        let here = self.seat.here;
        let mut replicas: BTreeMap<LaneId, Vec<_>> = BTreeMap::new();
        for found in recovered.partitions {
            let lane = found.as_of.0;
            if lane == LaneId::CONTROLLER || !self.seat.runs(lane) {
                let why = format!(
                    "its checkpoint has partition {} of lane {lane}, which does not run on this shard; put back the \
                     shard's directory or node.json as they were",
                    found.id
                );
                return Err(ShardFailure { shard: here, why });
            }
            let replica = recover_replica(&self.engine, found.id, lane, &found.state);
            let replica = replica.map_err(|e| ShardFailure::new(here, &e))?;
            replicas.entry(lane).or_default().push((replica, found.as_of.1));
        }
        for found in recovered.lanes.into_iter().filter(|found| found.lane != LaneId::CONTROLLER) {
            let replicas = replicas.remove(&found.lane).unwrap_or_default();
            // Of a lane that is being rebuilt nothing counts.
            let blob = if found.rebuilding { Bytes::new() } else { found.state };
            let membership = membership_of(&blob);
            let state = RecoveredState { applied: found.applied, blob, replicas };
            self.add(found.lane, state)?;
            self.waiting.borrow_mut().insert(found.lane, membership);
        }
        match replicas.into_keys().next() {
            None => Ok(()),
            Some(lane) => {
                let why = format!(
                    "its checkpoint has partitions of lane {lane} and not the lane; put back the shard's directory as it was"
                );
                Err(ShardFailure { shard: here, why })
            }
        }
    }

    fn add(&self, id: LaneId, state: RecoveredState) -> Result<(), ShardFailure> {
        let fresh = LaneManifest::new(self.seat.home, id);
        let lane = DataLane::recover(id, self.env.clone(), self.engine.clone(), state, fresh);
        let lane = lane.map_err(|e| ShardFailure::new(self.seat.here, &e))?;
        lane.forget_producers_after(self.seat.forget_producers_after_ms);
        self.partitions.add_lane(Rc::new(lane), self.engine.clone());
        Ok(())
    }

    /// Adds a lane with a state that no checkpoint has yet. Its group does not start in this process.
    ///
    /// # Errors
    /// The state's blob is malformed.
    pub(super) fn begin(&self, id: LaneId, state: RecoveredState) -> Result<(), ShardFailure> {
        self.add(id, state)
    }

    /// The connection of all groups that start from here on to their other replicas.
    pub fn set_transport(&self, transport: Rc<dyn PeerTransport>) {
        self.transport.replace(Some(transport));
    }

    /// `--catch-up-bytes`, for all groups that start from here on.
    pub fn set_catch_up_bytes(&self, bytes: u64) {
        self.catch_up_bytes.set(bytes);
    }

    /// See [`Witnessed`]; for all groups of data lanes that start from here on.
    pub fn set_witness(&self, witnessed: Witnessed) {
        self.witnessed.replace(Some(witnessed));
    }

    fn state_machine(&self, lane: &Rc<DataLane>) -> Rc<dyn Apply> {
        match &*self.witnessed.borrow() {
            Some(witnessed) => witnessed(lane),
            None => Rc::clone(lane) as _,
        }
    }

    /// Starts the group of the controller's lane, on shard 0; does nothing on others. With a single voter, it leads on
    /// return and has applied its log; with several, it may be without a leader. `on_death` is called if its log fails
    /// later.
    ///
    /// # Errors
    /// The group did not start, or a newer version wrote to its log.
    pub async fn start_controller(
        &self,
        voters: Vec<ReplicaId>,
        on_death: impl Fn(LaneFatal) + 'static,
    ) -> Result<(), ShardFailure> {
        let Some(controller) = &self.controller else { return Ok(()) };
        let me = self.seat.replica();
        let rank = voters.iter().position(|voter| *voter == me);
        let assignment = Assignment {
            lane: LaneId::CONTROLLER,
            me,
            may_initialise: rank.is_some(),
            rank: rank.unwrap_or(voters.len()),
            voters,
        };
        if self.engine.is_rebuilding(LaneId::CONTROLLER) {
            self.rebuilds.borrow_mut().insert(LaneId::CONTROLLER, assignment);
            return Ok(());
        }
        let membership = self.controller_membership.clone();
        self.start(&assignment, Rc::clone(controller) as _, &controller.status, membership, Rc::new(on_death)).await?;
        self.led_if_alone(&controller.status, &assignment).await
    }

    /// Starts the groups of the lanes that the lane table gives to this shard and that do not run yet. Those with a
    /// single voter lead on return. `on_death` is called for a lane whose log fails later.
    ///
    /// # Errors
    /// A group did not start, or a newer version wrote to its log.
    pub async fn ensure(
        &self,
        table: &BTreeMap<LaneId, LaneImage>,
        on_death: impl Fn(LaneFatal) + 'static,
    ) -> Result<(), ShardFailure> {
        self.start_all(assignments(self.seat, table), Rc::new(on_death)).await
    }

    /// Starts the lanes of a cluster of one, the controller's included, without an image: each has this broker's
    /// replica alone. On return every lane leads and has applied its journal.
    ///
    /// # Errors
    /// A group did not start, a newer version wrote to its log, or it has voters elsewhere.
    pub async fn start_groups(&self, on_death: impl Fn(LaneFatal) + Clone + 'static) -> Result<(), ShardFailure> {
        let me = self.seat.replica();
        let of = |lane| Assignment { lane, me, voters: vec![me], may_initialise: true, rank: 0 };
        let mut lanes: Vec<LaneId> = self.waiting.borrow().keys().copied().chain(self.seat.data_lanes()).collect();
        lanes.sort_unstable();
        lanes.dedup();
        self.start_all(lanes.into_iter().map(of).collect(), Rc::new(on_death.clone())).await?;
        self.start_controller(vec![me], on_death).await?;
        for (lane, _, raft) in self.groups() {
            let held = raft.membership();
            if held.voters.iter().chain(&held.learners).any(|other| *other != me) {
                let why = format!(
                    "lane {lane} has replicas on other brokers: the number of shards of such a broker cannot change yet; \
                     start it with the --shards that it had"
                );
                return Err(ShardFailure { shard: self.seat.here, why });
            }
        }
        Ok(())
    }

    /// Starts all groups, then waits for those that lead by themselves.
    async fn start_all(&self, all: Vec<Assignment>, on_death: OnDeath) -> Result<(), ShardFailure> {
        let mut started = Vec::new();
        for assignment in all {
            let (id, me) = (assignment.lane, assignment.me);
            match self.running.borrow().get(&id).map(|runs| runs.me) {
                Some(runs) if runs == me => continue,
                Some(runs) => {
                    tracing::error!(lane = %id, %runs, wanted = %me, "the lane table names another replica of this broker; restart the broker");
                    continue;
                }
                None if self.rebuilds.borrow().contains_key(&id) => continue,
                None => {}
            }
            let membership = self.waiting.borrow_mut().remove(&id);
            if membership.is_none() {
                self.add(id, RecoveredState { applied: None, blob: Bytes::new(), replicas: Vec::new() })?;
            }
            let Some(lane) = self.partitions.lane(id) else { unreachable!("lane {id} was added above") };
            if self.engine.is_rebuilding(id) {
                self.rebuilds.borrow_mut().insert(id, assignment);
                continue;
            }
            let (apply, death) = (self.state_machine(&lane), Rc::clone(&on_death));
            self.start(&assignment, apply, &lane.status, membership.flatten(), death).await?;
            started.push((lane, assignment));
        }
        for (lane, assignment) in started {
            self.led_if_alone(&lane.status, &assignment).await?;
        }
        Ok(())
    }

    /// Starts a lane's group from what its state machine holds, unless the shard stops.
    async fn start(
        &self,
        assignment: &Assignment,
        apply: Rc<dyn Apply>,
        status: &LaneStatus,
        membership: Option<Bytes>,
        on_death: OnDeath,
    ) -> Result<(), ShardFailure> {
        if self.stopping.get() {
            return Ok(());
        }
        let _start = StartUnderWay::begin(self);
        let log = self.engine.lane(assignment.lane);
        let options = LaneOptions {
            may_initialise: assignment.may_initialise,
            rank: assignment.rank,
            transport: self.transport.borrow().clone(),
            catch_up_bytes: self.catch_up_bytes.get(),
            ..LaneOptions::replica(assignment.lane, assignment.me, assignment.voters.clone())
        };
        let options = options.from_checkpoint(status.applied(), membership);
        let raft = Lane::start(&self.env, log, apply, options).await;
        let raft = raft.map_err(|e| ShardFailure::new(self.seat.here, &e))?;
        watch(&self.env, &raft, on_death);
        status.attach(raft);
        self.running.borrow_mut().insert(assignment.lane, assignment.clone());
        Ok(())
    }

    /// Waits until the lane leads if no other replica votes: then nothing but its own log can delay it.
    async fn led_if_alone(&self, status: &LaneStatus, assignment: &Assignment) -> Result<(), ShardFailure> {
        let Some(raft) = status.raft() else { return Ok(()) };
        let held = raft.membership();
        // A new lane may not have shown its first membership yet.
        let voters = if held.at.is_none() && assignment.may_initialise { &assignment.voters } else { &held.voters };
        if voters[..] != [assignment.me] {
            return Ok(());
        }
        status.led().await.map_err(|e| ShardFailure::new(self.seat.here, &e))
    }

    #[must_use]
    pub fn source(&self) -> Rc<ShardSource> {
        Rc::new(ShardSource { partitions: Rc::clone(&self.partitions), controller: self.controller.clone() })
    }

    #[must_use]
    pub fn here(&self) -> ShardId {
        self.seat.here
    }

    #[must_use]
    pub fn shards(&self) -> u16 {
        self.seat.shards
    }

    #[must_use]
    pub fn node(&self) -> NodeId {
        self.seat.node
    }

    /// The groups that run here, with the replica each runs as.
    #[must_use]
    pub fn groups(&self) -> Vec<(LaneId, ReplicaId, Lane)> {
        let running = self.running.borrow();
        running
            .iter()
            .filter_map(|(id, runs)| Some((*id, runs.me, self.status_of(*id, |status| status.raft().cloned())??)))
            .collect()
    }

    /// Does this broker's disk refuse producers?
    pub fn is_disk_full(&self) -> bool {
        self.engine.usage().is_full()
    }

    fn status_of<T>(&self, id: LaneId, get: impl FnOnce(&LaneStatus) -> T) -> Option<T> {
        match &self.controller {
            Some(controller) if id == LaneId::CONTROLLER => Some(get(&controller.status)),
            _ => self.partitions.lane(id).map(|lane| get(&lane.status)),
        }
    }

    /// Hands a request of another replica to the group it is for.
    ///
    /// # Errors
    /// The group does not run here, or runs as another replica.
    pub async fn handle(
        &self,
        id: LaneId,
        to: ReplicaId,
        from: ReplicaId,
        request: PeerRequest,
    ) -> Result<PeerReply, PeerError> {
        let not_running = PeerError::NotRunning { replica: to, lane: id };
        let raft = self.status_of(id, |status| status.raft().cloned()).flatten().ok_or(not_running)?;
        // Held until the entries are stored.
        let _room = follow::room_for(&self.env, &self.engine, id, to, &request).await?;
        raft.handle(to, from, request).await
    }

    /// Has [`Lanes::shutdown`] begun? What fails then fails because the shard stops.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Stops the Raft groups and starts no other; the journal may be closed afterwards. A group that is being started
    /// has started before.
    pub(super) async fn shutdown(&self) {
        self.stopping.set(true);
        while self.starting.get() > 0 {
            self.started.notified().await;
        }
        // The controller's last: its lane is the first in order.
        for (_, _, raft) in self.groups().into_iter().rev() {
            raft.shutdown().await;
        }
    }
}

/// A group that is being started, until dropped.
struct StartUnderWay<'a>(&'a Lanes);

impl<'a> StartUnderWay<'a> {
    fn begin(lanes: &'a Lanes) -> Self {
        lanes.starting.set(lanes.starting.get() + 1);
        Self(lanes)
    }
}

impl Drop for StartUnderWay<'_> {
    fn drop(&mut self) {
        self.0.starting.set(self.0.starting.get() - 1);
        self.0.started.notify();
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

fn watch(env: &Env, raft: &Lane, on_death: OnDeath) {
    let raft = raft.clone();
    env.tasks.spawn("lane watch", async move { on_death(raft.fatal().await) });
}

/// Ends the process when a lane fails: its partitions would answer nothing, and a restart recovers them.
pub(super) fn abort(fatal: LaneFatal) {
    tracing::error!(lane = %fatal.lane, reason = %fatal.reason, "a lane's log failed; the broker stops, a restart recovers");
    std::process::abort();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidewater_storage::engine::EngineConfig;
    use tidewater_storage::env::sim::World;

    use super::assignment::tests::{replica, seat};
    use super::*;

    /// A broker that is stopped right after its start: the lanes that are still to be started are not, and none is left
    /// that would write to a closed journal.
    #[test]
    fn a_shard_that_stops_starts_no_further_lane() {
        for stops_after in 0..12 {
            let world = World::new(3);
            let env = world.env();
            world.block_on(async {
                let (engine, recovered) =
                    Engine::open(env.clone(), "/shard".into(), EngineConfig::default()).await.expect("opens");
                let seat = Seat { shards: 1, ..seat(1, 0) };
                let lanes = Rc::new(Lanes::recover(&env, &seat, &engine, recovered).expect("recovers"));
                engine.set_source(lanes.source());
                engine.start();
                let voters = vec![replica(1, 0), replica(2, 0), replica(3, 0)];
                let image = LaneImage { factor: 3, replicas: voters.clone(), initial: voters };
                let table: BTreeMap<LaneId, LaneImage> = (1..40).map(|lane| (LaneId(lane), image.clone())).collect();
                let starts = Rc::clone(&lanes);
                let ensured = env.tasks.spawn("ensure", async move {
                    starts.ensure(&table, |fatal| panic!("a lane died: {fatal}")).await
                });
                while lanes.groups().len() < stops_after {
                    env.tasks.sleep(Duration::from_micros(10)).await;
                }
                lanes.shutdown().await;
                engine.close().await;
                assert_eq!(ensured.await.expect("ends"), Ok(()), "stopped after {stops_after} lanes");
                assert!(lanes.groups().len() <= stops_after + 2, "{} lanes run", lanes.groups().len());
            });
        }
    }
}
