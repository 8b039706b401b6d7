//! Tables by other specs than by hour: each row lies in the partition of its record, before and after compaction.

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use iceberg::TableUpdate;
use iceberg::spec::{ManifestList, Transform, UnboundPartitionSpec};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidewater_storage::model::TimestampType;
use tidewater_storage::model::record::Record;
use tidewater_tiering::verify::Findings;

use super::*;
use crate::audit;
use crate::compact::Compactor;
use crate::partition::PartitionKey;
use crate::schema::ids;
use crate::schema::system::SystemColumns;
use crate::translate::rows::Placed;
use crate::verify::verify;

const HOUR_MS: i64 = 3_600_000;

fn config(world: &World, spec: &str) -> SinkConfig {
    SinkConfig { partition: PartitionChoice::parse(spec).expect("a spec"), ..world.config(1) }
}

/// Records of 3 days and 3 keys, in 2 partitions of the topic.
fn append(world: &World, times: u64) {
    for n in 0..times {
        let at = |m: u64| NOW.plus_ms(i64::try_from((n + m) % 3).unwrap_or(0) * 24 * HOUR_MS);
        let key = |m: u64| Bytes::from(format!("customer {}", m % 3));
        world.log.append_each(0, (0..7).map(|m| (at(m), key(m))));
        world.log.append_each(1, (0..2).map(|m| (at(m), key(n))));
    }
}

/// The folders of the table's files; panics if a row is not in the partition of its record.
async fn folders(world: &World) -> BTreeSet<String> {
    let loaded = world.catalog().load(&world.table()).await.expect("loads");
    let (metadata, files) = (&loaded.metadata, world.catalog().files());
    let by = Partitioner::of_table(metadata).expect("one of ours");
    let list = files.read(metadata.current_snapshot().expect("one").manifest_list()).await.expect("reads");
    let list = ManifestList::parse_with_version(&list, metadata.format_version()).expect("parses");
    let mut folders = BTreeSet::new();
    for manifest in list.entries() {
        assert_eq!(manifest.partition_spec_id, by.spec_id());
        for entry in manifest.load_manifest(&files.io()).await.expect("reads").entries() {
            if !entry.is_alive() {
                continue;
            }
            let path = entry.file_path().rsplit('/').nth(1).expect("a folder");
            let key = PartitionKey::of(entry.data_file().partition(), by.is_by_hour()).expect("one of ours");
            assert_eq!(key.folder().to_string(), path);
            folders.insert(path.to_owned());
            let body = files.read(entry.file_path()).await.expect("reads");
            keys_of(body, &by).iter().for_each(|of_row| assert_eq!(*of_row, key));
        }
    }
    folders
}

/// The partition of each row of a data file.
fn keys_of(body: Bytes, by: &Partitioner) -> Vec<PartitionKey> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build()).expect("parquet");
    let mut keys = Vec::new();
    for batch in reader {
        let batch = batch.expect("reads");
        let system = batch.column(0).as_struct();
        let partitions = system.column(0).as_primitive::<Int32Type>();
        let offsets = system.column(1).as_primitive::<Int64Type>();
        let micros = system.column(2).as_primitive::<TimestampMicrosecondType>();
        let held = system.column(5).as_binary::<i64>();
        for row in 0..batch.num_rows() {
            let key = held.is_valid(row).then(|| Bytes::copy_from_slice(held.value(row)));
            let mut record = Record::new(NOW, key, None);
            record.offset = tidewater_storage::model::Offset::new(offsets.value(row).unsigned_abs());
            let partition = PartitionIndex(partitions.value(row));
            let micros = micros.value(row);
            keys.push(by.key(&Placed { partition, kind: TimestampType::Create, micros, record: &record }));
        }
    }
    keys
}

async fn check_whole(world: &World) {
    let mut findings = Findings::default();
    verify(world.catalog().files(), false, &mut findings).await.expect("lists");
    assert_eq!((findings.damage.len(), findings.unread.len()), (0, 0), "{findings:#?}");
    let mut rows = Vec::new();
    let (catalog, table) = (world.catalog(), world.table());
    audit::read(&*catalog, &table, |row| rows.push((row.partition, row.offset))).await.expect("reads");
    rows.sort_unstable();
    let offsets = |(partition, offset, _): (i32, u64, String)| (partition, i64::try_from(offset).expect("small"));
    assert_eq!(rows, world.expected().into_iter().map(offsets).collect::<Vec<_>>());
}

