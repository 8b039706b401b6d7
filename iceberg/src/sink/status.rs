//! The outcome of a turn, and the status that `topic describe` and metrics show.

use std::collections::BTreeMap;

use iceberg::TableIdent;
use iceberg::spec::TableMetadata;
use tidewater_storage::model::{Offset, PartitionIndex, TimestampMs};

use super::SinkError;
use crate::commit::{Foreign, offsets};
use crate::plan::Offsets;
use crate::read::PartitionBounds;
use crate::translate::Skipped;

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
    /// The table holds records that the log does not.
    #[error(
        "the table holds partition {partition} up to {table}, the log ends at {log}; roll the table back to a snapshot \
         at or below that (its summary says tidewater.offsets)"
    )]
    Ahead { partition: PartitionIndex, table: Offset, log: Offset },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionStatus {
    pub table: Offset,
    /// Offsets the table may take and has not.
    pub lag: u64,
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
    pub commits: u64,
    /// Files of cut-off commits it has deleted.
    pub orphans: u64,
    pub committed_at: Option<TimestampMs>,
    /// Why the sink pauses, if it does.
    pub paused: Option<PauseReason>,
    /// What the last turn failed with, if it did.
    pub error: Option<String>,
    /// Partitions that could not be read in the last turn that took anything, and why: the others went on.
    pub unreadable: BTreeMap<PartitionIndex, String>,
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
            commits: 0,
            orphans: 0,
            committed_at: None,
            paused: None,
            error: None,
            unreadable: BTreeMap::new(),
            snapshot: None,
        }
    }

    /// Offsets of all partitions that the table may take and has not.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.partitions.values().map(|partition| partition.lag).sum()
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
        match outcome {
            Outcome::Committed { rows, .. } => {
                self.rows += rows;
                self.commits += 1;
                self.committed_at = Some(now);
            }
            Outcome::Paused(reason) => self.paused = Some(reason.clone()),
            Outcome::Failed(error) => self.error = Some(error.to_string()),
            Outcome::Idle | Outcome::Wait { .. } | Outcome::Again => {}
        }
    }
}
