//! All partitions of one shard: serves the router's requests and encodes the partitions for checkpoints.
//!
//! Owns: the shard's data lanes and their proposers, the index from partition to lane, the reader of the bucket; and
//! the partitions of sources that are served from this shard.
//! Shard-local.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;

use tidewater_storage::engine::{Engine, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::env::{Deadlines, Env, Mono, Notify};
use tidewater_storage::model::{LaneId, LeaderEpoch, Offset, OffsetRange, PartitionId, ShardId, TopicId};

use super::message::{
    ActiveProducer, EpochEnd, ListedOffset, OffsetSpec, PartitionAddress, PartitionRequest, PartitionStatus,
    ProduceDone, ProduceError, ProducePart, ReadDone, ReadError, ReadPart, TrimError,
};
use super::produce::gather::AnswerSlot;
use super::produce::proposer::{Proposer, ProposerTimings};
use super::produce::trims::Trims;
use super::read::followed::FollowedPartition;
use super::read::internal::{self, PeerRead};
use super::read::read_path::{self, Remote};
use super::read::readable::Readable;
use super::read::side_by_side;
use super::read::watch::{self, Alarm, Watched};
use super::router::Serve;
use super::state::lane::DataLane;
use super::state::replica::Replica;
use super::sums::TopicSums;
use super::superseded::Superseded;
use crate::shard::mesh::{Inbox, Reply};

/// Partitions summed up for metrics before others get their turn: about a millisecond.
const SUMMED_AT_ONCE: usize = 512;

/// The partitions of one shard.
pub struct PartitionShard {
    pub here: ShardId,
    env: Env,
    lanes: RefCell<BTreeMap<LaneId, Served>>,
    remote: RefCell<Option<Remote>>,
    extra: RefCell<Option<Rc<dyn DescribeExtra>>>,
    peers: RefCell<Option<Rc<dyn PeerRead>>>,
    followed: RefCell<HashMap<PartitionId, Rc<FollowedPartition>>>,
    /// Has the cluster gone on elsewhere?
    superseded: RefCell<Superseded>,
    patience: Deadlines,
    /// Notified when leadership of a lane begins or ends.
    leadership: Rc<Notify>,
    /// The same, for others.
    watchers: RefCell<Vec<Rc<Notify>>>,
}

#[derive(Clone)]
struct Served {
    lane: Rc<DataLane>,
    proposer: Rc<Proposer>,
    trims: Rc<Trims>,
}

/// What answers readers of a partition.
enum Serving {
    /// This broker's replica, which leads.
    Led(Rc<DataLane>, Rc<Replica>),
    /// A partition of a source.
    Followed(Rc<FollowedPartition>),
}

/// Adds to a partition's status what layers above know of it (archiver, table).
pub trait DescribeExtra {
    /// Fills in fields of `status`.
    fn describe(&self, replica: &Replica, status: &mut PartitionStatus);

    /// Has archiving of a lane stopped?
    fn stands_still(&self, _lane: LaneId) -> bool {
        false
    }
}

impl fmt::Debug for PartitionShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartitionShard({}, {} lanes)", self.here, self.lanes.borrow().len())
    }
}

impl PartitionShard {
    #[must_use]
    pub fn new(here: ShardId, env: Env) -> Self {
        let patience = Deadlines::new(env.clone());
        Self {
            here,
            env,
            lanes: RefCell::default(),
            remote: RefCell::default(),
            extra: RefCell::default(),
            peers: RefCell::default(),
            followed: RefCell::default(),
            superseded: RefCell::default(),
            patience,
            leadership: Rc::default(),
            watchers: RefCell::default(),
        }
    }

    /// Serves a lane: starts its proposer.
    pub fn add_lane(&self, lane: Rc<DataLane>, engine: Engine) {
        lane.on_leadership(Rc::clone(&self.leadership));
        self.watchers.borrow().iter().for_each(|watcher| lane.on_leadership(Rc::clone(watcher)));
        let proposer = Rc::new(Proposer::new(self.env.clone(), Rc::clone(&lane), engine));
        self.env.tasks.spawn("proposer", Rc::clone(&proposer).run());
        let trims = Rc::new(Trims::new(Rc::clone(&lane)));
        self.lanes.borrow_mut().insert(lane.id, Served { lane, proposer, trims });
        self.watchers.borrow().iter().for_each(|watcher| watcher.notify());
    }

