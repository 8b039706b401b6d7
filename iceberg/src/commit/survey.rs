//! What a snapshot has: its data files of ours, and partitions and tables that must be left alone because of delete
//! files.
//!
//! **Memory**: one manifest, about 64 bytes for each data file of ours, and the values of each partition.

use std::collections::{BTreeSet, HashMap};

use iceberg::spec::{DataFileFormat, ManifestContentType, ManifestFile, TableMetadata};
use tidewater_storage::model::TimestampMs;

use super::snapshot::read_list;
use crate::files::TableFiles;
use crate::partition::{Folder, PartitionKey, Partitioner};
use crate::write::DataFileName;

/// A data file of ours that is in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OurFile {
    pub name: DataFileName,
    pub bytes: u64,
    pub rows: u64,
    /// Its data sequence number: that of the commit that its newest rows came with.
    pub sequence: i64,
    /// When it was added; `None` if the snapshot that did has expired.
    pub added: Option<TimestampMs>,
    /// Index of its manifest in the survey.
    pub manifest: u32,
    /// Index of its partition in [`Survey::partitions`].
    pub partition: u32,
}

/// See the header.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// In the order of manifests.
    pub files: Vec<OurFile>,
    /// The partitions of the files, each once.
    pub partitions: Vec<PartitionKey>,
    /// Indexes of partitions for which there are delete files.
    pub deletes: BTreeSet<u32>,
    /// Why no file of the table may be replaced.
    pub obstacle: Option<String>,
    /// All data files, engines' too, and their bytes.
    pub data_files: u64,
    pub data_bytes: u64,
    manifests: Vec<String>,
    known: HashMap<PartitionKey, u32>,
}

impl Survey {
    /// Of a table of which nothing may be replaced.
    pub(crate) fn blocked(why: &str) -> Self {
        Self { obstacle: Some(why.to_owned()), ..Self::default() }
    }

    /// The partition of files with this index.
    ///
    /// # Panics
    /// No file of the survey has it.
    pub(crate) fn partition(&self, index: u32) -> &PartitionKey {
        let found = self.partitions.get(index as usize);
        assert!(found.is_some(), "partition {index} of {}", self.partitions.len());
        found.unwrap_or_else(|| unreachable!("it was found"))
    }

    /// The index of a partition, which is noted if it is new.
    fn index(&mut self, key: PartitionKey) -> u32 {
        let next = index_of(self.partitions.len());
        *self.known.entry(key).or_insert_with_key(|key| {
            self.partitions.push(key.clone());
            next
        })
    }

    /// Whether no delete file concerns these files.
    pub(crate) fn is_free(&self, names: &BTreeSet<DataFileName>) -> bool {
        let files = self.files.iter().filter(|file| names.contains(&file.name));
        self.obstacle.is_none() && files.map(|file| file.partition).all(|at| !self.deletes.contains(&at))
    }

    /// The paths of the manifests that have these files.
    pub(crate) fn manifests_of(&self, names: &BTreeSet<DataFileName>) -> BTreeSet<String> {
        let files = self.files.iter().filter(|file| names.contains(&file.name));
        files.filter_map(|file| self.manifests.get(file.manifest as usize).cloned()).collect()
    }
}

/// The index of what is added to so many others.
///
/// # Panics
/// There are 2^32: they would not fit into memory.
fn index_of(others: usize) -> u32 {
    let Ok(index) = u32::try_from(others) else { unreachable!("{others} partitions or manifests are in memory") };
    index
}

/// Surveys the current snapshot; files count as ours if they are of the spec of `by`.
///
/// # Errors
/// A manifest cannot be read.
pub(crate) async fn survey(files: &TableFiles, metadata: &TableMetadata, by: &Partitioner) -> iceberg::Result<Survey> {
    let mut survey = Survey::default();
    let Some(snapshot) = metadata.current_snapshot() else { return Ok(survey) };
    let added: HashMap<i64, TimestampMs> =
        metadata.snapshots().map(|s| (s.snapshot_id(), TimestampMs(s.timestamp_ms()))).collect();
    for manifest in read_list(files, metadata, snapshot).await? {
        if !manifest.has_added_files() && !manifest.has_existing_files() {
            continue;
        }
        let is_ours = manifest.partition_spec_id == by.spec_id();
        match manifest.content {
            ManifestContentType::Deletes if !is_ours => {
                survey.obstacle = Some("it has delete files of another partition spec".to_owned());
            }
            ManifestContentType::Deletes => {
                let loaded = manifest.load_manifest(&files.io()).await?;
                for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
                    match by.key_of_entry(entry.data_file().partition()) {
                        Some(key) => {
                            let index = survey.index(key);
                            survey.deletes.insert(index);
                        }
                        None => survey.obstacle = Some("it has a delete file without a partition".to_owned()),
                    }
                }
            }
            ManifestContentType::Data => {
                let of = is_ours.then_some(by);
                survey.add(files, metadata.location(), &manifest, of, &added).await?;
            }
        }
    }
    Ok(survey)
}

impl Survey {
    async fn add(
        &mut self,
        files: &TableFiles,
        location: &str,
        manifest: &ManifestFile,
        by: Option<&Partitioner>,
        added: &HashMap<i64, TimestampMs>,
    ) -> iceberg::Result<()> {
        let loaded = manifest.load_manifest(&files.io()).await?;
        let place = index_of(self.manifests.len());
        self.manifests.push(manifest.manifest_path.clone());
        for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
            let file = entry.data_file();
            self.data_files += 1;
            self.data_bytes = self.data_bytes.saturating_add(file.file_size_in_bytes());
            let key = by.and_then(|by| by.key_of_entry(file.partition()));
            let name = DataFileName::of_path(location, file.file_path());
            let (Some(key), Some(name)) = (key, name) else { continue };
            let is_plain = file.file_format() == DataFileFormat::Parquet && file.key_metadata().is_none();
            let is_there = match (name.folder, key.folder()) {
                // Made of what the values were then: a merged manifest has those of a column that was widened since.
                (Folder::Part(_), Folder::Part(_)) => true,
                (named, wanted) => named == wanted,
            };
            let (Some(sequence), true) = (entry.sequence_number(), is_plain && is_there) else { continue };
            let partition = self.index(key);
            self.files.push(OurFile {
                name,
                bytes: file.file_size_in_bytes(),
                rows: file.record_count(),
                sequence,
                added: entry.snapshot_id().and_then(|id| added.get(&id).copied()),
                manifest: place,
                partition,
            });
        }
        Ok(())
    }
}
