//! The scrubber: reads what rows name and checks every run against its sum.
//!
//! Owns: the walk, quarantine of what fails, repair from the local log where the range is still here. Does not own: when
//! it runs. Shard-local. Spilled rows are scrubbed with their page's partition, page by page.

use tidewater_storage::model::{OffsetRange, PartitionId};

use super::{Inner, LaneHost, StepError};
use crate::fetch::locate::{Step, unfold};
use crate::manifest::{Command, Quarantine, Row};

/// What a scrub found. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Rows read.
    pub rows: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Ranges that failed and were repaired from the local log.
    pub repaired: Vec<(PartitionId, OffsetRange)>,
    /// Ranges that failed and are quarantined now.
    pub quarantined: Vec<Quarantine>,
    /// Where to go on; `None` at the end.
    pub next: Option<PartitionId>,
    /// Why it ended early.
    pub failed: Option<String>,
}

impl<H: LaneHost> Inner<H> {
    pub(super) async fn scrub(&self, from: Option<PartitionId>, bytes_max: u64) -> Result<ScrubReport, StepError> {
        let mut report = ScrubReport::default();
        for partition in self.host.partitions().into_iter().filter(|id| from.is_none_or(|from| *id >= from)) {
            if report.bytes >= bytes_max {
                report.next = Some(partition);
                return Ok(report);
            }
            for row in self.all_rows(partition).await? {
                report.rows += 1;
                report.bytes += row.bytes;
                if let Err(bad) = self.read_rows(partition, &[row]).await? {
                    self.mend(&mut report, partition, row, bad).await?;
                }
            }
        }
        Ok(report)
    }

    /// A closed segment that is still here replaces the bad object; else the range is quarantined.
    async fn mend(
        &self,
        report: &mut ScrubReport,
        partition: PartitionId,
        row: Row,
        bad: Quarantine,
    ) -> Result<(), StepError> {
        let covers = |range: OffsetRange| range.intersect(&row.offsets) == row.offsets;
        let local = self.host.closed_segments(partition).iter().any(|segment| covers(segment.offsets));
        let before = self.status.borrow().segments;
        if local && self.upload_range(partition, row.offsets).await? && self.status.borrow().segments > before {
            let repaired = Quarantine { partition, offsets: row.offsets, reason: String::new() };
            self.propose(Command::Repaired(repaired)).await?;
            report.repaired.push((partition, row.offsets));
            return Ok(());
        }
        report.quarantined.push(bad.clone());
        self.quarantine(bad).await
    }

    async fn all_rows(&self, partition: PartitionId) -> Result<Vec<Row>, StepError> {
        let view = self.host.with_partition(partition, crate::fetch::ReadView::whole);
        let mut left: Vec<Step> = view.map(|view| view.steps).unwrap_or_default();
        left.reverse();
        let mut rows = Vec::new();
        while let Some(step) = left.pop() {
            match step {
                Step::Row(row) => rows.push(row),
                Step::Page(page) => {
                    let read = self.indexes.page(partition, &page).await;
                    let content = read.map_err(|error| StepError::Later(format!("page {}: {error}", page.page)))?;
                    left.extend(unfold(&content, page.offsets.start).into_iter().rev());
                }
            }
        }
        Ok(rows)
    }
}
