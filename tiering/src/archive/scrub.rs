//! The scrubber: reads what rows name and checks every run against its sum.
//!
//! Owns: the walk, quarantine of what fails, repair from the local log where the range is still here, the end of a
//! quarantine whose range reads well again. Does not own: when it runs (`housekeeping`). Shard-local.
//!
//! First everything that is quarantined, then a piece of the walk: objects that partitions share (bundles, gathered
//! objects) one after the other, each read once in ranges, however many rows name it; then each partition's own
//! objects, row by row. A run of a shared object that fails sends the walk of single rows to its partition: that one
//! reads again before it judges. Large objects are read in pieces, spill pages one at a time.

use std::ops::Range;

use tidewater_storage::model::{Offset, OffsetRange, PartitionId};

use super::host::LaneHost;
use super::housekeeping::Housekeeping;
use super::segment::Uploaded;
use super::steps::StepError;
use crate::fetch::indexes::IndexError;
use crate::fetch::locate::{ReadView, Step, unfold};
use crate::format::{DataIndex, ExtentObject, Run};
use crate::keys::ObjectName;
use crate::manifest::{PartitionManifest, Quarantine, Row, is_shared};

/// Where a scrub goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubPosition {
    /// In a shared object, at this byte.
    Shared(ObjectName, u64),
    /// In the objects that a partition has alone, at this offset.
    Own(PartitionId, Offset),
}

/// What a scrub found. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Rows read one by one.
    pub rows: u64,
    /// Shared objects read.
    pub objects: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Ranges that failed and were repaired from the local log.
    pub repaired: Vec<(PartitionId, OffsetRange)>,
    /// Ranges that failed and are quarantined now.
    pub quarantined: Vec<Quarantine>,
    /// Where to go on; `None` at the end.
    pub next: Option<ScrubPosition>,
    /// Why something could not be read; the rest was.
    pub failed: Option<String>,
}

/// About this many bytes of an object are in memory at once.
const PIECE_BYTES: u64 = 8 << 20;

/// Which rows a walk reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    All,
    /// Those that name an object which the partition has alone.
    Own,
}

impl<H: LaneHost> Housekeeping<H> {
    /// One run of the scrubber: what is quarantined, then a piece of the walk.
    pub(super) async fn scrub_some(&self) -> Result<bool, StepError> {
        let mut quarantined = Vec::new();
        self.shared.host.with_manifests(|_, partitions| {
            for manifest in partitions.iter().filter(|manifest| !manifest.dropped) {
                let ranges = manifest.quarantined.iter().map(|range| (manifest.id, range.offsets));
                quarantined.extend(ranges);
            }
        });
        let mut failed = None;
        for (partition, offsets) in quarantined {
            let mut report = ScrubReport::default();
            self.walk_on(&mut report, partition, offsets, self.shared.config.scrub_bytes, Rows::All).await?;
            failed = failed.or(report.failed);
        }
        let from = self.lists.borrow().scrub_from;
        let report = self.scrub(from, self.shared.config.scrub_bytes).await?;
        self.lists.borrow_mut().scrub_from = report.next;
        match failed.or(report.failed) {
            Some(reason) => Err(StepError::Later(format!("scrubbing: {reason}"))),
            None => Ok(!report.repaired.is_empty()),
        }
    }

    /// Walks on from a position, through at least one piece and about `bytes_max`. What cannot be read now is passed
    /// over.
    pub(super) async fn scrub(&self, from: Option<ScrubPosition>, bytes_max: u64) -> Result<ScrubReport, StepError> {
        let mut report = ScrubReport::default();
        let own_from = match from {
            Some(ScrubPosition::Own(partition, offset)) => Some((partition, offset)),
            Some(ScrubPosition::Shared(object, byte)) => {
                self.scrub_shared(&mut report, Some((object, byte)), bytes_max).await?;
                None
            }
            None => {
                self.scrub_shared(&mut report, None, bytes_max).await?;
                None
            }
        };
        if report.next.is_some() {
            return Ok(report);
        }
        let first = own_from.map(|(partition, _)| partition);
        let partitions = self.shared.host.partitions().into_iter().filter(|id| first.is_none_or(|first| *id >= first));
        for partition in partitions {
            let start = own_from.filter(|(of, _)| *of == partition).map_or(Offset::ZERO, |(_, offset)| offset);
            let offsets = OffsetRange::new(start, Offset::MAX);
            if let Some(on) = self.walk_on(&mut report, partition, offsets, bytes_max, Rows::Own).await? {
                report.next = Some(ScrubPosition::Own(partition, on));
                return Ok(report);
            }
        }
        Ok(report)
    }

