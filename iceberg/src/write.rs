//! Rows → Parquet data files under the table's location.
//!
//! Owns: file names, Parquet settings, rolling by bytes, what a data file reports to the manifest (counts, bounds,
//! sizes, partition value). Does not own: which rows, commits, what the table's properties ask for (`properties`).
//! Files that no commit names are garbage and harmless.
//!
//! **Memory** beside the rows: the open file as encoded pages, as a row group and as the body of the put, so three
//! times the target size, and one slice of rows. Slices are cut by bytes, because the Parquet writer looks at its page
//! and dictionary limits only between slices. Columns of client-chosen size get no Parquet statistics ([`bounds`]), and
//! a dictionary only where no value is large: the dictionary would be a second copy of the values.
//!
//! zstd-1: levels 3 and 6 bought nothing on real records and cost up to two thirds of the speed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, LargeBinaryArray, ListArray, RecordBatch, StringArray, StructArray};
use iceberg::spec::{DataContentType, DataFile, Literal, Struct};
use iceberg::writer::CurrentFileStatus;
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriterBuilder};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use tidewater_storage::disposition::Disposition;

use crate::bounds::{self, BOUND_BYTES_MAX, ColumnBounds};
use crate::files::TableFiles;
use crate::names::Names;
use crate::properties::FileSettings;
use crate::schema::{self, ids};
use crate::translate::HourRows;

/// Rows of one slice at most: the target size of a file is met within a slice.
const SLICE_ROWS: usize = 16 * 1024;
/// Bytes of one slice at most, unless it is a single row: what a page or a dictionary may exceed its limit by.
const SLICE_BYTES: usize = 1 << 20;
/// Rows of a row group at most.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// A column with a value larger than this gets no dictionary in its file.
const DICTIONARY_VALUE_BYTES: usize = 16 << 10;

/// Parquet paths of the columns whose values a client makes as long as it likes.
const CLIENT_SIZED: [&[&str]; 4] = [
    &["value"],
    &["tidewater", "key"],
    &["tidewater", "headers", "list", "element", "key"],
    &["tidewater", "headers", "list", "element", "value"],
];

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

    /// Writes all rows. On error, files already written stay behind as garbage, named in nothing.
    ///
    /// # Errors
    /// The first failure.
    pub async fn write(&self, hours: BTreeMap<i32, HourRows>) -> Result<Vec<DataFile>, WriteError> {
        let mut out = Vec::with_capacity(hours.len());
        for (hour, rows) in hours {
            self.write_hour(hour, rows, &mut out).await?;
        }
        Ok(out)
    }

    async fn write_hour(&self, hour: i32, rows: HourRows, out: &mut Vec<DataFile>) -> Result<(), WriteError> {
        let batch = rows.finish()?;
        let columns = ClientColumns::of(&batch)?;
        let table = Arc::new(schema::table_schema()?);
        let builder = ParquetWriterBuilder::new(properties(&self.settings, &columns), table);
        let mut from = 0;
        while from < batch.num_rows() {
            let path = format!("{}/hour={hour}/{}.parquet", self.folder, self.names.uuid());
            let mut writer = builder.build(self.files.io().new_output(&path)?).await?;
            let first = from;
            while from < batch.num_rows() && (from == first || writer.current_written_size() < self.settings.file_bytes)
            {
                let rows = columns.slice_rows(from, batch.num_rows() - from);
                writer.write(&batch.slice(from, rows)).await?;
                from += rows;
            }
            let written = writer.close().await?;
            assert_eq!(written.len(), 1, "one Parquet writer with rows makes one file");
            for mut file in written {
                let file = file
                    .content(DataContentType::Data)
                    .partition(Struct::from_iter([Some(Literal::int(hour))]))
                    .partition_spec_id(self.spec_id)
                    .build();
                let incomplete = |missing| WriteError::Incomplete { path: path.clone(), missing };
                let file = file.map_err(|e| incomplete(e.to_string()))?;
                let described = self.describe(&file, &columns.rows(first, from - first));
                out.push(described.map_err(incomplete)?);
            }
        }
        Ok(())
    }

    /// Adds what the Parquet writer is not asked for: null counts, and the key's bounds.
    fn describe(&self, file: &DataFile, columns: &ClientColumns) -> Result<DataFile, String> {
        let (key, rows) = (ColumnBounds::of(&columns.key), columns.key.len());
        let (mut nulls, mut lower, mut upper) =
            (file.null_value_counts().clone(), file.lower_bounds().clone(), file.upper_bounds().clone());
        nulls.insert(ids::KEY, columns.key.null_count() as u64);
        nulls.insert(ids::VALUE, columns.value.null_count() as u64);
        lower.extend(key.lower().map(|bound| (ids::KEY, bound)));
        upper.extend(key.upper().map(|bound| (ids::KEY, bound)));
        let mut builder = bounds::to_builder(file, self.spec_id);
        let file = builder.null_value_counts(nulls).lower_bounds(lower).upper_bounds(upper).build();
        let file = file.map_err(|e| e.to_string())?;
        assert_eq!(file.record_count(), rows as u64, "the file has the rows that were given to it");
        assert!(bounds::longest(&file) <= BOUND_BYTES_MAX, "a bound of {} bytes", bounds::longest(&file));
        Ok(file)
    }
}

