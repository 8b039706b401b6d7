//! When the next bundle of a lane is due and what goes into it.
//!
//! Owns: that decision. Does not own: reading, writing, segment objects (`segment`), gathering (`gather`). Pure.
//!
//! A bundle is due when the earliest `archive.lag.ms` has passed; then all new batches go, with any lag of their own,
//! so that PUTs depend on lanes and time and never on the number of partitions. One exception saves the second upload
//! of busy partitions: a partition that will have enough for a part by the time it is due itself waits until then. A
//! partition with much new data makes a bundle due at once; that bundle takes only partitions that fill parts. What has
//! waited longest goes first, so a cap that cuts delays no partition twice.

use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{OffsetRange, PartitionId};

/// What a partition has that the bucket does not. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unarchived {
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

impl Unarchived {
    fn due(&self) -> Mono {
        self.since + self.lag
    }

    /// At the rate so far, will it have `bytes` when it is due?
    fn will_reach(&self, bytes: u64, now: Mono) -> bool {
        let elapsed = now.since(self.since).as_nanos();
        u128::from(self.bytes) * self.lag.as_nanos() >= u128::from(bytes) * elapsed
    }
}

/// Bounds of one bundle, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct BundlePolicy {
    /// A bundle and its parts take no more than this together, but always at least one batch.
    pub bundle_bytes_max: u64,
    /// A partition with this much goes into a part of its own.
    pub part_bytes_min: u64,
    /// A partition with this much makes a bundle due at once.
    pub part_bytes_eager: u64,
    /// This much over all partitions makes everything due at once.
    pub waiting_bytes_max: u64,
}

/// What the next bundle takes of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTake {
    pub partition: PartitionId,
    /// All of the partition that is not archived.
    pub offsets: OffsetRange,
    /// Read no more than this, but at least one batch.
    pub bytes_max: u64,
}

/// What to do about bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundlePlan {
    Idle,
    /// Nothing is due before this time.
    NotBefore(Mono),
    /// Write one with these, in this order.
    Now(Vec<PartitionTake>),
}

