//! Segment objects: a partition's closed segment, uploaded from the local log, replaces its ranges in bundles.
//!
//! Owns: choosing the range (pure: [`next_range`]) and the upload. Does not own: when segments close, gathering of what is
//! no longer local. Shard-local.
//! A segment larger than `object_bytes_max` becomes several objects: each is read, checked and built in one pass in
//! bounded memory, and the next round goes on where this one ended.

use bytes::{Bytes, BytesMut};
use tidewater_storage::env::Mono;
use tidewater_storage::model::{OffsetRange, PartitionId, Term};

use super::bundle::{ReadFailure, read_checked};
use super::{Ended, Inner, LaneHost, LocalSegment, StepError};
use crate::format::{DataIndex, DataKind, ObjectBuilder, Placed};
use crate::keys::{ObjectKind, ObjectName, Sequence};
use crate::manifest::{Command, NewObject, NewRow, PartitionManifest, Quarantine, Replaced, Row, Source};
use crate::store::PutMode;

/// About so many bytes are copied in one go.
const COPIED_AT_ONCE: usize = 1 << 20;

/// What became of the upload of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Uploaded {
    /// So much of it, from its start on.
    Range(OffsetRange),
    /// Nothing: the local copy is damaged.
    Rotten,
    /// Nothing: not readable now.
    NotNow,
}

