//! Each record of the log is a row of the typed table or a dead letter, in one of both tables and once; neither has
//! anything else. A row has the values of its record's columns, a dead letter the record's bytes and why it is one. A
//! record that retention took first is in neither, and the table says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use bytes::Bytes;
use iceberg::spec::{PrimitiveType, Type};
use serde::Deserialize;
use tidewater_iceberg::catalog::{Catalog, CatalogError, Loaded, ObjectStoreCatalog, TableIdent};
use tidewater_iceberg::commit::offsets;
use tidewater_iceberg::sink::dead_letter_table;
use tidewater_iceberg::translate::Skipped;
use tidewater_storage::model::record::{Record, read_all};
use tidewater_storage::model::{BatchHeader, PartitionIndex};

use crate::table::{self, addresses, each_batch};
use crate::typed::TableKind;
use crate::typed::values::{Columns, Fate, RecordName, value};
use crate::typed::wrong::PENDING;
use crate::world::World;

const ROUNDS: u64 = 2_000;

/// By partition and offset.
type ByOffset<T> = BTreeMap<(i32, u64), T>;

/// A row: key and columns.
#[derive(Debug)]
struct Row {
    key: Option<Bytes>,
    columns: Columns,
}

/// A dead letter.
#[derive(Debug)]
struct Letter {
    key: Option<Bytes>,
    value: Option<Bytes>,
    reason: String,
    schema: Option<i32>,
}

/// Both tables.
struct Tables {
    rows: ByOffset<Row>,
    letters: ByOffset<Letter>,
    /// Whether the column `amount` has text.
    amount_is_text: bool,
    /// Ranges that the table says it lacks.
    skipped: Vec<Skipped>,
    /// The first offset of each partition that is in a table.
    first: BTreeMap<i32, u64>,
}

pub(crate) async fn check(world: &World, kind: TableKind) {
    let mut tables = read(world).await;
    let counts = &world.typed.counts;
    counts.rows.store(tables.rows.len() as u64, Ordering::Relaxed);
    counts.dead_letters.store(tables.letters.len() as u64, Ordering::Relaxed);
    for partition in world.history.partitions() {
        world.history.with(partition, |past| {
            for seen in past.seen.values() {
                let header = BatchHeader::parse(&seen.bytes).expect("parses");
                for record in read_all(&header, &seen.bytes, 1 << 20).expect("reads") {
                    let found = tables.take(kind, partition, &record);
                    // Deleted before the table had it, which the table says.
                    let may_lack = record.offset < past.trim_asked && tables.lacks(partition, record.offset.get());
                    assert!(found || may_lack, "p{partition}: offset {} is in neither table", record.offset);
                }
            }
        });
    }
    // What was deleted before any client read it can only be in the tables.
    for (partition, offset) in tables.rows.into_keys().chain(tables.letters.into_keys()) {
        let trimmed = world.history.with(partition, |past| past.trim_asked);
        assert!(offset < trimmed.get(), "p{partition}: the tables invent offset {offset}");
    }
}

impl Tables {
    /// Does the table say that it lacks an offset? What was deleted before its first turn, it need not say.
    fn lacks(&self, partition: i32, offset: u64) -> bool {
        let is_before = self.first.get(&partition).is_none_or(|first| offset < *first);
        let covers = |it: &Skipped| it.partition == partition && (it.start..it.end).contains(&offset);
        is_before || self.skipped.iter().any(covers)
    }

    /// Takes out what became of a record, and compares; false if there is nothing.
    fn take(&mut self, kind: TableKind, partition: i32, record: &Record) -> bool {
        let at = (partition, record.offset.get());
        let name = record.key.as_deref().and_then(RecordName::of).expect("the key names the record");
        let fate = value(kind, name).1;
        match (self.rows.remove(&at), self.letters.remove(&at)) {
            (Some(_), Some(_)) => panic!("p{partition}: offset {} is in both tables", at.1),
            (None, None) => return false,
            (Some(row), None) => {
                let columns = match fate {
                    Fate::Row(columns) => columns,
                    Fate::IfAmountIs { text, row, .. } if text == self.amount_is_text => row,
                    fate => panic!("{at:?} is a row, {row:?}, and should be {fate:?}"),
                };
                assert_eq!((row.columns, row.key), (columns, record.key.clone()), "{at:?} has other values");
            }
            (None, Some(letter)) => {
                let (why, schema) = match fate {
                    Fate::Dead(why, schema) => (why, schema),
                    Fate::IfAmountIs { text, schema, .. } if text != self.amount_is_text => ("amount", Some(schema)),
                    fate => panic!("{at:?} is a dead letter, {letter:?}, and should be {fate:?}"),
                };
                let is_why = !letter.reason.is_empty() && letter.reason.contains(why);
                assert!(is_why && letter.schema == schema, "{at:?}: {letter:?} should say {why:?}, {schema:?}");
                let bytes = (&letter.key, &letter.value);
                assert!(bytes == (&record.key, &record.value), "{at:?}: a dead letter has other bytes");
            }
        }
        true
    }
}

