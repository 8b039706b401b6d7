//! Topics whose records' keys are columns: text, or of schemas that change.

use std::collections::BTreeMap;

use arrow::array::AsArray;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater_storage::model::record::{Record, RecordHeader};

use super::letters::{Fate, record};
use super::*;
use crate::columns::map::{self, ColumnMap};
use crate::columns::shape::Key;
use crate::mode::{ConflictPolicy, KeyMode};
use crate::translate::framing::KEY_HEADER;

/// Schemas of keys: an id each, of a record that grows and has a field renamed, of one that conflicts with it.
const KEYS: [(u32, &str); 4] = [
    (101, r#"{"type":"record","name":"K","fields":[{"name":"customerId","type":"int"}]}"#),
    (
        102,
        r#"{"type":"record","name":"K","fields":[
        {"name":"region","type":"string"},{"name":"customerId","type":"long"}]}"#,
    ),
    (
        103,
        r#"{"type":"record","name":"K","fields":[
        {"name":"buyer","type":"long","aliases":["customerId"]}]}"#,
    ),
    (104, r#"{"type":"record","name":"K","fields":[{"name":"region","type":"boolean"}]}"#),
];
/// A kind of key: none, of a schema of [`KEYS`] (by id), garbage, an id that there is not.
const NONE: u32 = 0;
const GARBAGE: u32 = 1;
const MISSING: u32 = 2;

fn strukt(cells: impl IntoIterator<Item = (&'static str, Cell)>) -> Cell {
    Cell::Struct(cells.into_iter().map(|(name, cell)| (name.to_owned(), cell)).collect())
}

/// A varint as Avro has it, of a small number.
fn small(n: u64) -> u8 {
    (n % 32 * 2) as u8
}

/// The key's bytes, its header, and its column; `None` of the column: a dead letter.
fn key(kind: u32, n: u64) -> (Option<Bytes>, Option<RecordHeader>, Option<Cell>) {
    let number = || Cell::Int((n % 32).into());
    let (bytes, cell) = match kind {
        NONE => return (None, None, Some(Cell::Null)),
        GARBAGE => return (Some(Bytes::from_static(b"no schema")), None, None),
        MISSING => return (Some(framed(UNKNOWN, b"x")), None, None),
        101 | 103 => (vec![small(n)], strukt([("buyer", number())])),
        102 => (vec![2, b'e', small(n)], strukt([("region", Cell::Text("e".to_owned())), ("buyer", number())])),
        _ => return (Some(framed(kind, &[1])), None, None),
    };
    if n.is_multiple_of(4) {
        let id = [&[0][..], &kind.to_be_bytes()].concat();
        let header = RecordHeader { key: Bytes::from_static(KEY_HEADER), value: Some(id.into()) };
        return (Some(bytes.into()), Some(header), Some(cell));
    }
    (Some(framed(kind, &bytes)), None, Some(cell))
}

/// Appends a batch of records, each of a kind of key and a kind of value.
fn append(world: &World, produced: &mut Produced, partition: i32, kinds: &[(u32, u32)], at: TimestampMs) {
    let start = world.log.ends().get(&partition).copied().unwrap_or(0);
    let made = kinds.iter().zip(start..).map(|((of_key, of_value), offset)| {
        let n = offset + 100 * u64::from(partition.unsigned_abs());
        let (mut record, fate) = record(*of_value, n, at);
        let (bytes, header, column) = key(*of_key, n);
        record.key = bytes;
        record.headers.extend(header);
        let fate = match (fate, column) {
            (Fate::Row(Cell::Struct(cells)), Some(column)) => {
                let cells = cells.into_iter().chain([("key".to_owned(), column)]);
                Fate::Row(Cell::Struct(cells.filter(|(_, cell)| *cell != Cell::Null).collect()))
            }
            _ => Fate::Dead,
        };
        produced.0.insert((partition, offset), (record.value.clone(), fate));
        record
    });
    world.log.append_records(partition, made.collect::<Vec<_>>());
}

/// With schemas of keys and values.
fn world(seed: u64) -> World {
    let world = World { key: KeyMode::SchemaIdPrefix, ..World::typed(seed) };
    register_all(&world.registry);
    for (id, text) in KEYS {
        world.registry.register(id, WriterSchema::Avro(schema(text)));
    }
    world
}

async fn names(world: &World) -> Vec<String> {
    columns(world).await.into_iter().map(|(_, name)| name).collect()
}

async fn map(world: &World) -> ColumnMap {
    let loaded = world.catalog().load(&world.table()).await.expect("loads");
    ColumnMap::parse(&loaded.metadata.properties()[map::PROPERTY]).expect("own text")
}

/// The bytes in `tidewater.key`, of all files of a table.
async fn raw_keys(world: &World, table: &TableIdent) -> Vec<Option<Vec<u8>>> {
    let mut keys = Vec::new();
    for body in world.data_files(table).await {
        let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build());
        for batch in reader.expect("parquet") {
            let batch = batch.expect("reads");
            let held = batch.column(0).as_struct().column(5).as_binary::<i64>().clone();
            keys.extend(held.iter().map(|key| key.map(<[u8]>::to_vec)));
        }
    }
    keys.sort();
    keys
}

