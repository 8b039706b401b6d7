//! Turns of a sink: what reaches the table, what is left out, and crashes between any two steps.
#![allow(clippy::panic)]

use futures::executor::block_on;
use iceberg::TableUpdate;
use iceberg::spec::{NestedField, Schema, StructType, Type};
use tidewater_storage::model::TimestampMs;
use tidewater_tiering::store::{ObjectKey, ObjectStore, PutMode};

use super::table::LOOK_AGAIN_MS;
use super::*;
use crate::commit::identity;
use crate::fixture::{Fault, World};

mod adopted;
mod caps;
mod client_sized;
mod doubles;
mod flat;
mod named;
mod partitioned;
mod typed;

use doubles::Faulty;

const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

/// Turns until nothing is left; panics if that takes too long.
async fn drain(sink: &mut TableSink, now: TimestampMs) {
    for _ in 0..200 {
        match sink.run_once(now).await {
            Outcome::Idle => return,
            Outcome::Paused(reason) => panic!("paused: {reason}"),
            _ => {}
        }
    }
    panic!("never idle: {:?}", sink.status());
}

fn fill(world: &World) {
    for n in 0..6 {
        world.log.append(0, 3 + n, NOW);
        world.log.append(1, 2, NOW.plus_ms(i64::try_from(n).unwrap_or(0) * 3_600_000));
    }
}

#[test]
fn everything_once_and_in_the_right_place() {
    block_on(async {
        let mut world = World::new(1);
        fill(&world);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        assert_eq!(world.rows().await, world.expected());
        assert_eq!(sink.status().lag(), 0);
        world.log.append(2, 5, NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(world.rows().await, world.expected());
        assert_eq!(sink.status().partitions[&PartitionIndex(2)].table.get(), 5);
    });
}

#[test]
fn turns_begin_so_early_that_they_end_within_the_target_lag() {
    block_on(async {
        let mut world = World::new(3);
        let config = SinkConfig { target_lag_ms: 10_000, ..world.config(1) };
        let mut sink = world.sink_with(config);
        world.log.append(0, 1, NOW);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { .. }), "the first does not wait");
        world.log.append(0, 1, NOW);
        for (took, begins) in [(0, 10_000), (800, 9_000), (60_000, 5_000)] {
            sink.expect_turn_ms(took);
            let until = NOW.plus_ms(begins);
            assert!(matches!(sink.run_once(NOW).await, Outcome::Wait { until: at } if at == until), "{took}");
        }
        assert!(matches!(sink.run_once(NOW.plus_ms(5_000)).await, Outcome::Committed { .. }));
    });
}

#[test]
fn a_backlog_is_taken_in_bounded_turns() {
    block_on(async {
        let mut world = World::new(2);
        for _ in 0..50 {
            world.log.append(0, 20, NOW);
            world.log.append(1, 20, NOW);
        }
        let mut config = world.config(1);
        config.turn_bytes = 8_000;
        let mut sink = world.sink_with(config.clone());
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { more: true, .. }));
        // Another process continues where the table ends.
        let mut sink = world.sink_with(config);
        drain(&mut sink, NOW).await;
        assert!(sink.status().commits >= 2, "{} commits", sink.status().commits);
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn waits_for_the_target_lag() {
    block_on(async {
        let mut world = World::new(3);
        fill(&world);
        let mut config = world.config(1);
        config.target_lag_ms = 30_000;
        let mut sink = world.sink_with(config);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { .. }));
        world.log.append(0, 1, NOW);
        assert!(matches!(sink.run_once(NOW.plus_ms(29_999)).await, Outcome::Wait { .. }));
        assert!(matches!(sink.run_once(NOW.plus_ms(30_000)).await, Outcome::Committed { rows: 1, .. }));
    });
}

