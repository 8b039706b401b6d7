//! Data files of typed columns: what their footers and the manifest say, and what of a client's values stays out.

use apache_avro::types::Value;
use futures::executor::block_on;
use iceberg::spec::{DataFile, Datum, ManifestList};
use parquet::basic::LogicalType;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tidewater_storage::model::record::Record;

use super::letters::{framed, schema};
use super::*;
use crate::bounds::longest;

const SCHEMA: &str = r#"{"type":"record","name":"R","fields":[
    {"name":"who","type":{"type":"string","logicalType":"uuid"}},
    {"name":"text","type":"string"},
    {"name":"blob","type":["null","bytes"]},
    {"name":"hash","type":{"type":"fixed","name":"Hash","size":40}},
    {"name":"small","type":{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}},
    {"name":"large","type":{"type":"bytes","logicalType":"decimal","precision":38,"scale":2}},
    {"name":"ratio","type":"double"},
    {"name":"never","type":["null","int"]},
    {"name":"day","type":{"type":"int","logicalType":"date"}},
    {"name":"inner","type":{"type":"record","name":"Inner","fields":[{"name":"note","type":["null","string"]}]}},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"more","type":{"type":"map","values":"bytes"}}
]}"#;

fn value(n: usize, bytes: usize) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(SCHEMA).expect("valid");
    let text = format!("{}{n}", "\u{10ffff}".repeat(bytes / 4));
    let decimal = |value: i64| Value::Decimal(apache_avro::Decimal::from(value.to_be_bytes().to_vec()));
    let note =
        if n == 0 { Value::Union(0, Value::Null.into()) } else { Value::Union(1, Value::String(text.clone()).into()) };
    let value = Value::Record(vec![
        ("who".to_owned(), Value::Uuid(Uuid::from_u128(7 + n as u128))),
        ("text".to_owned(), Value::String(format!("{n}{text}"))),
        ("blob".to_owned(), Value::Union(1, Value::Bytes([&[0xff; 64][..], &vec![7; bytes]].concat()).into())),
        ("hash".to_owned(), Value::Fixed(40, vec![0xff; 40])),
        ("small".to_owned(), decimal(-150 + n as i64)),
        ("large".to_owned(), decimal(-i64::MAX + n as i64)),
        ("ratio".to_owned(), Value::Double(if n == 1 { f64::NAN } else { n as f64 })),
        ("never".to_owned(), Value::Union(0, Value::Null.into())),
        ("day".to_owned(), Value::Date(20_000 + n as i32)),
        ("inner".to_owned(), Value::Record(vec![("note".to_owned(), note)])),
        ("tags".to_owned(), Value::Array(vec![Value::String(text.clone())])),
        ("more".to_owned(), Value::Map([(text, Value::Bytes(vec![0xff; bytes]))].into())),
    ]);
    apache_avro::to_avro_datum(&schema, value).expect("encodes")
}

/// The only data file with its footer, and the table's column by its path.
async fn written(world: &World) -> (DataFile, ParquetMetaData, std::collections::HashMap<String, i32>, usize) {
    let catalog = world.catalog();
    let (files, table) = (catalog.files(), catalog.load(&world.table()).await.expect("loads"));
    let list = files.read(table.metadata.current_snapshot().expect("one").manifest_list()).await.expect("list");
    let list = ManifestList::parse_with_version(&list, table.metadata.format_version()).expect("parses");
    let manifest = list.entries()[0].load_manifest(&files.io()).await.expect("loads");
    let bytes = files.read(&list.entries()[0].manifest_path).await.expect("reads").len();
    let file = manifest.entries()[0].data_file().clone();
    let body = files.read(file.file_path()).await.expect("reads");
    let footer = ParquetMetaDataReader::new().parse_and_finish(&body).expect("parses");
    let columns = footer.row_groups().iter().flat_map(|group| group.columns());
    let pages: i64 = columns.map(|column| column.compressed_size()).sum();
    let schema = table.metadata.current_schema();
    let ids = schema.field_id_to_name_map().iter().map(|(id, name)| (name.clone(), *id)).collect();
    (file, footer, ids, bytes.max(body.len() - usize::try_from(pages).expect("positive")))
}

