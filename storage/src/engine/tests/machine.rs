//! A state machine instead of Raft and the partition layer: one voter, so what is durable is committed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};

use crate::engine::*;
use crate::env::Env;
use crate::journal::{JournalConfig, JournalEntry, Payload, Pressure};
use crate::log::{LogSettings, ReadError, sample};
use crate::model::{Batch, EntryId, LaneId, LogIndex, Offset, OffsetRange, PartitionId, Term};

/// Small sizes, so that every path is taken often.
pub(super) fn config() -> EngineConfig {
    EngineConfig {
        journal: JournalConfig {
            first_file_bytes: 32 << 10,
            file_bytes: 256 << 10,
            capacity_bytes: 2 << 20,
            memory_bytes: 64 << 10,
            ..JournalConfig::default()
        },
        recent_bytes: 96 << 10,
        write_back_bytes: 16 << 10,
        open_files: 3,
        open_indexes: 2,
        checkpoint_interval: Duration::from_millis(4),
        checkpoint_bytes: 400 << 10,
        ..EngineConfig::default()
    }
}

fn settings() -> LogSettings {
    LogSettings { segment_bytes: 60_000, segment_ms: 1_000_000 }
}

/// What to propose next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Command {
    Create,
    Append,
    Trim,
    Drop,
}

/// What was proposed, by lane and index, and how far it was acknowledged. Not part of what a crash loses.
#[derive(Default)]
pub(super) struct History {
    lanes: RefCell<BTreeMap<LaneId, Proposed>>,
    partitions: Cell<i32>,
}

#[derive(Clone, Default)]
struct Proposed {
    entries: Vec<JournalEntry>,
    acked: usize,
}

/// A partition, computed from the history alone.
#[derive(Default)]
struct Expected {
    batches: Vec<Batch>,
    trimmed: Offset,
    end: Offset,
}

impl History {
    /// The partitions that a lane's entries result in, as far as the entries are known to exist.
    fn expected(&self, lane: LaneId) -> BTreeMap<PartitionId, Expected> {
        let mut out: BTreeMap<PartitionId, Expected> = BTreeMap::new();
        for entry in self.lanes.borrow().get(&lane).map(|lane| lane.entries.as_slice()).unwrap_or_default() {
            let (kind, id, to) = decode(&entry.payload);
            match kind {
                b'c' => drop(out.insert(id, Expected::default())),
                b'd' => drop(out.remove(&id)),
                b't' => {
                    if let Some(partition) = out.get_mut(&id) {
                        partition.trimmed = partition.trimmed.max(to);
                    }
                }
                _ => {
                    let Some(partition) = out.get_mut(&id) else { continue };
                    let batch = batch(&entry.payload);
                    partition.end = batch.header.next_offset();
                    partition.batches.push(batch);
                }
            }
        }
        out
    }
}

fn encode(kind: u8, id: PartitionId, to: Offset, blobs: Vec<Bytes>) -> Payload {
    let mut meta = vec![kind];
    meta.put_i32(id.index.0);
    meta.put_u64(to.get());
    Payload { meta: meta.into(), blobs, verified: false }
}

fn decode(payload: &Payload) -> (u8, PartitionId, Offset) {
    let mut meta = payload.meta.clone();
    (meta.get_u8(), sample::partition(meta.get_i32()), Offset::new(meta.get_u64()))
}

fn batch(payload: &Payload) -> Batch {
    Batch::split_from(&mut payload.blobs[0].clone()).expect("a batch of ours")
}

/// A partition's state in the machine.
#[derive(Clone, Copy, Debug)]
struct State {
    lane: LaneId,
    as_of: LogIndex,
    end: Offset,
    trimmed: Offset,
}

/// A small version of the layers above.
pub(super) struct Machine {
    pub(super) engine: Engine,
    env: Env,
    upper: Rc<Upper>,
}

