//! Total retention: where the log of a partition may begin, given what it holds and its topic's settings.
//!
//! Owns: the decision, in Kafka's terms (`retention.ms`, `retention.bytes`). Does not own: when it is made, the command
//! that moves the start, the deletion of objects. Pure.
//!
//! As in Kafka whole extents go, oldest first: by time while the newest record of the oldest extent is too old, by size
//! while what remains without it is still at least `retention.bytes`. The unarchived tail counts for size and never
//! goes.

mod due;

use tidewater_storage::model::{Offset, OffsetRange, TimestampMs};

pub use due::DueQueue;

/// Retention settings of a topic. `None` is Kafka's -1: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// `retention.ms`.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`, per partition.
    pub retention_bytes: Option<u64>,
}

/// A range of the partition that can only go as a whole: what it has in one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub offsets: OffsetRange,
    pub bytes: u64,
    /// The greatest timestamp in it; [`TimestampMs::NONE`] never expires by time.
    pub max_timestamp: TimestampMs,
}

/// Why a log start moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetentionCause {
    Time,
    Size,
}

/// The new log start and what decided it; `None` when nothing may go.
///
/// `extents` ascending, without overlap; `tail_bytes` is what the partition holds after them. `log_start` is the
/// present start: an extent that lies below it is ignored, one that it cuts counts whole.
#[must_use]
pub fn plan(
    extents: &[Extent],
    tail_bytes: u64,
    log_start: Offset,
    now: TimestampMs,
    policy: RetentionPolicy,
) -> Option<(Offset, RetentionCause)> {
    let mut left: u64 = extents.iter().filter(|e| e.offsets.end > log_start).map(|e| e.bytes).sum();
    left = left.saturating_add(tail_bytes);
    let mut moved = None;
    for extent in extents.iter().filter(|e| e.offsets.end > log_start) {
        let Some(cause) = expired(extent, left, now, policy) else { break };
        left = left.saturating_sub(extent.bytes);
        moved = Some((extent.offsets.end, cause));
    }
    moved
}

/// When the oldest of `extents` above `log_start` becomes too old; `None` if it never does. By size nothing expires
/// with time.
#[must_use]
pub fn due(extents: &[Extent], log_start: Offset, policy: RetentionPolicy) -> Option<TimestampMs> {
    let oldest = extents.iter().find(|e| e.offsets.end > log_start).filter(|e| e.max_timestamp != TimestampMs::NONE)?;
    let most = i64::try_from(policy.retention_ms?).unwrap_or(i64::MAX);
    Some(TimestampMs(oldest.max_timestamp.0.saturating_add(most).saturating_add(1)))
}

fn expired(extent: &Extent, left: u64, now: TimestampMs, policy: RetentionPolicy) -> Option<RetentionCause> {
    let age = u64::try_from(now.since_ms(extent.max_timestamp)).unwrap_or(0);
    let dated = extent.max_timestamp != TimestampMs::NONE;
    if dated && policy.retention_ms.is_some_and(|most| age > most) {
        return Some(RetentionCause::Time);
    }
    let without = left.saturating_sub(extent.bytes);
    policy.retention_bytes.is_some_and(|least| without >= least && left > least).then_some(RetentionCause::Size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents(sizes: &[(u64, i64)]) -> Vec<Extent> {
        let piece = |(n, &(bytes, at)): (usize, &(u64, i64))| Extent {
            offsets: OffsetRange::new(Offset::new(n as u64 * 10), Offset::new(n as u64 * 10 + 10)),
            bytes,
            max_timestamp: TimestampMs(at),
        };
        sizes.iter().enumerate().map(piece).collect()
    }

    const NOW: TimestampMs = TimestampMs(1_000);

    #[test]
    fn without_limits_all_stays() {
        assert_eq!(plan(&extents(&[(5, 0), (5, 0)]), 0, Offset::ZERO, NOW, RetentionPolicy::default()), None);
    }

    #[test]
    fn time_stops_at_the_first_that_is_young_enough() {
        let policy = RetentionPolicy { retention_ms: Some(100), retention_bytes: None };
        let held = extents(&[(5, 10), (5, 899), (5, 900), (5, 20)]);
        assert_eq!(plan(&held, 0, Offset::ZERO, NOW, policy), Some((Offset::new(20), RetentionCause::Time)));
        assert_eq!(plan(&held, 0, Offset::new(20), NOW, policy), None);
    }

    #[test]
    fn due_is_when_the_oldest_expires() {
        let policy = RetentionPolicy { retention_ms: Some(100), retention_bytes: None };
        let held = extents(&[(5, 10), (5, 899), (5, -1)]);
        let at = due(&held, Offset::new(10), policy).expect("it ages");
        assert_eq!(at, TimestampMs(1000));
        assert_eq!(plan(&held, 0, Offset::new(10), TimestampMs(at.0 - 1), policy), None);
        assert_eq!(plan(&held, 0, Offset::new(10), at, policy), Some((Offset::new(20), RetentionCause::Time)));
        assert_eq!(due(&held, Offset::new(20), policy), None, "undated");
        assert_eq!(due(&held, Offset::ZERO, RetentionPolicy::default()), None, "no limit");
    }

    #[test]
    fn undated_extents_never_expire() {
        let policy = RetentionPolicy { retention_ms: Some(100), retention_bytes: None };
        assert_eq!(plan(&extents(&[(5, -1)]), 0, Offset::ZERO, NOW, policy), None);
    }

    #[test]
    fn size_counts_the_tail_and_keeps_at_least_the_limit() {
        let policy = RetentionPolicy { retention_ms: None, retention_bytes: Some(10) };
        let held = extents(&[(5, 1), (5, 1), (5, 1)]);
        assert_eq!(plan(&held, 3, Offset::ZERO, NOW, policy), Some((Offset::new(10), RetentionCause::Size)));
        assert_eq!(plan(&held, 15, Offset::ZERO, NOW, policy), Some((Offset::new(30), RetentionCause::Size)));
        assert_eq!(plan(&held[..2], 0, Offset::ZERO, NOW, policy), None, "exactly the limit stays");
    }

    proptest! {
        #[test]
        fn start_only_moves_forward_to_an_edge(
            sizes in proptest::collection::vec((0u64..100, -1i64..2_000), 0..20),
            tail in 0u64..100,
            start in 0u64..250,
            ms in proptest::option::of(0u64..1_000),
            bytes in proptest::option::of(0u64..500),
        ) {
            let held = extents(&sizes);
            let policy = RetentionPolicy { retention_ms: ms, retention_bytes: bytes };
            if let Some((to, _)) = plan(&held, tail, Offset::new(start), NOW, policy) {
                prop_assert!(to > Offset::new(start));
                prop_assert!(held.iter().any(|e| e.offsets.end == to));
                let left: u64 = held.iter().filter(|e| e.offsets.start >= to).map(|e| e.bytes).sum::<u64>() + tail;
                if ms.is_none() {
                    prop_assert!(bytes.is_none_or(|least| left >= least));
                }
            }
        }
    }
}
