//! Dead letters of a sink in figures, for its status, and what the log says about them.
//!
//! A topic whose producers send nothing else has dead letters in each commit: the log has a line when they begin and
//! then one in [`LOG_EVERY_MS`], with the number of those since the line before.

use iceberg::spec::TableMetadata;
use tidewater_storage::model::TimestampMs;

use super::TableSink;
use crate::translate::DeadRecord;

/// Between two lines of the log about one topic's dead letters.
const LOG_EVERY_MS: i64 = 600_000;

/// The dead letters of one turn.
#[derive(Debug, Default)]
pub(in crate::sink) struct DeadTurn {
    pub(in crate::sink) rows: u64,
    pub(in crate::sink) first: Option<DeadRecord>,
}

/// Dead letters that the log has no line of yet.
#[derive(Debug, Default)]
pub(in crate::sink) struct Unlogged {
    rows: u64,
    first: Option<DeadRecord>,
    logged_at: Option<TimestampMs>,
}

impl Unlogged {
    fn add(&mut self, rows: u64, first: DeadRecord) {
        self.rows += rows;
        self.first.get_or_insert(first);
    }

    /// What a line of the log says now: how many there are, and the first one. `None`: nothing, or not yet.
    fn due(&mut self, now: TimestampMs) -> Option<(u64, DeadRecord)> {
        // A clock that was set back does not keep the log quiet.
        if self.logged_at.is_some_and(|at| (0..LOG_EVERY_MS).contains(&now.since_ms(at))) {
            return None;
        }
        let first = self.first.take()?;
        self.logged_at = Some(now);
        Some((std::mem::take(&mut self.rows), first))
    }
}

impl TableSink {
    /// Counts the dead letters of a turn whose commit is in the table.
    pub(in crate::sink) fn note_dead(&mut self, DeadTurn { rows, first }: DeadTurn) {
        let Some(first) = first else { return };
        self.status.dead_letters += rows;
        self.status.last_dead = Some(first.clone());
        self.dead.unlogged.add(rows, first);
    }

    /// After a turn: how many rows the table of dead letters has, and the log's line about new ones if it is due.
    pub(in crate::sink) fn report_dead(&mut self, now: TimestampMs) {
        match self.dead.committer.current() {
            Some(base) => self.status.dead_rows = rows_of(&base.metadata),
            None if self.dead.absent => self.status.dead_rows = None,
            None => {}
        }
        if let Some((rows, first)) = self.dead.unlogged.due(now) {
            tracing::warn!(
                table = %self.dead.table, rows, partition = first.partition.0, offset = %first.offset,
                reason = %first.reason, "records are dead letters; the first of them is named"
            );
        }
    }
}

/// How many rows a table has; `None` where its snapshot does not say.
fn rows_of(metadata: &TableMetadata) -> Option<u64> {
    let Some(snapshot) = metadata.current_snapshot() else { return Some(0) };
    snapshot.summary().additional_properties.get("total-records")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{Offset, PartitionIndex};

    use super::*;

    #[test]
    fn the_log_has_a_line_when_dead_letters_begin_and_then_one_in_an_interval() {
        let record = |offset| DeadRecord {
            partition: PartitionIndex(0),
            offset: Offset::new(offset),
            reason: "no schema".to_owned(),
        };
        let (start, mut unlogged, mut lines) = (TimestampMs(1_000_000), Unlogged::default(), Vec::new());
        // Commits every 30 s for 25 minutes, then none for an hour, then one more.
        let commits = (0..50).map(|n| n * 30_000).chain([5_000_000]);
        let turns: std::collections::BTreeSet<i64> = (0..180).map(|n| n * 30_000).chain(commits.clone()).collect();
        for at in turns {
            if commits.clone().any(|commit| commit == at) {
                unlogged.add(3, record(at.unsigned_abs()));
            }
            let line = unlogged.due(start.plus_ms(at));
            lines.extend(line.map(|(rows, first)| (at, rows, first.offset.get())));
        }
        // The last ones of the flood are reported although no others come.
        let wanted = [
            (0, 3, 0),
            (600_000, 60, 30_000),
            (1_200_000, 60, 630_000),
            (1_800_000, 27, 1_230_000),
            (5_000_000, 3, 5_000_000),
        ];
        assert_eq!(lines, wanted);
        unlogged.add(1, record(7));
        assert!(unlogged.due(TimestampMs(0)).is_some(), "the clock was set back");
    }
}
