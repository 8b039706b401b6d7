//! The outcome of a turn, and the status that `topic describe` and metrics show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::TableIdent;
use iceberg::spec::TableMetadata;
use tidewater_storage::model::{Offset, PartitionIndex, TimestampMs};

use super::SinkError;
use super::error::{CHOOSE, REGISTER_IT};
use crate::commit::{Foreign, offsets};
use crate::partition::wanted;
use crate::plan::Offsets;
use crate::read::PartitionBounds;
use crate::sort;
use crate::translate::{DeadRecord, Skipped};

/// Lines in the log about what one commit left out.
const SKIPPED_LINES: usize = 10;

/// How a turn ended, and with it when the next should be.
#[derive(Debug)]
pub enum Outcome {
    /// The table holds everything; come back when the log has grown.
    Idle,
    /// There are records, but the target lag is not reached.
    Wait { until: TimestampMs },
    /// Rows are in the table.
    Committed {
        /// 0 when this only found out that an earlier append had succeeded.
        rows: u64,
        files: usize,
        /// The turn stopped at a cap: come back at once.
        more: bool,
    },
    /// Another writer was faster; come back at once.
    Again,
    /// A turn fails until the cause that it names is removed; look again now and then.
    Paused(PauseReason),
    /// A failure that passes; come back after a pause.
    Failed(SinkError),
}

/// Why a sink pauses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PauseReason {
    /// The table is another's.
    #[error(transparent)]
    Foreign(Foreign),
    /// A later writer exists.
    #[error("table {table} is written in fencing epoch {found}; this writer has {ours} and stops")]
    Fenced { table: TableIdent, found: u64, ours: u64 },
    /// The table was changed so that nothing can be appended.
    #[error("table {table} cannot be appended to: {detail}")]
    Unfit {
        table: TableIdent,
        /// What is in the way.
        detail: String,
    },
    /// The bucket or the catalog refuses for good what a turn needs, or holds what no one wrote there.
    #[error("table {table} cannot be kept up to date: {detail}")]
    Refused {
        table: TableIdent,
        /// What was refused, and what to do.
        detail: String,
    },
    /// The subject whose newest schema all values have is not in the registry.
    #[error(
        "table {table} waits: the subject {subject} has no schema, with which values are to be read; {REGISTER_IT}"
    )]
    NoSchema { table: TableIdent, subject: Arc<str> },
    /// A value's schema has another type than its column, and the topic's setting is to stop there.
    #[error("table {table} stops before partition {partition}, offset {offset}: {detail}; {CHOOSE}")]
    Conflict { table: TableIdent, partition: PartitionIndex, offset: Offset, detail: String },
    /// The table holds records that the log does not.
    #[error(
        "partition {partition} of the table ends at {table}, the log at {log}; tidewater iceberg rewind TOPIC --to log removes \
         the rows beyond the log"
    )]
    Ahead { partition: PartitionIndex, table: Offset, log: Offset },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    pub table: Offset,
    /// Offsets the table may take and has not.
    pub lag: u64,
}

/// What holds up a table, or a partition of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HeldBy {
    /// The table is another's.
    Foreign,
    /// A later writer exists.
    Fenced,
    /// The table was changed so that nothing can be appended.
    Unfit,
    /// The bucket or the catalog refuses.
    Refused,
    /// The table has records that the log does not have.
    Ahead,
    /// The log cannot be read now.
    Log,
    /// A schema cannot be had now, or is not registered yet.
    Registry,
    /// A value's schema has another type than its column, and the topic's setting is to stop there.
    Conflict,
    /// The bucket or the catalog does not answer now.
    Bucket,
}

impl HeldBy {
    /// The label of the metric.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Fenced => "fenced",
            Self::Unfit => "unfit",
            Self::Refused => "refused",
            Self::Ahead => "ahead",
            Self::Log => "log",
            Self::Registry => "registry",
            Self::Conflict => "conflict",
            Self::Bucket => "bucket",
        }
    }
}

impl PauseReason {
    fn held_by(&self) -> HeldBy {
        match self {
            Self::Foreign(_) => HeldBy::Foreign,
            Self::Fenced { .. } => HeldBy::Fenced,
            Self::Unfit { .. } => HeldBy::Unfit,
            Self::Refused { .. } => HeldBy::Refused,
            Self::Ahead { .. } => HeldBy::Ahead,
            Self::NoSchema { .. } => HeldBy::Registry,
            Self::Conflict { .. } => HeldBy::Conflict,
        }
    }
}

/// Why a partition could not be read, while the others went on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub held_by: HeldBy,
    pub why: String,
}

