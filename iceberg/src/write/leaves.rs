//! Columns whose values have a size that clients choose: how many bytes rows have in them, their largest values, their
//! bounds and null counts. Pure.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

use crate::bounds;
use crate::schema::file::{FileSchema, Leaf};

/// The columns of a batch as Parquet counts them.
pub(super) struct ClientLeaves<'a> {
    schema: &'a FileSchema,
    /// One for each leaf of the schema; those inside lists and maps as they are, the others with a value for each row.
    arrays: Vec<ArrayRef>,
}

/// What the manifest says of a client-sized column.
pub(super) struct Described {
    pub(super) id: i32,
    pub(super) nulls: u64,
    pub(super) lower: Option<iceberg::spec::Datum>,
    pub(super) upper: Option<iceberg::spec::Datum>,
}

impl<'a> ClientLeaves<'a> {
    pub(super) fn of(schema: &'a FileSchema, batch: &RecordBatch) -> Result<Self, ArrowError> {
        let mut arrays = Vec::with_capacity(schema.leaves.len());
        batch.columns().iter().for_each(|column| collect(column, &mut arrays));
        if arrays.len() != schema.leaves.len() {
            let detail = format!("{} columns, {} in the schema of the file", arrays.len(), schema.leaves.len());
            return Err(ArrowError::SchemaError(detail));
        }
        Ok(Self { schema, arrays })
    }

    /// The largest value of each leaf in bytes; 0 where all have one size.
    pub(super) fn largest(&self) -> impl Iterator<Item = usize> {
        self.arrays.iter().map(|array| match array.data_type() {
            DataType::Utf8 => longest(array.as_string::<i32>().value_offsets(), |n| n.unsigned_abs() as usize),
            DataType::LargeBinary => longest(array.as_binary::<i64>().value_offsets(), |n| n.unsigned_abs() as usize),
            DataType::FixedSizeBinary(size) => size.unsigned_abs() as usize,
            _ => 0,
        })
    }

    /// Null counts and bounds of client-sized columns in `rows` rows from `first` on. Of the value itself there are no
    /// bounds, and of what is inside lists and maps there is nothing.
    pub(super) fn describe(&self, first: usize, rows: usize) -> impl Iterator<Item = Described> {
        let leaves = self.schema.leaves.iter().zip(&self.arrays);
        let ours = leaves.filter(|(leaf, _)| leaf.is_client_sized() && !leaf.repeated);
        ours.map(move |(leaf, array)| describe(leaf, &array.slice(first, rows)))
    }
}

fn describe(leaf: &Leaf, array: &ArrayRef) -> Described {
    let (lower, upper) = match array.data_type() {
        _ if leaf.is_value() => (None, None),
        DataType::Utf8 => bounds::of_text(array.as_string::<i32>().iter().flatten()),
        DataType::LargeBinary => bounds::of_binary(array.as_binary::<i64>().iter().flatten()),
        _ => (None, None),
    };
    Described { id: leaf.id, nulls: array.null_count() as u64, lower, upper }
}

fn longest<T: Copy + std::ops::Sub<Output = T>>(offsets: &[T], bytes: impl Fn(T) -> usize) -> usize {
    offsets.windows(2).map(|pair| bytes(pair[1] - pair[0])).max().unwrap_or(0)
}

/// Leaves in the order of Parquet: depth first.
fn collect(array: &ArrayRef, out: &mut Vec<ArrayRef>) {
    match array.data_type() {
        DataType::Struct(_) => array.as_struct().columns().iter().for_each(|column| collect(column, out)),
        DataType::List(_) => collect(array.as_list::<i32>().values(), out),
        DataType::Map(..) => {
            let map = array.as_map();
            collect(map.keys(), out);
            collect(map.values(), out);
        }
        _ => out.push(Arc::clone(array)),
    }
}

/// Bytes of `rows` rows from `from` on: of the system columns, which come first, what clients choose, else all.
pub(super) fn bytes(batch: &RecordBatch, from: usize, rows: usize) -> usize {
    let columns = batch.columns().iter().enumerate();
    columns.map(|(at, column)| array_bytes(column, from, from + rows, at > 0)).sum()
}

/// `all`: those of values of one size too.
fn array_bytes(array: &dyn Array, from: usize, to: usize, all: bool) -> usize {
    let span = |from: i32, to: i32| (from.unsigned_abs() as usize, to.unsigned_abs() as usize);
    match array.data_type() {
        DataType::Utf8 => {
            let offsets = array.as_string::<i32>().value_offsets();
            (offsets[to] - offsets[from]).unsigned_abs() as usize
        }
        DataType::LargeBinary => {
            let offsets = array.as_binary::<i64>().value_offsets();
            (offsets[to] - offsets[from]).unsigned_abs() as usize
        }
        DataType::Struct(_) => {
            array.as_struct().columns().iter().map(|column| array_bytes(column, from, to, all)).sum()
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (from, to) = span(list.value_offsets()[from], list.value_offsets()[to]);
            array_bytes(list.values(), from, to, all)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (from, to) = span(map.value_offsets()[from], map.value_offsets()[to]);
            array_bytes(map.keys(), from, to, all) + array_bytes(map.values(), from, to, all)
        }
        DataType::FixedSizeBinary(size) if all => (to - from) * size.unsigned_abs() as usize,
        kind if all => (to - from) * kind.primitive_width().unwrap_or(1),
        _ => 0,
    }
}
