//! The table: the sink that keeps it within the broker's process, and a reader that goes by the catalog alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use iceberg::spec::ManifestList;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater::controller::image::ClusterImage;
use tidewater::lakehouse::reader::MeshReader;
use tidewater_iceberg::catalog::{Catalog, Loaded, ObjectStoreCatalog, TableIdent};
use tidewater_iceberg::commit::{Bounds, offsets};
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::mode::TableMode;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::plan::Offsets;
use tidewater_iceberg::read::LogReader;
use tidewater_iceberg::sink::{Outcome, SinkConfig, TableSink};
use tidewater_storage::env::Env;
use tidewater_tiering::store::ObjectStore;
use tokio::sync::watch;

use crate::defect::Defect;
use crate::node::Node;
use crate::typed::catalog::Doubtful;
use crate::typed::registry::Registry;
use crate::typed::wrong::WithoutDead;
use crate::typed::{TableKind, count, rival, values};
use crate::world::World;

/// A row: partition, offset, value.
pub(crate) type Row = (i32, u64, Bytes);

/// What the table holds.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) offsets: Offsets,
}

pub(crate) fn catalog(store: Arc<dyn ObjectStore>, seed: u64) -> Arc<ObjectStoreCatalog> {
    let warehouse = Warehouse::new("s3://bucket", "sim/lake").expect("legal");
    let files = TableFiles::new(store, warehouse);
    Arc::new(ObjectStoreCatalog::new(files, Names::seeded(seed), HashMap::new()))
}

/// The catalog as a sink reaches it: one of a typed table has faults of its own.
pub(crate) fn sinks_catalog(world: &World, env: &Env, store: Arc<dyn ObjectStore>, seed: u64) -> Arc<dyn Catalog> {
    let catalog = catalog(store, seed);
    if TableKind::of(&world.plan).is_none() {
        return catalog;
    }
    Arc::new(Doubtful::new(catalog, env, &world.typed, world.plan.defect))
}

/// The settings of a sink with this epoch.
pub(crate) fn config(world: &World, epoch: u64) -> SinkConfig {
    let topic = world.topic();
    let mut config = SinkConfig::new(world.cluster(), topic.name.clone(), topic.id, epoch);
    config.target_lag_ms = 1_500;
    config.turn_bytes = if world.plan.seed.is_multiple_of(4) { 64 << 10 } else { 512 << 10 };
    if let Some(kind) = TableKind::of(&world.plan) {
        config.target_lag_ms = 1_000;
        config.mode = match kind {
            TableKind::Json => TableMode::Json { schema: values::JSON.into() },
            TableKind::IdPrefix => TableMode::ValueSchemaIdPrefix,
        };
    }
    if world.plan.seed.is_multiple_of(2) {
        // Upkeep in every few commits.
        // By size: snapshots are never older than the table, which the catalog stamps with the real time.
        let kept = Bounds { snapshots_slack: 2, snapshots_bytes: 2_500, recent_ms: i64::MIN, ..Bounds::default() };
        config.bounds = Bounds { merge_at: 4, metadata_kept: 3, ..kept };
    }
    config
}

/// The sink with its way to the registry, if its values have ids of schemas.
pub(crate) fn with_registry(sink: TableSink, world: &World, env: &Env, kind: TableKind) -> TableSink {
    let is_wrong = world.plan.defect == Some(Defect::WrongSchema);
    match kind {
        TableKind::Json => sink,
        TableKind::IdPrefix => sink.with_schemas(Arc::new(Registry::new(env, &world.typed, is_wrong))),
    }
}

/// The sink of this life of the broker.
fn sink(node: &Node, world: &World, store: &Arc<dyn ObjectStore>, log: MeshReader, epoch: u64) -> TableSink {
    let seed = (world.plan.seed << 20) + (world.lives() << 8);
    let (kind, mut reader): (_, Arc<dyn LogReader>) = (TableKind::of(&world.plan), Arc::new(log));
    if let Some(kind) = kind.filter(|_| world.plan.defect == Some(Defect::DropDeadLetters)) {
        reader = Arc::new(WithoutDead(reader, kind));
    }
    let catalog = sinks_catalog(world, &node.env, Arc::clone(store), seed);
    let sink = TableSink::new(config(world, epoch), catalog, reader, Names::seeded(seed + 1));
    match kind {
        Some(kind) => with_registry(sink, world, &node.env, kind),
        None => sink,
    }
}

