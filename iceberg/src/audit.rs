//! Reads a key-value table back, row by row, from nothing but what the catalog's pointer reaches: to prove what it
//! holds.
//!
//! Owns: the way from pointer to rows, and the errors for what is missing or does not agree on it. Does not own: what
//! the rows should be; the caller compares. For the demo and checks, not for queries: whole data files are held in
//! memory, one at a time. Tables that engines have rewritten are read too, if they have no delete files.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use iceberg::TableIdent;
use iceberg::spec::{DataContentType, ManifestList};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::catalog::{Catalog, CatalogError};
use crate::files::FileError;
use crate::schema::system::{PREFIX, STRUCT};

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    pub partition: i32,
    pub offset: i64,
    /// Microseconds since 1970; `None` for a record without a timestamp.
    pub timestamp_us: Option<i64>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// What was read. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    /// The snapshot; `None` for a table without one.
    pub snapshot: Option<i64>,
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
}

/// Why a table cannot be read through.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A file is gone or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A manifest or manifest list cannot be read.
    #[error(transparent)]
    Iceberg(#[from] iceberg::Error),
    /// A data file cannot be read.
    #[error("data file {path}: {source}")]
    Parquet { path: String, source: parquet::errors::ParquetError },
    /// Rows that cannot be read.
    #[error("data file {path}: {source}")]
    Arrow { path: String, source: arrow::error::ArrowError },
    /// A data file is not what its manifest entry says.
    #[error("data file {path} has {found} {what}, its manifest says {expected}")]
    Disagrees { path: String, what: &'static str, expected: u64, found: u64 },
    /// Not a key-value table's columns.
    #[error("data file {path} lacks the column {column} in the form a key-value table has")]
    Column { path: String, column: &'static str },
    /// Rows were deleted by another engine.
    #[error("table {0} has delete files, written by another engine: its data files alone do not say which rows it has")]
    Deletes(TableIdent),
}

/// Gives every row of the table's current snapshot to `visit`, in no particular order.
///
/// # Errors
/// The first thing that is missing or does not add up; rows before it were visited.
pub async fn read(
    catalog: &dyn Catalog,
    table: &TableIdent,
    mut visit: impl FnMut(Row<'_>),
) -> Result<Audited, AuditError> {
    let (loaded, files) = (catalog.load(table).await?, catalog.files());
    let Some(snapshot) = loaded.metadata.current_snapshot() else { return Ok(Audited::default()) };
    let mut audited = Audited { snapshot: Some(snapshot.snapshot_id()), ..Audited::default() };
    let list = files.read(snapshot.manifest_list()).await?;
    let list = ManifestList::parse_with_version(&list, loaded.metadata.format_version())?;
    for manifest in list.entries() {
        let manifest = manifest.load_manifest(&files.io()).await?;
        for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
            if entry.content_type() != DataContentType::Data {
                return Err(AuditError::Deletes(table.clone()));
            }
            let path = entry.file_path();
            let body = files.read(path).await?;
            agree(path, "bytes", entry.file_size_in_bytes(), body.len() as u64)?;
            audited.bytes += body.len() as u64;
            let rows = read_file(path, body, &mut visit)?;
            agree(path, "rows", entry.record_count(), rows)?;
            audited.files += 1;
            audited.rows += rows;
        }
    }
    Ok(audited)
}

fn agree(path: &str, what: &'static str, expected: u64, found: u64) -> Result<(), AuditError> {
    if expected == found {
        return Ok(());
    }
    Err(AuditError::Disagrees { path: path.to_owned(), what, expected, found })
}

fn read_file(path: &str, body: Bytes, visit: &mut impl FnMut(Row<'_>)) -> Result<u64, AuditError> {
    let bad = |source| AuditError::Parquet { path: path.to_owned(), source };
    let reader = ParquetRecordBatchReaderBuilder::try_new(body).and_then(|builder| builder.build()).map_err(bad)?;
    let mut rows = 0;
    for batch in reader {
        let batch = batch.map_err(|source| AuditError::Arrow { path: path.to_owned(), source })?;
        read_batch(&batch, visit).map_err(|column| AuditError::Column { path: path.to_owned(), column })?;
        rows += batch.num_rows() as u64;
    }
    Ok(rows)
}

/// Error: the column that is not there.
fn read_batch(batch: &RecordBatch, visit: &mut impl FnMut(Row<'_>)) -> Result<(), &'static str> {
    let inside = batch.column_by_name(STRUCT).and_then(|c| c.as_struct_opt());
    let field = |name: &'static str| match inside {
        Some(system) => system.column_by_name(name).ok_or(name),
        None => batch.column_by_name(&format!("{PREFIX}{name}")).ok_or(name),
    };
    let partitions = field("partition")?.as_primitive_opt::<Int32Type>().ok_or("partition")?;
    let offsets = field("offset")?.as_primitive_opt::<Int64Type>().ok_or("offset")?;
    let times = field("timestamp")?.as_primitive_opt::<TimestampMicrosecondType>().ok_or("timestamp")?;
    let keys = Blobs::of(field("key")?).ok_or("key")?;
    let values = batch.column_by_name("value").and_then(Blobs::of).ok_or("value")?;
    for at in 0..batch.num_rows() {
        visit(Row {
            partition: partitions.value(at),
            offset: offsets.value(at),
            timestamp_us: times.is_valid(at).then(|| times.value(at)),
            key: keys.at(at),
            value: values.at(at),
        });
    }
    Ok(())
}

/// Binary, as we write it (64-bit offsets) or as other engines do.
enum Blobs<'a> {
    Large(&'a arrow::array::LargeBinaryArray),
    Small(&'a arrow::array::BinaryArray),
}

impl<'a> Blobs<'a> {
    fn of(column: &'a std::sync::Arc<dyn Array>) -> Option<Self> {
        let large = column.as_binary_opt::<i64>().map(Self::Large);
        large.or_else(|| column.as_binary_opt::<i32>().map(Self::Small))
    }

    fn at(&self, at: usize) -> Option<&'a [u8]> {
        match self {
            Self::Large(array) => array.is_valid(at).then(|| array.value(at)),
            Self::Small(array) => array.is_valid(at).then(|| array.value(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidewater_storage::model::TimestampMs;

    use super::*;
    use crate::fixture::{World, value_of};

    #[test]
    fn a_table_is_read_as_it_was_written() {
        futures::executor::block_on(written_and_read());
    }

    async fn written_and_read() {
        let mut world = World::new(1);
        world.log.append(0, 30, TimestampMs(1_760_000_000_000));
        world.log.append(1, 20, TimestampMs(1_760_000_000_000));
        let mut sink = world.sink(1);
        while !matches!(sink.run_once(TimestampMs(1_760_000_001_000)).await, crate::sink::Outcome::Idle) {}
        let (catalog, table, mut seen) = (world.catalog(), world.table(), BTreeMap::new());
        let audited = read(&*catalog, &table, |row| {
            let value = row.value.map(|value| String::from_utf8_lossy(value).into_owned());
            assert!(seen.insert((row.partition, row.offset), value).is_none(), "each offset once");
        });
        assert_eq!(audited.await.expect("reads").rows, 50);
        assert_eq!(seen.len(), 50);
        assert_eq!(seen.get(&(1, 19)), Some(&Some(value_of(1, 19))));
    }
}
