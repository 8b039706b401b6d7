//! Tables that are taken back: what is read again may become what it was not, and each record is in one of the two
//! tables, once, at any point.

use tidewater_storage::model::Offset;
use tidewater_storage::model::record::Record;

use super::*;
use crate::columns::fixture::cases;
use crate::compact::Compactor;
use crate::fixture::{Fault, MemoryLog};
use crate::plan::Offsets;
use crate::sink::{RestoredEnds, RewindAsk, RewindError, RewindTo, Rewound};

/// After the time at which tables of tests are made, so that snapshots have the times that a test gives.
const LATER: TimestampMs = TimestampMs(4_000_000_000_000);

fn at(offsets: &[(i32, u64)]) -> Offsets {
    offsets.iter().map(|(partition, next)| (PartitionIndex(*partition), Offset::new(*next))).collect()
}

fn to(to: RewindTo) -> RewindAsk {
    RewindAsk { to, is_plan: false, is_forced: false }
}

fn to_offsets(offsets: &[(i32, u64)]) -> RewindAsk {
    to(RewindTo::Offsets(at(offsets)))
}

/// Partitions that go back: from, to, lost.
fn steps(done: &Rewound) -> Vec<(i32, u64, u64, u64)> {
    done.partitions.iter().map(|(at, step)| (at.0, step.from.get(), step.to.get(), step.lost)).collect()
}

/// Appends a record whose schema is not registered yet.
fn append_too_early(world: &World, partition: i32) {
    let value = framed(UNKNOWN, &[2, 2, b'x', 4]);
    world.log.append_record(partition, Record::new(NOW, None, Some(value)));
}

#[test]
fn what_a_mistake_made_dead_letters_become_rows() {
    block_on(async {
        let (mut world, _) = begin(801);
        append_too_early(&world, 1);
        let mut sink = world.sink(1);
        drain(&mut sink, LATER).await;
        for n in 1..=3 {
            for partition in 0..2 {
                append_too_early(&world, partition);
                drain(&mut sink, LATER.plus_ms(n * 1000)).await;
            }
        }
        assert_eq!(dead_rows(&world).await.len(), 7);
        world.registry.register(UNKNOWN, WriterSchema::Avro(schema(AVRO[0].1)));
        let ask = to(RewindTo::Time(LATER.plus_ms(1999)));
        let (before, plan) = (world.store.keys(), RewindAsk { is_plan: true, ..ask.clone() });
        let planned = sink.rewind(&plan, LATER).await.expect("planned");
        assert_eq!(world.store.keys(), before, "a plan changes nothing");
        let dead = planned.dead_letters.as_ref().expect("there are some");
        assert_eq!((steps(&planned), dead.1.rows), (vec![(0, 5, 3, 0), (1, 4, 2, 0)], 4));
        let done = sink.rewind(&ask, LATER.plus_ms(9000)).await.expect("taken back");
        assert_eq!(done, planned);
        assert_eq!(dead_rows(&world).await.keys().collect::<Vec<_>>(), [&(0, 2), &(1, 0), &(1, 1)]);
        drain(&mut sink, LATER.plus_ms(9000)).await;
        assert_eq!(dead_rows(&world).await.len(), 3, "those of before stay");
        let rows = typed_rows(&world).await;
        assert_eq!(rows.len(), 6);
        assert!([(0, 3), (0, 4), (1, 2), (1, 3)].iter().all(|at| rows.contains_key(at)), "{rows:?}");
        // Nothing is beyond where it is.
        let nothing = sink.rewind(&to_offsets(&[(0, 99)]), LATER).await.expect("nothing to do");
        assert!(nothing.partitions.is_empty() && nothing.leaving.files == 0, "{nothing:?}");
    });
}

/// Partitions and commits that are compacted, and offsets in the middle of one.
#[test]
fn rows_leave_from_any_offset_on_and_come_back_once() {
    block_on(async {
        let mut world = World::new(802);
        let mut sink = world.sink(1);
        for n in 0..8_u64 {
            for partition in 0..3 {
                world.log.append(partition, 5 + n, NOW.plus_ms(i64::try_from(n / 4).expect("small") * 3_600_000));
            }
            drain(&mut sink, NOW).await;
        }
        let config = world.config(1);
        let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 1 };
        let bounds = Bounds { compact_quiet_ms: 0, compact_files: 2, ..Bounds::default() };
        let names = Names::seeded(world.seed << 33);
        let mut compactor = Compactor::new(world.catalog(), world.table(), owner, names, bounds);
        let run = compactor.run(LATER, |_| {}).await.expect("compacted");
        assert!(run.files_in > run.files_out, "{run:?}");
        world.log.append(0, 20, NOW);
        drain(&mut sink, NOW).await;
        let ends = world.log.ends();
        assert_eq!(ends, [(0, 88), (1, 68), (2, 68)].into());
        for (target, rewritten) in [(vec![(0, 68)], false), (vec![(0, 30), (1, 33)], true), (vec![(2, 0)], true)] {
            let done = sink.rewind(&to_offsets(&target), NOW).await.expect("taken back");
            let left: u64 = target.iter().map(|(at, to)| ends[at] - to).sum();
            assert_eq!((done.leaving.rows, done.leaving.rewritten > 0), (left, rewritten), "{done:?}");
            let stays = |(partition, offset, _): &(i32, u64, String)| {
                target.iter().all(|(at, to)| partition != at || offset < to)
            };
            let wanted: Vec<_> = world.expected().into_iter().filter(stays).collect();
            assert_eq!(world.rows().await, wanted, "{target:?}");
            let total = world.catalog().load(&world.table()).await.expect("loads");
            let summary = &total.metadata.current_snapshot().expect("one").summary().additional_properties;
            assert_eq!(summary["total-records"], wanted.len().to_string());
            drain(&mut sink, NOW).await;
            assert_eq!(world.rows().await, world.expected(), "{target:?}");
        }
    });
}