/// The columns of a batch whose values have a size that clients choose, in the order of [`CLIENT_SIZED`].
struct ClientColumns {
    value: LargeBinaryArray,
    key: LargeBinaryArray,
    headers: ListArray,
    header_key: StringArray,
    header_value: LargeBinaryArray,
}

impl ClientColumns {
    fn of(batch: &RecordBatch) -> Result<Self, WriteError> {
        let missing = |name: &str| arrow::error::ArrowError::SchemaError(format!("column {name} is missing"));
        let system = batch.column_by_name("tidewater").and_then(|c| c.as_struct_opt());
        let system: &StructArray = system.ok_or_else(|| missing("tidewater"))?;
        let binary = |column: Option<&Arc<dyn Array>>, name| {
            column.and_then(|c| c.as_binary_opt::<i64>()).cloned().ok_or_else(|| missing(name))
        };
        let headers = system.column_by_name("headers").and_then(|c| c.as_list_opt::<i32>());
        let headers = headers.ok_or_else(|| missing("headers"))?.clone();
        let header = headers.values().as_struct_opt().ok_or_else(|| missing("headers.element"))?.clone();
        let header_key = header.column_by_name("key").and_then(|c| c.as_string_opt::<i32>()).cloned();
        Ok(Self {
            value: binary(batch.column_by_name("value"), "value")?,
            key: binary(system.column_by_name("key"), "key")?,
            header_key: header_key.ok_or_else(|| missing("headers.element.key"))?,
            header_value: binary(header.column_by_name("value"), "headers.element.value")?,
            headers,
        })
    }

    /// The same of `len` rows from `from` on; the headers' columns stay whole.
    fn rows(&self, from: usize, len: usize) -> Self {
        Self {
            value: self.value.slice(from, len),
            key: self.key.slice(from, len),
            headers: self.headers.slice(from, len),
            header_key: self.header_key.clone(),
            header_value: self.header_value.clone(),
        }
    }

    /// Bytes of `len` rows from `from` on.
    fn bytes(&self, from: usize, len: usize) -> usize {
        let (first, last) = (self.headers.value_offsets()[from], self.headers.value_offsets()[from + len]);
        let (first, last) = (first.unsigned_abs() as usize, last.unsigned_abs() as usize);
        let large = |offsets: &[i64], from: usize, to: usize| (offsets[to] - offsets[from]).unsigned_abs() as usize;
        let small = |offsets: &[i32], from: usize, to: usize| (offsets[to] - offsets[from]).unsigned_abs() as usize;
        large(self.value.value_offsets(), from, from + len)
            + large(self.key.value_offsets(), from, from + len)
            + large(self.header_value.value_offsets(), first, last)
            + small(self.header_key.value_offsets(), first, last)
    }

    /// How many rows from `from` on, of `left`, make one slice: at least one.
    fn slice_rows(&self, from: usize, left: usize) -> usize {
        let mut rows = left.min(SLICE_ROWS);
        while rows > 1 && self.bytes(from, rows) > SLICE_BYTES {
            rows = rows.div_ceil(2);
        }
        rows
    }

    /// The largest value of each column. Bytes.
    fn largest(&self) -> [usize; 4] {
        let large = |offsets: &[i64]| offsets.windows(2).map(|w| (w[1] - w[0]).unsigned_abs() as usize).max();
        let small = |offsets: &[i32]| offsets.windows(2).map(|w| (w[1] - w[0]).unsigned_abs() as usize).max();
        [
            large(self.value.value_offsets()),
            large(self.key.value_offsets()),
            small(self.header_key.value_offsets()),
            large(self.header_value.value_offsets()),
        ]
        .map(Option::unwrap_or_default)
    }
}

fn properties(settings: &FileSettings, columns: &ClientColumns) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(settings.compression)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(settings.row_group_bytes))
        .set_data_page_size_limit(settings.page_bytes)
        .set_data_page_row_count_limit(settings.page_rows)
        .set_dictionary_page_size_limit(settings.dictionary_bytes)
        .set_created_by("tidewater".to_owned());
    for (path, largest) in CLIENT_SIZED.iter().zip(columns.largest()) {
        let column = ColumnPath::new(path.iter().map(|part| (*part).to_owned()).collect());
        builder = builder.set_column_statistics_enabled(column.clone(), EnabledStatistics::None);
        if largest > DICTIONARY_VALUE_BYTES {
            builder = builder.set_column_dictionary_enabled(column, false);
        }
    }
    builder.build()
}
