//! The leader's side: sessions, each of which gives one lane's state to one replica.
//!
//! Owns: the sessions of a shard, what changed behind each, the log that is held for it. A session ends when the
//! replica has caught up, asks for nothing for a minute, or another replica leads. Nothing of a session is
//! durable. Retries: the replica's. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidewater_storage::engine::{ChangeWatch, Engine};
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::log::{LogBounds, ReadError};
use tidewater_storage::model::{EntryId, LaneId, Offset, PartitionId, ReplicaId};

use super::message::{PartitionAt, Reply, Request};
use super::progress::Forecast;
use crate::raft::{Lane, LogHold};

/// A chunk of batches. Bytes.
const CHUNK: usize = 1 << 20;
/// A session without a request for this long is over.
const IDLE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(2);
/// Sessions at once, each of which reads and holds the log.
const SESSIONS_MAX: usize = 64;
/// Partitions that are looked at without giving way to other tasks.
const BETWEEN_PAUSES: usize = 256;

/// What the leader's side needs of the layers that keep the lanes of its shard.
pub trait LaneSource {
    /// The lane's Raft group, if it runs on this shard.
    fn raft(&self, lane: LaneId) -> Option<Lane>;
    /// First offset of the partition that is not in the bucket; 0 for one that is not archived.
    fn archived_end(&self, partition: PartitionId) -> Offset;
    /// Bytes of the partition in the bucket.
    fn archived_bytes(&self, partition: PartitionId) -> u64;
}

struct Session {
    lane: LaneId,
    replica: ReplicaId,
    watch: ChangeWatch,
    /// Partitions to give in this round.
    round: RefCell<VecDeque<PartitionId>>,
    /// Where the log continues, once that is fixed, and what keeps it.
    settled: RefCell<Option<(EntryId, LogHold)>>,
    asked: Cell<Mono>,
}

/// The sessions of a shard.
pub struct RebuildSource {
    env: Env,
    engine: Engine,
    lanes: Rc<dyn LaneSource>,
    sessions: RefCell<BTreeMap<u64, Rc<Session>>>,
    next: Cell<u64>,
    watching: Cell<bool>,
}

impl fmt::Debug for RebuildSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RebuildSource({} sessions)", self.sessions.borrow().len())
    }
}

/// Why a request is refused, in words; the replica waits and begins again.
type Refused = String;

impl RebuildSource {
    #[must_use]
    pub fn new(env: &Env, engine: &Engine, lanes: Rc<dyn LaneSource>) -> Rc<Self> {
        // A session of a process before this one must not be taken for one of this.
        let first = env.rng.next_u64() >> 1;
        Rc::new(Self {
            env: env.clone(),
            engine: engine.clone(),
            lanes,
            sessions: RefCell::default(),
            next: Cell::new(first),
            watching: Cell::new(false),
        })
    }

    /// Answers the body of a request for a lane of this shard.
    ///
    /// # Errors
    /// In words, why this broker does not give the lane away; the replica begins again, here or at another leader.
    pub async fn answer(self: &Rc<Self>, request: &[u8]) -> Result<Bytes, Refused> {
        let request = Request::decode(request).map_err(|error| error.to_string())?;
        let reply = match request {
            Request::Open { lane, replica, last } => self.open(lane, replica, last).await?,
            Request::Next { lane, session, again } => {
                let session = self.session(lane, session)?;
                self.next(&session, again)
            }
            Request::Read { lane, session, partition, from, until } => {
                let session = self.session(lane, session)?;
                self.read(&session, partition, from, until).await?
            }
            Request::Settle { lane, session } => {
                let session = self.session(lane, session)?;
                self.settle(&session)?
            }
            Request::Survey { lane } => self.survey(lane).await?,
            Request::Close { lane, session } => {
                self.session(lane, session)?;
                self.close(session)
            }
        };
        Ok(reply.encode())
    }

    /// The lane's group, unless another replica is known to lead it, which has more and holds its log for the others.
    /// Without a leader any replica gives what it has applied, since that is committed: where the disk of the third is
    /// lost, there is no leader until this one is rebuilt.
    fn giving(&self, lane: LaneId) -> Result<Lane, Refused> {
        let raft = self.lanes.raft(lane).ok_or_else(|| format!("lane {lane} does not run here"))?;
        match raft.leadership().leader {
            Some(leader) if leader != raft.me().node => {
                Err(format!("this broker does not lead lane {lane}; leader: {leader}"))
            }
            _ => Ok(raft),
        }
    }

