//! Topics whose values name no schema: read with the newest one of a subject, or with that of a setting.

use std::sync::Arc;

use bytes::Bytes;
use tidewater_storage::model::record::Record;

use super::letters::avro;
use super::*;

fn latest() -> TableMode {
    TableMode::ValueSchemaLatest { subject: "orders-value".into() }
}

fn append(world: &World, partition: i32, values: impl IntoIterator<Item = Vec<u8>>) {
    let records = values.into_iter().map(|value| Record::new(NOW, None, Some(Bytes::from(value))));
    world.log.append_records(partition, records.collect::<Vec<_>>());
}

fn strukt(cells: impl IntoIterator<Item = (&'static str, Cell)>) -> Cell {
    Cell::Struct(cells.into_iter().map(|(name, cell)| (name.to_owned(), cell)).collect())
}

async fn paused(sink: &mut TableSink) -> PauseReason {
    match sink.run_once(NOW).await {
        Outcome::Paused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn values_are_read_with_the_newest_schema_of_the_turn() {
    block_on(async {
        let mut world = World { mode: latest(), ..World::new(230) };
        register_all(&world.registry);
        append(&world, 0, [avro(1, 0).0, avro(1, 1).0]);
        let mut sink = world.sink(1);
        // Without a schema all values wait; none is a dead letter.
        let reason = paused(&mut sink).await;
        assert!(matches!(reason, PauseReason::NoSchema { .. }), "{reason}");
        assert!(reason.to_string().contains("orders-value has no schema"), "{reason}");
        assert_eq!(sink.status().held_by().into_iter().collect::<Vec<_>>(), [HeldBy::Registry]);
        world.registry.set_latest("orders-value", 1);
        drain(&mut sink, NOW).await;
        assert_eq!(typed_rows(&world).await.len(), 2);
        // Registered, then produced with: the next turn knows it, and the columns follow.
        world.registry.set_latest("orders-value", 2);
        append(&world, 0, [avro(2, 2).0]);
        append(&world, 1, [avro(2, 5).0, Vec::new()]);
        world.log.append_records(1, [Record::new(NOW, None, None)]);
        drain(&mut sink, NOW).await;
        let rows = typed_rows(&world).await;
        for (at, wanted) in [((0, 0), avro(1, 0)), ((0, 2), avro(2, 2)), ((1, 0), avro(2, 5))] {
            assert_eq!(rows[&at], wanted.1, "{at:?}");
        }
        assert_eq!(rows[&(1, 2)], strukt([]), "a tombstone");
        let dead = dead_rows(&world).await;
        let (value, why, id) = &dead[&(1, 1)];
        assert_eq!((dead.len(), value.as_deref(), *id), (1, Some(&[][..]), Some(2)));
        assert!(why.starts_with("schema 2: ") && why.contains("ends too early"), "{why}");
        // A registry that is away: no value is read with a schema that may be old.
        world.registry.set_away(true);
        append(&world, 0, [avro(2, 3).0]);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Failed(SinkError::Schemas(_))));
        world.registry.set_away(false);
        drain(&mut sink, NOW).await;
        assert_eq!((typed_rows(&world).await.len(), dead_rows(&world).await.len()), (6, 1));
    });
}

#[test]
fn a_newest_schema_of_json_and_one_that_is_refused() {
    block_on(async {
        let mut world = World { mode: latest(), ..World::new(231) };
        register_all(&world.registry);
        world.registry.set_latest("orders-value", letters::JSON.0);
        append(&world, 0, [br#"{"id":7,"flag":true}"#.to_vec(), b"{".to_vec()]);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        world.registry.set_latest("orders-value", PROTOBUF.0);
        append(&world, 0, [b"\x08\x01".to_vec()]);
        drain(&mut sink, NOW).await;
        let rows = typed_rows(&world).await;
        assert_eq!(
            rows.into_values().collect::<Vec<_>>(),
            [strukt([("id", Cell::Int(7)), ("flag", Cell::Bool(true))])]
        );
        let ids: Vec<_> = dead_rows(&world).await.into_values().map(|(_, _, id)| id).collect();
        assert_eq!(ids, [Some(5), Some(8)]);
    });
}

const SETTING: &str = r#"{"type":"object","properties":{"id":{"type":"integer"},"city":{"type":"string"}}}"#;

fn json(schema: &str) -> TableMode {
    TableMode::Json { schema: Arc::from(schema) }
}

#[test]
fn json_needs_no_registry_where_a_setting_says_the_columns() {
    block_on(async {
        let mut world = World { mode: json(SETTING), ..World::new(232) };
        world.registry.set_away(true);
        let values = [r#"{"id":1,"city":"Oslo","more":[1]}"#, r#"{"id":"x"}"#, "no json", r#"{"city":null}"#];
        append(&world, 0, values.map(|value| value.as_bytes().to_vec()));
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        let rows = typed_rows(&world).await;
        assert_eq!(rows[&(0, 0)], strukt([("id", Cell::Int(1)), ("city", Cell::Text("Oslo".into()))]));
        assert_eq!((rows.len(), &rows[&(0, 3)]), (2, &strukt([])));
        let dead = dead_rows(&world).await;
        assert_eq!(dead.keys().collect::<Vec<_>>(), [&(0, 1), &(0, 2)]);
        for (_, why, id) in dead.values() {
            assert!(id.is_none() && why.starts_with("the schema of iceberg.json.schema: "), "{why}");
        }
        // Another setting: the table follows.
        world.mode = json(&SETTING.replace("city", "town"));
        append(&world, 0, [br#"{"id":2,"town":"Bergen"}"#.to_vec()]);
        drain(&mut world.sink(2), NOW).await;
        assert_eq!(
            typed_rows(&world).await[&(0, 4)],
            strukt([("id", Cell::Int(2)), ("town", Cell::Text("Bergen".into()))])
        );
    });
}

#[test]
fn a_setting_that_does_not_fit_the_table_pauses_it_and_makes_no_dead_letters() {
    block_on(async {
        let mut world = World { mode: json(SETTING), ..World::new(233) };
        append(&world, 0, [br#"{"id":1}"#.to_vec()]);
        drain(&mut world.sink(1), NOW).await;
        for (epoch, (schema, part)) in (2..)
            .zip([(SETTING.replace("integer", "string"), "column id is long"), ("[]".to_owned(), "it is no object")])
        {
            world.mode = json(&schema);
            append(&world, 0, [br#"{"id":"2"}"#.to_vec()]);
            let text = paused(&mut world.sink(epoch)).await.to_string();
            assert!(text.contains(part) && text.contains("change the setting"), "{text}");
        }
        world.mode = json(SETTING);
        append(&world, 0, [br#"{"id":4}"#.to_vec()]);
        drain(&mut world.sink(4), NOW).await;
        assert_eq!((typed_rows(&world).await.len(), dead_rows(&world).await.len()), (2, 2));
    });
}

#[test]
fn a_living_table_goes_from_one_typed_mode_to_another() {
    block_on(async {
        let (mut world, mut produced) = begin(234);
        drain(&mut world.sink(1), NOW).await;
        world.mode = latest();
        world.registry.set_latest("orders-value", 2);
        append(&world, 0, [avro(2, 9).0]);
        drain(&mut world.sink(2), NOW).await;
        world.mode = json(r#"{"type":"object","properties":{"id":{"type":"integer"},"flag":{"type":"boolean"}}}"#);
        append(&world, 0, [br#"{"id":5,"flag":true}"#.to_vec()]);
        drain(&mut world.sink(3), NOW).await;
        world.mode = TableMode::ValueSchemaIdPrefix;
        produced.append(&world, 1, &[2, 5], NOW);
        drain(&mut world.sink(4), NOW).await;
        let rows = typed_rows(&world).await;
        assert_eq!((rows.len(), dead_rows(&world).await.len()), (6, 0));
        assert_eq!(rows[&(0, 2)], avro(2, 9).1);
        assert_eq!(rows[&(0, 3)], strukt([("id", Cell::Int(5)), ("flag", Cell::Bool(true))]));
        // Keys and values have no column there.
        world.mode = TableMode::KeyValue;
        append(&world, 0, [b"bytes".to_vec()]);
        let reason = paused(&mut world.sink(5)).await;
        assert!(reason.to_string().contains("set the mode back"), "{reason}");
    });
}
