//! Random schemas and values: each row equals what `apache-avro` reads, and what it does not read is no row.

use std::collections::BTreeMap;
use std::sync::Arc;

use apache_avro::types::Value;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::decode::Decoder;
use super::shape::Nanos;
use super::*;
use crate::columns::build::{Columns, Layout};
use crate::columns::evolve::{OnConflict, Plan, Table, plan};
use crate::columns::fault::{BadValue, Fault};
use crate::columns::fixture::{Cell, Follower, cases, cell, float};

mod evolution;
mod generate;
mod values;

use generate::Generator;

impl Follower {
    fn follow_avro(&mut self, schema: &Schema, on_conflict: OnConflict) -> Plan {
        self.follow(&schema.shape(Nanos::Keep).expect("shape"), on_conflict)
    }

    /// For a schema that the table has followed before.
    fn decoder(&self, schema: &Schema, layout: &Arc<Layout>) -> Decoder {
        let plan = self.plan(&schema.shape(Nanos::Keep).expect("shape"), OnConflict::Column).expect("plan");
        assert_eq!(plan.changes, [], "a schema that was followed needs no change");
        Decoder::new(&Arc::new(schema.clone()), &plan, layout).expect("decoder")
    }
}

/// The value as `apache-avro` reads it, if it reads it. The byte behind the value must be left over: the crate takes
/// some values that end too early for nulls.
pub(super) fn reference(schema: &apache_avro::Schema, value: &[u8]) -> Result<Value, String> {
    let longer = [value, &[0]].concat();
    let mut reader = &longer[..];
    let read = apache_avro::from_avro_datum(schema, &mut reader, None).map_err(|e| e.to_string())?;
    if reader.len() == 1 { Ok(read) } else { Err(format!("{} bytes are left", reader.len())) }
}

/// Whether values of the type have no content, by the schema's text.
fn is_empty(schema: &Json) -> bool {
    match schema {
        Json::String(name) => name == "null",
        Json::Array(branches) => branches.iter().all(is_empty),
        schema => match schema["type"].as_str() {
            Some("record") => schema["fields"].as_array().expect("fields").iter().all(|field| is_empty(&field["type"])),
            Some("array") => is_empty(&schema["items"]),
            Some("map") => is_empty(&schema["values"]),
            Some(name) => name == "null",
            None => is_empty(&schema["type"]),
        },
    }
}

/// The row that a value read by the reference should be.
pub(super) fn expected_row(schema: &Json, value: &Value) -> Cell {
    match (schema, expected(schema, value)) {
        (_, Cell::Struct(row)) => Cell::Struct(row),
        (_, Cell::Null) => Cell::Struct(BTreeMap::new()),
        (_, cell) => Cell::Struct(BTreeMap::from([("value".to_owned(), cell)])),
    }
}

fn expected(schema: &Json, value: &Value) -> Cell {
    if is_empty(schema) {
        return Cell::Null;
    }
    let int = |value: i64| Cell::Int(value.into());
    match (schema, value) {
        (Json::Array(branches), Value::Union(index, inner)) => {
            let branch = &branches[*index as usize];
            let cell = expected(branch, inner);
            if is_empty(branch) || branches.iter().filter(|branch| !is_empty(branch)).count() == 1 {
                return cell;
            }
            let name = branch.as_str().or(branch["name"].as_str()).or(branch["type"].as_str()).expect("a name");
            Cell::Struct([(name.to_owned(), cell)].into_iter().filter(|(_, cell)| *cell != Cell::Null).collect())
        }
        (_, Value::Boolean(value)) => Cell::Bool(*value),
        (_, Value::Int(value) | Value::Date(value)) => int((*value).into()),
        (_, Value::TimeMillis(value)) => int(i64::from(*value) * 1000),
        (_, Value::TimestampMillis(value) | Value::LocalTimestampMillis(value)) => int(value * 1000),
        (
            _,
            Value::Long(value)
            | Value::TimeMicros(value)
            | Value::TimestampMicros(value)
            | Value::LocalTimestampMicros(value)
            | Value::TimestampNanos(value)
            | Value::LocalTimestampNanos(value),
        ) => int(*value),
        (_, Value::Float(value)) => float((*value).into()),
        (_, Value::Double(value)) => float(*value),
        (_, Value::Bytes(bytes) | Value::Fixed(_, bytes)) => Cell::Bytes(bytes.clone()),
        (_, Value::String(text) | Value::Enum(_, text)) => Cell::Text(text.clone()),
        (_, Value::Uuid(uuid)) => Cell::Bytes(uuid.as_bytes().to_vec()),
        (_, Value::Duration(duration)) => Cell::Bytes(<[u8; 12]>::from(*duration).to_vec()),
        (_, Value::Decimal(decimal)) => {
            let bytes = Vec::<u8>::try_from(decimal).expect("its bytes");
            let sign: i128 = if bytes.first().is_some_and(|byte| *byte >= 0x80) { -1 } else { 0 };
            Cell::Int(bytes.iter().fold(sign, |number, byte| number << 8 | i128::from(*byte)))
        }
        (schema, Value::Array(items)) => {
            Cell::List(items.iter().map(|item| expected(&schema["items"], item)).collect())
        }
        (schema, Value::Map(items)) => {
            let entry = |(key, item): (&String, &Value)| (key.clone(), expected(&schema["values"], item));
            Cell::Map(items.iter().map(entry).collect::<BTreeMap<_, _>>())
        }
        (schema, Value::Record(members)) => {
            let fields = schema["fields"].as_array().expect("fields");
            let cells = fields
                .iter()
                .zip(members)
                .map(|(field, (name, value))| (name.clone(), expected(&field["type"], value)));
            Cell::Struct(cells.filter(|(_, cell)| *cell != Cell::Null).collect())
        }
        (schema, value) => unreachable!("{schema} has {value:?}"),
    }
}

