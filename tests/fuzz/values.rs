//! Values of typed tables: what producers frame with the schema's id, on its way to columns.

use std::sync::{Arc, LazyLock};

use iceberg::spec::{FormatVersion, Schema};
use tidewater::schema::canonical::protobuf::ProtobufSchema;
use tidewater_iceberg::columns::build::{Columns, Layout};
use tidewater_iceberg::columns::evolve::{OnConflict, Table, plan};
use tidewater_iceberg::columns::map::ColumnMap;
use tidewater_iceberg::columns::protobuf::path::MessagePath;
use tidewater_iceberg::registry::{SchemaText, WriterSchema};
use tidewater_iceberg::translate::value_schema::{ValueDecoder, ValueSchema};

use super::target::Target;

/// What the columns of one value may take.
const ROOM: usize = 4 << 20;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        // Columns grow by doubling, the parts of a message wait for its end, and the first input compiles the schema.
        Target::new("value_avro", |input| push(&AVRO_TABLE, input), avros).extra(4 * ROOM),
        Target::new("value_json", |input| push(&JSON_TABLE, input), jsons).extra(4 * ROOM),
        Target::new("value_protobuf", |input| push(&PROTOBUF_TABLE, input), protobufs).extra(4 * ROOM),
    ]
}

/// A decoder and the columns that it fills.
struct Reader {
    layout: Arc<Layout>,
    decoder: ValueDecoder,
}

impl Reader {
    fn new(schema: &WriterSchema) -> Self {
        let schema = ValueSchema::parse(schema, Some(MessagePath::FIRST)).expect("sound");
        let (empty, map) = (Schema::builder().build().expect("no fields"), ColumnMap::default());
        let table = Table { schema: &empty, last_column_id: 0, map: &map, reserved: &[], pinned: &[], taken: &[] };
        let shape = schema.shape(FormatVersion::V2).expect("columns");
        let plan = plan(&table, &shape, OnConflict::Report).expect("sound");
        let layout = Layout::new(&plan.schema, &[]).expect("columns");
        let decoder = schema.decoder(&plan, &layout).expect("sound");
        Self { layout, decoder }
    }
}

static AVRO_TABLE: LazyLock<Reader> = LazyLock::new(|| {
    let schema = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"},{"name":"u","type":["null",
        "string",{"type":"array","items":{"type":"map","values":"double"}}]},{"name":"e","type":{"type":"enum","name":"E",
        "symbols":["A","B"]}},{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
        {"name":"t","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#;
    Reader::new(&WriterSchema::Avro(text(schema)))
});

static JSON_TABLE: LazyLock<Reader> = LazyLock::new(|| {
    let schema = r#"{"type":"object","properties":{"id":{"type":"integer"},"t":{"type":"string","format":"date-time"},
        "l":{"type":"array","items":{"type":"object","additionalProperties":{"type":"number"}}},"any":{}}}"#;
    Reader::new(&WriterSchema::Json(text(schema)))
});

static PROTOBUF_TABLE: LazyLock<Reader> = LazyLock::new(|| {
    let schema = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "google/protobuf/struct.proto";
        import "google/protobuf/wrappers.proto"; import "google/protobuf/duration.proto";
        message R { int64 id = 1; oneof o { string a = 2; M m = 3; } repeated sint32 packed = 4; map<int32, M> map = 5;
        google.protobuf.Timestamp t = 6; google.protobuf.Struct s = 7; google.protobuf.UInt64Value w = 8; E e = 9;
        google.protobuf.Duration d = 10; repeated M many = 11; fixed64 f = 12; bytes b = 13; }
        message M { int32 i = 1; repeated string s = 2; } enum E { A = 0; B = 1; }"#;
    let compiled = ProtobufSchema::parse(schema, &[]).expect("sound").descriptor().expect("sound");
    Reader::new(&WriterSchema::Protobuf(Ok(compiled)))
});

/// A value behind a row that stays: what is refused leaves that as it was.
fn push(reader: &Reader, input: &[u8]) {
    let mut columns = Columns::new(&reader.layout);
    columns.push_null();
    let pushed = reader.decoder.push(input, &mut columns, ROOM);
    assert_eq!(columns.rows(), if pushed.is_ok() { 2 } else { 1 });
    assert!(pushed.is_err() || pushed.is_ok_and(|charged| charged <= ROOM));
    columns.finish().expect("whole columns");
}

fn text(text: &str) -> SchemaText {
    SchemaText { text: text.into(), references: Vec::new() }
}

fn avros() -> Vec<Vec<u8>> {
    let list = [&[2, 4, 2, 2, 2, b'k'][..], &0.5_f64.to_le_bytes(), &[0, 0, 2, 2, 1, 2]].concat();
    vec![vec![2, 0, 2, 2, 1, 2], vec![2, 2, 2, b'x', 0, 2, 1, 2], list]
}

fn jsons() -> Vec<Vec<u8>> {
    vec![
        br#"{"id":1,"t":"2026-01-01T00:00:00.5+01:00","l":[{"k":1e3}],"any":{"a":[null,"\ud83e\udd80"]},"z":1}"#
            .to_vec(),
    ]
}

fn protobufs() -> Vec<Vec<u8>> {
    let field = |number: u8, inner: &[u8]| [&[number << 3 | 2, inner.len() as u8][..], inner].concat();
    let m = [&[8, 7][..], &field(2, b"x")].concat();
    let json = field(1, &[field(1, b"k"), field(2, &field(6, &field(1, &[0x20, 1])))].concat());
    let entry = field(5, &[&[8, 3][..], &field(2, &m)].concat());
    vec![
        [vec![8, 1], field(2, b"text"), field(3, &m), field(3, &m), field(4, &[1, 2, 3]), vec![0x20, 4]].concat(),
        [entry.clone(), entry, field(6, &[8, 1, 16, 2]), field(7, &json), field(8, &[8, 9]), vec![0x48, 5]].concat(),
        [field(10, &[8, 1, 16, 2]), field(11, &m), field(11, &m), vec![0x61, 1, 2, 3, 4, 5, 6, 7, 8], field(13, &[0])]
            .concat(),
        vec![0xa3, 6, 8, 1, 0xa4, 6, 8, 2],
    ]
}
