//! A lane in memory: real manifests and their real transition, logs as lists of batches, a Raft of one that takes its
//! time and forgets what a deposed leader had in flight.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::channel::oneshot;
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Batch, Compression, Incarnation, LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, PartitionIndex,
    ProducerEpoch, ProducerId, RunSum, Term, TimestampMs, TopicId, TopicName, batch, run,
};
use uuid::Uuid;

use crate::archive::{
    LaneState, LocalLog, LocalRead, LocalReadError, LocalSegment, Propose, ProposeError, TopicFacts, Unarchived,
    Whereabouts,
};
use crate::format::{EpochStart, LaneEvent, ProducerState, follow_producers};
use crate::keys::Home;
use crate::manifest::{
    CatalogueTopic, Command, LaneManifest, LogFacts, PartitionManifest, apply, check_lane, check_partition,
};
use crate::restore::{LaneSeed, SEED};
use crate::retention::RetentionPolicy;

/// Bytes at which a simulated segment closes.
const SEGMENT_BYTES: usize = 12_000;

/// A partition's truth and its local log.
#[derive(Clone)]
pub struct Log {
    /// Everything ever appended, which is what the bucket must give back.
    pub batches: Vec<Batch>,
    /// Below, local bytes are gone.
    pub local_start: Offset,
    /// When each batch was applied.
    applied: Vec<Mono>,
    /// Offsets at which segments closed.
    closed: Vec<OffsetRange>,
    open_bytes: usize,
    open_start: Offset,
    /// Facts, until the topic is deleted.
    pub facts: Option<TopicFacts>,
    /// When it came and went.
    created: LogIndex,
    dropped: Option<LogIndex>,
    /// Local reads of this offset find other bytes than were applied.
    pub rotten: Option<Offset>,
    /// Its disk does not answer.
    pub silent: bool,
    /// Epoch and next sequence of its idempotent producers.
    sequences: BTreeMap<i64, (i16, i32)>,
    /// Log starts asked for and trims applied: when, and to where.
    moved: Vec<(LogIndex, Offset)>,
}

/// A command on its way: the term it was proposed in and where its outcome goes.
type InFlight = (Term, Command, oneshot::Sender<Result<(), ProposeError>>);

/// The lane. Shared by the archivers of all its terms.
pub struct SimLane {
    env: Env,
    lane: RefCell<LaneManifest>,
    manifests: RefCell<BTreeMap<PartitionId, PartitionManifest>>,
    pub logs: RefCell<BTreeMap<PartitionId, Log>>,
    index: Cell<u64>,
    term: Cell<u64>,
    /// Commands on their way, by order; `false` once a new term began.
    in_flight: RefCell<Vec<InFlight>>,
    pub rejected: RefCell<Vec<String>>,
    pub lag: Cell<Duration>,
    pub clean: RefCell<BTreeSet<PartitionId>>,
    /// Partitions that other lanes carry, and those of them that this node does not know of before it asks.
    pub elsewhere: RefCell<BTreeSet<PartitionId>>,
    pub not_known_yet: RefCell<BTreeSet<PartitionId>>,
    /// Partitions of this lane whose topic this node does not know yet.
    pub without_topic: RefCell<BTreeSet<PartitionId>>,
    /// The leader is cut off from its peers: what it proposes is neither committed nor refused.
    pub cut_off: Cell<bool>,
}

pub fn partition(topic: u128, index: i32) -> PartitionId {
    PartitionId { topic: TopicId(Uuid::from_u128(topic)), index: PartitionIndex(index), incarnation: Incarnation(0) }
}

impl SimLane {
    pub fn new(env: Env, home: Home) -> Rc<Self> {
        Rc::new(Self {
            env,
            lane: RefCell::new(LaneManifest::new(home, LaneId(1))),
            manifests: RefCell::default(),
            logs: RefCell::default(),
            index: Cell::new(1),
            term: Cell::new(1),
            in_flight: RefCell::default(),
            rejected: RefCell::default(),
            lag: Cell::new(Duration::from_millis(200)),
            clean: RefCell::default(),
            elsewhere: RefCell::default(),
            not_known_yet: RefCell::default(),
            without_topic: RefCell::default(),
            cut_off: Cell::default(),
        })
    }

