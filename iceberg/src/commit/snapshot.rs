//! One snapshot, made on one base: manifest, merged manifests, manifest list, summary, updates and requirements.
//!
//! Writes files with unique names and nothing else; a snapshot that loses its race is garbage listed in
//! [`Made::written`].

use std::collections::HashMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{
    DataFile, DataFileBuilderError, FormatVersion, MAIN_BRANCH, ManifestEntryRef, ManifestFile, ManifestList,
    ManifestListWriter, ManifestWriter, ManifestWriterBuilder, Operation, PartitionSpec, SchemaRef, Snapshot,
    SnapshotReference, SnapshotRetention, SnapshotSummaryCollector, Summary, TableMetadata,
};
use iceberg::{TableIdent, TableRequirement, TableUpdate};
use tidewater_storage::model::TimestampMs;

use super::identity::{EPOCH, TableOwner};
use super::maintain::{Bounds, MANIFEST_PREFIX, plan_expiry, plan_merge};
use super::{Append, CommitError, offsets};
use crate::bounds;
use crate::catalog::Refs;
use crate::files::TableFiles;
use crate::names::Names;
use crate::partition::Partitioner;
use crate::properties::TableSettings;
use crate::translate::{Skipped, skipped};

/// Manifests or manifest lists read at once.
pub(super) const READS_AT_ONCE: usize = 8;
/// Bounds longer than this, from versions that knew no cap, are left out when a manifest is rewritten. Bytes.
const OLD_BOUND_BYTES_MAX: usize = 64;

/// Makes snapshots of one table.
pub(super) struct Maker<'a> {
    pub(super) files: TableFiles,
    pub(super) names: &'a Names,
    pub(super) table: &'a TableIdent,
    pub(super) owner: &'a TableOwner,
    pub(super) bounds: &'a Bounds,
    pub(super) settings: &'a TableSettings,
    pub(super) refs: &'a Refs,
}

/// A snapshot ready to be committed.
pub(super) struct Made {
    pub(super) requirements: Vec<TableRequirement>,
    pub(super) updates: Vec<TableUpdate>,
    /// Files written for it alone.
    pub(super) written: Vec<String>,
}

/// A manifest's entry of a file that is in the table.
pub(super) struct EntryCopy {
    pub(super) file: DataFile,
    /// The snapshot that added it.
    pub(super) added_by: i64,
    pub(super) sequence: i64,
}

