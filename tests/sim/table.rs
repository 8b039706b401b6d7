//! The table: the sink that keeps it within the broker's process, and a reader that goes by the catalog alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use bytes::Bytes;
use iceberg::spec::ManifestList;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater::controller::image::ClusterImage;
use tidewater::lakehouse::reader::MeshReader;
use tidewater_iceberg::catalog::{Catalog, ObjectStoreCatalog};
use tidewater_iceberg::commit::{Bounds, offsets};
use tidewater_iceberg::files::TableFiles;
use tidewater_iceberg::location::Warehouse;
use tidewater_iceberg::names::Names;
use tidewater_iceberg::plan::Offsets;
use tidewater_iceberg::sink::{Outcome, SinkConfig, TableSink};
use tidewater_tiering::store::ObjectStore;
use tokio::sync::watch;

use crate::node::Node;
use crate::world::World;

/// A row: partition, offset, value.
pub(crate) type Row = (i32, u64, Bytes);

/// What the table holds.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) offsets: Offsets,
}

fn catalog(store: Arc<dyn ObjectStore>, seed: u64) -> Arc<ObjectStoreCatalog> {
    let warehouse = Warehouse::new("s3://bucket", "sim/lake").expect("legal");
    let files = TableFiles::new(store, warehouse);
    Arc::new(ObjectStoreCatalog::new(files, Names::seeded(seed), HashMap::new()))
}

fn config(world: &World, epoch: u64) -> SinkConfig {
    let topic = world.topic();
    let mut config = SinkConfig::new(world.cluster(), topic.name.clone(), topic.id, epoch);
    config.target_lag_ms = 1_500;
    config.turn_bytes = if world.plan.seed.is_multiple_of(4) { 64 << 10 } else { 512 << 10 };
    if world.plan.seed.is_multiple_of(2) {
        // Upkeep in every few commits.
        // By size: snapshots are never older than the table, which the catalog stamps with the real time.
        let kept = Bounds { snapshots_slack: 2, snapshots_bytes: 2_500, recent_ms: i64::MIN, ..Bounds::default() };
        config.bounds = Bounds { merge_at: 4, metadata_kept: 3, ..kept };
    }
    config
}

/// Keeps the table for as long as the broker lives.
pub(crate) fn keep(
    node: &Node,
    world: &World,
    store: &Arc<dyn ObjectStore>,
    images: watch::Receiver<Arc<ClusterImage>>,
) {
    let seed = (world.plan.seed << 20) + (world.lives() << 8);
    let log = Arc::new(MeshReader { images, partitions: node.mesh.clone(), away: Arc::default() });
    let epoch = node.lanes().first().and_then(|lane| lane.status.leading()).map_or(0, |term| term.0);
    let catalog = catalog(Arc::clone(store), seed);
    let mut sink = TableSink::new(config(world, epoch), catalog, log, Names::seeded(seed + 1));
    let (driver, history) = (node.env.clone(), world.history.clone());
    drop(node.env.tasks.spawn("sink", async move {
        loop {
            let pause = match sink.run_once(driver.clock.wall()).await {
                Outcome::Idle | Outcome::Wait { .. } => 300,
                Outcome::Committed { rows, more, .. } => {
                    history.note(format!("{} table +{rows}", driver.clock.now().nanos()));
                    if more { 0 } else { 300 }
                }
                Outcome::Again => 0,
                Outcome::Paused(reason) => panic!("the table stands still: {reason}"),
                Outcome::Failed(_) => 500,
            };
            driver.tasks.sleep(Duration::from_millis(pause)).await;
        }
    }));
}

/// The whole table, read through `store`.
pub(crate) async fn read(world: &World, store: Arc<dyn ObjectStore>) -> Table {
    let (catalog, ident) = (catalog(store, 0), config(world, 0).table);
    let Ok(table) = catalog.load(&ident).await else { return Table::default() };
    let mut found = Table { rows: Vec::new(), offsets: offsets::of(&ident, &table.metadata).expect("decodes") };
    let files = catalog.files();
    let Some(snapshot) = table.metadata.current_snapshot() else { return found };
    let list = files.read(snapshot.manifest_list()).await.expect("the manifest list is there");
    let list = ManifestList::parse_with_version(&list, table.metadata.format_version()).expect("parses");
    for manifest in list.entries() {
        let manifest = manifest.load_manifest(&files.io()).await.expect("the manifest is there");
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            let body = files.read(entry.file_path()).await.expect("the data file is there");
            let before = found.rows.len();
            rows_of(body, &mut found.rows);
            assert_eq!((found.rows.len() - before) as u64, entry.record_count(), "rows of {}", entry.file_path());
        }
    }
    found.rows.sort();
    found
}

fn rows_of(body: Bytes, rows: &mut Vec<Row>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build()).expect("parquet");
    for batch in reader {
        let batch = batch.expect("reads");
        let system = batch.column(0).as_struct();
        let partitions = system.column(0).as_primitive::<Int32Type>();
        let offsets = system.column(1).as_primitive::<Int64Type>();
        let values = batch.column(1).as_binary::<i64>();
        for at in 0..batch.num_rows() {
            let offset = u64::try_from(offsets.value(at)).expect("an offset");
            rows.push((partitions.value(at), offset, Bytes::copy_from_slice(values.value(at))));
        }
    }
}
