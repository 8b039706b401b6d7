//! [`MixedRows`]: the rows of a turn whose partitions depend on columns of their values or keys.
//!
//! A value is decoded once, into columns that all partitions share, and its partition is found there; the rows of each
//! partition are picked out when their files are written. A row that is none, or finds no room, is cut off again.

use std::collections::BTreeMap;

use super::decoding::{Layouts, ValueLayout};
use super::rows::{PartitionRows, Placed};
use crate::columns::build::Columns;
use crate::columns::cell::Cell;
use crate::partition::column::TooLong;
use crate::partition::{PartitionKey, Partitioner};

/// See the header.
#[derive(Debug)]
pub struct MixedRows {
    pub rows: PartitionRows,
    /// The rows of each partition by their index, ascending.
    pub partitions: BTreeMap<PartitionKey, Vec<u32>>,
}

impl MixedRows {
    /// Without rows.
    #[must_use]
    pub fn new(layouts: &Layouts) -> Self {
        Self { rows: PartitionRows::typed(layouts), partitions: BTreeMap::new() }
    }

    /// Notes the partition of the last row.
    ///
    /// # Panics
    /// There are 2^32 rows: a turn holds fewer bytes.
    pub(super) fn note(&mut self, key: PartitionKey) {
        let row = u32::try_from(self.rows.len() - 1).expect("a turn has fewer rows");
        self.partitions.entry(key).or_default().push(row);
    }
}

/// The partition of the row that was decoded last.
pub(super) fn key_of_last(
    by: &Partitioner,
    placed: &Placed<'_>,
    layouts: &Layouts,
    (keys, values): (&Columns, Option<&Columns>),
) -> Result<PartitionKey, TooLong> {
    by.key_of_row(placed, |path| -> Option<Cell<'_>> {
        let top = path.first().copied().expect("a path names a column");
        match (&layouts.value, values) {
            _ if layouts.key.has(top) => keys.last_cell(&layouts.key, path),
            (ValueLayout::Columns(layout), Some(values)) if layout.has(top) => values.last_cell(layout, path),
            // Of a mode that the topic has no longer: it is null in all rows.
            _ => None,
        }
    })
}
