//! How far each topic's table is, as the admin API and metrics show it. *Node-wide*.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

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
    /// Rows this sink has committed.
    pub rows: u64,
    pub commits: u64,
}

/// A table in figures, for metrics. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSums {
    /// Records it may take and has not.
    pub lag_records: u64,
    pub skipped_ranges: u64,
    /// The table, or a partition of it, is not brought up to date.
    pub paused: bool,
    /// Rows committed since the broker started.
    pub rows: u64,
    /// Commits since the broker started.
    pub commits: u64,
}

impl TableSums {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            lag_records: self.lag_records + other.lag_records,
            skipped_ranges: self.skipped_ranges + other.skipped_ranges,
            paused: self.paused || other.paused,
            rows: self.rows + other.rows,
            commits: self.commits + other.commits,
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
            rows: state.rows,
            commits: state.commits,
        })
    }

    /// Fills the table's fields of a topic's partitions; returns the table's name.
    pub fn fill(&self, topic: &TopicImage, partitions: &mut [PartitionStatus]) -> Option<String> {
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
        Some(state.table.clone())
    }
}
