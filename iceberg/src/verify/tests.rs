//! Tables are whole as the sink writes them, and each damage is found by the file's key and the table.

use futures::executor::block_on;
use tidewater_storage::model::TimestampMs;
use tidewater_tiering::store::{ObjectStore, PutMode};

use super::*;
use crate::fixture::World;
use crate::location::Warehouse;

const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

/// Three commits to `topics.orders`.
async fn written() -> World {
    let mut world = World::new(11);
    for n in 0..3 {
        world.log.append(0, 20, NOW);
        world.log.append(1, 10, NOW);
        world.sink(n + 1).run_once(NOW).await;
    }
    world
}

fn files(world: &World, url: &str) -> TableFiles {
    TableFiles::new(std::sync::Arc::new(world.store.clone()), Warehouse::new(url, "lake").expect("legal"))
}

async fn look(world: &World, quick: bool) -> (TablesReport, Findings) {
    let mut findings = Findings::default();
    let report = verify(files(world, "s3://bucket"), quick, &mut findings).await.expect("lists");
    (report, findings)
}

/// The keys with such an ending.
fn keys(world: &World, part: &str, end: &str) -> Vec<ObjectKey> {
    let keys = world.store.keys().into_iter().map(|(key, _)| key);
    keys.filter(|key| key.contains(part) && key.ends_with(end))
        .map(|key| ObjectKey::new(&key).expect("legal"))
        .collect()
}

async fn change(world: &World, key: &ObjectKey, change: impl FnOnce(&mut Vec<u8>)) {
    let mut body = world.store.get(key, None).await.expect("is there").body.to_vec();
    change(&mut body);
    world.store.put(key, body.into(), PutMode::Overwrite).await.expect("put");
}

#[track_caller]
fn only(findings: &Findings) -> (DamageKind, &str) {
    assert_eq!((findings.damage.len(), findings.unread.len()), (1, 0), "{findings:#?}");
    assert_eq!(findings.damage[0].table.as_deref(), Some("topics.orders"));
    (findings.damage[0].kind, &findings.damage[0].object)
}

#[test]
fn what_the_sink_wrote_is_whole() {
    block_on(async {
        let world = written().await;
        for quick in [false, true] {
            let (report, findings) = look(&world, quick).await;
            assert_eq!(findings, Findings::default());
            let [table] = report.tables.as_slice() else { unreachable!("{report:?}") };
            assert_eq!((table.table.as_str(), table.snapshots), ("topics.orders", 3));
            assert_eq!(table.files, keys(&world, "/data/", ".parquet").len() as u64);
            assert!(report.notes.is_empty() && table.bytes > 0);
        }
    });
}

#[test]
fn each_file_that_is_gone_is_named() {
    block_on(async {
        let world = written().await;
        let current = world.catalog();
        let loaded = crate::catalog::Catalog::load(&*current, &world.table()).await.expect("loads");
        let metadata = loaded.location.expect("in a file").replace("s3://bucket/", "");
        let mut gone = vec![ObjectKey::new(&metadata).expect("legal")];
        gone.extend(keys(&world, "/metadata/tidewater-snap-", ".avro"));
        gone.extend(keys(&world, "/data/", ".parquet"));
        assert!(gone.len() >= 7, "{gone:?}");
        for key in gone {
            let body = world.store.get(&key, None).await.expect("is there").body;
            world.store.delete(vec![key.clone()]).await.expect("deleted");
            for quick in [false, true] {
                let (_, findings) = look(&world, quick).await;
                assert_eq!(only(&findings), (DamageKind::Missing, key.as_str()));
            }
            world.store.put(&key, body, PutMode::Overwrite).await.expect("put");
        }
        assert_eq!(look(&world, false).await.1, Findings::default());
    });
}

#[test]
fn each_file_with_other_bytes_is_named() {
    block_on(async {
        let world = written().await;
        let data = keys(&world, "/data/", ".parquet").remove(0);
        change(&world, &data, |body| body.truncate(100)).await;
        for quick in [false, true] {
            assert_eq!(only(&look(&world, quick).await.1), (DamageKind::Size, data.as_str()));
        }
        let world = written().await;
        let data = keys(&world, "/data/", ".parquet").remove(1);
        change(&world, &data, |body| body.iter_mut().rev().take(200).for_each(|byte| *byte ^= 0x55)).await;
        assert_eq!(look(&world, true).await.1, Findings::default(), "a listing does not see it");
        assert_eq!(only(&look(&world, false).await.1), (DamageKind::Unreadable, data.as_str()));

        let world = written().await;
        let lists = keys(&world, "/metadata/tidewater-snap-", ".avro");
        change(&world, &lists[0], |body| body.truncate(20)).await;
        assert_eq!(only(&look(&world, true).await.1), (DamageKind::Unreadable, lists[0].as_str()));

        let world = written().await;
        let manifests = keys(&world, "/metadata/tidewater-", ".avro");
        let manifest = manifests.iter().find(|key| !key.as_str().contains("-snap-")).expect("one");
        change(&world, manifest, |body| body.truncate(50)).await;
        assert_eq!(only(&look(&world, true).await.1), (DamageKind::Size, manifest.as_str()));
    });
}

