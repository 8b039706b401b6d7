//! Records whose keys or values have schemas → rows, in the columns that these have.
//!
//! Where a record's partition is known before its value is, the value is decoded into the columns of the partition's
//! rows; else into those that all share ([`MixedRows`]).

use super::decoding::{Decoding, Fate, ValueType, Verdict};
use super::framing::Part;
use super::rows::{self, PartitionRows, Placed};
use super::{MixedRows, OPEN_BYTES, Room, Stop, Translation, VALUE_BYTES_MAX, decoding, mixed};
use crate::columns::build::Columns;
use crate::columns::fault::{BadValue, Fault};
use crate::partition::column::TooLong;

impl Translation {
    /// Adds a record whose key or value has a schema.
    pub(super) fn add_typed(&mut self, placed: &Placed<'_>, room: &Room) -> Result<(), Stop> {
        let Some(decoding) = &self.decoding else { return self.add_bytes(placed, room) };
        if decoding.is_dead(placed.partition, placed.record.offset) {
            self.bytes = self.bytes.saturating_add(rows::row_bytes(placed.record));
            return Ok(());
        }
        // What is a dead letter for one part waits for no schema of the other.
        match (decoding.fate(Part::Key, placed), decoding.fate(Part::Value, placed)) {
            (Fate::Dead { schema, why }, _) | (_, Fate::Dead { schema, why }) => {
                self.add_dead(placed, schema, &why, room)
            }
            (Fate::Undecided, _) | (_, Fate::Undecided) => Err(Stop::Schema),
            (key, value) => match self.add_parts(placed, &key, &value, room)? {
                Ok(()) => Ok(()),
                Err(NoRow::Bad(of, bad)) => self.add_dead(placed, of.with.id(), &format!("{of}: {bad}"), room),
                Err(NoRow::Partition(part, why)) => {
                    let fate = if part == Part::Key { &key } else { &value };
                    self.add_dead(placed, schema_of(fate), &format!("{}{why}", decoding::prefix(part)), room)
                }
                Err(NoRow::Room) => unreachable!("it waits"),
            },
        }
    }

    /// Adds a record with the parts of its key and value. The outer error: it has to wait; the inner one: it is no row.
    fn add_parts(
        &mut self,
        placed: &Placed<'_>,
        key: &Fate<'_>,
        value: &Fate<'_>,
        room: &Room,
    ) -> Result<Result<(), NoRow>, Stop> {
        if self.by.needs_values() {
            return self.add_mixed(placed, key, value, room);
        }
        let Some(decoding) = &self.decoding else { unreachable!("parts have decoders") };
        let partition = self.by.key(placed);
        let opens = !self.open.contains_key(&partition);
        let mut cost = decoding.system_bytes(placed.record);
        if opens {
            cost = cost.saturating_add(OPEN_BYTES + decoding.layouts.open_bytes());
        }
        self.reserve(cost, opens, room)?;
        let limit = self.limit(cost, room);
        let rows = self.open.entry(partition.clone()).or_insert_with(|| PartitionRows::typed(&decoding.layouts));
        let filled =
            rows.push_typed(placed, |keys, values| fill(decoding, placed, (key, value), (keys, values), limit));
        if filled.is_err() && rows.is_empty() {
            self.open.remove(&partition);
        }
        match filled {
            Ok(charged) => {
                self.count(cost.saturating_add(charged));
                Ok(Ok(()))
            }
            Err(bad) => no_row(bad, limit),
        }
    }

