//! Deleting what expired snapshots alone named: their manifest lists, manifests that merging dropped, and data files
//! that compaction or an engine's maintenance had replaced.
//!
//! Runs after the commit that expired them (I4). Order: data files, manifests, then lists, so that a run that was cut
//! off can be repeated from the lists that are left; [`recover`] does that at start from the metadata log. A failure
//! leaves garbage and is only logged.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{ManifestFile, ManifestStatus, Operation, Snapshot, TableMetadata};

use super::maintain::{ancestors, is_linear};
use super::offsets::lineage;
use super::snapshot::{READS_AT_ONCE, read_list};
use crate::catalog::Loaded;
use crate::files::TableFiles;
use crate::properties::GC_ENABLED;

/// Finishes an expiry that was cut off before `now`: what the oldest and the newest file of its metadata log name
/// and it does not. What an expiry before other writers' commits left is an orphan, and swept as one.
pub async fn recover(files: &TableFiles, now: &Loaded) {
    let log = now.metadata.metadata_log();
    for past in log.iter().enumerate().filter(|(n, _)| *n == 0 || n + 1 == log.len()).map(|(_, past)| past) {
        match TableMetadata::read_from(&files.io(), &past.metadata_file).await {
            Ok(before) => collect(files, &before, now).await,
            Err(error) => tracing::debug!(%error, "an old metadata file is gone already"),
        }
    }
}

/// Deletes what `before` named and `after` does not.
pub async fn collect(files: &TableFiles, before: &TableMetadata, loaded: &Loaded) {
    let after = &*loaded.metadata;
    let mut expired: Vec<&Snapshot> =
        before.snapshots().map(AsRef::as_ref).filter(|s| after.snapshot_by_id(s.snapshot_id()).is_none()).collect();
    // The metadata keeps them in a hash map; this order is the same each time.
    expired.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.snapshot_id()));
    let may_delete = after.properties().get(GC_ENABLED).is_none_or(|value| !value.eq_ignore_ascii_case("false"));
    if expired.is_empty() || before.uuid() != after.uuid() || !may_delete {
        return;
    }
    if let Err(error) = try_collect(files, before, loaded, &expired).await {
        tracing::warn!(%error, table = %after.location(), "expired files of a table could not be deleted");
    }
}

async fn try_collect(
    files: &TableFiles,
    before: &TableMetadata,
    loaded: &Loaded,
    expired: &[&Snapshot],
) -> iceberg::Result<()> {
    let after = &*loaded.metadata;
    let kept: Vec<&Snapshot> = lineage(after).collect();
    let linear = is_linear(after, loaded.refs()?);
    // Along one line of descent a manifest that left a list never comes back: where everything expired is an ancestor
    // of the oldest snapshot that main keeps, that one's list answers for all of main, and each snapshot beside main (a
    // branch's, a tag's) for itself. Otherwise every list is read.
    let (line, before_line) = (
        ids(kept.iter().copied()),
        kept.last().map_or_else(HashSet::new, |oldest| {
            ids(ancestors(before, oldest).filter(|ancestor| ancestor.snapshot_id() != oldest.snapshot_id()))
        }),
    );
    let is_quick = expired.iter().all(|snapshot| before_line.contains(&snapshot.snapshot_id()));
    let oldest = kept.last().map(|snapshot| snapshot.snapshot_id());
    let witnesses = after.snapshots().map(AsRef::as_ref).filter(|snapshot: &&Snapshot| {
        !is_quick || !line.contains(&snapshot.snapshot_id()) || Some(snapshot.snapshot_id()) == oldest
    });
    let mut named = HashSet::new();
    for list in read_lists(files, after, witnesses.collect()).await? {
        named.extend(list.into_iter().map(|manifest| manifest.manifest_path));
    }
    let mut dead = BTreeSet::new();
    let mut replaced = BTreeSet::new();
    for snapshot in expired {
        // A list that is gone was dealt with by an earlier run.
        let Ok(manifests) = read_list(files, before, snapshot).await else { continue };
        if linear && snapshot.summary().operation != Operation::Append {
            replaced.extend(deleted_by(files, snapshot, &manifests).await?);
        }
        dead.extend(manifests.into_iter().map(|m| m.manifest_path).filter(|path| !named.contains(path)));
    }
    if let Some(oldest) = kept.last().filter(|s| linear && s.summary().operation != Operation::Append) {
        let manifests = read_list(files, after, oldest).await?;
        replaced.extend(deleted_by(files, oldest, &manifests).await?);
    }
    if !replaced.is_empty() {
        // What a snapshot removed is read by a later one only if something added it again, and by an earlier one not at
        // all where all those have expired: then the two ends of the line answer for all of it.
        let readers = match (kept.first(), kept.last()) {
            (Some(newest), Some(oldest)) if is_quick => vec![*newest, *oldest],
            _ => after.snapshots().map(AsRef::as_ref).collect(),
        };
        keep_alive(files, after, readers, &mut replaced).await?;
        delete(files, replaced).await?;
    }
    delete(files, dead).await?;
    delete(files, expired.iter().map(|s| s.manifest_list().to_owned()).collect()).await
}

async fn delete(files: &TableFiles, uris: BTreeSet<String>) -> iceberg::Result<()> {
    let uris: Vec<_> = uris.into_iter().collect();
    files.delete(&uris).await.map_err(|e| iceberg::Error::new(iceberg::ErrorKind::Unexpected, e.to_string()))
}

/// Data files that `snapshot` removed from the table.
async fn deleted_by(
    files: &TableFiles,
    snapshot: &Snapshot,
    manifests: &[ManifestFile],
) -> iceberg::Result<Vec<String>> {
    let mut out = Vec::new();
    let id = snapshot.snapshot_id();
    for manifest in manifests.iter().filter(|m| m.added_snapshot_id == id && m.has_deleted_files()) {
        let loaded = manifest.load_manifest(&files.io()).await?;
        let deleted = loaded.entries().iter().filter(|e| e.status() == ManifestStatus::Deleted);
        out.extend(deleted.map(|entry| entry.file_path().to_owned()));
    }
    Ok(out)
}

fn ids<'a>(snapshots: impl Iterator<Item = &'a Snapshot>) -> HashSet<i64> {
    snapshots.map(Snapshot::snapshot_id).collect()
}

/// The manifests of each of `snapshots`.
async fn read_lists(
    files: &TableFiles,
    metadata: &TableMetadata,
    snapshots: Vec<&Snapshot>,
) -> iceberg::Result<Vec<Vec<ManifestFile>>> {
    let lists: Vec<_> = snapshots.into_iter().map(|snapshot| read_list(files, metadata, snapshot)).collect();
    futures::stream::iter(lists).buffered(READS_AT_ONCE).try_collect().await
}

/// Takes out of `paths` what any of `readers` still reads.
async fn keep_alive(
    files: &TableFiles,
    after: &TableMetadata,
    readers: Vec<&Snapshot>,
    paths: &mut BTreeSet<String>,
) -> iceberg::Result<()> {
    let mut manifests = HashMap::new();
    for list in read_lists(files, after, readers).await? {
        manifests.extend(list.into_iter().map(|manifest| (manifest.manifest_path.clone(), manifest)));
    }
    for manifest in manifests.into_values() {
        for entry in manifest.load_manifest(&files.io()).await?.entries().iter().filter(|e| e.is_alive()) {
            paths.remove(entry.file_path());
        }
    }
    Ok(())
}
