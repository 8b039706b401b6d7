//! Parts: a busy partition's bytes of a bundle in an object of their own, uploaded once.
//!
//! A part is put before its bundle and named by the bundle's index. Once the bundle is settled, housekeeping gives the
//! part a row of its own: from then on it belongs to its partition as a segment object does, and no second upload
//! replaces it when the segment closes. Until then it belongs to its bundle and is deleted with it.
//!
//! Owns: that step. Does not own: which bytes go into a part (`bundle`), the transition (`manifest`). Shard-local.

use std::collections::BTreeSet;

use tidewater_storage::model::{OffsetRange, PartitionId, TimestampMs};

use super::host::LaneHost;
use super::housekeeping::Housekeeping;
use super::steps::{StepError, StepSeries};
use crate::format::{DataIndex, Extent, ExtentObject};
use crate::keys::{ObjectKind, ObjectName, Sequence};
use crate::manifest::{Command, NewObject, NewRow, PartitionManifest, Replaced, Source};

/// Parts that one command takes over.
const PARTS_PER_COMMAND: usize = 256;

/// A part as a row will name it. *Message*.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartRow {
    pub(super) object: NewObject,
    pub(super) partition: PartitionId,
    /// What the part holds.
    pub(super) offsets: OffsetRange,
    /// First byte and number of bytes of the partition in the part.
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) max_timestamp: TimestampMs,
}

impl PartRow {
    pub(super) fn new(object: NewObject, partition: PartitionId, extent: &Extent) -> Option<Self> {
        let max_timestamp = extent.runs.iter().map(|run| run.max_timestamp).max()?;
        let (offsets, start, len) = (extent.offsets()?, extent.position, extent.bytes());
        Some(Self { object, partition, offsets, start, len, max_timestamp })
    }
}

/// Parts that an index names, each with its partition and where its bytes are.
pub(super) fn named_by(index: &DataIndex) -> impl Iterator<Item = (ObjectName, PartitionId, &Extent)> {
    let extents = index.partitions.iter().flat_map(|entry| entry.extents.iter().map(|e| (entry.partition, e)));
    extents.filter_map(|(partition, extent)| match extent.object {
        ExtentObject::Part(part) => Some((part, partition, extent)),
        ExtentObject::Here => None,
    })
}

/// What of `offsets` the one row that finds them through `bundle` answers for. Were there two, the part could go with
/// the first of them while the second still needs it.
fn still_in_bundle(manifest: &PartitionManifest, bundle: ObjectName, offsets: OffsetRange) -> Option<OffsetRange> {
    let rows = manifest.rows.iter().filter(|row| matches!(row.source, Source::Bundle(object) if object == bundle));
    let mut inside = rows.map(|row| row.offsets.intersect(&offsets)).filter(|inside| !inside.is_empty());
    let first = inside.next()?;
    inside.next().is_none().then_some(first)
}

impl<H: LaneHost> Housekeeping<H> {
    /// Gives rows of their own to the parts of settled bundles.
    pub(super) async fn adopt_parts(&self, series: &mut StepSeries) -> Result<(), StepError> {
        let bundles: Vec<ObjectName> =
            self.shared.host.with_lane(|lane| lane.bundles_with_parts().map(|(bundle, _)| bundle).collect());
        let held: BTreeSet<Sequence> = bundles.iter().filter_map(sequence_of).collect();
        self.shared.written_parts.borrow_mut().retain(|sequence, _| held.contains(sequence));
        self.lists.borrow_mut().without_part_rows.retain(|bundle| bundles.contains(bundle));
        let mut parts: Vec<(ObjectName, PartRow)> = Vec::new();
        for bundle in bundles {
            if parts.len() >= PARTS_PER_COMMAND {
                break;
            }
            if self.lists.borrow().without_part_rows.contains(&bundle) {
                continue;
            }
            match self.parts_of(bundle).await {
                Ok(found) => parts.extend(found.into_iter().map(|part| (bundle, part))),
                Err(error) => drop(series.note(Err(error))?),
            }
        }
        series.note(self.take_over(parts).await)?;
        Ok(())
    }

    /// From memory if this archiver wrote the bundle, else from the bucket.
    async fn parts_of(&self, bundle: ObjectName) -> Result<Vec<PartRow>, StepError> {
        let written = sequence_of(&bundle).and_then(|at| self.shared.written_parts.borrow().get(&at).cloned());
        if let Some(written) = written {
            return Ok(written);
        }
        let later = |error| StepError::Later(format!("parts of {bundle}: {error}"));
        let found = self.shared.indexes.of_object(bundle).await.map_err(later)?;
        let mut parts = Vec::new();
        for (object, partition, extent) in named_by(&found.index) {
            let part = self.shared.indexes.of_object(object).await.map_err(later)?;
            let object = NewObject { object, size: part.size, index: part.at };
            parts.extend(PartRow::new(object, partition, extent));
        }
        Ok(parts)
    }

    /// One command for all `parts` that a row still finds through their bundle.
    async fn take_over(&self, parts: Vec<(ObjectName, PartRow)>) -> Result<bool, StepError> {
        let (mut objects, mut rows) = (Vec::new(), Vec::new());
        let mut useless: BTreeSet<ObjectName> = parts.iter().map(|(bundle, _)| *bundle).collect();
        for (bundle, part) in parts {
            let PartRow { object, partition, offsets, start, len, max_timestamp } = part;
            let names_it = self
                .shared
                .host
                .with_lane(|lane| lane.live.get(&bundle).is_some_and(|live| live.parts.contains(&object.object)));
            let wanted = self.shared.host.with_partition(partition, |manifest| {
                (!manifest.dropped).then(|| still_in_bundle(manifest, bundle, offsets)).flatten()
            });
            let (true, Some(Some(offsets))) = (names_it, wanted) else { continue };
            useless.remove(&bundle);
            let nth = u32::try_from(objects.len()).expect("one command takes a few hundred parts");
            objects.push(object);
            rows.push(NewRow { partition, offsets, object: nth, start, len, max_timestamp });
        }
        // Dropped, trimmed or spilled meanwhile: such parts stay with their bundle.
        self.lists.borrow_mut().without_part_rows.extend(useless);
        if objects.is_empty() {
            return Ok(false);
        }
        let count = objects.len() as u64;
        self.shared.propose(Command::Replaced(Replaced { objects, rows })).await?;
        self.unpublished.set(true);
        self.shared.note(|status| status.parts_adopted += count);
        Ok(true)
    }
}

impl<H: LaneHost> Housekeeping<H> {
    /// Will parts of `bundle` get rows of their own soon? Its rows are left alone until then.
    pub(super) fn awaits_part_rows(&self, bundle: &ObjectName) -> bool {
        let has_parts = self.shared.host.with_lane(|lane| lane.live.get(bundle).is_some_and(|l| !l.parts.is_empty()));
        has_parts && !self.lists.borrow().without_part_rows.contains(bundle)
    }
}

fn sequence_of(bundle: &ObjectName) -> Option<Sequence> {
    match bundle.kind {
        ObjectKind::Bundle { sequence, .. } => Some(sequence),
        _ => None,
    }
}
