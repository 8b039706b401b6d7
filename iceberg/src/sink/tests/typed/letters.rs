//! Records of a topic whose values have schemas that change, what each should become by a reference that reads them
//! one by one (apache-avro, serde_json, prost-reflect), and what the tables hold.

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::types::Value;
use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message as _;
use prost_reflect::DynamicMessage;
use tidewater_storage::model::record::{Record, RecordHeader};
use tidewater_storage::model::{PartitionIndex, TimestampMs};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::columns::fixture::{Cell, Random, cell};
use crate::columns::protobuf::tests::compile;
use crate::commit::offsets;
use crate::fixture::{MemoryRegistry, World};
use crate::registry::{SchemaText, WriterSchema};
use crate::sink::dead_letter_table;
use crate::translate::framing::VALUE_HEADER;

/// Versions of an Avro record. From one to the next: columns come, an int grows, a field gets another name.
pub(super) const AVRO: [(u32, &str); 4] = [
    (
        1,
        r#"{"type":"record","name":"Order","fields":[
        {"name":"id","type":"long"},{"name":"customer","type":"string"},{"name":"amount","type":"int"}]}"#,
    ),
    (
        2,
        r#"{"type":"record","name":"Order","fields":[
        {"name":"id","type":"long"},{"name":"customer","type":"string"},{"name":"amount","type":"int"},
        {"name":"note","type":["null","string"]},{"name":"tags","type":{"type":"array","items":"string"}}]}"#,
    ),
    (
        3,
        r#"{"type":"record","name":"Order","fields":[
        {"name":"id","type":"long"},{"name":"amount","type":"long"},{"name":"customer","type":"string"},
        {"name":"parts","type":{"type":"map","values":"double"}}]}"#,
    ),
    (
        4,
        r#"{"type":"record","name":"Order","fields":[
        {"name":"id","type":"long"},{"name":"client","type":"string","aliases":["customer"]},
        {"name":"amount","type":"long"},{"name":"paid","type":"boolean"}]}"#,
    ),
];
/// A schema of JSON, whose members are partly columns that the others have.
pub(super) const JSON: (u32, &str) =
    (5, r#"{"type":"object","properties":{"id":{"type":"integer"},"flag":{"type":"boolean"}}}"#);
/// Its `amount` has a type that the column cannot take.
pub(super) const CONFLICT: (u32, &str) =
    (6, r#"{"type":"record","name":"Order","fields":[{"name":"amount","type":"string"}]}"#);
pub(super) const RECURSIVE: (u32, &str) = (
    7,
    r#"{"type":"record","name":"Tree","fields":[{"name":"left","type":["null","Tree"]},{"name":"id","type":"long"}]}"#,
);
/// Its second message has columns of the others, and one of its own.
pub(super) const PROTOBUF: (u32, &str) = (
    8,
    r#"syntax = "proto3"; message Item {} message Order { int64 id = 1; bool flag = 4; optional string memo = 9; }"#,
);
/// What it imports is no longer in the registry.
pub(super) const LOST: u32 = 13;
pub(super) const UNKNOWN: u32 = 99;

pub(super) fn schema(text: &str) -> SchemaText {
    SchemaText { text: text.into(), references: Vec::new() }
}

pub(super) fn register_all(registry: &MemoryRegistry) {
    for (id, text) in AVRO.into_iter().chain([CONFLICT, RECURSIVE]) {
        registry.register(id, WriterSchema::Avro(schema(text)));
    }
    registry.register(JSON.0, WriterSchema::Json(schema(JSON.1)));
    registry.register(PROTOBUF.0, WriterSchema::Protobuf(Ok(compile(PROTOBUF.1))));
    registry.register(LOST, WriterSchema::Protobuf(Err("lost.proto is not in the registry".to_owned())));
}

/// What a record should become.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// A row with these columns, those without a value left out.
    Row(Cell),
    /// A dead letter.
    Dead,
}

/// What was produced, by partition and offset.
#[derive(Default)]
pub(super) struct Produced(pub(super) BTreeMap<(i32, u64), (Option<Bytes>, Fate)>);

/// A value of Avro version `id` made of `n`, and the row that it should be.
pub(super) fn avro(id: u32, n: u64) -> (Vec<u8>, Cell) {
    let text = AVRO.iter().find(|(held, _)| *held == id).expect("a version").1;
    let schema = apache_avro::Schema::parse_str(text).expect("valid");
    let number = n as i64;
    let fields = [
        ("id", Value::Long(number)),
        ("customer", Value::String(format!("customer {n}"))),
        ("client", Value::String(format!("client {n}"))),
        ("amount", if id < 3 { Value::Int(n as i32) } else { Value::Long(number << 33) }),
        (
            "note",
            Value::Union(
                u32::from(!n.is_multiple_of(3)),
                Box::new(match n % 3 {
                    0 => Value::Null,
                    _ => Value::String(format!("note {n}")),
                }),
            ),
        ),
        ("tags", Value::Array((0..n % 4).map(|n| Value::String(format!("tag {n}"))).collect())),
        ("parts", Value::Map((0..n % 3).map(|n| (format!("part {n}"), Value::Double(n as f64 / 2.0))).collect())),
        ("paid", Value::Boolean(n.is_multiple_of(2))),
    ];
    let apache_avro::Schema::Record(record) = &schema else { unreachable!("a record") };
    let value = record.fields.iter().map(|field| {
        let (_, value) = fields.iter().find(|(name, _)| *name == field.name).expect("a value for each field");
        (field.name.clone(), value.clone())
    });
    let bytes = apache_avro::to_avro_datum(&schema, Value::Record(value.collect())).expect("encodes");
    let read = apache_avro::from_avro_datum(&schema, &mut bytes.as_slice(), None).expect("decodes");
    (bytes, reference(&read))
}

/// A message made of `n`, and the row that it should be.
fn protobuf(n: u64) -> (Vec<u8>, Cell) {
    let order = compile(PROTOBUF.1).messages().nth(1).expect("two messages");
    let mut message = DynamicMessage::new(order.clone());
    message.set_field_by_name("id", prost_reflect::Value::I64(n as i64));
    message.set_field_by_name("flag", prost_reflect::Value::Bool(n % 2 == 1));
    if n.is_multiple_of(3) {
        message.set_field_by_name("memo", prost_reflect::Value::String(format!("memo {n}")));
    }
    let bytes = message.encode_to_vec();
    let read = DynamicMessage::decode(order, bytes.as_slice()).expect("decodes");
    let field = |name| read.get_field_by_name(name).expect("a field").into_owned();
    let mut cells = BTreeMap::from([
        ("id".to_owned(), Cell::Int(field("id").as_i64().expect("a number").into())),
        ("flag".to_owned(), Cell::Bool(field("flag").as_bool().expect("a flag"))),
    ]);
    if read.has_field_by_name("memo") {
        cells.insert("memo".to_owned(), Cell::Text(field("memo").as_str().expect("text").to_owned()));
    }
    (bytes, Cell::Struct(cells))
}

/// As the reference reads it, with the name that a field has after its rename.
fn reference(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Boolean(value) => Cell::Bool(*value),
        Value::Int(value) => Cell::Int((*value).into()),
        Value::Long(value) => Cell::Int((*value).into()),
        Value::Double(value) => Cell::Float(value.to_bits()),
        Value::String(text) => Cell::Text(text.clone()),
        Value::Union(_, value) => reference(value),
        Value::Array(items) => Cell::List(items.iter().map(reference).collect()),
        Value::Map(items) => Cell::Map(items.iter().map(|(key, value)| (key.clone(), reference(value))).collect()),
        Value::Record(fields) => {
            let cells = fields.iter().map(|(name, value)| (after_rename(name), reference(value)));
            Cell::Struct(cells.filter(|(_, cell)| *cell != Cell::Null).collect())
        }
        value => unreachable!("no test has {value:?}"),
    }
}

