//! What the sink does next: a pure function of the clock, the log's bounds and the table's offsets.
//!
//! Owns: the lag target, the order of a backlog, what to do about offsets that retention took before the table had
//! them. Does not own: reading, writing, committing; the byte cap, which is applied while reading, because the size of
//! a range is not known before.

use std::collections::BTreeMap;

use tidewater_storage::model::{Offset, OffsetRange, PartitionIndex, TimestampMs};

use crate::read::PartitionBounds;

/// Next offset per partition; a partition that is not there begins at its log start.
pub type Offsets = BTreeMap<PartitionIndex, Offset>;

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    pub now: TimestampMs,
    /// When this sink committed last (or began).
    pub last_commit: TimestampMs,
    /// `iceberg.target.lag.ms`.
    pub target_lag_ms: i64,
    /// The last run stopped at its byte cap: there is more, do not wait.
    pub behind: bool,
    pub log: &'a [PartitionBounds],
    pub table: &'a Offsets,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The table holds everything.
    Idle,
    /// There are records, but they may wait until then, to make fewer and larger files.
    Wait { until: TimestampMs },
    /// Take these, each partition from the front, in the order given.
    Run {
        /// What to take, never empty.
        ranges: Vec<PlannedRange>,
    },
    /// The table is ahead of the log, which only a restore to an earlier point brings about.
    Ahead { partition: PartitionIndex, table: Offset, log: Offset },
}

/// One partition's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedRange {
    pub partition: PartitionIndex,
    pub offsets: OffsetRange,
    /// Offsets before it that are gone from the log without having reached the table; empty as a rule.
    pub lost: OffsetRange,
}

/// Decides. A table that is ahead of its log comes before anything else: it must not be written to.
#[must_use]
pub fn plan(situation: &Situation<'_>) -> Plan {
    let mut ranges = Vec::new();
    for bounds in situation.log {
        let log = bounds.offsets;
        let next = situation.table.get(&bounds.index).copied();
        if let Some(table) = next.filter(|next| *next > log.end) {
            return Plan::Ahead { partition: bounds.index, table, log: log.end };
        }
        let next = next.unwrap_or(log.start);
        let offsets = OffsetRange::new(next.max(log.start), log.end);
        let lost = OffsetRange::new(next, offsets.start);
        if !offsets.is_empty() || !lost.is_empty() {
            ranges.push(PlannedRange { partition: bounds.index, offsets, lost });
        }
    }
    if ranges.is_empty() {
        return Plan::Idle;
    }
    let until = situation.last_commit.min(situation.now).plus_ms(situation.target_lag_ms);
    if !situation.behind && situation.now < until {
        return Plan::Wait { until };
    }
    // Longest backlog first, so that no partition's lag grows without bound behind a busier one's.
    ranges.sort_by_key(|range| (std::cmp::Reverse(range.offsets.count()), range.partition));
    Plan::Run { ranges }
}

/// What the partition at the front may take when `left` bytes or hours are to be shared by `partitions`: a fair share,
/// but enough to be `worth` a read.
#[must_use]
pub fn share(left: usize, partitions: usize, worth: usize) -> usize {
    (left / partitions.max(1)).max(worth.min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(index: i32, start: u64, end: u64) -> PartitionBounds {
        PartitionBounds {
            index: PartitionIndex(index),
            offsets: OffsetRange::new(Offset::new(start), Offset::new(end)),
        }
    }

    fn situation<'a>(now: i64, log: &'a [PartitionBounds], table: &'a Offsets) -> Situation<'a> {
        let last_commit = TimestampMs(1000);
        Situation { now: TimestampMs(now), last_commit, target_lag_ms: 500, behind: false, log, table }
    }

    #[test]
    fn waits_for_the_lag_and_not_longer() {
        let (log, table) = ([bounds(0, 0, 10)], Offsets::new());
        assert_eq!(plan(&situation(1499, &log, &table)), Plan::Wait { until: TimestampMs(1500) });
        assert!(matches!(plan(&situation(1500, &log, &table)), Plan::Run { .. }));
        let behind = Situation { behind: true, ..situation(1001, &log, &table) };
        assert!(matches!(plan(&behind), Plan::Run { .. }));
    }

    #[test]
    fn a_clock_set_back_does_not_lengthen_the_wait() {
        let (log, table) = ([bounds(0, 0, 10)], Offsets::new());
        let last_commit = TimestampMs(86_400_000);
        let set_back = Situation { last_commit, ..situation(1000, &log, &table) };
        assert_eq!(plan(&set_back), Plan::Wait { until: TimestampMs(1500) });
    }

    #[test]
    fn idle_when_the_table_has_all() {
        let table = Offsets::from([(PartitionIndex(0), Offset::new(10))]);
        assert_eq!(plan(&situation(9999, &[bounds(0, 4, 10), bounds(1, 7, 7)], &table)), Plan::Idle);
    }

    #[test]
    fn longest_backlog_first_and_losses_named() {
        let table = Offsets::from([(PartitionIndex(0), Offset::new(3))]);
        let Plan::Run { ranges } = plan(&situation(9999, &[bounds(0, 5, 10), bounds(1, 0, 100)], &table)) else {
            unreachable!("there is something to do");
        };
        let order: Vec<_> = ranges.iter().map(|r| (r.partition.0, r.offsets.count(), r.lost.count())).collect();
        assert_eq!(order, [(1, 100, 0), (0, 5, 2)]);
    }

    #[test]
    fn a_table_ahead_of_its_log_is_not_written() {
        let table = Offsets::from([(PartitionIndex(0), Offset::new(11))]);
        assert!(matches!(plan(&situation(9999, &[bounds(0, 0, 10)], &table)), Plan::Ahead { .. }));
    }
}