    /// `watcher` is notified when a lane is added and when leadership of one begins or ends.
    pub fn on_leadership(&self, watcher: Rc<Notify>) {
        self.lanes.borrow().values().for_each(|served| served.lane.on_leadership(Rc::clone(&watcher)));
        self.watchers.borrow_mut().push(watcher);
    }

    /// Attaches the reader of the bucket.
    pub fn set_remote(&self, remote: Remote) {
        *self.remote.borrow_mut() = Some(remote);
    }

    /// Attaches the reader of other brokers' replicas.
    pub fn set_peers(&self, peers: Rc<dyn PeerRead>) {
        *self.peers.borrow_mut() = Some(peers);
    }

    /// The reader of other brokers' replicas; `None` in a cluster of one.
    #[must_use]
    pub fn peers(&self) -> Option<Rc<dyn PeerRead>> {
        self.peers.borrow().clone()
    }

    /// Attaches the node's knowledge of whether the cluster has gone on elsewhere.
    pub fn set_superseded(&self, superseded: Superseded) {
        *self.superseded.borrow_mut() = superseded;
    }

    /// Whether the cluster has gone on elsewhere.
    #[must_use]
    pub fn superseded(&self) -> Superseded {
        self.superseded.borrow().clone()
    }

    /// Attaches what adds to a partition's status.
    pub fn set_extra(&self, extra: Rc<dyn DescribeExtra>) {
        *self.extra.borrow_mut() = Some(extra);
    }

    /// The reader of the bucket.
    #[must_use]
    pub fn remote(&self) -> Option<Remote> {
        self.remote.borrow().clone()
    }

    /// A lane of this shard.
    #[must_use]
    pub fn lane(&self, id: LaneId) -> Option<Rc<DataLane>> {
        self.lanes.borrow().get(&id).map(|served| Rc::clone(&served.lane))
    }

    #[must_use]
    pub fn lanes(&self) -> Vec<Rc<DataLane>> {
        self.lanes.borrow().values().map(|served| Rc::clone(&served.lane)).collect()
    }

    /// A partition of this shard.
    #[must_use]
    pub fn replica(&self, id: PartitionId) -> Option<Rc<Replica>> {
        self.lanes.borrow().values().find_map(|served| served.lane.replica(id))
    }

    /// Serves a partition of a source from here on, instead of the one of that id that it served.
    pub fn follow(&self, partition: Rc<FollowedPartition>) {
        if let Some(before) = self.followed.borrow_mut().insert(partition.id, partition) {
            before.ended();
        }
    }

    /// Serves a partition of a source no longer.
    pub fn unfollow(&self, id: PartitionId) {
        if let Some(gone) = self.followed.borrow_mut().remove(&id) {
            gone.ended();
        }
    }

    /// A partition of a source that is served here.
    #[must_use]
    pub fn followed(&self, id: PartitionId) -> Option<Rc<FollowedPartition>> {
        self.followed.borrow().get(&id).cloned()
    }

    /// Resolves once leadership of a lane has changed since it resolved last. For one task at a time.
    pub async fn leadership_changed(&self) {
        self.leadership.notified().await;
    }

    #[must_use]
    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// The lane and replica that serve a partition, if this broker leads it for certain. `claimed` is the leader epoch
    /// that the client knows; like Kafka's leader, this one refuses any other than its own.
    fn serving(
        &self,
        address: PartitionAddress,
        claimed: Option<LeaderEpoch>,
    ) -> Result<(Rc<DataLane>, Rc<Replica>), ReadError> {
        // The lane runs on another broker.
        let lane = self.lane(address.lane).ok_or(ReadError::NotLeader(None))?;
        Self::leading(lane, address, claimed)
    }

    fn leading(
        lane: Rc<DataLane>,
        address: PartitionAddress,
        claimed: Option<LeaderEpoch>,
    ) -> Result<(Rc<DataLane>, Rc<Replica>), ReadError> {
        let term = lane.serving().ok_or_else(|| ReadError::NotLeader(lane.leader_hint(address.id)))?;
        let replica = lane.replica(address.id).ok_or(ReadError::UnknownPartition(address.id))?;
        let epoch = replica.leader_epoch(term);
        match claimed {
            Some(claimed) if claimed < epoch => Err(ReadError::FencedEpoch(lane.leader_hint(address.id))),
            Some(claimed) if claimed > epoch => Err(ReadError::UnknownEpoch),
            _ => Ok((lane, replica)),
        }
    }

