//! Batches as producers sent them → rows of a table, gathered per partition of the table.
//!
//! Owns: opening batches, what becomes of those that cannot be opened, the cut at the asked range and at what there is
//! [`Room`] for, which records are dead letters. The columns are those of [`rows`]; where values have schemas,
//! [`Decoding`] says what becomes of them, and a schema that has not come up before ends the call
//! ([`Stop::Schema`]). Does not own: which ranges (`plan`), the registry (`sink`), files (`write`). Pure: no I/O, no
//! clock. *Message*.
//!
//! Invariants: every offset of the range up to where it stopped is a row, or a dead letter, or a control record, or
//! lies in exactly one [`Skipped`] range, or was never a record (a hole that compaction left). A row's offset is inside
//! the range. Rows take no more than their room; a single record may if it is the first.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use tidewater_storage::model::record::{RecordError, Records};
use tidewater_storage::model::{Batch, Offset, OffsetRange, PartitionIndex, record};

use crate::partition::{PartitionKey, Partitioner, hour_of};

pub mod decoding;
pub mod framing;
mod headers;
pub mod mixed;
mod parts;
pub mod rows;
pub mod skipped;
#[cfg(test)]
mod tests;
pub mod value_schema;

pub use decoding::Decoding;
pub use mixed::MixedRows;
pub use rows::PartitionRows;
pub use skipped::Skipped;

use decoding::ValueType;
use framing::{Framed, Part};
use rows::Placed;

/// A compressed batch may unpack to this many bytes; one that wants more is skipped, not trusted.
pub const UNPACKED_BYTES_MAX: usize = 256 << 20;
/// Records of one batch at the most: a row takes some hundred bytes until its file is written, however small it is.
const RECORDS_MAX: u32 = 4 << 20;

/// What an open partition of the table takes beside its rows: columns without rows, and its file's manifest entry.
/// Bytes.
const OPEN_BYTES: usize = 4096;
/// Bytes that the columns of one value may take; one that wants more is a dead letter.
const VALUE_BYTES_MAX: usize = UNPACKED_BYTES_MAX;
/// What a dead letter costs beside its record: its reason.
const REASON_BYTES: usize = 256;
/// Characters of a dead letter's reason at most: conflicts name columns, which clients name.
const REASON_CHARS_MAX: usize = 400;
/// Schemas that are looked up at once. A batch is opened again after each lookup.
const UNDECIDED_MAX: usize = 250;
/// What a range left out takes until it is committed, with the longest reason. Bytes.
const SKIPPED_BYTES: usize = 512;

/// What one partition may take in a turn. A turn without a row takes its first one at any size.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// From so many [`Translation::bytes`] on no other batch is begun: the partition's share.
    pub share: usize,
    /// No record takes [`Translation::bytes`] beyond this: the turn's cap.
    pub bytes: usize,
    /// No record takes [`Translation::files`] beyond this.
    pub files: usize,
}

/// How far [`Translation::add`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// The first offset not taken, possibly in the middle of a batch: where the next call for this partition begins.
    pub next: Offset,
    /// Why it stopped there; `None` at the end of what it was given.
    pub stop: Option<Stop>,
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// There is no room.
    Full,
    /// Its key's or value's schema has no [`Verdict`](decoding::Verdict) yet: the first of [`Translation::undecided`].
    Schema,
}

/// A record that is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadRecord {
    pub partition: PartitionIndex,
    pub offset: Offset,
    pub reason: String,
}

/// Rows gathered so far, of any partitions.
#[derive(Debug)]
pub struct Translation {
    by: Partitioner,
    open: BTreeMap<PartitionKey, PartitionRows>,
    /// In place of `open` where a row's partition is found in its columns.
    mixed: Option<MixedRows>,
    /// Of keys or values that have schemas; else both are bytes.
    decoding: Option<Decoding>,
    dead: BTreeMap<PartitionKey, PartitionRows>,
    first_dead: Option<DeadRecord>,
    undecided: Vec<ValueType>,
    skipped: Vec<Skipped>,
    rows: u64,
    dead_rows: u64,
    bytes: usize,
}

