//! Files that take the place of others with the same rows (Iceberg's operation `replace`), in one commit.
//!
//! Owns: the check that the table still has every file that is replaced, and no delete file for one; the manifests,
//! summary and totals of such a snapshot. Does not own: which files, and what is in them (`compact`).
//!
//! The snapshot says the same offsets and the same last append as the one that it follows: a sink that lost the answer
//! to its append finds it, and one that reads the offsets from the newest snapshot goes on from the same place.
//!
//! | files of the base | meaning | what happens |
//! |---|---|---|
//! | all that are replaced, without deletes | | the replacement is applied |
//! | all that replace them | our own lost answer | done |
//! | anything else, another schema or table | another writer | [`CommitError::Moved`]: plan again from the table |
//!
//! The new files carry the greatest data sequence number of those that they replace, so that later files stay later.
//! **Memory**: one manifest of the base, and the entries of one that is written. Nothing expires in this commit.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::TableUpdate;
use iceberg::spec::{
    DataFile, FormatVersion, ManifestContentType, ManifestFile, ManifestWriter, Operation, PartitionSpec,
    PartitionSpecRef, SnapshotSummaryCollector, Summary, TableMetadata,
};
use tidewater_storage::model::TimestampMs;
use uuid::Uuid;

use super::identity::EPOCH;
use super::snapshot::{EntryCopy, FileSums, Made, Maker, on_main, totals};
use super::{Bounds, CommitError, Committer, maintain, offsets, survey};
use crate::catalog::{CatalogError, Loaded};
use crate::partition::Partitioner;
use crate::write::DataFileName;

/// Keys of a summary that say how far the table is, and not what its snapshot added.
const CARRIED: [&str; 3] = [offsets::OFFSETS, offsets::APPEND, offsets::DEAD_LETTERS_REACHED];

/// Files in place of others.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// Iceberg's id of the table it was planned for.
    pub table: Uuid,
    /// The schema whose columns the new files have.
    pub schema_id: i32,
    /// The partition spec of all its files.
    pub spec_id: i32,
    pub removed: BTreeSet<DataFileName>,
    /// With their data sequence numbers.
    pub added: Vec<(DataFile, i64)>,
    /// An attempt got no answer, so it may be in the table: its files must never be deleted from here on.
    pub uncertain: bool,
}

impl Committer {
    /// Commits `replacement`. When this returns `Ok`, the table has its files instead of those that it replaces.
    ///
    /// # Errors
    /// See [`CommitError`]; [`CommitError::Moved`] if the table does not have all files that are replaced any more.
    pub async fn replace(&mut self, replacement: &mut Replacement, now: TimestampMs) -> Result<Loaded, CommitError> {
        let (mut attempts, mut waited) = (0, 0);
        loop {
            let base = self.refresh().await?;
            let settings = self.settings(&base.metadata);
            let made = {
                let refs = base.refs()?;
                let maker = self.maker(&settings, refs);
                match maker.look(&base.metadata, replacement).await? {
                    Look::Done => return Ok(base),
                    Look::Moved => None,
                    Look::Replaces(touched) => Some(maker.replace(&base.metadata, replacement, touched, now).await?),
                }
            };
            let Some(made) = made else {
                self.current = None;
                return Err(CommitError::Moved { table: self.table.clone() });
            };
            if let Some(done) = self.put(&base, made, &mut replacement.uncertain).await? {
                let (before, after) =
                    (offsets::of(&self.table, &base.metadata)?, offsets::of(&self.table, &done.metadata)?);
                assert_eq!(before, after, "files that take the place of others leave the offsets alone");
                return Ok(done);
            }
            attempts += 1;
            if attempts >= settings.retry.attempts || waited >= settings.retry.total_ms {
                let detail = format!("{attempts} attempts lost against other writers");
                return Err(CatalogError::Conflict { table: self.table.clone(), detail }.into());
            }
            waited += self.wait(&settings.retry, attempts).await;
        }
    }
}

impl Committer {
    /// Expires the snapshots that the table's settings no longer keep, in a commit of its own, and deletes what only
    /// they named. Returns how many.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub async fn expire(&mut self, now: TimestampMs) -> Result<u64, CommitError> {
        let base = self.refresh().await?;
        let settings = self.settings(&base.metadata);
        let bounds = Bounds { snapshots_slack: 1, ..self.bounds };
        let refs = base.refs()?;
        let expiry = maintain::plan_expiry(&bounds, &settings.retention, &base.metadata, refs, now);
        if expiry.snapshots.is_empty() && expiry.refs.is_empty() {
            return Ok(0);
        }
        let expired = expiry.snapshots.len() as u64;
        let requirements = on_main(&base.metadata).into_iter().chain(expiry.requirement(&base.metadata)).collect();
        let made = Made { requirements, updates: expiry.into_updates(), written: Vec::new() };
        match self.put(&base, made, &mut false).await? {
            Some(_) => Ok(expired),
            None => Err(CommitError::Moved { table: self.table.clone() }),
        }
    }
}

/// What a base is to a replacement.
enum Look {
    /// It has all files that are replaced: in these of its manifests, and by their paths.
    Replaces(BTreeSet<String>),
    /// It has the new files already.
    Done,
    Moved,
}

/// What the manifests of a base became.
struct Rewritten {
    manifests: Vec<ManifestFile>,
    removed: Vec<DataFile>,
}

