//! What keeps a table flat, decided: which manifests to merge, which snapshots to expire. Pure.

use std::collections::HashSet;

use iceberg::spec::{MAIN_BRANCH, ManifestContentType, ManifestFile, TableMetadata};
use tidewater_storage::model::TimestampMs;

use super::offsets::lineage;

/// Names of manifests this crate writes begin so. Others are an engine's and are never rewritten here.
pub const MANIFEST_PREFIX: &str = "tidewater-";

/// How much may pile up. Numbers of a table that commits every 30 s: about 50 minutes of snapshots, a manifest list
/// of at most `merge_at` entries (145 bytes each) plus one per full manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Merge small manifests once there are this many.
    pub merge_at: usize,
    /// A manifest of this many files is full and left alone: about 700 bytes each.
    pub manifest_files: usize,
    /// Snapshots kept when expiring.
    pub snapshots_kept: usize,
    /// Expire once there are this many more.
    pub snapshots_slack: usize,
    /// Snapshots younger than this stay, for queries that are reading them, …
    pub snapshot_age_ms: i64,
    /// … unless there are more than this many.
    pub snapshots_max: usize,
    /// Metadata files kept beside the current one; more than `snapshots_slack`, so that the log still knows the last
    /// expiry when its deletions were cut off.
    pub metadata_kept: usize,
    /// A file of ours that no snapshot names is an orphan at this age: longer than any commit takes.
    pub orphan_age_ms: i64,
    /// How often orphans are looked for; the first time a tenth of an hour after the sink began.
    pub sweep_every_ms: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            merge_at: 50,
            manifest_files: 5000,
            snapshots_kept: 100,
            snapshots_slack: 20,
            snapshot_age_ms: 10 * 60 * 1000,
            snapshots_max: 1000,
            metadata_kept: 30,
            orphan_age_ms: 24 * 3_600_000,
            sweep_every_ms: 24 * 3_600_000,
        }
    }
}

/// Splits a snapshot's manifests into those to merge (empty: nothing to do) and those to keep as they are.
/// `spec` is the spec new files are written with: a manifest holds files of one spec.
#[must_use]
pub fn plan_merge(bounds: &Bounds, spec: i32, manifests: Vec<ManifestFile>) -> (Vec<ManifestFile>, Vec<ManifestFile>) {
    let is_small = |manifest: &ManifestFile| {
        manifest.content == ManifestContentType::Data
            && manifest.partition_spec_id == spec
            && files_of(manifest) < bounds.manifest_files
            && manifest.key_metadata.is_none()
            && is_ours(&manifest.manifest_path)
    };
    if manifests.iter().filter(|m| is_small(m)).count() < bounds.merge_at {
        return (Vec::new(), manifests);
    }
    manifests.into_iter().partition(is_small)
}

/// Files a manifest holds. Counted, not measured: a small manifest is mostly its own schema, so its bytes say nothing
/// about how many it could hold.
fn files_of(manifest: &ManifestFile) -> usize {
    let count = |files: Option<u32>| files.map_or(usize::MAX / 2, |n| n as usize);
    count(manifest.added_files_count) + count(manifest.existing_files_count)
}

fn is_ours(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(MANIFEST_PREFIX))
}

/// Snapshots to expire in the commit that follows `metadata`: the oldest of the main branch's, never one that another
/// branch or a tag names or descends from.
#[must_use]
pub fn plan_expiry(bounds: &Bounds, metadata: &TableMetadata, now: TimestampMs) -> Vec<i64> {
    if metadata.snapshots().len() < bounds.snapshots_kept + bounds.snapshots_slack {
        return Vec::new();
    }
    let protected = protected(metadata);
    let mut out = Vec::new();
    for (depth, snapshot) in lineage(metadata).enumerate().skip(bounds.snapshots_kept.max(1)) {
        let old = now.since_ms(TimestampMs(snapshot.timestamp_ms())) >= bounds.snapshot_age_ms;
        if (old || depth >= bounds.snapshots_max) && !protected.contains(&snapshot.snapshot_id()) {
            out.push(snapshot.snapshot_id());
        }
    }
    out
}

/// Snapshots that references other than main need.
fn protected(metadata: &TableMetadata) -> HashSet<i64> {
    let mut out = HashSet::new();
    for name in other_refs(metadata) {
        let mut next = metadata.snapshot_for_ref(&name);
        while let Some(snapshot) = next {
            if !out.insert(snapshot.snapshot_id()) {
                break;
            }
            next = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
        }
    }
    out
}

/// Names of branches and tags other than main.
#[must_use]
pub fn other_refs(metadata: &TableMetadata) -> Vec<String> {
    // iceberg 0.10 keeps the references private; its JSON is the way to their names.
    let json = serde_json::to_value(metadata).unwrap_or_default();
    let refs = json.get("refs").and_then(|refs| refs.as_object());
    refs.into_iter().flatten().map(|(name, _)| name.clone()).filter(|name| name != MAIN_BRANCH).collect()
}
