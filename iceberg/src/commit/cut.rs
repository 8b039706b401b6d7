//! The commit by which rows leave a table (Iceberg's operation `overwrite`), with the offsets that it has then.
//!
//! Made for one base alone: where another commit came first, the caller finds again what leaves. The snapshot has an
//! append id of its own, so an append of before is not taken for it, nor the other way round. Nothing expires in it.

use std::collections::{BTreeMap, HashMap};

use iceberg::TableUpdate;
use iceberg::spec::{
    DataFile, ManifestContentType, ManifestFile, ManifestWriter, Operation, PartitionSpecRef, SnapshotSummaryCollector,
    Summary, TableMetadata,
};
use tidewater_storage::model::TimestampMs;

use super::identity::EPOCH;
use super::snapshot::{FileSums, Made, Maker, on_main, schema_of, totals};
use super::{CommitError, Committer, offsets};
use crate::catalog::Loaded;
use crate::plan::Offsets;
use crate::rewind::Found;

/// What a cut does beside the files.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// The offsets of the table after it.
    pub(crate) offsets: Offsets,
    /// Table properties to set, or to remove.
    pub(crate) properties: Vec<(&'static str, Option<String>)>,
    /// Further keys of the snapshot's summary.
    pub(crate) summary: Vec<(&'static str, String)>,
}

impl Committer {
    /// Commits on `base` what was found there; `None` if another commit came first, or if that is not known.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub(crate) async fn cut(
        &mut self,
        base: &Loaded,
        found: &Found,
        cut: &Cut,
        now: TimestampMs,
    ) -> Result<Option<Loaded>, CommitError> {
        let settings = self.settings(&base.metadata);
        let refs = base.refs()?;
        let made = self.maker(&settings, refs).cut(&base.metadata, found, cut, now).await?;
        let done = self.put(base, made, &mut false).await?;
        if let Some(loaded) = &done {
            let held = offsets::of(&self.table, &loaded.metadata)?;
            assert_eq!(held, cut.offsets, "a table that was taken back has the offsets that were meant");
        }
        Ok(done)
    }
}

/// Manifests that are written, and what left them.
#[derive(Default)]
struct Rewritten {
    manifests: Vec<ManifestFile>,
    removed: Vec<(DataFile, PartitionSpecRef)>,
    written: Vec<String>,
}

impl Rewritten {
    async fn end(&mut self, writer: ManifestWriter) -> Result<(), CommitError> {
        let manifest = writer.write_manifest_file().await?;
        self.written.push(manifest.manifest_path.clone());
        self.manifests.push(manifest);
        Ok(())
    }
}

impl Maker<'_> {
    async fn cut(&self, base: &TableMetadata, found: &Found, cut: &Cut, now: TimestampMs) -> Result<Made, CommitError> {
        let snapshot_id = self.fresh_snapshot_id(base);
        let mut out = self.without_found(base, snapshot_id, found).await?;
        assert_eq!(out.removed.len(), found.removed.len(), "each file that leaves was found once");
        let mut by_spec: BTreeMap<i32, Vec<&(PartitionSpecRef, DataFile, i64)>> = BTreeMap::new();
        for added in &found.added {
            by_spec.entry(added.0.spec_id()).or_default().push(added);
        }
        for (id, files) in by_spec {
            let spec = self.spec(base, id)?;
            let mut writer = self.manifest_writer(base, &spec, snapshot_id)?;
            for (_, file, sequence) in files {
                writer.add_file(file.clone(), *sequence)?;
            }
            out.end(writer).await?;
        }
        let removed = FileSums::of(out.removed.iter().map(|(file, _)| file));
        let added = FileSums::of(found.added.iter().map(|(_, file, _)| file));
        assert_eq!(removed.rows - added.rows, found.leaving.rows, "as many rows leave as were counted");
        let mut written: Vec<String> = found.added.iter().map(|(_, file, _)| file.file_path().to_owned()).collect();
        written.append(&mut out.written);
        let summary = self.cut_summary(base, found, &out, cut, (added, removed));
        let snapshot = self.snapshot(base, snapshot_id, out.manifests, summary, now, &mut written).await?;
        let set = cut.properties.iter().filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)));
        let mut properties: HashMap<String, String> = set.collect();
        properties.insert(offsets::OFFSETS.to_owned(), offsets::encode(&cut.offsets));
        properties.insert(EPOCH.to_owned(), self.owner.epoch.to_string());
        let mut updates = vec![
            TableUpdate::AddSnapshot { snapshot },
            self.set_main(snapshot_id),
            TableUpdate::SetProperties { updates: properties },
        ];
        let gone = cut.properties.iter().filter(|(key, value)| value.is_none() && base.properties().contains_key(*key));
        let removals: Vec<String> = gone.map(|(key, _)| (*key).to_owned()).collect();
        if !removals.is_empty() {
            updates.push(TableUpdate::RemoveProperties { removals });
        }
        Ok(Made { requirements: on_main(base), updates, written })
    }

    /// The manifests of `base`, of which the touched ones are written again without the files that leave.
    async fn without_found(
        &self,
        base: &TableMetadata,
        snapshot_id: i64,
        found: &Found,
    ) -> Result<Rewritten, CommitError> {
        let mut out = Rewritten::default();
        for manifest in self.base_manifests(base).await? {
            if manifest.content != ManifestContentType::Data || !found.touched.contains(&manifest.manifest_path) {
                out.manifests.push(manifest);
                continue;
            }
            let spec = self.spec(base, manifest.partition_spec_id)?;
            let mut writer = self.manifest_writer(base, &spec, snapshot_id)?;
            for entry in manifest.load_manifest(&self.files.io()).await?.entries().iter().filter(|it| it.is_alive()) {
                let copy = self.copy(base, &spec, entry)?;
                if found.removed.contains(entry.file_path()) {
                    out.removed.push((copy.file.clone(), spec.clone()));
                    writer.add_delete_file(copy.file, copy.sequence, entry.file_sequence_number)?;
                } else {
                    writer.add_existing_file(copy.file, copy.added_by, copy.sequence, entry.file_sequence_number)?;
                }
            }
            out.end(writer).await?;
        }
        Ok(out)
    }

    fn cut_summary(
        &self,
        base: &TableMetadata,
        found: &Found,
        out: &Rewritten,
        cut: &Cut,
        (added, removed): (FileSums, FileSums),
    ) -> Summary {
        let mut collector = SnapshotSummaryCollector::default();
        for (spec, file, _) in &found.added {
            collector.add_file(file, base.current_schema().clone(), spec.clone());
        }
        for (file, spec) in &out.removed {
            // Else it is left out of the counts that the totals below replace: the collector panics.
            if let Some(schema) = schema_of(base, spec) {
                collector.remove_file(file, schema.clone(), spec.clone());
            }
        }
        let mut properties = collector.build();
        let previous = base.current_snapshot().map(|s| &s.summary().additional_properties);
        totals(&mut properties, previous, added, removed);
        properties.insert(offsets::OFFSETS.to_owned(), offsets::encode(&cut.offsets));
        properties.insert(offsets::APPEND.to_owned(), format!("cut-{}", self.names.uuid()));
        properties.insert(EPOCH.to_owned(), self.owner.epoch.to_string());
        properties.extend(cut.summary.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Summary { operation: Operation::Overwrite, additional_properties: properties }
    }
}
