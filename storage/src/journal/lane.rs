//! One lane's log in memory: ids and addresses of all its entries, payloads of the recent ones.
//!
//! Owns: the rules of a Raft log: contiguous, truncated from the end, purged from the start, the later record counts.
//! Pure. Does not own: bytes on disk, and the count of live bytes per file: every method returns what it freed.
//!
//! Affinity: shard-local.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{LaneLogState, Payload};
use crate::model::{EntryId, LogIndex, Term};

/// Where a record lies in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordAddress {
    /// Generation of the file.
    pub(super) file: u64,
    /// Position of the record's header. Bytes.
    pub(super) at: u64,
    /// Header included. Bytes.
    pub(super) len: u32,
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub(super) struct EntrySlot {
    pub(super) term: Term,
    /// `None` until its commit is durable; the payload is in memory until then.
    pub(super) address: Option<RecordAddress>,
    pub(super) payload: Option<Payload>,
}

/// The file, by generation, with the newest record of each kind of state; 0: there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NewestStateRecords {
    pub(super) vote: u64,
    pub(super) purged: u64,
    pub(super) committed: u64,
}

/// One lane's log.
#[derive(Debug, Default)]
pub(super) struct LaneState {
    pub(super) purged: Option<EntryId>,
    pub(super) committed: Option<EntryId>,
    /// `committed` is newer than its newest record.
    pub(super) committed_dirty: bool,
    pub(super) vote: Option<Bytes>,
    pub(super) meta: NewestStateRecords,
    /// Log index of the first slot.
    first: u64,
    slots: VecDeque<EntrySlot>,
}

/// What a truncation or a purge removed.
#[derive(Debug, Default)]
pub(super) struct RemovedEntries {
    /// Addresses of their records, as far as those were durable.
    pub(super) addresses: Vec<RecordAddress>,
    /// Payload bytes freed from memory.
    pub(super) memory: usize,
}

impl RemovedEntries {
    fn add(&mut self, slot: EntrySlot) {
        self.addresses.extend(slot.address);
        self.memory += slot.payload.map_or(0, |payload| payload.len());
    }
}

impl LaneState {
    /// A log without entries that ends at `purged`.
    pub(super) fn with_past(purged: Option<EntryId>, vote: Option<Bytes>, meta: NewestStateRecords) -> Self {
        Self { purged, vote, meta, ..Self::default() }
    }

    pub(super) fn state(&self) -> LaneLogState {
        LaneLogState { purged: self.purged, last: self.last(), committed: self.committed, vote: self.vote.clone() }
    }

    pub(super) fn last(&self) -> Option<EntryId> {
        match self.slots.back() {
            Some(slot) => Some(EntryId { term: slot.term, index: LogIndex(self.end() - 1) }),
            None => self.purged,
        }
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Is the entry present and its payload in memory?
    pub(super) fn is_resident(&self, id: EntryId) -> bool {
        self.slot(id.index.0).is_some_and(|slot| slot.term == id.term && slot.payload.is_some())
    }

    /// Is everything up to and including this entry durable or purged? Commits become durable in order.
    pub(super) fn is_durable(&self, upto: LogIndex) -> bool {
        self.purged.is_some_and(|purged| purged.index >= upto)
            || self.slot(upto.0).is_some_and(|slot| slot.address.is_some())
    }

    /// Log indexes of the entries.
    pub(super) fn indexes(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }

    /// The index that the next entry must have; `None` in a log without a past, where any index may come first.
    pub(super) fn expected(&self) -> Option<LogIndex> {
        self.last().map(|last| last.index.next())
    }

    pub(super) fn slot(&self, index: u64) -> Option<&EntrySlot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut EntrySlot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Adds an entry, which must continue the log.
    pub(super) fn push(&mut self, id: EntryId, slot: EntrySlot) {
        if self.slots.is_empty() {
            self.first = id.index.0;
        }
        debug_assert_eq!(self.end(), id.index.0, "entries are contiguous");
        debug_assert!(slot.address.is_some() || slot.payload.is_some(), "an entry is on disk or in memory");
        self.slots.push_back(slot);
    }

    /// Removes the entries after `keep`.
    pub(super) fn truncate_after(&mut self, keep: Option<EntryId>) -> RemovedEntries {
        let end = keep.map_or(0, |id| id.index.0 + 1);
        let mut removed = RemovedEntries::default();
        while self.end() > end {
            match self.slots.pop_back() {
                Some(slot) => removed.add(slot),
                None => break,
            }
        }
        debug_assert!(
            self.slots.is_empty() || self.end() <= end,
            "a truncated log ends at the latest with the entry that is kept"
        );
        removed
    }

    /// Removes the entries up to and including `upto`, which may lie beyond the last entry.
    pub(super) fn purge(&mut self, upto: EntryId) -> RemovedEntries {
        let mut removed = RemovedEntries::default();
        while self.first <= upto.index.0 {
            match self.slots.pop_front() {
                Some(slot) => removed.add(slot),
                None => break,
            }
            self.first += 1;
        }
        if self.purged.is_none_or(|purged| purged.index < upto.index) {
            self.purged = Some(upto);
        }
        debug_assert!(self.slots.is_empty() || self.first > upto.index.0, "purged entries are removed");
        removed
    }

    /// Removes all entries.
    pub(super) fn clear(&mut self) -> RemovedEntries {
        let mut removed = RemovedEntries::default();
        std::mem::take(&mut self.slots).into_iter().for_each(|slot| removed.add(slot));
        removed
    }

    /// Sets an entry's durable address, if the entry is still present.
    pub(super) fn place(&mut self, id: EntryId, address: RecordAddress) -> Placement {
        match self.slot_mut(id.index.0) {
            Some(slot) if slot.term == id.term => Placement::Placed { before: slot.address.replace(address) },
            _ => Placement::Gone,
        }
    }

    /// Drops an entry's payload from memory, if it can be read back from disk.
    pub(super) fn evict(&mut self, id: EntryId) -> Eviction {
        match self.slot_mut(id.index.0) {
            Some(slot) if slot.term == id.term && slot.payload.is_some() => match slot.address {
                Some(_) => Eviction::Freed(slot.payload.take().map_or(0, |payload| payload.len())),
                None => Eviction::NotDurable,
            },
            _ => Eviction::Freed(0),
        }
    }
}

/// Outcome of [`LaneState::place`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// The entry now has the address.
    Placed {
        /// The address of an older copy.
        before: Option<RecordAddress>,
    },
    /// The entry was truncated or purged in the meantime.
    Gone,
}

