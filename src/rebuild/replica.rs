//! The replica's side: marks the lane, pulls its state, checks what comes, and makes it durable.
//!
//! Shard-local. Errors: the caller waits and begins again; what was pulled is dropped by the next [`copy`]. The leader
//! is trusted with the content of states, which the caller decodes; offsets, checksums of batches and entries are
//! checked here, so that a wrong answer is an error and never a wrong log.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater_storage::budget::Admission;
use tidewater_storage::codec::CodecError;
use tidewater_storage::engine::{Engine, EngineError, Refused};
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::log::PartitionLog;
use tidewater_storage::model::{Batch, BatchError, EntryId, LaneId, LogIndex, PartitionId, ReplicaId, Term};

use super::message::{PartitionAt, Reply, Request};
use super::progress::{CopyProgress, Forecast};

/// After a round that brought at most this, the next one is the last. Bytes.
const SMALL: u64 = 32 << 20;
/// As is one after a round that took at most this.
const SHORT: Duration = Duration::from_secs(1);
/// A lane that changes as fast as it is copied is settled after this many rounds; its leader gives up if it cannot hold
/// the log so long.
const ROUNDS_MAX: u32 = 8;
/// `at` is fixed again when a partition was dropped meanwhile.
const SETTLES_MAX: u32 = 100;
/// A copy reads, sends, checks and writes on shards that serve clients meanwhile.
const BYTES_PER_SECOND: u64 = 128 << 20;
const WAIT: Duration = Duration::from_millis(10);
/// A full disk is waited for this long.
const DISK_WAIT: Duration = Duration::from_secs(30);

/// Sends requests to the lane's leader.
pub trait RebuildCalls {
    /// The answer's body, or in words why there is none. Always to the same broker within one [`copy`].
    fn call(&self, request: Bytes) -> LocalBoxFuture<'_, Result<Bytes, String>>;
}

/// What to copy.
pub struct CopyOptions<'a> {
    pub lane: LaneId,
    pub me: ReplicaId,
    pub calls: &'a dyn RebuildCalls,
    pub progress: Rc<CopyProgress>,
}

/// A partition of a copied lane; its log is in the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedPartition {
    pub id: PartitionId,
    /// Entries of the lane up to this one are in its state, and are skipped when they are applied.
    pub as_of: LogIndex,
    /// What its checkpoint holds.
    pub state: Bytes,
}

/// A lane as of `at`, as if recovered from a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    pub lane: LaneId,
    /// The last entry applied; the log continues after it.
    pub at: EntryId,
    /// The lane's checkpoint blob, with its membership.
    pub state: Bytes,
    pub partitions: Vec<CopiedPartition>,
    session: u64,
}

