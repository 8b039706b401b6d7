//! Rows → Parquet data files under the table's location.
//!
//! Owns: file names, Parquet settings, rolling by bytes, what a data file reports to the manifest (counts, bounds,
//! sizes, partition value). [`parquet_file`] writes one file, [`leaves`] looks at the columns whose values have any
//! size. Does not own: which rows, commits, what the table's properties ask for (`properties`). Files that no commit
//! names are garbage and harmless.
//!
//! **Memory** beside the rows: the open file as encoded pages, as a row group and as the body of the put, so three
//! times the target size, and one slice of rows. Slices are cut by bytes, because the Parquet writer looks at its page
//! and dictionary limits only between slices. Columns of client-chosen size get no Parquet statistics ([`bounds`]), and
//! a dictionary only where no value is large: the dictionary would be a second copy of the values. Other statistics
//! are of column chunks, not of pages.
//!
//! zstd-1: levels 3 and 6 bought nothing on real records and cost up to two thirds of the speed.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use iceberg::spec::{DataContentType, DataFile, Literal, Struct};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use tidewater_storage::disposition::Disposition;

use crate::bounds::{self, BOUND_BYTES_MAX};
use crate::files::TableFiles;
use crate::names::Names;
use crate::properties::FileSettings;
use crate::schema::file::FileSchema;
use crate::translate::HourRows;

mod leaves;
mod parquet_file;

use leaves::ClientLeaves;
use parquet_file::ParquetFile;

/// Rows of one slice at most: the target size of a file is met within a slice.
const SLICE_ROWS: usize = 16 * 1024;
/// Bytes of one slice at most, unless it is a single row: what a page or a dictionary may exceed its limit by.
const SLICE_BYTES: usize = 1 << 20;
/// Rows of a row group at most.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// A column with a value larger than this gets no dictionary in its file.
const DICTIONARY_VALUE_BYTES: usize = 16 << 10;

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

/// Writes the data files of one table.
#[derive(Clone, Debug)]
pub struct DataFileWriter {
    files: TableFiles,
    names: Names,
    /// `<table location>/data`.
    folder: String,
    spec_id: i32,
    settings: FileSettings,
}

impl DataFileWriter {
    /// For the table at `location`, partition spec `spec_id`.
    #[must_use]
    pub fn new(files: TableFiles, names: Names, location: &str, spec_id: i32, settings: FileSettings) -> Self {
        Self { files, names, folder: format!("{location}/data"), spec_id, settings }
    }

    /// Writes all rows, whose columns are those of `schema`. On error, files already written stay behind as garbage,
    /// named in nothing.
    ///
    /// # Errors
    /// The first failure.
    pub async fn write(
        &self,
        schema: &FileSchema,
        hours: BTreeMap<i32, HourRows>,
    ) -> Result<Vec<DataFile>, WriteError> {
        let mut out = Vec::with_capacity(hours.len());
        for (hour, rows) in hours {
            self.write_hour(schema, hour, rows.finish(schema)?, &mut out).await?;
        }
        Ok(out)
    }

    async fn write_hour(
        &self,
        schema: &FileSchema,
        hour: i32,
        batch: RecordBatch,
        out: &mut Vec<DataFile>,
    ) -> Result<(), WriteError> {
        let leaves = ClientLeaves::of(schema, &batch)?;
        let properties = properties(&self.settings, schema, &leaves);
        let mut from = 0;
        while from < batch.num_rows() {
            let path = format!("{}/hour={hour}/{}.parquet", self.folder, self.names.uuid());
            let mut file = ParquetFile::create(self.files.io().new_output(&path)?, schema, properties.clone()).await?;
            let first = from;
            while from < batch.num_rows() && (from == first || file.written_bytes() < self.settings.file_bytes) {
                let rows = slice_rows(&batch, from);
                file.write(&batch.slice(from, rows)).await?;
                from += rows;
            }
            let mut described = file.finish().await?;
            let incomplete = |missing: String| WriteError::Incomplete { path: path.clone(), missing };
            described
                .content(DataContentType::Data)
                .file_path(path.clone())
                .partition(Struct::from_iter([Some(Literal::int(hour))]))
                .partition_spec_id(self.spec_id);
            let file = described.build().map_err(|e| incomplete(e.to_string()))?;
            out.push(self.describe(&file, &leaves, first, from - first).map_err(incomplete)?);
        }
        Ok(())
    }

    /// Adds what the Parquet writer is not asked for: null counts and bounds of client-sized columns, in the `rows`
    /// rows from `first` on.
    fn describe(
        &self,
        file: &DataFile,
        leaves: &ClientLeaves<'_>,
        first: usize,
        rows: usize,
    ) -> Result<DataFile, String> {
        let (mut nulls, mut lower, mut upper) =
            (file.null_value_counts().clone(), file.lower_bounds().clone(), file.upper_bounds().clone());
        for column in leaves.describe(first, rows) {
            nulls.insert(column.id, column.nulls);
            lower.extend(column.lower.map(|bound| (column.id, bound)));
            upper.extend(column.upper.map(|bound| (column.id, bound)));
        }
        let mut builder = bounds::to_builder(file, self.spec_id);
        let file = builder.null_value_counts(nulls).lower_bounds(lower).upper_bounds(upper).build();
        let file = file.map_err(|e| e.to_string())?;
        assert_eq!(file.record_count(), rows as u64, "the file has the rows that were given to it");
        assert!(bounds::longest(&file) <= BOUND_BYTES_MAX, "a bound of {} bytes", bounds::longest(&file));
        Ok(file)
    }
}

/// How many rows from `from` on make one slice: at least one.
fn slice_rows(batch: &RecordBatch, from: usize) -> usize {
    let mut rows = (batch.num_rows() - from).min(SLICE_ROWS);
    while rows > 1 && leaves::bytes(batch, from, rows) > SLICE_BYTES {
        rows = rows.div_ceil(2);
    }
    rows
}

fn properties(settings: &FileSettings, schema: &FileSchema, leaves: &ClientLeaves<'_>) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(settings.compression)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(settings.row_group_bytes))
        .set_data_page_size_limit(settings.page_bytes)
        .set_data_page_row_count_limit(settings.page_rows)
        .set_dictionary_page_size_limit(settings.dictionary_bytes)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_created_by("tidewater".to_owned());
    for (leaf, largest) in schema.leaves.iter().zip(leaves.largest()) {
        if leaf.is_client_sized() || leaf.repeated {
            builder = builder.set_column_statistics_enabled(leaf.path.clone(), EnabledStatistics::None);
        }
        if largest > DICTIONARY_VALUE_BYTES {
            builder = builder.set_column_dictionary_enabled(leaf.path.clone(), false);
        }
    }
    builder.build()
}
