//! Where an offset lies: manifest → rows or spill pages → runs → chunks of objects.
//!
//! Owns: that search, and how objects are cut into chunks. Does not own: any I/O. Pure; *messages*.
//! A chunk is a series of whole runs of one extent, cut from the extent's start, so every reader of an object cuts it
//! alike and finds the others' chunks in the cache.

use std::ops::Range;

use tidewater_storage::model::{Offset, OffsetRange, PartitionId};

use super::chunk_cache::ChunkId;
use crate::format::{Extent, ExtentObject, PartitionEntry, Run};
use crate::keys::ObjectName;
use crate::manifest::{PartitionManifest, Row, SpillPage, SpillRow};

/// One line of a manifest in offset order: a row, or a spill page that replaces rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Offsets in an object.
    Row(Row),
    /// Offsets whose rows lie in a page.
    Page(SpillRow),
}

impl Step {
    /// Offsets it answers for.
    #[must_use]
    pub fn offsets(&self) -> OffsetRange {
        match self {
            Self::Row(row) => row.offsets,
            Self::Page(page) => page.offsets,
        }
    }
}

/// The part of a partition's manifest that a read needs, copied so that no borrow of the manifest lives across an
/// await.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadView {
    pub partition: PartitionId,
    /// First offset that may be read.
    pub log_start: Offset,
    /// First offset that is not in the bucket.
    pub archived_end: Offset,
    /// Rows and pages in offset order.
    pub steps: Vec<Step>,
}

impl ReadView {
    /// The at most `steps_max` rows and pages that hold `from` and what follows.
    #[must_use]
    pub fn from_offset(manifest: &PartitionManifest, from: Offset, steps_max: usize) -> Self {
        let pages = manifest.spilled.partition_point(|page| page.offsets.end <= from);
        let rows = manifest.rows.partition_point(|row| row.offsets.end <= from);
        let pages = manifest.spilled.iter().skip(pages).map(|page| Step::Page(*page));
        let rows = manifest.rows.iter().skip(rows).map(|row| Step::Row(*row));
        Self {
            partition: manifest.id,
            log_start: manifest.log_start,
            archived_end: manifest.archived_end,
            steps: pages.chain(rows).take(steps_max).collect(),
        }
    }

    /// All of it, for searches by time.
    #[must_use]
    pub fn whole(manifest: &PartitionManifest) -> Self {
        Self::from_offset(manifest, Offset::ZERO, usize::MAX)
    }
}

/// The rows or pages that a spill page consists of, from offset `from` on.
#[must_use]
pub fn unfold(page: &SpillPage, from: Offset) -> Vec<Step> {
    let steps: Vec<Step> = match page {
        SpillPage::Rows(rows) => rows.iter().map(|row| Step::Row(*row)).collect(),
        SpillPage::Pages(pages) => pages.iter().map(|page| Step::Page(*page)).collect(),
    };
    steps.into_iter().filter(|step| step.offsets().end > from).collect()
}

/// One run and where to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocatedRun {
    /// The chunk it is in.
    pub chunk: ChunkId,
    /// Its bytes in the object.
    pub bytes: Range<u64>,
    /// Its offsets and sum.
    pub run: Run,
}

/// The runs of `entry` that hold anything of `offsets`, in order. `object` is the one whose index `entry` is from.
#[must_use]
pub fn locate_runs(
    object: ObjectName,
    entry: &PartitionEntry,
    offsets: OffsetRange,
    chunk_bytes_max: u64,
) -> Vec<LocatedRun> {
    let mut out = Vec::new();
    for extent in &entry.extents {
        let object = match extent.object {
            ExtentObject::Here => object,
            ExtentObject::Part(part) => part,
        };
        for (bytes, runs) in chunks(extent, chunk_bytes_max) {
            let chunk = ChunkId { object, bytes: bytes.clone() };
            let mut at = bytes.start;
            for run in runs {
                let here = at..at.saturating_add(u64::from(run.sum.len));
                at = here.end;
                if !run.sum.offsets.intersect(&offsets).is_empty() {
                    out.push(LocatedRun { chunk: chunk.clone(), bytes: here, run: *run });
                }
            }
        }
    }
    out
}