/// Why a lane was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The leader refused or could not be reached; it may be another broker now.
    #[error("lane {lane} cannot be copied from its leader: {why}")]
    Leader { lane: LaneId, why: String },
    /// The leader's answer cannot be read.
    #[error("the leader of lane {lane} sent an answer that cannot be read: {source}")]
    Answer { lane: LaneId, source: CodecError },
    /// The leader's answer is none to what was asked, or does not continue what it sent.
    #[error("the leader of lane {lane} sent an answer that does not fit: {what}")]
    Unfit { lane: LaneId, what: &'static str },
    /// A batch arrived damaged.
    #[error("a batch of partition {partition} arrived damaged: {source}")]
    Batch { partition: PartitionId, source: BatchError },
    /// No room here.
    #[error("there is no room for lane {lane} on this broker: {source}")]
    Room { lane: LaneId, source: Refused },
    /// The checkpoint failed. The lane must not run.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What a copy of the lane would take, as its leader counts; `None` if it does not say. Begins no copy.
pub async fn survey(lane: LaneId, calls: &dyn RebuildCalls) -> Option<Forecast> {
    let answered = calls.call(Request::Survey { lane }.encode()).await.ok()?;
    match Reply::decode(&answered).ok()? {
        Reply::Surveyed(expected) => Some(expected),
        _ => None,
    }
}

/// Marks the lane as being rebuilt, drops what there is of it, and pulls its state from the leader.
///
/// # Errors
/// [`CopyError`]: the lane stays marked; call again.
pub async fn copy(env: &Env, engine: &Engine, options: CopyOptions<'_>) -> Result<Copied, CopyError> {
    let CopyOptions { lane, me, calls, progress } = options;
    let last = engine.last_ever(lane);
    engine.begin_rebuild(lane).await?;
    let mut copier =
        Copier { env, engine, lane, calls, session: 0, parts: BTreeMap::new(), progress, begun: env.clock.now() };
    let expected = copier.open(me, last).await?;
    copier.progress.begin(expected);
    for round in 1.. {
        copier.progress.round.set(round);
        let (begun, before) = (env.clock.now(), copier.progress.bytes.get().0);
        copier.round().await?;
        let (took, pulled) = (env.clock.now().since(begun), copier.progress.bytes.get().0 - before);
        if pulled <= SMALL || took <= SHORT || round >= ROUNDS_MAX {
            break;
        }
    }
    copier.finish(last).await
}

/// Makes a copied lane durable, after the caller has made its state machine and answers for it: the mark goes, the
/// checkpoint holds the lane as of `at`, and the journal's log of before is purged. Its Raft group may start then.
///
/// # Errors
/// [`EngineError`]: the lane must not run; a start finds it marked or complete.
pub async fn settle(engine: &Engine, copied: &Copied, calls: &dyn RebuildCalls) -> Result<(), EngineError> {
    engine.end_rebuild(copied.lane);
    engine.checkpoint_until_taken().await?;
    engine.lane(copied.lane).purge(copied.at);
    // The leader also notices by itself.
    let close = Request::Close { lane: copied.lane, session: copied.session };
    let _ = calls.call(close.encode()).await;
    Ok(())
}

struct Copier<'a> {
    env: &'a Env,
    engine: &'a Engine,
    lane: LaneId,
    calls: &'a dyn RebuildCalls,
    session: u64,
    parts: BTreeMap<PartitionId, CopiedPartition>,
    progress: Rc<CopyProgress>,
    begun: Mono,
}

