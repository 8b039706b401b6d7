//! The sparse index of one segment: its runs, in order. A run is found by offset or by greatest timestamp. Every read
//! checks the seeded checksum over the whole run, so a finer index would not read less.
//!
//! Pure; a *message*. 40 bytes a MiB.

use crate::model::batch::extend_crc;
use crate::model::run::{self, RUN_BYTES_MAX};
use crate::model::{Batch, FilePos, Offset, PartitionId, RunSum, TimestampMs};

/// One run and its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Offsets, length and checksum.
    pub sum: RunSum,
    /// Position in the segment file.
    pub pos: FilePos,
    /// Greatest timestamp of its batches.
    pub max_timestamp: TimestampMs,
}

/// All runs of a segment: contiguous in offsets and in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentIndex {
    runs: Vec<Run>,
}

impl SegmentIndex {
    /// From runs that `format` has checked to be contiguous.
    pub(crate) fn from_runs(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    /// The runs, in order.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Adds the next batch, whose own checksum is verified; returns the sum of its run up to and including it.
    pub fn push(&mut self, id: PartitionId, batch: &Batch) -> RunSum {
        let header = &batch.header;
        debug_assert_eq!(batch.bytes.len(), header.len as usize, "a batch's bytes are as long as its header says");
        debug_assert!(
            self.runs.last().is_none_or(|last| last.sum.offsets.end == header.base_offset),
            "batches of a segment follow each other"
        );
        match self.runs.last_mut() {
            Some(last) if last.sum.len.checked_add(header.len).is_some_and(|len| len <= RUN_BYTES_MAX) => {
                last.sum.offsets.end = header.next_offset();
                last.sum.len += header.len;
                last.sum.crc = extend_crc(last.sum.crc, &batch.bytes);
                last.max_timestamp = last.max_timestamp.max(header.max_timestamp);
                last.sum
            }
            last => {
                let pos = FilePos(last.map_or(0, |last| last.pos.0 + u64::from(last.sum.len)));
                let crc = extend_crc(run::seed(id, header.base_offset), &batch.bytes);
                let sum = RunSum { offsets: header.offsets(), len: header.len, crc };
                self.runs.push(Run { sum, pos, max_timestamp: header.max_timestamp });
                sum
            }
        }
    }

    /// The run that holds `offset`.
    #[must_use]
    pub fn find(&self, offset: Offset) -> Option<&Run> {
        let at = self.runs.partition_point(|run| run.sum.offsets.end <= offset);
        self.runs.get(at).filter(|run| run.sum.offsets.contains(offset))
    }

    /// Offsets, bytes and greatest timestamp of all runs together; `None` if there is no run.
    #[must_use]
    pub fn totals(&self) -> Option<(crate::model::OffsetRange, u64, TimestampMs)> {
        let (first, last) = (self.runs.first()?, self.runs.last()?);
        let offsets = crate::model::OffsetRange::new(first.sum.offsets.start, last.sum.offsets.end);
        let max = self.runs.iter().map(|run| run.max_timestamp).max()?;
        debug_assert!(first.pos.0 == 0, "a segment's first run lies at its start");
        Some((offsets, last.pos.0 + u64::from(last.sum.len), max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sample;

    #[test]
    fn runs_are_cut_at_one_mebibyte_and_big_batches_stand_alone() {
        let id = sample::partition(1);
        let mut index = SegmentIndex::default();
        let mut next = Offset::ZERO;
        for len in [400_000, 400_000, 400_000, 2_000_000, 10] {
            let batch = sample::batch(next, 1, len, 5);
            next = batch.header.next_offset();
            index.push(id, &batch);
        }
        let ends: Vec<u64> = index.runs().iter().map(|run| run.sum.offsets.end.get()).collect();
        assert_eq!(ends, [2, 3, 4, 5]);
        assert!(index.runs().windows(2).all(|w| w[0].pos.0 + u64::from(w[0].sum.len) == w[1].pos.0));
        assert_eq!(index.find(Offset::new(1)).map(|run| run.pos.0), Some(0));
        assert_eq!(index.find(Offset::new(3)).map(|run| run.sum.offsets.end.get()), Some(4));
        assert_eq!(index.find(Offset::new(5)), None);
    }

    #[test]
    fn a_sum_matches_only_its_own_partition_and_place() {
        let (id, mut index) = (sample::partition(1), SegmentIndex::default());
        let batch = sample::batch(Offset::new(7), 3, 100, 5);
        let sum = index.push(id, &batch);
        assert!(sum.matches(id, &batch.bytes));
        assert!(!sum.matches(sample::partition(2), &batch.bytes));
    }
}