pub(super) struct Upper {
    engine: Engine,
    applied: RefCell<BTreeMap<LaneId, EntryId>>,
    states: RefCell<BTreeMap<PartitionId, State>>,
    waiting: Cell<u64>,
    failed: Cell<bool>,
}

impl CheckpointSource for Upper {
    fn lane(&self, lane: LaneId) -> Option<LaneCheckpoint> {
        let applied = *self.applied.borrow().get(&lane)?;
        Some(LaneCheckpoint { applied, state: Bytes::from_static(b"members") })
    }

    fn partition(&self, partition: PartitionId) -> Option<PartitionCheckpoint> {
        let state = *self.states.borrow().get(&partition)?;
        let mut blob = Vec::new();
        blob.put_u64(state.end.get());
        blob.put_u64(state.trimmed.get());
        Some(PartitionCheckpoint { as_of: (state.lane, state.as_of), state: blob.into() })
    }

    fn checkpointed(&self, lane: LaneId, applied: EntryId) {
        self.engine.lane(lane).purge(applied);
    }

    fn failed(&self, _: &EngineError) {
        self.failed.set(true);
    }
}

impl Upper {
    /// Applies a committed entry. Applied again after a crash, it skips what a partition already covers.
    fn apply(&self, lane: LaneId, entry: &JournalEntry) {
        let (kind, id, to) = decode(&entry.payload);
        let (at, mut states) = (entry.id, self.states.borrow_mut());
        self.applied.borrow_mut().insert(lane, at);
        self.engine.touch_lane(lane);
        if kind == b'c' {
            states.entry(id).or_insert_with(|| {
                self.engine.create_partition(id, lane, at, settings());
                State { lane, as_of: at.index, end: Offset::ZERO, trimmed: Offset::ZERO }
            });
            return;
        }
        let Some(state) = states.get_mut(&id).filter(|state| state.as_of < at.index) else { return };
        state.as_of = at.index;
        match kind {
            b'd' => {
                states.remove(&id);
                drop(states);
                self.engine.drop_partition(id, at);
            }
            b't' => {
                state.trimmed = state.trimmed.max(to);
                self.engine.partition(id).expect("is there").trim(to);
                self.engine.touch_partition(id);
            }
            _ => {
                let batch = batch(&entry.payload);
                if batch.header.base_offset != state.end {
                    panic!("{id}: batch at {} where {} is next", batch.header.base_offset, state.end);
                }
                state.end = batch.header.next_offset();
                self.engine.partition(id).expect("is there").append(batch, at);
            }
        }
    }
}

impl Machine {
    /// Opens, applies the journal's entries after the checkpoint again, and starts. A proposal that is not in the
    /// journal did not happen; what was acknowledged must be there.
    pub(super) async fn open(env: &Env, dir: PathBuf, config: EngineConfig, history: &Rc<History>) -> Self {
        let (engine, recovered) = match Engine::open(env.clone(), dir, config).await {
            Ok(opened) => opened,
            Err(error) => panic!("does not open: {error}"),
        };
        let upper = Rc::new(Upper {
            engine: engine.clone(),
            applied: RefCell::default(),
            states: RefCell::default(),
            waiting: Cell::new(0),
            failed: Cell::new(false),
        });
        for partition in &recovered.partitions {
            let mut blob = partition.state.clone();
            let (end, trimmed) = (Offset::new(blob.get_u64()), Offset::new(blob.get_u64()));
            let (lane, as_of) = partition.as_of;
            assert_eq!(engine.partition(partition.id).expect("is there").bounds().end, end);
            upper.states.borrow_mut().insert(partition.id, State { lane, as_of, end, trimmed });
        }
        engine.set_source(upper.clone());
        for lane in [LaneId(1), LaneId(2)] {
            let applied = recovered.lanes.iter().find(|known| known.lane == lane).and_then(|known| known.applied);
            recover_lane(&engine, &upper, lane, applied, history).await;
        }
        engine.start();
        Self { engine, env: env.clone(), upper }
    }