    /// The lane as it is now, to be put back later like a disk from a backup, or as another replica has applied it.
    pub fn backup(&self) -> Rc<Self> {
        Rc::new(Self {
            env: self.env.clone(),
            lane: self.lane.clone(),
            manifests: self.manifests.clone(),
            logs: self.logs.clone(),
            index: self.index.clone(),
            term: self.term.clone(),
            in_flight: RefCell::default(),
            rejected: RefCell::default(),
            lag: self.lag.clone(),
            clean: self.clean.clone(),
            elsewhere: RefCell::default(),
            not_known_yet: RefCell::default(),
            without_topic: RefCell::default(),
            cut_off: Cell::default(),
        })
    }

    /// The lane as a restored cluster begins with it: no record beyond the archived ends, none of them on local disk.
    pub fn restored(&self, env: &Env, seed: LaneSeed) -> Rc<Self> {
        let lane = self.backup();
        let mut lane = Rc::into_inner(lane).expect("nobody else has it");
        lane.env = env.clone();
        lane.lane = RefCell::new(seed.archive);
        let mut manifests: BTreeMap<PartitionId, PartitionManifest> =
            seed.partitions.into_iter().map(|published| (published.manifest.id, published.manifest)).collect();
        (lane.index, lane.term) = (Cell::new(SEED.0 + 1), Cell::new(1));
        for (id, log) in lane.logs.borrow_mut().iter_mut() {
            // One of which nothing was archived is made again.
            let made = || PartitionManifest::new(*id, Offset::ZERO, LogIndex(SEED.0 + 1));
            let end = manifests.entry(*id).or_insert_with(made).archived_end;
            let kept = log.batches.iter().filter(|batch| batch.header.next_offset() <= end).count();
            log.batches.truncate(kept);
            log.applied.truncate(kept);
            assert_eq!(log.end(), end, "{id} ends with a batch");
            log.closed.clear();
            (log.local_start, log.open_start, log.open_bytes) = (end, end, 0);
        }
        lane.manifests = RefCell::new(manifests);
        Rc::new(lane)
    }

    /// Terms and log indexes that passed without the bucket.
    pub fn advance(&self, terms: u64, entries: u64) {
        self.term.set(self.term.get() + terms);
        self.index.set(self.index.get() + entries);
    }

    fn next_index(&self) -> LogIndex {
        self.index.set(self.index.get() + 1);
        LogIndex(self.index.get())
    }

    pub fn create(&self, id: PartitionId, retention: RetentionPolicy) {
        let at = self.next_index();
        let name = TopicName::new(&format!("t{}", id.topic.0.as_u128())).expect("legal");
        let catalogue = CatalogueTopic {
            id: id.topic,
            name,
            configs: BTreeMap::new(),
            partitions: Vec::new(),
            revision: 0,
            copy: None,
        };
        self.manifests.borrow_mut().insert(id, PartitionManifest::new(id, Offset::ZERO, at));
        let log = Log {
            batches: Vec::new(),
            local_start: Offset::ZERO,
            applied: Vec::new(),
            closed: Vec::new(),
            open_bytes: 0,
            open_start: Offset::ZERO,
            facts: Some(TopicFacts { catalogue, retention }),
            created: at,
            dropped: None,
            rotten: None,
            silent: false,
            sequences: BTreeMap::new(),
            moved: Vec::new(),
        };
        self.logs.borrow_mut().insert(id, log);
    }

    pub fn drop_topic(&self, topic: TopicId) {
        let at = self.next_index();
        for (_, log) in self.logs.borrow_mut().iter_mut().filter(|(id, _)| id.topic == topic) {
            log.facts = None;
            log.dropped = Some(at);
        }
    }

    /// Alters a partition's manifest behind everybody's back.
    pub fn alter(&self, id: PartitionId, change: impl FnOnce(&mut PartitionManifest)) {
        self.manifests.borrow_mut().get_mut(&id).map(change).expect("exists");
    }

    /// Appends a committed batch of `records` records with values of `size` bytes.
    pub fn append(&self, id: PartitionId, records: u64, size: usize) {
        self.append_as(id, records, size, |_| {});
    }

    /// As [`SimLane::append`], of a batch that says that it is packed and does not unpack.
    pub fn append_closed(&self, id: PartitionId, records: u64, size: usize) {
        self.append_as(id, records, size, |batch| {
            batch[22] |= 1;
            let crc = crc32c::crc32c(&batch[21..]);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
        });
    }

