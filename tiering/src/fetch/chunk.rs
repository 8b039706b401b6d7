//! Bytes of an object in memory. They are given out run by run, and only after a run's seeded checksum holds.
//!
//! Owns: which runs of this buffer passed their check. That is kept beside the buffer and noted only here, by summing
//! the buffer itself; the same chunk fetched again is another buffer with nothing checked. So a run is summed once for
//! all its readers, and one run's check never counts for another. Does not own: where bytes come from (`hydrate`), how
//! long they are kept (`warm`). Shard-local.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use bytes::Bytes;
use tidewater_storage::model::{PartitionId, RunSum};
use tokio::sync::OwnedSemaphorePermit;

use super::locate::LocatedRun;

/// A run of this chunk that matched its sum.
#[derive(Debug, PartialEq, Eq)]
struct Proof {
    bytes: Range<u64>,
    partition: PartitionId,
    sum: RunSum,
}

impl Proof {
    fn of(partition: PartitionId, located: &LocatedRun) -> Self {
        Self { bytes: located.bytes.clone(), partition, sum: located.run.sum }
    }
}

/// Contiguous bytes of one object: a whole chunk, or the part of one that was asked for. *Shard-local*.
#[derive(Debug)]
pub struct Chunk {
    /// Where in the object they begin.
    start: u64,
    bytes: Bytes,
    proofs: RefCell<Vec<Proof>>,
    spoiled: Cell<bool>,
    /// Memory reserved for a chunk ahead of its readers; released at the first use.
    ahead: RefCell<Option<OwnedSemaphorePermit>>,
}

impl Chunk {
    /// Bytes of the object from `start` on, nothing proven.
    #[must_use]
    pub fn new(start: u64, bytes: Bytes) -> Self {
        let (proofs, spoiled, ahead) = (RefCell::default(), Cell::new(false), RefCell::default());
        Self { start, bytes, proofs, spoiled, ahead }
    }

    /// Holds `memory` until a reader comes.
    pub(super) fn hold_until_used(&self, memory: OwnedSemaphorePermit) {
        *self.ahead.borrow_mut() = Some(memory);
    }

    /// A reader has come.
    pub(super) fn used(&self) {
        drop(self.ahead.borrow_mut().take());
    }

    /// Bytes held.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Does it hold nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Is the run's sum known to hold?
    #[must_use]
    pub fn is_proven(&self, partition: PartitionId, located: &LocatedRun) -> bool {
        self.proofs.borrow().contains(&Proof::of(partition, located))
    }

    /// The bytes of a run. `None`: they are not all here, or their sum does not hold, and the chunk is spoiled.
    #[must_use]
    pub fn run(&self, partition: PartitionId, located: &LocatedRun) -> Option<Bytes> {
        let found = self.slice(&located.bytes).filter(|run| {
            if self.is_proven(partition, located) {
                return true;
            }
            let holds = located.run.sum.matches(partition, run);
            if holds {
                self.proofs.borrow_mut().push(Proof::of(partition, located));
            }
            holds
        });
        if found.is_none() {
            self.spoiled.set(true);
        }
        found
    }

    fn slice(&self, of: &Range<u64>) -> Option<Bytes> {
        let place = |at: u64| usize::try_from(at.checked_sub(self.start)?).ok();
        let range = place(of.start)?..place(of.end)?;
        self.bytes.get(range.clone())?;
        Some(self.bytes.slice(range))
    }

    /// Did a run not match its sum?
    #[must_use]
    pub fn is_spoiled(&self) -> bool {
        self.spoiled.get()
    }

    /// All bytes, unchecked: for the disk cache only, whose readers check what they take from it.
    pub(super) fn unproven(&self) -> &Bytes {
        &self.bytes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tidewater_storage::model::run::{extend, seed};
    use tidewater_storage::model::{LaneId, Offset, OffsetRange, TimestampMs};

    use super::*;
    use crate::fetch::ChunkId;
    use crate::format::Run;
    use crate::keys::{ClusterId, Home, LineageEpoch, Sequence};

    pub(in crate::fetch) fn id(bytes: Range<u64>) -> ChunkId {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        ChunkId { object: home.bundle(LaneId(1), Sequence(7)), bytes }
    }

    fn located(partition: PartitionId, bytes: Range<u64>, content: &[u8]) -> LocatedRun {
        let offsets = OffsetRange::new(Offset::new(5), Offset::new(6));
        let sum = RunSum { offsets, len: content.len() as u32, crc: extend(seed(partition, offsets.start), content) };
        LocatedRun { chunk: id(0..100), bytes, run: Run { sum, max_timestamp: TimestampMs(0) } }
    }

    #[test]
    fn only_what_matches_comes_out_and_proofs_are_of_one_buffer_and_one_run() {
        let mine = PartitionId::default();
        let body = Bytes::from((0..100u8).collect::<Vec<_>>());
        let run = located(mine, 10..20, &body[10..20]);
        let chunk = Chunk::new(0, body.clone());
        assert!(!chunk.is_proven(mine, &run));
        assert_eq!(chunk.run(mine, &run), Some(body.slice(10..20)));
        assert!(chunk.is_proven(mine, &run) && !chunk.is_spoiled());

        let again = Chunk::new(0, Bytes::from(vec![1; 100]));
        assert!(!again.is_proven(mine, &run), "other bytes of the same name");
        assert_eq!(again.run(mine, &run), None);
        assert!(again.is_spoiled());

        let other = PartitionId { index: tidewater_storage::model::PartitionIndex(9), ..mine };
        assert_eq!(chunk.run(other, &run), None, "proven for another partition");
        let longer = located(mine, 10..21, &body[10..20]);
        assert_eq!(chunk.run(mine, &longer), None, "proven for another length");
    }

    #[test]
    fn a_part_knows_its_place_and_what_is_short_gives_nothing() {
        let mine = PartitionId::default();
        let body = Bytes::from((0..100u8).collect::<Vec<_>>());
        let run = located(mine, 30..40, &body[30..40]);
        assert_eq!(Chunk::new(30, body.slice(30..40)).run(mine, &run), Some(body.slice(30..40)));
        for (start, held) in [(0, 0..39), (31, 31..100), (u64::MAX, 0..100)] {
            let short = Chunk::new(start, body.slice(held));
            assert_eq!(short.run(mine, &run), None);
            assert!(short.is_spoiled());
        }
    }
}
