//! Keys of each format in columns beside the value's.

use std::collections::BTreeMap;

use iceberg::spec::{FormatVersion, Schema};

use super::*;
use crate::columns::evolve::{self, OnConflict, Table};
use crate::columns::fixture::{Cell, Random, cases, cell};
use crate::columns::map::ColumnMap;
use crate::columns::protobuf::path::MessagePath;
use crate::columns::protobuf::tests::compile;
use crate::registry::{SchemaText, WriterSchema};
use crate::translate::value_schema::{ValueDecoder, ValueSchema};

/// A table that follows the schemas of keys.
struct Keys {
    schema: Schema,
    last: i32,
    map: ColumnMap,
}

fn avro(text: &str) -> WriterSchema {
    WriterSchema::Avro(SchemaText { text: text.into(), references: Vec::new() })
}

fn json(text: &str) -> WriterSchema {
    WriterSchema::Json(SchemaText { text: text.into(), references: Vec::new() })
}

fn of(cells: impl IntoIterator<Item = (&'static str, Cell)>) -> Cell {
    Cell::Struct(cells.into_iter().map(|(name, cell)| (name.to_owned(), cell)).collect::<BTreeMap<_, _>>())
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

impl Keys {
    fn new() -> Self {
        let schema = Schema::builder().build().expect("no fields");
        Self { schema, last: 0, map: ColumnMap::default() }
    }

    /// Of columns that a value of `schema` needs.
    fn beside(schema: &WriterSchema) -> Self {
        let mut keys = Self::new();
        let shape = ValueSchema::parse(schema, None).and_then(|schema| schema.shape(FormatVersion::V2)).expect("shape");
        keys.follow(&shape, OnConflict::Report).expect("follows");
        keys
    }

    fn follow(&mut self, shape: &Shape, on_conflict: OnConflict) -> Result<Plan, String> {
        let (schema, last_column_id, map) = (&self.schema, self.last, &self.map);
        let table = Table { schema, last_column_id, map, reserved: &[], pinned: &[], taken: &[] };
        let plan = evolve::plan(&table, shape, on_conflict).expect("plan");
        if let Some(conflict) = plan.conflicts.first() {
            return Err(conflict.to_string());
        }
        (self.schema, self.last) = (plan.schema.clone(), plan.last_column_id);
        self.map = ColumnMap::parse(&plan.map.to_text()).expect("own text");
        Ok(plan)
    }

    fn decoder(
        &mut self,
        schema: &WriterSchema,
        on_conflict: OnConflict,
    ) -> Result<(ValueDecoder, Arc<Layout>), String> {
        let schema = ValueSchema::parse(schema, Some(MessagePath::FIRST)).expect("parses");
        let shape = schema.key_shape(FormatVersion::V2).expect("shape");
        let plan = self.follow(&shape, on_conflict)?;
        let ids: Vec<i32> = self.map.record_keys().collect();
        let layout = Layout::of_keys(&self.schema, &ids).expect("layout");
        let decoder = schema.key_decoder(&plan, &layout).expect("decoder");
        Ok((decoder, layout))
    }

    /// The key as the columns have it.
    fn read(&mut self, schema: &WriterSchema, key: &[u8]) -> Result<Cell, String> {
        let (decoder, layout) = self.decoder(schema, OnConflict::Report)?;
        let mut columns = Columns::new(&layout);
        columns.push_null();
        let pushed = decoder.push(key, &mut columns, 1 << 20);
        columns.push_null();
        let fields = self.schema.as_struct().fields();
        let arrays = columns.finish().expect("columns");
        let row = |at| {
            let cells = arrays.iter().map(|(field, array)| (fields[*field].name.clone(), cell(array, at)));
            Cell::Struct(cells.filter(|(_, cell)| *cell != Cell::Null).collect())
        };
        assert_eq!(row(0), of([]), "the rows before and behind it are null");
        match pushed {
            Ok(_) => {
                assert_eq!(row(2), of([]));
                Ok(row(1))
            }
            Err(bad) => {
                assert_eq!(row(1), of([]), "no trace");
                Err(bad.to_string())
            }
        }
    }
}

const RECORD: &str = r#"{"type":"record","name":"K","fields":[{"name":"customerId","type":"long"}]}"#;
const MORE: &str = r#"{"type":"record","name":"K","fields":[{"name":"region","type":"string"},
    {"name":"customer","type":"long","aliases":["customerId"]}]}"#;