/// One schema, read by both sides.
struct Both {
    text: Json,
    theirs: apache_avro::Schema,
    follower: Follower,
    layout: Arc<Layout>,
    decoder: Decoder,
}

impl Both {
    /// `None`: the schema has no column.
    fn new(text: Json) -> Option<Self> {
        let theirs = apache_avro::Schema::parse_str(&text.to_string()).expect("schema");
        let ours = Schema::parse(&text.to_string(), &[]).expect("schema");
        let mut follower = Follower::new();
        if is_empty(&text) {
            assert_eq!(ours.shape(Nanos::Keep), Err(Refused::Empty));
            return None;
        }
        follower.follow_avro(&ours, OnConflict::Report);
        let layout = follower.layout();
        let decoder = follower.decoder(&ours, &layout);
        Some(Self { text, theirs, follower, layout, decoder })
    }

    /// Decodes each value into the same columns, and compares rows and refusals with the reference.
    fn compare(&self, values: &[Vec<u8>]) {
        const LIMIT: usize = 1 << 20;
        let mut columns = Columns::new(&self.layout);
        let mut wanted = Vec::new();
        for value in values {
            let before = columns.rows();
            match self.decoder.push(value, &mut columns, LIMIT) {
                Ok(charged) => {
                    assert!(charged <= LIMIT);
                    let theirs = reference(&self.theirs, value);
                    match theirs {
                        Ok(theirs) => wanted.push(expected_row(&self.text, &theirs)),
                        // Of an array of nulls: we have no items to keep.
                        Err(e) if e.starts_with("Unable to allocate") => columns.truncate(before),
                        Err(e) => unreachable!("{e}: {value:?} of {}", self.text),
                    }
                }
                Err(BadValue { fault, .. }) => {
                    assert_eq!(columns.rows(), before);
                    // The reference does not look at sizes of blocks, and cuts varints.
                    let is_stricter = !fault.is_malformed() || matches!(fault, Fault::Block | Fault::Varint);
                    assert!(
                        is_stricter || reference(&self.theirs, value).is_err(),
                        "{fault}: the reference reads {value:?} of {}",
                        self.text
                    );
                }
            }
        }
        let rows = self.follower.rows(columns);
        assert_eq!(rows.len(), wanted.len());
        for (row, wanted) in rows.iter().zip(&wanted) {
            assert_eq!(row, wanted, "of {}", self.text);
        }
    }
}

#[test]
fn values_are_the_rows_that_the_reference_reads() {
    let mut rows = 0;
    for seed in 0..cases(300) {
        let mut generator = Generator::new(seed);
        let schema = generator.schema();
        let values: Vec<_> = (0..20).map(|_| generator.value(&schema)).collect();
        if let Some(both) = Both::new(schema) {
            both.compare(&values);
            rows += values.len();
        }
    }
    assert!(rows > 1000);
}

/// Whether this process is for the test alone; if not, runs it in such a process. What the reference may allocate for
/// one count is set once for a process, before it reads anything, to half a gigabyte if by no one else. Damaged counts
/// need less, but tables' manifests, which other tests read with the same crate, need more.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "TIDEWATER_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        apache_avro::util::max_allocation_bytes(1 << 16);
        return true;
    }
    let program = std::env::current_exe().expect("a path");
    let module = module_path!().split_once("::").expect("in a crate").1;
    let name = format!("{module}::{test}");
    let ran = std::process::Command::new(program).args([&name, "--exact"]).env(ALONE, "1").output().expect("runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    false
}

#[test]
fn damaged_values_are_rows_only_where_the_reference_reads_them() {
    if !is_alone("damaged_values_are_rows_only_where_the_reference_reads_them") {
        return;
    }
    for seed in 0..cases(300) {
        let mut generator = Generator::new(seed);
        let schema = generator.schema();
        let values: Vec<_> = (0..60)
            .map(|_| {
                let value = generator.value(&schema);
                generator.damage(value)
            })
            .collect();
        if let Some(both) = Both::new(schema) {
            both.compare(&values);
        }
    }
}

#[test]
fn any_bytes_leave_the_columns_whole() {
    if is_alone("any_bytes_leave_the_columns_whole") {
        bytes_leave_the_columns_whole();
    }
}

proptest! {
    fn bytes_leave_the_columns_whole(
        seed in 0_u64..1000,
        values in proptest::collection::vec(any::<Vec<u8>>(), 1..20),
    ) {
        if let Some(both) = Both::new(Generator::new(seed).schema()) {
            both.compare(&values);
        }
    }

    #[test]
    fn any_text_is_refused_or_a_schema(text in "[\\[\\]{}:,\"a-z0-9 ]{0,60}") {
        let _ = Schema::parse(&text, &[]);
    }
}
