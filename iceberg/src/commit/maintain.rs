//! What keeps a table flat, decided: which manifests to merge, which snapshots, references and schemas to expire. Pure.

use std::collections::HashSet;

use iceberg::spec::{
    MAIN_BRANCH, ManifestContentType, ManifestFile, Snapshot, SnapshotReference, SnapshotRetention, TableMetadata,
};
use iceberg::{TableRequirement, TableUpdate};
use tidewater_storage::model::TimestampMs;

use super::offsets::lineage;
use crate::catalog::Refs;
use crate::properties::{MAX_SNAPSHOT_AGE_MS, MergeSettings, Retention};

/// Names of manifests this crate writes begin so. Others are an engine's and are never rewritten here.
pub const MANIFEST_PREFIX: &str = "tidewater-";

/// How much may accumulate in a table whose properties ask for nothing else, and what no property may exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes at which a data file is closed.
    pub file_bytes: usize,
    /// Small manifests are merged once there are this many.
    pub merge_at: usize,
    /// A manifest of this many files is full: about 700 bytes each.
    pub manifest_files: usize,
    /// A manifest of this many bytes is full.
    pub manifest_bytes: u64,
    /// Bytes of manifests that one commit reads to merge them; in memory they take about five times as many.
    pub merge_bytes: u64,
    /// Snapshots that are due expire in groups of this many, so that most commits delete nothing.
    pub snapshots_slack: usize,
    /// Snapshots younger than this stay, …
    pub snapshot_age_ms: i64,
    /// … unless all together take more bytes than this in the metadata file, which every commit rewrites. Younger ones
    /// than `recent_ms` stay nevertheless. Not applied where the owner chose how long snapshots stay.
    pub snapshots_bytes: usize,
    /// A query or stream reader that pauses for less than this finds its snapshot.
    pub recent_ms: i64,
    /// Snapshots take no more bytes than this in the metadata file, also against the owner's choice: catalogs such as
    /// Glue refuse a metadata file of 20 MB.
    pub snapshots_bytes_max: usize,
    /// Metadata files kept beside the current one, when the table is made; more than `snapshots_slack`, so that the log
    /// still knows the last expiry when its deletions were cut off.
    pub metadata_kept: usize,
    /// A file of ours that no snapshot names is an orphan at this age: longer than any commit takes.
    pub orphan_age_ms: i64,
    /// How often orphans are looked for; the first time a tenth of an hour after the sink began.
    pub sweep_every_ms: i64,
    /// An append is tried this often against others (engines' maintenance, users' changes) that win the race.
    pub commit_attempts: usize,
    /// Small files are written again once there are this many side by side, or enough for a file of the target size.
    pub compact_files: usize,
    /// Not before their hour is over, and they are in the table, for this long.
    pub compact_quiet_ms: i64,
    /// Bytes of small files that one commit replaces.
    pub compact_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            merge_at: 50,
            manifest_files: 5000,
            manifest_bytes: 8 << 20,
            merge_bytes: 16 << 20,
            snapshots_slack: 20,
            snapshot_age_ms: MAX_SNAPSHOT_AGE_MS,
            snapshots_bytes: 1 << 20,
            recent_ms: 2 * 3_600_000,
            snapshots_bytes_max: 16 << 20,
            metadata_kept: 30,
            orphan_age_ms: 24 * 3_600_000,
            sweep_every_ms: 24 * 3_600_000,
            commit_attempts: 20,
            compact_files: 5,
            compact_quiet_ms: 10 * 60_000,
            compact_bytes: 512 << 20,
        }
    }
}

/// Manifests of a snapshot, split.
#[derive(Debug, Default)]
pub struct MergePlan {
    /// To be rewritten together; empty: nothing to do.
    pub merge: Vec<ManifestFile>,
    pub keep: Vec<ManifestFile>,
    /// Files of one merged manifest at most.
    pub files_each: usize,
}