    async fn open(self: &Rc<Self>, lane: LaneId, replica: ReplicaId, last: Option<EntryId>) -> Result<Reply, Refused> {
        let raft = self.giving(lane)?;
        let members = raft.membership();
        if !members.is_voter(replica) && !members.is_learner(replica) {
            return Err(format!("replica {replica} is no member of lane {lane}"));
        }
        let applied = raft.applied();
        if applied.map(|applied| applied.index) <= last.map(|last| last.index) {
            return Err(format!(
                "lane {lane} is applied up to {applied:?} here, and replica {replica} has stored entries up to {last:?}; \
                 it can be rebuilt once the leader is further"
            ));
        }
        if self.sessions.borrow().len() >= SESSIONS_MAX {
            return Err(format!("{SESSIONS_MAX} lanes are being copied from this shard, the most at once"));
        }
        // A replica that begins again has no use for what it began before.
        self.sessions.borrow_mut().retain(|_, session| session.lane != lane || session.replica != replica);
        let watch = self.engine.watch_changes();
        let partitions = self.engine.partitions_of(lane);
        let (number, asked) = (self.next.get(), self.env.clock.now());
        self.next.set(number + 1);
        let session = Session {
            lane,
            replica,
            watch,
            round: RefCell::new(partitions.iter().copied().collect()),
            settled: RefCell::default(),
            asked: Cell::new(asked),
        };
        self.sessions.borrow_mut().insert(number, Rc::new(session));
        self.watch();
        let expected = self.count(&partitions).await;
        let Forecast { partitions, bytes, bucket_bytes } = expected;
        tracing::info!(%lane, %replica, partitions, bytes, bucket_bytes, "a lane is being copied to a replica");
        Ok(Reply::Opened { session: number, expected })
    }

    async fn survey(&self, lane: LaneId) -> Result<Reply, Refused> {
        self.giving(lane)?;
        Ok(Reply::Surveyed(self.count(&self.engine.partitions_of(lane)).await))
    }

    /// What a copy of these partitions takes now.
    async fn count(&self, partitions: &[PartitionId]) -> Forecast {
        let mut expected = Forecast { partitions: partitions.len() as u64, ..Forecast::default() };
        for (n, id) in partitions.iter().enumerate() {
            if n % BETWEEN_PAUSES == BETWEEN_PAUSES - 1 {
                self.env.tasks.yield_now().await;
            }
            let local = self.engine.partition(*id);
            let local = local.map_or(0, |log| part_of(log.bounds(), self.lanes.archived_end(*id)));
            expected.bytes = expected.bytes.saturating_add(local);
            expected.bucket_bytes = expected.bucket_bytes.saturating_add(self.lanes.archived_bytes(*id));
        }
        expected
    }

    fn session(&self, lane: LaneId, number: u64) -> Result<Rc<Session>, Refused> {
        let session = self.sessions.borrow().get(&number).cloned();
        let session = session.filter(|session| session.lane == lane);
        let session = session.ok_or_else(|| format!("no copy of lane {lane} with this number is under way here"))?;
        let ended = |why: &str| {
            self.sessions.borrow_mut().remove(&number);
            Err(format!("the copy of lane {lane} is given up: {why}"))
        };
        if self.giving(lane).is_err() {
            return ended("another broker leads it");
        }
        if session.settled.borrow().as_ref().is_some_and(|(_, hold)| hold.is_broken()) {
            return ended("the journal has no room for the entries that the replica would need next");
        }
        session.asked.set(self.env.clock.now());
        Ok(session)
    }

