//! Where every archived offset of one partition lies.

use std::collections::BTreeSet;

use tidewater_storage::model::{LogIndex, Offset, OffsetRange, PartitionId, TimestampMs};

use super::lane::{Grace, LaneManifest};
use super::row::Row;
use super::spill::SpillRow;
use crate::keys::ObjectName;

/// Resident rows beyond which the oldest are to be spilled.
pub(crate) const ROWS_MAX: usize = 512;
/// Rows (or pages of one level) that go into one spill page.
pub(crate) const SPILL_ROWS: usize = 256;
/// Resident pages of one level beyond which the oldest are to be spilled into one of the next.
pub(crate) const SPILL_PAGES_MAX: usize = 128;
/// Quarantined ranges kept apart; beyond, the nearest are joined.
pub(crate) const QUARANTINED_MAX: usize = 64;

/// The replicated state of one partition's share of the tier; its blob in the checkpoint and its record in a page.
///
/// Together `spilled` and `rows` cover `[start of the first, archived_end)` without gap or overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionManifest {
    pub id: PartitionId,
    /// Log index of the last command that changed this; what is at or below is covered.
    pub changed: Option<LogIndex>,
    /// First offset a consumer may read.
    pub log_start: Offset,
    /// First offset that is not in the bucket.
    pub archived_end: Offset,
    /// Pages of old rows, oldest first.
    pub spilled: Vec<SpillRow>,
    /// Resident rows, oldest first, after the spilled.
    pub rows: Vec<Row>,
    /// Ranges that failed a check, by offset.
    pub quarantined: Vec<Quarantined>,
    /// Objects of this partition alone (segments, spill pages) that no row names, with the index of the intent.
    pub pending: Vec<(ObjectName, LogIndex)>,
    /// Its topic was deleted.
    pub dropped: bool,
}

/// A range that failed a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub offsets: OffsetRange,
    pub reason: String,
}

/// What covers an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covering<'a> {
    /// A resident row.
    Row(&'a Row),
    /// A spill page: read it and look there.
    Spilled(&'a SpillRow),
}

impl PartitionManifest {
    /// Of a partition that came to be at `at`, with nothing archived; its first offset is `start`.
    #[must_use]
    pub fn new(id: PartitionId, start: Offset, at: LogIndex) -> Self {
        Self {
            id,
            changed: Some(at),
            log_start: start,
            archived_end: start,
            spilled: Vec::new(),
            rows: Vec::new(),
            quarantined: Vec::new(),
            pending: Vec::new(),
            dropped: false,
        }
    }

    /// First offset that a row or page covers; the archived end when there is none.
    #[must_use]
    pub fn first_covered(&self) -> Offset {
        let spilled = self.spilled.first().map(|page| page.offsets.start);
        spilled.or_else(|| self.rows.first().map(|row| row.offsets.start)).unwrap_or(self.archived_end)
    }

    /// What covers `offset`; `None` below the first covered and from the archived end on.
    #[must_use]
    pub fn covering(&self, offset: Offset) -> Option<Covering<'_>> {
        let row = self.rows.partition_point(|row| row.offsets.end <= offset);
        if let Some(row) = self.rows.get(row).filter(|row| row.offsets.contains(offset)) {
            return Some(Covering::Row(row));
        }
        let page = self.spilled.partition_point(|page| page.offsets.end <= offset);
        self.spilled.get(page).filter(|page| page.offsets.contains(offset)).map(Covering::Spilled)
    }

    /// Bytes that rows and pages answer for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let spilled = self.spilled.iter().fold(0u64, |sum, page| sum.saturating_add(page.bytes));
        self.rows.iter().fold(spilled, |sum, row| sum.saturating_add(row.bytes))
    }

    /// Greatest timestamp archived; `NONE` when nothing is.
    #[must_use]
    pub fn max_timestamp(&self) -> TimestampMs {
        let spilled = self.spilled.iter().map(|page| page.max_timestamp);
        spilled.chain(self.rows.iter().map(|row| row.max_timestamp)).max().unwrap_or(TimestampMs::NONE)
    }

    /// Was it dropped, and is nothing of it left to delete? Then its state may go.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.dropped && !self.has_rows() && self.pending.is_empty()
    }

    /// Has it records in the bucket? One that begins above offset 0, as a copy does, has none at first.
    #[must_use]
    pub fn has_rows(&self) -> bool {
        !self.rows.is_empty() || !self.spilled.is_empty()
    }

    /// Does a resident row name this object?
    #[must_use]
    pub fn names(&self, object: &ObjectName) -> bool {
        self.rows.iter().any(|row| row.object() == *object) || self.spilled.iter().any(|page| page.page == *object)
    }

    /// Those of `objects` that no resident row or page names and that are not pending. There may be many pending
    /// objects, so they are passed over once for all of `objects`.
    #[must_use]
    pub fn unnamed(&self, mut objects: BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        let rows = self.rows.iter().map(Row::object);
        let pages = self.spilled.iter().map(|page| page.page);
        let pending = self.pending.iter().map(|(object, _)| *object);
        for named in rows.chain(pages).chain(pending) {
            if objects.is_empty() {
                break;
            }
            objects.remove(&named);
        }
        objects
    }

    /// Is any of `offsets` quarantined?
    #[must_use]
    pub fn quarantine_in(&self, offsets: OffsetRange) -> Option<&Quarantined> {
        self.quarantined.iter().find(|range| !range.offsets.intersect(&offsets).is_empty())
    }

    /// Pending objects that may be deleted now: forgotten by a published manifest for at least the grace.
    #[must_use]
    pub fn deletable(&self, lane: &LaneManifest, grace: Grace) -> Vec<ObjectName> {
        let due = |intended: &LogIndex| lane.is_past_grace(*intended, grace);
        self.pending.iter().filter(|(_, intended)| due(intended)).map(|(object, _)| *object).collect()
    }
}