#[test]
fn keys_are_a_struct_that_follows_their_schemas_and_bad_ones_are_dead_letters() {
    block_on(async {
        let (mut world, mut produced) = (world(700), Produced::default());
        let mut sink = world.sink(1);
        append(&world, &mut produced, 0, &[(101, 1), (NONE, 1), (101, 0), (GARBAGE, 1), (MISSING, 1)], NOW);
        drain(&mut sink, NOW).await;
        assert_eq!(names(&world).await, ["tidewater", "key", "id", "customer", "amount"]);
        let all = [(102, 1), (103, 2), (101, 9), (GARBAGE, 9), (104, 1), (101, 5), (102, 8), (NONE, 0), (103, 12)];
        append(&world, &mut produced, 1, &all, NOW);
        drain(&mut sink, NOW).await;
        produced.check(&world, "keys").await;
        let dead = dead_rows(&world).await;
        let reasons: Vec<_> = dead.values().map(|(_, why, id)| (*id, why.as_str())).collect();
        for (id, part) in [
            (None, "key: it does not begin with the id of a schema, nor is there a header __key_schema_id"),
            (Some(UNKNOWN as i32), "key: schema 99 is not in the registry"),
            (Some(104), "key: schema 104: column key.region is string; the schema has boolean there"),
        ] {
            assert!(reasons.contains(&(id, part)), "{part}: {reasons:?}");
        }
        assert!(reasons.contains(&(Some(99), "schema 99 is not in the registry")), "a value's: {reasons:?}");
        // Bytes are kept in both tables.
        let dead_keys = raw_keys(&world, &dead_letter_table(&world.table())).await;
        assert!(dead_keys.contains(&Some(b"no schema".to_vec())), "{dead_keys:?}");
        assert_eq!(raw_keys(&world, &world.table()).await.iter().filter(|key| key.is_none()).count(), 2);
    });
}

#[test]
fn a_restart_finds_the_same_columns_and_one_schema_may_be_of_keys_and_values() {
    block_on(async {
        let (mut world, mut produced) = (world(701), Produced::default());
        append(&world, &mut produced, 0, &[(101, 1), (102, 2)], NOW);
        drain(&mut world.sink(1), NOW).await;
        let before = (columns(&world).await, map(&world).await);
        append(&world, &mut produced, 0, &[(102, 1), (101, 2), (NONE, 0)], NOW);
        drain(&mut world.sink(2), NOW).await;
        assert_eq!((columns(&world).await, map(&world).await), before);
        // Schema 1 as a key: the columns of values of schema 1 have other ids.
        let bytes = Some(framed(1, &letters::avro(1, 7).0));
        world.log.append_records(2, [Record::new(NOW, bytes.clone(), bytes)]);
        drain(&mut world.sink(3), NOW).await;
        let Cell::Struct(row) = typed_rows(&world).await.remove(&(2, 0)).expect("a row") else { unreachable!("a row") };
        let Cell::Struct(key) = &row["key"] else { unreachable!("a struct") };
        for (name, wanted) in [("id", Cell::Int(7)), ("amount", Cell::Int(7))] {
            assert_eq!((&row[name], &key[name]), (&wanted, &wanted), "{name}");
        }
        let map = map(&world).await;
        let of_keys: Vec<i32> = map.record_keys().collect();
        assert_eq!(of_keys, [before.0[1].0]);
        assert_eq!(map.at(of_keys[0], &Key::Field("id".to_owned())).count(), 1);
    });
}

