//! In which order the rows of a group are written: [`Keys`] collects what they are sorted by, a [`Permutation`] says
//! where each goes, and [`Gathered`] picks the rows of a range out of the batches. Pure.
//!
//! Rows are sorted by the table's order, then by partition and offset. Nulls go where the order says; of floats the
//! least is -NaN and the greatest NaN, and -0 comes before 0 (Iceberg specification, "Sort Orders"): Arrow's row
//! format, whose bytes are compared, has that order.
//!
//! **Memory**: while keys are collected these and 16 bytes a row, [`SortLimits::key_bytes`] in all; then 4 bytes a row,
//! and the rows of one range, [`SortLimits::range_bytes`] unpacked. Sizes are those that rows have in memory, not
//! what a footer says: a dictionary may have a value once that all of them have.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{SortOptions, concat_batches, interleave_record_batch, take_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use iceberg::spec::Transform;
use iceberg::transform::create_transform_function;

use super::project::column_of;
use crate::sort::{OrderField, TableOrder};

/// Bytes of bookkeeping for a row while keys are collected.
const KEY_ROW_BYTES: usize = 16;
/// The same for a row that is gathered.
const GATHERED_ROW_BYTES: u32 = 32;
/// Batches of picked rows that are joined into one: many small ones would cost more than their rows.
const JOINED: usize = 16;

/// How much may be in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct SortLimits {
    /// Bytes of all keys, those of their bookkeeping included. They are gone before a file is opened, whose writer
    /// holds more.
    pub(super) key_bytes: usize,
    /// Bytes of the rows that are gathered at once, unless it is one row.
    pub(super) range_bytes: u64,
    /// How often the rows may be read for that.
    pub(super) ranges: usize,
    /// Bytes and rows of a batch that is written, unless it is one row.
    pub(super) slice_bytes: u64,
    pub(super) slice_rows: usize,
}

impl Default for SortLimits {
    fn default() -> Self {
        Self { key_bytes: 256 << 20, range_bytes: 128 << 20, ranges: 16, slice_bytes: 4 << 20, slice_rows: 8192 }
    }
}

/// Why rows are not sorted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsorted {
    #[error("the columns that rows are sorted by have more than {0} bytes")]
    Keys(usize),
    #[error("the rows have more than {0} ranges of {1} bytes unpacked")]
    Ranges(usize, u64),
    #[error("the columns that rows are sorted by cannot be compared: {0}")]
    Column(String),
}

/// What the rows of a group are sorted by, in the order in which they are read.
pub(super) struct Keys<'a> {
    order: &'a TableOrder,
    /// Field ids of partition and offset.
    place: [i32; 2],
    converter: Option<RowConverter>,
    collected: Collected,
}

/// Keys that can be compared by their bytes, and the rows' sizes.
pub(super) struct Collected {
    limits: SortLimits,
    bytes: Vec<u8>,
    /// Where the key of each row ends.
    ends: Vec<u32>,
    /// Bytes of each row unpacked.
    sizes: Vec<u32>,
}

/// Where each row goes.
pub(super) struct Permutation {
    /// Of each row in the order in which it is read, where it goes.
    ranks: Vec<u32>,
    pub(super) ranges: Vec<RankRange>,
}

/// Rows that are gathered at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RankRange {
    /// Of each batch that is written.
    pub(super) slices: Vec<Range<u32>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(order: &'a TableOrder, place: [i32; 2], limits: SortLimits) -> Self {
        let collected = Collected { limits, bytes: Vec::new(), ends: Vec::new(), sizes: Vec::new() };
        Self { order, place, converter: None, collected }
    }

    /// Notes the keys and sizes of the rows of `batch`.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<(), Unsorted> {
        let mut columns = Vec::with_capacity(self.order.fields.len() + 2);
        for field in &self.order.fields {
            columns.extend(key_column(batch, field)?.map(|column| (column, field.options)));
        }
        let place = self.place.iter().filter_map(|id| column_of(batch, *id));
        columns.extend(place.map(|column| (column, SortOptions::default())));
        // Before they are copied: one value may be as large as a record.
        let mut sizes = vec![0; batch.num_rows()];
        columns.iter().for_each(|(column, _)| add_bytes(column, &mut sizes));
        self.collected.admit(usize::try_from(sizes.iter().sum::<u64>()).unwrap_or(usize::MAX))?;
        let failed = |error: ArrowError| Unsorted::Column(error.to_string());
        let converter = match &mut self.converter {
            Some(converter) => converter,
            held @ None => {
                let field = |(column, options): &(ArrayRef, SortOptions)| {
                    SortField::new_with_options(column.data_type().clone(), *options)
                };
                held.insert(RowConverter::new(columns.iter().map(field).collect()).map_err(failed)?)
            }
        };
        let columns: Vec<_> = columns.into_iter().map(|(column, _)| column).collect();
        let rows = converter.convert_columns(&columns).map_err(failed)?;
        self.collected.add(rows.iter().map(|row| row.data()), batch)
    }

    pub(super) fn finish(self) -> Collected {
        self.collected
    }
}