#[test]
fn what_the_log_lacks_is_given_up_only_by_force() {
    block_on(async {
        let mut world = World::new(803);
        world.log.append(0, 10, NOW);
        world.log.append(0, 10, NOW);
        let mut sink = world.sink(1);
        drain(&mut sink, LATER).await;
        world.log.trim(0, 10);
        let refused = |error: RewindError| match error {
            RewindError::Refused(why) => why,
            error => panic!("{error}"),
        };
        let why = refused(sink.rewind(&to_offsets(&[(0, 4)]), LATER).await.expect_err("rows would be lost"));
        assert!(why.contains("6 offsets") && why.contains("--force"), "{why}");
        let why = refused(sink.rewind(&to(RewindTo::Time(TimestampMs(5))), LATER).await.expect_err("too old"));
        assert!(why.contains("no snapshot") && why.contains("--to"), "{why}");
        let why = refused(sink.rewind(&to_offsets(&[(7, 0)]), LATER).await.expect_err("no such partition"));
        assert!(why.contains("partition 7"), "{why}");
        assert_eq!(world.rows().await.len(), 20);
        let forced = RewindAsk { is_forced: true, ..to_offsets(&[(0, 4)]) };
        let done = sink.rewind(&forced, LATER).await.expect("forced");
        assert_eq!(steps(&done), [(0, 20, 4, 6)]);
        drain(&mut sink, LATER).await;
        let offsets: Vec<u64> = world.rows().await.into_iter().map(|(_, offset, _)| offset).collect();
        assert_eq!(offsets, (0..4).chain(10..20).collect::<Vec<_>>());
        let skipped = &sink.status().skipped;
        assert_eq!((skipped.len(), skipped[0].start, skipped[0].end), (1, 4, 10));
        // The range that was left out leaves with what is around it.
        let forced = RewindAsk { is_forced: true, ..to_offsets(&[(0, 2)]) };
        sink.rewind(&forced, LATER).await.expect("forced");
        let loaded = world.catalog().load(&world.table()).await.expect("loads");
        assert_eq!(offsets::skipped(&loaded.metadata), (Vec::new(), 0));
    });
}

#[test]
fn a_table_that_is_ahead_after_a_restore_goes_back_to_the_log() {
    block_on(async {
        let (mut world, mut produced) = begin(804);
        let mut sink = world.sink(1);
        for _ in 0..3 {
            produced.append(&world, 0, &[1, 9], NOW);
            drain(&mut sink, NOW).await;
        }
        // The cluster was restored to an earlier state.
        let log = Arc::new(MemoryLog::default());
        world.log = Arc::clone(&log);
        let mut produced = Produced::default();
        produced.append(&world, 0, &[1, 1, 1, 9, 1], NOW);
        let mut sink = world.sink(1 << 32);
        match sink.run_once(NOW).await {
            Outcome::Paused(reason @ PauseReason::Ahead { .. }) => {
                assert!(reason.to_string().contains("iceberg rewind"), "{reason}")
            }
            outcome => panic!("{outcome:?}"),
        }
        let done = sink.rewind(&to(RewindTo::Log), NOW).await.expect("taken back");
        assert_eq!(steps(&done), [(0, 8, 5, 0)]);
        produced.append(&world, 0, &[9, 1], NOW);
        drain(&mut sink, NOW).await;
        produced.check(&world, "restored").await;
    });
}