/// Which manifests to merge. `spec` is the spec new files are written with: a manifest holds files of one spec. Not the
/// manifest of the snapshot being made (`snapshot`), which has no sequence number yet.
#[must_use]
pub fn plan_merge(
    bounds: &Bounds,
    settings: &MergeSettings,
    spec: i32,
    snapshot: i64,
    manifests: Vec<ManifestFile>,
) -> MergePlan {
    let is_small = |manifest: &ManifestFile| {
        manifest.content == ManifestContentType::Data
            && manifest.partition_spec_id == spec
            && manifest.added_snapshot_id != snapshot
            && files_of(manifest) < bounds.manifest_files
            && bytes_of(manifest) < settings.manifest_bytes
            && manifest.key_metadata.is_none()
            && is_ours(&manifest.manifest_path)
    };
    let (mut small, mut keep): (Vec<_>, Vec<_>) = manifests.into_iter().partition(is_small);
    // The manifest of the snapshot being made counts too.
    if !settings.enabled || small.len() + 1 < settings.min_count {
        keep.extend(small);
        return MergePlan { keep, ..MergePlan::default() };
    }
    // The smallest first, so that most of them are merged even if one is large.
    small.sort_by_key(bytes_of);
    let (mut merge, mut bytes, mut files) = (Vec::new(), 0, 0);
    for manifest in small {
        if bytes + bytes_of(&manifest) > bounds.merge_bytes {
            keep.push(manifest);
            continue;
        }
        bytes += bytes_of(&manifest);
        files += files_of(&manifest);
        merge.push(manifest);
    }
    if merge.len() < 2 {
        keep.append(&mut merge);
    }
    let each = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(files.max(1)).max(1);
    let fit = usize::try_from(settings.manifest_bytes).unwrap_or(usize::MAX) / each;
    MergePlan { merge, keep, files_each: fit.clamp(1, bounds.manifest_files.max(1)) }
}

fn bytes_of(manifest: &ManifestFile) -> u64 {
    manifest.manifest_length.unsigned_abs()
}

/// Files a manifest holds; very many where its list does not say.
fn files_of(manifest: &ManifestFile) -> usize {
    let count = |files: Option<u32>| files.map_or(usize::MAX / 4, |n| n as usize);
    count(manifest.added_files_count) + count(manifest.existing_files_count)
}

fn is_ours(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.starts_with(MANIFEST_PREFIX))
}

/// Names of branches and tags other than main.
pub fn other_refs(refs: &Refs) -> impl Iterator<Item = &String> {
    refs.keys().filter(|name| *name != MAIN_BRANCH)
}

/// What a commit expires.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// The oldest first.
    pub snapshots: Vec<i64>,
    pub refs: Vec<String>,
    /// In ascending order.
    pub schemas: Vec<i32>,
}

impl Expiry {
    /// What must hold of the table besides, as it is in `base`: another writer could make a schema that goes current.
    #[must_use]
    pub fn requirement(&self, base: &TableMetadata) -> Option<TableRequirement> {
        let current_schema_id = base.current_schema_id();
        (!self.schemas.is_empty()).then_some(TableRequirement::CurrentSchemaIdMatch { current_schema_id })
    }

    /// The updates of a commit that does this.
    #[must_use]
    pub fn into_updates(self) -> Vec<TableUpdate> {
        let refs = self.refs.into_iter().map(|ref_name| TableUpdate::RemoveSnapshotRef { ref_name });
        let snapshots = Some(self.snapshots).filter(|snapshots| !snapshots.is_empty());
        let schemas = Some(self.schemas).filter(|schemas| !schemas.is_empty());
        refs.chain(snapshots.map(|snapshot_ids| TableUpdate::RemoveSnapshots { snapshot_ids }))
            .chain(schemas.map(|schema_ids| TableUpdate::RemoveSchemas { schema_ids }))
            .collect()
    }
}

