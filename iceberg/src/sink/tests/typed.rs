//! Tables whose columns follow the schemas of values: each record in one of two tables, once, also when any step fails.

use futures::executor::block_on;
use iceberg::spec::{MAIN_BRANCH, Snapshot, SnapshotReference, SnapshotRetention};
use iceberg::{TableRequirement, TableUpdate};

use super::*;
use crate::columns::fixture::{Cell, Random};
use crate::commit::offsets::DEAD_LETTERS_REACHED;
use crate::mode::TableMode;
use crate::registry::WriterSchema;

mod compacted;
mod conflicts;
mod detached;
mod expiry;
mod files;
mod found;
mod keys;
mod letters;
mod modes;
mod partitioned;
mod rewound;
mod sorted;

use letters::{
    AVRO, CONFLICT, LOST, PROTOBUF, Produced, RECURSIVE, UNKNOWN, dead_rows, framed, register_all, schema, typed_rows,
};

/// A world with its registry filled, and one record of the first version so that conflicts have something to conflict
/// with.
fn begin(seed: u64) -> (World, Produced) {
    let (world, mut produced) = (World::typed(seed), Produced::default());
    register_all(&world.registry);
    produced.append(&world, 0, &[1, 1], NOW);
    (world, produced)
}

/// The top-level columns of the topic's table.
async fn columns(world: &World) -> Vec<(i32, String)> {
    let loaded = world.catalog().load(&world.table()).await.expect("loads");
    let fields = loaded.metadata.current_schema().as_struct().fields().to_vec();
    fields.iter().map(|field| (field.id, field.name.clone())).collect()
}

#[test]
fn rows_of_many_schemas_share_files_and_what_is_no_row_is_a_dead_letter() {
    block_on(async {
        let (mut world, mut produced) = begin(200);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        assert_eq!(columns(&world).await, [(1, "tidewater"), (12, "id"), (13, "customer"), (14, "amount")].map(own));
        // All columns are there: one turn takes all schemas into one file, and all dead letters into another.
        for id in [2, 3, 4, 5, 8] {
            produced.append(&world, 0, &[id], NOW);
            drain(&mut sink, NOW).await;
        }
        produced.append(&world, 0, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 14, 15, 4, 3, 2, 1, 0], NOW);
        let outcome = sink.run_once(NOW).await;
        assert!(matches!(outcome, Outcome::Committed { rows: 12, files: 1, more: false }), "{outcome:?}");
        produced.check(&world, "all schemas").await;
        let status = sink.status();
        assert_eq!((status.dead_letters, status.dead_rows), (10, Some(10)));
        let last = status.last_dead.as_ref().expect("has some");
        assert_eq!((last.partition, last.offset.get()), (PartitionIndex(0), 13), "the first of that commit: {last:?}");
        let reasons: Vec<_> = dead_rows(&world).await.into_values().map(|(_, why, id)| (id, why)).collect();
        for (id, part) in [
            (Some(CONFLICT.0 as i32), "column amount is long; the schema has string there"),
            (Some(RECURSIVE.0 as i32), "type Tree contains itself"),
            (Some(LOST as i32), "the schema is not valid: lost.proto is not in the registry"),
            (Some(PROTOBUF.0 as i32), "no index of a message follows"),
            (Some(PROTOBUF.0 as i32), "message 2: the schema is not valid: its file has no message 2"),
            (Some(PROTOBUF.0 as i32), "message 1: a field has no number"),
            (Some(UNKNOWN as i32), "schema 99 is not in the registry"),
            (None, "it does not begin with the id of a schema"),
            (Some(1), "the value ends too early"),
            (Some(1), "1 bytes follow the value"),
        ] {
            assert!(reasons.iter().any(|(held, why)| *held == id && why.contains(part)), "{part}: {reasons:?}");
        }
        assert!(matches!(sink.run_once(NOW).await, Outcome::Idle));
    });
}

fn own((id, name): (i32, &str)) -> (i32, String) {
    (id, name.to_owned())
}

#[test]
fn a_schema_that_changes_the_table_ends_the_turn_before_it() {
    block_on(async {
        let (mut world, mut produced) = begin(201);
        produced.append(&world, 0, &[1, 1, 2, 1, 2, 4, 1], NOW);
        produced.append(&world, 1, &[1, 1, 1], NOW);
        let mut sink = world.sink(1);
        // Four of partition 0 and all of partition 1; then the rest, for which the empty turn changes the table twice.
        for (rows, more) in [(7, true), (5, false)] {
            let outcome = sink.run_once(NOW).await;
            assert!(
                matches!(outcome, Outcome::Committed { rows: r, more: m, .. } if (r, m) == (rows, more)),
                "{rows}: {outcome:?}"
            );
        }
        produced.check(&world, "two turns").await;
    });
}

