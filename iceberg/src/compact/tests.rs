//! Runs over tables of keys and values: the rows stay and the files become few, also when a step fails or another
//! writer commits at the same time.
#![allow(clippy::panic)]

use std::sync::Mutex;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use async_trait::async_trait;
use futures::executor::block_on;
use futures::future::BoxFuture;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, Literal, MAIN_BRANCH, ManifestListWriter, ManifestWriterBuilder,
    NullOrder, Operation, Snapshot, SnapshotReference, SnapshotRetention, SortDirection, SortField, SortOrder, Struct,
    Summary, Transform,
};
use iceberg::{NamespaceIdent, TableRequirement, TableUpdate};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater_storage::model::record::Record;
use uuid::Uuid;

use super::*;
use crate::catalog::NewTable;
use crate::commit::offsets;
use crate::commit::snapshot::read_list;
use crate::files::TableFiles;
use crate::fixture::{Fault, World, value_of};
use crate::schema;
use crate::sink::{Outcome, TableSink};

const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

/// The catalog stamps what it makes with the real time; the hours of the records are long over.
fn now() -> TimestampMs {
    tidewater_storage::env::clock::wall()
}

async fn drain(sink: &mut TableSink) {
    for _ in 0..200 {
        if matches!(sink.run_once(NOW).await, Outcome::Idle) {
            return;
        }
    }
    panic!("never idle: {:?}", sink.status());
}

/// A table of `commits` commits with a file or two each, over two hours.
async fn fill(world: &mut World, commits: u64) {
    let mut sink = world.sink(1);
    for n in 0..commits {
        world.log.append(0, 2 + n % 3, NOW);
        world.log.append(1, 1, NOW.plus_ms(if n % 2 == 0 { 0 } else { 3_600_000 }));
        drain(&mut sink).await;
    }
}

/// Files are compacted as soon as they are in the table.
fn bounds() -> Bounds {
    Bounds { compact_quiet_ms: 0, ..Bounds::default() }
}

fn compactor_on(world: &mut World, catalog: Arc<dyn Catalog>) -> Compactor {
    world.seed += 1;
    let config = world.config(1);
    let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 1 };
    Compactor::new(catalog, config.table, owner, Names::seeded(world.seed << 32), bounds())
}

fn compactor(world: &mut World) -> Compactor {
    let catalog = world.catalog();
    compactor_on(world, catalog)
}

async fn load(world: &World) -> Loaded {
    world.catalog().load(&world.table()).await.expect("loads")
}

/// Files of the current snapshot.
async fn file_count(world: &World) -> usize {
    world.data_files(&world.table()).await.len()
}