impl Maker<'_> {
    /// Makes the snapshot that adds `append` to `base`.
    pub(super) async fn make(
        &self,
        base: &TableMetadata,
        append: &Append,
        id: &str,
        now: TimestampMs,
    ) -> Result<Made, CommitError> {
        let spec = self.spec(base, append.spec_id)?;
        let snapshot_id = self.fresh_snapshot_id(base);
        let mut written = Vec::new();
        let mut manifests = self.base_manifests(base).await?;
        if !append.files.is_empty() {
            let manifest = self.write_added(base, &spec, snapshot_id, &append.files).await?;
            written.push(manifest.manifest_path.clone());
            manifests.push(manifest);
        }
        let manifests = self.merge(base, &spec, snapshot_id, manifests, &mut written).await?;
        let summary = self.summary(base, &spec, append, id)?;
        let snapshot = self.snapshot(base, snapshot_id, manifests, summary, now, &mut written).await?;
        let mut updates =
            vec![TableUpdate::AddSnapshot { snapshot }, self.set_main(snapshot_id), self.properties(base, append)?];
        let removed =
            append.properties.iter().filter(|(key, value)| value.is_none() && base.properties().contains_key(*key));
        let removals: Vec<String> = removed.map(|(key, _)| (*key).to_owned()).collect();
        if !removals.is_empty() {
            updates.push(TableUpdate::RemoveProperties { removals });
        }
        let expiry = plan_expiry(self.bounds, &self.settings.retention, base, self.refs, now);
        let requirements = on_main(base).into_iter().chain(expiry.requirement(base)).collect();
        updates.extend(expiry.into_updates());
        Ok(Made { requirements, updates, written })
    }

    /// The spec that files were written with.
    pub(super) fn spec(&self, base: &TableMetadata, id: i32) -> Result<Arc<PartitionSpec>, CommitError> {
        base.partition_spec_by_id(id).cloned().ok_or_else(|| CommitError::Unfit {
            table: self.table.clone(),
            detail: format!(
                "its partition spec {id} was removed while files of it were written; they are written again"
            ),
        })
    }

    /// Writes the list of `manifests`; returns the snapshot of them on top of `base`.
    pub(super) async fn snapshot(
        &self,
        base: &TableMetadata,
        snapshot_id: i64,
        manifests: Vec<ManifestFile>,
        summary: Summary,
        now: TimestampMs,
        written: &mut Vec<String>,
    ) -> Result<Snapshot, CommitError> {
        let list =
            format!("{}/metadata/{MANIFEST_PREFIX}snap-{snapshot_id}-{}.avro", base.location(), self.names.uuid());
        let row_range = self.write_list(base, snapshot_id, &list, manifests).await?;
        written.push(list.clone());
        let snapshot = Snapshot::builder()
            .with_snapshot_id(snapshot_id)
            .with_parent_snapshot_id(base.current_snapshot_id())
            .with_sequence_number(base.next_sequence_number())
            .with_timestamp_ms(now.0.max(base.last_updated_ms()))
            .with_manifest_list(list)
            .with_summary(summary)
            .with_schema_id(base.current_schema_id());
        Ok(match row_range {
            Some((first, rows)) => snapshot.with_row_range(first, rows).build(),
            None => snapshot.build(),
        })
    }

    pub(super) fn fresh_snapshot_id(&self, base: &TableMetadata) -> i64 {
        loop {
            let id = self.names.snapshot_id();
            if base.snapshot_by_id(id).is_none() {
                return id;
            }
        }
    }

    pub(super) async fn base_manifests(&self, base: &TableMetadata) -> Result<Vec<ManifestFile>, CommitError> {
        let Some(snapshot) = base.current_snapshot() else { return Ok(Vec::new()) };
        let mut manifests = read_list(&self.files, base, snapshot).await?;
        // One whose files were all replaced served the snapshot that replaced them.
        manifests.retain(|manifest| manifest.has_added_files() || manifest.has_existing_files());
        Ok(manifests)
    }

    pub(super) fn manifest_writer(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpec,
        snapshot_id: i64,
    ) -> Result<ManifestWriter, CommitError> {
        let path = format!("{}/metadata/{MANIFEST_PREFIX}{}.avro", base.location(), self.names.uuid());
        let output = self.files.io().new_output(path)?;
        let schema = schema_of(base, spec).ok_or_else(|| CommitError::Unfit {
            table: self.table.clone(),
            detail: format!("no schema that it still has has the columns of its partition spec {}", spec.spec_id()),
        })?;
        let builder = ManifestWriterBuilder::new(output, Some(snapshot_id), schema.clone(), spec.clone());
        match base.format_version() {
            FormatVersion::V2 => Ok(builder.build_v2_data()),
            FormatVersion::V3 => Ok(builder.build_v3_data()),
            FormatVersion::V1 => Err(CommitError::Unfit {
                table: self.table.clone(),
                detail: "it has format version 1; upgrade it to 2".to_owned(),
            }),
        }
    }

    async fn write_added(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpec,
        snapshot_id: i64,
        files: &[DataFile],
    ) -> Result<ManifestFile, CommitError> {
        let mut writer = self.manifest_writer(base, spec, snapshot_id)?;
        for file in files {
            // Minus one: "assigned at commit", so that the sequence number is inherited.
            writer.add_file(file.clone(), -1)?;
        }
        let manifest = writer.write_manifest_file().await?;
        let rows: u64 = files.iter().map(DataFile::record_count).sum();
        assert_eq!(manifest.added_files_count.map(|n| n as usize), Some(files.len()), "files in the manifest");
        assert_eq!(manifest.added_rows_count, Some(rows), "rows in the manifest");
        Ok(manifest)
    }

    /// Main at its new snapshot, with the retention that the owner gave it.
    pub(super) fn set_main(&self, snapshot_id: i64) -> TableUpdate {
        let held = self.refs.get(MAIN_BRANCH).map(|main| main.retention.clone());
        let retention = held.unwrap_or(SnapshotRetention::branch(None, None, None));
        let reference = SnapshotReference::new(snapshot_id, retention);
        TableUpdate::SetSnapshotRef { ref_name: MAIN_BRANCH.to_owned(), reference }
    }

    /// Merges small manifests once there are enough of them. Format 3 is left alone: merging would have to carry each
    /// row's id, which iceberg 0.10 does not expose for existing files.
    async fn merge(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpec,
        snapshot_id: i64,
        manifests: Vec<ManifestFile>,
        written: &mut Vec<String>,
    ) -> Result<Vec<ManifestFile>, CommitError> {
        if base.format_version() != FormatVersion::V2 {
            return Ok(manifests);
        }
        let plan = plan_merge(self.bounds, &self.settings.merge, spec.spec_id(), snapshot_id, manifests);
        let mut kept = plan.keep;
        if !plan.merge.is_empty() {
            for merged in self.rewrite(base, spec, snapshot_id, plan.merge, plan.files_each).await? {
                written.push(merged.manifest_path.clone());
                kept.push(merged);
            }
        }
        Ok(kept)
    }

    /// Rewrites `old` into manifests of `files_each` entries at most; the files that are alive are the same after.
    async fn rewrite(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpec,
        snapshot_id: i64,
        old: Vec<ManifestFile>,
        files_each: usize,
    ) -> Result<Vec<ManifestFile>, CommitError> {
        let io = self.files.io();
        let manifests: Vec<_> = futures::stream::iter(old)
            .map(|manifest| {
                let io = io.clone();
                async move { manifest.load_manifest(&io).await }
            })
            .buffered(READS_AT_ONCE)
            .try_collect()
            .await?;
        let alive: Vec<_> = manifests.iter().flat_map(|m| m.entries()).filter(|entry| entry.is_alive()).collect();
        let mut out = Vec::new();
        for entries in alive.chunks(files_each) {
            out.push(self.write_existing(base, spec, snapshot_id, entries).await?);
        }
        let files: usize = out.iter().map(|m| m.existing_files_count.map_or(0, |n| n as usize)).sum();
        assert_eq!(files, alive.len(), "merged manifests hold the files of those they replace");
        Ok(out)
    }

    async fn write_existing(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpec,
        snapshot_id: i64,
        entries: &[&ManifestEntryRef],
    ) -> Result<ManifestFile, CommitError> {
        let mut writer = self.manifest_writer(base, spec, snapshot_id)?;
        for entry in entries {
            let copy = self.copy(base, spec, entry)?;
            writer.add_existing_file(copy.file, copy.added_by, copy.sequence, entry.file_sequence_number)?;
        }
        Ok(writer.write_manifest_file().await?)
    }

    /// What `entry` says of its file, for another manifest.
    pub(super) fn copy(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpec,
        entry: &ManifestEntryRef,
    ) -> Result<EntryCopy, CommitError> {
        let unfit = |what: String| CommitError::Unfit {
            table: self.table.clone(),
            detail: format!("the manifest entry of {} {what}", entry.file_path()),
        };
        let incomplete = || unfit("has no snapshot or sequence number".to_owned());
        let no_copy = |error: DataFileBuilderError| unfit(format!("cannot be copied: {error}"));
        let file = bounds::without_long_bounds(entry.data_file(), spec.spec_id(), OLD_BOUND_BYTES_MAX);
        let mut file = file.map_err(no_copy)?;
        // Of a column that its owner has widened since, the entry has a value of the type before.
        let key = Partitioner::of_spec(spec, base).and_then(|by| by.key_of_entry(file.partition()));
        if let Some(partition) = key.map(|key| key.to_struct()).filter(|partition| partition != file.partition()) {
            file = bounds::to_builder(&file, spec.spec_id()).partition(partition).build().map_err(no_copy)?;
        }
        Ok(EntryCopy {
            file,
            added_by: entry.snapshot_id().ok_or_else(incomplete)?,
            sequence: entry.sequence_number().ok_or_else(incomplete)?,
        })
    }

    /// Writes the manifest list; for format 3 returns the range of row ids given out.
    async fn write_list(
        &self,
        base: &TableMetadata,
        snapshot_id: i64,
        path: &str,
        manifests: Vec<ManifestFile>,
    ) -> Result<Option<(u64, u64)>, CommitError> {
        let output = self.files.io().new_output(path)?.writer().await?;
        let (parent, sequence) = (base.current_snapshot_id(), base.next_sequence_number());
        let first_row = base.next_row_id();
        let mut writer = match base.format_version() {
            FormatVersion::V3 => ManifestListWriter::v3(output, snapshot_id, parent, sequence, Some(first_row)),
            _ => ManifestListWriter::v2(output, snapshot_id, parent, sequence),
        };
        writer.add_manifests(manifests.into_iter())?;
        let range = writer.next_row_id().map(|next| (first_row, next.saturating_sub(first_row)));
        writer.close().await?;
        Ok(range)
    }

    fn summary(
        &self,
        base: &TableMetadata,
        spec: &Arc<PartitionSpec>,
        append: &Append,
        id: &str,
    ) -> Result<Summary, CommitError> {
        let mut collector = SnapshotSummaryCollector::default();
        // Its owner may have dropped the spec's column since the files were written.
        if let Some(schema) = schema_of(base, spec) {
            for file in &append.files {
                collector.add_file(file, schema.clone(), spec.clone());
            }
        }
        let mut properties = collector.build();
        let previous = base.current_snapshot().map(|s| &s.summary().additional_properties);
        totals(&mut properties, previous, FileSums::of(&append.files), FileSums::default());
        properties.insert(offsets::OFFSETS.to_owned(), offsets::encode(&append.to));
        properties.insert(offsets::APPEND.to_owned(), id.to_owned());
        properties.insert(EPOCH.to_owned(), self.owner.epoch.to_string());
        properties.extend(append.summary.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        if !append.skipped.is_empty() {
            let last = last(&append.skipped, offsets::SKIPPED_IN_SUMMARY);
            let ranges = serde_json::to_string(last).map_err(iceberg::Error::from)?;
            properties.insert(offsets::SKIPPED.to_owned(), ranges);
            properties.insert(offsets::SKIPPED_COUNT.to_owned(), count(&append.skipped).to_string());
        }
        Ok(Summary { operation: Operation::Append, additional_properties: properties })
    }

    fn properties(&self, base: &TableMetadata, append: &Append) -> Result<TableUpdate, CommitError> {
        let mut updates = HashMap::from([
            (offsets::OFFSETS.to_owned(), offsets::encode(&append.to)),
            (EPOCH.to_owned(), self.owner.epoch.to_string()),
        ]);
        let set = append.properties.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)));
        updates.extend(set);
        if !append.skipped.is_empty() {
            let (mut ranges, before) = offsets::skipped(base);
            for range in last(&append.skipped, offsets::SKIPPED_KEPT) {
                skipped::join(&mut ranges, range.clone());
            }
            let ranges = serde_json::to_string(last(&ranges, offsets::SKIPPED_KEPT)).map_err(iceberg::Error::from)?;
            updates.insert(offsets::SKIPPED.to_owned(), ranges);
            let count = before.saturating_add(count(&append.skipped));
            updates.insert(offsets::SKIPPED_COUNT.to_owned(), count.to_string());
        }
        Ok(TableUpdate::SetProperties { updates })
    }
}

