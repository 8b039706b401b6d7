//! Records of a typed topic, and what each becomes: both follow from the writer, the number of its batch and that of
//! the record, which the key has. The sink's code has no part in it.
//!
//! From some batches on, values have later schemas. One of them ([`TEXT_AMOUNT`]) has another type for a column than
//! the one before it: which of the two are rows depends on which the table met first.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tidewater_storage::env::Env;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId};

use super::{TableKind, mix};

/// The schema of values of JSON.
pub(crate) const JSON: &str = r#"{"type":"object","properties":{
    "id":{"type":"integer"},"name":{"type":"string"},"amount":{"type":"number"}}}"#;

/// Schemas of Avro by their ids; the later ones add columns, and let `id` grow.
pub(crate) const AVRO: [(u32, &str); 5] = [
    (
        FIRST,
        r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"int"},{"name":"name","type":"string"}]}"#,
    ),
    (
        SECOND,
        r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"name","type":"string"},
        {"name":"amount","type":"double"}]}"#,
    ),
    (
        THIRD,
        r#"{"type":"record","name":"Order","fields":[{"name":"extra","type":["null","string"]},
        {"name":"name","type":"string"},{"name":"id","type":"long"}]}"#,
    ),
    (
        TEXT_AMOUNT,
        r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"long"},{"name":"amount","type":"string"}]}"#,
    ),
    (
        TREE,
        r#"{"type":"record","name":"Tree","fields":[{"name":"left","type":["null","Tree"]},
        {"name":"id","type":"long"}]}"#,
    ),
];
const FIRST: u32 = 1;
const SECOND: u32 = 2;
pub(crate) const THIRD: u32 = 3;
const TEXT_AMOUNT: u32 = 4;
/// No columns can be made of it.
const TREE: u32 = 5;
/// The registry has no such schema.
const UNKNOWN: u32 = 99;

/// Batches of a writer before which no value has the second schema, and the third.
const SECOND_FROM: u64 = 4;
const THIRD_FROM: u64 = 9;

/// Values of a row's columns as text; those that are null are left out.
pub(crate) type Columns = BTreeMap<String, String>;

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Row(Columns),
    /// A dead letter: a part of its reason, and the id of its schema.
    Dead(&'static str, Option<i32>),
    /// A row if the column `amount` has text, or if it has not; else a dead letter of that schema.
    IfAmountIs {
        text: bool,
        row: Columns,
        schema: i32,
    },
}

/// Which record of which batch of which writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordName {
    pub(crate) writer: u32,
    pub(crate) n: u64,
    pub(crate) record: u64,
}

impl RecordName {
    /// From a record's key.
    pub(crate) fn of(key: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(key).ok()?.split('/');
        let (writer, n, record) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { writer: writer.parse().ok()?, n: n.parse().ok()?, record: record.parse().ok()? })
    }

    fn key(self) -> Bytes {
        Bytes::from(format!("{}/{}/{}", self.writer, self.n, self.record))
    }

    /// A number that looks random.
    fn draw(self) -> u64 {
        mix(mix(mix(u64::from(self.writer)).wrapping_add(self.n)).wrapping_add(self.record))
    }

    fn id(self) -> i64 {
        i64::from(self.writer) * 1_000_000 + i64::try_from(self.n * 10 + self.record).expect("small")
    }

    /// Some are long.
    fn name(self) -> String {
        let most = if self.draw().is_multiple_of(13) { 6_000 } else { 60 };
        let long = usize::try_from(mix(self.draw()) % most).expect("small");
        format!("{}/{}/{} é\"\\\n{}", self.writer, self.n, self.record, "x".repeat(long))
    }
}

/// A batch of writer `writer`.
pub(crate) fn batch(
    env: &Env,
    kind: TableKind,
    writer: u32,
    n: u64,
    producer: Option<(ProducerId, i32)>,
) -> (Bytes, u64) {
    let compression = if env.rng.below(4) == 0 { Compression::Lz4 } else { Compression::None };
    let mut builder = BatchBuilder::new(compression);
    if let Some((id, sequence)) = producer {
        builder = builder.producer(id, ProducerEpoch(0), sequence);
    }
    let records = 1 + env.rng.below(5);
    for record in 0..records {
        let name = RecordName { writer, n, record };
        builder.push(Record::new(env.clock.wall(), Some(name.key()), value(kind, name).0));
    }
    (builder.build(), records)
}

/// The value of a record, and what becomes of it.
pub(crate) fn value(kind: TableKind, name: RecordName) -> (Option<Bytes>, Fate) {
    // Tombstones are rows without values.
    if name.draw() % 16 == 15 {
        return (None, Fate::Row(Columns::new()));
    }
    match kind {
        TableKind::Json => json(name),
        TableKind::IdPrefix => avro(name),
    }
}