    /// What answers readers of the partition; `claimed` as in [`Self::serving`]. Metadata names no epoch for partitions
    /// of sources, so a client has none to claim.
    fn reading(&self, address: PartitionAddress, claimed: Option<LeaderEpoch>) -> Result<Serving, ReadError> {
        match self.lane(address.lane) {
            Some(lane) => Self::leading(lane, address, claimed).map(|(lane, replica)| Serving::Led(lane, replica)),
            // A source's partition, or a lane of another broker.
            None => self.followed(address.id).map(Serving::Followed).ok_or(ReadError::NotLeader(None)),
        }
    }

    /// The replica of a partition of any lane that this broker leads for certain.
    fn led(&self, id: PartitionId) -> Result<Rc<Replica>, ReadError> {
        let lanes = self.lanes.borrow();
        let found = lanes.values().find_map(|served| Some((&served.lane, served.lane.replica(id)?)));
        let (lane, replica) = found.ok_or(ReadError::UnknownPartition(id))?;
        if lane.serving().is_some() { Ok(replica) } else { Err(ReadError::NotLeader(lane.leader_hint(id))) }
    }

    fn produce(&self, parts: Vec<ProducePart>, reply: Reply<Vec<Result<ProduceDone, ProduceError>>>) {
        let slots = AnswerSlot::of_request(parts.len(), reply);
        if let Some(end) = self.superseded.borrow().by() {
            slots.into_iter().for_each(|slot| slot.answer(Err(ProduceError::Superseded(end))));
            return;
        }
        let lanes = self.lanes.borrow();
        for (part, slot) in parts.into_iter().zip(slots) {
            match lanes.get(&part.address.lane) {
                Some(served) => served.proposer.push(part, slot),
                None => slot.answer(Err(ProduceError::NotLeader(None))),
            }
        }
    }

    async fn read(&self, parts: Vec<ReadPart>, max_bytes: usize) -> Vec<Result<ReadDone, ReadError>> {
        let remote = self.remote();
        side_by_side::read(&self.env, &self.patience, parts, max_bytes, |part, room| {
            let serving = self.reading(part.address, part.epoch)?;
            let nothing = match &serving {
                Serving::Led(_, replica) => read_path::nothing(&**replica),
                Serving::Followed(followed) => read_path::nothing(&**followed),
            };
            let (remote, peers) = (remote.clone(), self.peers());
            let read = async move {
                match serving {
                    Serving::Led(_, replica) => {
                        internal::read_or_ask(&replica, remote.as_ref(), peers, &part, &room).await
                    }
                    Serving::Followed(followed) => {
                        read_path::read(&*followed, Some(&followed.remote), &part, &room).await
                    }
                }
            };
            Ok((nothing, Box::pin(read)))
        })
        .await
    }

    /// Registers a reader at partitions that have not changed since it saw them; for the others it rings at once.
    fn watch(&self, watched: &[Watched], alarm: &Alarm) {
        for Watched { token, id, end, log_start } in watched {
            if let Some(followed) = self.followed(*id) {
                if (followed.high_watermark(), followed.log_start()) == (*end, *log_start) {
                    followed.waiters.register(*end, alarm, *token);
                } else {
                    watch::ring_now(alarm, *token);
                }
                continue;
            }
            match self.led(*id) {
                Ok(replica) if replica.high_watermark() == *end && replica.log_start() == *log_start => {
                    replica.waiters.register(*end, alarm, *token);
                }
                _ => watch::ring_now(alarm, *token),
            }
        }
    }

    fn epoch_end(
        &self,
        address: PartitionAddress,
        claimed: Option<LeaderEpoch>,
        epoch: LeaderEpoch,
    ) -> Result<Option<EpochEnd>, ReadError> {
        let (lane, replica) = match self.reading(address, claimed)? {
            Serving::Led(lane, replica) => (lane, replica),
            Serving::Followed(followed) => return Ok(followed.epoch_end(epoch)),
        };
        let current = lane.status.leading().map(|term| replica.leader_epoch(term));
        Ok(read_path::epoch_end(&replica.epochs(), current, replica.high_watermark(), epoch))
    }

    async fn list_offset(
        &self,
        address: PartitionAddress,
        claimed: Option<LeaderEpoch>,
        spec: OffsetSpec,
    ) -> Result<Option<ListedOffset>, ReadError> {
        match self.reading(address, claimed)? {
            Serving::Led(_, replica) => read_path::list_offset(&*replica, self.remote().as_ref(), spec).await,
            Serving::Followed(followed) => read_path::list_offset(&*followed, Some(&followed.remote), spec).await,
        }
    }

