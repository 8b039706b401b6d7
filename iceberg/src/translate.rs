//! Batches as producers sent them → rows of a table, gathered per hour partition.
//!
//! Owns: opening batches, what becomes of those that cannot be opened, the cut at the asked range. The columns are
//! [`key_value`]'s. Does not own: which ranges (`plan`), files (`write`). Pure: no I/O, no clock. *Message*.
//!
//! Invariants: every offset of the range is a row, or a control record, or lies in exactly one [`Skipped`] range, or
//! was never a record (a hole that compaction left). A row's offset is inside the range.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::record::{RecordError, Records};
use tidewater_storage::model::{Batch, Offset, OffsetRange, PartitionIndex, record};

use crate::schema::HOUR_US;

pub mod key_value;
#[cfg(test)]
mod tests;

pub use key_value::HourRows;

/// A compressed batch may unpack to this many bytes; one that wants more is skipped, not trusted.
pub const UNPACKED_BYTES_MAX: usize = 256 << 20;
/// Records of one batch at the most: a row takes some hundred bytes until its file is written, however small it is.
const RECORDS_MAX: u32 = 4 << 20;

/// Offsets that are not in the table, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Partition.
    pub partition: i32,
    /// First offset left out.
    pub start: u64,
    /// First offset after.
    pub end: u64,
    /// Why.
    pub reason: String,
}

impl Skipped {
    /// `range` of `partition`, because of `reason` (cut to 200 characters: it goes into a snapshot's summary).
    #[must_use]
    pub fn new(partition: PartitionIndex, range: OffsetRange, reason: &str) -> Self {
        let reason = reason.chars().take(200).collect();
        Self { partition: partition.0, start: range.start.get(), end: range.end.get(), reason }
    }

    /// How many offsets.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// Rows gathered so far, of any partitions.
#[derive(Debug, Default)]
pub struct Translation {
    hours: BTreeMap<i32, HourRows>,
    /// What could not be opened.
    pub skipped: Vec<Skipped>,
    rows: u64,
    bytes: usize,
}

impl Translation {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of keys, values and headers so far, unpacked.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hour partitions open.
    #[must_use]
    pub fn hours(&self) -> usize {
        self.hours.len()
    }

    /// Takes the rows out, by hour.
    #[must_use]
    pub fn take_hours(&mut self) -> BTreeMap<i32, HourRows> {
        self.bytes = 0;
        std::mem::take(&mut self.hours)
    }

    /// Translates what of `bytes` (whole batches back to back) lies inside `range`. A batch that cannot be opened is
    /// recorded as skipped; if even its length cannot be believed, so is the rest up to `covered_to`.
    ///
    /// Returns the first offset not taken: where the next call for this partition begins.
    pub fn add(
        &mut self,
        partition: PartitionIndex,
        mut bytes: Bytes,
        range: OffsetRange,
        covered_to: Offset,
    ) -> Offset {
        let mut next = range.start;
        while !bytes.is_empty() {
            match Batch::split_from(&mut bytes) {
                Ok(batch) => {
                    let inside = batch.header.offsets().intersect(&range);
                    if !inside.is_empty() && inside.start >= next {
                        self.add_batch(partition, &batch, inside);
                        next = inside.end;
                    }
                }
                Err(error) => {
                    let rest = OffsetRange::new(next, covered_to).intersect(&range);
                    if !rest.is_empty() {
                        self.skipped.push(Skipped::new(partition, rest, &error.to_string()));
                        next = rest.end;
                    }
                    break;
                }
            }
        }
        next
    }

    fn add_batch(&mut self, partition: PartitionIndex, batch: &Batch, inside: OffsetRange) {
        // Nothing of the header is believed before its sum: a data batch with the control bit turned over has rows.
        let checked = batch.header.verify_crc(&batch.bytes).map_err(|e| e.to_string());
        if checked.is_ok() && batch.header.is_control() {
            return;
        }
        let records = match checked.and_then(|()| opened(batch)) {
            Ok(records) => records,
            Err(reason) => {
                self.skipped.push(Skipped::new(partition, inside, &reason));
                return;
            }
        };
        for record in records.flatten().filter(|r| inside.contains(r.offset)) {
            let micros = key_value::micros(record.timestamp);
            let hour = i32::try_from(micros.div_euclid(HOUR_US)).unwrap_or(i32::MAX);
            let rows = self.hours.entry(hour).or_default();
            self.bytes += rows.push(partition, batch.header.timestamp_type(), micros, &record);
            self.rows += 1;
        }
    }
}

/// A batch's records, all of which can be read: it is in the table whole or told as skipped. They are read twice rather
/// than kept, because millions of small ones take 20 times their unpacked bytes.
fn opened(batch: &Batch) -> Result<Records<'_>, String> {
    if batch.header.record_count > RECORDS_MAX {
        return Err(format!("a batch of {} records; at most {RECORDS_MAX} are taken", batch.header.record_count));
    }
    let told = |e: RecordError| e.to_string();
    let records = record::read(&batch.header, &batch.bytes, UNPACKED_BYTES_MAX).map_err(told)?;
    records.clone().try_for_each(|record| record.map(drop)).map_err(told)?;
    Ok(records)
}
