//! Segment objects: a partition's closed segment, uploaded from the local log, replaces its ranges in bundles.
//!
//! Owns: choosing the range (pure: [`next_range`]) and the upload. Does not own: when segments close, ranges that lie
//! in parts (`parts`: they are in the bucket once and for all), gathering of what is no longer local. Shard-local.
//! A segment larger than `object_bytes_max` becomes several objects: each is read, checked and built in one pass in
//! bounded memory, and the next round goes on where this one ended.

use tidewater_storage::env::Mono;
use tidewater_storage::model::{OffsetRange, PartitionId, Term};

use super::bundle::{READ_BYTES, ReadFailure, read_checked};
use super::host::{LaneHost, LocalSegment};
use super::housekeeping::Housekeeping;
use super::steps::StepError;
use crate::format::{BuiltObject, DataIndex, DataKind, ObjectBuilder};
use crate::keys::{ObjectKind, ObjectName, Sequence};
use crate::manifest::{Command, NewObject, NewRow, PartitionManifest, Quarantine, Replaced, Row, Source};
use crate::store::PutMode;

/// What became of the upload of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// This much of it, from its start on.
    Range(OffsetRange),
    /// Nothing: the local copy is damaged.
    Rotten,
    /// Nothing: not readable now.
    NotNow,
}

/// The first range that lies in bundles although its closed segment is here. What is quarantined because of the bucket
/// is just what should be written again; `rotten`, ranges of the local log that failed a check, are passed over, and so
/// are rows whose bundle `awaits_part_rows`.
#[must_use]
pub(super) fn next_range(
    manifest: &PartitionManifest,
    segments: &[LocalSegment],
    rotten: &[OffsetRange],
    awaits_part_rows: impl Fn(&ObjectName) -> bool,
) -> Option<OffsetRange> {
    if manifest.dropped {
        return None;
    }
    let archived = OffsetRange::new(manifest.log_start, manifest.archived_end);
    for segment in segments.iter().filter(|segment| segment.offsets.end <= manifest.archived_end) {
        let inside = segment.offsets.intersect(&archived);
        let is_to_upload = |row: &&Row| {
            let Source::Bundle(bundle) = row.source else { return false };
            let overlap = row.offsets.intersect(&inside);
            let is_rotten = rotten.iter().any(|bad| !bad.intersect(&overlap).is_empty());
            let is_bad = manifest.quarantine_in(row.offsets).is_some();
            !overlap.is_empty() && !is_rotten && (is_bad || !awaits_part_rows(&bundle))
        };
        let mut range: Option<OffsetRange> = None;
        for row in manifest.rows.iter().filter(is_to_upload) {
            let overlap = row.offsets.intersect(&inside);
            match &mut range {
                None => range = Some(overlap),
                Some(range) if range.end == overlap.start => range.end = overlap.end,
                Some(_) => break,
            }
        }
        if range.is_some() {
            return range;
        }
    }
    None
}

impl<H: LaneHost> Housekeeping<H> {
    /// Uploads one object of the first partition that has a closed segment in bundles.
    pub(super) async fn upload_segment(&self) -> Result<bool, StepError> {
        let partitions: Vec<PartitionId> = self.lists.borrow().segments.iter().copied().collect();
        for partition in partitions {
            match self.next_range_of(partition) {
                Some(range) => match self.upload_range(partition, range).await? {
                    Uploaded::Range(_) | Uploaded::Rotten => return Ok(true),
                    // It stays on the list.
                    Uploaded::NotNow => {}
                },
                None if self.has_unadopted_parts(partition) => {}
                None => {
                    self.lists.borrow_mut().segments.remove(&partition);
                }
            }
        }
        Ok(false)
    }

    fn next_range_of(&self, partition: PartitionId) -> Option<OffsetRange> {
        if self.shared.host.dropped(partition) {
            return None;
        }
        let segments = self.shared.host.closed_segments(partition);
        let rotten = self.lists.borrow().rotten.get(&partition).cloned().unwrap_or_default();
        let awaits = |bundle: &ObjectName| self.awaits_part_rows(bundle);
        self.shared.host.with_partition(partition, |m| next_range(m, &segments, &rotten, awaits)).flatten()
    }

    /// Does a row lie in a bundle whose parts will get rows of their own? Then there may be a range to upload
    /// afterwards.
    fn has_unadopted_parts(&self, partition: PartitionId) -> bool {
        let awaits = |row: &Row| matches!(&row.source, Source::Bundle(bundle) if self.awaits_part_rows(bundle));
        self.shared.host.with_partition(partition, |m| !m.dropped && m.rows.iter().any(awaits)) == Some(true)
    }