#[test]
fn small_files_become_one_of_each_hour_with_the_same_rows_in_order() {
    block_on(async {
        let mut world = World::new(1);
        fill(&mut world, 12).await;
        let (before, files) = (load(&world).await, file_count(&world).await);
        let read_so_far = Mutex::new(Progress::default());
        let run = compactor(&mut world).run(now(), |progress| *read_so_far.lock().expect("ours") = progress).await;
        let run = run.expect("runs");
        assert_eq!((run.files_in, run.files_out, run.more), (files as u64, 2, false), "{run:?}");
        assert_eq!((run.rows, run.left.len(), run.obstacle.clone()), (world.expected().len() as u64, 0, None));
        let progress = *read_so_far.lock().expect("ours");
        assert_eq!((progress.files_read, progress.bytes_read), (progress.files, run.bytes_in));
        assert_eq!(world.rows().await, world.expected());
        for body in world.data_files(&world.table()).await {
            let mut next = std::collections::BTreeMap::new();
            let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build());
            for batch in reader.expect("parquet") {
                let batch = batch.expect("reads");
                let system = batch.column(0).as_struct();
                let partitions = system.column(0).as_primitive::<Int32Type>().iter();
                for (partition, offset) in partitions.zip(system.column(1).as_primitive::<Int64Type>().iter()) {
                    let before = next.insert(partition, offset);
                    assert!(before.is_none_or(|before| before < offset), "offsets of a partition ascend in a file");
                }
            }
        }
        // The snapshot says what it is, and the same offsets and append as the one before.
        let after = load(&world).await;
        let snapshot = after.metadata.current_snapshot().expect("one");
        let (summary, held) = (snapshot.summary(), before.metadata.current_snapshot().expect("one").summary());
        assert_eq!(summary.operation, Operation::Replace);
        for key in [offsets::OFFSETS, offsets::APPEND, "total-records", "total-delete-files"] {
            assert_eq!(summary.additional_properties.get(key), held.additional_properties.get(key), "{key}");
        }
        let says = |key: &str| summary.additional_properties[key].clone();
        assert_eq!((says("total-data-files"), says("total-files-size")), ("2".to_owned(), run.bytes_out.to_string()));
        assert_eq!((says("added-data-files"), says("deleted-data-files")), ("2".to_owned(), files.to_string()));
        assert_eq!(says("added-records"), says("deleted-records"));
        // Nothing more to do; the sink goes on.
        let again = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert_eq!((again.files_in, again.seen.files, again.seen.due), (0, 2, 0));
        fill(&mut world, 3).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn an_append_that_comes_first_is_kept_and_one_that_lost_its_answer_finds_itself() {
    block_on(async {
        let mut world = World::new(2);
        fill(&mut world, 10).await;
        let mut sink = world.sink(1);
        world.log.append(0, 4, NOW);
        let inner = world.catalog();
        let before = async move {
            assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { rows: 4, .. }));
        };
        let catalog = Arc::new(Interrupted { inner, before: Mutex::new(Some(Box::pin(before))) });
        let run = compactor_on(&mut world, catalog).run(now(), |_| {}).await.expect("runs");
        assert_eq!(run.files_out, 2);
        assert_eq!(world.rows().await, world.expected());

        // An append whose answer is lost, and the files replaced before it looks.
        let mut world = World::new(3);
        fill(&mut world, 10).await;
        let mut sink = world.sink(1);
        drain(&mut sink).await;
        world.log.append(0, 4, NOW);
        for step in 1..40 {
            world.store.arm(world.store.steps() + step, Fault::LostAnswer);
            sink.run_once(NOW).await;
            world.store.calm();
            compactor(&mut world).run(now(), |_| {}).await.expect("runs");
            drain(&mut sink).await;
            assert_eq!(world.rows().await, world.expected(), "step {step}");
            world.log.append(0, 4, NOW);
        }
    });
}

#[test]
fn of_two_runs_over_the_same_files_one_gives_up_and_leaves_nothing() {
    block_on(async {
        let mut world = World::new(4);
        fill(&mut world, 10).await;
        let mut rival = compactor(&mut world);
        let before = async move { drop(rival.run(now(), |_| {}).await.expect("runs")) };
        let catalog = Arc::new(Interrupted { inner: world.catalog(), before: Mutex::new(Some(Box::pin(before))) });
        let lost = compactor_on(&mut world, catalog).run(now(), |_| {}).await;
        let error = lost.expect_err("the files are gone");
        assert!(matches!(error, CompactError::Commit(CommitError::Moved { .. })) && error.passes(), "{error}");
        assert_eq!(world.rows().await, world.expected());
        assert_eq!(file_count(&world).await, 2);
        let named: BTreeSet<_> = all_named(&world).await;
        let there: BTreeSet<_> =
            world.store.keys().into_iter().map(|(key, _)| key).filter(|key| key.ends_with(".parquet")).collect();
        assert_eq!(there, named, "the loser's files are deleted");
    });
}

/// The default sort order of the world's table as an engine sets it (`ALTER TABLE … WRITE ORDERED BY`).
async fn order_by(world: &World, fields: &[(i32, SortDirection)]) {
    let field = |(source_id, direction): &(i32, SortDirection)| SortField {
        source_id: *source_id,
        transform: Transform::Identity,
        direction: *direction,
        null_order: NullOrder::Last,
    };
    let sort_order = SortOrder { order_id: 1, fields: fields.iter().map(field).collect() };
    let updates =
        vec![TableUpdate::AddSortOrder { sort_order }, TableUpdate::SetDefaultSortOrder { sort_order_id: -1 }];
    world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("set");
}

