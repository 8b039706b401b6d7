//! Tables of other programs that topics go on in: what was there stays, and what does not fit is refused in words.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use iceberg::TableUpdate;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, FormatVersion, NestedField, PrimitiveType, Schema, Struct,
    Transform, Type, UnboundPartitionSpec,
};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater_storage::model::Offset;
use tidewater_storage::model::record::Record;

use super::*;
use crate::catalog::NewTable;
use crate::mode::TableMode;
use crate::sink::{AdoptAsk, AdoptFrom, RewindAsk, RewindTo};

const SCHEMA: &str = r#"{"properties":{"id":{"type":"integer"},"customer":{"type":"string"},"amount":{"type":"integer"},
    "extra":{"type":"boolean"}}}"#;

fn begin(seed: u64) -> World {
    World { mode: TableMode::Json { schema: SCHEMA.into() }, ..World::new(seed) }
}

fn config(world: &World, epoch: u64) -> SinkConfig {
    SinkConfig { table: TableIdent::from_strs(["lake", "o"]).expect("legal"), ..world.config(epoch) }
}

fn produce(world: &World, ids: std::ops::Range<i64>) {
    let value = |id| format!(r#"{{"id":{id},"customer":"c{id}","amount":{},"extra":true}}"#, id * 10);
    let records = ids.map(|id| Record::new(NOW, Some(Bytes::from_static(b"k")), Some(Bytes::from(value(id)))));
    world.log.append_records(0, records.collect::<Vec<_>>());
}

fn own_schema() -> Schema {
    let field = |id, name, kind| NestedField::optional(id, name, Type::Primitive(kind)).into();
    let fields = [
        field(1, "id", PrimitiveType::Long),
        field(2, "Customer", PrimitiveType::String),
        field(3, "amount", PrimitiveType::Int),
    ];
    Schema::builder().with_fields(fields).build().expect("legal")
}

async fn make(world: &World, schema: Schema, spec: Option<UnboundPartitionSpec>, format: FormatVersion) {
    let catalog = world.catalog();
    let table = config(world, 1).table;
    catalog.ensure_namespace(&table.namespace).await.expect("made");
    let new = NewTable { schema, spec, order: None, location: None, properties: [].into(), format };
    catalog.create(&table, new).await.expect("made");
}

async fn commit(world: &World, updates: Vec<TableUpdate>) {
    world.catalog().commit(&config(world, 1).table, Vec::new(), updates).await.expect("commits");
}

/// A table with three rows, of which a snapshot says offsets of something else.
async fn make_with_rows(world: &World) {
    make(world, own_schema(), None, FormatVersion::V2).await;
    let (catalog, table) = (world.catalog(), config(world, 1).table);
    let foreign = TableOwner { cluster: Uuid::from_u128(99), topic: TopicId(Uuid::from_u128(98)), epoch: 9 };
    let properties = foreign.properties();
    let names: Vec<String> = properties.keys().cloned().collect();
    commit(world, vec![TableUpdate::SetProperties { updates: properties }]).await;
    let mut committer = Committer::new(catalog.clone(), table, foreign, Names::seeded(77), Bounds::default());
    let base = committer.refresh().await.expect("loads");
    let schema = FileSchema::new(base.metadata.current_schema()).expect("columns");
    let batch = RecordBatch::try_new(
        schema.arrow.clone(),
        vec![
            Arc::new(Int64Array::from(vec![-1, -2, -3])),
            Arc::new(StringArray::from(vec!["a", "b", "c"])),
            Arc::new(Int32Array::from(vec![1, 2, 3])),
        ],
    );
    let mut body = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut body, schema.arrow.clone(), None).expect("opens");
    writer.write(&batch.expect("fits")).expect("written");
    writer.close().expect("closed");
    let path = format!("{}/data/foreign.parquet", base.metadata.location());
    let bytes = body.len() as u64;
    catalog.files().write(&path, body.into()).await.expect("written");
    let file = DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(path)
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(0)
        .record_count(3)
        .file_size_in_bytes(bytes)
        .build();
    let mut append = Append {
        files: vec![file.expect("complete")],
        spec_id: 0,
        table: base.metadata.uuid(),
        from: Offsets::new(),
        to: [(PartitionIndex(0), Offset::new(7777))].into(),
        skipped: Vec::new(),
        properties: Vec::new(),
        summary: Vec::new(),
        beside: Vec::new(),
        uncertain: false,
    };
    committer.append(&mut append, NOW).await.expect("appended");
    let removals = names.into_iter().chain([offsets::OFFSETS.to_owned()]).collect();
    commit(world, vec![TableUpdate::RemoveProperties { removals }]).await;
}

fn ask(from: AdoptFrom) -> AdoptAsk {
    AdoptAsk { table: "lake.o".to_owned(), from, is_plan: false }
}