#[test]
fn files_lie_in_the_partitions_of_their_rows_and_are_compacted_there() {
    block_on(async {
        for (seed, (spec, partitions)) in [
            ("()", 1),
            ("(day(tidewater.timestamp))", 3),
            ("(month(tidewater.timestamp), bucket(4, tidewater.key))", 0),
            ("(tidewater.partition, truncate(9, tidewater.key))", 2),
            ("(truncate(10, tidewater.key))", 3),
            ("(tidewater.partition, truncate(1000, tidewater.offset))", 2),
        ]
        .into_iter()
        .enumerate()
        {
            let mut world = World::new(700 + seed as u64);
            let mut sink = world.sink_with(config(&world, spec));
            for _ in 0..8 {
                append(&world, 1);
                drain(&mut sink, NOW).await;
            }
            assert_eq!(world.rows().await, world.expected(), "{spec}");
            let before = folders(&world).await;
            // How many buckets of 4 three keys have is up to the hash.
            assert!(before.len() == partitions || (partitions == 0 && (1..=3).contains(&before.len())), "{before:?}");
            assert!(before.iter().all(|folder| folder.starts_with("part=")), "{before:?}");
            check_whole(&world).await;
            let files = world.data_files(&world.table()).await.len();
            let owner = TableOwner { cluster: world.cluster, topic: world.topic, epoch: 1 };
            let bounds = Bounds { compact_quiet_ms: 0, compact_files: 2, ..Bounds::default() };
            let names = Names::seeded(seed as u64 + 1);
            let mut compactor = Compactor::new(world.catalog(), world.table(), owner, names, bounds);
            let run = compactor.run(tidewater_storage::env::clock::wall(), |_| {}).await.expect("runs");
            assert_eq!(
                (run.files_in, run.files_out, run.obstacle),
                (files as u64, before.len() as u64, None),
                "{spec}"
            );
            assert_eq!(folders(&world).await, before, "{spec}");
            assert_eq!(world.rows().await, world.expected(), "{spec}");
            check_whole(&world).await;
            // The sink goes on, as another process does.
            append(&world, 1);
            drain(&mut world.sink(2), NOW).await;
            check_whole(&world).await;
        }
    });
}

#[test]
fn a_turn_opens_no_more_partitions_than_its_cap() {
    block_on(async {
        let mut world = World::new(720);
        world.log.append_each(0, (0..300).map(|n| (NOW, Bytes::from(format!("{n:03}")))));
        let mut sink = world.sink_with(SinkConfig { turn_files: 16, ..config(&world, "(truncate(3, tidewater.key))") });
        let mut turns = 0;
        loop {
            match sink.run_once(NOW).await {
                Outcome::Idle => break,
                Outcome::Committed { files, .. } => assert!(files <= 16, "{files} files"),
                other => panic!("{other:?}"),
            }
            turns += 1;
        }
        assert!(turns >= 300 / 16, "{turns}");
        assert_eq!(folders(&world).await.len(), 300);
        check_whole(&world).await;
    });
}

#[test]
fn a_table_keeps_its_spec_and_follows_its_owner() {
    block_on(async {
        let mut world = World::new(721);
        append(&world, 2);
        drain(&mut world.sink(1), NOW).await;
        append(&world, 1);
        drain(&mut world.sink_with(config(&world, "()")), NOW).await;
        assert!(folders(&world).await.iter().all(|folder| folder.starts_with("hour=")), "the setting is of new tables");
        // The owner changes it in an engine.
        let spec = UnboundPartitionSpec::builder().add_partition_field(ids::TIMESTAMP, "day", Transform::Day);
        let change = |spec| vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
        let updates = change(spec.expect("legal").build());
        world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
        append(&world, 1);
        drain(&mut world.sink(2), NOW).await;
        let last = |world: &World| {
            let keys = world.store.keys().into_iter().map(|(key, _)| key);
            keys.filter(|key| key.contains("/data/part=")).count()
        };
        assert_eq!(last(&world), 3, "three days");
        check_whole(&world).await;
        // To one over a column of values, by which no file can be written: files are by hour again.
        let spec =
            UnboundPartitionSpec::builder().add_partition_field(ids::VALUE, "value_bucket", Transform::Bucket(4));
        let updates = change(spec.expect("legal").build());
        world.catalog().commit(&world.table(), Vec::new(), updates).await.expect("commits");
        append(&world, 1);
        drain(&mut world.sink(3), NOW).await;
        assert_eq!(last(&world), 3);
        check_whole(&world).await;
    });
}

#[test]
fn typed_tables_and_dead_letters_have_partitions_too() {
    block_on(async {
        let mut world = World::typed(722);
        append(&world, 2);
        let mut sink = world.sink_with(config(&world, "(tidewater.partition)"));
        drain(&mut sink, NOW).await;
        assert_eq!(sink.status().dead_letters, world.expected().len() as u64);
        let dead = world.catalog().load(&dead_letter_table(&world.table())).await.expect("loads");
        assert!(SystemColumns::default().is_by_hour(dead.metadata.default_partition_spec()));
        let rows = world.catalog().load(&world.table()).await.expect("loads");
        let by = rows.metadata.default_partition_spec().fields();
        assert_eq!((by[0].source_id, &*by[0].name), (ids::PARTITION, "tidewater_partition"));
    });
}
