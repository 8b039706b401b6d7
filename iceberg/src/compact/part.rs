//! [`FilePart`]: a data file of which some rows are to leave the table.
//!
//! **Memory**: as `rewrite`, of one file.

use std::collections::BTreeSet;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int32Type, Int64Type};
use futures::TryStreamExt;
use iceberg::spec::{DataFile, TableMetadata};
use parquet::arrow::ProjectionMask;
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use tidewater_storage::model::PartitionIndex;

use super::project::{ProjectError, column_of};
use super::ranges::FileRanges;
use super::rewrite::{Input, RewriteError, agree, file_schema, open, plain_columns, pour};
use crate::files::TableFiles;
use crate::partition::PartitionKey;
use crate::plan::Offsets;
use crate::schema::ids;
use crate::schema::system::SystemColumns;
use crate::write::{DataFileWriter, FileOrder};

/// See the header.
pub(crate) struct FilePart<'a> {
    pub(crate) files: &'a TableFiles,
    pub(crate) table: &'a TableMetadata,
    pub(crate) file: &'a DataFile,
}

impl FilePart<'_> {
    async fn open(&self) -> Result<Input, RewriteError> {
        let (path, bytes, rows) = (self.file.file_path(), self.file.file_size_in_bytes(), self.file.record_count());
        open(self.files, path, bytes, rows).await
    }

    /// How many rows are at or above `to` of their partition. Of the file, which may be an engine's and large, the
    /// columns of partition and offset are read, and nothing if it has none.
    pub(crate) async fn rows_from(&self, to: &Offsets) -> Result<u64, RewriteError> {
        let (path, bytes) = (self.file.file_path().to_owned(), self.file.file_size_in_bytes());
        let parquet = |source| FileRanges::failed(&path, source);
        let ranges = FileRanges { files: self.files.clone(), path: path.clone(), bytes };
        let builder = ParquetRecordBatchStreamBuilder::new(ranges).await.map_err(parquet)?;
        let rows = builder.metadata().file_metadata().num_rows().unsigned_abs();
        agree(&path, "rows", self.file.record_count(), rows)?;
        let wanted = [ids::PARTITION, ids::OFFSET].map(|id| SystemColumns::of(self.table).id(id));
        let is_place = |info: &parquet::schema::types::BasicTypeInfo| info.has_id() && wanted.contains(&info.id());
        let columns = builder.parquet_schema().columns().iter().enumerate();
        let places = columns.filter(|(_, column)| is_place(column.self_type().get_basic_info())).map(|(at, _)| at);
        let places: Vec<usize> = places.collect();
        // Of before the table was adopted, or of an engine: its rows are no records of the topic's.
        if places.is_empty() {
            return Ok(0);
        }
        let mask = ProjectionMask::leaves(builder.parquet_schema(), places);
        let mut leave = 0;
        let mut batches = builder.with_projection(mask).build().map_err(parquet)?;
        while let Some(batch) = batches.try_next().await.map_err(parquet)? {
            leave += (batch.num_rows() - self.stays(&batch, to)?.true_count()) as u64;
            tokio::task::yield_now().await;
        }
        Ok(leave)
    }

    /// Writes the rows below `to` of their partition again, in the columns that the table has now.
    pub(crate) async fn write_below(
        &self,
        to: &Offsets,
        writer: &DataFileWriter,
        key: PartitionKey,
    ) -> Result<Vec<DataFile>, RewriteError> {
        let inputs = [self.open().await?];
        let schema = file_schema(self.table.current_schema(), &inputs).map_err(RewriteError::Schema)?;
        let plain = plain_columns(&inputs);
        let is_plain = schema.leaves.iter().map(|leaf| plain.contains(&leaf.id));
        // The rows that stay keep their order. Pages have no statistics of it: the file is rarely the last one.
        let order = self.file.sort_order_id().map(|id| FileOrder { id, columns: BTreeSet::new() });
        let mut output = writer.partition_files(&schema, key, is_plain, order);
        let [input] = inputs;
        let path = input.path.clone();
        pour(input, &schema, &mut output, |batch| {
            let stays = self.stays(&batch, to)?;
            filter_record_batch(&batch, &stays).map_err(|source| RewriteError::Arrow { path: path.clone(), source })
        })
        .await?;
        Ok(output.finish().await?)
    }

    /// Which rows of a batch stay.
    fn stays(&self, batch: &RecordBatch, to: &Offsets) -> Result<BooleanArray, RewriteError> {
        let missing = |column: &str| RewriteError::Columns {
            path: self.file.file_path().to_owned(),
            source: ProjectError::Missing(column.to_owned()),
        };
        let system = SystemColumns::of(self.table);
        let [partitions, offsets] = [ids::PARTITION, ids::OFFSET].map(|id| column_of(batch, system.id(id)));
        let partitions = partitions.as_ref().and_then(|it| it.as_primitive_opt::<Int32Type>());
        let offsets = offsets.as_ref().and_then(|it| it.as_primitive_opt::<Int64Type>());
        let partitions = partitions.ok_or_else(|| missing("tidewater.partition"))?;
        let offsets = offsets.ok_or_else(|| missing("tidewater.offset"))?;
        // Rows without a partition and an offset are no records of the topic's: an engine added them.
        let stays = partitions.iter().zip(offsets.iter()).map(|place| match place {
            (Some(partition), Some(offset)) => to
                .get(&PartitionIndex(partition))
                .is_none_or(|to| u64::try_from(offset).is_ok_and(|offset| offset < to.get())),
            _ => true,
        });
        Ok(stays.map(Some).collect())
    }
}
