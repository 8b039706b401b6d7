//! What clients were answered before the disaster, and what of it a restore has to bring back. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::super::content::Checksum;

/// A partition as its writer knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct PartitionLedger {
    /// In the order of the log.
    batches: Vec<SentBatch>,
    /// How many of them were acknowledged.
    acknowledged: usize,
}

#[derive(Clone, Copy, Debug)]
struct SentBatch {
    /// The offset after it.
    end: u64,
    /// Over all records below `end`.
    sum: Checksum,
    /// When it was acknowledged; none if it was not.
    at: Option<Instant>,
}

/// What a restore did not bring back of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// Acknowledged records.
    pub(super) records: u64,
    /// When the first of them was acknowledged.
    pub(super) since: Option<Instant>,
}

impl PartitionLedger {
    /// A batch that ends at `end` is being sent.
    pub(super) fn send(&mut self, end: u64, sum: Checksum) {
        self.batches.push(SentBatch { end, sum, at: None });
    }

    /// The first batch without an answer was acknowledged.
    pub(super) fn acknowledge(&mut self, at: Instant) {
        if let Some(batch) = self.batches.get_mut(self.acknowledged) {
            batch.at = Some(at);
            self.acknowledged += 1;
        }
    }

    /// The offset after the last acknowledged record.
    pub(super) fn end(&self) -> u64 {
        self.acknowledged.checked_sub(1).and_then(|last| self.batches.get(last)).map_or(0, |batch| batch.end)
    }

    /// The checksum of the records below `end`; `None` if no batch that was sent ends there.
    pub(super) fn sum(&self, end: u64) -> Option<Checksum> {
        if end == 0 {
            return Some(Checksum::default());
        }
        self.batches.iter().find(|batch| batch.end == end).map(|batch| batch.sum)
    }

    /// What is lost of a log that now ends at `end`.
    pub(super) fn lost(&self, end: u64) -> Lost {
        let since = self.batches.iter().find(|batch| batch.end > end).and_then(|batch| batch.at);
        Lost { records: self.end().saturating_sub(end), since }
    }
}

/// The offsets that a group committed.
#[derive(Clone, Debug, Default)]
pub(super) struct GroupLedger {
    commits: Vec<Commit>,
    /// How many of them were acknowledged.
    acknowledged: usize,
}

#[derive(Clone, Debug)]
struct Commit {
    /// By partition.
    offsets: BTreeMap<i32, u64>,
    at: Option<Instant>,
}

impl GroupLedger {
    /// A commit is being sent.
    pub(super) fn send(&mut self, offsets: BTreeMap<i32, u64>) {
        self.commits.push(Commit { offsets, at: None });
    }

    /// The first commit without an answer was acknowledged.
    pub(super) fn acknowledge(&mut self, at: Instant) {
        if let Some(commit) = self.commits.get_mut(self.acknowledged) {
            commit.at = Some(at);
            self.acknowledged += 1;
        }
    }

    /// How many commits were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged
    }

    /// Which commit `restored` is, by partition, where logs now end at `ends`: an offset beyond the end of a log came
    /// back as that end. `None`: it is no commit of this group.
    pub(super) fn which(&self, restored: &BTreeMap<i32, u64>, ends: &BTreeMap<i32, u64>) -> Option<usize> {
        self.commits.iter().rposition(|commit| {
            commit.offsets.len() == restored.len()
                && commit.offsets.iter().all(|(partition, offset)| {
                    let end = ends.get(partition).copied().unwrap_or(0);
                    restored.get(partition) == Some(offset.min(&end))
                })
        })
    }

    /// When the commit after this one was acknowledged: the first that is lost; `None` if none is.
    pub(super) fn lost_since(&self, which: usize) -> Option<Instant> {
        self.commits.get(which + 1).and_then(|commit| commit.at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ledger(acknowledged: usize, begun: Instant) -> PartitionLedger {
        let mut ledger = PartitionLedger::default();
        for n in 1..=3u64 {
            ledger.send(n * 100, Checksum(n));
            if n as usize <= acknowledged {
                ledger.acknowledge(begun + Duration::from_secs(n));
            }
        }
        ledger
    }

    #[test]
    fn what_is_lost_begins_with_the_first_acknowledged_batch_that_is_not_there() {
        let begun = Instant::now();
        let of = ledger(3, begun);
        assert_eq!(of.end(), 300);
        assert_eq!(of.lost(100), Lost { records: 200, since: Some(begun + Duration::from_secs(2)) });
        assert_eq!(of.lost(300), Lost { records: 0, since: None });
        assert_eq!(of.lost(0), Lost { records: 300, since: Some(begun + Duration::from_secs(1)) });
    }

    #[test]
    fn a_batch_whose_answer_was_lost_may_be_there() {
        let of = ledger(2, Instant::now());
        assert_eq!((of.end(), of.lost(300)), (200, Lost { records: 0, since: None }));
        assert_eq!(of.lost(200), Lost { records: 0, since: None });
        assert_eq!(of.sum(300), Some(Checksum(3)));
    }

    #[test]
    fn a_log_that_ends_within_a_batch_or_beyond_all_is_none_that_was_written() {
        let of = ledger(3, Instant::now());
        assert_eq!([of.sum(150), of.sum(301)], [None, None]);
        assert_eq!([of.sum(0), of.sum(200)], [Some(Checksum(0)), Some(Checksum(2))]);
    }

    #[test]
    fn offsets_of_the_group_are_those_of_one_commit_cut_at_the_ends() {
        let begun = Instant::now();
        let mut group = GroupLedger::default();
        let offsets = |a, b| BTreeMap::from([(0, a), (1, b)]);
        for (n, of) in [offsets(10, 10), offsets(20, 30), offsets(40, 50)].into_iter().enumerate() {
            group.send(of);
            group.acknowledge(begun + Duration::from_secs(n as u64));
        }
        assert_eq!(group.acknowledged(), 3);
        assert_eq!(group.which(&offsets(20, 30), &offsets(99, 99)), Some(1));
        assert_eq!(group.which(&offsets(35, 50), &offsets(35, 60)), Some(2));
        assert_eq!(group.which(&offsets(20, 10), &offsets(99, 99)), None);
        assert_eq!(group.which(&BTreeMap::new(), &offsets(99, 99)), None);
        assert_eq!((group.lost_since(1), group.lost_since(2)), (Some(begun + Duration::from_secs(2)), None));
    }
}
