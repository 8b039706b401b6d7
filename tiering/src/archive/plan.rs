//! When the next bundle of a lane is due and what goes into it.
//!
//! Owns: that decision. Does not own: reading, writing, segment objects (`segment`), gathering (`gather`). Pure.
//!
//! The earliest `archive.lag.ms` of what waits decides when; then everything that is new goes, whatever its own lag, so
//! that PUTs depend on lanes and time and never on the number of partitions. What waits longest goes first, so a cap
//! that cuts delays nobody twice.

use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{OffsetRange, PartitionId};

/// A partition that holds something the bucket does not. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Whose.
    pub partition: PartitionId,
    /// From the archived end to the lower of high watermark and last stable offset.
    pub offsets: OffsetRange,
    /// Bytes in that range, or an estimate.
    pub bytes: u64,
    /// When the oldest of it was applied here.
    pub since: Mono,
    /// `archive.lag.ms` of its topic.
    pub lag: Duration,
}

impl Pending {
    fn due(&self) -> Mono {
        self.since + self.lag
    }
}

/// Bounds of one bundle.
#[derive(Clone, Copy, Debug)]
pub struct BundlePolicy {
    /// A bundle takes no more than this, but always at least one batch.
    pub bundle_bytes_max: u64,
    /// So much waiting makes a bundle due before its time.
    pub bundle_bytes_eager: u64,
}

/// One partition's part of the next bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// Whose.
    pub partition: PartitionId,
    /// What waits of it.
    pub offsets: OffsetRange,
    /// Read no more than this, but at least one batch.
    pub bytes_max: u64,
}

/// What to do about bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundlePlan {
    /// Nothing waits.
    Idle,
    /// Something waits, but not long enough.
    NotBefore(Mono),
    /// Write one with these, in this order.
    Now(Vec<Take>),
}

/// Decides about the next bundle. `events` says that the lane has something to tell that no batch carries (a partition
/// was created or dropped, a log start moved) and since when; it takes the shortest lag of the lane.
#[must_use]
pub fn next_bundle(pending: &[Pending], events: Option<Mono>, now: Mono, policy: BundlePolicy) -> BundlePlan {
    let mut waiting: Vec<&Pending> = pending.iter().filter(|p| !p.offsets.is_empty()).collect();
    waiting.sort_by_key(|p| (p.due(), p.partition));
    let Some(due) = waiting.first().map(|p| p.due()).into_iter().chain(events).min() else { return BundlePlan::Idle };
    let bytes: u64 = waiting.iter().map(|p| p.bytes).sum();
    if now < due && bytes < policy.bundle_bytes_eager {
        return BundlePlan::NotBefore(due);
    }
    let mut room = policy.bundle_bytes_max;
    let mut takes = Vec::new();
    for piece in waiting {
        if room == 0 {
            break;
        }
        takes.push(Take { partition: piece.partition, offsets: piece.offsets, bytes_max: room });
        room = room.saturating_sub(piece.bytes);
    }
    BundlePlan::Now(takes)
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Incarnation, Offset, PartitionIndex, TopicId};

    use super::*;

    const POLICY: BundlePolicy = BundlePolicy { bundle_bytes_max: 1000, bundle_bytes_eager: 800 };

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn waits(index: i32, bytes: u64, since: u64, lag: u64) -> Pending {
        Pending {
            partition: PartitionId {
                topic: TopicId::default(),
                index: PartitionIndex(index),
                incarnation: Incarnation(0),
            },
            offsets: OffsetRange::new(Offset::ZERO, Offset::new(bytes)),
            bytes,
            since: at(since),
            lag: Duration::from_millis(lag),
        }
    }

    fn order(plan: BundlePlan) -> Vec<(i32, u64)> {
        match plan {
            BundlePlan::Now(takes) => takes.iter().map(|t| (t.partition.index.0, t.bytes_max)).collect(),
            BundlePlan::Idle | BundlePlan::NotBefore(_) => Vec::new(),
        }
    }

    #[test]
    fn the_earliest_lag_decides_and_then_all_goes() {
        let pending = [waits(0, 10, 0, 10_000), waits(1, 10, 50, 100), waits(2, 0, 0, 0)];
        assert_eq!(next_bundle(&pending, None, at(149), POLICY), BundlePlan::NotBefore(at(150)));
        assert_eq!(order(next_bundle(&pending, None, at(150), POLICY)), [(1, 1000), (0, 990)]);
    }

    #[test]
    fn enough_bytes_or_an_event_go_at_once() {
        let pending = [waits(0, 799, 0, 10_000)];
        assert_eq!(next_bundle(&pending, None, at(1), POLICY), BundlePlan::NotBefore(at(10_000)));
        assert_eq!(order(next_bundle(&pending, Some(at(1)), at(1), POLICY)), [(0, 1000)]);
        assert_eq!(order(next_bundle(&[waits(0, 800, 0, 10_000)], None, at(1), POLICY)), [(0, 1000)]);
    }

    #[test]
    fn the_cap_cuts_the_youngest() {
        let pending = [waits(0, 700, 20, 100), waits(1, 700, 10, 100), waits(2, 700, 30, 100)];
        assert_eq!(order(next_bundle(&pending, None, at(200), POLICY)), [(1, 1000), (0, 300)]);
    }

    #[test]
    fn nothing_waits() {
        assert_eq!(next_bundle(&[waits(0, 0, 0, 0)], None, at(5), POLICY), BundlePlan::Idle);
        assert_eq!(order(next_bundle(&[], Some(at(5)), at(5), POLICY)), []);
    }
}
