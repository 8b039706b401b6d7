//! A log against a plain list of batches, under random operations; damage; look-up by time.
#![allow(clippy::panic)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::*;

use super::memory::RecentMemory;
use super::shared::LogShared;
use super::state::LogState;
use super::*;
use crate::budget::{DiskBudget, DiskUse};
use crate::env::Env;
use crate::env::Notify;
use crate::env::sim::World;
use crate::metrics::EngineCounters;
use crate::model::{Batch, EntryId, LaneId, LogIndex, Offset, OffsetRange, Term, TimestampMs};
use crate::segment::index_cache::IndexCache;
use crate::segment::{Handles, index_path, log_path};

pub(crate) fn shared(env: Env, recent: u64) -> Rc<LogShared> {
    Rc::new(LogShared {
        handles: Handles::new(env.disk.clone(), 2),
        indexes: IndexCache::new(2),
        runs: Default::default(),
        memory: RecentMemory::new(recent),
        disk: DiskBudget::unlimited().account(DiskUse::Segments),
        counters: EngineCounters::default(),
        eager_bytes: u64::MAX,
        eager: RefCell::default(),
        changed_partitions: RefCell::default(),
        changed_lanes: RefCell::default(),
        collected: Cell::new(0),
        doomed: RefCell::default(),
        checkpoint_bytes: u64::MAX,
        since_checkpoint: Cell::new(0),
        watches: RefCell::default(),
        wake: Notify::default(),
        env,
        dir: "/data/0".into(),
    })
}

fn entry(index: u64) -> EntryId {
    EntryId { term: Term(1), index: LogIndex(index) }
}

fn new_log(shared: &Rc<LogShared>, settings: LogSettings) -> PartitionLog {
    PartitionLog::new(shared.clone(), LaneId(1), LogState::new(sample::partition(1), settings, Offset::ZERO))
}

/// The batches that the log should hold.
#[derive(Default)]
struct Model {
    batches: Vec<Batch>,
    next: Offset,
}

impl Model {
    fn append(&mut self, log: &PartitionLog, records: u64, bytes: usize, at: i64) {
        let batch = sample::batch(self.next, records, bytes, at);
        self.next = batch.header.next_offset();
        self.batches.push(batch.clone());
        log.append(batch, entry(self.next.get()));
    }

    fn bytes(&self, range: OffsetRange) -> Vec<u8> {
        let inside = |batch: &&Batch| !batch.header.offsets().intersect(&range).is_empty();
        self.batches.iter().filter(inside).flat_map(|batch| batch.bytes.to_vec()).collect()
    }

    /// Everything from the log's start to its end, read in pieces, is what the model holds.
    async fn check(&self, log: &PartitionLog, max_bytes: usize) {
        let bounds = log.bounds();
        assert_eq!(bounds.end, self.next);
        let (mut next, mut all) = (bounds.start, Vec::new());
        while next < bounds.end {
            let read = log.read(next, bounds.end, max_bytes).await.expect("reads");
            assert!(!read.range.is_empty(), "a read below the end gives at least a batch");
            assert_eq!(read.range.start, next);
            assert_eq!(read.bytes, read.batches.iter().map(Bytes::len).sum::<usize>());
            all.extend(read.batches.iter().flat_map(|bytes| bytes.to_vec()));
            next = read.range.end;
        }
        assert!(all == self.bytes(OffsetRange::new(bounds.start, bounds.end)), "the log is not what was appended");
    }
}

fn small() -> LogSettings {
    LogSettings { segment_bytes: 60_000, segment_ms: 1_000_000 }
}

/// The log as a restart would find it from a record taken now.
async fn reopened(log: &PartitionLog, shared: &Rc<LogShared>) -> PartitionLog {
    let (record, target) = persist::encode(&log.inner.state.borrow());
    if let Some(target) = target {
        log.make_durable(target).await.expect("writes");
    }
    let state = persist::decode(log.id(), record.into()).expect("decodes");
    PartitionLog::new(shared.clone(), LaneId(1), state)
}