impl Translation {
    /// Of values as bytes, for a table that `by` partitions.
    #[must_use]
    pub fn new(by: Partitioner) -> Self {
        Self {
            by,
            open: BTreeMap::new(),
            mixed: None,
            decoding: None,
            dead: BTreeMap::new(),
            first_dead: None,
            undecided: Vec::new(),
            skipped: Vec::new(),
            rows: 0,
            dead_rows: 0,
            bytes: 0,
        }
    }

    /// Of keys or values as columns.
    #[must_use]
    pub fn typed(by: Partitioner, decoding: Decoding) -> Self {
        Self { decoding: Some(decoding), ..Self::new(by) }
    }

    /// What partitions the table.
    #[must_use]
    pub fn partitioner(&self) -> &Partitioner {
        &self.by
    }

    /// How keys and values become columns; `None` where both stay bytes. Replaced only while there are no rows.
    pub fn decoding_mut(&mut self) -> Option<&mut Decoding> {
        self.decoding.as_mut()
    }

    /// Takes out how keys and values become columns.
    #[must_use]
    pub fn take_decoding(&mut self) -> Option<Decoding> {
        self.decoding.take()
    }

    /// Goes on with the columns and the partitions that the table has now.
    pub fn set_decoding(&mut self, by: Partitioner, decoding: Decoding) {
        let is_empty = self.open.is_empty() && self.mixed.as_ref().is_none_or(|mixed| mixed.rows.is_empty());
        assert!(is_empty, "rows of two versions of a table do not mix");
        self.mixed = None;
        (self.by, self.decoding) = (by, Some(decoding));
    }

    /// After [`Stop::Schema`]: the types of keys and values without a verdict that the rest of the batch names, in its
    /// order, each once, at most 250.
    #[must_use]
    pub fn undecided(&self) -> &[ValueType] {
        &self.undecided
    }

    /// Rows so far, without dead letters.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Dead letters so far.
    #[must_use]
    pub fn dead_rows(&self) -> u64 {
        self.dead_rows
    }

    /// The first dead letter that came up.
    #[must_use]
    pub fn first_dead(&self) -> Option<&DeadRecord> {
        self.first_dead.as_ref()
    }