/// Appends records with keys that do not ascend, some of them null, in several commits.
async fn fill_keys(world: &mut World, commits: u64) {
    let mut sink = world.sink(1);
    for n in 0..commits {
        for partition in 0..2 {
            let end = world.log.ends().get(&partition).copied().unwrap_or(0);
            let key = |at: u64| (!at.is_multiple_of(4)).then(|| format!("k{}", at * 7919 % 13).into());
            let records = (end..end + 3).map(|at| Record::new(NOW, key(at + n), Some(value_of(partition, at).into())));
            world.log.append_records(partition, records.collect::<Vec<_>>());
        }
        drain(&mut sink).await;
    }
}

/// Key, partition and offset of each row, file by file.
fn keyed_rows(body: bytes::Bytes) -> Vec<(Option<Vec<u8>>, i32, i64)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build());
    let mut rows = Vec::new();
    for batch in reader.expect("parquet") {
        let batch = batch.expect("reads");
        let system = batch.column(0).as_struct();
        let (partitions, offsets) =
            (system.column(0).as_primitive::<Int32Type>(), system.column(1).as_primitive::<Int64Type>());
        let keys = arrow::compute::cast(system.column_by_name("key").expect("a key"), &DataType::LargeBinary);
        let keys = keys.expect("binary");
        let keys = keys.as_binary::<i64>().iter().map(|key| key.map(<[u8]>::to_vec)).collect::<Vec<_>>();
        rows.extend(keys.into_iter().zip(partitions.values()).zip(offsets.values()).map(|((k, p), o)| (k, *p, *o)));
    }
    rows
}

/// The ids of the sort orders of the table's files.
async fn order_ids(world: &World) -> Vec<Option<i32>> {
    let (loaded, files) = (load(world).await, world.catalog().files());
    let mut ids = Vec::new();
    let snapshot = loaded.metadata.current_snapshot().expect("one");
    for manifest in read_list(&files, &loaded.metadata, snapshot).await.expect("reads") {
        let manifest = manifest.load_manifest(&files.io()).await.expect("reads");
        ids.extend(manifest.entries().iter().filter(|it| it.is_alive()).map(|it| it.data_file().sort_order_id()));
    }
    ids
}

#[test]
fn a_table_with_a_sort_order_gets_sorted_files_with_the_same_rows() {
    block_on(async {
        use SortDirection::{Ascending, Descending};
        let mut world = World::new(20);
        fill_keys(&mut world, 5).await;
        order_by(&world, &[(schema::ids::KEY, Descending)]).await;
        let run = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert_eq!((run.files_out, run.left.len()), (1, 0), "{run:?}");
        assert_eq!(world.rows().await, world.expected());
        assert_eq!(order_ids(&world).await, [Some(1)]);
        let rows = keyed_rows(world.data_files(&world.table()).await.remove(0));
        let mut sorted = rows.clone();
        // Descending, and nulls last.
        sorted.sort_by(|a, b| b.0.cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        assert_eq!(rows, sorted);
        assert!(rows.first().is_some_and(|row| row.0.is_some()) && rows.last().is_some_and(|row| row.0.is_none()));

        // Appends are in the order of offsets and say nothing of one; with another order all are sorted by that.
        fill_keys(&mut world, 5).await;
        let ids = order_ids(&world).await;
        assert_eq!((ids.iter().filter(|id| id.is_none()).count(), ids.len()), (5, 6));
        order_by(&world, &[(schema::ids::PARTITION, Descending), (schema::ids::OFFSET, Descending)]).await;
        let run = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert_eq!((run.files_out, run.left.len()), (1, 0), "{run:?}");
        assert_eq!((world.rows().await, order_ids(&world).await), (world.expected(), vec![Some(2)]));
        let rows = keyed_rows(world.data_files(&world.table()).await.remove(0));
        assert!(rows.is_sorted_by(|a, b| (a.1, a.2) > (b.1, b.2)));

        // One that has a column in a list is none to sort by: files are written as they come.
        fill_keys(&mut world, 5).await;
        order_by(&world, &[(schema::ids::HEADER_KEY, Ascending)]).await;
        let run = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert!(run.files_out == 1 && run.left.is_empty(), "{run:?}");
        assert_eq!(order_ids(&world).await, [None]);
        assert_eq!(world.rows().await, world.expected());
    });
}

/// A table of five commits, all of one hour.
async fn five(seed: u64) -> World {
    let mut world = World::new(seed);
    let mut sink = world.sink(1);
    for _ in 0..5 {
        world.log.append(0, 2, NOW);
        drain(&mut sink).await;
    }
    world
}

#[test]
fn a_fault_at_any_step_changes_no_row_and_leaves_only_orphans() {
    block_on(async {
        let steps = {
            let mut world = five(5).await;
            let before = world.store.steps();
            compactor(&mut world).run(now(), |_| {}).await.expect("runs");
            world.store.steps() - before
        };
        assert!(steps > 15, "{steps} steps to fail at");
        for step in 1..=steps {
            for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Refused, Fault::LostAnswer] {
                let mut world = five(5).await;
                let mut first = compactor(&mut world);
                world.store.arm(world.store.steps() + step, fault);
                let first = first.run(now(), |_| {}).await;
                world.store.calm();
                let context = format!("step {step} {fault:?}: {first:?}");
                assert_eq!(world.rows().await, world.expected(), "{context}");
                compactor(&mut world).run(now(), |_| {}).await.expect("runs");
                assert_eq!(file_count(&world).await, 1, "{context}");
                sweep(&mut world).await;
                assert_eq!(world.rows().await, world.expected(), "{context}");
                let there = world.store.keys().into_iter().map(|(key, _)| key).filter(|key| key.ends_with(".parquet"));
                assert_eq!(there.collect::<BTreeSet<_>>(), all_named(&world).await, "{context}");
            }
        }
    });
}

