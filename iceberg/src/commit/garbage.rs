//! Deleting what expired snapshots alone named: their manifest lists, manifests that merging dropped, and data files
//! that an engine's maintenance had replaced.
//!
//! Runs after the commit that expired them (I4). Order: data files, manifests, then lists, so that a run cut short
//! can be repeated from the lists that are left; [`recover`] does that at start from the metadata log. A failure
//! leaves garbage and is only logged.

use std::collections::{BTreeSet, HashSet};

use iceberg::spec::{ManifestFile, ManifestStatus, Operation, Snapshot, TableMetadata};

use super::maintain::other_refs;
use super::offsets::lineage;
use super::snapshot::read_list;
use crate::files::TableFiles;

/// Finishes an expiry that was cut short before `metadata`, as far back as its metadata log reaches.
pub async fn recover(files: &TableFiles, metadata: &TableMetadata) {
    let Some(oldest) = metadata.metadata_log().first() else { return };
    match TableMetadata::read_from(&files.io(), &oldest.metadata_file).await {
        Ok(before) => collect(files, &before, metadata).await,
        Err(error) => tracing::debug!(%error, "an old metadata file is gone already"),
    }
}

/// Deletes what `before` named and `after` does not.
pub async fn collect(files: &TableFiles, before: &TableMetadata, after: &TableMetadata) {
    let mut expired: Vec<&Snapshot> =
        before.snapshots().map(AsRef::as_ref).filter(|s| after.snapshot_by_id(s.snapshot_id()).is_none()).collect();
    // In an order of their own: the metadata keeps them in a hash map.
    expired.sort_by_key(|snapshot| snapshot.sequence_number());
    if expired.is_empty() || before.uuid() != after.uuid() {
        return;
    }
    if let Err(error) = try_collect(files, before, after, &expired).await {
        tracing::warn!(%error, table = %after.location(), "expired files of a table could not be deleted");
    }
}

async fn try_collect(
    files: &TableFiles,
    before: &TableMetadata,
    after: &TableMetadata,
    expired: &[&Snapshot],
) -> iceberg::Result<()> {
    let kept: Vec<&Snapshot> = lineage(after).collect();
    let linear = kept.len() == after.snapshots().len() && other_refs(after).is_empty();
    // On one line of descent a manifest that left a list never comes back: the oldest list kept speaks for all.
    let witnesses: Vec<&Snapshot> = match kept.last() {
        Some(oldest) if linear => vec![*oldest],
        _ => after.snapshots().map(AsRef::as_ref).collect(),
    };
    let mut named = HashSet::new();
    for snapshot in &witnesses {
        named.extend(read_list(files, after, snapshot).await?.into_iter().map(|m| m.manifest_path));
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
        keep_alive(files, after, &mut replaced).await?;
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

/// Takes out of `paths` what any snapshot that is kept still reads. Rare: only after an engine replaced files.
async fn keep_alive(files: &TableFiles, after: &TableMetadata, paths: &mut BTreeSet<String>) -> iceberg::Result<()> {
    let mut seen = HashSet::new();
    for snapshot in after.snapshots() {
        for manifest in read_list(files, after, snapshot).await? {
            if !seen.insert(manifest.manifest_path.clone()) {
                continue;
            }
            for entry in manifest.load_manifest(&files.io()).await?.entries().iter().filter(|e| e.is_alive()) {
                paths.remove(entry.file_path());
            }
        }
    }
    Ok(())
}