/// What expires, as the Iceberg specification's "Snapshot Retention Policy" has it, and further snapshots of main, the
/// oldest first, while they take more of the metadata file than `bounds` allow. The current snapshot never does.
#[must_use]
pub fn plan_expiry(
    bounds: &Bounds,
    retention: &Retention,
    metadata: &TableMetadata,
    refs: &Refs,
    now: TimestampMs,
) -> Expiry {
    if !retention.may_delete {
        return Expiry::default();
    }
    let age = |snapshot: &Snapshot| now.since_ms(TimestampMs(snapshot.timestamp_ms()));
    let mut expiry = Expiry::default();
    // What main keeps, the newest first; and what anything else does.
    let (mut of_main, mut of_others, mut referenced) = (Vec::new(), HashSet::new(), HashSet::new());
    let mut is_chosen = retention.is_chosen;
    for (name, reference) in refs {
        let Some(snapshot) = metadata.snapshot_by_id(reference.snapshot_id) else { continue };
        let is_main = name == MAIN_BRANCH;
        if !is_main && age(snapshot) > max_ref_age(reference).unwrap_or(retention.max_ref_age_ms) {
            expiry.refs.push(name.clone());
            continue;
        }
        referenced.insert(snapshot.snapshot_id());
        let (min, max_age) = match &reference.retention {
            SnapshotRetention::Tag { .. } => {
                of_others.insert(snapshot.snapshot_id());
                continue;
            }
            SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, .. } => {
                is_chosen |= is_main && (min_snapshots_to_keep.is_some() || max_snapshot_age_ms.is_some());
                let min = min_snapshots_to_keep.map_or(retention.min_snapshots, |n| n.max(1).unsigned_abs() as usize);
                (min, max_snapshot_age_ms.unwrap_or(retention.max_age_ms))
            }
        };
        let mut keeps = true;
        for (depth, snapshot) in ancestors(metadata, snapshot).enumerate() {
            referenced.insert(snapshot.snapshot_id());
            keeps &= depth < min || age(snapshot) <= max_age;
            match (keeps, is_main) {
                (true, true) => of_main.push(snapshot),
                (true, false) => drop(of_others.insert(snapshot.snapshot_id())),
                (false, _) => {}
            }
        }
    }
    // Snapshots of nothing, such as those a roll-back left, stay as long as main's would.
    let unreferenced = metadata.snapshots().filter(|s| !referenced.contains(&s.snapshot_id()));
    of_others.extend(unreferenced.filter(|s| age(s) <= retention.max_age_ms).map(|s| s.snapshot_id()));

    let all: usize = metadata.snapshots().map(|snapshot| metadata_bytes(snapshot)).sum();
    // Then no sum of some of them is too large.
    let all_fit = all <= bounds.snapshots_bytes.min(bounds.snapshots_bytes_max);
    let bytes_of = |snapshot: &Snapshot| if all_fit { 0 } else { metadata_bytes(snapshot) };
    let others = metadata.snapshots().filter(|s| of_others.contains(&s.snapshot_id()));
    let mut bytes: usize = others.map(|snapshot| bytes_of(snapshot)).sum();
    let mut kept = of_others.clone();
    for (depth, snapshot) in of_main.into_iter().enumerate() {
        if of_others.contains(&snapshot.snapshot_id()) {
            continue;
        }
        bytes += bytes_of(snapshot);
        let fits = bytes <= bounds.snapshots_bytes_max
            && (is_chosen || bytes <= bounds.snapshots_bytes || age(snapshot) <= bounds.recent_ms);
        if depth > 0 && !fits {
            break;
        }
        kept.insert(snapshot.snapshot_id());
    }
    let mut due: Vec<_> = metadata.snapshots().filter(|s| !kept.contains(&s.snapshot_id())).collect();
    let is_urgent = all > bounds.snapshots_bytes_max || !expiry.refs.is_empty();
    if due.len() >= bounds.snapshots_slack || is_urgent {
        due.sort_by_key(|snapshot| (snapshot.sequence_number(), snapshot.snapshot_id()));
        expiry.snapshots = due.into_iter().map(|snapshot| snapshot.snapshot_id()).collect();
    }
    let current = metadata.current_snapshot_id();
    assert!(expiry.snapshots.iter().all(|id| Some(*id) != current), "the current snapshot never expires");
    if !expiry.snapshots.is_empty() {
        expiry.schemas = unused_schemas(metadata, &expiry.snapshots);
    }
    expiry
}