/// That the table is `base`'s and that its main has not moved.
pub(super) fn on_main(base: &TableMetadata) -> Vec<TableRequirement> {
    let main =
        TableRequirement::RefSnapshotIdMatch { r#ref: MAIN_BRANCH.to_owned(), snapshot_id: base.current_snapshot_id() };
    vec![TableRequirement::UuidMatch { uuid: base.uuid() }, main]
}

/// The last `most` of `ranges`.
fn last(ranges: &[Skipped], most: usize) -> &[Skipped] {
    ranges.get(ranges.len().saturating_sub(most)..).unwrap_or_default()
}

/// Offsets in `ranges`.
fn count(ranges: &[Skipped]) -> u64 {
    ranges.iter().map(Skipped::count).sum()
}

/// The manifests of a snapshot.
pub(crate) async fn read_list(
    files: &TableFiles,
    metadata: &TableMetadata,
    snapshot: &Snapshot,
) -> Result<Vec<ManifestFile>, iceberg::Error> {
    let body = files.io().new_input(snapshot.manifest_list())?.read().await?;
    let list = ManifestList::parse_with_version(&body, metadata.format_version())?;
    Ok(list.consume_entries().into_iter().collect())
}

/// Rows, bytes and number of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FileSums {
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl FileSums {
    pub(super) fn of<'a>(files: impl IntoIterator<Item = &'a DataFile>) -> Self {
        files.into_iter().fold(Self::default(), |sums, file| Self {
            rows: sums.rows.saturating_add(file.record_count()),
            bytes: sums.bytes.saturating_add(file.file_size_in_bytes()),
            files: sums.files + 1,
        })
    }
}