fn at(offset: u64) -> Offsets {
    [(PartitionIndex(0), Offset::new(offset))].into()
}

/// The ids in all rows, ascending.
async fn ids_in(world: &World) -> Vec<i64> {
    let mut ids = Vec::new();
    for body in world.data_files(&config(world, 1).table).await {
        let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|it| it.build()).expect("parquet");
        for batch in reader {
            let batch = batch.expect("reads");
            let column = batch.column_by_name("id").expect("there").as_primitive::<Int64Type>();
            assert_eq!(column.null_count(), 0);
            ids.extend(column.values().iter().copied());
        }
    }
    ids.sort_unstable();
    ids
}

async fn columns(world: &World) -> Vec<(i32, String, String)> {
    let loaded = world.catalog().load(&config(world, 1).table).await.expect("loads");
    let fields = loaded.metadata.current_schema().as_struct().fields().to_vec();
    fields
        .iter()
        .map(|field| {
            let kind = if field.field_type.is_struct() { "struct".to_owned() } else { field.field_type.to_string() };
            (field.id, field.name.clone(), kind)
        })
        .collect()
}

#[test]
fn a_topic_goes_on_in_a_table_with_rows() {
    for layout in [SystemLayout::Struct, SystemLayout::Flat] {
        block_on(adopt_and_go_on(layout));
    }
}

async fn adopt_and_go_on(layout: SystemLayout) {
    let mut world = begin(911);
    make_with_rows(&world).await;
    produce(&world, 0..4);
    let config_of = |world: &World, epoch| SinkConfig { layout, ..config(world, epoch) };
    let mut sink = world.sink_with(config_of(&world, 1));
    match sink.run_once(NOW).await {
        Outcome::Paused(PauseReason::Foreign(foreign)) => {
            let text = foreign.to_string();
            assert!(text.contains("iceberg adopt") && text.contains("--table lake.o"), "{text}");
        }
        outcome => panic!("{outcome:?}"),
    }
    let before = world.store.keys();
    let plan = AdoptAsk { is_plan: true, ..ask(AdoptFrom::Resume(at(4))) };
    let planned = sink.adopt(&plan, NOW).await.expect("planned");
    assert_eq!(world.store.keys(), before, "a plan changes nothing");
    assert_eq!((planned.rows, planned.spec.as_str(), planned.offsets.clone()), (Some(3), "()", at(4)));
    assert_eq!(planned.columns, ["id", "Customer", "amount"]);
    let done = sink.adopt(&ask(AdoptFrom::Resume(at(4))), NOW).await.expect("adopted");
    assert_eq!(done, planned);
    let again = sink.adopt(&ask(AdoptFrom::Earliest), NOW).await.expect("is no error");
    assert!(again.was_ours && again.offsets == at(4), "{again:?}");
    drain(&mut sink, NOW).await;
    assert_eq!(ids_in(&world).await, [-3, -2, -1], "from the end on");
    produce(&world, 4..6);
    drain(&mut sink, NOW).await;
    assert_eq!(ids_in(&world).await, [-3, -2, -1, 4, 5]);
    // By their names without regard to case; a column that is wider now, one that is new, ids behind those that were
    // there.
    let found = columns(&world).await;
    let system = match layout {
        SystemLayout::Struct => vec![(4, "tidewater", "struct")],
        SystemLayout::Flat => vec![
            (6, "tidewater_partition", "int"),
            (7, "tidewater_offset", "long"),
            (8, "tidewater_timestamp", "timestamptz"),
            (9, "tidewater_timestamp_type", "int"),
            (10, "tidewater_headers", "string"),
            (11, "tidewater_key", "binary"),
        ],
    };
    let last = if layout == SystemLayout::Struct { 15 } else { 12 };
    let own = [(1, "id", "long"), (2, "Customer", "string"), (3, "amount", "long")];
    let wanted: Vec<_> = own.into_iter().chain(system).chain([(last, "extra", "boolean")]).collect();
    let wanted: Vec<_> = wanted.into_iter().map(|(id, name, kind)| (id, name.to_owned(), kind.to_owned())).collect();
    assert_eq!(found, wanted);
    // Back before the adoption: the rows of others stay, and the log is read from there.
    let back = RewindAsk { to: RewindTo::Offsets(at(1)), is_plan: false, is_forced: false };
    let mut sink = world.sink_with(config_of(&world, 2));
    let done = sink.rewind(&back, NOW).await.expect("goes back");
    assert_eq!(done.leaving.rows, 2);
    drain(&mut sink, NOW).await;
    assert_eq!(ids_in(&world).await, [-3, -2, -1, 1, 2, 3, 4, 5]);
    // Given up and taken on again, it goes on where it was.
    sink.detach(NOW).await.expect("given up");
    produce(&world, 6..8);
    let mut sink = world.sink_with(config_of(&world, 3));
    let resumed = sink.adopt(&ask(AdoptFrom::Resume(at(8))), NOW).await.expect("adopted again");
    assert_eq!((resumed.offsets, resumed.added.len()), (at(6), 0));
    drain(&mut sink, NOW).await;
    let all: BTreeSet<i64> = ids_in(&world).await.into_iter().collect();
    assert_eq!(all, [-3, -2, -1].into_iter().chain(1..8).collect());
    assert_eq!(ids_in(&world).await.len(), all.len());
}