impl Maker<'_> {
    async fn look(&self, base: &TableMetadata, replacement: &Replacement) -> Result<Look, CommitError> {
        let is_same = base.uuid() == replacement.table && base.current_schema_id() == replacement.schema_id;
        if !is_same || base.format_version() != FormatVersion::V2 {
            return Ok(Look::Moved);
        }
        let spec = base.partition_spec_by_id(replacement.spec_id);
        let Some(by) = spec.and_then(|spec| Partitioner::of_spec(spec, base)) else { return Ok(Look::Moved) };
        let found = survey::survey(&self.files, base, &by).await?;
        let has_all = |names: &BTreeSet<DataFileName>| {
            let there = found.files.iter().filter(|file| names.contains(&file.name)).count();
            !names.is_empty() && there == names.len()
        };
        if has_all(&replacement.removed) {
            let is_free = found.is_free(&replacement.removed);
            let touched = found.manifests_of(&replacement.removed);
            return Ok(if is_free { Look::Replaces(touched) } else { Look::Moved });
        }
        let added = replacement.added.iter().filter_map(|(f, _)| DataFileName::of_path(base.location(), f.file_path()));
        Ok(if replacement.uncertain && has_all(&added.collect()) { Look::Done } else { Look::Moved })
    }

    async fn replace(
        &self,
        base: &TableMetadata,
        replacement: &Replacement,
        touched: BTreeSet<String>,
        now: TimestampMs,
    ) -> Result<Made, CommitError> {
        let (spec, snapshot_id) = (self.spec(base, replacement.spec_id)?, self.fresh_snapshot_id(base));
        let mut written = Vec::new();
        let Rewritten { mut manifests, removed } =
            self.without(base, &spec, snapshot_id, replacement, &touched, &mut written).await?;
        let (before, after) = (FileSums::of(&removed), FileSums::of(replacement.added.iter().map(|(file, _)| file)));
        assert_eq!(removed.len(), replacement.removed.len(), "each file that is replaced was found once");
        assert_eq!(before.rows, after.rows, "the files have the rows of those that they replace");
        let mut writer = self.manifest_writer(base, &spec, snapshot_id)?;
        for (file, sequence) in &replacement.added {
            writer.add_file(file.clone(), *sequence)?;
        }
        let added = writer.write_manifest_file().await?;
        written.push(added.manifest_path.clone());
        manifests.push(added);
        let summary = self.replace_summary(base, &spec, replacement, &removed);
        let snapshot = self.snapshot(base, snapshot_id, manifests, summary, now, &mut written).await?;
        let epoch = TableUpdate::SetProperties { updates: [(EPOCH.to_owned(), self.owner.epoch.to_string())].into() };
        let updates = vec![TableUpdate::AddSnapshot { snapshot }, self.set_main(snapshot_id), epoch];
        Ok(Made { requirements: on_main(base), updates, written })
    }

    /// The manifests of `base`, of which the touched ones are written again without the files that are replaced.
    async fn without(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpec,
        snapshot_id: i64,
        replacement: &Replacement,
        touched: &BTreeSet<String>,
        written: &mut Vec<String>,
    ) -> Result<Rewritten, CommitError> {
        let mut out = Rewritten { manifests: Vec::new(), removed: Vec::new() };
        let mut open: Option<(ManifestWriter, usize)> = None;
        for manifest in self.base_manifests(base).await? {
            if manifest.content != ManifestContentType::Data || !touched.contains(&manifest.manifest_path) {
                out.manifests.push(manifest);
                continue;
            }
            let loaded = manifest.load_manifest(&self.files.io()).await?;
            for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
                let EntryCopy { file, added_by, sequence } = self.copy(base, spec, entry)?;
                let (writer, entries) = match &mut open {
                    Some(open) => open,
                    None => open.insert((self.manifest_writer(base, spec, snapshot_id)?, 0)),
                };
                let name = DataFileName::of_path(base.location(), entry.file_path());
                if name.is_some_and(|name| replacement.removed.contains(&name)) {
                    out.removed.push(file.clone());
                    writer.add_delete_file(file, sequence, entry.file_sequence_number)?;
                } else {
                    writer.add_existing_file(file, added_by, sequence, entry.file_sequence_number)?;
                }
                *entries += 1;
                if *entries >= self.bounds.manifest_files {
                    close(&mut open, &mut out.manifests, written).await?;
                }
            }
        }
        close(&mut open, &mut out.manifests, written).await?;
        Ok(out)
    }

    fn replace_summary(
        &self,
        base: &TableMetadata,
        spec: &PartitionSpecRef,
        replacement: &Replacement,
        removed: &[DataFile],
    ) -> Summary {
        let mut collector = SnapshotSummaryCollector::default();
        let schema = base.current_schema();
        replacement.added.iter().for_each(|(file, _)| collector.add_file(file, schema.clone(), spec.clone()));
        removed.iter().for_each(|file| collector.remove_file(file, schema.clone(), spec.clone()));
        let mut properties = collector.build();
        let previous = base.current_snapshot().map(|s| &s.summary().additional_properties);
        let added = FileSums::of(replacement.added.iter().map(|(file, _)| file));
        totals(&mut properties, previous, added, FileSums::of(removed));
        let carried: BTreeMap<_, _> =
            CARRIED.iter().filter_map(|key| Some(((*key).to_owned(), offsets::nearest(base, key)?.clone()))).collect();
        properties.extend(carried);
        properties.insert(EPOCH.to_owned(), self.owner.epoch.to_string());
        Summary { operation: Operation::Replace, additional_properties: properties }
    }
}

/// Writes the open manifest, if there is one.
async fn close(
    open: &mut Option<(ManifestWriter, usize)>,
    manifests: &mut Vec<ManifestFile>,
    written: &mut Vec<String>,
) -> Result<(), CommitError> {
    let Some((writer, _)) = open.take() else { return Ok(()) };
    let manifest = writer.write_manifest_file().await?;
    written.push(manifest.manifest_path.clone());
    manifests.push(manifest);
    Ok(())
}