    pub(super) fn failed(&self) -> bool {
        self.upper.failed.get()
    }

    /// Proposes an entry of this kind for some partition of the lane.
    pub(super) fn propose(&self, history: &Rc<History>, lane: LaneId, command: Command) {
        let Some(payload) = self.payload(history, lane, command) else { return };
        let index = LogIndex(history.lanes.borrow().get(&lane).map_or(0, |lane| lane.entries.len() as u64));
        let entry = JournalEntry { id: EntryId { term: Term(1), index }, payload };
        history.lanes.borrow_mut().entry(lane).or_default().entries.push(entry.clone());
        let (upper, history, applied) = (self.upper.clone(), history.clone(), entry.clone());
        upper.waiting.set(upper.waiting.get() + 1);
        let done = Box::new(move |done: Result<(), crate::journal::JournalError>| {
            upper.waiting.set(upper.waiting.get() - 1);
            if done.is_ok() {
                upper.apply(lane, &applied);
                if let Some(lane) = history.lanes.borrow_mut().get_mut(&lane) {
                    lane.acked = lane.acked.max(index.0 as usize + 1);
                }
            }
        });
        self.engine.lane(lane).append(vec![entry], done);
    }

    fn payload(&self, history: &Rc<History>, lane: LaneId, command: Command) -> Option<Payload> {
        let rng = &self.env.rng;
        if matches!(command, Command::Create) {
            history.partitions.set(history.partitions.get() + 1);
            return Some(encode(b'c', sample::partition(history.partitions.get()), Offset::ZERO, Vec::new()));
        }
        let expected = history.expected(lane);
        let (id, partition) = expected.iter().nth(rng.below(expected.len().max(1) as u64) as usize)?;
        Some(match command {
            Command::Drop => encode(b'd', *id, Offset::ZERO, Vec::new()),
            Command::Trim => {
                let span = partition.end.get() - partition.trimmed.get();
                encode(b't', *id, partition.trimmed.plus(rng.below(span + 1)), Vec::new())
            }
            _ => {
                let big = if rng.below(20) == 0 { 40_000 } else { 4_000 };
                let bytes = 10 + rng.below(big) as usize;
                let batch = sample::batch(partition.end, 1 + rng.below(4), bytes, rng.below(1_000) as i64);
                encode(b'a', *id, Offset::ZERO, vec![batch.bytes])
            }
        })
    }

    /// Waits until everything proposed is applied.
    pub(super) async fn settle(&self) {
        while self.upper.waiting.get() > 0 {
            self.env.tasks.sleep(Duration::from_micros(50)).await;
        }
    }

    /// As a proposer does: a few proposals in flight, none while the journal is short of space.
    pub(super) async fn wait_for_room(&self) {
        while self.upper.waiting.get() > 8 || self.engine.journal().pressure() == Pressure::Refuse {
            let _ = self.engine.admit(1);
            self.env.tasks.sleep(Duration::from_micros(100)).await;
        }
    }

    /// Local retention: trims old batches without an entry in the lane.
    pub(super) fn trim_locally(&self) {
        let ids = self.engine.partitions();
        if let Some(id) = ids.get(self.env.rng.below(ids.len().max(1) as u64) as usize) {
            let log = self.engine.partition(*id).expect("is there");
            let bounds = log.bounds();
            log.trim(bounds.start.plus(self.env.rng.below(bounds.end.get() - bounds.start.get() + 1) / 2));
            if let Some(state) = self.upper.states.borrow_mut().get_mut(id) {
                state.trimmed = state.trimmed.max(log.bounds().start);
            }
        }
    }

    pub(super) fn drop_now(&self, id: PartitionId) {
        let at = self.upper.states.borrow_mut().remove(&id).expect("is there");
        self.engine.drop_partition(id, EntryId { term: Term(1), index: at.as_of });
    }

