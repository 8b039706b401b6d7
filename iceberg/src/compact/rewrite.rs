//! Writing the rows of a group's files again, in their order or that of the table, with the columns that the table has
//! now.
//!
//! **Memory**: the files of the group as they are stored, at most the target size, each until it has been read; one
//! batch of rows; and what `write` holds of the file that it makes. For a table with a sort order the files stay until
//! all is written, since they are read once for the keys and once for each range of rows, and what `order` holds comes
//! on top. Between batches other tasks get their turn.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{DataFile, Schema, TableMetadata};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use super::order::{Collected, Gathered, Keys, Permutation, SortLimits};
use super::plan::Group;
use super::project::{ProjectError, id_of, project};
use crate::commit::survey::OurFile;
use crate::files::{FileError, TableFiles};
use crate::partition::PartitionKey;
use crate::schema::file::FileSchema;
use crate::schema::ids;
use crate::schema::system::SystemColumns;
use crate::sort::TableOrder;
use crate::write::{DICTIONARY_VALUE_BYTES, DataFileWriter, FileOrder, PartitionFiles, WriteError};

/// Files of a group that are read at once.
const READS_AT_ONCE: usize = 4;
/// About how many bytes a batch has, as the file's footer counts them.
const BATCH_BYTES: u64 = 4 << 20;
/// Rows of a batch at most: a value that a dictionary holds once may be in each of them.
const BATCH_ROWS: u64 = 1024;

/// Why a group is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error("data file {path}: {source}")]
    File { path: String, source: FileError },
    #[error("data file {path}: {source}")]
    Parquet { path: String, source: ParquetError },
    #[error("data file {path}: {source}")]
    Arrow { path: String, source: arrow::error::ArrowError },
    /// A data file is not what its manifest entry says.
    #[error("data file {path} has {found} {what}, its manifest says {expected}")]
    Disagrees { path: String, what: &'static str, expected: u64, found: u64 },
    /// Its columns cannot be read as the table's.
    #[error("data file {path} cannot be read as the table's columns are now: {source}")]
    Columns { path: String, source: ProjectError },
    /// The table's columns cannot be written.
    #[error("the table's columns cannot be written: {0}")]
    Schema(iceberg::Error),
    /// Rows that can be sorted cannot be put in their order.
    #[error("rows cannot be put in the table's order: {0}")]
    Sort(String),
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl RewriteError {
    /// Whether the bucket did not answer: the group may succeed another time.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::File { source, .. } => source.disposition().passes(),
            Self::Write(error) => error.disposition().passes(),
            _ => false,
        }
    }
}

/// A file of the group, read but not opened.
pub(super) struct Input {
    pub(super) path: String,
    pub(super) body: Bytes,
    metadata: Arc<ParquetMetaData>,
    /// Field ids of its top-level columns.
    ids: BTreeSet<i32>,
}

/// Writes the rows of `group`, which are of the partition `key`, in the order of their files or in `order`; `read` is
/// called with each file that has been read through.
pub(super) async fn rewrite(
    files: &TableFiles,
    table: &TableMetadata,
    writer: &DataFileWriter,
    order: Option<&TableOrder>,
    (group, key): (&Group, &PartitionKey),
    mut read: impl FnMut(&OurFile),
) -> Result<Vec<DataFile>, RewriteError> {
    let inputs: Vec<Input> = futures::stream::iter(group.files.clone())
        .map(async |file| open(files, &file.name.path(table.location()), file.bytes, file.rows).await)
        .buffered(READS_AT_ONCE)
        .try_collect()
        .await?;
    let schema = file_schema(table.current_schema(), &inputs).map_err(RewriteError::Schema)?;
    let plain = plain_columns(&inputs);
    let is_plain = schema.leaves.iter().map(|leaf| plain.contains(&leaf.id));
    let sorted = match order {
        Some(order) => permutation(&inputs, &schema, table, order).await?.map(|sorted| (order, sorted)),
        None => None,
    };
    let file_order = sorted
        .as_ref()
        .map(|(order, _)| FileOrder { id: order.id, columns: order.fields.iter().map(|field| field.source).collect() });
    let mut output = writer.partition_files(&schema, key.clone(), is_plain, file_order);
    match sorted {
        None => {
            for (input, file) in inputs.into_iter().zip(&group.files) {
                pour(input, &schema, &mut output, Ok).await?;
                read(file);
            }
        }
        Some((_, permutation)) => {
            pour_sorted(&inputs, &schema, &permutation, &mut output).await?;
            group.files.iter().for_each(read);
        }
    }
    let written = output.finish().await?;
    let rows: u64 = written.iter().map(DataFile::record_count).sum();
    assert_eq!(rows, group.rows(), "the files written have the rows of those read");
    Ok(written)
}