/// The column that a field of the order is over, transformed; `None` if no row of the group has a value there.
fn key_column(batch: &RecordBatch, field: &OrderField) -> Result<Option<ArrayRef>, Unsorted> {
    let Some(column) = column_of(batch, field.source) else { return Ok(None) };
    let failed = |error: iceberg::Error| Unsorted::Column(error.to_string());
    match field.transform {
        Transform::Identity => Ok(Some(column)),
        Transform::Void => Ok(None),
        other => create_transform_function(&other).and_then(|it| it.transform(column)).map_err(failed).map(Some),
    }
}

impl Collected {
    /// Checks that there is room for keys of so many bytes.
    fn admit(&self, more: usize) -> Result<(), Unsorted> {
        let held = self.bytes.len().saturating_add(self.ends.len().saturating_mul(KEY_ROW_BYTES));
        let fits = held.saturating_add(more) <= self.limits.key_bytes;
        if fits { Ok(()) } else { Err(Unsorted::Keys(self.limits.key_bytes)) }
    }

    fn add<'k>(&mut self, keys: impl Iterator<Item = &'k [u8]>, batch: &RecordBatch) -> Result<(), Unsorted> {
        for key in keys {
            self.admit(key.len().saturating_add(KEY_ROW_BYTES))?;
            self.bytes.extend_from_slice(key);
            self.ends.push(u32::try_from(self.bytes.len()).map_err(|_| Unsorted::Keys(self.limits.key_bytes))?);
        }
        let mut sizes = vec![0; batch.num_rows()];
        batch.columns().iter().for_each(|column| add_bytes(column, &mut sizes));
        let size = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(GATHERED_ROW_BYTES);
        self.sizes.extend(sizes.into_iter().map(size));
        assert_eq!(self.sizes.len(), self.ends.len(), "each row has a key");
        Ok(())
    }

    fn key(&self, row: u32) -> &[u8] {
        let at = row as usize;
        let end = |at: usize| *self.ends.get(at).expect("each row has a key") as usize;
        let from = at.checked_sub(1).map_or(0, end);
        self.bytes.get(from..end(at)).expect("keys lie one behind the other")
    }

    /// Sorts. Rows with the same key, of which there are none where each has an offset, keep their order.
    pub(super) fn sort(self) -> Result<Permutation, Unsorted> {
        let rows = u32::try_from(self.ends.len()).map_err(|_| Unsorted::Keys(self.limits.key_bytes))?;
        let mut sorted: Vec<u32> = (0..rows).collect();
        sorted.sort_unstable_by(|a, b| self.key(*a).cmp(self.key(*b)).then(a.cmp(b)));
        let mut ranks = vec![0; sorted.len()];
        for (rank, row) in (0..).zip(&sorted) {
            *ranks.get_mut(*row as usize).expect("each row has a rank") = rank;
        }
        let sizes = sorted.iter().map(|row| *self.sizes.get(*row as usize).expect("each row has a size"));
        let ranges = cut(&self.limits, sizes);
        if ranges.len() > self.limits.ranges {
            return Err(Unsorted::Ranges(self.limits.ranges, self.limits.range_bytes));
        }
        Ok(Permutation { ranks, ranges })
    }
}

/// Ranges and slices of rows with these sizes.
fn cut(limits: &SortLimits, sizes: impl Iterator<Item = u32>) -> Vec<RankRange> {
    let mut ranges: Vec<RankRange> = Vec::new();
    let (mut range_bytes, mut slice_bytes) = (0_u64, 0_u64);
    for (rank, size) in (0_u32..).zip(sizes) {
        let size = u64::from(size);
        let has_room = !ranges.is_empty() && range_bytes.saturating_add(size) <= limits.range_bytes;
        if !has_room {
            ranges.push(RankRange::default());
            range_bytes = 0;
        }
        range_bytes = range_bytes.saturating_add(size);
        let Some(range) = ranges.last_mut() else { unreachable!("one was added") };
        slice_bytes = slice_bytes.saturating_add(size);
        match range.slices.last_mut() {
            Some(slice) if slice_bytes <= limits.slice_bytes && slice.len() < limits.slice_rows => slice.end = rank + 1,
            _ => {
                range.slices.push(rank..rank + 1);
                slice_bytes = size;
            }
        }
    }
    ranges
}

impl RankRange {
    fn ranks(&self) -> Range<u32> {
        let bound = |slice: Option<&Range<u32>>, of: fn(&Range<u32>) -> u32| slice.map_or(0, of);
        bound(self.slices.first(), |slice| slice.start)..bound(self.slices.last(), |slice| slice.end)
    }
}