    /// The same where the row's columns say which partition it is in.
    fn add_mixed(
        &mut self,
        placed: &Placed<'_>,
        key: &Fate<'_>,
        value: &Fate<'_>,
        room: &Room,
    ) -> Result<Result<(), NoRow>, Stop> {
        let Some(decoding) = &self.decoding else { unreachable!("parts have decoders") };
        let cost = decoding.system_bytes(placed.record);
        self.reserve(cost, false, room)?;
        let (limit, files) = (self.limit(cost, room), self.files());
        let (is_first, by) = (self.is_empty(), &self.by);
        let mixed = self.mixed.get_or_insert_with(|| MixedRows::new(&decoding.layouts));
        let (rows, partitions) = (&mut mixed.rows, &mixed.partitions);
        let filled = rows.push_typed(placed, |keys, mut values| {
            let charged = fill(decoding, placed, (key, value), (keys, values.as_deref_mut()), limit)?;
            let columns = (&*keys, values.as_deref());
            let part_of = |column| if decoding.layouts.key.has(column) { Part::Key } else { Part::Value };
            let partition = mixed::key_of_last(by, placed, &decoding.layouts, columns)
                .map_err(|why| NoRow::Partition(part_of(why.top), why))?;
            let opens = !partitions.contains_key(&partition);
            let opening = if opens { OPEN_BYTES } else { 0 };
            let has_room = charged.saturating_add(opening) <= limit && !(opens && files >= room.files);
            if is_first || has_room { Ok((partition, charged.saturating_add(opening))) } else { Err(NoRow::Room) }
        });
        match filled {
            Ok((partition, charged)) => {
                mixed.note(partition);
                self.count(cost.saturating_add(charged));
                Ok(Ok(()))
            }
            Err(bad) => no_row(bad, limit),
        }
    }

    /// Bytes that the columns of a record may take which takes `cost` bytes beside them.
    fn limit(&self, cost: usize, room: &Room) -> usize {
        let left = room.bytes.saturating_sub(self.bytes.saturating_add(cost));
        if self.is_empty() { VALUE_BYTES_MAX } else { left.min(VALUE_BYTES_MAX) }
    }

    /// Counts a row that takes so many bytes.
    fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.rows += 1;
    }
}

/// Why a record with decoders is not a row.
#[derive(Debug)]
enum NoRow {
    Bad(ValueType, BadValue),
    /// The column is of this part.
    Partition(Part, TooLong),
    /// There is none for its file.
    Room,
}

/// Whether the record has to wait, for one that was decoded with `limit`.
fn no_row(why: NoRow, limit: usize) -> Result<Result<(), NoRow>, Stop> {
    match why {
        NoRow::Room | NoRow::Bad(_, BadValue { fault: Fault::Full, .. }) => Err(Stop::Full),
        NoRow::Bad(_, BadValue { fault: Fault::Large(_), .. }) if limit < VALUE_BYTES_MAX => Err(Stop::Full),
        why => Ok(Err(why)),
    }
}

/// The id of the schema that a part was decoded with.
fn schema_of(fate: &Fate<'_>) -> Option<i32> {
    match fate {
        Fate::Decoded(of, _) => of.with.id(),
        _ => None,
    }
}

/// Appends one row to the columns of a record's key, and one to those of its value if there are any. Returns the bytes
/// that these take.
fn fill(
    decoding: &Decoding,
    placed: &Placed<'_>,
    (key, value): (&Fate<'_>, &Fate<'_>),
    (keys, values): (&mut Columns, Option<&mut Columns>),
    limit: usize,
) -> Result<usize, NoRow> {
    let fill = |fate: &Fate<'_>, columns: &mut Columns, limit: usize| match fate {
        Fate::Plain => {
            columns.push_null();
            Ok(0)
        }
        Fate::Decoded(of, bytes) => match decoding.verdict(*of, placed.partition, placed.record.offset) {
            Some(Verdict::Rows(decoder)) => decoder.push(bytes, columns, limit).map_err(|bad| NoRow::Bad(*of, bad)),
            _ => unreachable!("{of} has a decoder"),
        },
        Fate::Undecided | Fate::Dead { .. } => unreachable!("{fate:?} is no row"),
    };
    let charged = fill(key, keys, limit)?;
    let of_value = values.map(|values| fill(value, values, limit.saturating_sub(charged))).transpose()?;
    Ok(charged + of_value.unwrap_or(0))
}