#[test]
fn a_clock_set_back_stops_nothing() {
    block_on(async {
        let mut world = World::new(12);
        fill(&world);
        let mut config = world.config(1);
        config.target_lag_ms = 30_000;
        let mut sink = world.sink_with(config);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { .. }));
        let back = NOW.plus_ms(-86_400_000);
        world.log.append(0, 1, NOW);
        for wait in [0, 10_000, 29_999] {
            let outcome = sink.run_once(back.plus_ms(wait)).await;
            assert!(matches!(outcome, Outcome::Wait { until } if until == back.plus_ms(30_000)), "{outcome:?}");
        }
        assert!(matches!(sink.run_once(back.plus_ms(30_000)).await, Outcome::Committed { rows: 1, .. }));
        // Nor does it keep from looking at the table.
        world.catalog().drop_table(&world.table(), true).await.expect("dropped");
        sink.set_target_lag_ms(0);
        drain(&mut sink, back.plus_ms(-1000)).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn what_cannot_be_decoded_is_left_out_by_name_and_the_rest_goes_on() {
    block_on(async {
        let mut world = World::new(4);
        world.log.append(0, 4, NOW);
        world.log.append(0, 3, NOW);
        world.log.damage_last(0);
        world.log.append(0, 2, NOW);
        world.log.append(1, 6, NOW);
        world.log.trim(1, 2);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        let offsets: Vec<_> = world.rows().await.into_iter().map(|(p, o, _)| (p, o)).collect();
        let wanted = [0, 1, 2, 3, 7, 8].map(|o| (0, o)).into_iter().chain([2, 3, 4, 5].map(|o| (1, o)));
        assert_eq!(offsets, wanted.collect::<Vec<_>>());
        // Another process still knows.
        let mut sink = world.sink(2);
        drain(&mut sink, NOW).await;
        assert_eq!(sink.status().skipped_offsets, 3);
        assert_eq!((sink.status().skipped[0].start, sink.status().skipped[0].end), (4, 7));
        // Retention that overtakes the table is a loss, and is named.
        world.log.append(1, 4, NOW);
        world.log.trim(1, 8);
        drain(&mut sink, NOW).await;
        assert_eq!(sink.status().skipped_offsets, 5);
    });
}

#[test]
fn another_clusters_table_is_not_touched() {
    block_on(async {
        let mut world = World::new(5);
        fill(&world);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        let rows = world.rows().await;
        let mut other = world.config(9);
        other.cluster = Uuid::from_u128(8);
        let mut sink = world.sink_with(other);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Paused(PauseReason::Foreign(_))));
        assert!(sink.drop_table().await.is_err());
        assert!(sink.status().paused.is_some());
        assert_eq!(world.rows().await, rows);
    });
}

#[test]
fn a_table_that_takes_the_name_while_ours_is_dropped_stays() {
    block_on(async {
        let mut world = World::new(11);
        fill(&world);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        world.seed += 100;
        let catalog = Arc::new(Faulty { inner: world.catalog(), fault: doubles::Fault::Swapped });
        let mut sink = TableSink::new(world.config(2), catalog, world.log.clone(), Names::seeded(1));
        sink.drop_table().await.expect("ours has gone already");
        let there = world.catalog().load(&world.table()).await.expect("another's table is there");
        assert!(TableOwner::of(&there.metadata).is_none());
        // Without such a thing ours goes.
        world.catalog().drop_table(&world.table(), true).await.expect("dropped");
        let mut sink = world.sink(3);
        drain(&mut sink, NOW).await;
        sink.drop_table().await.expect("dropped");
        assert!(matches!(world.catalog().load(&world.table()).await, Err(CatalogError::NoSuchTable(_))));
    });
}

