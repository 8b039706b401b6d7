//! [`PartitionFiles`]: the data files of one partition of a table, written slice by slice and closed at their target
//! size.
//!
//! Owns: rolling, and what the Parquet writer is not asked for: null counts and bounds of client-sized
//! columns, gathered slice by slice.

use arrow::array::RecordBatch;
use iceberg::spec::{DataContentType, DataFile, Datum};
use parquet::file::properties::WriterProperties;

use super::leaves::{self, ClientLeaves, Described};
use super::parquet_file::{ParquetFile, widen};
use super::{DataFileName, DataFileWriter, SLICE_BYTES, SLICE_ROWS, WriteError};
use crate::bounds::{self, BOUND_BYTES_MAX};
use crate::partition::PartitionKey;
use crate::schema::file::FileSchema;

/// See the header.
pub struct PartitionFiles<'a> {
    writer: &'a DataFileWriter,
    schema: &'a FileSchema,
    properties: WriterProperties,
    key: PartitionKey,
    /// The id of the sort order that rows come in.
    order: Option<i32>,
    open: Option<OpenFile<'a>>,
    done: Vec<DataFile>,
}

struct OpenFile<'a> {
    path: String,
    file: ParquetFile<'a>,
    rows: u64,
    /// Of each client-sized column, in the order of the schema.
    columns: Vec<Extent>,
}

/// What the values of one column reach.
struct Extent {
    id: i32,
    nulls: u64,
    lower: Option<Datum>,
    upper: Option<Datum>,
    /// Some value has no short upper bound, so the column has none.
    is_unbounded: bool,
}

impl<'a> PartitionFiles<'a> {
    pub(super) fn new(
        writer: &'a DataFileWriter,
        schema: &'a FileSchema,
        key: PartitionKey,
        properties: WriterProperties,
        order: Option<i32>,
    ) -> Self {
        Self { writer, schema, properties, key, order, open: None, done: Vec::new() }
    }

    /// Writes the rows of `batch`, whose columns are those of the schema.
    ///
    /// # Errors
    /// The first failure.
    pub async fn push(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        let leaves = ClientLeaves::of(self.schema, batch)?;
        let mut from = 0;
        while from < batch.num_rows() {
            let rows = slice_rows(batch, from);
            let open = match self.open.take() {
                Some(open) => open,
                None => OpenFile::create(self.writer, self.schema, &self.key, self.properties.clone()).await?,
            };
            let open = self.open.insert(open);
            open.file.write(&batch.slice(from, rows)).await?;
            open.note(leaves.describe(from, rows), rows as u64);
            from += rows;
            if open.file.written_bytes() >= self.writer.settings.file_bytes {
                self.close().await?;
            }
        }
        Ok(())
    }

    /// Ends the last file. Returns all files, in the order of their rows.
    ///
    /// # Errors
    /// The first failure.
    pub async fn finish(mut self) -> Result<Vec<DataFile>, WriteError> {
        self.close().await?;
        Ok(self.done)
    }

    async fn close(&mut self) -> Result<(), WriteError> {
        let Some(OpenFile { path, file, rows, columns }) = self.open.take() else { return Ok(()) };
        let mut described = file.finish().await?;
        let incomplete = |missing: String| WriteError::Incomplete { path: path.clone(), missing };
        described
            .content(DataContentType::Data)
            .file_path(path.clone())
            .partition(self.key.to_struct())
            .partition_spec_id(self.writer.spec_id);
        if let Some(order) = self.order {
            described.sort_order_id(order);
        }
        let file = described.build().map_err(|e| incomplete(e.to_string()))?;
        assert_eq!(file.record_count(), rows, "the file has the rows that were given to it");
        self.done.push(with_extents(&file, columns, self.writer.spec_id).map_err(incomplete)?);
        Ok(())
    }
}

impl<'a> OpenFile<'a> {
    async fn create(
        writer: &DataFileWriter,
        schema: &'a FileSchema,
        key: &PartitionKey,
        properties: WriterProperties,
    ) -> Result<Self, WriteError> {
        let path = DataFileName { folder: key.folder(), id: writer.names.uuid() }.path(&writer.location);
        let file = ParquetFile::create(writer.files.io().new_output(&path)?, schema, properties).await?;
        Ok(Self { path, file, rows: 0, columns: Vec::new() })
    }

    fn note(&mut self, slice: impl Iterator<Item = Described>, rows: u64) {
        self.rows += rows;
        for (at, found) in slice.enumerate() {
            match self.columns.get_mut(at) {
                Some(extent) => extent.add(found),
                None => self.columns.push(Extent::of(found)),
            }
        }
    }
}

impl Extent {
    fn of(found: Described) -> Self {
        let Described { id, nulls, lower, upper } = found;
        Self { id, nulls, is_unbounded: lower.is_some() && upper.is_none(), lower, upper }
    }

    fn add(&mut self, found: Described) {
        assert_eq!(self.id, found.id, "columns come in one order");
        self.nulls += found.nulls;
        self.is_unbounded |= found.lower.is_some() && found.upper.is_none();
        widen(&mut self.lower, found.lower, |held, new| new < held);
        widen(&mut self.upper, found.upper, |held, new| new > held);
    }
}

fn with_extents(file: &DataFile, columns: Vec<Extent>, spec_id: i32) -> Result<DataFile, String> {
    let (mut nulls, mut lower, mut upper) =
        (file.null_value_counts().clone(), file.lower_bounds().clone(), file.upper_bounds().clone());
    for column in columns {
        nulls.insert(column.id, column.nulls);
        lower.extend(column.lower.map(|bound| (column.id, bound)));
        upper.extend(column.upper.filter(|_| !column.is_unbounded).map(|bound| (column.id, bound)));
    }
    let mut builder = bounds::to_builder(file, spec_id);
    let file = builder.null_value_counts(nulls).lower_bounds(lower).upper_bounds(upper).build();
    let file = file.map_err(|e| e.to_string())?;
    assert!(bounds::longest(&file) <= BOUND_BYTES_MAX, "a bound of {} bytes", bounds::longest(&file));
    Ok(file)
}

/// How many rows from `from` on make one slice: at least one.
fn slice_rows(batch: &RecordBatch, from: usize) -> usize {
    let mut rows = (batch.num_rows() - from).min(SLICE_ROWS);
    while rows > 1 && leaves::bytes(batch, from, rows) > SLICE_BYTES {
        rows = rows.div_ceil(2);
    }
    rows
}
