//! JSON without a schema: columns are found in the values, and the table keeps what was found.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidewater_storage::model::record::Record;

use super::*;
use crate::mode::ConflictPolicy;

fn append(world: &World, partition: i32, values: &[&str]) {
    let records = values.iter().map(|value| Record::new(NOW, None, Some(Bytes::copy_from_slice(value.as_bytes()))));
    world.log.append_records(partition, records.collect::<Vec<_>>());
}

fn begin(seed: u64) -> World {
    let world = World { mode: TableMode::JsonFound, ..World::new(seed) };
    world.registry.set_away(true);
    world
}

fn strukt(cells: &[(&str, Cell)]) -> Cell {
    Cell::Struct(cells.iter().map(|(name, cell)| ((*name).to_owned(), cell.clone())).collect())
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

async fn names(world: &World) -> Vec<String> {
    columns(world).await.into_iter().skip(1).map(|(_, name)| name).collect()
}

/// Each record is in one of the two tables, once.
async fn check(world: &World, context: &str) {
    let (rows, dead) = (typed_rows(world).await, dead_rows(world).await);
    assert!(rows.keys().all(|at| !dead.contains_key(at)), "{context}: in both tables");
    let there: BTreeSet<_> = rows.keys().chain(dead.keys()).copied().collect();
    let ends = world.log.ends();
    let wanted: BTreeSet<_> = ends.iter().flat_map(|(n, end)| (0..*end).map(|at| (*n, at))).collect();
    assert_eq!(there, wanted, "{context}");
}

#[test]
fn columns_come_with_the_values_and_nothing_is_lost_meanwhile() {
    block_on(async {
        let mut world = begin(280);
        append(&world, 0, &[r#"{"id":1,"in":{"a":true},"n":1}"#, r#"{"id":2,"n":0.5,"tags":["x"],"none":[]}"#]);
        append(&world, 1, &["no json", "7", r#"{"id":3}"#]);
        drain(&mut world.sink(1), NOW).await;
        assert_eq!(names(&world).await, ["id", "in", "n", "tags", "rest"]);
        let rows = typed_rows(&world).await;
        let inner = strukt(&[("a", Cell::Bool(true))]);
        let float = |value: f64| Cell::Float(value.to_bits());
        assert_eq!(rows[&(0, 0)], strukt(&[("id", Cell::Int(1)), ("in", inner), ("n", float(1.0))]));
        let tags = Cell::List(vec![text("x")]);
        let second = [("id", Cell::Int(2)), ("n", float(0.5)), ("tags", tags), ("rest", text(r#"{"none":[]}"#))];
        assert_eq!(rows[&(0, 1)], strukt(&second));
        assert_eq!(dead_rows(&world).await.keys().collect::<Vec<_>>(), [&(1, 0), &(1, 1)]);
        // Another process goes on from the table: types stay, members come.
        append(&world, 0, &[r#"{"id":"x"}"#, r#"{"id":0.5}"#, r#"{"id":4,"none":[1],"in":{"b":"y"},"new":null}"#]);
        let mut sink = world.sink(2);
        drain(&mut sink, NOW).await;
        check(&world, "another process").await;
        assert_eq!(names(&world).await, ["id", "in", "n", "tags", "rest", "none"]);
        let inner = strukt(&[("b", text("y"))]);
        let third = [("id", Cell::Int(4)), ("none", Cell::List(vec![Cell::Int(1)])), ("in", inner)];
        let (rows, dead) = (typed_rows(&world).await, dead_rows(&world).await);
        assert_eq!(rows[&(0, 4)], strukt(&[&third[..], &[("rest", text(r#"{"new":null}"#))]].concat()));
        assert!(dead[&(0, 2)].1.contains("the columns found in the values: an integer is expected"), "{dead:?}");
        assert!(dead.contains_key(&(0, 3)) && dead.len() == 4);
        // The same sink, with the decoder of its last turn.
        append(&world, 0, &[r#"{"id":5}"#, r#"{"later":"z"}"#]);
        drain(&mut sink, NOW).await;
        assert_eq!(typed_rows(&world).await[&(0, 6)], strukt(&[("later", text("z"))]));
    });
}

#[test]
fn a_table_of_an_earlier_mode_gets_columns_beside_or_pauses() {
    block_on(async {
        for (seed, conflict) in [(281, ConflictPolicy::DeadLetters), (282, ConflictPolicy::Pause)] {
            let mut world = begin(seed);
            let schema = r#"{"properties":{"id":{"type":"integer"},"n":{"type":"integer"}}}"#;
            world.mode = TableMode::Json { schema: schema.into() };
            append(&world, 0, &[r#"{"id":1,"n":1}"#]);
            drain(&mut world.sink(1), NOW).await;
            world.mode = TableMode::JsonFound;
            append(&world, 0, &[r#"{"id":2,"n":0.5}"#]);
            let config = SinkConfig { conflict, ..world.config(2) };
            let mut sink = world.sink_with(config);
            if conflict == ConflictPolicy::Pause {
                let outcome = sink.run_once(NOW).await;
                assert!(matches!(outcome, Outcome::Paused(PauseReason::Conflict { .. })), "{outcome:?}");
                sink.set_conflict(ConflictPolicy::Column);
            }
            drain(&mut sink, NOW).await;
            check(&world, "a mode later").await;
            assert_eq!(names(&world).await, ["id", "n", "n__double", "rest"]);
            assert_eq!((typed_rows(&world).await.len(), dead_rows(&world).await.len()), (2, 0));
        }
    });
}

#[test]
fn what_was_found_and_cannot_be_read_pauses_the_table() {
    block_on(async {
        let mut world = begin(283);
        append(&world, 0, &[r#"{"id":1}"#]);
        drain(&mut world.sink(1), NOW).await;
        let loaded = world.catalog().load(&world.table()).await.expect("loads");
        let updates = [(crate::sink::found::PROPERTY.to_owned(), "[".to_owned())].into();
        let uuid = vec![TableRequirement::UuidMatch { uuid: loaded.metadata.uuid() }];
        let set = vec![TableUpdate::SetProperties { updates }];
        world.catalog().commit(&world.table(), uuid, set).await.expect("set");
        append(&world, 0, &[r#"{"id":2}"#]);
        match world.sink(2).run_once(NOW).await {
            Outcome::Paused(PauseReason::Unfit { detail, .. }) => assert!(detail.contains("json.found"), "{detail}"),
            other => panic!("{other:?}"),
        }
    });
}

/// Steps fail, two processes of one epoch work on the table, and each looks at what it happens to see.
#[test]
fn each_record_is_in_one_table_with_any_choice_of_values_that_turns_look_at() {
    block_on(async {
        for seed in 0..40_u64 {
            let mut world = begin(seed * 1000);
            let mut random = Random::new(seed);
            let mut sinks = [world.sink(1), world.sink(1)];
            world.store.arm_random(seed, 10 + seed);
            for turn in 0..24 {
                if turn % 3 == 0 {
                    let value = |random: &mut Random| {
                        let kinds = ["1", "0.5", r#""t""#, "true", "[1]", r#"["t"]"#, r#"{"a":1}"#, r#"{"b":[]}"#];
                        let (name, more) = (random.below(6), random.below(6));
                        let (one, two) = (kinds[random.below(8)], kinds[random.below(8)]);
                        if name == more { one.to_owned() } else { format!(r#"{{"m{name}":{one},"m{more}":{two}}}"#) }
                    };
                    let values: Vec<String> = (0..=random.below(4)).map(|_| value(&mut random)).collect();
                    let values: Vec<&str> = values.iter().map(String::as_str).collect();
                    append(&world, random.below(2) as i32, &values);
                }
                let at = random.below(2);
                let _ = sinks[at].run_once(NOW).await;
                if world.store.is_dead() {
                    world.store.revive();
                    sinks[at] = world.sink(1);
                }
            }
            world.store.calm();
            for sink in &mut sinks {
                drain(sink, NOW).await;
            }
            check(&world, &format!("seed {seed}")).await;
        }
    });
}