#[derive(Clone, Debug)]
pub struct SinkStatus {
    pub table: TableIdent,
    pub partitions: BTreeMap<PartitionIndex, PartitionStatus>,
    /// The last ranges left out, at most [`offsets::SKIPPED_KEPT`].
    pub skipped: Vec<Skipped>,
    /// How many offsets were ever left out.
    pub skipped_offsets: u64,
    /// Rows this sink has committed.
    pub rows: u64,
    /// Records that this sink has made dead letters.
    pub dead_letters: u64,
    /// The first dead letter of the last commit that had any, of this sink.
    pub last_dead: Option<DeadRecord>,
    /// Rows of the table of dead letters, as last seen; `None` without such a table.
    pub dead_rows: Option<u64>,
    pub commits: u64,
    /// Files of cut-off commits it has deleted.
    pub orphans: u64,
    pub committed_at: Option<TimestampMs>,
    /// Why the sink pauses, if it does.
    pub paused: Option<PauseReason>,
    /// What the last turn failed with, if it did.
    pub error: Option<String>,
    /// Partitions that could not be read in the last turn that took anything, and why: the others went on.
    pub unreadable: BTreeMap<PartitionIndex, Unreadable>,
    /// What the last turn as a whole was held up by.
    held_by: Option<HeldBy>,
    /// Why the table is not partitioned by the whole spec that it was made for.
    pub partition_spec: Option<String>,
    /// The table's sort order in the words of SQL, if it has one.
    pub sort_order: Option<String>,
    /// Why its files are not sorted by all that was asked for.
    pub sort_order_lacking: Option<String>,
    pub snapshot: Option<i64>,
}

impl SinkStatus {
    pub(super) fn new(table: TableIdent) -> Self {
        Self {
            table,
            partitions: BTreeMap::new(),
            skipped: Vec::new(),
            skipped_offsets: 0,
            rows: 0,
            dead_letters: 0,
            last_dead: None,
            dead_rows: None,
            commits: 0,
            orphans: 0,
            committed_at: None,
            paused: None,
            error: None,
            unreadable: BTreeMap::new(),
            held_by: None,
            partition_spec: None,
            sort_order: None,
            sort_order_lacking: None,
            snapshot: None,
        }
    }

    /// Offsets of all partitions that the table may take and has not.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.partitions.values().map(|partition| partition.lag).sum()
    }

    /// Everything that holds up the table or a partition of it.
    #[must_use]
    pub fn held_by(&self) -> BTreeSet<HeldBy> {
        self.unreadable.values().map(|partition| partition.held_by).chain(self.held_by).collect()
    }

    pub(super) fn see(&mut self, log: &[PartitionBounds], table: &Offsets, metadata: &TableMetadata) {
        self.partitions = log
            .iter()
            .map(|bounds| {
                let next = table.get(&bounds.index).copied().unwrap_or(bounds.offsets.start);
                let lag = bounds.offsets.end.since(next.max(bounds.offsets.start)).unwrap_or(0);
                (bounds.index, PartitionStatus { table: next, lag })
            })
            .collect();
        (self.skipped, self.skipped_offsets) = offsets::skipped(metadata);
        self.partition_spec = wanted::lacking(metadata);
        let order = metadata.default_sort_order();
        self.sort_order = (!order.is_unsorted()).then(|| sort::words_of(order, metadata.current_schema()));
        self.sort_order_lacking = sort::wanted::lacking(metadata);
        self.snapshot = metadata.current_snapshot_id();
    }

    /// Logs what a commit left out, the first ranges one by one.
    pub(super) fn skip(&mut self, skipped: &[Skipped]) {
        for range in skipped.iter().take(SKIPPED_LINES) {
            tracing::warn!(
                table = %self.table, partition = range.partition, start = range.start, end = range.end,
                reason = %range.reason, "offsets left out of the table"
            );
        }
        let more = skipped.get(SKIPPED_LINES..).unwrap_or_default();
        if !more.is_empty() {
            let offsets: u64 = more.iter().map(Skipped::count).sum();
            tracing::warn!(
                table = %self.table, ranges = more.len(), offsets,
                "more offsets left out of the table; its property tidewater.skipped has the last ranges"
            );
        }
    }

    pub(super) fn note(&mut self, outcome: &Outcome, now: TimestampMs) {
        self.paused = None;
        self.error = None;
        self.held_by = None;
        match outcome {
            Outcome::Committed { rows, .. } => {
                self.rows += rows;
                self.commits += 1;
                self.committed_at = Some(now);
            }
            Outcome::Paused(reason) => {
                self.paused = Some(reason.clone());
                self.held_by = Some(reason.held_by());
            }
            Outcome::Failed(error) => {
                self.error = Some(error.to_string());
                self.held_by = Some(error.held_by());
            }
            Outcome::Idle | Outcome::Wait { .. } | Outcome::Again => {}
        }
    }
}