    /// The next partition that is there. Between rounds, dropped ones are passed over: the list of partitions as of
    /// `at` does without them.
    fn next(&self, session: &Session, again: Option<PartitionId>) -> Reply {
        let settled = session.settled.borrow().is_some();
        loop {
            let next = again.or_else(|| session.round.borrow_mut().pop_front());
            let Some(id) = next else {
                let changed = session.watch.len() as u64;
                if !settled {
                    session.round.borrow_mut().extend(session.watch.take());
                }
                return Reply::Round { changed };
            };
            match self.engine.partition_now(session.lane, id, &session.watch) {
                Some(copy) => {
                    let from = self.lanes.archived_end(id).max(copy.log.bounds().start).min(copy.end);
                    let (as_of, state) = (copy.point.as_of.1, copy.point.state);
                    let (settings, end) = (copy.settings, copy.end);
                    return Reply::Partition(PartitionAt { id, as_of, state, settings, from, end });
                }
                None if settled || again.is_some() => return Reply::Gone(id),
                None => {}
            }
        }
    }

    async fn read(&self, session: &Session, id: PartitionId, from: Offset, until: Offset) -> Result<Reply, Refused> {
        let log = self.engine.partition(id).filter(|log| log.lane() == session.lane);
        let Some(log) = log else { return Ok(Reply::Gone(id)) };
        match log.read(from, until, CHUNK).await {
            Ok(read) => {
                let mut out = BytesMut::with_capacity(read.bytes);
                read.batches.iter().for_each(|batch| out.extend_from_slice(batch));
                Ok(Reply::Batches(out.freeze()))
            }
            Err(ReadError::BelowStart { .. }) => Ok(Reply::Moved(id)),
            Err(error) => Err(format!("partition {id} cannot be read: {error}")),
        }
    }

    /// At this instant: the lane's state, its partitions, and what is still to be given.
    fn settle(&self, session: &Session) -> Result<Reply, Refused> {
        let lane = session.lane;
        let raft = self.giving(lane)?;
        let point = self.engine.lane_now(lane).ok_or_else(|| format!("lane {lane} has no state here"))?;
        // Entries are applied and the state is read on this shard: no entry lies between.
        let hold = raft.hold_log(point.applied.index);
        session.settled.replace(Some((point.applied, hold)));
        let partitions: BTreeSet<PartitionId> = self.engine.partitions_of(lane).into_iter().collect();
        let mut round = session.round.borrow_mut();
        round.extend(session.watch.take());
        let mut left: Vec<PartitionId> = round.drain(..).filter(|id| partitions.contains(id)).collect();
        left.sort_unstable();
        left.dedup();
        round.extend(left);
        Ok(Reply::Settled { at: point.applied, state: point.state, partitions: partitions.into_iter().collect() })
    }

    /// The copy is durable; the log is held until the replica has been heard of by the lane's group.
    fn close(&self, number: u64) -> Reply {
        let given_up = self.sessions.borrow().get(&number).is_none_or(|session| session.settled.borrow().is_none());
        if given_up {
            self.sessions.borrow_mut().remove(&number);
        }
        Reply::Closed
    }

    /// Ends sessions that are over, while there are any.
    fn watch(self: &Rc<Self>) {
        if self.watching.replace(true) {
            return;
        }
        let this = self.clone();
        drop(self.env.tasks.spawn("rebuild sessions", async move {
            while !this.sessions.borrow().is_empty() {
                this.env.tasks.sleep(LOOK).await;
                let over: Vec<u64> = {
                    let sessions = this.sessions.borrow();
                    sessions.iter().filter(|(_, session)| this.is_over(session)).map(|(number, _)| *number).collect()
                };
                over.into_iter().for_each(|number| drop(this.sessions.borrow_mut().remove(&number)));
            }
            this.watching.set(false);
        }));
    }

    fn is_over(&self, session: &Session) -> bool {
        let idle = self.env.clock.now().since(session.asked.get()) > IDLE;
        let Ok(raft) = self.giving(session.lane) else { return true };
        let caught_up = session.settled.borrow().as_ref().is_some_and(|(at, _)| {
            let progress = raft.progress().into_iter().find(|progress| progress.replica == session.replica);
            progress.and_then(|progress| progress.matched).is_some_and(|matched| matched.index >= at.index)
        });
        idle || caught_up
    }
}

/// About how many bytes of a log lie at or after `from`.
fn part_of(log: LogBounds, from: Offset) -> u64 {
    let all = log.end.get().saturating_sub(log.start.get());
    let part = log.end.get().saturating_sub(from.max(log.start).get());
    let bytes = u128::from(log.bytes) * u128::from(part) / u128::from(all.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