#[test]
fn bytes_get_a_column_and_the_table_may_be_by_our_columns_then() {
    block_on(async {
        let mut world = World::new(912);
        make(&world, own_schema(), None, FormatVersion::V2).await;
        let mut sink = world.sink_with(config(&world, 1));
        let done = sink.adopt(&ask(AdoptFrom::Earliest), NOW).await.expect("adopted");
        assert_eq!((done.rows, done.added), (Some(0), vec!["tidewater".to_owned(), "value".to_owned()]));
        world.log.append(0, 5, NOW);
        drain(&mut sink, NOW).await;
        // Its owner partitions it by the hour of the records.
        let spec = UnboundPartitionSpec::builder().add_partition_field(8, "at", Transform::Hour).expect("legal");
        let updates = vec![TableUpdate::AddSpec { spec: spec.build() }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
        commit(&world, updates).await;
        world.log.append(0, 5, NOW);
        let mut sink = world.sink_with(config(&world, 2));
        drain(&mut sink, NOW).await;
        let loaded = world.catalog().load(&config(&world, 1).table).await.expect("loads");
        assert!(SystemColumns::of(&loaded.metadata).is_by_hour(loaded.metadata.default_partition_spec()));
        let names: Vec<String> = world.store.keys().into_iter().map(|(key, _)| key).collect();
        assert!(names.iter().any(|name| name.contains("/data/hour=")), "{names:?}");
        let summary = &loaded.metadata.current_snapshot().expect("there").summary().additional_properties;
        assert_eq!(summary["total-records"], "10");
    });
}

#[test]
fn what_does_not_fit_is_refused_in_words_and_nothing_is_changed() {
    block_on(async {
        let field = |id, name: &str, kind| NestedField::optional(id, name, Type::Primitive(kind));
        let schema = |fields: Vec<NestedField>| {
            Schema::builder().with_fields(fields.into_iter().map(Into::into)).build().expect("legal")
        };
        let required = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long));
        let text = || field(1, "id", PrimitiveType::String);
        let by = |name: &str, transform| {
            Some(UnboundPartitionSpec::builder().add_partition_field(1, name, transform).expect("legal").build())
        };
        let v2 = FormatVersion::V2;
        let cases = [
            (schema(vec![required]), None, v2, "column id is required"),
            (schema(vec![text(), field(2, "Tidewater", PrimitiveType::Int)]), None, v2, "column or partition field"),
            (schema(vec![text()]), by("tidewater", Transform::Bucket(4)), v2, "column or partition field"),
            (schema(vec![text()]), None, FormatVersion::V3, "format version"),
        ];
        for (schema, spec, format, part) in cases {
            let mut world = begin(913);
            make(&world, schema, spec, format).await;
            let before = world.store.keys();
            let mut sink = world.sink_with(config(&world, 1));
            let why = sink.adopt(&ask(AdoptFrom::Earliest), NOW).await.expect_err("refused").to_string();
            assert!(why.contains(part), "{why}");
            assert_eq!(world.store.keys(), before, "{part}");
        }
        let mut world = begin(914);
        let refusal = async |world: &mut World, config: SinkConfig, ask: AdoptAsk| {
            let mut sink = world.sink_with(config);
            sink.adopt(&ask, NOW).await.expect_err("refused").to_string()
        };
        let earliest = || ask(AdoptFrom::Earliest);
        let own = config(&world, 1);
        assert!(refusal(&mut world, own.clone(), earliest()).await.contains("no table lake.o"));
        make(&world, own_schema(), None, v2).await;
        let other = AdoptAsk { table: "lake.p".to_owned(), ..earliest() };
        assert!(refusal(&mut world, own.clone(), other).await.contains("iceberg.table=lake.p"));
        let going = SinkConfig { delete: true, ..own.clone() };
        assert!(refusal(&mut world, going, earliest()).await.contains("iceberg.delete=false"));
        world.sink_with(own.clone()).adopt(&earliest(), NOW).await.expect("adopted");
        let another = SinkConfig { topic_id: TopicId(Uuid::from_u128(10)), ..own };
        assert!(refusal(&mut world, another, earliest()).await.contains("belongs to cluster"));
    });
}
