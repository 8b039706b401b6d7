//! Batches as producers sent them → rows of a table, gathered per hour partition.
//!
//! Owns: opening batches, what becomes of those that cannot be opened, the cut at the asked range and at what there is
//! [`Room`] for. The columns are [`key_value`]'s. Does not own: which ranges (`plan`), files (`write`). Pure: no I/O,
//! no clock. *Message*.
//!
//! Invariants: every offset of the range up to where it stopped is a row, or a control record, or lies in exactly one
//! [`Skipped`] range, or was never a record (a hole that compaction left). A row's offset is inside the range. Rows
//! take no more than their room; a single record may if it is the first.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use tidewater_storage::model::record::{RecordError, Records};
use tidewater_storage::model::{Batch, Offset, OffsetRange, PartitionIndex, record};

use crate::schema::HOUR_US;

pub mod key_value;
pub mod skipped;
#[cfg(test)]
mod tests;

pub use key_value::HourRows;
pub use skipped::Skipped;

/// A compressed batch may unpack to this many bytes; one that wants more is skipped, not trusted.
pub const UNPACKED_BYTES_MAX: usize = 256 << 20;
/// Records of one batch at the most: a row takes some hundred bytes until its file is written, however small it is.
const RECORDS_MAX: u32 = 4 << 20;

/// What an open hour takes beside its rows: columns without rows, and its file's manifest entry. Bytes.
const HOUR_BYTES: usize = 4096;
/// What a range left out takes until it is committed, with the longest reason. Bytes.
const SKIPPED_BYTES: usize = 512;

/// What one partition may take in a turn. A turn without a row takes its first one at any size.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// From so many [`Translation::bytes`] on no other batch is begun: the partition's share.
    pub share: usize,
    /// No record takes [`Translation::bytes`] beyond this: the turn's cap.
    pub bytes: usize,
    /// No record takes [`Translation::hours`] beyond this.
    pub hours: usize,
}

/// How far [`Translation::add`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// The first offset not taken, possibly in the middle of a batch: where the next call for this partition begins.
    pub next: Offset,
    /// It stopped there because there was no room.
    pub full: bool,
}

/// Rows gathered so far, of any partitions.
#[derive(Debug, Default)]
pub struct Translation {
    hours: BTreeMap<i32, HourRows>,
    skipped: Vec<Skipped>,
    rows: u64,
    bytes: usize,
}

impl Translation {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes so far: rows as they are held, what gave none as it is stored, so that a turn over damage ends too.
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
        let hours = std::mem::take(&mut self.hours);
        debug_assert!(hours.values().all(|rows| !rows.is_empty()), "an hour is opened by its first row");
        hours
    }

    /// What is left out so far, neighbours joined.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Takes out what is left out.
    #[must_use]
    pub fn take_skipped(&mut self) -> Vec<Skipped> {
        std::mem::take(&mut self.skipped)
    }

    /// Leaves out `range`, which has `stored` bytes in the log.
    pub fn skip(&mut self, partition: PartitionIndex, range: OffsetRange, reason: &str, stored: usize) {
        self.bytes = self.bytes.saturating_add(stored);
        if skipped::join(&mut self.skipped, Skipped::new(partition, range, reason)) {
            self.bytes = self.bytes.saturating_add(SKIPPED_BYTES);
        }
    }

    /// Translates what of `bytes` (whole batches back to back) lies inside `range`, as far as there is room. A batch
    /// that cannot be opened is recorded as skipped; if even its length cannot be believed, so is the rest up to
    /// `covered_to`.
    pub fn add(
        &mut self,
        partition: PartitionIndex,
        mut bytes: Bytes,
        range: OffsetRange,
        covered_to: Offset,
        room: &Room,
    ) -> Added {
        let mut next = range.start;
        while !bytes.is_empty() {
            if self.bytes >= room.share {
                return Added { next, full: true };
            }
            match Batch::split_from(&mut bytes) {
                Ok(batch) => {
                    let inside = batch.header.offsets().intersect(&range);
                    if !inside.is_empty() && inside.start >= next {
                        if let Some(next) = self.add_batch(partition, &batch, inside, room) {
                            return Added { next, full: true };
                        }
                        next = inside.end;
                    }
                }
                Err(error) => {
                    let rest = OffsetRange::new(next, covered_to).intersect(&range);
                    if !rest.is_empty() {
                        self.skip(partition, rest, &error.to_string(), bytes.len());
                        next = rest.end;
                    }
                    break;
                }
            }
        }
        Added { next, full: false }
    }

    /// Returns the offset of the first record that there is no room for, if there is one.
    fn add_batch(
        &mut self,
        partition: PartitionIndex,
        batch: &Batch,
        inside: OffsetRange,
        room: &Room,
    ) -> Option<Offset> {
        let stored = batch.bytes.len();
        // No bit of the header counts before its checksum: a data batch with a flipped control bit has rows.
        let checked = batch.header.verify_crc(&batch.bytes).map_err(|e| e.to_string());
        if checked.is_ok() && batch.header.is_control() {
            self.bytes = self.bytes.saturating_add(stored);
            return None;
        }
        let records = match checked.and_then(|()| opened(batch)) {
            Ok(records) => records,
            Err(reason) => {
                self.skip(partition, inside, &reason, stored);
                return None;
            }
        };
        for record in records.flatten().filter(|r| inside.contains(r.offset)) {
            let micros = key_value::micros(record.timestamp);
            let hour = i32::try_from(micros.div_euclid(HOUR_US)).unwrap_or(i32::MAX);
            let open = self.hours.len();
            let entry = self.hours.entry(hour);
            let opens = matches!(entry, Entry::Vacant(_));
            let cost = key_value::row_bytes(&record) + if opens { HOUR_BYTES } else { 0 };
            let bytes = self.bytes.saturating_add(cost);
            if self.rows > 0 && (bytes > room.bytes || (opens && open >= room.hours)) {
                return Some(record.offset);
            }
            entry.or_default().push(partition, batch.header.timestamp_type(), micros, &record);
            self.bytes = bytes;
            self.rows += 1;
        }
        None
    }
}

/// A batch's records, all of which can be read: a batch is in the table whole, or recorded as skipped. They are read
/// twice rather than kept, because millions of small ones take 20 times their unpacked bytes. Their offsets ascend,
/// because one offset says how much of a batch the table has.
fn opened(batch: &Batch) -> Result<Records<'_>, String> {
    if batch.header.record_count > RECORDS_MAX {
        return Err(format!("a batch of {} records; at most {RECORDS_MAX} are taken", batch.header.record_count));
    }
    let reason = |e: RecordError| e.to_string();
    let records = record::read(&batch.header, &batch.bytes, UNPACKED_BYTES_MAX).map_err(reason)?;
    let mut ahead = batch.header.offsets();
    for record in records.clone() {
        let offset = record.map_err(reason)?.offset;
        if !ahead.contains(offset) {
            return Err(format!("its records are numbered wrongly: {offset} comes where one of {ahead} should"));
        }
        ahead.start = offset.plus(1);
    }
    Ok(records)
}
