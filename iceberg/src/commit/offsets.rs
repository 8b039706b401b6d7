//! How far a table holds each partition: written and read in one place.
//!
//! `tidewater.offsets` is JSON, `{"<partition>": <next offset>, …}`, in the summary of every snapshot of ours and, in
//! the same commit, in the table's properties. Read: from the nearest ancestor of the current snapshot that has it
//! (an engine's maintenance snapshots do not; a user who rolls the table back moves the offsets back with the rows),
//! else, when all of those have expired, from the properties.

use std::collections::BTreeMap;

use iceberg::TableIdent;
use iceberg::spec::{Snapshot, TableMetadata};
use tidewater_storage::model::{Offset, PartitionIndex};

use super::CommitError;
use crate::plan::Offsets;
use crate::translate::Skipped;

/// Property and summary key: next offset per partition.
pub const OFFSETS: &str = "tidewater.offsets";
/// Summary key: which append it was.
pub const APPEND: &str = "tidewater.append";
/// Property and summary key of a table of dead letters: how far the topic's table was when the last ones came.
pub const DEAD_LETTERS_REACHED: &str = "tidewater.dead-letters.offsets";
/// Summary key: the last ranges left out by this snapshot, at most [`SKIPPED_IN_SUMMARY`]. Property: the last of all
/// those, at most [`SKIPPED_KEPT`].
pub const SKIPPED: &str = "tidewater.skipped";
/// Summary key: how many offsets this snapshot left out. Property: how many were ever left out.
pub const SKIPPED_COUNT: &str = "tidewater.skipped.offsets";
/// Ranges kept in a summary: a metadata file has up to a thousand summaries.
pub const SKIPPED_IN_SUMMARY: usize = 10;
/// Ranges kept in the properties.
pub const SKIPPED_KEPT: usize = 100;

/// As JSON, sorted by partition.
#[must_use]
pub fn encode(offsets: &Offsets) -> String {
    let fields: Vec<_> = offsets.iter().map(|(partition, next)| format!("\"{partition}\":{next}")).collect();
    let text = format!("{{{}}}", fields.join(","));
    debug_assert_eq!(decode(&text).as_ref(), Some(offsets), "what is written can be read");
    text
}

/// From JSON; `None` if it is not such JSON.
#[must_use]
pub fn decode(text: &str) -> Option<Offsets> {
    let map: BTreeMap<i32, u64> = serde_json::from_str(text).ok()?;
    Some(map.into_iter().map(|(partition, next)| (PartitionIndex(partition), Offset::new(next))).collect())
}

/// The snapshots from the current one back, as far as they are kept. Any client may write metadata: parents that form a
/// circle end after each was seen once.
pub fn lineage(metadata: &TableMetadata) -> impl Iterator<Item = &Snapshot> {
    let first = metadata.current_snapshot().map(AsRef::as_ref);
    std::iter::successors(first, |snapshot: &&Snapshot| {
        metadata.snapshot_by_id(snapshot.parent_snapshot_id()?).map(AsRef::as_ref)
    })
    .take(metadata.snapshots().len())
}

/// What the newest snapshot that has `key` in its summary says there.
pub(crate) fn nearest<'a>(metadata: &'a TableMetadata, key: &str) -> Option<&'a String> {
    lineage(metadata).find_map(|snapshot| snapshot.summary().additional_properties.get(key))
}

/// What the table holds: next offset per partition.
///
/// # Errors
/// [`CommitError::Unfit`] if what is recorded cannot be read: better to stop than to write rows twice.
pub fn of(table: &TableIdent, metadata: &TableMetadata) -> Result<Offsets, CommitError> {
    let Some(text) = nearest(metadata, OFFSETS).or_else(|| metadata.properties().get(OFFSETS)) else {
        return Ok(Offsets::new());
    };
    decode(text).ok_or_else(|| CommitError::Unfit {
        table: table.clone(),
        detail: format!("its {OFFSETS} is not offsets by partition: {text:?}; put back what the last snapshot had"),
    })
}

/// Which append came last.
#[must_use]
pub fn append_id(metadata: &TableMetadata) -> Option<String> {
    nearest(metadata, APPEND).cloned()
}

/// Everything left out so far: the last ranges and the count of all offsets.
#[must_use]
pub fn skipped(metadata: &TableMetadata) -> (Vec<Skipped>, u64) {
    let properties = metadata.properties();
    let ranges = properties.get(SKIPPED).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let count = properties.get(SKIPPED_COUNT).and_then(|text| text.parse().ok()).unwrap_or(0);
    (ranges, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_round_trip() {
        let offsets = Offsets::from([(PartitionIndex(0), Offset::new(5)), (PartitionIndex(12), Offset::MAX)]);
        assert_eq!(encode(&offsets), r#"{"0":5,"12":9223372036854775807}"#);
        assert_eq!(decode(&encode(&offsets)), Some(offsets));
        assert_eq!(decode("{}"), Some(Offsets::new()));
        assert_eq!(decode("[1]"), None);
    }
}