/// Both tables once the first one's offsets are the log's ends, and its dead letters are in the other.
async fn read(world: &World) -> Tables {
    let catalog = table::catalog(world.bucket.store(), 0);
    let main = table::config(world, 0).table;
    let dead = dead_letter_table(&main);
    for _ in 0..ROUNDS {
        if let Some((loaded, letters)) = caught_up(world, &catalog, &main, &dead).await {
            return tables(world, &catalog, &loaded, letters.as_ref()).await;
        }
        world.sleep_ms(300).await;
    }
    panic!("the table does not catch up");
}

async fn caught_up(
    world: &World,
    catalog: &ObjectStoreCatalog,
    main: &TableIdent,
    dead: &TableIdent,
) -> Option<(Loaded, Option<Loaded>)> {
    let loaded = catalog.load(main).await.ok()?;
    let offsets = table::offsets_of(main, &loaded);
    let is_even = |partition| {
        let end = world.history.with(partition, |past| past.high_watermark);
        offsets.get(&PartitionIndex(partition)).copied().unwrap_or_default() == end
    };
    if !world.history.partitions().into_iter().all(is_even) {
        return None;
    }
    let letters = match catalog.load(dead).await {
        Ok(letters) => Some(letters),
        Err(CatalogError::NoSuchTable(_)) => None,
        Err(_) => return None,
    };
    let Some(pending) = loaded.metadata.properties().get(PENDING) else { return Some((loaded, letters)) };
    let pending: Pending = serde_json::from_str(pending).expect("as FORMAT.md says");
    let letters = letters.expect("dead letters have been decided");
    let appends = table::offsets_of(dead, &letters).get(&PartitionIndex(0)).map_or(0, |appends| appends.get());
    (appends >= pending.append).then_some((loaded, Some(letters)))
}

/// What [`PENDING`] says, as far as it matters here.
#[derive(Deserialize)]
struct Pending {
    append: u64,
}

async fn tables(world: &World, catalog: &ObjectStoreCatalog, main: &Loaded, letters: Option<&Loaded>) -> Tables {
    let schema = main.metadata.current_schema();
    let changes = u64::try_from(main.metadata.current_schema_id()).expect("ids count from 0");
    world.typed.counts.schema_changes.store(changes, Ordering::Relaxed);
    let amount = schema.field_by_name("amount").map(|field| field.field_type.as_ref());
    let amount_is_text = matches!(amount, Some(Type::Primitive(PrimitiveType::String)));
    let (mut rows, mut dead) = (ByOffset::new(), ByOffset::new());
    let mut places = BTreeSet::new();
    let mut once = |at| assert!(places.insert(at), "{at:?} is in the tables twice");
    each_batch(catalog, main, |batch| {
        for (n, at) in addresses(batch).into_iter().enumerate() {
            once(at);
            rows.insert(at, Row { key: key_of(batch, n), columns: columns_of(batch, n) });
        }
    })
    .await;
    if let Some(letters) = letters {
        each_batch(catalog, letters, |batch| {
            for (n, at) in addresses(batch).into_iter().enumerate() {
                once(at);
                dead.insert(at, letter_of(batch, n));
            }
        })
        .await;
    }
    let mut first = BTreeMap::new();
    for (partition, offset) in places {
        first.entry(partition).or_insert(offset);
    }
    let (skipped, count) = offsets::skipped(&main.metadata);
    let named: u64 = skipped.iter().map(|it| it.end - it.start).sum();
    assert_eq!(named, count, "a run leaves out fewer ranges than the table's properties keep");
    Tables { rows, letters: dead, amount_is_text, skipped, first }
}

fn key_of(batch: &RecordBatch, at: usize) -> Option<Bytes> {
    bytes_of(batch.column(0).as_struct().column_by_name("key").expect("a column of keys"), at)
}

fn letter_of(batch: &RecordBatch, at: usize) -> Letter {
    let column = |name| batch.column_by_name(name).expect("a column of dead letters");
    Letter {
        key: key_of(batch, at),
        value: bytes_of(column("value"), at),
        reason: text_of(column("reason"), at).expect("a reason"),
        schema: text_of(column("schema_id"), at).map(|id| id.parse().expect("a number")),
    }
}

/// All columns that the record's value gave, as text.
fn columns_of(batch: &RecordBatch, at: usize) -> Columns {
    let schema = batch.schema();
    let named = schema.fields().iter().zip(batch.columns()).skip(1);
    named.filter_map(|(field, column)| Some((field.name().clone(), text_of(column, at)?))).collect()
}

fn bytes_of(column: &ArrayRef, at: usize) -> Option<Bytes> {
    column.is_valid(at).then(|| Bytes::copy_from_slice(column.as_binary::<i64>().value(at)))
}

fn text_of(column: &ArrayRef, at: usize) -> Option<String> {
    column.is_valid(at).then(|| match column.data_type() {
        DataType::Int32 => column.as_primitive::<Int32Type>().value(at).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(at).to_string(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(at).to_string(),
        DataType::Utf8 => column.as_string::<i32>().value(at).to_owned(),
        DataType::LargeUtf8 => column.as_string::<i64>().value(at).to_owned(),
        other => panic!("no value of these has the type {other}"),
    })
}