#[test]
fn a_registry_that_is_away_stops_only_what_needs_it_and_loses_nothing() {
    block_on(async {
        let (mut world, mut produced) = begin(202);
        let mut sink = world.sink(1);
        world.registry.set_away(true);
        let outcome = sink.run_once(NOW).await;
        assert!(matches!(outcome, Outcome::Failed(SinkError::Schemas(_))), "{outcome:?}");
        assert!(typed_rows(&world).await.is_empty() && dead_rows(&world).await.is_empty());
        // Tombstones and what has no schema need no registry.
        produced.append(&world, 1, &[0, 10, 0, 1], NOW);
        let outcome = sink.run_once(NOW).await;
        assert!(matches!(outcome, Outcome::Committed { rows: 2, .. }), "{outcome:?}");
        assert_eq!(sink.status().unreadable.len(), 2);
        assert_eq!(sink.status().held_by().into_iter().collect::<Vec<_>>(), [HeldBy::Registry]);
        world.registry.set_away(false);
        drain(&mut sink, NOW).await;
        assert!(sink.status().held_by().is_empty());
        // What is known already needs no registry either.
        world.registry.set_away(true);
        produced.append(&world, 0, &[1, 1], NOW);
        drain(&mut sink, NOW).await;
        produced.check(&world, "away and back").await;
    });
}

#[test]
fn an_id_that_is_registered_later_makes_rows_of_later_records_only() {
    block_on(async {
        let (mut world, mut produced) = begin(203);
        produced.append(&world, 0, &[9, 1], NOW);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        produced.check(&world, "unknown").await;
        world.registry.register(UNKNOWN, WriterSchema::Avro(schema(AVRO[0].1)));
        let value = framed(UNKNOWN, &[2, 2, b'x', 4]);
        world.log.append_record(1, tidewater_storage::model::record::Record::new(NOW, None, Some(value)));
        drain(&mut sink, NOW).await;
        assert_eq!(dead_rows(&world).await.keys().collect::<Vec<_>>(), [&(0, 2)]);
        assert!(typed_rows(&world).await.contains_key(&(1, 0)));
    });
}

#[test]
fn ids_that_no_schema_has_are_asked_for_once_in_a_backlog() {
    block_on(async {
        let (mut world, mut produced) = begin(210);
        drain(&mut world.sink(1), NOW).await;
        // 40 batches, each with 20 of the same 30 ids: more than a read of the log gives, and more than a turn holds.
        for batch in 0..40_u32 {
            let made = (0..20).map(|n| {
                let value = framed(1_000 + (batch + n) % 30, &[7; 200]);
                tidewater_storage::model::record::Record::new(NOW, None, Some(value))
            });
            world.log.append_records(0, made.collect::<Vec<_>>());
        }
        let mut config = world.config(2);
        config.turn_bytes = 40_000;
        let (mut sink, before) = (world.sink_with(config), world.registry.asked());
        drain(&mut sink, NOW).await;
        assert!(sink.status().commits > 3, "{} turns", sink.status().commits);
        assert_eq!((sink.status().dead_letters, world.registry.asked() - before), (800, 30));
        // A record that came after the answer: the id may have a schema by now.
        produced.append(&world, 1, &[1], NOW);
        world
            .log
            .append_records(0, [tidewater_storage::model::record::Record::new(NOW, None, Some(framed(1_000, &[7])))]);
        let before = world.registry.asked();
        drain(&mut sink, NOW).await;
        assert_eq!((sink.status().dead_letters, world.registry.asked() - before), (801, 2), "1000, and schema 1");
    });
}