#[test]
fn old_files_go_with_the_snapshots_that_name_them() {
    block_on(async {
        let mut world = World::new(6);
        fill(&mut world, 10).await;
        compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert!(world.store.keys().iter().filter(|(key, _)| key.ends_with(".parquet")).count() > 10);
        // By a command, six days later.
        let expired = compactor(&mut world).expire(now().plus_ms(6 * 24 * 3_600_000)).await.expect("expires");
        assert_eq!(expired, 10);
        let there = world.store.keys().into_iter().filter(|(key, _)| key.ends_with(".parquet")).count();
        assert_eq!((there, file_count(&world).await), (2, 2));
        assert_eq!(world.rows().await, world.expected());
        // And by the sink's commits.
        let mut world = World::new(7);
        let mut config = world.config(1);
        config.bounds.snapshots_slack = 3;
        config.bounds.snapshot_age_ms = 60_000;
        config.bounds.recent_ms = 0;
        fill(&mut world, 10).await;
        compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        let mut sink = world.sink_with(config);
        for n in 0..5 {
            world.log.append(0, 1, NOW);
            let outcome = sink.run_once(now().plus_ms(n * 120_000)).await;
            assert!(matches!(outcome, Outcome::Committed { rows: 1, .. }), "{outcome:?}");
        }
        let there = world.store.keys().into_iter().filter(|(key, _)| key.ends_with(".parquet")).count();
        assert_eq!((there, file_count(&world).await), (7, 7));
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn hours_with_delete_files_and_tables_that_keep_everything_are_left_alone() {
    block_on(async {
        let mut world = World::new(8);
        fill(&mut world, 10).await;
        let hour = i32::try_from(NOW.0 / 3_600_000).expect("an hour");
        delete_rows(&world, hour).await;
        let run = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert_eq!((run.files_out, run.obstacle.clone()), (1, None), "of the other hour: {run:?}");
        let run = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert_eq!((run.files_in, run.seen.due), (0, 0));
        // A delete file that comes while files are written again.
        let mut world = World::new(9);
        fill(&mut world, 10).await;
        let shared = Arc::new(world);
        let deleting = Arc::clone(&shared);
        let before = async move { delete_rows(&deleting, hour).await };
        let inner = shared.catalog();
        let catalog = Arc::new(Interrupted { inner, before: Mutex::new(Some(Box::pin(before))) });
        let config = shared.config(1);
        let owner = TableOwner { cluster: config.cluster, topic: config.topic_id, epoch: 1 };
        let mut late = Compactor::new(catalog, config.table, owner, Names::seeded(77 << 32), bounds());
        let lost = late.run(now(), |_| {}).await.expect_err("the table has moved");
        assert!(matches!(lost, CompactError::Commit(CommitError::Moved { .. })), "{lost}");

        let mut world = World::new(10);
        fill(&mut world, 10).await;
        let updates = [("gc.enabled".to_owned(), "false".to_owned())].into();
        let updates = vec![TableUpdate::SetProperties { updates }];
        world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("set");
        let run = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert!(run.files_in == 0 && run.obstacle.is_some_and(|why| why.contains("gc.enabled")));
    });
}

#[test]
fn an_old_writer_is_fenced_and_another_clusters_table_is_not_touched() {
    block_on(async {
        let mut world = World::new(11);
        fill(&mut world, 10).await;
        let mut sink = world.sink(2);
        world.log.append(0, 1, NOW);
        drain(&mut sink).await;
        let fenced = compactor(&mut world).run(now(), |_| {}).await;
        assert!(matches!(fenced, Err(CompactError::Commit(CommitError::Fenced { .. }))));
        let (config, catalog) = (world.config(2), world.catalog());
        let owner = TableOwner { cluster: Uuid::from_u128(8), topic: config.topic_id, epoch: 9 };
        let mut other = Compactor::new(catalog, config.table, owner, Names::seeded(78 << 32), bounds());
        assert!(matches!(other.run(now(), |_| {}).await, Err(CompactError::Commit(CommitError::Foreign(_)))));
    });
}

#[test]
fn a_file_that_is_not_what_its_manifest_says_stays_and_the_others_go_on() {
    block_on(async {
        use tidewater_tiering::store::{ObjectKey, ObjectStore, PutMode};
        let mut world = World::new(12);
        fill(&mut world, 12).await;
        let hour = format!("hour={}", NOW.0 / 3_600_000);
        let (key, size) = world.store.keys().into_iter().find(|(key, _)| key.contains(&hour)).expect("a file");
        let key = ObjectKey::new(&key).expect("legal");
        world.store.put(&key, bytes::Bytes::from(vec![7; size]), PutMode::Overwrite).await.expect("put");
        let run = compactor(&mut world).run(now(), |_| {}).await.expect("runs");
        assert_eq!((run.files_out, run.left.len()), (1, 1), "{run:?}");
        assert!(run.left[0].contains(key.as_str()), "{:?}", run.left);
    });
}

#[test]
fn files_that_are_not_committed_yet_are_not_swept() {
    block_on(async {
        let mut world = five(13).await;
        let lock = SweepLock::default();
        let mut config = world.config(1);
        config.bounds.sweep_every_ms = 1;
        let mut sink = world.sink_with(config).with_sweep_lock(Arc::clone(&lock));
        world.log.append(0, 1, NOW);
        sink.run_once(NOW).await;
        world.log.append(0, 1, NOW);
        // The process was stopped for days between the files and their commit; the sink goes on first.
        let before = async move {
            let outcome = sink.run_once(NOW.plus_ms(1000 * 3_600_000)).await;
            assert!(matches!(outcome, Outcome::Committed { rows: 1, .. }), "{outcome:?}");
            assert_eq!(sink.status().orphans, 0);
        };
        let catalog = Arc::new(Interrupted { inner: world.catalog(), before: Mutex::new(Some(Box::pin(before))) });
        let run = compactor_on(&mut world, catalog).with_sweep_lock(lock).run(now(), |_| {}).await.expect("runs");
        assert_eq!(run.files_out, 1);
        assert_eq!(world.rows().await, world.expected());
    });
}

/// Sweeps orphans as the sink does once a day.
async fn sweep(world: &mut World) {
    let mut config = world.config(1);
    config.bounds.sweep_every_ms = 1;
    let mut sink = world.sink_with(config);
    for n in 1..3 {
        world.log.append(0, 1, NOW);
        sink.run_once(NOW.plus_ms(n * 1000 * 3_600)).await;
    }
}

/// Keys of all data files that any snapshot of the table reads.
async fn all_named(world: &World) -> BTreeSet<String> {
    let (loaded, files) = (load(world).await, world.catalog().files());
    let mut named = BTreeSet::new();
    for snapshot in loaded.metadata.snapshots() {
        for manifest in read_list(&files, &loaded.metadata, snapshot).await.expect("reads") {
            let manifest = manifest.load_manifest(&files.io()).await.expect("reads");
            let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
            named.extend(alive.map(|entry| entry.file_path().replace("s3://bucket/", "")));
        }
    }
    named
}

/// Adds a delete file of an hour to the table, as an engine does.
async fn delete_rows(world: &World, hour: i32) {
    let (base, catalog) = (load(world).await, world.catalog());
    let (metadata, files) = (&base.metadata, catalog.files());
    let spec = schema::find_hour_spec(metadata).expect("by hour");
    let mut deletes = DataFileBuilder::default();
    deletes
        .content(DataContentType::PositionDeletes)
        .file_path(format!("{}/data/deletes.parquet", metadata.location()))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([Some(Literal::int(hour))]))
        .partition_spec_id(spec.spec_id())
        .record_count(1)
        .file_size_in_bytes(10);
    let output = files.io().new_output(format!("{}/metadata/engine.avro", metadata.location())).expect("legal");
    let builder = ManifestWriterBuilder::new(output, Some(5), metadata.current_schema().clone(), (*spec).clone());
    let mut writer = builder.build_v2_deletes();
    writer.add_file(deletes.build().expect("complete"), -1).expect("fits");
    let manifest = writer.write_manifest_file().await.expect("written");
    let current = metadata.current_snapshot().expect("one");
    let mut manifests = read_list(&files, metadata, current).await.expect("reads");
    manifests.push(manifest);
    let list = format!("{}/metadata/engine-list.avro", metadata.location());
    let output = files.io().new_output(&list).expect("legal").writer().await.expect("opens");
    let (parent, sequence) = (metadata.current_snapshot_id(), metadata.next_sequence_number());
    let mut writer = ManifestListWriter::v2(output, 5, parent, sequence);
    writer.add_manifests(manifests.into_iter()).expect("fits");
    writer.close().await.expect("written");
    let summary = Summary { operation: Operation::Delete, additional_properties: [].into() };
    let snapshot = Snapshot::builder()
        .with_snapshot_id(5)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(sequence)
        .with_timestamp_ms(metadata.last_updated_ms() + 1)
        .with_manifest_list(list)
        .with_summary(summary)
        .with_schema_id(metadata.current_schema_id())
        .build();
    let reference = SnapshotReference::new(5, SnapshotRetention::branch(None, None, None));
    let updates = vec![
        TableUpdate::AddSnapshot { snapshot },
        TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference },
    ];
    catalog.commit(&world.table(), Vec::new(), updates).await.expect("committed");
}

/// A catalog before whose first commit something else happens.
struct Interrupted {
    inner: Arc<dyn Catalog>,
    before: Mutex<Option<BoxFuture<'static, ()>>>,
}

#[async_trait]
impl Catalog for Interrupted {
    fn files(&self) -> TableFiles {
        self.inner.files()
    }

    async fn ensure_namespace(&self, namespace: &NamespaceIdent) -> Result<(), crate::catalog::CatalogError> {
        self.inner.ensure_namespace(namespace).await
    }

    async fn load(&self, table: &TableIdent) -> Result<Loaded, crate::catalog::CatalogError> {
        self.inner.load(table).await
    }

    async fn create(&self, table: &TableIdent, new: NewTable) -> Result<Loaded, crate::catalog::CatalogError> {
        self.inner.create(table, new).await
    }

    async fn commit(
        &self,
        table: &TableIdent,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Result<Loaded, crate::catalog::CatalogError> {
        let before = self.before.lock().expect("not poisoned").take();
        if let Some(before) = before {
            before.await;
        }
        self.inner.commit(table, requirements, updates).await
    }

    async fn drop_one(
        &self,
        table: &TableIdent,
        uuid: Option<Uuid>,
        purge: bool,
    ) -> Result<(), crate::catalog::CatalogError> {
        self.inner.drop_one(table, uuid, purge).await
    }
}