/// Decides about the next bundle. `events_due` is when lane events must be in a bundle, `None` without events; every
/// bundle carries them.
#[must_use]
pub fn next_bundle(unarchived: &[Unarchived], events_due: Option<Mono>, now: Mono, policy: BundlePolicy) -> BundlePlan {
    let mut waiting: Vec<&Unarchived> = unarchived.iter().filter(|p| !p.offsets.is_empty()).collect();
    waiting.sort_by_key(|p| (p.due(), p.partition));
    let Some(earliest) = waiting.first().map(|p| p.due()).into_iter().chain(events_due).min() else {
        return BundlePlan::Idle;
    };
    let total = waiting.iter().fold(0u64, |sum, p| sum.saturating_add(p.bytes));
    let fills_part = |p: &Unarchived| p.bytes >= policy.part_bytes_min;
    let all_is_due = total >= policy.waiting_bytes_max;
    let some_is_due = now >= earliest;
    if !all_is_due && !some_is_due && !waiting.iter().any(|p| p.bytes >= policy.part_bytes_eager) {
        return BundlePlan::NotBefore(earliest);
    }
    let goes = |p: &Unarchived| {
        let is_growing = p.due() > now && p.will_reach(policy.part_bytes_min, now);
        all_is_due || fills_part(p) || (some_is_due && !is_growing)
    };
    let mut room = policy.bundle_bytes_max;
    let mut takes: Vec<PartitionTake> = Vec::new();
    for p in waiting.into_iter().filter(|p| goes(p)) {
        if room == 0 {
            break;
        }
        // The rest of the room would make a busy partition's bytes inline; it goes with the next bundle.
        if fills_part(p) && room < policy.part_bytes_min && !takes.is_empty() {
            continue;
        }
        takes.push(PartitionTake { partition: p.partition, offsets: p.offsets, bytes_max: room });
        room = room.saturating_sub(p.bytes);
    }
    BundlePlan::Now(takes)
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Incarnation, Offset, PartitionIndex, TopicId};

    use super::*;

    const POLICY: BundlePolicy =
        BundlePolicy { bundle_bytes_max: 1000, part_bytes_min: 400, part_bytes_eager: 800, waiting_bytes_max: 5000 };

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    fn waits(index: i32, bytes: u64, since: u64, lag: u64) -> Unarchived {
        Unarchived {
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
        let unarchived = [waits(0, 10, 0, 1_000), waits(1, 10, 50, 100), waits(2, 0, 0, 0)];
        assert_eq!(next_bundle(&unarchived, None, at(149), POLICY), BundlePlan::NotBefore(at(150)));
        assert_eq!(order(next_bundle(&unarchived, None, at(150), POLICY)), [(1, 1000), (0, 990)]);
    }

    #[test]
    fn enough_bytes_or_an_event_go_at_once() {
        let unarchived = [waits(0, 799, 0, 10_000)];
        assert_eq!(next_bundle(&unarchived, None, at(1), POLICY), BundlePlan::NotBefore(at(10_000)));
        assert_eq!(order(next_bundle(&unarchived, Some(at(1)), at(1), POLICY)), [(0, 1000)]);
        assert_eq!(order(next_bundle(&[waits(0, 800, 0, 10_000)], None, at(1), POLICY)), [(0, 1000)]);
        let many: Vec<Unarchived> = (0..20).map(|n| waits(n, 250, 0, 10_000)).collect();
        assert_eq!(order(next_bundle(&many, None, at(1), POLICY)).len(), 4, "a full disk is worse than small rows");
        assert_eq!(next_bundle(&many[..19], None, at(1), POLICY), BundlePlan::NotBefore(at(10_000)));
    }

    #[test]
    fn a_bundle_that_is_early_takes_only_what_fills_parts() {
        let unarchived = [waits(0, 10, 0, 10_000), waits(1, 399, 0, 10_000), waits(2, 850, 90, 10_000)];
        assert_eq!(order(next_bundle(&unarchived, None, at(100), POLICY)), [(2, 1000)]);
    }

    #[test]
    fn a_partition_that_grows_waits_for_its_own_time_and_no_longer() {
        // 100 bytes in 100 ms are 1,000 in a second.
        let unarchived = [waits(0, 10, 0, 200), waits(1, 100, 100, 1_000)];
        assert_eq!(order(next_bundle(&unarchived, None, at(200), POLICY)), [(0, 1000)]);
        let slow = [waits(0, 10, 0, 200), waits(1, 39, 100, 1_000)];
        assert_eq!(order(next_bundle(&slow, None, at(200), POLICY)), [(0, 1000), (1, 990)]);
        assert_eq!(order(next_bundle(&[waits(1, 399, 100, 1_000)], None, at(1_100), POLICY)), [(1, 1000)]);
    }

    #[test]
    fn the_cap_cuts_the_youngest_and_leaves_a_busy_partition_for_the_next_bundle() {
        let small = |n, since| waits(n, 390, since, 100);
        let unarchived = [small(0, 20), small(1, 10), small(2, 30), small(3, 40)];
        assert_eq!(order(next_bundle(&unarchived, None, at(200), POLICY)), [(1, 1000), (0, 610), (2, 220)]);
        let busy = [waits(0, 700, 20, 100), waits(1, 700, 10, 100), waits(2, 30, 30, 100)];
        assert_eq!(order(next_bundle(&busy, None, at(200), POLICY)), [(1, 1000), (2, 300)]);
    }

    #[test]
    fn nothing_waits() {
        assert_eq!(next_bundle(&[waits(0, 0, 0, 0)], None, at(5), POLICY), BundlePlan::Idle);
        assert_eq!(order(next_bundle(&[], Some(at(5)), at(5), POLICY)), []);
    }
}