fn after_rename(name: &str) -> String {
    match name {
        "customer" => "client".to_owned(),
        // Of keys.
        "customerid" => "buyer".to_owned(),
        name => name.to_owned(),
    }
}

/// Files have the names that the members of structs had when they were written.
fn after_renames(cell: Cell) -> Cell {
    match cell {
        Cell::Struct(cells) => {
            Cell::Struct(cells.into_iter().map(|(name, cell)| (after_rename(&name), after_renames(cell))).collect())
        }
        cell => cell,
    }
}

/// Bytes of a value with its schema's id before it.
pub(super) fn framed(id: u32, value: &[u8]) -> Bytes {
    Bytes::from([&[0][..], &id.to_be_bytes(), value].concat())
}

/// A record made of `n` whose value is one of `kinds`: an Avro version, 5 of JSON, and so on.
pub(super) fn record(kind: u32, n: u64, at: TimestampMs) -> (Record, Fate) {
    let key = Some(Bytes::from(format!("key {n}")));
    let (value, fate) = match kind {
        0 => (None, Fate::Row(Cell::Struct(BTreeMap::new()))),
        1..=4 => {
            let (bytes, cell) = avro(kind, n);
            // The reference schema may also be named in a header, by id or GUID.
            if n.is_multiple_of(5) {
                let mut record = Record::new(at, key, Some(Bytes::from(bytes)));
                let named = match n % 2 {
                    0 => [&[0][..], &kind.to_be_bytes()].concat(),
                    _ => [&[1][..], Uuid::from_u128(kind.into()).as_bytes()].concat(),
                };
                record.headers = vec![RecordHeader { key: VALUE_HEADER.into(), value: Some(named.into()) }];
                return (record, Fate::Row(cell));
            }
            (Some(framed(kind, &bytes)), Fate::Row(cell))
        }
        5 => {
            let text = format!(r#"{{"id":{n},"flag":{},"more":[1]}}"#, n % 2 == 1);
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let cells = [
                ("id".to_owned(), Cell::Int(json["id"].as_i64().expect("a number").into())),
                ("flag".to_owned(), Cell::Bool(json["flag"].as_bool().expect("a flag"))),
            ];
            (Some(framed(5, text.as_bytes())), Fate::Row(Cell::Struct(cells.into())))
        }
        8 => {
            let (bytes, cell) = protobuf(n);
            // The message with index 1: behind the schema's id, in the header if the id is there.
            let path = [2, 2];
            if n.is_multiple_of(5) {
                let mut record = Record::new(at, key, Some(Bytes::from(bytes)));
                let named = [&[0][..], &kind.to_be_bytes(), &path].concat();
                record.headers = vec![RecordHeader { key: VALUE_HEADER.into(), value: Some(named.into()) }];
                return (record, Fate::Row(cell));
            }
            (Some(framed(kind, &[&path[..], &bytes].concat())), Fate::Row(cell))
        }
        6 | 7 | LOST => (Some(framed(kind, b"\x04hi")), Fate::Dead),
        // No message, or bytes that are none.
        14 => (Some(framed(8, &[2, [1, 4][n as usize % 2], 8])), Fate::Dead),
        15 => (Some(framed(8, &[&[2, 2][..], &protobuf(n).0, &[0]].concat())), Fate::Dead),
        9 => (Some(framed(UNKNOWN, b"hello")), Fate::Dead),
        10 => (Some(Bytes::from_static(b"no schema at all")), Fate::Dead),
        // Cut off, or followed by what is not the value's.
        11 => (Some(framed(1, &avro(1, n).0[..2])), Fate::Dead),
        _ => (Some(framed(1, &[avro(1, n).0, vec![0]].concat())), Fate::Dead),
    };
    (Record::new(at, key, value), fate)
}

impl Produced {
    /// Appends a batch of records of `kinds` to a partition.
    pub(super) fn append(&mut self, world: &World, partition: i32, kinds: &[u32], at: TimestampMs) {
        let start = world.log.ends().get(&partition).copied().unwrap_or(0);
        let made = kinds.iter().zip(start..).map(|(kind, offset)| {
            let (record, fate) = record(*kind, offset + 100 * u64::from(partition.unsigned_abs()), at);
            self.0.insert((partition, offset), (record.value.clone(), fate));
            record
        });
        world.log.append_records(partition, made.collect::<Vec<_>>());
    }

    /// A batch of up to `most` random records.
    pub(super) fn append_random(&mut self, world: &World, random: &mut Random, most: usize, at: TimestampMs) {
        let kinds: Vec<u32> = (0..=random.below(most)).map(|_| random.below(16) as u32).collect();
        let partition = random.below(3) as i32;
        self.append(world, partition, &kinds, at);
    }

    /// Every record is in one of the two tables, once, as it should be.
    pub(super) async fn check(&self, world: &World, context: &str) {
        self.check_with(world, context, &|_, fate| matches!(fate, Fate::Dead)).await;
    }

    /// The same of the records below the offsets that the table has; no other record is in either table.
    pub(super) async fn check_taken(&self, world: &World, context: &str) {
        let loaded = world.catalog().load(&world.table()).await.expect("loads");
        let held = offsets::of(&world.table(), &loaded.metadata).expect("can be read");
        let is_taken = |(partition, offset): &(i32, u64)| {
            held.get(&PartitionIndex(*partition)).is_some_and(|next| *offset < next.get())
        };
        let taken = self.0.iter().filter(|(at, _)| is_taken(at)).map(|(at, record)| (*at, record.clone()));
        Self(taken.collect()).check(world, context).await;
    }

    /// The same where `is_dead` says what is to be a dead letter; a record that may be either is left to the tables.
    pub(super) async fn check_with(&self, world: &World, context: &str, is_dead: &dyn Fn((i32, u64), &Fate) -> bool) {
        let (rows, dead) = (typed_rows(world).await, dead_rows(world).await);
        let both: BTreeSet<_> = rows.keys().filter(|at| dead.contains_key(*at)).collect();
        assert!(both.is_empty(), "{context}: in both tables: {both:?}");
        let there: BTreeSet<_> = rows.keys().chain(dead.keys()).copied().collect();
        let wanted: BTreeSet<_> = self.0.keys().copied().collect();
        assert_eq!(there, wanted, "{context}");
        for (at, (value, fate)) in &self.0 {
            match (rows.get(at), dead.get(at), fate) {
                (Some(row), None, Fate::Row(cell)) if !is_dead(*at, fate) => {
                    assert_eq!(row, cell, "{context}: {at:?}");
                }
                (None, Some((held, reason, _)), _) if is_dead(*at, fate) => {
                    assert_eq!(held, value, "{context}: {at:?}");
                    assert!(!reason.is_empty(), "{context}: {at:?}");
                }
                (row, dead, fate) => panic!("{context}: {at:?} is {row:?} and {dead:?}, should be {fate:?}"),
            }
        }
    }
}

/// The rows of the topic's table by partition and offset: typed columns by the names that they have now.
pub(super) async fn typed_rows(world: &World) -> BTreeMap<(i32, u64), Cell> {
    let table = match world.catalog().load(&world.table()).await {
        Err(crate::catalog::CatalogError::NoSuchTable(_)) => return BTreeMap::new(),
        loaded => loaded.expect("loads"),
    };
    let schema = table.metadata.current_schema();
    let mut rows = BTreeMap::new();
    for body in world.data_files(&world.table()).await {
        let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build());
        for batch in reader.expect("parquet") {
            let batch = batch.expect("reads");
            let system = batch.column(0).as_struct();
            for at in 0..batch.num_rows() {
                let place = (
                    system.column(0).as_primitive::<Int32Type>().value(at),
                    system.column(1).as_primitive::<Int64Type>().value(at) as u64,
                );
                let fields = batch.schema_ref().fields().clone();
                // A column that the table has no longer is in older files only.
                let cells = fields.iter().zip(batch.columns()).skip(1).filter_map(|(field, column)| {
                    let id = field.metadata()[PARQUET_FIELD_ID_META_KEY].parse().expect("a field id");
                    let name = &schema.field_by_id(id)?.name;
                    Some((after_rename(name), after_renames(cell(column, at))))
                });
                let row = Cell::Struct(cells.filter(|(_, cell)| *cell != Cell::Null).collect());
                assert!(rows.insert(place, row).is_none(), "{place:?} is there twice");
            }
        }
    }
    rows
}

/// Value, reason and schema id.
pub(super) type DeadRow = (Option<Bytes>, String, Option<i32>);

/// The dead letters by partition and offset.
pub(super) async fn dead_rows(world: &World) -> BTreeMap<(i32, u64), DeadRow> {
    let table = dead_letter_table(&world.table());
    let mut rows = BTreeMap::new();
    for body in world.data_files(&table).await {
        let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build());
        for batch in reader.expect("parquet") {
            let batch = batch.expect("reads");
            let system = batch.column(0).as_struct();
            let (values, reasons) = (batch.column(1).as_binary::<i64>(), batch.column(2).as_string::<i32>());
            let ids = batch.column(3).as_primitive::<Int32Type>();
            for (at, value) in values.iter().enumerate() {
                let place = (
                    system.column(0).as_primitive::<Int32Type>().value(at),
                    system.column(1).as_primitive::<Int64Type>().value(at) as u64,
                );
                let id = ids.iter().nth(at).flatten();
                let row = (value.map(Bytes::copy_from_slice), reasons.value(at).to_owned(), id);
                assert!(rows.insert(place, row).is_none(), "{place:?} is there twice");
            }
        }
    }
    rows
}