#[test]
fn random_operations_against_a_list() {
    for seed in 0..150 {
        let world = World::new(seed);
        let env = world.env();
        let rng = env.rng.clone();
        let shared = shared(env, 40_000);
        world.block_on(async {
            let (mut log, mut model) = (new_log(&shared, small()), Model::default());
            for step in 0..120 {
                match rng.below(11) {
                    0..=4 => model.append(&log, 1 + rng.below(5), 50 + rng.below(9_000) as usize, step),
                    5 => drop(log.write_back(None).await.expect("writes")),
                    6 => log.evict(u64::MAX),
                    7 => log.evict(shared.memory.cutoff()),
                    8 => {
                        let bounds = log.bounds();
                        let to = bounds.start.plus(rng.below(bounds.end.get() - bounds.start.get() + 2) / 2);
                        log.trim(to);
                        let now = log.bounds().start;
                        assert!(now <= to && now >= bounds.start);
                    }
                    9 => log = reopened(&log, &shared).await,
                    _ => model.check(&log, rng.below(30_000) as usize).await,
                }
            }
            model.check(&log, 1).await;
            model.check(&log, 1 << 20).await;
        });
    }
}

#[test]
fn reads_go_on_while_write_back_trim_and_eviction_happen() {
    for seed in 0..40 {
        let world = World::new(seed);
        let env = world.env();
        let shared = shared(env.clone(), 40_000);
        let log = new_log(&shared, small());
        let model = Rc::new(RefCell::new(Model::default()));
        let writer = env.tasks.spawn("writer", {
            let (log, env, model) = (log.clone(), env.clone(), model.clone());
            async move {
                for step in 0..150 {
                    model.borrow_mut().append(&log, 2, 3_000, step);
                    match env.rng.below(6) {
                        0 => drop(log.write_back(None).await.expect("writes")),
                        1 => log.evict(u64::MAX),
                        2 => log.trim(Offset::new(log.bounds().end.get().saturating_sub(env.rng.below(60)))),
                        _ => env.tasks.yield_now().await,
                    }
                }
            }
        });
        let reader = env.tasks.spawn("reader", {
            let (log, env, model) = (log.clone(), env.clone(), model.clone());
            async move {
                for _ in 0..200 {
                    let bounds = log.bounds();
                    let from = bounds.start.plus(env.rng.below(bounds.end.get() - bounds.start.get() + 1));
                    match log.read(from, bounds.end, 20_000).await {
                        Ok(read) if read.range.is_empty() => assert_eq!(from, bounds.end),
                        Ok(read) => {
                            let got: Vec<u8> = read.batches.iter().flat_map(|bytes| bytes.to_vec()).collect();
                            assert!(got == model.borrow().bytes(read.range));
                        }
                        Err(ReadError::BelowStart { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                    env.tasks.yield_now().await;
                }
            }
        });
        assert!(world.block_on(writer).is_some() && world.block_on(reader).is_some());
    }
}

#[test]
fn bounds_of_reads() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 20);
    world.block_on(async {
        let (log, mut model) = (new_log(&shared, small()), Model::default());
        for _ in 0..10 {
            model.append(&log, 10, 500, 0);
        }
        let read = log.read(Offset::new(15), Offset::new(100), 1).await.expect("reads");
        assert_eq!(read.range, OffsetRange::new(Offset::new(10), Offset::new(20)), "whole batches, at least one");
        let read = log.read(Offset::new(15), Offset::new(35), 1 << 20).await.expect("reads");
        assert_eq!(read.range.end, Offset::new(30), "none that reaches past `until`");
        assert!(log.read(Offset::new(100), Offset::new(100), 1).await.expect("reads").batches.is_empty());
        assert!(matches!(
            log.read(Offset::new(101), Offset::new(200), 1).await,
            Err(ReadError::AboveEnd { end, .. }) if end == Offset::new(100)
        ));
        log.reset(Offset::new(500));
        assert!(matches!(
            log.read(Offset::new(3), Offset::new(200), 1).await,
            Err(ReadError::BelowStart { start, .. }) if start == Offset::new(500)
        ));
        assert_eq!(log.bounds(), LogBounds { start: Offset::new(500), end: Offset::new(500), bytes: 0 });
    });
}

#[test]
fn what_is_trimmed_before_its_write_back_is_never_written() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 20);
    world.block_on(async {
        let (log, mut model) = (new_log(&shared, LogSettings::default()), Model::default());
        for _ in 0..100 {
            model.append(&log, 1, 10_000, 0);
        }
        log.trim(Offset::new(90));
        assert_eq!(log.bounds().start, Offset::new(90));
        let written = log.write_back(None).await.expect("writes");
        assert!(written < 11 * 11_000, "{written}");
        model.check(&log, 1 << 20).await;
        log.trim(Offset::new(100));
        assert_eq!((log.bounds().start, log.segments().len()), (Offset::new(100), 0));
        assert_eq!(shared.memory.resident(), 0);
    });
}