#[test]
fn an_old_writer_is_fenced_and_two_writers_never_double() {
    block_on(async {
        let mut world = World::new(6);
        fill(&world);
        let (mut old, mut new) = (world.sink(1), world.sink(2));
        // Both have seen the empty table.
        assert!(matches!(old.run_once(NOW).await, Outcome::Committed { .. }));
        world.log.append(0, 5, NOW);
        drain(&mut new, NOW).await;
        world.log.append(0, 5, NOW);
        // Its idea of the table is stale: it must neither commit nor double.
        assert!(matches!(old.run_once(NOW).await, Outcome::Paused(PauseReason::Fenced { found: 2, ours: 1, .. })));
        drain(&mut new, NOW).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn a_table_that_a_user_drops_is_made_anew_and_filled_from_the_log() {
    block_on(async {
        let mut world = World::new(7);
        fill(&world);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        for purge in [false, true] {
            world.catalog().drop_table(&world.table(), purge).await.expect("dropped");
            world.log.append(0, 3, NOW);
            drain(&mut sink, NOW).await;
            assert_eq!(world.rows().await, world.expected());
        }
        // With an append whose answer was lost, too: it never reaches the new table.
        for step in 1..=12 {
            world.log.append(1, 4, NOW);
            world.store.arm(world.store.steps() + step, Fault::LostAnswer);
            sink.run_once(NOW).await;
            world.store.calm();
            let old = TableIdent::from_strs(["topics", &format!("old-{step}")]).expect("legal");
            world.catalog().rename(&world.table(), &old).await.expect("renamed");
            world.log.append(0, 1, NOW);
            drain(&mut sink, NOW).await;
            assert_eq!(world.rows().await, world.expected(), "step {step}");
        }
        // A table nothing is added to is looked at now and then.
        world.catalog().drop_table(&world.table(), true).await.expect("dropped");
        assert!(matches!(sink.run_once(NOW.plus_ms(1000)).await, Outcome::Idle));
        drain(&mut sink, NOW.plus_ms(LOOK_AGAIN_MS)).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn a_table_whose_offsets_a_user_dropped_gets_no_rows() {
    block_on(async {
        let mut world = World::new(71);
        fill(&world);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        let before = world.catalog().load(&world.table()).await.expect("loads").metadata;
        let top = before.current_schema().as_struct().fields().iter().cloned().map(|field| match &*field.field_type {
            Type::Struct(inner) => {
                let left = inner.fields().iter().filter(|inside| inside.name != "offset").cloned().collect();
                let kind = Type::Struct(StructType::new(left));
                NestedField::new(field.id, field.name.clone(), kind, field.required).into()
            }
            _ => field,
        });
        let schema = Schema::builder().with_fields(top).build().expect("a schema");
        let updates = vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
        world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
        world.log.append(0, 3, NOW);
        for sink in [&mut sink, &mut world.sink(2)] {
            let outcome = sink.run_once(NOW.plus_ms(LOOK_AGAIN_MS)).await;
            match outcome {
                Outcome::Paused(PauseReason::Unfit { detail, .. }) => {
                    assert!(detail.contains("partition and offset (field ids 3 and 4)"), "{detail}");
                }
                outcome => panic!("{outcome:?}"),
            }
        }
        let after = world.catalog().load(&world.table()).await.expect("loads").metadata;
        assert_eq!(after.current_snapshot_id(), before.current_snapshot_id());
    });
}

#[test]
fn an_append_that_can_never_succeed_is_given_up_with_its_files() {
    block_on(async {
        let world = World::new(8);
        fill(&world);
        let catalog = Arc::new(Faulty { inner: world.catalog(), fault: doubles::Fault::Invalid(3.into()) });
        let mut sink = TableSink::new(world.config(1), catalog, world.log.clone(), Names::seeded(1));
        for _ in 0..3 {
            assert!(matches!(sink.run_once(NOW).await, Outcome::Paused(PauseReason::Refused { .. })));
            assert!(!world.store.keys().iter().any(|(key, _)| key.ends_with(".parquet")), "its files are deleted");
        }
        drain(&mut sink, NOW).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn files_of_an_append_that_a_gateway_refused_and_still_carries_out_are_there() {
    block_on(async {
        let mut world = World::new(12);
        fill(&world);
        let inner = world.catalog();
        // The table is made before.
        drain(&mut world.sink(1), NOW).await;
        world.log.append(0, 4, NOW);
        let late = doubles::Fault::Late(std::sync::Mutex::default(), 1.into());
        let catalog = Arc::new(Faulty { inner: Arc::clone(&inner), fault: late });
        let mut sink = TableSink::new(world.config(2), catalog.clone(), world.log.clone(), Names::seeded(1));
        assert!(matches!(sink.run_once(NOW).await, Outcome::Paused(PauseReason::Refused { .. })));
        let doubles::Fault::Late(copy, _) = &catalog.fault else { unreachable!("it is late") };
        let (table, requirements, updates) = copy.lock().expect("no panic").take().expect("was refused");
        inner.commit(&table, requirements, updates).await.expect("carried out");
        assert_eq!(world.rows().await, world.expected());
        drain(&mut sink, NOW).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn the_table_says_whether_it_goes_with_its_topic() {
    block_on(async {
        let mut world = World::new(10);
        fill(&world);
        let mut sink = world.sink(1);
        let marked = async |sink: &mut TableSink, delete: bool| {
            sink.set_delete(delete);
            drain(sink, NOW).await;
            identity::goes_with_topic(&world.catalog().load(&world.table()).await.expect("loads").metadata)
        };
        assert!(!marked(&mut sink, false).await);
        assert!(marked(&mut sink, true).await);
        assert!(!marked(&mut sink, false).await);
        assert!(marked(&mut sink, true).await);
        sink.unmark().await.expect("unmarked");
        assert!(!identity::goes_with_topic(&world.catalog().load(&world.table()).await.expect("loads").metadata));
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn a_partition_that_cannot_be_read_does_not_stop_the_others() {
    block_on(async {
        let mut world = World::new(9);
        fill(&world);
        // The longest backlog comes first, and ends in the middle.
        let readable = 3 + 4 + 5;
        world.log.set_unreadable(0, Some(readable));
        let mut sink = world.sink(1);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { more: false, .. }));
        let there = |p: i32, o: u64| p != 0 || o < readable;
        let wanted: Vec<_> = world.expected().into_iter().filter(|(p, o, _)| there(*p, *o)).collect();
        assert_eq!(world.rows().await, wanted);
        assert_eq!(sink.status().unreadable.keys().collect::<Vec<_>>(), [&PartitionIndex(0)]);
        // Nothing but that partition is left: that is a failure, and commits nothing.
        assert!(matches!(sink.run_once(NOW).await, Outcome::Failed(SinkError::Read(_))));
        world.log.append(1, 7, NOW);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { rows: 7, more: false, .. }));
        world.log.set_unreadable(0, None);
        drain(&mut sink, NOW).await;
        assert_eq!(world.rows().await, world.expected());
        assert!(sink.status().unreadable.is_empty());
    });
}

/// Runs the work with one fault, restarting the process whenever it dies, and checks the table.
fn run_with(world: &mut World) {
    block_on(async {
        let mut epoch = 1;
        let mut sink = world.sink(epoch);
        for round in 0..4 {
            fill(world);
            let now = NOW.plus_ms(round * 60_000);
            for turn in 0.. {
                assert!(turn < 500, "never idle: {:?}", sink.status());
                let outcome = sink.run_once(now).await;
                if world.store.is_dead() {
                    world.store.revive();
                    epoch += 1;
                    sink = world.sink(epoch);
                } else if matches!(outcome, Outcome::Idle) {
                    break;
                } else if let Outcome::Paused(reason) = outcome {
                    panic!("paused: {reason}");
                }
            }
        }
        world.store.calm();
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn a_fault_at_any_single_step_neither_doubles_nor_loses() {
    let mut calm = World::new(100);
    run_with(&mut calm);
    let steps = calm.store.steps();
    assert!(steps > 40, "the work has steps to fail at: {steps}");
    for step in 1..=steps {
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Refused, Fault::LostAnswer] {
            let mut world = World::new(100);
            world.store.arm(step, fault);
            run_with(&mut world);
        }
    }
}

#[test]
fn many_faults_neither_double_nor_lose() {
    for seed in 0..150 {
        let mut world = World::new(seed * 1000);
        world.store.arm_random(seed, 5 + seed % 120);
        run_with(&mut world);
    }
}

/// Two processes that both believe to be the writer, with lost answers: the worst a bad failover brings.
#[test]
fn two_writers_and_lost_answers_neither_double_nor_lose() {
    block_on(async {
        for seed in 0..60 {
            let mut world = World::new(seed * 1000);
            fill(&world);
            // Same epoch: only the offsets keep them apart.
            let mut sinks = [world.sink(1), world.sink(1)];
            world.store.arm_random(seed, 60);
            for turn in 0..60 {
                if turn % 3 == 0 {
                    world.log.append(turn % 2, 2, NOW);
                }
                let at = usize::try_from(turn).unwrap_or(0) % 2;
                let _ = sinks[at].run_once(NOW).await;
                if world.store.is_dead() {
                    world.store.revive();
                    sinks[at] = world.sink(1);
                }
            }
            world.store.calm();
            drain(&mut sinks[1], NOW).await;
            assert_eq!(world.rows().await, world.expected(), "seed {seed}");
        }
    });
}

/// Data files below the table's location and those its snapshots name.
async fn data_files(world: &World) -> (Vec<String>, Vec<String>) {
    let there = world.store.keys().into_iter().map(|(key, _)| key).filter(|key| key.ends_with(".parquet")).collect();
    let catalog = world.catalog();
    let table = catalog.load(&world.table()).await.expect("table loads");
    let mut named = BTreeSet::new();
    for snapshot in table.metadata.snapshots() {
        let list = catalog.files().read(snapshot.manifest_list()).await.expect("list");
        let list = iceberg::spec::ManifestList::parse_with_version(&list, table.metadata.format_version());
        for manifest in list.expect("parses").entries() {
            let manifest = manifest.load_manifest(&catalog.files().io()).await.expect("manifest");
            let paths = manifest.entries().iter().map(|entry| entry.file_path().replace("s3://bucket/", ""));
            named.extend(paths);
        }
    }
    (there, named.into_iter().collect())
}

#[test]
fn what_cut_off_turns_left_is_swept_and_nothing_else() {
    block_on(async {
        let mut world = World::new(77);
        for step in 1..60 {
            world.log.append(0, 2, NOW);
            let mut sink = world.sink(step);
            world.store.arm(world.store.steps() + 1 + step % 12, Fault::CrashAfter);
            for _ in 0..3 {
                sink.run_once(NOW).await;
            }
            world.store.calm();
        }
        let engine = ObjectKey::new("lake/topics/orders/data/hour=1/00000-0-engine.parquet").expect("legal");
        world.store.put(&engine, bytes::Bytes::from_static(b"x"), PutMode::Overwrite).await.expect("put");
        let mut sink = world.sink(100);
        drain(&mut sink, NOW).await;
        let (there, named) = data_files(&world).await;
        assert!(there.len() > named.len() + 1, "crashes left orphans: {} of {}", there.len(), named.len());
        world.log.append(0, 2, NOW);
        let later = NOW.plus_ms(3_600_000);
        drain(&mut sink, later).await;
        let (mut there, named) = data_files(&world).await;
        there.retain(|key| !key.contains("engine"));
        assert_eq!(there, named);
        assert!(sink.status().orphans > 0);
        assert!(world.store.keys().iter().any(|(key, _)| key == engine.as_str()), "an engine's file stays");
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn a_committer_whose_successor_has_committed_deletes_no_file() {
    block_on(async {
        let mut world = World::new(78);
        fill(&world);
        let mut old = world.sink(1);
        drain(&mut old, NOW).await;
        let mut successor = world.sink(2);
        fill(&world);
        drain(&mut successor, NOW).await;
        // The old committer was stopped between its commit and its sweep, for longer than orphans are kept.
        let much_later = NOW.plus_ms(400 * 24 * 3_600_000);
        let swept = old.committer.sweep(much_later).await.expect("sweeps");
        assert_eq!(swept.files, 0);
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn a_committer_whose_replica_lags_behind_the_table_goes_on() {
    block_on(async {
        let mut world = World::new(79);
        fill(&world);
        drain(&mut world.sink(1), NOW).await;
        let held = world.rows().await;
        // The next committer reads another replica, which lags in both partitions.
        [0, 1].iter().for_each(|partition| world.log.set_lag(*partition, 4));
        let mut next = world.sink(2);
        drain(&mut next, NOW).await;
        assert_eq!(world.rows().await, held);
        fill(&world);
        [0, 1].iter().for_each(|partition| world.log.set_lag(*partition, 0));
        drain(&mut next, NOW).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn what_the_store_refuses_for_good_pauses_the_table_at_any_step() {
    block_on(async {
        let steps = {
            let mut world = World::new(80);
            fill(&world);
            let mut sink = world.sink(1);
            let _ = sink.run_once(NOW).await;
            world.store.steps()
        };
        let mut paused = 0;
        for step in 1..=steps {
            let mut world = World::new(80 + step);
            fill(&world);
            world.store.arm(step, Fault::Forbidden);
            let mut sink = world.sink(1);
            match sink.run_once(NOW).await {
                Outcome::Paused(PauseReason::Refused { detail, .. }) => {
                    assert!(detail.contains("File name too long"), "step {step}: {detail}");
                    assert!(sink.status().paused.is_some(), "step {step}");
                    paused += 1;
                }
                // Upkeep that was refused leaves garbage and is only logged.
                Outcome::Committed { .. } => {}
                other => panic!("step {step}: {other:?}"),
            }
            drain(&mut sink, NOW).await;
            assert_eq!(world.rows().await, world.expected(), "step {step}");
        }
        assert!(paused > 10, "{paused} of {steps}");
    });
}

#[test]
fn a_topic_with_the_longest_name_gets_its_table_in_a_directory() {
    let dir = std::env::temp_dir().join(format!("tidewater-long-names-{}", Uuid::new_v4()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("runtime");
    for (n, name) in ["a".repeat(249), ".-_".repeat(83)].into_iter().enumerate() {
        let home = dir.join(n.to_string());
        let store = tidewater_tiering::store::DirectoryStore::open(home.clone(), runtime.handle().clone());
        let warehouse = crate::location::Warehouse::new(&format!("file://{}", home.display()), "lake").expect("legal");
        let files = TableFiles::new(Arc::new(store.expect("opens")), warehouse);
        let catalog = crate::catalog::ObjectStoreCatalog::new(files, Names::random(), [].into());
        let world = World::new(79);
        fill(&world);
        let topic = TopicName::new(&name).expect("legal");
        let config = SinkConfig { target_lag_ms: 0, ..SinkConfig::new(world.cluster, topic, world.topic, 1) };
        let mut sink = TableSink::new(config, Arc::new(catalog), world.log.clone(), Names::random());
        let outcome = runtime.block_on(sink.run_once(NOW));
        assert!(matches!(outcome, Outcome::Committed { rows: 45, .. }), "{outcome:?}");
    }
    std::fs::remove_dir_all(&dir).expect("removed");
}
