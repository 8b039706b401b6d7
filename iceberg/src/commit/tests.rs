//! Growth: a table that commits for a long time stays flat, and what nothing names is gone.
#![allow(clippy::panic)]

use std::collections::HashSet;
use std::sync::LazyLock;

use futures::executor::block_on;
use iceberg::spec::ManifestList;
use tidewater_storage::model::TimestampMs;

use crate::catalog::Catalog;
use crate::commit::Bounds;
use crate::fixture::World;
use crate::sink::{Outcome, TableSink};

mod settings;

/// When the tests began: the catalog stamps what it makes with the real time, and a snapshot is never older than that.
static START: LazyLock<i64> = LazyLock::new(|| tidewater_storage::env::clock::wall().0);

fn bounds() -> Bounds {
    Bounds {
        merge_at: 20,
        manifest_files: 50,
        snapshots_slack: 5,
        snapshot_age_ms: 300_000,
        metadata_kept: 8,
        ..Bounds::default()
    }
}

async fn commit_some(world: &World, sink: &mut TableSink, commits: std::ops::Range<i64>) {
    commit_every(world, sink, commits, 30_000).await;
}

async fn commit_every(world: &World, sink: &mut TableSink, commits: std::ops::Range<i64>, ms: i64) {
    for n in commits {
        let now = TimestampMs(*START + n * ms);
        world.log.append(0, 1, now);
        match sink.run_once(now).await {
            Outcome::Committed { rows: 1, .. } => {}
            other => panic!("commit {n}: {other:?}"),
        }
    }
}

/// Bytes of the current metadata file and manifest list, and how many objects lie in each folder.
async fn sizes(world: &World) -> (usize, usize, usize, usize) {
    let catalog = world.catalog();
    let table = catalog.load(&world.table()).await.expect("loads");
    let files = catalog.files();
    let metadata = files.read(table.location.as_deref().unwrap_or_default()).await.expect("metadata");
    let list = table.metadata.current_snapshot().expect("snapshot").manifest_list().to_owned();
    let list = files.read(&list).await.expect("list").len();
    let keys = world.store.keys();
    let count = |folder: &str| keys.iter().filter(|(key, _)| key.contains(folder)).count();
    (metadata.len(), list, count("/metadata/"), count("/data/"))
}

/// Every object that the current metadata reaches, by the end of its key.
async fn reachable(world: &World) -> HashSet<String> {
    let catalog = world.catalog();
    let table = catalog.load(&world.table()).await.expect("loads");
    let (files, metadata) = (catalog.files(), &table.metadata);
    let mut out: HashSet<String> = metadata.metadata_log().iter().map(|past| past.metadata_file.clone()).collect();
    out.extend(table.location.clone());
    for snapshot in metadata.snapshots() {
        let body = files.read(snapshot.manifest_list()).await.expect("list is there");
        out.insert(snapshot.manifest_list().to_owned());
        let list = ManifestList::parse_with_version(&body, metadata.format_version()).expect("parses");
        for manifest in list.entries() {
            if out.insert(manifest.manifest_path.clone()) {
                let loaded = manifest.load_manifest(&files.io()).await.expect("manifest is there");
                out.extend(loaded.entries().iter().map(|entry| entry.file_path().to_owned()));
            }
        }
    }
    out.into_iter().filter_map(|uri| uri.strip_prefix("s3://bucket/").map(str::to_owned)).collect()
}

#[test]
fn two_thousand_commits_stay_flat() {
    block_on(async {
        let mut world = World::new(1);
        let mut config = world.config(1);
        config.bounds = bounds();
        let mut sink = world.sink_with(config);
        commit_some(&world, &mut sink, 0..500).await;
        let early = sizes(&world).await;
        commit_some(&world, &mut sink, 500..2000).await;
        let late = sizes(&world).await;
        println!("metadata, list, metadata files, data files: {early:?} after 500, {late:?} after 2000 commits");
        assert!(late.0 < early.0 * 3 / 2, "metadata grew from {} to {}", early.0, late.0);
        assert!(late.1 < 20_000, "manifest list has {} bytes", late.1);
        assert!(late.2 < 200, "{} files of metadata", late.2);
        assert_eq!(late.3, 2000);
        assert_eq!(world.rows().await.len(), 2000);
        let reached = reachable(&world).await;
        let lost: Vec<_> = world
            .store
            .keys()
            .into_iter()
            .map(|(k, _)| k)
            .filter(|k| !k.contains("catalog/") && !reached.contains(k))
            .collect();
        assert!(lost.is_empty(), "objects nothing names: {lost:?}");
    });
}

#[test]
fn an_expiry_cut_short_is_finished_by_the_next_process() {
    /// A table of 15 snapshots, of which the next commit expires ten.
    async fn table() -> (World, TableSink) {
        let mut world = World::new(2);
        let config = crate::sink::SinkConfig { bounds: bounds(), ..world.config(1) };
        let mut sink = world.sink_with(config);
        commit_some(&world, &mut sink, 0..15).await;
        world.log.append(0, 1, TimestampMs(*START + 20 * 30_000));
        (world, sink)
    }
    let later = TimestampMs(*START + 20 * 30_000);
    block_on(async {
        let (world, mut sink) = table().await;
        let before = world.store.steps();
        assert!(matches!(sink.run_once(later).await, Outcome::Committed { rows: 1, .. }));
        let steps = world.store.steps() - before;
        // The pointer moves and the deletions are lost with the process, whichever of the last steps it dies at.
        for step in steps - 14..=steps {
            let (mut world, mut sink) = table().await;
            world.store.arm(before + step, crate::fixture::Fault::CrashBefore);
            let _ = sink.run_once(later).await;
            assert!(world.store.is_dead(), "step {step} of {steps}");
            world.store.calm();
            let mut sink = world.sink_with(crate::sink::SinkConfig { bounds: bounds(), ..world.config(1) });
            world.log.append(0, 1, later);
            assert!(matches!(sink.run_once(later.plus_ms(300_000)).await, Outcome::Committed { .. }));
            let reached = reachable(&world).await;
            let left = world.store.keys().into_iter().map(|(k, _)| k);
            let left: Vec<_> = left.filter(|k| k.contains("tidewater-snap") && !reached.contains(k)).collect();
            assert!(left.len() <= 1, "step {step} of {steps}: expired manifest lists are left: {left:?}");
        }
    });
}