/// Cuts an extent into chunks of at most `chunk_bytes_max` (a single larger run is a chunk of its own).
fn chunks(extent: &Extent, chunk_bytes_max: u64) -> Vec<(Range<u64>, &[Run])> {
    let mut out = Vec::new();
    let (mut first, mut start, mut at) = (0, extent.position, extent.position);
    for (n, run) in extent.runs.iter().enumerate() {
        let end = at.saturating_add(u64::from(run.sum.len));
        if n > first && end - start > chunk_bytes_max {
            out.push((start..at, extent.runs.get(first..n).expect("first < n < len")));
            (first, start) = (n, at);
        }
        at = end;
    }
    if first < extent.runs.len() {
        out.push((start..at, extent.runs.get(first..).expect("first < len")));
    }
    out
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::{RunSum, TimestampMs};

    use super::*;
    use crate::keys::{ClusterId, Home, LineageEpoch, Sequence};
    use tidewater_storage::model::LaneId;

    fn bundle(sequence: u64) -> ObjectName {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        home.bundle(LaneId(1), Sequence(sequence))
    }

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset::new(start), Offset::new(end))
    }

    fn extent(position: u64, lens: &[u32]) -> Extent {
        let run = |(n, len): (usize, &u32)| Run {
            sum: RunSum { offsets: range(n as u64 * 10, n as u64 * 10 + 10), len: *len, crc: 0 },
            max_timestamp: TimestampMs(0),
        };
        Extent { object: ExtentObject::Here, position, runs: lens.iter().enumerate().map(run).collect() }
    }

    fn entry(extents: Vec<Extent>) -> PartitionEntry {
        PartitionEntry {
            partition: PartitionId::default(),
            offsets: range(0, 1000),
            log_start: Offset::ZERO,
            min_timestamp: TimestampMs(0),
            max_timestamp: TimestampMs(0),
            epochs: Vec::new(),
            aborted: Vec::new(),
            extents,
        }
    }

    #[test]
    fn chunks_are_cut_at_runs_and_do_not_depend_on_what_is_asked() {
        let entry = entry(vec![extent(100, &[40, 40, 40, 200, 10])]);
        let all = locate_runs(bundle(1), &entry, range(0, 50), 100);
        let cuts: Vec<_> = all.iter().map(|p| (p.chunk.bytes.clone(), p.bytes.clone())).collect();
        assert_eq!(
            cuts,
            [
                (100..180, 100..140),
                (100..180, 140..180),
                (180..220, 180..220),
                (220..420, 220..420),
                (420..430, 420..430)
            ]
        );
        let some = locate_runs(bundle(1), &entry, range(15, 25), 100);
        assert_eq!(some, all[1..3]);
    }

    #[test]
    fn views_begin_with_what_holds_the_offset() {
        let row = |start, end| Row {
            offsets: range(start, end),
            bytes: 1,
            max_timestamp: TimestampMs(0),
            source: crate::manifest::Source::Bundle(bundle(start)),
        };
        let page = SpillRow {
            offsets: range(0, 50),
            bytes: 1,
            max_timestamp: TimestampMs(0),
            page: bundle(9),
            size: 0,
            crc: 0,
        };
        let manifest = PartitionManifest {
            id: PartitionId::default(),
            changed: None,
            log_start: Offset::ZERO,
            archived_end: Offset::new(80),
            spilled: vec![page],
            rows: vec![row(50, 60), row(60, 80)],
            quarantined: Vec::new(),
            pending: Vec::new(),
            dropped: false,
        };
        let steps = |from| ReadView::from_offset(&manifest, Offset::new(from), 2).steps;
        assert_eq!(steps(49), [Step::Page(page), Step::Row(row(50, 60))]);
        assert_eq!(steps(50), [Step::Row(row(50, 60)), Step::Row(row(60, 80))]);
        assert_eq!(steps(79), [Step::Row(row(60, 80))]);
        assert_eq!(steps(80), []);
        let unfolded = unfold(&SpillPage::Rows(vec![row(0, 20), row(20, 50)]), Offset::new(20));
        assert_eq!(unfolded, [Step::Row(row(20, 50))]);
    }
}