#[test]
fn trimming_within_a_segment_half_in_memory_loses_nothing() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 20);
    world.block_on(async {
        let (log, mut model) = (new_log(&shared, LogSettings::default()), Model::default());
        for _ in 0..10 {
            model.append(&log, 1, 1_000, 0);
        }
        log.write_back(None).await.expect("writes");
        log.evict(u64::MAX);
        assert_eq!(log.recent_bytes(), 0);
        model.append(&log, 1, 1_000, 0);
        log.trim(Offset::new(3));
        assert_eq!(log.bounds().start, Offset::ZERO);
        model.check(&log, 1).await;
    });
}

#[test]
fn a_write_back_cut_short_forgets_no_name_that_is_not_durable() {
    for after in 0..400 {
        let world = World::new(1);
        let shared = shared(world.env(), 1 << 20);
        let path = world.block_on(async {
            let (log, mut model) = (new_log(&shared, LogSettings::default()), Model::default());
            model.append(&log, 1, 9_000, 0);
            let target = log.inner.state.borrow().target().expect("a segment");
            let short = shared.env.tasks.sleep(Duration::from_micros(after));
            let _ = futures::future::select(std::pin::pin!(log.make_durable(target)), short).await;
            log.make_durable(target).await.expect("writes");
            log_path(&log.inner.dir, Offset::ZERO)
        });
        world.crash();
        let env = world.restart();
        assert!(world.block_on(env.disk.exists(&path)).expect("looks"), "cut short after {after} µs");
    }
}

#[test]
fn small_batches_are_counted_with_what_they_cost() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 20);
    world.block_on(async {
        let (log, mut model) = (new_log(&shared, LogSettings::default()), Model::default());
        (0..1_000).for_each(|_| model.append(&log, 1, 10, 0));
        let bytes = log.bounds().bytes;
        assert!(log.recent_bytes() > bytes + 1_000 * 100, "{} for {bytes}", log.recent_bytes());
        assert_eq!(shared.memory.resident(), log.recent_bytes());
        log.write_back(None).await.expect("writes");
        model.check(&log, 5_000).await;
        log.evict(u64::MAX);
        assert_eq!((shared.memory.resident(), log.recent_bytes()), (0, 0));
        model.check(&log, 5_000).await;
    });
}

#[test]
fn segments_close_by_size_and_by_the_time_in_their_batches() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 20);
    let settings = LogSettings { segment_bytes: 10_000, segment_ms: 100 };
    let (log, mut model) = (new_log(&shared, settings), Model::default());
    for (bytes, at) in [(4_000, 10), (4_000, 110), (4_000, 110), (100, 211), (20_000, 211), (100, 211)] {
        model.append(&log, 1, bytes, at);
    }
    let starts: Vec<u64> = log.segments().iter().map(|segment| segment.offsets.start.get()).collect();
    assert_eq!(starts, [0, 2, 3, 4, 5]);
    assert_eq!(log.segments().iter().filter(|segment| segment.closed).count(), 4);
}

#[test]
fn look_up_by_time_is_exact_to_the_record() {
    for seed in 0..60 {
        let world = World::new(seed);
        let env = world.env();
        let shared = shared(env.clone(), 40_000);
        world.block_on(async {
            let (log, mut model) = (new_log(&shared, small()), Model::default());
            for _ in 0..60 {
                model.append(&log, 1 + env.rng.below(5), 2_000, env.rng.below(2_000) as i64);
                if env.rng.below(5) == 0 {
                    log.write_back(None).await.expect("writes");
                    log.evict(u64::MAX);
                }
            }
            log.trim(Offset::new(20));
            let bounds = log.bounds();
            let all: Vec<(i64, u64)> = model
                .batches
                .iter()
                .filter(|batch| batch.header.base_offset >= bounds.start)
                .flat_map(|batch| crate::model::record::read_all(&batch.header, &batch.bytes, 1 << 20).expect("opens"))
                .map(|record| (record.timestamp.0, record.offset.get()))
                .collect();
            for _ in 0..40 {
                let at = env.rng.below(2_100) as i64;
                let from = Offset::new(env.rng.below(bounds.end.get()));
                let found = log.find_time(TimestampMs(at), OffsetRange::new(from, bounds.end)).await.expect("reads");
                let expected = all.iter().find(|(time, offset)| *time >= at && *offset >= from.get());
                assert_eq!(found.map(|found| (found.timestamp.0, found.offset.get())), expected.copied());
            }
            let greatest = all.iter().map(|(time, _)| *time).max().expect("some");
            let first = all.iter().find(|(time, _)| *time == greatest).copied();
            let found = log.max_timestamp().await.expect("reads");
            // Maxima of segments count what was trimmed within them too: only whole segments go.
            assert_eq!(found.map(|found| (found.timestamp.0, found.offset.get())), first);
        });
    }
}