#[test]
fn a_record_is_a_struct_that_follows_its_schemas() {
    let mut keys = Keys::new();
    assert_eq!(keys.read(&avro(RECORD), &[14]), Ok(of([("key", of([("customerid", Cell::Int(7))]))])));
    let row = of([("key", of([("customer", Cell::Int(3)), ("region", text("a"))]))]);
    assert_eq!(keys.read(&avro(MORE), &[2, b'a', 6]), Ok(row), "renamed by alias, and one more");
    assert_eq!(keys.read(&avro(RECORD), &[4]), Ok(of([("key", of([("customer", Cell::Int(2))]))])));
    let nullable = format!(r#"["null",{RECORD}]"#);
    assert_eq!(keys.read(&avro(&nullable), &[0]), Ok(of([])), "null, and no struct of nulls");
    assert_eq!(keys.read(&avro(&nullable), &[2, 8]), Ok(of([("key", of([("customer", Cell::Int(4))]))])));
    assert_eq!(keys.read(&avro(RECORD), &[0x80]), Err("the value ends too early (byte 0)".to_owned()));
    assert_eq!(keys.read(&avro(RECORD), &[2, 0]), Err("1 bytes follow the value (byte 1)".to_owned()));
}

#[test]
fn a_damaged_key_leaves_no_trace() {
    let mut keys = Keys::new();
    let schemas = [
        (avro(MORE), vec![4, b'a', b'b', 6]),
        (json(r#"{"properties":{"id":{"type":"integer"}}}"#), br#"{"id":5}"#.to_vec()),
        (WriterSchema::Text, "né".as_bytes().to_vec()),
    ];
    let (mut random, mut refused) = (Random::new(1), 0);
    for case in 0..cases(600) {
        let (schema, good) = &schemas[case as usize % schemas.len()];
        // What `read` looks at is the point.
        refused += usize::from(keys.read(schema, &random.damage(good.clone(), &[0, 0xff, b'"'])).is_err());
        keys.read(schema, good).expect("a key");
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_key_that_is_no_record_is_a_column_of_its_type() {
    let mut keys = Keys::new();
    assert_eq!(keys.read(&avro(r#""long""#), &[5]), Ok(of([("key", Cell::Int(-3))])));
    assert_eq!(keys.read(&avro(r#""int""#), &[6]), Ok(of([("key", Cell::Int(3))])), "fits into the long");
    let refused = keys.read(&avro(r#""string""#), &[2, b'a']).expect_err("a conflict");
    assert_eq!(refused, "column key is long; the schema has string there");
    let refused = keys.read(&avro(RECORD), &[2]).expect_err("a conflict");
    assert_eq!(refused, "column key is long; the schema has struct there");
    keys.decoder(&avro(RECORD), OnConflict::Column).expect("a column beside");
    assert_eq!(keys.read(&avro(RECORD), &[2]), Ok(of([("key__struct", of([("customerid", Cell::Int(1))]))])));
    assert_eq!(keys.read(&avro(r#""long""#), &[2]), Ok(of([("key", Cell::Int(1))])), "the first one takes its own");
}

#[test]
fn json_and_protobuf_keys_share_the_struct_by_name() {
    let mut keys = Keys::new();
    let schema = json(r#"{"properties":{"id":{"type":"integer"},"tags":{"type":"array","items":{"type":"string"}}}}"#);
    let row = of([("key", of([("id", Cell::Int(5)), ("tags", Cell::List(vec![text("x")]))]))]);
    assert_eq!(keys.read(&schema, br#"{"id":5,"tags":["x"]}"#), Ok(row));
    assert_eq!(keys.read(&schema, b"null"), Ok(of([])));
    assert!(keys.read(&schema, br#"{"id":5,"tags":["x","#).is_err());
    assert_eq!(keys.read(&json(r#"{"type":"string"}"#), b"1").map_err(|why| why.contains("struct")), Err(true));
    let message = compile(r#"syntax = "proto3"; message OrderKey { int64 id = 1; string region = 2; }"#);
    let row = of([("key", of([("id", Cell::Int(3)), ("region", text(""))]))]);
    assert_eq!(keys.read(&WriterSchema::Protobuf(Ok(message)), &[8, 3]), Ok(row));
    assert!(keys.map.to_text().contains(r#""in":1,"key":"$OrderKey.2""#), "{}", keys.map.to_text());
}

#[test]
fn text_and_schemas_have_columns_of_their_own() {
    let mut keys = Keys::new();
    assert_eq!(keys.read(&WriterSchema::Text, "é".as_bytes()), Ok(of([("key", text("é"))])));
    assert_eq!(keys.read(&WriterSchema::Text, b""), Ok(of([("key", text(""))])), "empty, not null");
    assert_eq!(keys.read(&WriterSchema::Text, b"a\xff"), Err("a string is not UTF-8 (byte 1)".to_owned()));
    assert_eq!(keys.read(&avro(RECORD), &[2]), Ok(of([("key__struct", of([("customerid", Cell::Int(1))]))])));
    assert_eq!(keys.read(&WriterSchema::Text, b"b"), Ok(of([("key", text("b"))])));
    let (decoder, layout) = keys.decoder(&WriterSchema::Text, OnConflict::Report).expect("decoder");
    let pushed = decoder.push(b"0123456789", &mut Columns::new(&layout), 9);
    assert!(matches!(pushed, Err(BadValue { fault: Fault::Large(9), .. })), "{pushed:?}");
}

#[test]
fn a_value_that_has_a_member_of_that_name_keeps_it() {
    let value = json(r#"{"properties":{"key":{"type":"integer"}}}"#);
    let mut keys = Keys::beside(&value);
    assert_eq!(keys.read(&WriterSchema::Text, b"b"), Ok(of([("key__string", text("b"))])));
    assert_eq!(keys.read(&avro(RECORD), &[2]), Ok(of([("key__struct", of([("customerid", Cell::Int(1))]))])));
}

#[test]
fn a_key_whose_column_its_owner_dropped_is_not_read() {
    let mut keys = Keys::new();
    keys.read(&avro(r#"["int","string"]"#), &[0, 2]).expect("a union");
    keys.schema = Schema::builder().build().expect("no fields");
    assert_eq!(keys.read(&avro(r#"["int","string"]"#), &[0, 2]), Ok(of([])));
    assert_eq!(keys.read(&avro(r#"["int","string"]"#), &[9]), Ok(of([])), "it may be anything");
}
