//! How far each topic's table is and what its files are like, as the admin API and metrics show it, and the way to the
//! task that compacts it. *Node-wide*.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::TopicId;
use tokio::sync::mpsc;

use super::orders::{OrderRefused, SinkOrder, TableOrder};
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
    /// Why the table is not partitioned by the whole spec that it was made for.
    pub partition_spec: Option<String>,
    /// The table's sort order in the words of SQL, if it has one.
    pub sort_order: Option<String>,
    /// Why its files are not sorted by all that was asked for.
    pub sort_order_lacking: Option<String>,
    /// Rows this sink has committed.
    pub rows: u64,
    pub commits: u64,
    /// `None` where no value can be a dead letter.
    pub dead_letters: Option<DeadLettersState>,
}

/// A topic's dead letters, as the admin API shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// As in [`TableState`].
    pub partition_spec: Option<String>,
    pub sort_order: Option<String>,
    pub sort_order_lacking: Option<String>,
    pub dead_letters: Option<DeadLettersState>,
}

/// How far a run of compaction is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactionProgress {
    pub files: u64,
    pub files_read: u64,
    pub bytes: u64,
    pub bytes_read: u64,
}

/// The last run that replaced files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCompaction {
    pub at_ms: i64,
    pub files_in: u64,
    pub files_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// A table's data files and their compaction, since this broker commits to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compaction {
    /// When this broker began to commit to the table, since its start; all counts are since then.
    pub since_ms: i64,
    /// The figures below are known.
    pub seen: bool,
    pub files: u64,
    pub bytes: u64,
    /// Files that this cluster wrote and that are smaller than three quarters of the target size.
    pub small_files: u64,
    /// Small files that are too new, or of an hour that is not over.
    pub waiting_files: u64,
    /// Files that the next run writes again.
    pub due_files: u64,
    pub target_bytes: u64,
    /// Files that were replaced, and those in their place.
    pub files_in: u64,
    pub files_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// A run that is under way.
    pub progress: Option<CompactionProgress>,
    pub last: Option<LastCompaction>,
    /// Why the last run left files as they are.
    pub reason: Option<String>,
    /// Runs that an operator asked for and that are done.
    pub ordered: u64,
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
    /// Data files, their bytes, and those that are small.
    pub files: u64,
    pub bytes: u64,
    pub small_files: u64,
    /// Files and bytes that compaction replaced since the broker started.
    pub compacted_files: u64,
    pub compacted_bytes: u64,
    /// When it last did, in milliseconds since 1970; 0 for never.
    pub compacted_at_ms: u64,
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
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
            small_files: self.small_files + other.small_files,
            compacted_files: self.compacted_files + other.compacted_files,
            compacted_bytes: self.compacted_bytes + other.compacted_bytes,
            compacted_at_ms: self.compacted_at_ms.max(other.compacted_at_ms),
        }
    }
}

/// All topics' tables. Written by the sinks' tasks, read by HTTP handlers; both on the side runtime.
#[derive(Clone, Debug, Default)]
pub struct TableStates {
    by_topic: Arc<RwLock<HashMap<TopicId, TableState>>>,
    compactions: Arc<RwLock<HashMap<TopicId, KeptTable>>>,
}

/// A table that this broker commits to.
#[derive(Debug)]
struct KeptTable {
    state: Compaction,
    orders: mpsc::Sender<TableOrder>,
    sink_orders: mpsc::Sender<SinkOrder>,
}

/// Where operators' orders for one table come from.
#[derive(Debug)]
pub struct Orders {
    pub compaction: mpsc::Receiver<TableOrder>,
    pub sink: mpsc::Receiver<SinkOrder>,
}

/// Orders of one table that wait; one more is refused.
const ORDERS_MAX: usize = 8;

impl TableStates {
    /// Replaces a topic's state.
    pub fn set(&self, topic: TopicId, state: TableState) {
        self.by_topic.write().unwrap_or_else(PoisonError::into_inner).insert(topic, state);
    }

    pub fn remove(&self, topic: TopicId) {
        self.by_topic.write().unwrap_or_else(PoisonError::into_inner).remove(&topic);
        self.compactions.write().unwrap_or_else(PoisonError::into_inner).remove(&topic);
    }

