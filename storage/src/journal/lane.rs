//! One lane's log as it stands in memory: ids and places of all its entries, payloads of the recent ones.
//!
//! Owns: the rules of a Raft log (contiguous, truncated from the end, purged from the start, later place wins), pure.
//! Does not own: bytes on disk, the count of what keeps a file alive: every method tells what it set free.
//!
//! Affinity: shard-local.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{LaneLogState, Payload};
use crate::model::{EntryId, LogIndex, Term};

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Generation of the file.
    pub(super) file: u64,
    /// Of the record's header. Bytes.
    pub(super) at: u64,
    /// Header included. Bytes.
    pub(super) len: u32,
}

/// One entry.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) term: Term,
    /// `None` until its commit is durable; the payload is in memory until then.
    pub(super) place: Option<Place>,
    pub(super) payload: Option<Payload>,
}

/// In which files (by generation, 0: none) the newest record of each kind of state lies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MetaPlaces {
    pub(super) vote: u64,
    pub(super) purged: u64,
    pub(super) committed: u64,
}

/// One lane.
#[derive(Debug, Default)]
pub(super) struct LaneState {
    pub(super) purged: Option<EntryId>,
    pub(super) committed: Option<EntryId>,
    /// `committed` is newer than any record of it.
    pub(super) committed_dirty: bool,
    pub(super) vote: Option<Bytes>,
    pub(super) meta: MetaPlaces,
    /// Index of the first slot.
    first: u64,
    slots: VecDeque<Slot>,
}

/// What a truncation or purge removed.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Places no longer needed.
    pub(super) places: Vec<Place>,
    /// Payload bytes no longer in memory.
    pub(super) memory: usize,
}

impl Removed {
    fn add(&mut self, slot: Slot) {
        self.places.extend(slot.place);
        self.memory += slot.payload.map_or(0, |payload| payload.len());
    }
}

impl LaneState {
    /// A lane without entries.
    pub(super) fn with_past(purged: Option<EntryId>, vote: Option<Bytes>, meta: MetaPlaces) -> Self {
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

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Is this entry there, and its payload in memory?
    pub(super) fn is_resident(&self, id: EntryId) -> bool {
        self.slot(id.index.0).is_some_and(|slot| slot.term == id.term && slot.payload.is_some())
    }

    /// Is everything up to and with this entry durable, or purged? Commits become durable in order.
    pub(super) fn is_durable(&self, upto: LogIndex) -> bool {
        self.purged.is_some_and(|purged| purged.index >= upto)
            || self.slot(upto.0).is_some_and(|slot| slot.place.is_some())
    }

    /// Indexes that are there.
    pub(super) fn indexes(&self) -> std::ops::Range<u64> {
        self.first..self.end()
    }

    /// What the next entry's index must be; `None`: any, in a log without a past.
    pub(super) fn expected(&self) -> Option<LogIndex> {
        self.last().map(|last| last.index.next())
    }

    pub(super) fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Adds an entry. The caller checked that it continues.
    pub(super) fn push(&mut self, id: EntryId, slot: Slot) {
        if self.slots.is_empty() {
            self.first = id.index.0;
        }
        debug_assert_eq!(self.end(), id.index.0, "entries are contiguous");
        self.slots.push_back(slot);
    }

    /// Removes what lies after `keep`.
    pub(super) fn truncate_after(&mut self, keep: Option<EntryId>) -> Removed {
        let end = keep.map_or(0, |id| id.index.0 + 1);
        let mut removed = Removed::default();
        while self.end() > end {
            match self.slots.pop_back() {
                Some(slot) => removed.add(slot),
                None => break,
            }
        }
        removed
    }

    /// Removes what lies up to and with `upto`, which may be beyond the last entry.
    pub(super) fn purge(&mut self, upto: EntryId) -> Removed {
        let mut removed = Removed::default();
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
        removed
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) -> Removed {
        let mut removed = Removed::default();
        std::mem::take(&mut self.slots).into_iter().for_each(|slot| removed.add(slot));
        removed
    }

    /// Gives an entry its durable place, if it is still there; returns the place it had before.
    pub(super) fn place(&mut self, id: EntryId, place: Place) -> Placing {
        match self.slot_mut(id.index.0) {
            Some(slot) if slot.term == id.term => Placing::Placed { before: slot.place.replace(place) },
            _ => Placing::Gone,
        }
    }

    /// Drops an entry's payload from memory if it can be read back; returns its bytes.
    pub(super) fn evict(&mut self, id: EntryId) -> Eviction {
        match self.slot_mut(id.index.0) {
            Some(slot) if slot.term == id.term && slot.payload.is_some() => match slot.place {
                Some(_) => Eviction::Freed(slot.payload.take().map_or(0, |payload| payload.len())),
                None => Eviction::NotDurable,
            },
            _ => Eviction::Freed(0),
        }
    }
}

/// Outcome of [`LaneState::place`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placing {
    /// It has the place now.
    Placed {
        /// And had this one.
        before: Option<Place>,
    },
    /// It was truncated or purged meanwhile.
    Gone,
}

/// Outcome of [`LaneState::evict`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Eviction {
    /// So many bytes.
    Freed(usize),
    /// It must stay: its commit is not durable yet.
    NotDurable,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term: Term(term), index: LogIndex(index) }
    }

    fn slot(term: u64) -> Slot {
        let place = Some(Place { file: 1, at: 0, len: 10 });
        Slot {
            term: Term(term),
            place,
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
        assert_eq!((removed.places.len(), removed.memory, lane.last()), (3, 12, Some(id(1, 6))));
        assert_eq!(lane.purge(id(1, 2)).places.len(), 3);
        assert_eq!((lane.indexes(), lane.purged), (3..7, Some(id(1, 2))));
        assert_eq!(lane.purge(id(1, 1)).places.len(), 0, "purging backwards does nothing");
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
        let place = Place { file: 2, at: 64, len: 10 };
        assert!(matches!(lane.place(id(1, 1), place), Placing::Placed { before: Some(_) }));
        assert_eq!(lane.place(id(2, 1), place), Placing::Gone);
        assert_eq!(lane.place(id(1, 7), place), Placing::Gone);
        assert_eq!(lane.evict(id(1, 1)), Eviction::Freed(4));
        assert_eq!(lane.evict(id(1, 1)), Eviction::Freed(0));
        lane.push(id(1, 3), Slot { place: None, ..slot(1) });
        assert_eq!(lane.evict(id(1, 3)), Eviction::NotDurable);
    }
}