/// Outcome of [`LaneState::evict`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// Payload bytes freed; 0 if the payload was not in memory.
    Freed(usize),
    /// The payload must stay: its commit is not durable yet.
    NotDurable,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: LogIndex(index) }
    }

    fn slot(term: u64) -> EntrySlot {
        let address = Some(RecordAddress { file: 1, at: 0, len: 10 });
        EntrySlot {
            term: Term(term),
            address,
            payload: Some(Payload { meta: Bytes::from_static(b"1234"), blobs: vec![], verified: false }),
        }
    }

    fn lane(range: std::ops::Range<u64>) -> LaneState {
        let mut lane = LaneState::default();
        range.for_each(|index| lane.push(id(1, index), slot(1)));
        lane
    }

    #[test]
    fn truncate_and_purge_move_the_ends() {
        let mut lane = lane(0..10);
        let removed = lane.truncate_after(Some(id(1, 6)));
        assert_eq!((removed.addresses.len(), removed.memory, lane.last()), (3, 12, Some(id(1, 6))));
        assert_eq!(lane.purge(id(1, 2)).addresses.len(), 3);
        assert_eq!((lane.indexes(), lane.purged), (3..7, Some(id(1, 2))));
        assert_eq!(lane.purge(id(1, 1)).addresses.len(), 0, "purging backwards does nothing");
        assert_eq!(lane.purged, Some(id(1, 2)));
        lane.truncate_after(None);
        assert_eq!((lane.last(), lane.expected()), (Some(id(1, 2)), Some(LogIndex(3))));
    }

    #[test]
    fn a_purge_beyond_the_end_leaves_an_empty_log_that_ends_there() {
        let mut lane = lane(0..3);
        lane.purge(id(4, 100));
        assert_eq!((lane.last(), lane.expected()), (Some(id(4, 100)), Some(LogIndex(101))));
        lane.push(id(4, 101), slot(4));
        assert_eq!(lane.indexes(), 101..102);
    }

    #[test]
    fn places_and_memory_follow_the_entry_not_the_index() {
        let mut lane = lane(0..3);
        let address = RecordAddress { file: 2, at: 64, len: 10 };
        assert!(matches!(lane.place(id(1, 1), address), Placement::Placed { before: Some(_) }));
        assert_eq!(lane.place(id(2, 1), address), Placement::Gone);
        assert_eq!(lane.place(id(1, 7), address), Placement::Gone);
        assert_eq!(lane.evict(id(1, 1)), Eviction::Freed(4));
        assert_eq!(lane.evict(id(1, 1)), Eviction::Freed(0));
        lane.push(id(1, 3), EntrySlot { address: None, ..slot(1) });
        assert_eq!(lane.evict(id(1, 3)), Eviction::NotDurable);
    }
}