    /// Checks every partition of both lanes against the history.
    pub(super) async fn check(&self, history: &Rc<History>, when: &str) {
        self.settle().await;
        let mut expected = history.expected(LaneId(1));
        expected.append(&mut history.expected(LaneId(2)));
        let there: Vec<PartitionId> = expected.keys().copied().collect();
        assert_eq!(self.engine.partitions(), there, "{when}");
        for (id, expected) in &expected {
            self.check_partition(*id, expected, when).await;
        }
    }

    /// Checks a random partition against the history, while work continues.
    pub(super) async fn check_one(&self, history: &Rc<History>) {
        let lane = LaneId(1 + self.env.rng.below(2) as u32);
        let ids: Vec<PartitionId> = history.expected(lane).into_keys().collect();
        let Some(id) = ids.get(self.env.rng.below(ids.len().max(1) as u64) as usize) else { return };
        let Some(expected) = history.expected(lane).remove(id) else { return };
        if self.engine.partition(*id).is_some() {
            self.check_contents(*id, &expected, "at work").await;
        }
    }

    async fn check_partition(&self, id: PartitionId, expected: &Expected, when: &str) {
        let log = self.engine.partition(id).expect("is there");
        assert_eq!(log.bounds().end, expected.end, "{when}: {id}");
        let trimmed = self.upper.states.borrow().get(&id).map_or(Offset::ZERO, |state| state.trimmed);
        assert!(log.bounds().start <= trimmed.max(expected.trimmed), "{when}: {id} starts after what was trimmed");
        self.check_contents(id, expected, when).await;
    }

    async fn check_contents(&self, id: PartitionId, expected: &Expected, when: &str) {
        let log = self.engine.partition(id).expect("is there");
        let end = log.bounds().end;
        let mut next = log.bounds().start;
        while next < end {
            let read = match log.read(next, end, 30_000).await {
                Ok(read) => read,
                Err(ReadError::BelowStart { .. }) => return,
                Err(error) => panic!("{when}: {id}: {error}"),
            };
            let range = OffsetRange::new(next, read.range.end);
            let inside = |batch: &&Batch| range.contains(batch.header.base_offset);
            let want: Vec<u8> = expected.batches.iter().filter(inside).flat_map(|batch| batch.bytes.to_vec()).collect();
            let got: Vec<u8> = read.batches.iter().flat_map(|bytes| bytes.to_vec()).collect();
            assert!(got == want, "{when}: {id} {range} is not what was appended");
            next = read.range.end;
        }
    }
}

async fn recover_lane(
    engine: &Engine,
    upper: &Rc<Upper>,
    lane: LaneId,
    applied: Option<EntryId>,
    history: &Rc<History>,
) {
    let log = engine.lane(lane);
    let end = log.state().last.map_or(0, |last| last.index.0 + 1);
    let mut proposed = history.lanes.borrow().get(&lane).cloned().unwrap_or_default();
    assert!(end as usize >= proposed.acked, "lane {lane} ends at {end}, {} were acknowledged", proposed.acked);
    assert!(end as usize <= proposed.entries.len(), "lane {lane} has entries that were never proposed");
    proposed.entries.truncate(end as usize);
    if let Some(applied) = applied {
        assert!(applied.index.0 < end, "lane {lane} is applied beyond its end");
        upper.applied.borrow_mut().insert(lane, applied);
    }
    let mut next = applied.map_or(0, |applied| applied.index.0 + 1);
    while next < end {
        let entries = log.read(LogIndex(next)..LogIndex(end), 50_000).await.expect("reads");
        assert!(!entries.is_empty());
        for entry in &entries {
            assert!(
                *entry == proposed.entries[entry.id.index.0 as usize],
                "lane {lane}: another entry at {}",
                entry.id
            );
            upper.apply(lane, entry);
            next = entry.id.index.0 + 1;
        }
    }
    history.lanes.borrow_mut().insert(lane, proposed);
}