    async fn trim(&self, address: PartitionAddress, to: Offset) -> Result<Offset, TrimError> {
        let id = address.id;
        let (lane, replica) = self.serving(address, None).map_err(|error| match error {
            ReadError::UnknownPartition(id) => TrimError::UnknownPartition(id),
            ReadError::NotLeader(hint) => TrimError::NotLeader(hint),
            _ => TrimError::Unavailable,
        })?;
        let high_watermark = replica.high_watermark();
        if to > high_watermark {
            return Err(TrimError::OutOfRange { to, high_watermark });
        }
        if to > replica.log_start() {
            let trims = self.lanes.borrow().get(&lane.id).map(|served| Rc::clone(&served.trims));
            let trims = trims.ok_or(TrimError::UnknownPartition(id))?;
            if !trims.trim(&self.env.tasks, id, to).await {
                return Err(TrimError::Unavailable);
            }
        }
        Ok(replica.log_start())
    }

    /// The producers that a partition remembers, by id.
    fn producers(&self, address: PartitionAddress) -> Result<Vec<ActiveProducer>, ReadError> {
        let replica = match self.reading(address, None)? {
            Serving::Led(_, replica) => replica,
            // Its producers write to the source.
            Serving::Followed(_) => return Ok(Vec::new()),
        };
        let mut active: Vec<_> = replica.producers().iter().map(|(id, entry)| entry.active(*id)).collect();
        active.sort_unstable_by_key(|producer| producer.id);
        Ok(active)
    }

    /// The state of this broker's replica of a partition, whether it leads or not, or of a source's that is served
    /// here.
    #[must_use]
    pub fn describe(&self, id: PartitionId) -> Option<PartitionStatus> {
        if let Some(followed) = self.followed(id) {
            return Some(PartitionStatus { shard: self.here.0, ..followed.status() });
        }
        let replica = self.replica(id)?;
        let lane = self.lane(replica.lane)?;
        let bounds = replica.log.bounds();
        let manifest = replica.manifest();
        let waiting = bounds.end.since(manifest.archived_end.max(replica.log_start())).unwrap_or_default();
        let mut status = PartitionStatus {
            partition: id.index.0,
            lane: lane.id.0,
            shard: self.here.0,
            leader_epoch: lane.status.leading().map_or(-1, |term| replica.leader_epoch(term).0),
            log_start_offset: replica.log_start().get(),
            local_start_offset: bounds.start.get(),
            archived_end_offset: manifest.archived_end.get(),
            high_watermark: bounds.end.get(),
            last_stable_offset: replica.last_stable_offset().get(),
            local_bytes: bounds.bytes,
            archived_bytes: manifest.bytes(),
            manifest_rows: manifest.rows.len() as u64,
            archive_lag_records: if replica.config().archived { waiting } else { 0 },
            archive_lag_ms: sums_of(&replica, false, self.env.clock.now()).archive_lag_ms,
            archive_stopped: lane.archive().stopped.clone(),
            quarantined: manifest.quarantined.iter().map(|q| format!("{}: {}", q.offsets, q.reason)).collect(),
            ..PartitionStatus::default()
        };
        drop(manifest);
        if let Some(extra) = self.extra.borrow().as_ref() {
            extra.describe(&replica, &mut status);
        }
        Some(status)
    }

    /// Sums over all partitions by topic; others get their turn in between.
    pub async fn topic_sums(&self) -> BTreeMap<TopicId, TopicSums> {
        let mut sums: BTreeMap<TopicId, TopicSums> = BTreeMap::new();
        let now = self.env.clock.now();
        for lane in self.lanes() {
            let stopped = self.extra.borrow().as_ref().is_some_and(|extra| extra.stands_still(lane.id));
            let leads = lane.status.leading().is_some();
            for some in lane.replicas().chunks(SUMMED_AT_ONCE) {
                for replica in some {
                    let sum = if leads { sums_of(replica, stopped, now) } else { sums_of_follower(replica) };
                    sums.entry(replica.id.topic).or_default().merge(&sum);
                }
                self.env.tasks.yield_now().await;
            }
        }
        sums
    }

    /// Batches and bytes queued at the proposers.
    #[must_use]
    pub fn queued(&self) -> (u64, u64) {
        let lanes = self.lanes.borrow();
        lanes.values().fold((0, 0), |(batches, bytes), served| {
            (batches + served.proposer.queued() as u64, bytes + served.proposer.queued_bytes() as u64)
        })
    }