/// A log of several closed segments, all in files.
async fn stored(shared: &Rc<LogShared>) -> (PartitionLog, Model) {
    let (log, mut model) = (new_log(shared, small()), Model::default());
    for step in 0..40 {
        model.append(&log, 3, 9_000, step);
    }
    let log = reopened(&log, shared).await;
    assert!(log.segments().len() > 4);
    (log, model)
}

#[test]
fn damage_is_told_by_file_position_expected_and_found() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 20);
    world.block_on(async {
        let (log, model) = stored(&shared).await;
        let second = log.segments()[1].offsets;
        let path = log_path(&log.inner.dir, second.start);
        assert!(world.disk().flip_bit(&path, 100, 3));
        let error = log.read(second.start, second.end, 1 << 20).await.expect_err("is damaged");
        match &error {
            ReadError::Corrupt { file, pos, offsets, expected, found } => {
                assert_eq!((file, pos.0), (&path, 0));
                let runs = log.run_sums(second).await.expect("has an index");
                assert_eq!(Some(*offsets), runs.first().map(|run| run.offsets), "one run, not all that was asked for");
                assert_ne!(expected, found);
            }
            other => panic!("{other}"),
        }
        assert!(error.to_string().contains("restore the file"), "{error}");
        // The first segment, and everything after the damage, can still be read.
        assert!(log.read(Offset::ZERO, second.start, 1 << 20).await.is_ok());
        assert!(log.read(second.end, model.next, 1 << 20).await.is_ok());
        world.disk().flip_bit(&path, 100, 3);
        model.check(&log, 50_000).await;
    });
}

#[test]
fn what_a_reader_gave_up_is_there_the_next_time() {
    let world = World::new(1);
    let env = world.env();
    let shared = shared(env.clone(), 1 << 20);
    world.block_on(async {
        let (log, model) = stored(&shared).await;
        let reads = shared.counters.run_reads.get();
        let mut tries = 0;
        while log.read(Offset::ZERO, model.next, 1).now_or_never().is_none() {
            tries += 1;
            assert!(tries <= 2, "the index, then the run");
            env.tasks.sleep(Duration::from_secs(1)).await;
        }
        // Several readers of the same run read it from disk once.
        let second = log.segments()[1].offsets.start;
        let all = futures::future::join_all((0..5).map(|_| log.read(second, model.next, 1))).await;
        assert!(all.iter().all(|read| read.as_ref().is_ok_and(|read| read.bytes > 0)));
        assert!(shared.counters.run_reads.get() <= reads + 2);
    });
}

#[test]
fn lost_and_damaged_indexes_are_made_again() {
    let world = World::new(1);
    let env = world.env();
    let shared = shared(env.clone(), 1 << 20);
    world.block_on(async {
        let (log, model) = stored(&shared).await;
        let segments = log.segments();
        let (first, second) = (segments[0].offsets.start, segments[1].offsets.start);
        env.disk.remove_file(&index_path(&log.inner.dir, first)).await.expect("removes");
        assert!(world.disk().flip_bit(&index_path(&log.inner.dir, second), 80, 0));
        let log = reopened(&log, &self::shared(env.clone(), 1 << 20)).await;
        model.check(&log, 50_000).await;
        assert!(env.disk.exists(&index_path(&log.inner.dir, first)).await.expect("looks"));
        // Without the index, the batches' own checksums find the damage.
        env.disk.remove_file(&index_path(&log.inner.dir, first)).await.expect("removes");
        assert!(world.disk().flip_bit(&log_path(&log.inner.dir, first), 5_000, 1));
        let log = reopened(&log, &self::shared(env.clone(), 1 << 20)).await;
        let error = log.read(Offset::ZERO, second, 1 << 20).await.expect_err("is damaged");
        assert!(matches!(error, ReadError::Index { .. }), "{error}");
        assert_eq!(error.damaged(), Some(segments[0].offsets), "nothing of it can be found");
    });
}