#[test]
fn a_restored_topic_takes_its_tables_back_also_when_new_records_have_filled_the_gap() {
    block_on(async {
        for fault in [None, Some(Fault::CrashBefore), Some(Fault::CrashAfter), Some(Fault::LostAnswer)] {
            for step in 1..if fault.is_some() { 40 } else { 2 } {
                let (mut world, mut produced) = begin(830);
                let mut sink = world.sink(1);
                for _ in 0..3 {
                    produced.append(&world, 0, &[1, 9], NOW);
                    drain(&mut sink, NOW).await;
                }
                // The cluster went back to a cut with three records, and has ten by the time the table is looked at.
                world.log = Arc::new(MemoryLog::default());
                let mut produced = Produced::default();
                produced.append(&world, 0, &[1, 1, 1], NOW);
                produced.append(&world, 0, &[9, 2, 1, 1, 9, 2, 1], NOW);
                let sink_of = |world: &mut World, epoch: u64| {
                    let restored = Some(RestoredEnds { lineage: 2, ends: at(&[(0, 3)]) });
                    let config = SinkConfig { restored, ..world.config((2 << 32) | epoch) };
                    world.sink_with(config)
                };
                if let Some(fault) = fault {
                    world.store.arm(world.store.steps() + step, fault);
                }
                drop(sink_of(&mut world, 1).run_once(NOW).await);
                world.store.calm();
                drain(&mut sink_of(&mut world, 2), NOW).await;
                produced.check(&world, &format!("{fault:?} at step {step}")).await;
                // What comes later is beyond those ends, and stays.
                produced.append(&world, 0, &[1, 9], NOW);
                drain(&mut sink_of(&mut world, 3), NOW).await;
                produced.check(&world, &format!("{fault:?} at step {step}, later")).await;
            }
        }
    });
}

#[test]
fn other_writers_meanwhile_only_make_it_look_again() {
    block_on(async {
        let mut world = World::new(805);
        for _ in 0..4 {
            world.log.append(0, 6, NOW);
            drain(&mut world.sink(1), NOW).await;
        }
        let config = world.config(1);
        let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 1 };
        let bounds = Bounds { compact_quiet_ms: 0, compact_files: 2, ..Bounds::default() };
        let names = Names::seeded(world.seed << 33);
        let mut compactor = Compactor::new(world.catalog(), world.table(), owner, names, bounds);
        let compacted = async move { compactor.run(LATER, |_| {}).await.map(drop).expect("compacted") };
        let fault = doubles::Fault::Before(std::sync::Mutex::new(Some(Box::pin(compacted))));
        let catalog = Arc::new(Faulty { inner: world.catalog(), fault });
        let mut sink = TableSink::new(config, catalog, world.log.clone(), Names::seeded(7));
        let done = sink.rewind(&to_offsets(&[(0, 9)]), NOW).await.expect("taken back");
        assert_eq!((done.leaving.rows, done.leaving.files, done.leaving.rewritten), (15, 1, 1), "of the large file");
        assert_eq!(world.rows().await, world.expected()[..9]);
        drain(&mut sink, NOW).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn taking_back_can_be_cut_off_at_any_step() {
    block_on(async {
        for step in 1_u64.. {
            let mut is_past = true;
            for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::LostAnswer] {
                let (mut world, mut produced) = begin(806);
                let mut sink = world.sink(1);
                for _ in 0..2 {
                    produced.append(&world, 0, &[1, 9, 2, 10], NOW);
                    drain(&mut sink, NOW).await;
                }
                world.store.arm(world.store.steps() + step, fault);
                let done = sink.rewind(&to_offsets(&[(0, 4)]), NOW).await;
                is_past &= done.is_ok() && world.store.fault_is_ahead();
                world.store.calm();
                let context = format!("{step} {fault:?}");
                if done.is_ok() {
                    produced.check_taken(&world, &context).await;
                }
                drain(&mut world.sink(2), NOW).await;
                produced.check(&world, &context).await;
            }
            if is_past {
                assert!(step > 15, "{step} steps");
                return;
            }
        }
    });
}

#[test]
fn random_histories_with_returns_keep_each_record_once() {
    for seed in 0..cases(8) {
        block_on(async {
            let (mut world, mut produced) = begin(820 + seed);
            let mut random = Random::new(seed);
            let mut sink = world.sink(1);
            drain(&mut sink, NOW).await;
            for round in 0..10 {
                let context = format!("seed {seed}, round {round}");
                produced.append_random(&world, &mut random, 6, NOW);
                match random.below(4) {
                    0 => {}
                    1 => drop(sink.run_once(NOW).await),
                    _ => drain(&mut sink, NOW).await,
                }
                let ends = world.log.ends();
                let held = sink.status().partitions.clone();
                let mut target = Vec::new();
                for (at, end) in &ends {
                    let is_held = held.get(&PartitionIndex(*at)).is_some_and(|held| held.table.get() > 0);
                    if is_held && random.below(2) == 0 {
                        target.push((*at, random.below(*end as usize + 1) as u64));
                    }
                }
                if random.below(3) == 0 && !target.is_empty() {
                    sink.rewind(&to_offsets(&target), NOW).await.unwrap_or_else(|error| panic!("{context}: {error}"));
                    produced.check_taken(&world, &context).await;
                }
            }
            drain(&mut sink, NOW).await;
            produced.check(&world, &format!("seed {seed}")).await;
        });
    }
}