    /// How long entries took so far, all lanes together.
    #[must_use]
    pub fn timings(&self) -> ProposerTimings {
        let mut sum = ProposerTimings::default();
        for served in self.lanes.borrow().values() {
            let timings = served.proposer.timings();
            sum.queued.merge(&timings.queued);
            sum.committed.merge(&timings.committed);
        }
        sum
    }

    /// Log start and high watermark of each; `None` for one that is not here.
    #[must_use]
    pub fn ends(&self, of: &[PartitionId]) -> Vec<Option<OffsetRange>> {
        let range = |id: &PartitionId| {
            let followed = self.followed(*id).map(|followed| followed.readable());
            followed.or_else(|| self.replica(*id).map(|replica| replica.readable()))
        };
        of.iter().map(range).collect()
    }

    /// A lane's blob for the checkpoint.
    #[must_use]
    pub fn lane_checkpoint(&self, id: LaneId) -> Option<LaneCheckpoint> {
        let lane = self.lane(id)?;
        Some(LaneCheckpoint { applied: lane.status.applied()?, state: lane.encode() })
    }

    /// A partition's blob for the checkpoint.
    #[must_use]
    pub fn partition_checkpoint(&self, id: PartitionId) -> Option<PartitionCheckpoint> {
        let replica = self.replica(id)?;
        let as_of = self.lane(replica.lane)?.as_of(id)?;
        Some(PartitionCheckpoint { as_of: (replica.lane, as_of), state: replica.encode() })
    }

    /// Serves requests of other shards and the side runtime until the mesh closes.
    pub async fn drain(self: Rc<Self>, inbox: Inbox<PartitionRequest>) {
        while let Some(request) = inbox.recv().await {
            self.clone().take(request);
        }
    }

    fn take(self: Rc<Self>, request: PartitionRequest) {
        let tasks = self.env.tasks.clone();
        match request {
            PartitionRequest::Produce(parts, reply) => self.produce(parts, reply),
            PartitionRequest::Read { parts, max_bytes, reply } => {
                tasks.spawn("read", async move { reply.send(self.read(parts, max_bytes).await) });
            }
            PartitionRequest::Watch(watched, alarm) => self.watch(&watched, &alarm),
            PartitionRequest::EpochEnd { address, current, epoch, reply } => {
                reply.send(self.epoch_end(address, current, epoch));
            }
            PartitionRequest::ListOffset { address, current, spec, reply } => {
                tasks.spawn("list offset", async move { reply.send(self.list_offset(address, current, spec).await) });
            }
            PartitionRequest::Trim(address, to, reply) => {
                tasks.spawn("trim", async move { reply.send(self.trim(address, to).await) });
            }
            PartitionRequest::Describe(id, reply) => reply.send(self.describe(id)),
            PartitionRequest::Producers(address, reply) => reply.send(self.producers(address)),
            PartitionRequest::Internal(request) => self.serve_internal(request),
            PartitionRequest::Ends(ids, reply) => reply.send(self.ends(&ids)),
        }
    }
}

/// The leader counts the partition; every replica its own disk.
fn sums_of_follower(replica: &Replica) -> TopicSums {
    TopicSums { local_bytes: replica.log.bounds().bytes, ..TopicSums::default() }
}

fn sums_of(replica: &Replica, stopped: bool, now: Mono) -> TopicSums {
    let (bounds, readable) = (replica.log.bounds(), replica.readable());
    let config = replica.config();
    let waiting = config.archived.then(|| replica.unarchived()).flatten();
    let manifest = replica.manifest();
    let (lag_records, lag_bytes, lag_ms) = waiting.map_or((0, 0, 0), |(bytes, since)| {
        let records = replica.last_stable_offset().since(manifest.archived_end.max(readable.start)).unwrap_or_default();
        (records, bytes, u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX))
    });
    TopicSums {
        partitions: 1,
        records: readable.count(),
        high_watermarks: replica.high_watermark().get(),
        local_bytes: bounds.bytes,
        archived_bytes: manifest.bytes(),
        archive_lag_records: lag_records,
        archive_lag_bytes: lag_bytes,
        archive_lag_ms: lag_ms,
        archive_stopped: u64::from(config.archived && stopped),
        quarantined: manifest.quarantined.len() as u64,
    }
}

/// The shard as the router's local side.
#[derive(Clone, Debug)]
pub struct Local(pub Rc<PartitionShard>);

impl Serve for Local {
    fn serve(&self, request: PartitionRequest) {
        Rc::clone(&self.0).take(request);
    }
}
