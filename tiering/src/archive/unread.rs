//! Partitions whose local log cannot be read now: each waits by itself, longer every time.
//!
//! Owns: that back-off, and the reasons that the status shows. Does not own: reading (`bundle`), what is damaged for
//! good (`quarantine`). Shard-local. At most one entry for each partition that waits for a bundle.

use std::collections::BTreeMap;
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{Offset, PartitionId};

use super::plan::Unarchived;

/// A read that failed.
#[derive(Debug)]
struct FailedRead {
    /// Where the read began: a partition that got further is not held back.
    from: Offset,
    /// Not tried again before.
    until: Mono,
    pause: Duration,
    reason: String,
}

#[derive(Debug, Default)]
pub(super) struct UnreadPartitions {
    failed: BTreeMap<PartitionId, FailedRead>,
}

impl UnreadPartitions {
    /// A read from `from` on failed; `backoff` is the first and the longest pause.
    pub(super) fn fails(
        &mut self,
        partition: PartitionId,
        from: Offset,
        reason: String,
        now: Mono,
        backoff: (Duration, Duration),
    ) {
        let before = self.failed.get(&partition).filter(|failed| failed.from == from);
        let pause = before.map_or(backoff.0, |failed| (failed.pause * 2).min(backoff.1));
        self.failed.insert(partition, FailedRead { from, until: now + pause, pause, reason });
    }

    /// A read of the partition worked.
    pub(super) fn reads(&mut self, partition: PartitionId) {
        self.failed.remove(&partition);
    }

    /// Takes partitions out of `unarchived` that have to wait, and forgets those that got further or have nothing to
    /// archive.
    pub(super) fn hold_back(&mut self, unarchived: &mut Vec<Unarchived>, now: Mono) {
        if self.failed.is_empty() {
            return;
        }
        let from: BTreeMap<PartitionId, Offset> = unarchived.iter().map(|p| (p.partition, p.offsets.start)).collect();
        self.failed.retain(|partition, failed| from.get(partition) == Some(&failed.from));
        unarchived.retain(|piece| self.failed.get(&piece.partition).is_none_or(|failed| failed.until <= now));
    }

    /// Is there no partition to come back to?
    pub(super) fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    /// Partitions that wait, and why.
    pub(super) fn reasons(&self) -> BTreeMap<PartitionId, String> {
        self.failed.iter().map(|(partition, failed)| (*partition, failed.reason.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Incarnation, OffsetRange, PartitionIndex, TopicId};

    use super::*;

    const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(300));

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn id(index: i32) -> PartitionId {
        PartitionId { topic: TopicId::default(), index: PartitionIndex(index), incarnation: Incarnation(0) }
    }

    fn now_tries(unread: &mut UnreadPartitions, starts: &[(i32, u64)], now: Mono) -> Vec<i32> {
        let waits = |(index, start): &(i32, u64)| Unarchived {
            partition: id(*index),
            offsets: OffsetRange::new(Offset::new(*start), Offset::new(100)),
            bytes: 1,
            since: at(0),
            lag: Duration::ZERO,
        };
        let mut unarchived: Vec<Unarchived> = starts.iter().map(waits).collect();
        unread.hold_back(&mut unarchived, now);
        unarchived.iter().map(|piece| piece.partition.index.0).collect()
    }

    #[test]
    fn a_partition_that_cannot_be_read_waits_alone_and_longer_every_time() {
        let mut unread = UnreadPartitions::default();
        let mut now = at(0);
        for pause in [100, 200, 300, 300] {
            unread.fails(id(0), Offset::new(5), "EIO".to_owned(), now, BACKOFF);
            let due = now + Duration::from_millis(pause);
            assert_eq!(now_tries(&mut unread, &[(0, 5), (1, 5)], now), [1]);
            let before = Mono::from_nanos(due.nanos() - 1);
            assert_eq!(now_tries(&mut unread, &[(0, 5), (1, 5)], before), [1]);
            assert_eq!(now_tries(&mut unread, &[(0, 5), (1, 5)], due), [0, 1]);
            now = due;
        }
        assert_eq!(unread.reasons().into_iter().collect::<Vec<_>>(), [(id(0), "EIO".to_owned())]);
        assert_eq!(now_tries(&mut unread, &[(0, 6)], now), [0], "it got further");
        assert!(unread.is_empty());
    }

    #[test]
    fn a_partition_that_was_read_or_is_gone_is_forgotten() {
        let mut unread = UnreadPartitions::default();
        (0..2).for_each(|n| unread.fails(id(n), Offset::new(5), "EIO".to_owned(), at(0), BACKOFF));
        unread.reads(id(0));
        assert_eq!(now_tries(&mut unread, &[(0, 5)], at(1)), [0]);
        assert!(unread.is_empty(), "the other waits for nothing");
    }
}