    fn append_as(&self, id: PartitionId, records: u64, size: usize, change: impl FnOnce(&mut BytesMut)) {
        let at = self.next_index();
        let _ = at;
        let mut logs = self.logs.borrow_mut();
        let log = logs.get_mut(&id).expect("exists");
        if log.facts.is_none() {
            return;
        }
        let base = log.end();
        let mut builder = log.next_producer(&self.env, records);
        for n in 0..records {
            let mut value = vec![0u8; size];
            self.env.rng.fill(&mut value);
            let at = TimestampMs(self.env.clock.wall().0 + n as i64);
            builder.push(Record::new(at, None, Some(Bytes::from(value))));
        }
        let mut bytes = BytesMut::from(&builder.build()[..]);
        change(&mut bytes);
        batch::patch(&mut bytes, base, LeaderEpoch(self.term.get() as i32));
        let batch = Batch::split_from(&mut bytes.freeze()).expect("good");
        log.open_bytes += batch.bytes.len();
        log.batches.push(batch);
        log.applied.push(self.env.clock.now());
        if log.open_bytes >= SEGMENT_BYTES {
            let end = log.end();
            log.closed.push(OffsetRange::new(log.open_start, end));
            log.open_start = end;
            log.open_bytes = 0;
        }
    }

    /// Moves the log start, as DeleteRecords does; it may pass the archived end.
    pub fn delete_records(&self, id: PartitionId, to: Offset) {
        let at = self.next_index();
        self.logs.borrow_mut().get_mut(&id).expect("exists").moved.push((at, to));
    }

    /// Gives local bytes up to `to` away, as local retention would.
    pub fn trim_local(&self, id: PartitionId, to: Offset) {
        let archived = self.manifests.borrow().get(&id).map(|m| m.archived_end).expect("exists");
        assert!(to <= archived, "trim ahead of the bucket");
        let mut logs = self.logs.borrow_mut();
        let log = logs.get_mut(&id).expect("exists");
        let edge = log.batches.iter().map(|b| b.header.base_offset).filter(|o| *o <= to).max();
        log.local_start = log.local_start.max(edge.unwrap_or_default());
    }

    /// A new leader: what was in flight is applied or lost, all of it decided before the new term begins.
    pub fn new_term(&self) {
        for (term, command, answer) in std::mem::take(&mut *self.in_flight.borrow_mut()) {
            if self.env.rng.below(2) == 0 {
                self.apply_one(term, &command).ok();
            }
            drop(answer);
        }
        self.term.set(self.term.get() + 1);
        self.next_index();
    }

    fn apply_one(&self, _term: Term, command: &Command) -> Result<(), ProposeError> {
        let at = self.next_index();
        let mut lane = self.lane.borrow_mut();
        let mut manifests = self.manifests.borrow_mut();
        let result = apply(&mut lane, &mut manifests, at, command);
        if let (Ok(()), Command::Trimmed(trimmed)) = (&result, command)
            && let Some(log) = self.logs.borrow_mut().get_mut(&trimmed.partition)
        {
            log.moved.push((at, trimmed.log_start));
        }
        check_lane(&lane, &manifests).expect("lane invariants hold");
        manifests.values().for_each(|manifest| check_partition(manifest).expect("partition invariants hold"));
        result.map_err(|reason| {
            self.rejected.borrow_mut().push(format!("{reason} of {command:?}"));
            ProposeError::Rejected { reason: reason.to_string() }
        })
    }
}

impl Log {
    pub fn end(&self) -> Offset {
        self.batches.last().map_or(Offset::ZERO, |last| last.header.next_offset())
    }

    /// Leader epochs and producers of its batches that end at or below `end`.
    pub fn facts_at(&self, end: Offset) -> LogFacts {
        let (mut epochs, mut producers): (Vec<EpochStart>, _) = (Vec::new(), BTreeMap::new());
        for header in self.batches.iter().map(|batch| &batch.header).filter(|header| header.next_offset() <= end) {
            if epochs.last().is_none_or(|last| last.epoch < header.leader_epoch) {
                epochs.push(EpochStart { epoch: header.leader_epoch, start: header.base_offset });
            }
            let change = ProducerState::of(header, header.max_timestamp);
            follow_producers(&mut producers, change.as_slice());
        }
        LogFacts { epochs, producers: producers.into_values().collect() }
    }