#[test]
fn a_table_that_goes_back_is_filled_again_and_its_dead_letters_stay_dead() {
    block_on(async {
        let (mut world, mut produced) = begin(204);
        let mut sink = world.sink(1);
        for n in 0..4 {
            produced.append(&world, n % 2, &[1, 9, 2, 10, 9], NOW);
            drain(&mut sink, NOW).await;
        }
        // By now its values could be read.
        world.registry.register(UNKNOWN, WriterSchema::Json(schema(r#"{"type":"string"}"#)));
        roll_back(&world, &world.table(), 1).await;
        let mut sink = world.sink(2);
        drain(&mut sink, NOW).await;
        produced.check(&world, "rolled back").await;
        // The same sink has an idea of the table that is gone.
        for purge in [true, false] {
            world.catalog().drop_table(&world.table(), purge).await.expect("dropped");
            produced.append(&world, 0, &[1, 10], NOW);
            drain(&mut sink, NOW).await;
            produced.check(&world, "dropped").await;
        }
    });
}

/// Moves main of a table back to its snapshot number `n`.
async fn roll_back(world: &World, table: &TableIdent, n: usize) {
    let catalog = world.catalog();
    let loaded = catalog.load(table).await.expect("loads");
    let mut snapshots: Vec<_> = loaded.metadata.snapshots().collect();
    snapshots.sort_by_key(|snapshot| snapshot.sequence_number());
    let (ref_name, retention) = (MAIN_BRANCH.to_owned(), SnapshotRetention::branch(None, None, None));
    let reference = SnapshotReference::new(snapshots[n].snapshot_id(), retention);
    let back = vec![TableUpdate::SetSnapshotRef { ref_name, reference }];
    let uuid = vec![TableRequirement::UuidMatch { uuid: loaded.metadata.uuid() }];
    catalog.commit(table, uuid, back).await.expect("rolled back");
}

#[test]
fn after_a_restore_dead_letters_above_the_table_are_not_taken_for_those_of_new_records() {
    block_on(async {
        let (mut world, mut produced) = begin(209);
        let mut sink = world.sink(1);
        for _ in 0..3 {
            produced.append(&world, 0, &[1, 9], NOW);
            drain(&mut sink, NOW).await;
        }
        roll_back(&world, &world.table(), 1).await;
        let mut sink = world.sink(1 << 32);
        match sink.run_once(NOW).await {
            Outcome::Paused(PauseReason::Unfit { detail, .. }) => assert!(detail.contains("Roll it back"), "{detail}"),
            other => panic!("{other:?}"),
        }
        roll_back(&world, &dead_letter_table(&world.table()), 1).await;
        let mut sink = world.sink(1 << 32);
        drain(&mut sink, NOW).await;
        produced.check(&world, "restored").await;
    });
}

/// How far dead letters reach says which offsets stay dead: a guess would make rows of them.
#[test]
fn a_table_of_dead_letters_whose_reach_cannot_be_read_stops_its_topic() {
    block_on(async {
        let (mut world, mut produced) = begin(210);
        let mut sink = world.sink(1);
        produced.append(&world, 0, &[1, 9], NOW);
        drain(&mut sink, NOW).await;
        let dead = dead_letter_table(&world.table());
        roll_back(&world, &dead, 0).await;
        let loaded = world.catalog().load(&dead).await.expect("loads");
        let snapshot = loaded.metadata.current_snapshot().expect("one").as_ref().clone();
        let mut properties = snapshot.summary().clone();
        properties.additional_properties.insert(DEAD_LETTERS_REACHED.to_owned(), "[1]".to_owned());
        let damaged = Snapshot::builder()
            .with_snapshot_id(77)
            .with_parent_snapshot_id(Some(snapshot.snapshot_id()))
            .with_sequence_number(snapshot.sequence_number() + 1)
            .with_timestamp_ms(snapshot.timestamp_ms() + 1)
            .with_manifest_list(snapshot.manifest_list())
            .with_summary(properties)
            .with_schema_id(loaded.metadata.current_schema_id())
            .build();
        let retention = SnapshotRetention::branch(None, None, None);
        let (ref_name, reference) = (MAIN_BRANCH.to_owned(), SnapshotReference::new(77, retention));
        let updates =
            vec![TableUpdate::AddSnapshot { snapshot: damaged }, TableUpdate::SetSnapshotRef { ref_name, reference }];
        let uuid = vec![TableRequirement::UuidMatch { uuid: loaded.metadata.uuid() }];
        world.catalog().commit(&dead, uuid, updates).await.expect("committed");
        produced.append(&world, 0, &[1], NOW);
        match world.sink(2).run_once(NOW).await {
            Outcome::Paused(PauseReason::Unfit { detail, .. }) => {
                assert!(detail.contains(DEAD_LETTERS_REACHED), "{detail}")
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_table_of_dead_letters_that_is_dropped_is_made_again() {
    block_on(async {
        let (mut world, mut produced) = begin(205);
        let mut sink = world.sink(1);
        let dead = dead_letter_table(&world.table());
        produced.append(&world, 0, &[9, 10], NOW);
        drain(&mut sink, NOW).await;
        world.catalog().drop_table(&dead, true).await.expect("dropped");
        produced.append(&world, 0, &[1, 9], NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(dead_rows(&world).await.keys().collect::<Vec<_>>(), [&(0, 5)]);
        // A topic that is deleted takes both along.
        sink.drop_table().await.expect("dropped");
        for table in [dead, world.table()] {
            assert!(matches!(world.catalog().load(&table).await, Err(CatalogError::NoSuchTable(_))), "{table}");
        }
        assert!(!world.store.keys().iter().any(|(key, _)| key.ends_with(".parquet")));
    });
}

#[test]
fn both_tables_say_whether_they_go_with_the_topic() {
    block_on(async {
        let (mut world, mut produced) = begin(206);
        let mut sink = world.sink(1);
        produced.append(&world, 0, &[9], NOW);
        for delete in [false, true, false, true] {
            sink.set_delete(delete);
            produced.append(&world, 0, &[1], NOW);
            drain(&mut sink, NOW).await;
            for table in [world.table(), dead_letter_table(&world.table())] {
                let loaded = world.catalog().load(&table).await.expect("loads");
                assert_eq!(identity::goes_with_topic(&loaded.metadata), delete, "{table}");
                assert!(is_under_own_name(&table, loaded.metadata.properties()));
            }
        }
        sink.unmark().await.expect("unmarked");
        let dead = world.catalog().load(&dead_letter_table(&world.table())).await.expect("loads");
        assert!(!identity::goes_with_topic(&dead.metadata));
    });
}

#[test]
fn a_table_of_keys_and_values_becomes_typed_and_keeps_its_value() {
    block_on(async {
        let mut world = World::new(207);
        register_all(&world.registry);
        world.log.append(0, 3, NOW);
        drain(&mut world.sink(1), NOW).await;
        world.mode = TableMode::ValueSchemaIdPrefix;
        let mut produced = Produced::default();
        produced.append(&world, 0, &[1, 9, 2], NOW);
        let mut sink = world.sink(2);
        drain(&mut sink, NOW).await;
        let names: Vec<_> = columns(&world).await.into_iter().map(|(id, _)| id).collect();
        assert_eq!(names, [1, 2, 12, 13, 14, 15, 16]);
        let rows = typed_rows(&world).await;
        assert_eq!(rows.len(), 5);
        assert_eq!(rows[&(0, 0)], Cell::Struct([("value".to_owned(), Cell::Bytes(b"0/0".to_vec()))].into()));
        assert!(matches!(&rows[&(0, 3)], Cell::Struct(cells) if !cells.contains_key("value") && cells.len() == 3));
        // And back: its value is there.
        world.mode = TableMode::KeyValue;
        world.log.append(1, 2, NOW);
        drain(&mut world.sink(3), NOW).await;
        assert_eq!(typed_rows(&world).await.len(), 7);
    });
}

#[test]
fn a_typed_table_without_a_value_is_no_table_of_keys_and_values() {
    block_on(async {
        let (mut world, mut produced) = begin(208);
        drain(&mut world.sink(1), NOW).await;
        world.mode = TableMode::KeyValue;
        produced.append(&world, 0, &[1], NOW);
        let mut sink = world.sink(2);
        match sink.run_once(NOW).await {
            Outcome::Paused(PauseReason::Unfit { detail, .. }) => {
                assert!(detail.contains("set the mode back"), "{detail}")
            }
            other => panic!("{other:?}"),
        }
        world.mode = TableMode::ValueSchemaIdPrefix;
        drain(&mut world.sink(3), NOW).await;
        produced.check(&world, "mode and back").await;
    });
}

#[test]
fn however_little_a_turn_may_hold_each_record_is_in_one_table() {
    block_on(async {
        for seed in 0..12 {
            let (mut world, mut produced) = begin(500 + seed);
            drain(&mut world.sink(1), NOW).await;
            let mut random = Random::new(seed);
            for _ in 0..12 {
                let hour = random.below(5) as i64;
                produced.append_random(&world, &mut random, 6, NOW.plus_ms(hour * 3_600_000));
            }
            let mut config = world.config(2);
            config.turn_bytes = 3_000 + 2_000 * usize::try_from(seed).expect("small");
            config.turn_files = 1 + random.below(4);
            let most = config.turn_files;
            let mut sink = world.sink_with(config);
            for turn in 0.. {
                assert!(turn < 1_000, "never idle: {:?}", sink.status());
                match sink.run_once(NOW).await {
                    Outcome::Idle => break,
                    Outcome::Committed { files, .. } => assert!(files <= most, "{files} files"),
                    other => panic!("{other:?}"),
                }
            }
            produced.check(&world, &format!("seed {seed}")).await;
        }
    });
}

/// What a round produces: schemas that change the table, and dead letters.
fn fill_typed(world: &World, produced: &mut Produced, round: i64) {
    let at = NOW.plus_ms(round * 3_600_000);
    match round {
        0 => produced.append(world, 0, &[1, 1, 9], at),
        1 => {
            produced.append(world, 0, &[2, 10, 1, 4], at);
            produced.append(world, 1, &[1, 6, 2], at);
        }
        2 => produced.append(world, 1, &[0, 1, 5, 3], at),
        _ => {
            produced.append(world, 0, &[4, 11, 12, 7, 2], at);
            produced.append(world, 2, &[8, 1, 0], NOW);
        }
    }
}

/// What produces a round of four.
type Fill = fn(&World, &mut Produced, i64);

/// Runs the work with faults, restarting the process whenever it dies, and checks both tables.
fn run_typed(world: &mut World, context: &str, fill: Fill) {
    block_on(async {
        let mut produced = Produced::default();
        register_all(&world.registry);
        let mut epoch = 1;
        let mut sink = world.sink(epoch);
        for round in 0..4 {
            fill(world, &mut produced, round);
            for turn in 0.. {
                assert!(turn < 500, "{context}: never idle: {:?}", sink.status());
                let outcome = sink.run_once(NOW).await;
                if world.store.is_dead() {
                    world.store.revive();
                    epoch += 1;
                    sink = world.sink(epoch);
                } else if matches!(outcome, Outcome::Idle) {
                    break;
                } else if let Outcome::Paused(reason) = outcome {
                    panic!("{context}: paused: {reason}");
                }
            }
        }
        world.store.calm();
        produced.check(world, context).await;
    });
}

#[test]
fn a_fault_at_any_single_step_neither_doubles_nor_loses_in_either_table() {
    fail_at_each_step(&|| World::typed(300), fill_typed);
}

fn fail_at_each_step(make: &dyn Fn() -> World, fill: Fill) {
    let mut calm = make();
    run_typed(&mut calm, "calm", fill);
    let steps = calm.store.steps();
    assert!(steps > 80, "the work has steps to fail at: {steps}");
    for step in 1..=steps {
        for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Refused, Fault::LostAnswer] {
            let mut world = make();
            world.store.arm(step, fault);
            run_typed(&mut world, &format!("{fault:?} at step {step} of {steps}"), fill);
        }
    }
}

#[test]
fn many_faults_neither_double_nor_lose_in_either_table() {
    for seed in 0..150 {
        let mut world = World::typed(seed * 1000);
        world.store.arm_random(seed, 5 + seed % 100);
        run_typed(&mut world, &format!("seed {seed}"), fill_typed);
    }
}

/// Two processes of the same epoch that disagree about what is a row: one has a registry that lacks schemas.
#[test]
fn two_writers_that_disagree_about_a_record_put_it_into_one_table() {
    block_on(async {
        for seed in 0..80 {
            let (mut world, mut produced) = begin(seed * 1000);
            let full = world.registry.clone();
            let poor = Arc::new(crate::fixture::MemoryRegistry::default());
            for (id, text) in [AVRO[0], AVRO[3]] {
                poor.register(id, WriterSchema::Avro(schema(text)));
            }
            let registries = [full, poor];
            let rival = |world: &mut World, at: usize| {
                world.registry = registries[at].clone();
                world.sink(1)
            };
            let mut sinks = [rival(&mut world, 0), rival(&mut world, 1)];
            let mut random = Random::new(seed);
            drain(&mut sinks[0], NOW).await;
            world.store.arm_random(seed, 40);
            for turn in 0..60 {
                if turn % 3 == 0 {
                    produced.append_random(&world, &mut random, 4, NOW);
                }
                let at = random.below(2);
                let _ = sinks[at].run_once(NOW).await;
                if world.store.is_dead() {
                    world.store.revive();
                    sinks[at] = rival(&mut world, at);
                }
            }
            world.store.calm();
            for at in [1, 0] {
                drain(&mut sinks[at], NOW).await;
            }
            let dead = dead_rows(&world).await;
            let is_dead = |at: (i32, u64), fate: &letters::Fate| match fate {
                letters::Fate::Dead => true,
                letters::Fate::Row(_) => dead.contains_key(&at),
            };
            produced.check_with(&world, &format!("seed {seed}"), &is_dead).await;
        }
    });
}