#[test]
fn text_keys_are_a_column_also_beside_values_that_stay_bytes() {
    block_on(async {
        let mut world = World { key: KeyMode::Text, ..World::new(702) };
        let record = |key: Option<&'static [u8]>| Record::new(NOW, key.map(Bytes::from_static), Some("v".into()));
        world.log.append_records(0, ["é".as_bytes(), b"", b"\xff"].map(|key| record(Some(key))));
        world.log.append_records(0, [record(None), Record::new(NOW, Some("gone".into()), None)]);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        assert_eq!(names(&world).await, ["tidewater", "value", "key"]);
        let rows = typed_rows(&world).await;
        let (text, v) = (|text: &str| Cell::Text(text.to_owned()), || Cell::Bytes(b"v".to_vec()));
        let wanted = [
            ((0, 0), strukt([("key", text("é")), ("value", v())])),
            ((0, 1), strukt([("key", text("")), ("value", v())])),
            ((0, 3), strukt([("value", v())])),
            ((0, 4), strukt([("key", text("gone"))])),
        ];
        assert_eq!(rows, BTreeMap::from(wanted));
        let dead = dead_rows(&world).await;
        let (value, why, id) = &dead[&(0, 2)];
        assert_eq!((dead.len(), value.as_deref(), *id), (1, Some(&b"v"[..]), None));
        assert_eq!(why, "key: text of iceberg.key.mode: a string is not UTF-8 (byte 0)");
        assert_eq!(sink.status().dead_rows, Some(1));
        // And back: the column stays, and is null.
        world.key = KeyMode::Binary;
        world.log.append_records(0, [record(Some(b"\xff"))]);
        drain(&mut world.sink(2), NOW).await;
        assert_eq!(typed_rows(&world).await[&(0, 5)], strukt([("value", v())]));
    });
}

#[test]
fn another_mode_makes_a_column_beside_and_no_dead_letters() {
    block_on(async {
        let mut world = World { key: KeyMode::Text, ..world(703) };
        let mut produced = Produced::default();
        produced.append(&world, 0, &[1, 1], NOW);
        let mut sink = world.sink(1);
        drain(&mut sink, NOW).await;
        world.key = KeyMode::SchemaIdPrefix;
        let (bytes, value) = (framed(101, &[14]), framed(1, &letters::avro(1, 3).0));
        world.log.append_records(0, [Record::new(NOW, Some(bytes), Some(value.clone()))]);
        drain(&mut world.sink(2), NOW).await;
        world.key = KeyMode::Text;
        world.log.append_records(0, [Record::new(NOW, Some("again".into()), Some(value))]);
        drain(&mut world.sink(3), NOW).await;
        assert_eq!(names(&world).await, ["tidewater", "key", "id", "customer", "amount", "key__struct"]);
        let rows = typed_rows(&world).await;
        let cells = |offset| match &rows[&(0, offset)] {
            Cell::Struct(cells) => (cells.get("key").cloned(), cells.get("key__struct").cloned()),
            other => panic!("{other:?}"),
        };
        assert_eq!(cells(0), (Some(Cell::Text("key 0".to_owned())), None));
        assert_eq!(cells(2), (None, Some(strukt([("buyer", Cell::Int(7))]))));
        assert_eq!(cells(3), (Some(Cell::Text("again".to_owned())), None));
        assert!(dead_rows(&world).await.is_empty());
    });
}