    /// A batch to be of one of a few idempotent producers, or of none.
    fn next_producer(&mut self, env: &Env, records: u64) -> BatchBuilder {
        let id = env.rng.below(5) as i64;
        if id == 0 {
            return BatchBuilder::new(Compression::None);
        }
        let (epoch, sequence) = self.sequences.entry(id).or_insert((0, i32::MAX - 40));
        if env.rng.below(20) == 0 {
            (*epoch, *sequence) = (*epoch + 1, 0);
        }
        let (epoch, first) = (*epoch, *sequence);
        *sequence = ((i64::from(first) + records as i64) % (1 << 31)) as i32;
        BatchBuilder::new(Compression::None).producer(ProducerId(id), ProducerEpoch(epoch), first)
    }

    /// The truth from `from` (the batch that holds it) to `until`.
    pub fn bytes(&self, offsets: OffsetRange) -> Vec<u8> {
        let inside = self.batches.iter().filter(|b| !b.header.offsets().intersect(&offsets).is_empty());
        inside.flat_map(|b| b.bytes.to_vec()).collect()
    }
}

impl LaneState for Rc<SimLane> {
    fn lane(&self) -> LaneId {
        LaneId(1)
    }

    fn leading(&self) -> Option<Term> {
        Some(Term(self.term.get()))
    }

    fn applied(&self) -> LogIndex {
        LogIndex(self.index.get())
    }

    fn with_lane<R>(&self, look: impl FnOnce(&LaneManifest) -> R) -> R {
        look(&self.lane.borrow())
    }

    fn with_partition<R>(&self, partition: PartitionId, look: impl FnOnce(&PartitionManifest) -> R) -> Option<R> {
        self.manifests.borrow().get(&partition).map(look)
    }

    fn with_manifests<R>(&self, look: impl FnOnce(&LaneManifest, &[&PartitionManifest]) -> R) -> R {
        let manifests = self.manifests.borrow();
        look(&self.lane.borrow(), &manifests.values().collect::<Vec<_>>())
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.manifests.borrow().keys().copied().collect()
    }

    fn events(&self, after: LogIndex) -> Vec<LaneEvent> {
        let mut events = Vec::new();
        for (id, log) in self.logs.borrow().iter() {
            if log.created > after {
                events.push((
                    log.created,
                    LaneEvent::Created {
                        partition: *id,
                        topic: TopicName::new("t").expect("legal"),
                        configs: Vec::new(),
                        start: Offset::ZERO,
                        epoch_base: LeaderEpoch(0),
                    },
                ));
            }
            for (at, to) in log.moved.iter().filter(|(at, _)| *at > after && log.facts.is_some()) {
                events.push((*at, LaneEvent::LogStartMoved { partition: *id, to: *to }));
            }
            if let Some(at) = log.dropped.filter(|at| *at > after) {
                events.push((at, LaneEvent::Dropped { partition: *id }));
            }
        }
        events.sort_by_key(|(at, _)| *at);
        events.into_iter().map(|(_, event)| event).collect()
    }

    fn log_facts(&self, partition: PartitionId) -> LogFacts {
        self.logs.borrow().get(&partition).map(|log| log.facts_at(log.end())).unwrap_or_default()
    }

    fn wanted_log_start(&self, partition: PartitionId) -> Option<Offset> {
        self.logs.borrow().get(&partition)?.moved.iter().map(|(_, to)| *to).max()
    }

    fn topic(&self, partition: PartitionId) -> Option<TopicFacts> {
        self.logs.borrow().get(&partition)?.facts.clone().filter(|_| !self.without_topic.borrow().contains(&partition))
    }

    fn dropped(&self, partition: PartitionId) -> bool {
        self.logs.borrow().get(&partition).is_none_or(|log| log.facts.is_none())
    }

    fn whereabouts(&self, partition: PartitionId) -> Whereabouts {
        match self.manifests.borrow().contains_key(&partition) {
            true => Whereabouts::Here,
            false if self.elsewhere.borrow().contains(&partition) => Whereabouts::Elsewhere,
            false => Whereabouts::Nowhere,
        }
    }
}

