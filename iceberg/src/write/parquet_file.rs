//! [`ParquetFile`]: one Parquet file, and what its footer says of it as Iceberg has it.
//!
//! iceberg's own writer takes the Arrow schema from the Iceberg schema, in which a UUID is sixteen bytes without the
//! annotation that engines look for; so the Parquet writer is called here. Statistics are those of column chunks;
//! columns without any get no bounds.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Fields, Float32Type, Float64Type};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::ErrorKind;
use iceberg::io::{FileWrite, OutputFile};
use iceberg::spec::{DataFileBuilder, DataFileFormat, Datum, PrimitiveType};
use parquet::arrow::AsyncArrowWriter;
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;

use crate::schema::file::{FileSchema, Leaf};

/// A file being written.
pub(super) struct ParquetFile<'a> {
    schema: &'a FileSchema,
    writer: AsyncArrowWriter<Body>,
    nans: HashMap<i32, u64>,
}

struct Body(Box<dyn FileWrite>);

impl AsyncFileWriter for Body {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async { self.0.write(bytes).await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, parquet::errors::Result<()>> {
        async { self.0.close().await.map_err(|e| ParquetError::External(Box::new(e))) }.boxed()
    }
}

fn failed(error: ParquetError) -> iceberg::Error {
    iceberg::Error::new(ErrorKind::Unexpected, "Parquet file could not be written").with_source(error)
}

impl<'a> ParquetFile<'a> {
    pub(super) async fn create(
        output: OutputFile,
        schema: &'a FileSchema,
        properties: WriterProperties,
    ) -> iceberg::Result<Self> {
        let body = Body(output.writer().await?);
        let writer = AsyncArrowWriter::try_new(body, schema.arrow.clone(), Some(properties)).map_err(failed)?;
        Ok(Self { schema, writer, nans: HashMap::new() })
    }

    pub(super) async fn write(&mut self, batch: &RecordBatch) -> iceberg::Result<()> {
        count_nans(self.schema.arrow.fields(), batch.columns(), &mut self.nans);
        self.writer.write(batch).await.map_err(failed)
    }

    /// Bytes so far: those written, and about those that are not yet.
    pub(super) fn written_bytes(&self) -> usize {
        self.writer.bytes_written() + self.writer.in_progress_size()
    }

    /// Ends the file. What is returned lacks its path, content and partition.
    pub(super) async fn finish(mut self) -> iceberg::Result<DataFileBuilder> {
        let metadata = self.writer.finish().await.map_err(failed)?;
        let mut described = describe(self.schema, &metadata)?;
        described.file_size_in_bytes(self.writer.bytes_written() as u64).nan_value_counts(self.nans);
        Ok(described)
    }
}

/// NaNs of float columns outside of lists and maps, by field id.
fn count_nans(fields: &Fields, columns: &[ArrayRef], nans: &mut HashMap<i32, u64>) {
    for (field, column) in fields.iter().zip(columns) {
        let found = match column.data_type() {
            DataType::Struct(inner) => {
                count_nans(inner, column.as_struct().columns(), nans);
                continue;
            }
            DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().filter(|x| x.is_nan()).count(),
            DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().filter(|x| x.is_nan()).count(),
            _ => continue,
        };
        let id = field.metadata().get(parquet::arrow::PARQUET_FIELD_ID_META_KEY);
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            *nans.entry(id).or_default() += found as u64;
        }
    }
}

fn describe(schema: &FileSchema, metadata: &ParquetMetaData) -> iceberg::Result<DataFileBuilder> {
    let (mut sizes, mut values, mut nulls) = (HashMap::new(), HashMap::new(), HashMap::new());
    let (mut lower, mut upper): (HashMap<i32, Option<Datum>>, HashMap<i32, Option<Datum>>) = Default::default();
    for group in metadata.row_groups() {
        assert_eq!(group.columns().len(), schema.leaves.len(), "a file has the columns of its schema");
        for (leaf, chunk) in schema.leaves.iter().zip(group.columns()) {
            *sizes.entry(leaf.id).or_insert(0) += chunk.compressed_size().unsigned_abs();
            *values.entry(leaf.id).or_insert(0) += chunk.num_values().unsigned_abs();
            let Some(statistics) = chunk.statistics() else { continue };
            if let Some(count) = statistics.null_count_opt() {
                *nulls.entry(leaf.id).or_insert(0) += count;
            }
            let (least, greatest) = extremes(leaf, statistics)?;
            widen(lower.entry(leaf.id).or_insert(None), least, |held, new| new < held);
            widen(upper.entry(leaf.id).or_insert(None), greatest, |held, new| new > held);
        }
    }
    let offsets = metadata.row_groups().iter().filter_map(parquet::file::metadata::RowGroupMetaData::file_offset);
    let mut builder = DataFileBuilder::default();
    builder
        .file_format(DataFileFormat::Parquet)
        .record_count(metadata.file_metadata().num_rows().unsigned_abs())
        .column_sizes(sizes)
        .value_counts(values)
        .null_value_counts(nulls)
        .lower_bounds(known(lower))
        .upper_bounds(known(upper))
        .split_offsets(Some(offsets.collect()));
    Ok(builder)
}

fn known(bounds: HashMap<i32, Option<Datum>>) -> HashMap<i32, Datum> {
    bounds.into_iter().filter_map(|(id, bound)| Some((id, bound?))).collect()
}

/// Replaces `held` by `new` if that is wider.
pub(super) fn widen(held: &mut Option<Datum>, new: Option<Datum>, wider: impl Fn(&Datum, &Datum) -> bool) {
    let Some(new) = new else { return };
    if held.as_ref().is_none_or(|held| wider(held, &new)) {
        *held = Some(new);
    }
}

/// Least and greatest value of a chunk; `None` where it has no values.
fn extremes(leaf: &Leaf, statistics: &Statistics) -> iceberg::Result<(Option<Datum>, Option<Datum>)> {
    let datum = |bytes: Option<Vec<u8>>| bytes.map(|b| Datum::try_from_bytes(&b, leaf.kind.clone())).transpose();
    let is_decimal = matches!(leaf.kind, PrimitiveType::Decimal { .. });
    let (least, greatest) = match statistics {
        // Parquet keeps small decimals as integers; in Iceberg all have the most significant byte first.
        Statistics::Int32(found) if is_decimal => {
            let bytes = |value: &i32| value.to_be_bytes().to_vec();
            (found.min_opt().map(bytes), found.max_opt().map(bytes))
        }
        Statistics::Int64(found) if is_decimal => {
            let bytes = |value: &i64| value.to_be_bytes().to_vec();
            (found.min_opt().map(bytes), found.max_opt().map(bytes))
        }
        // All others are written alike in both.
        found => (found.min_bytes_opt().map(<[u8]>::to_vec), found.max_bytes_opt().map(<[u8]>::to_vec)),
    };
    Ok((datum(least)?, datum(greatest)?))
}
