//! Rows → Parquet data files under the table's location.
//!
//! Owns: file names, Parquet settings, rolling by bytes, what a data file tells the manifest (counts, bounds, sizes,
//! partition value). Does not own: which rows, commits. Files that no commit names are garbage and harmless.
//!
//! zstd-1: levels 3 and 6 bought nothing on real records and cost up to two thirds of the speed. Dictionaries stay
//! on: Parquet falls back by itself where they do not pay.

use std::collections::BTreeMap;
use std::sync::Arc;

use iceberg::spec::{DataContentType, DataFile, Literal, Struct};
use iceberg::writer::file_writer::{FileWriter, FileWriterBuilder, ParquetWriterBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::files::TableFiles;
use crate::names::Names;
use crate::schema;
use crate::translate::HourRows;

/// Rows go to Parquet in slices of this many, so that the target size is met closely.
const ROWS_PER_WRITE: usize = 16 * 1024;
/// Rows of a row group at most.
const ROW_GROUP_ROWS: usize = 1 << 20;
/// Bytes of a row group at most: what a reader must hold.
const ROW_GROUP_BYTES: usize = 128 << 20;

/// Why files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Parquet, the bucket or the schema said no.
    #[error("data file could not be written: {0}")]
    Iceberg(#[from] iceberg::Error),
    /// The columns do not fit the schema.
    #[error("rows do not form a table batch: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A Parquet setting is out of range.
    #[error("parquet setting: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// What the writer reported lacks a field.
    #[error("data file {path} is incomplete: {missing}")]
    Incomplete {
        /// Which file.
        path: String,
        /// What is missing.
        missing: String,
    },
}

/// Writes the data files of one table.
#[derive(Clone, Debug)]
pub struct DataFileWriter {
    files: TableFiles,
    names: Names,
    /// `<table location>/data`.
    folder: String,
    spec_id: i32,
    file_bytes: usize,
}

impl DataFileWriter {
    /// For the table at `location`, partition spec `spec_id`; a file is closed at `file_bytes`.
    #[must_use]
    pub fn new(files: TableFiles, names: Names, location: &str, spec_id: i32, file_bytes: usize) -> Self {
        Self { files, names, folder: format!("{location}/data"), spec_id, file_bytes }
    }

    /// Writes all rows. On error, files already written stay behind as garbage, named in nothing.
    ///
    /// # Errors
    /// The first failure.
    pub async fn write(&self, hours: BTreeMap<i32, HourRows>) -> Result<Vec<DataFile>, WriteError> {
        let table = Arc::new(schema::table_schema()?);
        let builder = ParquetWriterBuilder::new(properties()?, table.clone());
        let mut out = Vec::with_capacity(hours.len());
        for (hour, rows) in hours {
            self.write_hour(&builder, hour, rows, &mut out).await?;
        }
        Ok(out)
    }

    async fn write_hour(
        &self,
        builder: &ParquetWriterBuilder,
        hour: i32,
        rows: HourRows,
        out: &mut Vec<DataFile>,
    ) -> Result<(), WriteError> {
        let batch = rows.finish()?;
        let mut from = 0;
        while from < batch.num_rows() {
            let path = format!("{}/hour={hour}/{}.parquet", self.folder, self.names.uuid());
            let mut writer = builder.build(self.files.io().new_output(&path)?).await?;
            while from < batch.num_rows() && written(&writer) < self.file_bytes {
                let len = ROWS_PER_WRITE.min(batch.num_rows() - from);
                writer.write(&batch.slice(from, len)).await?;
                from += len;
            }
            for mut file in writer.close().await? {
                let file = file
                    .content(DataContentType::Data)
                    .partition(Struct::from_iter([Some(Literal::int(hour))]))
                    .partition_spec_id(self.spec_id)
                    .build();
                out.push(file.map_err(|e| WriteError::Incomplete { path: path.clone(), missing: e.to_string() })?);
            }
        }
        Ok(())
    }
}

fn written(writer: &impl iceberg::writer::CurrentFileStatus) -> usize {
    writer.current_written_size()
}

fn properties() -> Result<WriterProperties, WriteError> {
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_created_by("tidewater".to_owned())
        .build())
}
