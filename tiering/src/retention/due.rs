//! When each partition is to be looked at again, by the wall clock.
//!
//! Owns: the queue. Does not own: the clock, the looking. A clock that is set forward makes the partitions that it
//! passed due at the next look; a clock that is set back makes partitions wait, as it lowers the age of their records.
//! Shard-local by use.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{PartitionId, TimestampMs};

/// Partitions by the time at which their oldest records expire; a partition without such a time is not in the queue.
#[derive(Debug, Default)]
pub struct DueQueue {
    by_time: BTreeSet<(TimestampMs, PartitionId)>,
    of: BTreeMap<PartitionId, TimestampMs>,
}

impl DueQueue {
    /// Sets a partition's time, or takes it out.
    pub fn set(&mut self, partition: PartitionId, at: Option<TimestampMs>) {
        let before = match at {
            Some(at) => self.of.insert(partition, at),
            None => self.of.remove(&partition),
        };
        if let Some(before) = before {
            self.by_time.remove(&(before, partition));
        }
        if let Some(at) = at {
            self.by_time.insert((at, partition));
        }
    }

    /// Takes out the partitions that are due.
    pub fn take(&mut self, now: TimestampMs) -> Vec<PartitionId> {
        let mut due = Vec::new();
        while let Some((at, partition)) = self.by_time.first().copied().filter(|(at, _)| *at <= now) {
            self.by_time.remove(&(at, partition));
            self.of.remove(&partition);
            due.push(partition);
        }
        due
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_time.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Incarnation, PartitionIndex, TopicId};

    use super::*;

    fn id(index: i32) -> PartitionId {
        PartitionId { topic: TopicId::default(), index: PartitionIndex(index), incarnation: Incarnation(0) }
    }

    #[test]
    fn the_earliest_first_and_the_last_word_counts() {
        let mut queue = DueQueue::default();
        queue.set(id(1), Some(TimestampMs(30)));
        queue.set(id(2), Some(TimestampMs(10)));
        queue.set(id(3), Some(TimestampMs(20)));
        queue.set(id(1), Some(TimestampMs(5)));
        queue.set(id(3), None);
        assert!(queue.take(TimestampMs(4)).is_empty());
        assert_eq!(queue.take(TimestampMs(10)), [id(1), id(2)]);
        assert!(queue.is_empty() && queue.take(TimestampMs(1000)).is_empty());
    }

    #[test]
    fn a_clock_that_is_set_makes_due_or_wait() {
        let mut queue = DueQueue::default();
        queue.set(id(1), Some(TimestampMs(100)));
        assert!(queue.take(TimestampMs(-50)).is_empty(), "set back");
        assert_eq!(queue.take(TimestampMs(10_000)), [id(1)], "set forward");
    }
}
