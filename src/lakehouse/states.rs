//! How far each topic's table is, as the admin API and metrics show it. *Node-wide*.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;
use tidewater_storage::model::TopicId;

use crate::config::topic::IcebergMode;
use crate::controller::image::TopicImage;
use crate::partition::message::PartitionStatus;

/// One topic's table.
#[derive(Clone, Debug, Default)]
pub struct TableState {
    /// `namespace.table`.
    pub table: String,
    /// The table's next offset and the records it may take and has not, by partition.
    pub partitions: BTreeMap<i32, (u64, u64)>,
    /// Ranges left out, with the reason, by partition.
    pub skipped: BTreeMap<i32, Vec<String>>,
    /// Why the table is not brought up to date, if so.
    pub paused: Option<String>,
    /// Why a partition is not read, while the others go on.
    pub unreadable: BTreeMap<i32, String>,
    /// What holds up the table or a partition of it, in the words of the metric.
    pub held_by: BTreeSet<&'static str>,
    /// Rows this sink has committed.
    pub rows: u64,
    pub commits: u64,
    /// `None` where no value can be a dead letter.
    pub dead_letters: Option<DeadLettersState>,
}

/// A topic's dead letters, as `GET /v1/topics/{topic}` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeadLettersState {
    /// `namespace.table`.
    pub table: String,
    /// Rows of that table, as last seen; `None` without such a table.
    pub rows: Option<u64>,
    /// Those that this broker's sink has committed.
    pub committed: u64,
    /// The first one of the sink's last commit that had any.
    pub last: Option<DeadLetter>,
}

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    pub partition: i32,
    pub offset: u64,
    pub reason: String,
}

/// What the admin API shows of a topic's table beside its partitions. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableView {
    /// `namespace.table`.
    pub table: String,
    pub held_by: Vec<&'static str>,
    pub dead_letters: Option<DeadLettersState>,
}

/// A table in figures, for metrics. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableSums {
    /// Records it may take and has not.
    pub lag_records: u64,
    pub skipped_ranges: u64,
    /// The table, or a partition of it, is not brought up to date.
    pub paused: bool,
    /// What holds up the table or a partition of it.
    pub held_by: BTreeSet<&'static str>,
    /// Rows committed since the broker started.
    pub rows: u64,
    /// Commits since the broker started.
    pub commits: u64,
    /// Dead letters committed since the broker started; `None` where no value can be one.
    pub dead_letters: Option<u64>,
}

impl TableSums {
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.held_by.extend(other.held_by);
        Self {
            lag_records: self.lag_records + other.lag_records,
            skipped_ranges: self.skipped_ranges + other.skipped_ranges,
            paused: self.paused || other.paused,
            held_by: self.held_by,
            rows: self.rows + other.rows,
            commits: self.commits + other.commits,
            dead_letters: match (self.dead_letters, other.dead_letters) {
                (Some(ours), Some(theirs)) => Some(ours + theirs),
                (ours, theirs) => ours.or(theirs),
            },
        }
    }
}

/// All topics' tables. Written by the sinks' tasks, read by HTTP handlers; both on the side runtime.
#[derive(Clone, Debug, Default)]
pub struct TableStates {
    by_topic: Arc<RwLock<HashMap<TopicId, TableState>>>,
}

impl TableStates {
    /// Replaces a topic's state.
    pub fn set(&self, topic: TopicId, state: TableState) {
        self.by_topic.write().unwrap_or_else(PoisonError::into_inner).insert(topic, state);
    }

    pub fn remove(&self, topic: TopicId) {
        self.by_topic.write().unwrap_or_else(PoisonError::into_inner).remove(&topic);
    }

    /// Whether a topic's sink has its table and nothing stops it.
    #[must_use]
    pub fn is_kept(&self, topic: TopicId) -> bool {
        let by_topic = self.by_topic.read().unwrap_or_else(PoisonError::into_inner);
        by_topic.get(&topic).is_some_and(|state| state.paused.is_none())
    }

    /// A topic's table in figures; `None` without a table.
    #[must_use]
    pub fn sums(&self, topic: &TopicImage) -> Option<TableSums> {
        if topic.config.iceberg_mode == IcebergMode::Disabled {
            return None;
        }
        let by_topic = self.by_topic.read().unwrap_or_else(PoisonError::into_inner);
        let state = by_topic.get(&topic.id)?;
        Some(TableSums {
            lag_records: state.partitions.values().map(|(_, lag)| lag).sum(),
            skipped_ranges: state.skipped.values().map(|ranges| ranges.len() as u64).sum(),
            paused: state.paused.is_some() || !state.unreadable.is_empty(),
            held_by: state.held_by.clone(),
            rows: state.rows,
            commits: state.commits,
            dead_letters: state.dead_letters.as_ref().map(|dead| dead.committed),
        })
    }

    /// Fills the table's fields of a topic's partitions; returns what concerns the table as a whole.
    pub fn fill(&self, topic: &TopicImage, partitions: &mut [PartitionStatus]) -> Option<TableView> {
        if topic.config.iceberg_mode == IcebergMode::Disabled {
            return None;
        }
        let by_topic = self.by_topic.read().unwrap_or_else(PoisonError::into_inner);
        let state = by_topic.get(&topic.id)?;
        for status in partitions {
            let seen = state.partitions.get(&status.partition);
            status.table_offset = seen.map(|(next, _)| *next);
            status.table_lag_records = seen.map(|(_, lag)| *lag);
            status.table_skipped = state.skipped.get(&status.partition).cloned().unwrap_or_default();
            let unreadable = state.unreadable.get(&status.partition);
            status.table_paused = state.paused.as_ref().or(unreadable).cloned();
        }
        let held_by = state.held_by.iter().copied().collect();
        Some(TableView { table: state.table.clone(), held_by, dead_letters: state.dead_letters.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_tables_keep_every_reason_and_all_dead_letters() {
        let bytes = TableSums { rows: 3, ..TableSums::default() };
        let typed = TableSums { dead_letters: Some(2), held_by: ["registry"].into(), ..TableSums::default() };
        let other = TableSums { dead_letters: Some(5), held_by: ["bucket", "registry"].into(), ..TableSums::default() };
        assert_eq!(bytes.clone().plus(bytes.clone()).dead_letters, None);
        let all = bytes.plus(typed).plus(other);
        assert_eq!((all.rows, all.dead_letters), (3, Some(7)));
        assert_eq!(all.held_by.into_iter().collect::<Vec<_>>(), ["bucket", "registry"]);
    }
}
