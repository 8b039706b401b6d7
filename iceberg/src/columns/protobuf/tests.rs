//! Random messages and values: each row equals what `prost-reflect` reads, and what it does not read is no row.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind as Declared, MapKey, ReflectMessage, Value};

use super::decode::Decoder;
use super::decode::wire::{Raw, Reader};
use super::*;
use crate::columns::build::{Columns, Layout};
use crate::columns::evolve::OnConflict;
use crate::columns::fault::{BadValue, Fault};
use crate::columns::fixture::{Cell, Follower, Random, cases, float};

mod evolution;
mod generate;
mod values;

/// Compiles a file whose imports come with Protobuf.
pub(crate) fn compile(text: &str) -> FileDescriptor {
    use protox::file::{File, FileResolver, GoogleFileResolver};
    struct One(String);
    impl FileResolver for One {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name {
                "one.proto" => File::from_source(name, &self.0),
                name => GoogleFileResolver::new().open_file(name),
            }
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(One(text.to_owned()));
    compiler.include_imports(true).open_file("one.proto").unwrap_or_else(|why| panic!("{why}: {text}"));
    compiler.descriptor_pool().get_file_by_name("one.proto").expect("the file")
}

/// The first message of a file.
fn first(text: &str) -> Schema {
    Schema::new(&compile(text), &MessagePath::FIRST).expect("a message")
}

impl Follower {
    fn follow_message(&mut self, schema: &Schema) {
        self.follow(&schema.shape().expect("shape"), OnConflict::Report);
    }

    /// For a message that the table has followed before.
    fn message_decoder(&self, schema: &Schema, layout: &Arc<Layout>) -> Decoder {
        let plan = self.plan(&schema.shape().expect("shape"), OnConflict::Report).expect("plan");
        assert_eq!(plan.changes, [], "a message that was followed needs no change");
        assert_eq!(plan.map, self.map);
        Decoder::new(schema, &plan, layout).expect("decoder")
    }
}

/// One message, read by both sides.
struct Both {
    theirs: MessageDescriptor,
    follower: Follower,
    layout: Arc<Layout>,
    decoder: Decoder,
}

impl Both {
    fn new(text: &str) -> Self {
        let file = compile(text);
        let theirs = MessagePath::FIRST.find(&file).expect("a message");
        let ours = Schema::new(&file, &MessagePath::FIRST).expect("a message");
        let mut follower = Follower::new();
        follower.follow_message(&ours);
        let layout = follower.layout();
        let decoder = follower.message_decoder(&ours, &layout);
        Self { theirs, follower, layout, decoder }
    }

    /// Decodes each value into the same columns, and compares rows and refusals with the reference.
    fn compare(&self, values: &[Vec<u8>]) -> usize {
        const LIMIT: usize = 1 << 20;
        let mut columns = Columns::new(&self.layout);
        let mut wanted = Vec::new();
        for value in values {
            let before = columns.rows();
            let theirs = DynamicMessage::decode(self.theirs.clone(), value.as_slice());
            match self.decoder.push(value, &mut columns, LIMIT) {
                Ok(charged) => {
                    assert!(charged <= LIMIT);
                    match theirs {
                        Ok(theirs) => wanted.push(row_of(&theirs)),
                        // The reference looks at what a later field replaces, too.
                        Err(_) if replaces(value, &self.theirs) => columns.truncate(before),
                        Err(why) => panic!("the reference reads no {value:?}: {why}"),
                    }
                }
                Err(BadValue { fault, .. }) => {
                    assert_eq!(columns.rows(), before);
                    // The reference does not look at the wire type of maps.
                    let is_map = |number| {
                        let mut messages = self.theirs.parent_pool().all_messages();
                        messages.any(|message| message.get_field(number).is_some_and(|field| field.is_map()))
                    };
                    let is_stricter = !fault.is_malformed() || matches!(fault, Fault::Wire(number) if is_map(number));
                    assert!(is_stricter || theirs.is_err(), "{fault}: the reference reads {value:?}");
                }
            }
        }
        let rows = self.follower.rows(columns);
        assert_eq!(rows.len(), wanted.len());
        for (row, wanted) in rows.iter().zip(&wanted) {
            assert_eq!(row, wanted);
        }
        rows.len()
    }
}

/// Whether a field, or another one of its oneof, comes again in a message or in one inside it.
fn replaces(value: &[u8], of: &MessageDescriptor) -> bool {
    let (mut reader, mut seen) = (Reader::new(value), HashSet::new());
    while let Ok((number, wire)) = reader.tag() {
        let Ok(raw) = reader.value(number, wire) else { return false };
        let Some(field) = of.get_field(number) else { continue };
        let name = field.containing_oneof().map_or_else(|| field.name().to_owned(), |oneof| oneof.name().to_owned());
        let is_again = !field.is_list() && !field.is_map() && !seen.insert(name);
        let inside = match (raw, field.kind()) {
            (Raw::Bytes(inner), Declared::Message(message)) => replaces(inner, &message),
            _ => false,
        };
        if is_again || inside {
            return true;
        }
    }
    false
}

/// The row that a message read by the reference should be.
fn row_of(message: &DynamicMessage) -> Cell {
    let mut cells = BTreeMap::new();
    for field in message.descriptor().fields() {
        let cell = match message.get_field(&field).as_ref() {
            Value::List(items) => Cell::List(items.iter().map(|item| cell_of(item, &field.kind())).collect()),
            Value::Map(entries) => {
                let kind = field.kind();
                let value = kind.as_message().expect("an entry").map_entry_value_field().kind();
                let entry = |(key, item): (&MapKey, &Value)| (key_of(key), cell_of(item, &value));
                Cell::Map(entries.iter().map(entry).collect())
            }
            _ if field.supports_presence() && !message.has_field(&field) => Cell::Null,
            value => cell_of(value, &field.kind()),
        };
        if cell != Cell::Null {
            cells.insert(field.name().to_owned(), cell);
        }
    }
    Cell::Struct(cells)
}

fn key_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

fn cell_of(value: &Value, kind: &Declared) -> Cell {
    match value {
        Value::Bool(value) => Cell::Bool(*value),
        Value::I32(value) => Cell::Int((*value).into()),
        Value::I64(value) => Cell::Int((*value).into()),
        Value::U32(value) => Cell::Int((*value).into()),
        Value::U64(value) => Cell::Int((*value).into()),
        Value::F32(value) => float((*value).into()),
        Value::F64(value) => float(*value),
        Value::String(text) => Cell::Text(text.clone()),
        Value::Bytes(bytes) => Cell::Bytes(bytes.to_vec()),
        Value::EnumNumber(number) => {
            let kind = kind.as_enum().expect("an enum");
            let values = &kind.enum_descriptor_proto().value;
            let found = values.iter().find(|value| value.number() == *number);
            Cell::Text(found.map_or_else(|| number.to_string(), |found| found.name().to_owned()))
        }
        Value::Message(message) => match message.descriptor().full_name() {
            "google.protobuf.Timestamp" => {
                let (seconds, nanos) = seconds_of(message);
                Cell::Int(i128::from(seconds) * 1_000_000 + i128::from(nanos) / 1000)
            }
            "google.protobuf.Duration" => {
                let (seconds, nanos) = seconds_of(message);
                Cell::Int(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
            }
            name if name.starts_with("google.protobuf.") && name.ends_with("Value") => {
                let field = message.descriptor().get_field(1).expect("a value");
                cell_of(&message.get_field(&field), &field.kind())
            }
            _ => row_of(message),
        },
        value => unreachable!("{value:?} is in a list or map"),
    }
}

fn seconds_of(message: &DynamicMessage) -> (i64, i32) {
    let field = |name| message.get_field_by_name(name).expect("a field").into_owned();
    (field("seconds").as_i64().expect("a number"), field("nanos").as_i32().expect("a number"))
}

#[test]
fn values_are_the_rows_that_the_reference_reads() {
    let mut rows = 0;
    for seed in 0..cases(150) {
        let mut random = Random::new(seed);
        let text = generate::file(&mut random);
        let both = Both::new(&text);
        let values: Vec<_> = (0..20).map(|_| generate::value(&mut random, &both.theirs)).collect();
        assert_eq!(both.compare(&values), values.len(), "{text}");
        rows += values.len();
    }
    assert!(rows > 1000);
}

#[test]
fn damaged_values_are_rows_only_where_the_reference_reads_them() {
    for seed in 0..cases(150) {
        let mut random = Random::new(seed);
        let both = Both::new(&generate::file(&mut random));
        let values: Vec<_> = (0..60)
            .map(|_| {
                let value = generate::value(&mut random, &both.theirs);
                random.damage(value, &[0, 1, 8, 10, 0x0b, 0x0c, 0x7f, 0x80, 0xff])
            })
            .collect();
        both.compare(&values);
    }
}

/// Two values behind each other are one value: the reader's own definition of merging.
#[test]
fn values_behind_each_other_are_merged() {
    for seed in 0..cases(100) {
        let mut random = Random::new(seed);
        let both = Both::new(&generate::file(&mut random));
        let mut value = || generate::value(&mut random, &both.theirs);
        let values: Vec<_> = (0..20).map(|_| [value(), value(), value()].concat()).collect();
        assert_eq!(both.compare(&values), values.len());
    }
}
