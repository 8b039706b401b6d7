//! What a table's owner set is what the sink does.

use std::collections::HashMap;

use iceberg::spec::{Operation, SnapshotReference, SnapshotRetention, TableMetadata};
use iceberg::{TableRequirement, TableUpdate};
use parquet::basic::Compression;
use parquet::file::metadata::ParquetMetaDataReader;

use super::*;
use crate::commit::maintain;

async fn update(world: &World, updates: Vec<TableUpdate>) {
    let none: Vec<TableRequirement> = Vec::new();
    world.catalog().commit(&world.table(), none, updates).await.expect("committed");
}

async fn set(world: &World, properties: &[(&str, &str)]) {
    let updates = properties.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    update(world, vec![TableUpdate::SetProperties { updates }]).await;
}

async fn metadata(world: &World) -> TableMetadata {
    (*world.catalog().load(&world.table()).await.expect("loads").metadata).clone()
}

/// A table with these properties after `commits` commits, so many milliseconds apart; the sink's defaults are those of
/// `bounds`.
async fn table(seed: u64, bounds: Bounds, properties: &[(&str, &str)], commits: i64, ms: i64) -> (World, TableSink) {
    let mut world = World::new(seed);
    let mut config = world.config(1);
    config.bounds = bounds;
    let mut sink = world.sink_with(config.clone());
    commit_every(&world, &mut sink, 0..1, ms).await;
    set(&world, properties).await;
    // Another process, which loads the table.
    let mut sink = world.sink_with(config);
    commit_every(&world, &mut sink, 1..commits, ms).await;
    (world, sink)
}

const MINUTE: i64 = 60_000;

#[test]
fn snapshots_stay_as_long_as_the_owner_said() {
    block_on(async {
        let days = [("history.expire.max-snapshot-age-ms", "864000000")];
        let (world, _) = table(30, Bounds::default(), &days, 150, 90 * MINUTE).await;
        assert_eq!(metadata(&world).await.snapshots().len(), 150, "nine days of ten");
        let short = [("history.expire.max-snapshot-age-ms", "60000"), ("history.expire.min-snapshots-to-keep", "30")];
        let (world, _) = table(31, Bounds::default(), &short, 60, MINUTE).await;
        let kept = metadata(&world).await.snapshots().len();
        assert!((30..30 + 21).contains(&kept), "{kept}");
    });
}

#[test]
fn a_reader_that_paused_for_two_hours_finds_its_place_by_default() {
    block_on(async {
        let tight = Bounds { snapshots_bytes: 5_000, snapshots_slack: 5, ..Bounds::default() };
        let (world, _) = table(32, tight, &[], 60, 5 * MINUTE).await;
        let metadata = metadata(&world).await;
        let kept = metadata.snapshots().len();
        assert!((24..=31).contains(&kept), "two hours are 24 commits: {kept}");
        assert_eq!(crate::commit::offsets::lineage(&metadata).count(), kept, "without a gap");
        // Where there is room, they stay for five days.
        let (world, _) = table(39, Bounds::default(), &[], 100, 60 * MINUTE).await;
        assert_eq!(self::metadata(&world).await.snapshots().len(), 100);
    });
}

#[test]
fn nothing_that_was_chosen_makes_the_metadata_larger_than_its_cap() {
    block_on(async {
        let forever = [
            ("history.expire.max-snapshot-age-ms", "9223372036854775807"),
            ("history.expire.min-snapshots-to-keep", "1000000"),
        ];
        let small = Bounds { snapshots_bytes_max: 30_000, ..Bounds::default() };
        let (world, _) = table(33, small, &forever, 80, MINUTE).await;
        let metadata = metadata(&world).await;
        let bytes: usize = metadata.snapshots().map(|snapshot| maintain::metadata_bytes(snapshot)).sum();
        assert!((15_000..32_000).contains(&bytes), "{bytes}");
        let json = serde_json::to_vec(&metadata).expect("JSON").len();
        assert!(json < bytes + 15_000 && bytes < json + 2_000, "{json} bytes of JSON, {bytes} by the estimate");
        assert_eq!(world.rows().await.len(), 80);
    });
}

#[test]
fn without_garbage_collection_nothing_expires() {
    block_on(async {
        let (world, _) = table(34, bounds(), &[("gc.enabled", "false")], 30, MINUTE).await;
        assert_eq!(metadata(&world).await.snapshots().len(), 30);
    });
}

#[test]
fn branches_and_tags_have_their_own_retention() {
    block_on(async {
        let (world, mut sink) = table(35, bounds(), &[], 2, MINUTE / 2).await;
        let here = metadata(&world).await.current_snapshot_id().expect("one");
        let reference = |name: &str, retention| TableUpdate::SetSnapshotRef {
            ref_name: name.to_owned(),
            reference: SnapshotReference::new(here, retention),
        };
        let tag = |max_ref_age_ms| SnapshotRetention::Tag { max_ref_age_ms };
        update(
            &world,
            vec![
                reference("kept", tag(None)),
                reference("short", tag(Some(600_000))),
                reference("branch", SnapshotRetention::branch(Some(2), Some(1), None)),
                reference("main", SnapshotRetention::branch(Some(25), None, None)),
            ],
        )
        .await;
        commit_some(&world, &mut sink, 2..60).await;
        let loaded = world.catalog().load(&world.table()).await.expect("loads");
        let (metadata, refs) = (&loaded.metadata, loaded.refs().expect("readable"));
        assert_eq!(refs.keys().collect::<Vec<_>>(), ["branch", "kept", "main"], "the short tag is gone");
        assert_eq!(refs["main"].retention, SnapshotRetention::branch(Some(25), None, None), "commits leave it");
        let main = crate::commit::offsets::lineage(metadata).count();
        assert!((25..=30).contains(&main), "main keeps 25: {main}");
        assert_eq!(metadata.snapshots().len(), main + 2, "the tag's snapshot, and one before it for the branch");
        // Everything that is kept can be read.
        let reached = reachable(&world).await;
        let there: HashSet<_> = world.store.keys().into_iter().map(|(key, _)| key).collect();
        assert!(reached.iter().all(|key| there.contains(key)));
        assert_eq!(world.rows().await.len(), 60);
    });
}