    /// This broker begins to commit to a topic's table: where operators' orders come from.
    pub fn begin(&self, topic: TopicId) -> Orders {
        let (orders, compaction) = mpsc::channel(ORDERS_MAX);
        let (sink_orders, sink) = mpsc::channel(ORDERS_MAX);
        let state = Compaction { since_ms: wall().0, ..Compaction::default() };
        let table = KeptTable { state, orders, sink_orders };
        self.compactions.write().unwrap_or_else(PoisonError::into_inner).insert(topic, table);
        Orders { compaction, sink }
    }

    /// Changes what is shown of a table's compaction.
    pub fn note_compaction(&self, topic: TopicId, change: impl FnOnce(&mut Compaction)) {
        let mut compactions = self.compactions.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = compactions.get_mut(&topic) {
            change(&mut table.state);
        }
    }

    /// A table's compaction; `None` if another broker commits to it, or none does.
    #[must_use]
    pub fn compaction(&self, topic: TopicId) -> Option<Compaction> {
        let compactions = self.compactions.read().unwrap_or_else(PoisonError::into_inner);
        compactions.get(&topic).map(|table| table.state.clone())
    }

    /// Asks something of the task that compacts a table.
    ///
    /// # Errors
    /// [`OrderRefused`].
    pub fn order(&self, topic: TopicId, order: TableOrder) -> Result<(), OrderRefused> {
        self.send(topic, order, |table| &table.orders)
    }

    /// Asks something of the task that fills a table.
    ///
    /// # Errors
    /// [`OrderRefused`].
    pub fn order_of_sink(&self, topic: TopicId, order: SinkOrder) -> Result<(), OrderRefused> {
        self.send(topic, order, |table| &table.sink_orders)
    }

    fn send<T>(
        &self,
        topic: TopicId,
        order: T,
        to: impl FnOnce(&KeptTable) -> &mpsc::Sender<T>,
    ) -> Result<(), OrderRefused> {
        let compactions = self.compactions.read().unwrap_or_else(PoisonError::into_inner);
        let table = compactions.get(&topic).ok_or(OrderRefused::NotHere)?;
        to(table).try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OrderRefused::Full,
            mpsc::error::TrySendError::Closed(_) => OrderRefused::NotHere,
        })
    }

    /// The name of a topic's table, why it stands still if it does, and the records that it lacks; `None` if this
    /// broker does not commit to it.
    #[must_use]
    pub fn summary(&self, topic: TopicId) -> Option<(String, Option<String>, u64)> {
        let by_topic = self.by_topic.read().unwrap_or_else(PoisonError::into_inner);
        let state = by_topic.get(&topic)?;
        let lag = state.partitions.values().map(|(_, lag)| lag).sum();
        Some((state.table.clone(), state.paused.clone(), lag))
    }

    /// The next offset of a topic's table and the records that it lacks, by partition; none before its sink's first
    /// turn.
    #[must_use]
    pub fn partitions(&self, topic: TopicId) -> BTreeMap<i32, (u64, u64)> {
        let by_topic = self.by_topic.read().unwrap_or_else(PoisonError::into_inner);
        by_topic.get(&topic).map(|state| state.partitions.clone()).unwrap_or_default()
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
        let compaction = self.compaction(topic.id).unwrap_or_default();
        Some(TableSums {
            lag_records: state.partitions.values().map(|(_, lag)| lag).sum(),
            skipped_ranges: state.skipped.values().map(|ranges| ranges.len() as u64).sum(),
            paused: state.paused.is_some() || !state.unreadable.is_empty(),
            held_by: state.held_by.clone(),
            rows: state.rows,
            commits: state.commits,
            dead_letters: state.dead_letters.as_ref().map(|dead| dead.committed),
            files: compaction.files,
            bytes: compaction.bytes,
            small_files: compaction.small_files,
            compacted_files: compaction.files_in,
            compacted_bytes: compaction.bytes_in,
            compacted_at_ms: compaction.last.map_or(0, |last| last.at_ms.unsigned_abs()),
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
        Some(TableView {
            table: state.table.clone(),
            held_by,
            partition_spec: state.partition_spec.clone(),
            sort_order: state.sort_order.clone(),
            sort_order_lacking: state.sort_order_lacking.clone(),
            dead_letters: state.dead_letters.clone(),
        })
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