/// Schemas that neither the table nor a snapshot beside those that `expire` has: branches and tags are names of
/// snapshots. None while a snapshot is kept that does not say which it was written with.
fn unused_schemas(metadata: &TableMetadata, expire: &[i64]) -> Vec<i32> {
    let expire: HashSet<i64> = expire.iter().copied().collect();
    let kept = metadata.snapshots().filter(|snapshot| !expire.contains(&snapshot.snapshot_id()));
    let Some(mut used) = kept.map(|snapshot| snapshot.schema_id()).collect::<Option<HashSet<i32>>>() else {
        return Vec::new();
    };
    used.insert(metadata.current_schema_id());
    let mut unused: Vec<i32> =
        metadata.schemas_iter().map(|schema| schema.schema_id()).filter(|id| !used.contains(id)).collect();
    unused.sort_unstable();
    unused
}

fn max_ref_age(reference: &SnapshotReference) -> Option<i64> {
    match &reference.retention {
        SnapshotRetention::Branch { max_ref_age_ms, .. } | SnapshotRetention::Tag { max_ref_age_ms } => *max_ref_age_ms,
    }
}

/// `snapshot` and its ancestors as far as they are there; parents that go in a circle end after each was seen once.
pub(super) fn ancestors<'a>(metadata: &'a TableMetadata, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Snapshot> {
    std::iter::successors(Some(snapshot), |snapshot| {
        metadata.snapshot_by_id(snapshot.parent_snapshot_id()?).map(AsRef::as_ref)
    })
    .take(metadata.snapshots().len())
}

/// About how many bytes a snapshot takes in the metadata file, its entry in the snapshot log included.
#[must_use]
pub fn metadata_bytes(snapshot: &Snapshot) -> usize {
    /// Numbers, names of fields, the entry in the log.
    const FIXED: usize = 320;
    let escaped = |text: &str| text.len() + text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
    let summary = snapshot.summary().additional_properties.iter();
    FIXED + snapshot.manifest_list().len() + summary.map(|(key, value)| 6 + key.len() + escaped(value)).sum::<usize>()
}

/// Is the table one line of descent from its oldest kept snapshot to the current one?
#[must_use]
pub fn is_linear(metadata: &TableMetadata, refs: &Refs) -> bool {
    lineage(metadata).count() == metadata.snapshots().len() && other_refs(refs).next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(n: usize, bytes: i64, files: u32) -> ManifestFile {
        ManifestFile {
            manifest_path: format!("s3://bucket/t/metadata/{MANIFEST_PREFIX}{n}.avro"),
            manifest_length: bytes,
            partition_spec_id: 0,
            content: ManifestContentType::Data,
            sequence_number: 1,
            min_sequence_number: 1,
            added_snapshot_id: 1,
            added_files_count: Some(files),
            existing_files_count: Some(0),
            deleted_files_count: Some(0),
            added_rows_count: None,
            existing_rows_count: None,
            deleted_rows_count: None,
            partitions: None,
            key_metadata: None,
            first_row_id: None,
        }
    }

    fn settings() -> MergeSettings {
        MergeSettings { enabled: true, min_count: 4, manifest_bytes: 1 << 20 }
    }

    #[test]
    fn manifests_are_merged_by_bytes_as_well_as_by_files() {
        let bounds = Bounds { merge_bytes: 1_500_000, ..Bounds::default() };
        let manifests: Vec<_> = (0..10).map(|n| manifest(n, 400_000, 10)).collect();
        let plan = plan_merge(&bounds, &settings(), 0, 2, manifests);
        assert_eq!((plan.merge.len(), plan.keep.len()), (3, 7), "no more than 1.5 MB are read");
        assert_eq!(plan.files_each, 26, "so that a merged manifest has about a mebibyte");
        let full = vec![manifest(0, 1 << 20, 10), manifest(1, 10, 5000), manifest(2, 10, 1), manifest(3, 10, 1)];
        let plan = plan_merge(&bounds, &MergeSettings { min_count: 3, ..settings() }, 0, 2, full);
        assert_eq!((plan.merge.len(), plan.keep.len()), (2, 2), "what is full stays");
    }

    #[test]
    fn an_owner_may_turn_merging_off() {
        let manifests: Vec<_> = (0..10).map(|n| manifest(n, 4000, 1)).collect();
        let plan = plan_merge(&Bounds::default(), &MergeSettings { enabled: false, ..settings() }, 0, 2, manifests);
        assert_eq!((plan.merge.len(), plan.keep.len()), (0, 10));
    }
}