#[test]
fn a_file_of_another_partition_does_not_pass() {
    let world = World::new(1);
    let env = world.env();
    let shared = shared(env.clone(), 1 << 20);
    world.block_on(async {
        let (log, _) = stored(&shared).await;
        let path = log_path(&log.inner.dir, Offset::ZERO);
        let mine = world.disk().contents(&path).expect("is there");
        let other = LogState::new(sample::partition(2), small(), Offset::ZERO);
        let other = PartitionLog::new(shared.clone(), LaneId(1), other);
        let mut model = Model::default();
        for step in 0..40 {
            model.append(&other, 3, 9_000, step);
        }
        let other = reopened(&other, &shared).await;
        // The same batches at the same offsets: only the seed tells them apart, so swap in the other's index as well.
        let theirs = world.disk().contents(&log_path(&other.inner.dir, Offset::ZERO)).expect("is there");
        assert!(mine == theirs);
        let index = world.disk().contents(&index_path(&other.inner.dir, Offset::ZERO)).expect("is there");
        assert!(world.disk().overwrite(&index_path(&log.inner.dir, Offset::ZERO), 0, &index));
        let sums = log.run_sums(OffsetRange::new(Offset::ZERO, Offset::new(3))).await.expect("made again");
        let bytes = log.read(Offset::ZERO, sums[0].offsets.end, 1 << 20).await.expect("reads");
        let joined: Vec<u8> = bytes.batches.iter().flat_map(|bytes| bytes.to_vec()).collect();
        assert!(sums[0].matches(log.id(), &joined) && !sums[0].matches(other.id(), &joined));
    });
}

#[test]
fn repeats_after_recovery_are_passed_over() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 20);
    world.block_on(async {
        let (log, mut model) = (new_log(&shared, small()), Model::default());
        for _ in 0..10 {
            model.append(&log, 1, 5_000, 0);
        }
        let log = reopened(&log, &shared).await;
        log.set_covered(LogIndex(10));
        for batch in model.batches.iter().skip(4) {
            log.append(batch.clone(), entry(batch.header.next_offset().get()));
        }
        model.append(&log, 1, 10, 0);
        model.check(&log, 1 << 20).await;
    });
}

fn record_of(state: &LogState) -> Bytes {
    persist::encode(state).0.into()
}

proptest! {
    #[test]
    fn hostile_log_records_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), sealed in any::<bool>()) {
        let mut bytes = bytes;
        if let (true, Some(first)) = (sealed, bytes.first_mut()) {
            *first = 1;
        }
        let _ = persist::decode(sample::partition(1), bytes.into());
    }

    #[test]
    fn damaged_log_records_never_panic(at in 0usize..10_000, byte in any::<u8>(), cut in 0usize..10_000) {
        let world = World::new(1);
        let log = new_log(&shared(world.env(), 1 << 20), small());
        let mut model = Model::default();
        for step in 0..12 {
            model.append(&log, 1, 9_000, step);
        }
        let mut bytes = record_of(&log.inner.state.borrow()).to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = persist::decode(log.id(), Bytes::from(bytes.clone()));
        bytes.truncate(cut % bytes.len());
        prop_assert!(persist::decode(log.id(), bytes.into()).is_err());
    }
}

#[test]
fn writes_are_large_aligned_and_never_twice() {
    let world = World::new(1);
    let shared = shared(world.env(), 1 << 30);
    world.block_on(async {
        let (log, mut model) = (new_log(&shared, LogSettings::default()), Model::default());
        for _ in 0..1_000 {
            model.append(&log, 10, 10_000, 0);
            if shared.env.rng.below(200) == 0 {
                log.write_back(None).await.expect("writes");
            }
        }
        log.write_back(None).await.expect("writes");
        let bytes = shared.counters.write_back_bytes.get();
        assert_eq!(bytes, log.bounds().bytes / 4096 * 4096, "every block once");
    });
}