/// Keeps the table for as long as the broker lives; beside it there may be a rival.
pub(crate) fn keep(
    node: &Node,
    world: &World,
    store: &Arc<dyn ObjectStore>,
    images: watch::Receiver<Arc<ClusterImage>>,
) {
    let log = MeshReader { images, partitions: node.mesh.clone(), away: Arc::default() };
    let epoch = node.lanes().first().and_then(|lane| lane.status.leading()).map_or(0, |term| term.0);
    let mut sink = sink(node, world, store, log.clone(), epoch);
    if let Some(kind) = TableKind::of(&world.plan) {
        world.typed.serves(log);
        if world.plan.has("rivals") {
            rival::start(world, kind, epoch);
        }
    }
    let (driver, history, typed) = (node.env.clone(), world.history.clone(), Arc::clone(&world.typed));
    drop(node.env.tasks.spawn("sink", async move {
        loop {
            count(&typed.counts.begun);
            let outcome = sink.run_once(driver.clock.wall()).await;
            count(&typed.counts.ended);
            let pause = match outcome {
                Outcome::Idle | Outcome::Wait { .. } => 300,
                Outcome::Committed { rows, more, .. } => {
                    history.note(format!("{} table +{rows}", driver.clock.now().nanos()));
                    if more { 0 } else { 300 }
                }
                Outcome::Again => {
                    count(&typed.counts.moved);
                    0
                }
                Outcome::Paused(reason) => panic!("the table stands still: {reason}"),
                Outcome::Failed(_) => {
                    count(&typed.counts.failed);
                    500
                }
            };
            driver.tasks.sleep(Duration::from_millis(pause)).await;
        }
    }));
}

/// The whole table, read through `store`.
pub(crate) async fn read(world: &World, store: Arc<dyn ObjectStore>) -> Table {
    let (catalog, ident) = (catalog(store, 0), config(world, 0).table);
    let Ok(table) = catalog.load(&ident).await else { return Table::default() };
    let mut found = Table { rows: Vec::new(), offsets: offsets_of(&ident, &table) };
    each_batch(&catalog, &table, |batch| rows_of(batch, &mut found.rows)).await;
    found.rows.sort();
    found
}

pub(crate) fn offsets_of(ident: &TableIdent, table: &Loaded) -> Offsets {
    offsets::of(ident, &table.metadata).expect("decodes")
}

/// Shows all rows of a table.
pub(crate) async fn each_batch(catalog: &ObjectStoreCatalog, table: &Loaded, mut show: impl FnMut(&RecordBatch)) {
    let files = catalog.files();
    let Some(snapshot) = table.metadata.current_snapshot() else { return };
    let list = files.read(snapshot.manifest_list()).await.expect("the manifest list is there");
    let list = ManifestList::parse_with_version(&list, table.metadata.format_version()).expect("parses");
    for manifest in list.entries() {
        let manifest = manifest.load_manifest(&files.io()).await.expect("the manifest is there");
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            let body = files.read(entry.file_path()).await.expect("the data file is there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build());
            let mut rows = 0;
            for batch in reader.expect("parquet") {
                let batch = batch.expect("reads");
                rows += batch.num_rows() as u64;
                show(&batch);
            }
            assert_eq!(rows, entry.record_count(), "rows of {}", entry.file_path());
        }
    }
}

fn rows_of(batch: &RecordBatch, rows: &mut Vec<Row>) {
    let values = batch.column(1).as_binary::<i64>();
    for (at, (partition, offset)) in addresses(batch).into_iter().enumerate() {
        rows.push((partition, offset, Bytes::copy_from_slice(values.value(at))));
    }
}

/// Partition and offset of each row.
pub(crate) fn addresses(batch: &RecordBatch) -> Vec<(i32, u64)> {
    let system = batch.column(0).as_struct();
    let partitions = system.column(0).as_primitive::<Int32Type>();
    let offsets = system.column(1).as_primitive::<Int64Type>();
    let offset = |at| u64::try_from(offsets.value(at)).expect("an offset");
    (0..batch.num_rows()).map(|at| (partitions.value(at), offset(at))).collect()
}
