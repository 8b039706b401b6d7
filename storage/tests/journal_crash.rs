//! The journal against power cuts, on the simulated disk: what was completed is there, in order; nothing is invented;
//! the commit in flight is there as a whole or not at all.
//!
//! A history is the list of operations in the order of the calls. After a crash, the journal must be exactly as after
//! some prefix of it, which is at least as long as the completed part.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tidewater_storage::env::sim::World;
use tidewater_storage::env::{Env, Rng};
use tidewater_storage::journal::{Journal, JournalConfig, JournalEntry, Payload, Pressure};
use tidewater_storage::model::{EntryId, LaneId, LogIndex, Term};

const DIR: &str = "/node/journal";
const LANES: u64 = 3;

fn config() -> JournalConfig {
    JournalConfig {
        first_file_bytes: 16 << 10,
        file_bytes: 64 << 10,
        capacity_bytes: 512 << 10,
        memory_bytes: 8 << 10,
        commit_bytes: 16 << 10,
        spare_files: 2,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Append(LaneId, Vec<JournalEntry>),
    Vote(LaneId, Bytes),
    Truncate(LaneId, Option<EntryId>),
    Purge(LaneId, EntryId),
}

/// The entries that a lane should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Lane {
    purged: Option<EntryId>,
    vote: Option<Bytes>,
    entries: BTreeMap<u64, JournalEntry>,
}

impl Lane {
    fn last(&self) -> Option<EntryId> {
        self.entries.last_key_value().map(|(_, entry)| entry.id).or(self.purged)
    }
}

type Model = BTreeMap<LaneId, Lane>;

fn apply(model: &mut Model, op: &Op) {
    match op.clone() {
        Op::Append(lane, entries) => {
            let lane = model.entry(lane).or_default();
            lane.entries.extend(entries.into_iter().map(|entry| (entry.id.index.0, entry)));
        }
        Op::Vote(lane, vote) => model.entry(lane).or_default().vote = Some(vote),
        Op::Truncate(lane, keep) => {
            let lane = model.entry(lane).or_default();
            lane.entries.split_off(&keep.map_or(0, |keep| keep.index.0 + 1));
        }
        Op::Purge(lane, upto) => {
            let lane = model.entry(lane).or_default();
            lane.entries = lane.entries.split_off(&(upto.index.0 + 1));
            lane.purged = Some(upto);
        }
    }
}

#[derive(Default)]
struct History {
    ops: RefCell<Vec<Op>>,
    /// Number of completed operations, from the front.
    completed: Cell<usize>,
}

impl History {
    /// An append of several entries may lie in several commits, so each entry is an operation of its own.
    fn push(&self, op: Op) -> usize {
        let mut ops = self.ops.borrow_mut();
        match op {
            Op::Append(lane, entries) => ops.extend(entries.into_iter().map(|entry| Op::Append(lane, vec![entry]))),
            other => ops.push(other),
        }
        ops.len()
    }

    fn complete(&self, upto: usize) {
        assert!(upto > self.completed.get(), "completions come in order");
        self.completed.set(upto);
    }
}

fn payload(rng: &Rng) -> Payload {
    let blob = |max: u64| {
        let mut bytes = vec![0; rng.below(max) as usize];
        rng.fill(&mut bytes);
        Bytes::from(bytes)
    };
    let max = if rng.below(20) == 0 { 15_000 } else { 1500 };
    Payload { meta: blob(40), blobs: (0..rng.below(4)).map(|_| blob(max)).collect(), verified: false }
}

/// `term` is above every term that was ever cut off: one id never names two entries.
fn next_op(model: &Model, rng: &Rng, term: Term) -> Op {
    let id = LaneId(rng.below(LANES) as u32);
    let lane = model.get(&id).cloned().unwrap_or_default();
    let last = lane.last();
    let all: Vec<_> = lane.entries.values().map(|entry| entry.id).collect();
    match rng.below(20) {
        0 => Op::Vote(id, Bytes::copy_from_slice(&rng.next_u64().to_be_bytes())),
        1 if !all.is_empty() => {
            let keep = rng.below(all.len() as u64 + 1) as usize;
            Op::Truncate(id, keep.checked_sub(1).map(|at| all[at]).or(lane.purged))
        }
        2 | 3 if !all.is_empty() => Op::Purge(id, all[rng.below(all.len() as u64) as usize]),
        4 if rng.below(10) == 0 => {
            let index = last.map_or(10, |last| last.index.0 + 5);
            Op::Purge(id, EntryId { term, index: LogIndex(index) })
        }
        _ => {
            let first = last.map_or(0, |last| last.index.0 + 1);
            let entry = |n| JournalEntry { id: EntryId { term, index: LogIndex(first + n) }, payload: payload(rng) };
            Op::Append(id, (0..=rng.below(4)).map(entry).collect())
        }
    }
}

