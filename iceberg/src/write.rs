//! Rows → Parquet data files under the table's location.
//!
//! Owns: Parquet settings, what a data file reports to the manifest (counts, bounds, sizes, partition value).
//! [`name`] says how files are named, [`partition_files`] rolls them by bytes, [`parquet_file`] writes one, [`leaves`]
//! looks at the columns whose values have any size. Does not own: which rows, commits, what the table's properties ask
//! for (`properties`). Files that no commit names are garbage and harmless.
//!
//! **Memory** beside the rows: the open file as encoded pages, as a row group and as the body of the put, so three
//! times the target size, and one slice of rows. Slices are cut by bytes, because the Parquet writer looks at its page
//! and dictionary limits only between slices. Columns of client-chosen size get no Parquet statistics
//! ([`crate::bounds`]), and a dictionary only where no value is large: the dictionary would be a second copy of the
//! values. Other statistics are of column chunks, not of pages, but for the columns that a file is sorted by.
//!
//! zstd-1: levels 3 and 6 bought nothing on real records and cost up to two thirds of the speed.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use iceberg::spec::DataFile;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tidewater_storage::disposition::Disposition;

use crate::files::TableFiles;
use crate::names::Names;
use crate::partition::PartitionKey;
use crate::properties::FileSettings;
use crate::schema::file::FileSchema;
use crate::translate::{MixedRows, PartitionRows};

mod leaves;
mod name;
mod parquet_file;
mod partition_files;

use leaves::ClientLeaves;
pub use name::DataFileName;
pub use partition_files::PartitionFiles;

/// Rows of one slice at most: the target size of a file is met within a slice.
const SLICE_ROWS: usize = 16 * 1024;
/// Bytes of one slice at most, unless it is a single row: what a page or a dictionary may exceed its limit by.
const SLICE_BYTES: usize = 1 << 20;
/// Bytes of rows that are picked out of those of a turn at once, about: their average counts.
const PICKED_BYTES: usize = 4 << 20;
/// Rows of a row group at most.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// A column with a value larger than this gets no dictionary in its file.
pub(crate) const DICTIONARY_VALUE_BYTES: usize = 16 << 10;

/// Why files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Parquet, the bucket or the schema said no.
    #[error("data file could not be written: {0}")]
    Iceberg(#[from] iceberg::Error),
    /// The columns do not fit the schema: a defect here.
    #[error("rows do not form a table batch: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// What the writer reported lacks a field.
    #[error("data file {path} is incomplete: {missing}")]
    Incomplete { path: String, missing: String },
}

impl WriteError {
    /// What a caller should do about it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Iceberg(error) => crate::catalog::of_metadata(error),
            Self::Arrow(_) | Self::Incomplete { .. } => Disposition::Refused,
        }
    }
}

/// The order of the rows of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOrder {
    /// The table's sort order with this id.
    pub id: i32,
    /// Field ids of its columns: these have statistics of pages too, so that readers skip pages of a file.
    pub columns: BTreeSet<i32>,
}

/// Writes the data files of one table.
#[derive(Clone, Debug)]
pub struct DataFileWriter {
    files: TableFiles,
    names: Names,
    location: String,
    spec_id: i32,
    settings: FileSettings,
}

impl DataFileWriter {
    /// For the table at `location`, partition spec `spec_id`.
    #[must_use]
    pub fn new(files: TableFiles, names: Names, location: &str, spec_id: i32, settings: FileSettings) -> Self {
        Self { files, names, location: location.to_owned(), spec_id, settings }
    }

    /// Writes all rows, whose columns are those of `schema`. On error, files already written stay behind as garbage,
    /// named in nothing.
    ///
    /// # Errors
    /// The first failure.
    pub async fn write(
        &self,
        schema: &FileSchema,
        rows: BTreeMap<PartitionKey, PartitionRows>,
    ) -> Result<Vec<DataFile>, WriteError> {
        let mut out = Vec::with_capacity(rows.len());
        for (key, rows) in rows {
            out.append(&mut self.write_partition(schema, key, rows.finish(schema)?).await?);
        }
        Ok(out)
    }

    /// The same of rows that share their columns: those of each partition are picked out, some at a time.
    ///
    /// # Errors
    /// As [`DataFileWriter::write`].
    pub async fn write_mixed(&self, schema: &FileSchema, mixed: MixedRows) -> Result<Vec<DataFile>, WriteError> {
        let batch = mixed.rows.finish(schema)?;
        let leaves = ClientLeaves::of(schema, &batch)?;
        // Of all partitions: to look at each of them again would cost as much as a dictionary saves.
        let plain: Vec<bool> = leaves.largest().map(|bytes| bytes > DICTIONARY_VALUE_BYTES).collect();
        let row_bytes = batch.get_array_memory_size() / batch.num_rows().max(1);
        let at_once = (PICKED_BYTES / row_bytes.max(1)).clamp(1, SLICE_ROWS);
        let mut out = Vec::with_capacity(mixed.partitions.len());
        for (key, rows) in mixed.partitions {
            let mut files = self.partition_files(schema, key, plain.iter().copied(), None);
            for rows in rows.chunks(at_once) {
                files.push(&take_record_batch(&batch, &UInt32Array::from(rows.to_vec()))?).await?;
            }
            out.append(&mut files.finish().await?);
        }
        Ok(out)
    }

    /// Files of one partition with the columns of `schema`, to be written batch by batch. `plain` says of each of its
    /// leaves whether it has a value so large that the column gets no dictionary; `order` how the rows come, if they
    /// are sorted.
    #[must_use]
    pub fn partition_files<'a>(
        &'a self,
        schema: &'a FileSchema,
        key: PartitionKey,
        plain: impl Iterator<Item = bool>,
        order: Option<FileOrder>,
    ) -> PartitionFiles<'a> {
        let properties = properties(&self.settings, schema, plain, order.as_ref());
        PartitionFiles::new(self, schema, key, properties, order.map(|order| order.id))
    }

    async fn write_partition(
        &self,
        schema: &FileSchema,
        key: PartitionKey,
        batch: RecordBatch,
    ) -> Result<Vec<DataFile>, WriteError> {
        let leaves = ClientLeaves::of(schema, &batch)?;
        let plain = leaves.largest().map(|bytes| bytes > DICTIONARY_VALUE_BYTES);
        let mut files = self.partition_files(schema, key, plain, None);
        files.push(&batch).await?;
        files.finish().await
    }
}

fn properties(
    settings: &FileSettings,
    schema: &FileSchema,
    plain: impl Iterator<Item = bool>,
    order: Option<&FileOrder>,
) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(settings.compression)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(settings.row_group_bytes))
        .set_data_page_size_limit(settings.page_bytes)
        .set_data_page_row_count_limit(settings.page_rows)
        .set_dictionary_page_size_limit(settings.dictionary_bytes)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by("tidewater".to_owned());
    for (leaf, is_plain) in schema.leaves.iter().zip(plain) {
        if leaf.is_client_sized() || leaf.repeated {
            builder = builder.set_column_statistics_enabled(leaf.path.clone(), EnabledStatistics::None);
        } else if order.is_some_and(|order| order.columns.contains(&leaf.id)) {
            builder = builder.set_column_statistics_enabled(leaf.path.clone(), EnabledStatistics::Page);
        }
        if is_plain {
            builder = builder.set_column_dictionary_enabled(leaf.path.clone(), false);
        }
    }
    builder.build()
}