/// Where each row of the files goes; `None` if they are not sorted.
async fn permutation(
    inputs: &[Input],
    schema: &FileSchema,
    table: &TableMetadata,
    order: &TableOrder,
) -> Result<Option<Permutation>, RewriteError> {
    let system = SystemColumns::of(table);
    let place = [ids::PARTITION, ids::OFFSET].map(|id| system.id(id));
    let mut keys = Keys::new(order, place, SortLimits::default());
    let not_sorted = |why: super::order::Unsorted| {
        tracing::info!(table = table.location(), rows = "unsorted", %why, "small files are written again as they are");
        Ok(None)
    };
    for input in inputs {
        for batch in batches(input, schema)? {
            if let Err(why) = keys.add(&batch?) {
                return not_sorted(why);
            }
            tokio::task::yield_now().await;
        }
    }
    match sort(keys.finish()).await? {
        Ok(permutation) => Ok(Some(permutation)),
        Err(why) => not_sorted(why),
    }
}

/// Sorts beside the runtime's tasks: millions of keys take seconds.
async fn sort(keys: Collected) -> Result<Result<Permutation, super::order::Unsorted>, RewriteError> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => {
            runtime.spawn_blocking(|| keys.sort()).await.map_err(|error| RewriteError::Sort(error.to_string()))
        }
        // In tests that run on no runtime.
        Err(_) => Ok(keys.sort()),
    }
}