impl Permutation {
    /// Where the `rows` rows go that are read after `before` others.
    pub(super) fn ranks(&self, before: usize, rows: usize) -> &[u32] {
        self.ranks.get(before..before + rows).expect("a group has the rows whose keys were read")
    }
}

/// The rows of one range, picked out of all.
pub(super) struct Gathered<'a> {
    range: &'a RankRange,
    ranks: Range<u32>,
    chunks: Vec<RecordBatch>,
    /// Batch and row of each rank.
    places: Vec<(usize, usize)>,
    /// Batches that are not joined yet, and the ranks of their rows.
    picked: Vec<RecordBatch>,
    picked_ranks: Vec<u32>,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(range: &'a RankRange) -> Self {
        let ranks = range.ranks();
        let places = vec![(usize::MAX, 0); ranks.len()];
        Self { range, ranks, chunks: Vec::new(), places, picked: Vec::new(), picked_ranks: Vec::new() }
    }

    /// Picks the rows of `batch` that are in the range; `ranks` says where each of its rows goes.
    pub(super) fn pick(&mut self, batch: &RecordBatch, ranks: &[u32]) -> Result<(), ArrowError> {
        assert_eq!(batch.num_rows(), ranks.len(), "each row has a rank");
        let rows: UInt32Array =
            (0..).zip(ranks).filter(|(_, rank)| self.ranks.contains(rank)).map(|(row, _): (u32, _)| row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        // Copies: the batch itself goes.
        self.picked.push(take_record_batch(batch, &rows)?);
        self.picked_ranks.extend(ranks.iter().filter(|rank| self.ranks.contains(rank)));
        if self.picked.len() >= JOINED { self.join() } else { Ok(()) }
    }

    fn join(&mut self) -> Result<(), ArrowError> {
        let Some(first) = self.picked.first() else { return Ok(()) };
        let chunk = concat_batches(&first.schema(), &self.picked)?;
        for (row, rank) in self.picked_ranks.drain(..).enumerate() {
            let place = self.places.get_mut((rank - self.ranks.start) as usize);
            *place.expect("a picked row is of the range") = (self.chunks.len(), row);
        }
        self.picked.clear();
        self.chunks.push(chunk);
        Ok(())
    }

    /// The rows in their order, batch by batch.
    pub(super) fn batches(&mut self) -> Result<impl Iterator<Item = Result<RecordBatch, ArrowError>> + '_, ArrowError> {
        self.join()?;
        assert!(self.places.iter().all(|(chunk, _)| *chunk < self.chunks.len()), "each row of the range was read");
        let (gathered, chunks) = (&*self, self.chunks.iter().collect::<Vec<_>>());
        Ok(gathered.range.slices.iter().map(move |slice| {
            let at = |rank: u32| (rank - gathered.ranks.start) as usize;
            let places = gathered.places.get(at(slice.start)..at(slice.end));
            let places = places.expect("the slices of a range lie in it");
            interleave_record_batch(&chunks, places)
        }))
    }
}

/// Adds to each row's bytes those that it has in `array`, unpacked.
fn add_bytes(array: &ArrayRef, out: &mut [u64]) {
    let each = |out: &mut [u64], bytes: u64| out.iter_mut().for_each(|held| *held += bytes);
    let spans = |out: &mut [u64], lengths: &mut dyn Iterator<Item = u64>, offset: u64| {
        out.iter_mut().zip(lengths).for_each(|(held, bytes)| *held += bytes + offset);
    };
    match array.data_type() {
        DataType::Utf8 => {
            let offsets = array.as_string::<i32>().value_offsets().windows(2);
            spans(out, &mut offsets.map(|pair| pair[1].abs_diff(pair[0]).into()), 4);
        }
        DataType::LargeBinary => {
            let offsets = array.as_binary::<i64>().value_offsets().windows(2);
            spans(out, &mut offsets.map(|pair| pair[1].abs_diff(pair[0])), 8);
        }
        DataType::Struct(_) => array.as_struct().columns().iter().for_each(|column| add_bytes(column, out)),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            spans(out, &mut sums(list.values(), list.value_offsets()).into_iter(), 4);
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            spans(out, &mut sums(&entries, map.value_offsets()).into_iter(), 4);
        }
        DataType::FixedSizeBinary(size) => each(out, size.unsigned_abs().into()),
        kind => each(out, kind.primitive_width().unwrap_or(1) as u64),
    }
}

/// Bytes of the items between neighbouring offsets.
fn sums(items: &ArrayRef, offsets: &[i32]) -> Vec<u64> {
    let mut bytes = vec![0; items.len()];
    add_bytes(items, &mut bytes);
    let index = |at: i32| at.unsigned_abs() as usize;
    let span = |pair: &[i32]| bytes.get(index(pair[0])..index(pair[1])).map_or(0, |items| items.iter().sum());
    offsets.windows(2).map(span).collect()
}

#[cfg(test)]
mod tests;
