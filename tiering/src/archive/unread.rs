//! Partitions whose local log cannot be read now: each waits by itself, longer every time.
//!
//! Owns: that back-off, and what people are told of it. Does not own: reading (`bundle`), what is damaged for good
//! (`quarantine`). Shard-local. At most one entry for each partition that waits for a bundle.

use std::collections::BTreeMap;
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{Offset, PartitionId};

use super::plan::Pending;

/// A read that failed.
#[derive(Debug)]
struct Failed {
    /// Where it began: a partition that got further is another matter.
    from: Offset,
    /// Not tried again before.
    until: Mono,
    pause: Duration,
    reason: String,
}

/// See the header.
#[derive(Debug, Default)]
pub(super) struct Unread {
    failed: BTreeMap<PartitionId, Failed>,
}

impl Unread {
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
        self.failed.insert(partition, Failed { from, until: now + pause, pause, reason });
    }

    /// It was read.
    pub(super) fn reads(&mut self, partition: PartitionId) {
        self.failed.remove(&partition);
    }

    /// Takes out of `pending` what has to wait, and forgets what got further or waits for no bundle any more.
    pub(super) fn hold_back(&mut self, pending: &mut Vec<Pending>, now: Mono) {
        if self.failed.is_empty() {
            return;
        }
        let from: BTreeMap<PartitionId, Offset> = pending.iter().map(|p| (p.partition, p.offsets.start)).collect();
        self.failed.retain(|partition, failed| from.get(partition) == Some(&failed.from));
        pending.retain(|piece| self.failed.get(&piece.partition).is_none_or(|failed| failed.until <= now));
    }

    /// Is there anything to come back to although nothing stirs?
    pub(super) fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    /// Who waits and why.
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

    fn now_tries(unread: &mut Unread, starts: &[(i32, u64)], now: Mono) -> Vec<i32> {
        let waits = |(index, start): &(i32, u64)| Pending {
            partition: id(*index),
            offsets: OffsetRange::new(Offset::new(*start), Offset::new(100)),
            bytes: 1,
            since: at(0),
            lag: Duration::ZERO,
        };
        let mut pending: Vec<Pending> = starts.iter().map(waits).collect();
        unread.hold_back(&mut pending, now);
        pending.iter().map(|piece| piece.partition.index.0).collect()
    }

    #[test]
    fn who_cannot_be_read_waits_alone_and_longer_every_time() {
        let mut unread = Unread::default();
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
    fn what_was_read_or_is_gone_is_forgotten() {
        let mut unread = Unread::default();
        (0..2).for_each(|n| unread.fails(id(n), Offset::new(5), "EIO".to_owned(), at(0), BACKOFF));
        unread.reads(id(0));
        assert_eq!(now_tries(&mut unread, &[(0, 5)], at(1)), [0]);
        assert!(unread.is_empty(), "the other waits for nothing");
    }
}