    /// Shared objects from a position on; notes in the report where it stopped.
    async fn scrub_shared(
        &self,
        report: &mut ScrubReport,
        from: Option<(ObjectName, u64)>,
        bytes_max: u64,
    ) -> Result<(), StepError> {
        let objects: Vec<ObjectName> = self.shared.host.with_lane(|lane| match from {
            Some((object, _)) => lane.live.range(object..).map(|(object, _)| *object).collect(),
            None => lane.live.keys().copied().collect(),
        });
        for object in objects {
            let start = from.filter(|(of, _)| *of == object).map_or(0, |(_, byte)| byte);
            if report.bytes >= bytes_max {
                report.next = Some(ScrubPosition::Shared(object, start));
                return Ok(());
            }
            if let Some(byte) = self.scrub_object(report, object, start, bytes_max).await? {
                report.next = Some(ScrubPosition::Shared(object, byte));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a shared object from byte `start` on and checks each run; the byte at which it stopped, if before the end.
    async fn scrub_object(
        &self,
        report: &mut ScrubReport,
        object: ObjectName,
        start: u64,
        bytes_max: u64,
    ) -> Result<Option<u64>, StepError> {
        let is_bad = |error: &IndexError| matches!(error, IndexError::Format(_));
        let found = match self.shared.read_again(is_bad, async || self.shared.indexes.of_object(object).await).await {
            Ok(found) => found,
            Err(IndexError::Format(error)) => {
                self.mend_rows_of(report, object, &format!("{object}: {error}")).await?;
                return Ok(None);
            }
            Err(IndexError::Store(error)) => {
                report.failed.get_or_insert(format!("{object}: {error}"));
                return Ok(None);
            }
        };
        report.objects += 1;
        let runs = runs_of(&found.index);
        let mut left = runs.get(runs.partition_point(|(bytes, ..)| bytes.start < start)..).unwrap_or_default();
        while let Some((first, ..)) = left.first() {
            if report.bytes >= bytes_max {
                return Ok(Some(first.start));
            }
            let fits = |(bytes, ..): &&(Range<u64>, PartitionId, Run)| bytes.end - first.start <= PIECE_BYTES;
            let (piece, after) = left.split_at(left.iter().take_while(fits).count().max(1));
            left = after;
            let end = piece.last().map_or(first.end, |(bytes, ..)| bytes.end);
            report.bytes += end - first.start;
            let got = match self.shared.bucket.store.get(&object.key(), Some(first.start..end)).await {
                Ok(got) => got.body,
                Err(error) => {
                    report.failed.get_or_insert(format!("{object}: {error}"));
                    return Ok(None);
                }
            };
            for (bytes, partition, run) in piece {
                let at = |byte: u64| usize::try_from(byte - first.start).unwrap_or(usize::MAX).min(got.len());
                let is_good = run.sum.matches(*partition, &got.slice(at(bytes.start)..at(bytes.end)));
                if !is_good && !self.is_quarantined(*partition, run.sum.offsets) {
                    self.walk_on(report, *partition, run.sum.offsets, u64::MAX, Rows::All).await?;
                }
            }
        }
        Ok(None)
    }

    /// The index of `object` does not read: so do all rows in memory that name it.
    async fn mend_rows_of(&self, report: &mut ScrubReport, object: ObjectName, reason: &str) -> Result<(), StepError> {
        let rows: Vec<(PartitionId, Row)> = self.shared.host.with_manifests(|_, partitions| {
            let rows = partitions.iter().filter(|m| !m.dropped).flat_map(|m| m.rows.iter().map(|row| (m.id, *row)));
            rows.filter(|(_, row)| row.object() == object).collect()
        });
        for (partition, row) in rows {
            report.rows += 1;
            let bad = Quarantine { partition, offsets: row.offsets, reason: reason.to_owned() };
            self.mend(report, partition, row, bad).await?;
        }
        Ok(())
    }

    /// As [`Housekeeping::walk`]; a partition that cannot be read now does not hold up the ones after it.
    async fn walk_on(
        &self,
        report: &mut ScrubReport,
        partition: PartitionId,
        offsets: OffsetRange,
        bytes_max: u64,
        which: Rows,
    ) -> Result<Option<Offset>, StepError> {
        match self.walk(report, partition, offsets, bytes_max, which).await {
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
        which: Rows,
    ) -> Result<Option<Offset>, StepError> {
        let view = self.shared.host.with_partition(partition, |m| ReadView::from_offset(m, offsets.start, usize::MAX));
        let mut left: Vec<Step> = view.map(|view| view.steps).unwrap_or_default();
        left.reverse();
        while let Some(step) = left.pop().filter(|step| step.offsets().start < offsets.end) {
            if report.bytes >= bytes_max {
                return Ok(Some(step.offsets().start.max(offsets.start)));
            }
            let row = match step {
                Step::Row(row) if which == Rows::Own && is_shared(&row.object()) => continue,
                Step::Row(row) => row,
                Step::Page(page) => {
                    match self.shared.indexes.page(partition, &page).await {
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

    /// Closed segments that are still here, and whole as far as is known, replace the bad object; else the range is
    /// quarantined.
    async fn mend(
        &self,
        report: &mut ScrubReport,
        partition: PartitionId,
        row: Row,
        bad: Quarantine,
    ) -> Result<(), StepError> {
        let is_here = self.closed_segments_cover(partition, row.offsets);
        if is_here && !self.lists.borrow().is_rotten(partition, row.offsets) {
            match self.upload_range(partition, row.offsets).await {
                Ok(Uploaded::Range(done)) if done.intersect(&row.offsets) == row.offsets => {
                    report.repaired.push((partition, row.offsets));
                    return Ok(());
                }
                Ok(_) => {}
                Err(StepError::Later(reason)) => drop(report.failed.get_or_insert(reason)),
                Err(end) => return Err(end),
            }
        }
        report.quarantined.push(bad.clone());
        self.shared.quarantine(bad).await
    }

    fn is_quarantined(&self, partition: PartitionId, offsets: OffsetRange) -> bool {
        let is_inside = |manifest: &PartitionManifest| {
            manifest.quarantine_in(offsets).is_some_and(|bad| bad.offsets.intersect(&offsets) == offsets)
        };
        self.shared.host.with_partition(partition, is_inside) == Some(true)
    }

    /// A part may reach over the border of two segments.
    fn closed_segments_cover(&self, partition: PartitionId, offsets: OffsetRange) -> bool {
        let mut next = offsets.start;
        for segment in self.shared.host.closed_segments(partition) {
            if segment.offsets.contains(next) {
                next = segment.offsets.end;
            }
        }
        next >= offsets.end
    }
}

/// Runs that lie in the object of `index` itself, by position.
fn runs_of(index: &DataIndex) -> Vec<(Range<u64>, PartitionId, Run)> {
    let mut runs = Vec::new();
    for entry in &index.partitions {
        for extent in entry.extents.iter().filter(|extent| extent.object == ExtentObject::Here) {
            let here = extent.runs_in(OffsetRange::new(Offset::ZERO, Offset::MAX));
            runs.extend(here.map(|(bytes, run)| (bytes, entry.partition, *run)));
        }
    }
    runs.sort_by_key(|(bytes, ..)| bytes.start);
    runs
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