/// A length that no file has says nothing of the file, and no file fits it.
#[test]
fn a_manifest_list_with_a_negative_length_is_damage() {
    block_on(async {
        let world = written().await;
        let checker = Checker {
            files: files(&world, "s3://bucket"),
            catalog: ReadOnlyCatalog::new(files(&world, "s3://bucket")),
            quick: true,
        };
        let list = keys(&world, "/metadata/tidewater-snap-", ".avro").remove(0);
        let body = world.store.get(&list, None).await.expect("is there").body;
        let parsed = ManifestList::parse_with_version(&body, iceberg::spec::FormatVersion::V2).expect("a list");
        let mut manifests: Vec<ManifestFile> = parsed.consume_entries().into_iter().collect();
        manifests[0].manifest_length = -5;
        let (listed, seen) = (HashMap::new(), HashSet::new());
        let report = TableReport { table: "topics.orders".to_owned(), snapshots: 0, files: 0, bytes: 0 };
        let (name, found) = (report.table.clone(), Checked::default());
        let mut check = Check { name, listed, seen, report, found, elsewhere: 0 };
        checker.manifests(manifests, &mut check).await;
        let [damage] = Vec::from_iter(check.found.damage.into_values()).try_into().expect("one");
        assert_eq!(damage.kind, DamageKind::Contradiction);
        assert!(damage.reason.contains("-5 bytes"), "{}", damage.reason);
    });
}

#[test]
fn a_damaged_pointer_and_metadata_file_are_named() {
    block_on(async {
        let world = written().await;
        let pointer = keys(&world, "catalog/tables/", ".json").remove(0);
        change(&world, &pointer, |body| body.truncate(10)).await;
        assert_eq!(only(&look(&world, true).await.1), (DamageKind::Unreadable, pointer.as_str()));

        let world = written().await;
        let loaded = crate::catalog::Catalog::load(&*world.catalog(), &world.table()).await.expect("loads");
        let metadata = loaded.location.expect("in a file").replace("s3://bucket/", "");
        change(&world, &ObjectKey::new(&metadata).expect("legal"), |body| body.truncate(10)).await;
        assert_eq!(only(&look(&world, true).await.1), (DamageKind::Unreadable, metadata.as_str()));
    });
}

#[test]
fn a_table_whose_files_are_elsewhere_is_noted() {
    block_on(async {
        let world = written().await;
        let mut findings = Findings::default();
        let report = verify(files(&world, "s3://copy"), false, &mut findings).await.expect("lists");
        assert_eq!((report.tables.len(), findings.is_empty()), (0, true), "{findings:?}");
        assert!(report.notes[0].contains("topics.orders was not looked at"), "{:?}", report.notes);
    });
}

#[test]
fn what_the_store_does_not_give_is_not_whole() {
    block_on(async {
        let world = written().await;
        let steps = world.store.steps();
        let whole = look(&world, false).await;
        let taken = world.store.steps() - steps;
        assert!(taken > 8, "{taken}");
        for step in 2..=taken {
            world.store.arm(world.store.steps() + step, crate::fixture::Fault::Refused);
            let (_, findings) = look(&world, false).await;
            let is_seen = !findings.unread.is_empty() && findings.damage.is_empty();
            // A file that a listing has need not be asked for.
            assert!(is_seen || findings == whole.1, "request {step}: {findings:?}");
            assert!(is_seen || findings.damage.is_empty());
        }
    });
}

#[test]
fn a_file_that_a_commit_forgot_and_deleted_meanwhile_is_no_damage() {
    block_on(async {
        let world = written().await;
        let checker = Checker {
            files: files(&world, "s3://bucket"),
            catalog: ReadOnlyCatalog::new(files(&world, "s3://bucket")),
            quick: true,
        };
        let data = keys(&world, "/data/", ".parquet").remove(0);
        world.store.delete(vec![data.clone()]).await.expect("deleted");
        let found = checker.once(&world.table()).await;
        assert_eq!(found.damage.len(), 1);
        // The table is dropped before the second look.
        crate::catalog::Catalog::drop_table(&*world.catalog(), &world.table(), true).await.expect("dropped");
        assert!(checker.table(world.table()).await.damage.is_empty());
    });
}