/// A snapshot beside main's line shares manifests with kept snapshots that the oldest kept list does not have.
#[test]
fn the_end_of_a_branch_takes_no_manifest_that_main_reads() {
    block_on(async {
        let one_by_one = Bounds { snapshots_slack: 1, ..bounds() };
        let (world, mut sink) = table(36, one_by_one, &[], 2, MINUTE / 2).await;
        let base = metadata(&world).await;
        let here = base.current_snapshot().expect("one").clone();
        // Older than main's first snapshot, so that it expires alone, while main keeps all.
        let beside = iceberg::spec::Snapshot::builder()
            .with_snapshot_id(4242)
            .with_parent_snapshot_id(Some(here.snapshot_id()))
            .with_sequence_number(base.next_sequence_number())
            .with_timestamp_ms(base.last_updated_ms() - 50_000)
            .with_manifest_list(here.manifest_list().replace(".avro", "-beside.avro"))
            .with_summary(iceberg::spec::Summary {
                operation: Operation::Append,
                additional_properties: HashMap::new(),
            })
            .with_schema_id(base.current_schema_id())
            .build();
        let files = world.catalog().files();
        let list = files.read(here.manifest_list()).await.expect("reads");
        files.write(beside.manifest_list(), list).await.expect("writes");
        let retention = SnapshotRetention::branch(None, None, Some(60_000));
        let reference = SnapshotReference::new(4242, retention);
        let branch = TableUpdate::SetSnapshotRef { ref_name: "b".to_owned(), reference };
        update(&world, vec![TableUpdate::AddSnapshot { snapshot: beside }, branch]).await;
        let mut commits = 2;
        while metadata(&world).await.snapshot_by_id(4242).is_some() {
            commit_some(&world, &mut sink, commits..commits + 1).await;
            commits += 1;
            assert!(commits < 40, "it never expires");
        }
        let metadata = metadata(&world).await;
        assert_eq!(metadata.snapshots().len() as i64, commits, "main has all of its snapshots");
        let reached = reachable(&world).await;
        let there: HashSet<_> = world.store.keys().into_iter().map(|(key, _)| key).collect();
        let lost: Vec<_> = reached.iter().filter(|key| !there.contains(*key)).collect();
        assert!(lost.is_empty(), "{lost:?}");
    });
}

#[test]
fn files_are_written_as_the_owner_said() {
    block_on(async {
        let asked = [("write.parquet.compression-codec", "snappy"), ("write.target-file-size-bytes", "100000")];
        let (world, mut sink) = table(37, Bounds::default(), &asked, 2, MINUTE).await;
        let key = |n: usize| {
            let random = |at: usize| (at.wrapping_mul(n + 1).wrapping_mul(2_654_435_761) >> 13) as u8;
            bytes::Bytes::from((0..1 << 20).map(random).collect::<Vec<_>>())
        };
        let now = TimestampMs(*START + 2 * MINUTE);
        world.log.append_each(0, (0..4).map(|n| (now, key(n))));
        let outcome = sink.run_once(now).await;
        assert!(matches!(outcome, Outcome::Committed { rows: 4, files: 4, .. }), "{outcome:?}");
        let objects = world.store.keys().into_iter().map(|(key, _)| format!("s3://bucket/{key}"));
        for (n, file) in objects.filter(|key| key.ends_with(".parquet")).enumerate() {
            let body = world.catalog().files().read(&file).await.expect("reads");
            let parsed = ParquetMetaDataReader::new().parse_and_finish(&body).expect("parses");
            let codec = parsed.row_group(0).column(0).compression();
            assert!(codec == Compression::SNAPPY || (n < 6 && matches!(codec, Compression::ZSTD(_))), "{codec:?}");
        }
    });
}

#[test]
fn an_invalid_property_is_the_default_and_named_once() {
    block_on(async {
        let wrong = [("history.expire.min-snapshots-to-keep", "many"), ("write.parquet.compression-codec", "rar")];
        let (world, _) = table(38, bounds(), &wrong, 40, MINUTE / 2).await;
        assert!(metadata(&world).await.snapshots().len() <= 16, "the default holds");
        let owner = crate::commit::TableOwner { cluster: world.cluster, topic: world.topic, epoch: 1 };
        let names = crate::names::Names::seeded(1);
        let mut committer = crate::commit::Committer::new(world.catalog(), world.table(), owner, names, bounds());
        let metadata = metadata(&world).await;
        for _ in 0..2 {
            assert_eq!(committer.settings(&metadata).invalid.len(), 2);
            assert_eq!(committer.reported.len(), 2);
        }
    });
}