#[test]
fn typed_columns_have_their_bounds_and_nothing_long_is_in_them() {
    block_on(async {
        for (seed, bytes) in [(400, 4), (401, 300_000)] {
            let mut world = World::typed(seed);
            world.registry.register(1, WriterSchema::Avro(schema(SCHEMA)));
            let records = (0..3).map(|n| Record::new(NOW, None, Some(framed(1, &value(n, bytes)))));
            world.log.append_records(0, records.collect::<Vec<_>>());
            let mut sink = world.sink(1);
            drain(&mut sink, NOW).await;
            assert_eq!((sink.status().rows, sink.status().dead_letters), (3, 0), "{:?}", dead_rows(&world).await);
            let (file, footer, ids, overhead) = written(&world).await;
            assert!(longest(&file) <= 16 && overhead < 16_000, "bounds of {}, {overhead} bytes", longest(&file));
            let bounds = |name: &str| {
                let id = ids[name];
                (file.lower_bounds().get(&id).cloned(), file.upper_bounds().get(&id).cloned())
            };
            let both = |low: Datum, high: Datum| (Some(low), Some(high));
            let uuid = |n| Datum::uuid(Uuid::from_u128(n));
            assert_eq!(bounds("who"), both(uuid(7), uuid(9)));
            assert_eq!(bounds("day"), both(Datum::date(20_000), Datum::date(20_002)));
            assert_eq!(bounds("ratio"), both(Datum::double(0.0), Datum::double(2.0)));
            assert_eq!(bounds("never"), (None, None));
            assert_eq!(bounds("hash"), (None, None));
            let text = |low: &str| format!("{low}{}", "\u{10ffff}".repeat(if bytes > 4 { 3 } else { 1 }));
            let (low, high) = bounds("text");
            let end = if bytes > 4 { "" } else { "0" };
            assert_eq!(low, Some(Datum::string(text("0") + end)));
            let highest = if bytes > 4 { "3".to_owned() } else { text("2") + "2" };
            assert_eq!(high, Some(Datum::string(highest)));
            assert_eq!(bounds("blob").1, None, "no short one exists");
            let decimals = ["small", "large"].map(|name| {
                let (low, high) = bounds(name);
                (low.expect("a bound").to_string(), high.expect("a bound").to_string())
            });
            assert_eq!(decimals[0], ("-1.50".to_owned(), "-1.48".to_owned()));
            let count = |counts: &std::collections::HashMap<i32, u64>, name: &str| counts.get(&ids[name]).copied();
            for (name, nulls) in
                [("never", Some(3)), ("inner.note", Some(1)), ("text", Some(0)), ("tags.element", None)]
            {
                assert_eq!(count(file.null_value_counts(), name), nulls, "{name}");
            }
            assert_eq!(count(file.nan_value_counts(), "ratio"), Some(1));
            for name in ["tags.element", "more.key", "more.value"] {
                assert_eq!(bounds(name), (None, None), "{name}");
                assert!(file.value_counts().contains_key(&ids[name]), "{name}");
            }
            let columns = footer.file_metadata().schema_descr().columns();
            let who = columns.iter().find(|column| column.name() == "who").expect("a column");
            assert_eq!(who.logical_type_ref(), Some(&LogicalType::Uuid));
            let paths: Vec<_> = columns.iter().map(|column| column.path().string()).collect();
            for path in ["tags.list.element", "more.key_value.key", "more.key_value.value"] {
                assert!(paths.iter().any(|held| held == path), "{path}: {paths:?}");
            }
            assert!(columns.iter().all(|column| column.self_type().get_basic_info().has_id()), "field ids");
        }
    });
}