#[test]
fn a_value_with_a_member_of_that_name_has_the_other_name_unless_it_was_first() {
    block_on(async {
        let text = r#"{"properties":{"key":{"type":"integer"}}}"#;
        let value = Some(framed(50, br#"{"key":1}"#));
        for (key_first, wanted) in [(true, ["tidewater", "key_1", "key"]), (false, ["tidewater", "key", "key__string"])]
        {
            let mut world = World { key: if key_first { KeyMode::Text } else { KeyMode::Binary }, ..world(704) };
            world.registry.register(50, WriterSchema::Json(schema(text)));
            world.log.append_records(0, [Record::new(NOW, None, value.clone())]);
            drain(&mut world.sink(1), NOW).await;
            world.key = KeyMode::Text;
            world.log.append_records(0, [Record::new(NOW, Some("a".into()), value.clone())]);
            drain(&mut world.sink(2), NOW).await;
            assert_eq!(names(&world).await, wanted);
            let row = strukt([(wanted[1], Cell::Int(1)), (wanted[2], Cell::Text("a".to_owned()))]);
            assert_eq!(typed_rows(&world).await[&(0, 1)], row);
        }
    });
}

#[test]
fn a_conflict_of_keys_has_the_policy_of_values() {
    block_on(async {
        for policy in [ConflictPolicy::Column, ConflictPolicy::Pause] {
            let (mut world, mut produced) = (world(705), Produced::default());
            append(&world, &mut produced, 0, &[(102, 1)], NOW);
            drain(&mut world.sink(1), NOW).await;
            append(&world, &mut produced, 0, &[(102, 1), (104, 1), (102, 2)], NOW);
            let mut config = world.config(2);
            config.conflict = policy;
            let mut sink = world.sink_with(config);
            if policy == ConflictPolicy::Pause {
                assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { rows: 1, .. }));
                match sink.run_once(NOW).await {
                    Outcome::Paused(PauseReason::Conflict { partition, offset, detail, .. }) => {
                        assert_eq!((partition, offset.get()), (PartitionIndex(0), 2));
                        assert!(detail.starts_with("key: schema 104: column key.region is string"), "{detail}");
                    }
                    other => panic!("{other:?}"),
                }
                sink.set_conflict(ConflictPolicy::Column);
            }
            drain(&mut sink, NOW).await;
            let Cell::Struct(row) = &typed_rows(&world).await[&(0, 2)] else { unreachable!("a row") };
            assert_eq!(row["key"], strukt([("region__boolean", Cell::Bool(true))]), "{policy:?}");
            assert!(dead_rows(&world).await.is_empty());
        }
    });
}

#[test]
fn a_registry_that_is_away_keeps_keys_waiting_but_not_those_that_name_no_schema() {
    block_on(async {
        let (mut world, mut produced) = (world(706), Produced::default());
        append(&world, &mut produced, 0, &[(NONE, 0), (GARBAGE, 1), (101, 0), (NONE, 0)], NOW);
        world.registry.set_away(true);
        let mut sink = world.sink(1);
        let outcome = sink.run_once(NOW).await;
        assert!(matches!(outcome, Outcome::Committed { rows: 1, .. }), "{outcome:?}");
        assert_eq!((typed_rows(&world).await.len(), dead_rows(&world).await.len()), (1, 1));
        assert_eq!(sink.status().held_by().into_iter().collect::<Vec<_>>(), [HeldBy::Registry]);
        world.registry.set_away(false);
        drain(&mut sink, NOW).await;
        produced.check(&world, "back").await;
    });
}

/// What a round produces: a key's column, then one that grows, among dead letters of both parts. Few steps: a fault is
/// tried at each, and the steps themselves are those of values.
fn fill_keyed(world: &World, produced: &mut Produced, round: i64) {
    match round {
        0 => append(world, produced, 0, &[(101, 0), (GARBAGE, 0)], NOW),
        1 => append(world, produced, 0, &[(102, 0), (101, 10)], NOW),
        _ => {}
    }
}

#[test]
fn a_fault_at_any_single_step_neither_doubles_nor_loses_a_key() {
    fail_at_each_step(&|| world(710), fill_keyed);
}

#[test]
fn little_room_and_random_kinds_put_each_record_into_one_table() {
    block_on(async {
        for seed in 0..8 {
            let (mut world, mut produced) = (world(720 + seed), Produced::default());
            append(&world, &mut produced, 0, &[(102, 2)], NOW);
            drain(&mut world.sink(1), NOW).await;
            let mut random = Random::new(seed);
            for _ in 0..10 {
                let kinds: Vec<_> = (0..=random.below(6))
                    .map(|_| {
                        let of_key = [NONE, GARBAGE, MISSING, 101, 101, 102, 103, 104][random.below(8)];
                        (of_key, random.below(16) as u32)
                    })
                    .collect();
                append(&world, &mut produced, random.below(3) as i32, &kinds, NOW);
            }
            let mut config = world.config(2);
            config.turn_bytes = 3_000 + 2_000 * usize::try_from(seed).expect("small");
            drain(&mut world.sink_with(config), NOW).await;
            produced.check(&world, &format!("seed {seed}")).await;
        }
    });
}