    /// Whether nothing was taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0 && self.dead_rows == 0
    }

    /// Bytes so far: rows as they are held, what gave none as it is stored, so that a turn over damage ends too.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Partitions of the tables that are open, those of dead letters too: files to be written.
    #[must_use]
    pub fn files(&self) -> usize {
        self.open.len() + self.mixed.as_ref().map_or(0, |mixed| mixed.partitions.len()) + self.dead.len()
    }

    /// Takes the dead letters out, by hour.
    #[must_use]
    pub fn take_dead(&mut self) -> BTreeMap<PartitionKey, PartitionRows> {
        std::mem::take(&mut self.dead)
    }

    /// Takes the rows out, by partition of the table.
    #[must_use]
    pub fn take_rows(&mut self) -> BTreeMap<PartitionKey, PartitionRows> {
        self.bytes = 0;
        let open = std::mem::take(&mut self.open);
        debug_assert!(open.values().all(|rows| !rows.is_empty()), "a partition is opened by its first row");
        open
    }

    /// Takes the rows out whose partitions were found in their columns, if there are any.
    #[must_use]
    pub fn take_mixed(&mut self) -> Option<MixedRows> {
        self.mixed.take().filter(|mixed| !mixed.rows.is_empty())
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
                return Added { next, stop: Some(Stop::Full) };
            }
            match Batch::split_from(&mut bytes) {
                Ok(batch) => {
                    let inside = batch.header.offsets().intersect(&range);
                    if !inside.is_empty() && inside.start >= next {
                        if let Some((next, stop)) = self.add_batch(partition, &batch, inside, room) {
                            return Added { next, stop: Some(stop) };
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
        Added { next, stop: None }
    }

    /// Returns the offset of the first record that was not taken, if there is one, and why.
    fn add_batch(
        &mut self,
        partition: PartitionIndex,
        batch: &Batch,
        inside: OffsetRange,
        room: &Room,
    ) -> Option<(Offset, Stop)> {
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
        for record in records.clone().flatten().filter(|r| inside.contains(r.offset)) {
            let (kind, micros) = (batch.header.timestamp_type(), rows::micros(record.timestamp));
            let placed = Placed { partition, kind, micros, record: &record };
            let added = match &self.decoding {
                None => self.add_bytes(&placed, room),
                Some(_) => self.add_typed(&placed, room),
            };
            if let Err(stop) = added {
                if stop == Stop::Schema {
                    self.find_undecided(partition, records, record.offset);
                }
                return Some((record.offset, stop));
            }
        }
        None
    }

    /// Collects the types without a verdict that records from `from` on name.
    fn find_undecided(&mut self, partition: PartitionIndex, records: Records<'_>, from: Offset) {
        self.undecided.clear();
        let Some(decoding) = &self.decoding else { return };
        let mut seen = HashSet::new();
        for record in records.flatten().filter(|record| record.offset >= from) {
            for part in Part::ALL {
                let Framed::Value(written) = framing::of(&record, part, decoding.naming(part)) else { continue };
                let Ok((of, _)) = decoding.type_of(&written) else { continue };
                if decoding.verdict(of, partition, record.offset).is_none() && seen.insert(of) {
                    self.undecided.push(of);
                }
                if self.undecided.len() >= UNDECIDED_MAX {
                    return;
                }
            }
        }
    }

    /// Adds a record with its value as bytes.
    fn add_bytes(&mut self, placed: &Placed<'_>, room: &Room) -> Result<(), Stop> {
        let key = self.by.key(placed);
        let opens = !self.open.contains_key(&key);
        let cost = rows::row_bytes(placed.record) + if opens { OPEN_BYTES } else { 0 };
        self.reserve(cost, opens, room)?;
        self.open.entry(key).or_insert_with(PartitionRows::key_value).push(placed);
        self.bytes = self.bytes.saturating_add(cost);
        self.rows += 1;
        Ok(())
    }

    /// Whether there is room for `cost` bytes, and for another file if the record `opens` a partition. The first record
    /// of a turn always has room.
    fn reserve(&self, cost: usize, opens: bool, room: &Room) -> Result<(), Stop> {
        let is_full = self.bytes.saturating_add(cost) > room.bytes || (opens && self.files() >= room.files);
        if !self.is_empty() && is_full { Err(Stop::Full) } else { Ok(()) }
    }

    /// Adds a dead letter.
    fn add_dead(&mut self, placed: &Placed<'_>, schema: Option<i32>, why: &str, room: &Room) -> Result<(), Stop> {
        let key = PartitionKey::Hour(hour_of(placed));
        let opens = !self.dead.contains_key(&key);
        let cost = rows::row_bytes(placed.record) + REASON_BYTES + if opens { OPEN_BYTES } else { 0 };
        self.reserve(cost, opens, room)?;
        let why: String = why.chars().take(REASON_CHARS_MAX).collect();
        self.dead.entry(key).or_insert_with(PartitionRows::dead_letters).push_dead(placed, &why, schema);
        let (partition, offset) = (placed.partition, placed.record.offset);
        self.first_dead.get_or_insert(DeadRecord { partition, offset, reason: why });
        self.bytes = self.bytes.saturating_add(cost);
        self.dead_rows += 1;
        Ok(())
    }
}

/// Shows `look` the values of records in `bytes` (whole batches back to back) that lie inside `range`, until it returns
/// false. What cannot be opened is left out.
pub fn look_at_values(mut bytes: Bytes, range: OffsetRange, mut look: impl FnMut(&[u8]) -> bool) {
    while !bytes.is_empty() {
        let Ok(batch) = Batch::split_from(&mut bytes) else { return };
        if batch.header.verify_crc(&batch.bytes).is_err() || batch.header.is_control() {
            continue;
        }
        let Ok(records) = opened(&batch) else { continue };
        for record in records.flatten().filter(|record| range.contains(record.offset)) {
            if !record.value.as_deref().is_none_or(&mut look) {
                return;
            }
        }
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