    /// Reads, checks, builds, puts and proposes as much of `range` as one object takes. What was quarantined in it is
    /// good again then. A local range that fails a check is remembered and left: the bucket has it.
    pub(super) async fn upload_range(&self, partition: PartitionId, range: OffsetRange) -> Result<Uploaded, StepError> {
        let shared = &*self.shared;
        debug_assert!(!range.is_empty());
        let started = shared.env.clock.now();
        let term = shared.term()?;
        let kind = ObjectKind::Segment { partition, base: range.start, term, nonce: shared.nonce() };
        let object = shared.bucket.home.name(kind);
        let index = self.object_index(DataKind::Segment, Sequence::NONE, term);
        let Some(log_start) = shared.host.with_partition(partition, |m| m.log_start) else {
            return Ok(Uploaded::NotNow);
        };
        let mut builder = ObjectBuilder::new(index);
        builder.begin(partition, range.start, log_start);
        let mut next = range.start;
        while next < range.end && builder.data_len() < shared.config.object_bytes_max {
            let room = (shared.config.object_bytes_max - builder.data_len()).min(READ_BYTES);
            let batches = match read_checked(&*shared.host, partition, OffsetRange::new(next, range.end), room).await {
                Ok(batches) => batches,
                Err(ReadFailure::Bad(bad)) => {
                    let Quarantine { offsets, reason, .. } = bad;
                    tracing::error!(%partition, %offsets, reason, "the local copy of an archived range is damaged: it stays as the bucket has it");
                    self.lists.borrow_mut().rotten.entry(partition).or_default().push(offsets);
                    if builder.data_len() == 0 {
                        return Ok(Uploaded::Rotten);
                    }
                    break;
                }
                // Trimmed meanwhile: gathering takes what is not here any more.
                Err(ReadFailure::Later(_)) => break,
            };
            let Some(last) = batches.last() else { break };
            next = last.header.next_offset();
            batches.iter().for_each(|batch| builder.push(batch));
        }
        if builder.data_len() == 0 {
            return Ok(Uploaded::NotNow);
        }
        let placed = builder.finish();
        let done = OffsetRange::new(range.start, next.min(range.end));
        let (rows, size) = (rows_of(&placed, |_| Some(done)), placed.size);
        self.replace(object, placed, rows, started).await?;
        shared.note(|status| {
            status.segments += 1;
            status.segment_bytes += size;
        });
        self.repaired(partition, done).await?;
        Ok(Uploaded::Range(done))
    }

    /// Ends the quarantine of a range that is good in the bucket.
    pub(super) async fn repaired(&self, partition: PartitionId, offsets: OffsetRange) -> Result<bool, StepError> {
        let known = self.shared.host.with_partition(partition, |manifest| manifest.quarantine_in(offsets).is_some());
        if known != Some(true) {
            return Ok(false);
        }
        tracing::info!(%partition, %offsets, "range repaired: the bucket holds it whole");
        self.shared.propose(Command::Repaired(Quarantine { partition, offsets, reason: String::new() })).await?;
        Ok(true)
    }

    /// The head of an index of an object that is no bundle.
    pub(super) fn object_index(&self, kind: DataKind, sequence: Sequence, term: Term) -> DataIndex {
        DataIndex {
            kind,
            home: self.shared.bucket.home,
            lane: self.shared.host.lane(),
            sequence,
            term,
            log_index: self.shared.host.applied(),
            previous: 0,
            written: self.shared.now(),
            partitions: Vec::new(),
            events: Vec::new(),
            producers: None,
            seal: None,
            cut: None,
        }
    }

    /// Puts an object that replaces ranges, then proposes it. An upload that took so long that the sweeper might soon
    /// remove its object is given up. The key is this attempt's alone, so a repeated PUT meets nothing but itself.
    pub(super) async fn replace(
        &self,
        object: ObjectName,
        placed: BuiltObject,
        rows: Vec<NewRow>,
        started: Mono,
    ) -> Result<(), StepError> {
        let shared = &*self.shared;
        debug_assert!(!rows.is_empty(), "an object that no row will name");
        shared.ensure_catalogue(rows.iter().map(|row| row.partition)).await?;
        let BuiltObject { at: index, size, pieces, .. } = placed;
        shared.bucket.store.put_pieces(&object.key(), pieces, PutMode::Overwrite).await?;
        if shared.env.clock.now().since(started) > shared.config.delete_grace / 2 {
            return Err(StepError::Later(format!("upload of {object} took too long and is given up")));
        }
        let objects = vec![NewObject { object, size, index }];
        shared.propose(Command::Replaced(Replaced { objects, rows })).await?;
        self.unpublished.set(true);
        Ok(())
    }
}

/// One row per partition of a built object; `answers` gives the offsets that the row answers for.
pub(super) fn rows_of(placed: &BuiltObject, answers: impl Fn(PartitionId) -> Option<OffsetRange>) -> Vec<NewRow> {
    let of_entry = |entry: &crate::format::PartitionEntry| {
        let offsets = entry.offsets.intersect(&answers(entry.partition)?);
        let start = entry.extents.first()?.position;
        let (partition, len, max_timestamp) = (entry.partition, entry.bytes(), entry.max_timestamp);
        (!offsets.is_empty()).then_some(NewRow { partition, offsets, object: 0, start, len, max_timestamp })
    };
    placed.index.partitions.iter().filter_map(of_entry).collect()
}
