//! What happened to the partitions of a lane, kept until a bundle in the bucket carries it. Shard-local.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, LogIndex, Offset, PartitionId, TopicName};

/// A lane event as the lane's checkpoint holds it; bundles carry it as [`tidewater_tiering::format::LaneEvent`]. Two
/// types, because each is frozen by its own format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LaneEvent {
    Created {
        partition: PartitionId,
        topic: TopicName,
        overrides: BTreeMap<String, String>,
        /// Leader epoch = this + the lane's term.
        epoch_base: i32,
    },
    /// The partition's topic was deleted.
    Dropped { partition: PartitionId },
    /// Records below `to` were deleted.
    LogStartMoved { partition: PartitionId, to: Offset },
}

/// Every checkpoint of the lane writes all events, some 200 bytes each, also while no bundle can be written.
const EVENTS_MAX: usize = 10_000;

/// Events by the log index of their entry, ascending. The newest move of a partition's log start replaces earlier ones.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct LaneEvents(VecDeque<(LogIndex, LaneEvent)>);

impl LaneEvents {
    /// Adds an event. Beyond [`EVENTS_MAX`] the oldest goes: see [`LaneEvents::is_full`].
    pub(super) fn push(&mut self, lane: LaneId, index: LogIndex, event: LaneEvent) {
        assert!(
            self.last().is_none_or(|last| last <= index),
            "lane {lane}: an event of {index} after {:?}",
            self.last()
        );
        if self.0.len() == EVENTS_MAX {
            self.forget_superseded();
        }
        if self.0.len() == EVENTS_MAX {
            let oldest = self.0.pop_front();
            tracing::warn!(%lane, ?oldest, "a lane event makes room for newer ones, {EVENTS_MAX} of which wait for the bucket; the next bundle carries the lane's state instead");
        }
        self.0.push_back((index, event));
    }

    /// At its bound, events may have been lost. A bundle then carries the lane's state beside the events.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= EVENTS_MAX
    }

    /// Of several moves of a partition's log start only the newest counts.
    fn forget_superseded(&mut self) {
        let mut newest = BTreeMap::new();
        for (n, (_, event)) in self.0.iter().enumerate() {
            if let LaneEvent::LogStartMoved { partition, .. } = event {
                newest.insert(*partition, n);
            }
        }
        let mut n = 0;
        self.0.retain(|(_, event)| {
            n += 1;
            match event {
                LaneEvent::LogStartMoved { partition, .. } => newest.get(partition) == Some(&(n - 1)),
                LaneEvent::Created { .. } | LaneEvent::Dropped { .. } => true,
            }
        });
    }

    pub(super) fn last(&self) -> Option<LogIndex> {
        self.0.back().map(|(index, _)| *index)
    }

    pub(super) fn after(&self, after: LogIndex) -> Vec<LaneEvent> {
        self.0.iter().filter(|(index, _)| *index > after).map(|(_, event)| event.clone()).collect()
    }

    /// Forgets events up to `upto`: a bundle in the bucket carries them.
    pub(super) fn forget(&mut self, upto: LogIndex) {
        let count = self.0.partition_point(|(index, _)| *index <= upto);
        if count > 0 {
            self.0.drain(..count);
            self.0.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::PartitionIndex;

    use super::*;

    fn moved(index: i32, to: u64) -> LaneEvent {
        let partition = PartitionId { index: PartitionIndex(index), ..PartitionId::default() };
        LaneEvent::LogStartMoved { partition, to: Offset::new(to) }
    }

    #[test]
    fn log_starts_that_move_on_push_out_no_other_event() {
        let mut events = LaneEvents::default();
        let dropped = LaneEvent::Dropped { partition: PartitionId::default() };
        events.push(LaneId(1), LogIndex(1), dropped.clone());
        for n in 0..3 * EVENTS_MAX as u64 {
            events.push(LaneId(1), LogIndex(2 + n), moved((n % 7) as i32, n));
        }
        let held = events.after(LogIndex(0));
        assert!(held.len() <= EVENTS_MAX && held.first() == Some(&dropped), "{} events", held.len());
        assert_eq!(held.last(), Some(&moved(((3 * EVENTS_MAX - 1) % 7) as i32, 3 * EVENTS_MAX as u64 - 1)));
    }

    #[test]
    fn a_list_that_lost_events_is_full_until_a_bundle_carries_them() {
        let mut events = LaneEvents::default();
        let dropped = |n: u64| {
            let partition = PartitionId { index: PartitionIndex(n as i32), ..PartitionId::default() };
            LaneEvent::Dropped { partition }
        };
        (1..EVENTS_MAX as u64).for_each(|n| events.push(LaneId(1), LogIndex(n), dropped(n)));
        assert!(!events.is_full());
        (EVENTS_MAX as u64..=EVENTS_MAX as u64 + 5).for_each(|n| events.push(LaneId(1), LogIndex(n), dropped(n)));
        assert!(events.is_full());
        events.forget(LogIndex(EVENTS_MAX as u64 + 5));
        assert!(!events.is_full());
    }

    #[test]
    fn events_in_a_bundle_are_forgotten() {
        let mut events = LaneEvents::default();
        for n in 1..=5 {
            events.push(LaneId(1), LogIndex(n), moved(0, n));
        }
        events.forget(LogIndex(3));
        events.forget(LogIndex(3));
        assert_eq!((events.after(LogIndex(0)).len(), events.after(LogIndex(4))), (2, vec![moved(0, 5)]));
    }
}