/// Writes the rows of all files in their order, range by range.
async fn pour_sorted(
    inputs: &[Input],
    schema: &FileSchema,
    permutation: &Permutation,
    output: &mut PartitionFiles<'_>,
) -> Result<(), RewriteError> {
    let failed = |error: arrow::error::ArrowError| RewriteError::Sort(error.to_string());
    for range in &permutation.ranges {
        let (mut gathered, mut before) = (Gathered::new(range), 0);
        for input in inputs {
            for batch in batches(input, schema)? {
                let batch = batch?;
                gathered.pick(&batch, permutation.ranks(before, batch.num_rows())).map_err(failed)?;
                before += batch.num_rows();
                tokio::task::yield_now().await;
            }
        }
        for batch in gathered.batches().map_err(failed)? {
            output.push(&batch.map_err(failed)?).await?;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Writes the rows of a file in the columns of `schema`, batch by batch, as `change` leaves them.
pub(super) async fn pour(
    input: Input,
    schema: &FileSchema,
    output: &mut PartitionFiles<'_>,
    change: impl Fn(RecordBatch) -> Result<RecordBatch, RewriteError>,
) -> Result<(), RewriteError> {
    for batch in batches(&input, schema)? {
        output.push(&change(batch?)?).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The rows of a file in the columns of `schema`, batch by batch.
fn batches<'a>(
    input: &'a Input,
    schema: &'a FileSchema,
) -> Result<impl Iterator<Item = Result<RecordBatch, RewriteError>> + 'a, RewriteError> {
    let parquet = |source| RewriteError::Parquet { path: input.path.clone(), source };
    let builder = ParquetRecordBatchReaderBuilder::try_new(input.body.clone()).map_err(parquet)?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted(&builder, schema));
    let rows = batch_rows(&input.metadata);
    let reader = builder.with_projection(mask).with_batch_size(rows).build().map_err(parquet)?;
    Ok(reader.map(|batch| {
        let batch = batch.map_err(|source| RewriteError::Arrow { path: input.path.clone(), source })?;
        let batch = project(&batch, &schema.arrow);
        batch.map_err(|source| RewriteError::Columns { path: input.path.clone(), source })
    }))
}

/// Reads a file and compares it with its manifest entry.
pub(super) async fn open(files: &TableFiles, path: &str, bytes: u64, rows: u64) -> Result<Input, RewriteError> {
    let body = files.read_range(path, 0..bytes).await;
    let body = body.map_err(|source| RewriteError::File { path: path.to_owned(), source })?;
    agree(path, "bytes", bytes, body.len() as u64)?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(body.clone());
    let builder = builder.map_err(|source| RewriteError::Parquet { path: path.to_owned(), source })?;
    let metadata = Arc::clone(builder.metadata());
    agree(path, "rows", rows, metadata.file_metadata().num_rows().unsigned_abs())?;
    let ids = builder.schema().fields().iter().filter_map(|field| id_of(field)).collect();
    Ok(Input { path: path.to_owned(), body, metadata, ids })
}

pub(super) fn agree(path: &str, what: &'static str, expected: u64, found: u64) -> Result<(), RewriteError> {
    if expected == found {
        return Ok(());
    }
    Err(RewriteError::Disagrees { path: path.to_owned(), what, expected, found })
}

/// The table's columns that any of the files has; the others are null in all rows, and a file may lack them.
pub(super) fn file_schema(table: &Schema, inputs: &[Input]) -> iceberg::Result<FileSchema> {
    let has = |id: i32| inputs.iter().any(|input| input.ids.contains(&id));
    let fields = table.as_struct().fields().iter().filter(|field| has(field.id)).cloned();
    FileSchema::new(&Arc::new(Schema::builder().with_fields(fields).build()?))
}

/// The places of the columns of a file that `schema` has.
fn wanted(builder: &ParquetRecordBatchReaderBuilder<Bytes>, schema: &FileSchema) -> Vec<usize> {
    let ids: BTreeSet<i32> = schema.arrow.fields().iter().filter_map(|field| id_of(field)).collect();
    let fields = builder.schema().fields().iter().enumerate();
    fields.filter(|(_, field)| id_of(field).is_some_and(|id| ids.contains(&id))).map(|(at, _)| at).collect()
}

/// Field ids of columns that some file has without a dictionary, because a value of it is large.
pub(super) fn plain_columns(inputs: &[Input]) -> BTreeSet<i32> {
    let groups = inputs.iter().flat_map(|input| input.metadata.row_groups());
    let chunks = groups.flat_map(|group| group.columns());
    let plain = chunks.filter(|chunk| {
        let is_large = usize::try_from(chunk.uncompressed_size()).is_ok_and(|size| size > DICTIONARY_VALUE_BYTES);
        chunk.dictionary_page_offset().is_none() && is_large
    });
    let info = plain.map(|chunk| chunk.column_descr().self_type().get_basic_info());
    info.filter(|info| info.has_id()).map(|info| info.id()).collect()
}

/// Rows of a batch of about [`BATCH_BYTES`]; at least one.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let (bytes, rows) = metadata.row_groups().iter().fold((0_u64, 0_u64), |(bytes, rows), group| {
        (bytes.saturating_add(group.total_byte_size().unsigned_abs()), rows + group.num_rows().unsigned_abs())
    });
    let each = (bytes / rows.max(1)).max(1);
    usize::try_from((BATCH_BYTES / each).clamp(1, BATCH_ROWS)).unwrap_or(1)
}