fn row(columns: &[(&str, String)]) -> Columns {
    columns.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn json(of: RecordName) -> (Option<Bytes>, Fate) {
    let (id, name, amount) = (of.id(), of.name(), half(of));
    let whole = json!({"id": id, "other": [1, {"x": null}], "name": name, "amount": amount});
    let (value, fate) = match of.draw() % 16 {
        0 => (format!("order {id}"), Fate::Dead("not JSON", None)),
        1 => (json!({"id": name, "name": name}).to_string(), Fate::Dead("an integer is expected here", None)),
        2 => (format!("{whole} {{}}"), Fate::Dead("bytes follow the value", None)),
        3 => (json!(name).to_string(), Fate::Dead("an object is expected here", None)),
        4 => (format!("{{\"id\":{id},\"name\":\"a\",\"name\":\"b\"}}"), Fate::Dead("a key twice", None)),
        5 => (json!({"name": name, "id": null}).to_string(), Fate::Row(row(&[("name", name)]))),
        _ => {
            let columns = row(&[("id", id.to_string()), ("name", name), ("amount", amount.to_string())]);
            (whole.to_string(), Fate::Row(columns))
        }
    };
    (Some(Bytes::from(value)), fate)
}

fn half(of: RecordName) -> f64 {
    f64::from(u32::try_from(of.draw() % 10_000).expect("small")) / 2.0
}

fn avro(of: RecordName) -> (Option<Bytes>, Fate) {
    let (id, name, amount) = (of.id(), of.name(), half(of));
    let first = || Avro::of(FIRST).long(id).text(&name);
    let first_row = || row(&[("id", id.to_string()), ("name", name.clone())]);
    let (value, fate) = match of.draw() % 16 {
        0 => (Avro::of(UNKNOWN).long(id), Fate::Dead("schema 99 is not in the registry", Some(99))),
        1 => (first().without_end(), Fate::Dead("ends too early", Some(1))),
        2 => (first().long(7), Fate::Dead("follow the value", Some(1))),
        3 => (Avro::bare(id), Fate::Dead("does not begin with the id of a schema", None)),
        4 => (Avro::of(TREE).long(0).long(id), Fate::Dead("contains itself", Some(5))),
        5 if of.n >= SECOND_FROM => {
            let text = format!("{amount} crowns");
            let row = row(&[("id", id.to_string()), ("amount", text.clone())]);
            (Avro::of(TEXT_AMOUNT).long(id).text(&text), Fate::IfAmountIs { text: true, row, schema: 4 })
        }
        6 | 7 if of.n >= THIRD_FROM => {
            let mut row = first_row();
            let extra = format!("extra {id}");
            row.insert("extra".to_owned(), extra.clone());
            (Avro::of(THIRD).long(1).text(&extra).text(&name).long(id), Fate::Row(row))
        }
        8..=11 if of.n >= SECOND_FROM => {
            let mut row = first_row();
            row.insert("amount".to_owned(), amount.to_string());
            (Avro::of(SECOND).long(id).text(&name).double(amount), Fate::IfAmountIs { text: false, row, schema: 2 })
        }
        _ => (first(), Fate::Row(first_row())),
    };
    (Some(value.0.freeze()), fate)
}

/// A value of Avro, with the id of its schema before it.
struct Avro(BytesMut);

impl Avro {
    fn of(schema: u32) -> Self {
        let mut bytes = BytesMut::from(&[0][..]);
        bytes.extend_from_slice(&schema.to_be_bytes());
        Self(bytes)
    }

    /// Bytes that begin with no id.
    fn bare(id: i64) -> Self {
        Self(BytesMut::from(format!("order {id}").as_bytes()))
    }

    /// An int or long, or the number of a union's branch: zigzag, seven bits a byte.
    fn long(mut self, value: i64) -> Self {
        let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
        while left >= 0x80 {
            self.0.extend_from_slice(&[u8::try_from(left & 0x7f).expect("seven bits") | 0x80]);
            left >>= 7;
        }
        self.0.extend_from_slice(&[u8::try_from(left).expect("seven bits")]);
        self
    }

    fn text(self, text: &str) -> Self {
        let mut with_length = self.long(i64::try_from(text.len()).expect("short"));
        with_length.0.extend_from_slice(text.as_bytes());
        with_length
    }

    fn double(mut self, value: f64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn without_end(mut self) -> Self {
        self.0.truncate(self.0.len() - 1);
        self
    }
}