impl LocalLog for Rc<SimLane> {
    fn unarchived(&self) -> Vec<Unarchived> {
        let logs = self.logs.borrow();
        let manifests = self.manifests.borrow();
        let waits = |(id, log): (&PartitionId, &Log)| {
            let from = manifests.get(id)?.archived_end;
            let first = log.batches.iter().position(|b| b.header.next_offset() > from)?;
            log.facts.as_ref()?;
            let bytes = log.batches.iter().skip(first).map(|b| b.bytes.len() as u64).sum();
            let offsets = OffsetRange::new(from, log.end());
            Some(Unarchived { partition: *id, offsets, bytes, since: *log.applied.get(first)?, lag: self.lag.get() })
        };
        logs.iter().filter_map(waits).collect()
    }

    fn closed_segments(&self, partition: PartitionId) -> Vec<LocalSegment> {
        let logs = self.logs.borrow();
        let Some(log) = logs.get(&partition) else { return Vec::new() };
        let local = log.closed.iter().filter(|offsets| offsets.start >= log.local_start);
        local.map(|offsets| LocalSegment { offsets: *offsets, bytes: SEGMENT_BYTES as u64 }).collect()
    }

    fn bytes_after(&self, partition: PartitionId, from: Offset) -> u64 {
        let logs = self.logs.borrow();
        let after = |log: &Log| {
            let after = log.batches.iter().filter(|b| b.header.base_offset >= from);
            after.map(|b| b.bytes.len() as u64).sum()
        };
        logs.get(&partition).map_or(0, after)
    }

    async fn read(
        &self,
        partition: PartitionId,
        offsets: OffsetRange,
        bytes_max: u64,
    ) -> Result<LocalRead, LocalReadError> {
        self.env.tasks.sleep(Duration::from_micros(self.env.rng.below(2000))).await;
        let logs = self.logs.borrow();
        let log = logs.get(&partition).ok_or(LocalReadError::Unavailable { reason: "gone".to_owned() })?;
        if log.silent {
            return Err(LocalReadError::Unavailable { reason: "EIO".to_owned() });
        }
        if offsets.start < log.local_start {
            return Err(LocalReadError::BelowStart { start: log.local_start });
        }
        let (mut read, mut bytes) = (LocalRead::default(), 0);
        for b in log.batches.iter().filter(|b| b.header.next_offset() > offsets.start) {
            if b.header.base_offset >= offsets.end || (bytes > 0 && bytes + b.bytes.len() as u64 > bytes_max) {
                break;
            }
            bytes += b.bytes.len() as u64;
            let crc = run::extend(run::seed(partition, b.header.base_offset), &b.bytes);
            read.sums.push(RunSum { offsets: b.header.offsets(), len: b.header.len, crc });
            let mut seen = BytesMut::from(&b.bytes[..]);
            if log.rotten == Some(b.header.base_offset) {
                // The leader epoch lies outside Kafka's CRC: only the run sum tells.
                seen[15] ^= 1;
            }
            read.batches.push(seen.freeze());
        }
        Ok(read)
    }
}

impl Propose for Rc<SimLane> {
    async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        if self.cut_off.get() {
            return std::future::pending().await;
        }
        let (answer, answered) = oneshot::channel();
        let term = Term(self.term.get());
        self.in_flight.borrow_mut().push((term, command, answer));
        let this = Rc::clone(self);
        drop(self.env.tasks.spawn("raft", async move {
            this.env.tasks.sleep(Duration::from_micros(this.env.rng.below(5000))).await;
            let first = {
                let mut waiting = this.in_flight.borrow_mut();
                (!waiting.is_empty()).then(|| waiting.remove(0))
            };
            let Some((term, command, answer)) = first else { return };
            let result = this.apply_one(term, &command);
            this.env.tasks.sleep(Duration::from_micros(this.env.rng.below(5000))).await;
            answer.send(result).ok();
        }));
        answered.await.unwrap_or(Err(ProposeError::Unknown { reason: "a new term began".to_owned() }))
    }

    async fn confirm_topics(&self) -> Result<(), ProposeError> {
        self.env.tasks.sleep(Duration::from_millis(5)).await;
        self.elsewhere.borrow_mut().append(&mut self.not_known_yet.borrow_mut());
        Ok(())
    }

    async fn partition_clean(&self, partition: PartitionId) -> Result<(), ProposeError> {
        let gone = self.manifests.borrow_mut().remove(&partition).expect("was there");
        assert!(gone.is_gone(), "cleaned too early");
        self.next_index();
        self.clean.borrow_mut().insert(partition);
        Ok(())
    }
}