/// Random operations on the journal until it is killed.
async fn work(env: Env, journal: Journal, history: Rc<History>, mut model: Model, round: u64) {
    let mut term = Term(round * 1_000_000);
    loop {
        let op = next_op(&model, &env.rng, term);
        term.0 += u64::from(matches!(op, Op::Truncate(..)));
        apply(&mut model, &op);
        let place = history.push(op.clone());
        match op {
            Op::Append(lane, entries) => {
                let (history, committed) = (history.clone(), entries.last().map(|entry| entry.id));
                let lane = journal.lane(lane);
                let done = move |result: Result<(), _>| {
                    result.expect("the disk works");
                    history.complete(place);
                };
                lane.append(entries, Box::new(done));
                lane.save_committed(committed);
            }
            Op::Vote(lane, vote) => {
                journal.lane(lane).save_vote(vote).await.expect("the disk works");
                history.complete(place);
            }
            Op::Truncate(lane, keep) => journal.lane(lane).truncate_after(keep),
            Op::Purge(lane, upto) => journal.lane(lane).purge(upto),
        }
        match env.rng.below(10) {
            0 => env.tasks.sleep(Duration::from_micros(env.rng.below(600))).await,
            1 => env.tasks.yield_now().await,
            2 => check_reads(&env, &journal, &model).await,
            _ => {}
        }
        while journal.usage().waiting_bytes > 100_000 {
            env.tasks.sleep(Duration::from_micros(100)).await;
        }
        if journal.pressure() >= Pressure::Release {
            make_room(&env, &journal, &history, &mut model).await;
        }
    }
}

async fn make_room(env: &Env, journal: &Journal, history: &History, model: &mut Model) {
    if env.rng.below(2) == 0 {
        journal.rewrite_oldest().await.expect("the disk works");
        return;
    }
    for pin in journal.oldest_pins() {
        let op = Op::Purge(pin.lane, pin.last);
        apply(model, &op);
        history.push(op);
        journal.lane(pin.lane).purge(pin.last);
    }
    env.tasks.sleep(Duration::from_micros(500)).await;
}

async fn check_reads(env: &Env, journal: &Journal, model: &Model) {
    for (id, lane) in model {
        let indexes: Vec<_> = lane.entries.keys().copied().collect();
        let Some(from) = indexes.get(env.rng.below(indexes.len() as u64) as usize) else { continue };
        let range = LogIndex(*from)..LogIndex(from + env.rng.below(20));
        let read = journal.lane(*id).read(range.clone(), 5000).await.expect("reads");
        assert_eq!(read.is_empty(), range.is_empty(), "{range:?} of {id} in {:?}", journal.lane(*id));
        for (entry, index) in read.iter().zip(*from..) {
            assert_eq!(Some(entry), lane.entries.get(&index));
        }
    }
}

/// What the journal holds, read through its public functions.
async fn standing(journal: &Journal) -> Model {
    let mut model = Model::new();
    for (id, state) in journal.lanes() {
        let log = journal.lane(id);
        let mut entries = BTreeMap::new();
        let mut at = LogIndex(0);
        loop {
            let read = log.read(at..LogIndex(u64::MAX), 10_000).await.expect("reads");
            let Some(last) = read.last() else { break };
            at = last.id.index.next();
            entries.extend(read.into_iter().map(|entry| (entry.id.index.0, entry)));
        }
        let lane = Lane { purged: state.purged, vote: state.vote.clone(), entries };
        assert_eq!(state.last, lane.last());
        assert!(state.committed.map(|id| id.index) <= state.last.map(|id| id.index), "committed is within the log");
        if lane != Lane::default() {
            model.insert(id, lane);
        }
    }
    model
}

/// The prefix of the history that the journal holds.
fn prefix_at(start: &Model, history: &History, found: &Model) -> Option<usize> {
    let mut model = start.clone();
    let ops = history.ops.borrow();
    for n in 0..=ops.len() {
        if n >= history.completed.get() {
            let mut said = model.clone();
            said.retain(|_, lane| *lane != Lane::default());
            if said == *found {
                return Some(n);
            }
        }
        if let Some(op) = ops.get(n) {
            apply(&mut model, op);
        }
    }
    None
}

fn reopened(world: &World, seed: u64) -> (Model, u64) {
    let env = world.env();
    world.block_on(async move {
        let journal = Journal::open(env, Path::new(DIR), config()).await;
        let journal = journal.unwrap_or_else(|error| unreachable!("seed {seed}: {error}"));
        (standing(&journal).await, journal.durable_sequence())
    })
}

fn run(seed: u64) -> (u64, usize) {
    let world = World::new(seed);
    let rng = Rng::seeded(seed);
    let mut model = Model::new();
    let (mut commits, mut ops) = (0, 0);
    for round in 0..4 {
        let history = Rc::new(History::default());
        let env = world.env();
        let task = (env.clone(), history.clone(), model.clone());
        drop(env.tasks.spawn("workload", async move {
            let (env, history, model) = task;
            let journal = Journal::open(env.clone(), Path::new(DIR), config()).await.expect("opens");
            work(env, journal, history, model, round).await;
        }));
        drop(env);
        world.run_for(Duration::from_micros(200 + rng.below(if round == 0 { 5_000 } else { 60_000 })));
        match rng.below(4) {
            0 => world.kill(),
            _ => world.crash(),
        }
        let (found, sequence) = reopened(&world, seed);
        let at = prefix_at(&model, &history, &found);
        assert!(at.is_some(), "seed {seed} round {round}: the journal stands at no point of its history");
        model = found;
        (commits, ops) = (sequence, ops + history.ops.borrow().len());
        // What recovery itself relied on must survive a crash right after it.
        if rng.below(2) == 0 {
            world.crash();
            let (again, _) = reopened(&world, seed);
            assert!(again == model, "seed {seed} round {round}: recovery was not durable");
        }
        world.kill();
    }
    (commits, ops)
}

#[test]
fn a_crash_at_any_point_leaves_a_prefix_of_the_history() {
    let seeds = std::env::var("TIDEWATER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1500u64);
    let (mut commits, mut ops) = (0, 0);
    for seed in 0..seeds {
        let (c, o) = run(seed);
        commits += c;
        ops += o;
    }
    assert!(commits > seeds * 50, "the runs do something: {commits} commits, {ops} operations");
}
