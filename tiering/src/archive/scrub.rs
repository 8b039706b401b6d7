//! The scrubber: reads what rows name and checks every run against its sum.
//!
//! Owns: the walk, quarantine of what fails, repair from the local log where the range is still here, the end of a
//! quarantine whose range reads well again. Does not own: when it runs (`housekeeping`). Shard-local. Large rows are read
//! piece by piece, spill pages one at a time. What is quarantined is looked at first, then the walk goes on.

use tidewater_storage::model::{Offset, OffsetRange, PartitionId};

use super::segment::Uploaded;
use super::{Inner, LaneHost, StepError};
use crate::fetch::locate::{ReadView, Step, unfold};
use crate::manifest::{Quarantine, Row};

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
    pub next: Option<(PartitionId, Offset)>,
    /// Why it ended early.
    pub failed: Option<String>,
}

/// About so many bytes of a row are in memory at once.
const PIECE_BYTES: u64 = 8 << 20;

impl<H: LaneHost> Inner<H> {
    /// One look of the scrubber: what is quarantined, then a piece of the walk.
    pub(super) async fn scrub_some(&self) -> Result<bool, StepError> {
        let mut quarantined = Vec::new();
        self.host.with_manifests(|_, partitions| {
            for manifest in partitions.iter().filter(|manifest| !manifest.dropped) {
                let ranges = manifest.quarantined.iter().map(|range| (manifest.id, range.offsets));
                quarantined.extend(ranges);
            }
        });
        let mut failed = None;
        for (partition, offsets) in quarantined {
            let mut report = ScrubReport::default();
            self.walk_on(&mut report, partition, offsets, self.config.scrub_bytes).await?;
            failed = failed.or(report.failed);
        }
        let from = self.work.borrow().scrub_from;
        let report = self.scrub(from, self.config.scrub_bytes).await?;
        self.work.borrow_mut().scrub_from = report.next;
        match failed.or(report.failed) {
            Some(reason) => Err(StepError::Later(format!("scrubbing: {reason}"))),
            None => Ok(!report.repaired.is_empty()),
        }
    }

    /// Walks on from a place, through at least one row and about `bytes_max`. What cannot be read now is passed over.
    pub(super) async fn scrub(
        &self,
        from: Option<(PartitionId, Offset)>,
        bytes_max: u64,
    ) -> Result<ScrubReport, StepError> {
        let mut report = ScrubReport::default();
        let first = from.map(|(partition, _)| partition);
        for partition in self.host.partitions().into_iter().filter(|id| first.is_none_or(|first| *id >= first)) {
            let start = from.filter(|(of, _)| *of == partition).map_or(Offset::ZERO, |(_, offset)| offset);
            let offsets = OffsetRange::new(start, Offset::MAX);
            if let Some(on) = self.walk_on(&mut report, partition, offsets, bytes_max).await? {
                report.next = Some((partition, on));
                return Ok(report);
            }
        }
        Ok(report)
    }

    /// As [`Inner::walk`]; a partition that keeps failing for now keeps nobody from the ones after it.
    async fn walk_on(
        &self,
        report: &mut ScrubReport,
        partition: PartitionId,
        offsets: OffsetRange,
        bytes_max: u64,
    ) -> Result<Option<Offset>, StepError> {
        match self.walk(report, partition, offsets, bytes_max).await {
            Err(StepError::Later(reason)) => {
                report.failed.get_or_insert(reason);
                Ok(None)
            }
            walked => walked,
        }
    }

    /// Reads what the partition's rows name of `offsets`; where it ended, if before the end.
    async fn walk(
        &self,
        report: &mut ScrubReport,
        partition: PartitionId,
        offsets: OffsetRange,
        bytes_max: u64,
    ) -> Result<Option<Offset>, StepError> {
        let view = self.host.with_partition(partition, |m| ReadView::from_offset(m, offsets.start, usize::MAX));
        let mut left: Vec<Step> = view.map(|view| view.steps).unwrap_or_default();
        left.reverse();
        while let Some(step) = left.pop().filter(|step| step.offsets().start < offsets.end) {
            if report.bytes >= bytes_max {
                return Ok(Some(step.offsets().start.max(offsets.start)));
            }
            let row = match step {
                Step::Row(row) => row,
                Step::Page(page) => {
                    match self.indexes.page(partition, &page).await {
                        Ok(content) => left.extend(unfold(&content, offsets.start).into_iter().rev()),
                        Err(error) => drop(report.failed.get_or_insert(format!("page {}: {error}", page.page))),
                    }
                    continue;
                }
            };
            report.rows += 1;
            for piece in pieces_of(row).into_iter().filter(|piece| !piece.intersect(&offsets).is_empty()) {
                if report.bytes >= bytes_max {
                    return Ok(Some(piece.start));
                }
                let Some(part) = row.clip(piece) else { continue };
                report.bytes += part.bytes;
                match self.read_rows(partition, &[part]).await {
                    Ok(Ok(_)) => drop(self.repaired(partition, piece).await?),
                    Ok(Err(bad)) => {
                        self.mend(report, partition, row, bad).await?;
                        break;
                    }
                    Err(StepError::Later(reason)) => drop(report.failed.get_or_insert(reason)),
                    Err(end) => return Err(end),
                }
            }
        }
        Ok(None)
    }

    /// A closed segment that is still here, and whole as far as is known, replaces the bad object; else the range is
    /// quarantined.
    async fn mend(
        &self,
        report: &mut ScrubReport,
        partition: PartitionId,
        row: Row,
        bad: Quarantine,
    ) -> Result<(), StepError> {
        let covers = |range: OffsetRange| range.intersect(&row.offsets) == row.offsets;
        let local = self.host.closed_segments(partition).iter().any(|segment| covers(segment.offsets));
        if local && !self.work.borrow().is_rotten(partition, row.offsets) {
            match self.upload_range(partition, row.offsets).await {
                Ok(Uploaded::Range(done)) if covers(done) => {
                    report.repaired.push((partition, row.offsets));
                    return Ok(());
                }
                Ok(_) => {}
                Err(StepError::Later(reason)) => drop(report.failed.get_or_insert(reason)),
                Err(end) => return Err(end),
            }
        }
        report.quarantined.push(bad.clone());
        self.quarantine(bad).await
    }
}

/// A row's offsets in pieces of about [`PIECE_BYTES`].
fn pieces_of(row: Row) -> Vec<OffsetRange> {
    let step = (row.offsets.count() / row.bytes.div_ceil(PIECE_BYTES).max(1)).max(1);
    let mut pieces = Vec::new();
    let mut start = row.offsets.start;
    while start < row.offsets.end {
        let end = Offset::new(start.get().saturating_add(step)).min(row.offsets.end);
        pieces.push(OffsetRange::new(start, end));
        start = end;
    }
    pieces
}