/// Running totals of the summary (Iceberg spec, "Optional Snapshot Summary Fields"). Left out where the previous
/// snapshot, an engine's, has none, or less than is removed.
pub(super) fn totals(
    properties: &mut HashMap<String, String>,
    previous: Option<&HashMap<String, String>>,
    added: FileSums,
    removed: FileSums,
) {
    for (key, added, removed) in [
        ("total-records", added.rows, removed.rows),
        ("total-files-size", added.bytes, removed.bytes),
        ("total-data-files", added.files, removed.files),
        ("total-delete-files", 0, 0),
        ("total-position-deletes", 0, 0),
        ("total-equality-deletes", 0, 0),
    ] {
        let before = match previous {
            None => Some(0),
            Some(previous) => previous.get(key).and_then(|value| value.parse::<u64>().ok()),
        };
        if let Some(after) = before.and_then(|before| before.saturating_add(added).checked_sub(removed)) {
            properties.insert(key.to_owned(), after.to_string());
        }
    }
}

/// The schema by which files of `spec` are described: the current one or, if its owner has dropped a column of an old
/// spec, the newest that has them all.
pub(super) fn schema_of<'a>(base: &'a TableMetadata, spec: &PartitionSpec) -> Option<&'a SchemaRef> {
    let has_all = |schema: &SchemaRef| spec.fields().iter().all(|it| schema.field_by_id(it.source_id).is_some());
    let current = Some(base.current_schema()).filter(|schema| has_all(schema));
    current.or_else(|| base.schemas_iter().filter(|schema| has_all(schema)).max_by_key(|schema| schema.schema_id()))
}
