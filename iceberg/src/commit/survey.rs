//! What a snapshot has: its data files of ours, and hours and tables that must be left alone because of delete files.
//!
//! **Memory**: one manifest, and about 64 bytes for each data file of ours.

use std::collections::{BTreeSet, HashMap};

use iceberg::spec::{
    DataFile, DataFileFormat, Literal, ManifestContentType, ManifestFile, PartitionSpec, PrimitiveLiteral,
    TableMetadata,
};
use tidewater_storage::model::TimestampMs;

use super::snapshot::read_list;
use crate::files::TableFiles;
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
}

/// See the header.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// In the order of manifests.
    pub files: Vec<OurFile>,
    /// Hours for which there are delete files.
    pub deletes: BTreeSet<i32>,
    /// Why no file of the table may be replaced.
    pub obstacle: Option<String>,
    /// All data files, engines' too, and their bytes.
    pub data_files: u64,
    pub data_bytes: u64,
    manifests: Vec<String>,
}

impl Survey {
    /// Of a table of which nothing may be replaced.
    pub(crate) fn blocked(why: &str) -> Self {
        Self { obstacle: Some(why.to_owned()), ..Self::default() }
    }

    /// The paths of the manifests that have these files.
    pub(crate) fn manifests_of(&self, names: &BTreeSet<DataFileName>) -> BTreeSet<String> {
        let files = self.files.iter().filter(|file| names.contains(&file.name));
        files.filter_map(|file| self.manifests.get(file.manifest as usize).cloned()).collect()
    }
}

/// Surveys the current snapshot; `spec` is that by hour.
///
/// # Errors
/// A manifest cannot be read.
pub(crate) async fn survey(
    files: &TableFiles,
    metadata: &TableMetadata,
    spec: &PartitionSpec,
) -> iceberg::Result<Survey> {
    let mut survey = Survey::default();
    let Some(snapshot) = metadata.current_snapshot() else { return Ok(survey) };
    let added: HashMap<i64, TimestampMs> =
        metadata.snapshots().map(|s| (s.snapshot_id(), TimestampMs(s.timestamp_ms()))).collect();
    for manifest in read_list(files, metadata, snapshot).await? {
        if !manifest.has_added_files() && !manifest.has_existing_files() {
            continue;
        }
        let is_hourly = manifest.partition_spec_id == spec.spec_id();
        match manifest.content {
            ManifestContentType::Deletes if !is_hourly => {
                survey.obstacle = Some("it has delete files that are not of an hour".to_owned());
            }
            ManifestContentType::Deletes => {
                let loaded = manifest.load_manifest(&files.io()).await?;
                for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
                    match hour_of(entry.data_file()) {
                        Some(hour) => drop(survey.deletes.insert(hour)),
                        None => survey.obstacle = Some("it has a delete file without an hour".to_owned()),
                    }
                }
            }
            ManifestContentType::Data => survey.add(files, metadata.location(), &manifest, is_hourly, &added).await?,
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
        is_hourly: bool,
        added: &HashMap<i64, TimestampMs>,
    ) -> iceberg::Result<()> {
        let loaded = manifest.load_manifest(&files.io()).await?;
        let place = u32::try_from(self.manifests.len()).unwrap_or(u32::MAX);
        self.manifests.push(manifest.manifest_path.clone());
        for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
            let file = entry.data_file();
            self.data_files += 1;
            self.data_bytes = self.data_bytes.saturating_add(file.file_size_in_bytes());
            let Some(name) = DataFileName::of_path(location, file.file_path()).filter(|_| is_hourly) else { continue };
            let is_plain = file.file_format() == DataFileFormat::Parquet && file.key_metadata().is_none();
            let (Some(sequence), true) = (entry.sequence_number(), is_plain && hour_of(file) == Some(name.hour)) else {
                continue;
            };
            self.files.push(OurFile {
                name,
                bytes: file.file_size_in_bytes(),
                rows: file.record_count(),
                sequence,
                added: entry.snapshot_id().and_then(|id| added.get(&id).copied()),
                manifest: place,
            });
        }
        Ok(())
    }
}

/// The hour in a file's partition value.
fn hour_of(file: &DataFile) -> Option<i32> {
    match file.partition().iter().next() {
        Some(Some(Literal::Primitive(PrimitiveLiteral::Int(hour)))) => Some(*hour),
        _ => None,
    }
}