/// The first range that lies in bundles although its closed segment is here. What is quarantined because of the bucket is
/// just what should be written anew; `rotten`, ranges of the local log that failed a check, is passed over.
#[must_use]
pub(super) fn next_range(
    manifest: &PartitionManifest,
    segments: &[LocalSegment],
    rotten: &[OffsetRange],
) -> Option<OffsetRange> {
    if manifest.dropped {
        return None;
    }
    let archived = OffsetRange::new(manifest.log_start, manifest.archived_end);
    for segment in segments.iter().filter(|segment| segment.offsets.end <= manifest.archived_end) {
        let inside = segment.offsets.intersect(&archived);
        let in_bundle = |row: &&Row| {
            let overlap = row.offsets.intersect(&inside);
            let is_rotten = rotten.iter().any(|bad| !bad.intersect(&overlap).is_empty());
            matches!(row.source, Source::Bundle(_)) && !overlap.is_empty() && !is_rotten
        };
        let mut range: Option<OffsetRange> = None;
        for row in manifest.rows.iter().filter(in_bundle) {
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

impl<H: LaneHost> Inner<H> {
    /// Uploads one object of the first partition that has a closed segment in bundles.
    pub(super) async fn upload_segment(&self) -> Result<bool, StepError> {
        let touched: Vec<PartitionId> = self.work.borrow().segments.iter().copied().collect();
        for partition in touched {
            let range = match self.host.dropped(partition) {
                true => None,
                false => {
                    let segments = self.host.closed_segments(partition);
                    let rotten = self.work.borrow().rotten.get(&partition).cloned().unwrap_or_default();
                    self.host.with_partition(partition, |manifest| next_range(manifest, &segments, &rotten)).flatten()
                }
            };
            match range {
                Some(range) => match self.upload_range(partition, range).await? {
                    Uploaded::Range(_) | Uploaded::Rotten => return Ok(true),
                    // It stays on the list.
                    Uploaded::NotNow => {}
                },
                None => {
                    self.work.borrow_mut().segments.remove(&partition);
                }
            }
        }
        Ok(false)
    }

    /// Reads, checks, builds, puts and proposes as much of `range` as one object takes. What was quarantined in it is good
    /// again then. A local range that fails a check is remembered and left: the bucket has it.
    pub(super) async fn upload_range(&self, partition: PartitionId, range: OffsetRange) -> Result<Uploaded, StepError> {
        let started = self.env.clock.now();
        let Some(term) = self.host.leading() else { return Err(StepError::End(Ended::Deposed)) };
        let kind = ObjectKind::Segment { partition, base: range.start, term, nonce: self.nonce() };
        let object = self.bucket.home.name(kind);
        let index = self.object_index(DataKind::Segment, Sequence::NONE, term);
        let log_start = self.host.with_partition(partition, |m| m.log_start).unwrap_or_default();
        let mut builder = ObjectBuilder::new(index);
        builder.begin(partition, range.start, log_start);
        let mut next = range.start;
        while next < range.end && builder.data_len() < self.config.object_bytes_max {
            let room = (self.config.object_bytes_max - builder.data_len()).min(1 << 20);
            let batches = match read_checked(&*self.host, partition, OffsetRange::new(next, range.end), room).await {
                Ok(batches) => batches,
                Err(ReadFailure::Bad(bad)) => {
                    let Quarantine { offsets, reason, .. } = bad;
                    tracing::error!(%partition, %offsets, reason, "the local copy of an archived range is damaged: it stays as the bucket has it");
                    self.work.borrow_mut().rotten.entry(partition).or_default().push(offsets);
                    if builder.data_len() == 0 {
                        return Ok(Uploaded::Rotten);
                    }
                    break;
                }
                // Trimmed meanwhile: what is not here any more is for gathering.
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
        let rows = rows_of(&placed, |_| Some(done));
        self.replace(object, placed, rows, started).await?;
        self.note(|status| status.segments += 1);
        self.repaired(partition, done).await?;
        Ok(Uploaded::Range(done))
    }

    /// What is quarantined in a range that is good in the bucket is so no more.
    pub(super) async fn repaired(&self, partition: PartitionId, offsets: OffsetRange) -> Result<bool, StepError> {
        let known = self.host.with_partition(partition, |manifest| manifest.quarantine_in(offsets).is_some());
        if known != Some(true) {
            return Ok(false);
        }
        tracing::info!(%partition, %offsets, "range repaired: the bucket holds it whole");
        self.propose(Command::Repaired(Quarantine { partition, offsets, reason: String::new() })).await?;
        Ok(true)
    }

    /// The head of an index of an object that is no bundle.
    pub(super) fn object_index(&self, kind: DataKind, sequence: Sequence, term: Term) -> DataIndex {
        DataIndex {
            kind,
            home: self.bucket.home,
            lane: self.host.lane(),
            sequence,
            term,
            log_index: self.host.applied(),
            previous: 0,
            written: self.now(),
            partitions: Vec::new(),
            events: Vec::new(),
            seal: None,
            cut: None,
        }
    }

    /// The object's bytes back to back: as many as 64 MiB are copied, so others have their turn in between.
    async fn in_one_piece(&self, placed: &Placed) -> Bytes {
        let mut out = BytesMut::with_capacity(usize::try_from(placed.size).unwrap_or_default());
        let mut turn = 0;
        for piece in &placed.pieces {
            if turn >= COPIED_AT_ONCE {
                turn = 0;
                self.env.tasks.yield_now().await;
            }
            out.extend_from_slice(piece);
            turn += piece.len();
        }
        out.freeze()
    }

    /// Puts an object that replaces ranges, then proposes it. An upload that took so long that the sweeper might soon
    /// take its object for garbage is given up.
    pub(super) async fn replace(
        &self,
        object: ObjectName,
        placed: Placed,
        rows: Vec<NewRow>,
        started: Mono,
    ) -> Result<(), StepError> {
        self.ensure_catalogue(rows.iter().map(|row| row.partition)).await?;
        let body = self.in_one_piece(&placed).await;
        self.bucket.store.put(&object.key(), body, PutMode::IfAbsent).await?;
        if self.env.clock.now().since(started) > self.config.delete_grace / 2 {
            return Err(StepError::Later(format!("upload of {object} took too long and is given up")));
        }
        let objects = vec![NewObject { object, size: placed.size, index: placed.at }];
        self.propose(Command::Replaced(Replaced { objects, rows })).await?;
        self.unpublished.set(true);
        Ok(())
    }
}

/// One row per partition of a built object; `answers` says which offsets of it the row answers for.
pub(super) fn rows_of(placed: &Placed, answers: impl Fn(PartitionId) -> Option<OffsetRange>) -> Vec<NewRow> {
    let of_entry = |entry: &crate::format::PartitionEntry| {
        let offsets = entry.offsets.intersect(&answers(entry.partition)?);
        let start = entry.extents.first()?.position;
        let (partition, len, max_timestamp) = (entry.partition, entry.bytes(), entry.max_timestamp);
        (!offsets.is_empty()).then_some(NewRow { partition, offsets, object: 0, start, len, max_timestamp })
    };
    placed.index.partitions.iter().filter_map(of_entry).collect()
}