impl Copier<'_> {
    async fn call(&self, request: Request) -> Result<Reply, CopyError> {
        let lane = self.lane;
        let answered = self.calls.call(request.encode()).await;
        let body = answered.map_err(|why| CopyError::Leader { lane, why })?;
        Reply::decode(&body).map_err(|source| CopyError::Answer { lane, source })
    }

    fn unfit(&self, what: &'static str) -> CopyError {
        CopyError::Unfit { lane: self.lane, what }
    }

    async fn open(&mut self, replica: ReplicaId, last: Option<EntryId>) -> Result<Forecast, CopyError> {
        match self.call(Request::Open { lane: self.lane, replica, last }).await? {
            Reply::Opened { session, expected } => {
                self.session = session;
                Ok(expected)
            }
            _ => Err(self.unfit("to the request to begin")),
        }
    }

    async fn next(&self, again: Option<PartitionId>) -> Result<Reply, CopyError> {
        self.call(Request::Next { lane: self.lane, session: self.session, again }).await
    }

    async fn round(&mut self) -> Result<(), CopyError> {
        loop {
            match self.next(None).await? {
                Reply::Partition(part) => drop(self.pull(part).await?),
                Reply::Round { .. } => return Ok(()),
                _ => return Err(self.unfit("to the request for the next partition")),
            }
        }
    }

    /// The last round; again from its beginning whenever a partition was dropped after the entry was fixed.
    async fn finish(mut self, last: Option<EntryId>) -> Result<Copied, CopyError> {
        for _ in 0..SETTLES_MAX {
            let settled = self.call(Request::Settle { lane: self.lane, session: self.session }).await?;
            let Reply::Settled { at, state, partitions } = settled else {
                return Err(self.unfit("to the request for the lane's state"));
            };
            if Some(at.index) <= last.map(|last| last.index) {
                return Err(self.unfit("it ends before what this replica has stored"));
            }
            if !self.last_round().await? {
                continue;
            }
            let listed: BTreeSet<PartitionId> = partitions.into_iter().collect();
            let surplus: Vec<PartitionId> = self.parts.keys().filter(|id| !listed.contains(id)).copied().collect();
            for id in surplus {
                self.parts.remove(&id);
                self.engine.drop_partition(id, at);
            }
            if self.parts.len() != listed.len() {
                return Err(self.unfit("partitions of the lane are missing"));
            }
            let (lane, session) = (self.lane, self.session);
            return Ok(Copied { lane, at, state, partitions: self.parts.into_values().collect(), session });
        }
        Err(self.unfit("partitions are dropped as fast as the lane is copied"))
    }

    /// False if a partition was dropped after the entry was fixed.
    async fn last_round(&mut self) -> Result<bool, CopyError> {
        loop {
            match self.next(None).await? {
                Reply::Partition(part) => {
                    if !self.pull(part).await? {
                        return Ok(false);
                    }
                }
                Reply::Gone(_) => return Ok(false),
                Reply::Round { .. } => return Ok(true),
                _ => return Err(self.unfit("to the request for the next partition")),
            }
        }
    }

    /// Takes a partition's state and pulls the bytes that are missing; false if it was dropped meanwhile.
    async fn pull(&mut self, mut part: PartitionAt) -> Result<bool, CopyError> {
        let id = part.id;
        'again: loop {
            let log = self.log_for(&part);
            while log.end() < part.end {
                let (from, until) = (log.end(), part.end);
                let read = Request::Read { lane: self.lane, session: self.session, partition: id, from, until };
                match self.call(read).await? {
                    Reply::Batches(bytes) => self.append(&log, bytes, &part).await?,
                    Reply::Moved(moved) if moved == id => match self.next(Some(id)).await? {
                        Reply::Partition(now) if now.id == id => {
                            part = now;
                            continue 'again;
                        }
                        Reply::Gone(gone) if gone == id => return Ok(self.forget(id)),
                        _ => return Err(self.unfit("to the request for a partition")),
                    },
                    Reply::Gone(gone) if gone == id => return Ok(self.forget(id)),
                    _ => return Err(self.unfit("to the request for batches")),
                }
            }
            if log.end() != part.end {
                return Err(self.unfit("a partition ends before what it sent"));
            }
            let PartitionAt { as_of, state, .. } = part;
            self.parts.insert(id, CopiedPartition { id, as_of, state });
            let known = self.parts.len() as u64;
            self.progress.partitions.set((known, self.progress.partitions.get().1.max(known)));
            return Ok(true);
        }
    }

    fn forget(&mut self, id: PartitionId) -> bool {
        self.parts.remove(&id);
        self.engine.drop_partition(id, EntryId::default());
        false
    }

    /// The partition's log, which the bytes from its end on continue. One that is behind what the leader still has
    /// begins again.
    fn log_for(&self, part: &PartitionAt) -> PartitionLog {
        let as_of = EntryId { term: Term(0), index: part.as_of };
        let fresh = self.engine.partition(part.id).is_none();
        let log = self.engine.create_partition(part.id, self.lane, as_of, part.settings);
        if fresh || log.end() < part.from {
            log.reset(part.from);
        }
        log.set_settings(part.settings);
        log
    }

    async fn append(&self, log: &PartitionLog, bytes: Bytes, part: &PartitionAt) -> Result<(), CopyError> {
        let (partition, total) = (part.id, bytes.len() as u64);
        let room = self.room(total).await?;
        let batches = Batch::split_all(bytes).map_err(|source| CopyError::Batch { partition, source })?;
        if batches.is_empty() {
            return Err(self.unfit("no batches where there should be some"));
        }
        let as_of = EntryId { term: Term(0), index: part.as_of };
        for batch in batches {
            batch.header.verify_crc(&batch.bytes).map_err(|source| CopyError::Batch { partition, source })?;
            let (first, next) = (batch.header.base_offset, batch.header.next_offset());
            if first != log.end() || next > part.end {
                return Err(self.unfit("batches that do not continue a partition"));
            }
            log.append(batch, as_of);
        }
        drop(room);
        let done = self.progress.add_bytes(total);
        let due = Duration::from_micros(done.saturating_mul(1_000_000) / BYTES_PER_SECOND);
        let ahead = due.saturating_sub(self.env.clock.now().since(self.begun));
        if ahead > WAIT {
            self.env.tasks.sleep(ahead).await;
        }
        Ok(())
    }

    async fn room(&self, bytes: u64) -> Result<Admission, CopyError> {
        let begun = self.env.clock.now();
        loop {
            match self.engine.admit(bytes) {
                Ok(room) => return Ok(room),
                Err(source @ Refused::Disk(_)) if self.env.clock.now().since(begun) > DISK_WAIT => {
                    return Err(CopyError::Room { lane: self.lane, source });
                }
                Err(_) => self.env.tasks.sleep(WAIT).await,
            }
        }
    }
}
