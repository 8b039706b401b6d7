//! Gathering: rows that still lie in a lane's oldest bundles are read back from the bucket and written again as one
//! object sorted by partition. A quiet partition then costs a row and a read an hour instead of one per bundle, and
//! bundles that are mostly dead can be deleted.
//!
//! Owns: choosing rows (pure: [`choose`]), reading them back checked, the object. Does not own: rows of busy partitions
//! (`segment` replaces them when the segment closes, `parts` gives parts rows of their own). Shard-local.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use tidewater_storage::model::{Batch, OffsetRange, PartitionId};

use super::host::LaneHost;
use super::housekeeping::Housekeeping;
use super::segment::rows_of;
use super::steps::StepError;
use crate::fetch::indexes::IndexError;
use crate::fetch::locate::locate_runs;
use crate::format::{DataKind, ObjectBuilder};
use crate::keys::{ObjectKind, ObjectName, Sequence};
use crate::manifest::{LaneManifest, PartitionManifest, Quarantine, Row, Source};
use crate::store::StoreError;

/// Bundles that one gathering empties, at least and at most.
const BUNDLES_MIN: usize = 2;
/// GETs side by side.
const PARALLEL_READS: usize = 8;

/// Bounds of one gathering.
#[derive(Clone, Copy, Debug)]
pub(super) struct GatherBounds {
    /// Bundles it takes from.
    pub(super) bundles_max: usize,
    /// Bytes it takes.
    pub(super) bytes_max: u64,
    /// Larger rows stay, unless less than half of their bundle is alive.
    pub(super) row_bytes_max: u64,
}

/// A partition's rows that lie in bundles, each with whether gathering may take it.
type Candidates = Vec<(PartitionId, Vec<(Row, bool)>)>;

/// The rows that lie in bundles. Quarantined rows stay where they are, and so do large ones of bundles that are mostly
/// alive and those of bundles that `awaits_part_rows`.
fn candidates(
    lane: &LaneManifest,
    partitions: &[&PartitionManifest],
    bounds: GatherBounds,
    awaits_part_rows: impl Fn(&ObjectName) -> bool,
) -> Candidates {
    let bundle_rows = |manifest: &PartitionManifest| {
        manifest.rows.iter().filter(|row| matches!(row.source, Source::Bundle(_))).copied().collect::<Vec<_>>()
    };
    let mut alive: BTreeMap<ObjectName, u64> = BTreeMap::new();
    for row in partitions.iter().flat_map(|manifest| bundle_rows(manifest)) {
        *alive.entry(row.object()).or_default() += row.bytes;
    }
    let mostly_dead = |object: &ObjectName| {
        let size = lane.live.get(object).map_or(0, |live| live.size);
        alive.get(object).copied().unwrap_or(0) < size / 2
    };
    let may_go = |manifest: &PartitionManifest, row: &Row| {
        let wanted = row.bytes <= bounds.row_bytes_max || mostly_dead(&row.object());
        let is_free = manifest.quarantine_in(row.offsets).is_none() && !awaits_part_rows(&row.object());
        wanted && row.bytes <= bounds.bytes_max && is_free
    };
    let mut candidates = Vec::new();
    for manifest in partitions.iter().filter(|manifest| !manifest.dropped) {
        let rows = bundle_rows(manifest).into_iter().map(|row| (row, may_go(manifest, &row))).collect();
        candidates.push((manifest.id, rows));
    }
    candidates
}

/// Bundles with a row that may go. The others must neither keep younger ones out of the window nor make gathering due.
fn bundles_of(candidates: &Candidates) -> BTreeSet<ObjectName> {
    let rows = candidates.iter().flat_map(|(_, rows)| rows).filter(|(_, may_go)| *may_go);
    rows.map(|(row, _)| row.object()).collect()
}

/// The rows to gather: from the oldest live bundles that have any, of each partition only what is contiguous.
#[must_use]
fn choose(candidates: Candidates, bounds: GatherBounds) -> BTreeMap<PartitionId, Vec<Row>> {
    let oldest: BTreeSet<ObjectName> = bundles_of(&candidates).into_iter().take(bounds.bundles_max).collect();
    let mut chosen: BTreeMap<PartitionId, Vec<Row>> = BTreeMap::new();
    let mut room = bounds.bytes_max;
    for (partition, rows) in candidates {
        let mut taken: Vec<Row> = Vec::new();
        for (row, may_go) in rows.into_iter().filter(|(row, _)| oldest.contains(&row.object())) {
            let joins = taken.last().is_none_or(|last| last.offsets.end == row.offsets.start);
            if may_go && joins && row.bytes <= room {
                room -= row.bytes;
                taken.push(row);
            } else if !taken.is_empty() {
                break;
            }
        }
        if !taken.is_empty() {
            chosen.insert(partition, taken);
        }
    }
    chosen
}

impl<H: LaneHost> Housekeeping<H> {
    /// Gathers once, if it is due.
    pub(super) async fn gather(&self) -> Result<bool, StepError> {
        if !self.may_be_due().await {
            return Ok(false);
        }
        let started = self.shared.env.clock.now();
        let term = self.shared.term()?;
        let bounds = GatherBounds {
            bundles_max: self.shared.config.gather_bundles.max(BUNDLES_MIN),
            bytes_max: self.shared.config.object_bytes_max,
            row_bytes_max: self.shared.config.gather_row_bytes_max,
        };
        let candidates = self.shared.host.with_manifests(|lane, partitions| {
            let passed = &self.lists.borrow().unreadable;
            let partitions: Vec<&PartitionManifest> =
                partitions.iter().copied().filter(|manifest| !passed.contains(&manifest.id)).collect();
            candidates(lane, &partitions, bounds, |bundle| self.awaits_part_rows(bundle))
        });
        let bundles = bundles_of(&candidates);
        if !bundles.is_empty() && !self.is_due(bundles.len(), bundles.first().copied()).await {
            return Ok(false);
        }
        let chosen = choose(candidates, bounds);
        let first = chosen.values().flatten().map(|row| sequence_of(&row.object())).min().unwrap_or_default();
        if chosen.is_empty() || chosen.values().flatten().count() < BUNDLES_MIN {
            // Partitions passed over get their turn again when gathering is due next.
            self.lists.borrow_mut().unreadable.clear();
            return Ok(false);
        }
        let kind = ObjectKind::Gathered { lane: self.shared.host.lane(), first, term, nonce: self.shared.nonce() };
        let object = self.shared.bucket.home.name(kind);
        let mut builder = ObjectBuilder::new(self.object_index(DataKind::Gathered, first, term));
        let mut answers: BTreeMap<PartitionId, OffsetRange> = BTreeMap::new();
        let mut failed = None;
        for (partition, rows) in chosen {
            let batches = match self.read_rows(partition, &rows).await {
                Ok(Ok(batches)) => batches,
                Ok(Err(bad)) => {
                    self.shared.quarantine(bad).await?;
                    continue;
                }
                Err(StepError::Later(reason)) => {
                    failed.get_or_insert(reason);
                    self.lists.borrow_mut().unreadable.insert(partition);
                    continue;
                }
                Err(end) => return Err(end),
            };
            let (Some(first), Some(last)) = (rows.first(), rows.last()) else { continue };
            let range = OffsetRange::new(first.offsets.start, last.offsets.end);
            let Some(log_start) = self.shared.host.with_partition(partition, |m| m.log_start) else { continue };
            builder.begin(partition, range.start, log_start);
            batches.iter().for_each(|batch| builder.push(batch));
            self.shared.host.aborted(partition, range).into_iter().for_each(|aborted| builder.aborted(aborted));
            answers.insert(partition, range);
        }
        if builder.data_len() == 0 {
            return failed.map_or(Ok(false), |reason| Err(StepError::Later(reason)));
        }
        let placed = builder.finish();
        let (rows, size) = (rows_of(&placed, |partition| answers.get(&partition).copied()), placed.size);
        self.replace(object, placed, rows, started).await?;
        self.shared.note(|status| {
            status.gathered += 1;
            status.gathered_bytes += size;
        });
        Ok(true)
    }

    /// Are there enough live bundles, or one that is old enough? Looks at no row.
    async fn may_be_due(&self) -> bool {
        let (count, oldest) = self.shared.host.with_lane(|lane| {
            let mut bundles = lane.live.keys().filter(|object| matches!(object.kind, ObjectKind::Bundle { .. }));
            (bundles.clone().count(), bundles.next().copied())
        });
        self.is_due(count, oldest).await
    }

    /// Are these enough bundles, or is the oldest old enough? A bundle's age is in its index, which is read once.
    async fn is_due(&self, count: usize, oldest: Option<ObjectName>) -> bool {
        if count >= self.shared.config.gather_bundles {
            return true;
        }
        let Some(oldest) = oldest else { return false };
        let after = i64::try_from(self.shared.config.gather_after.as_millis()).unwrap_or(i64::MAX);
        let written = self.shared.indexes.of_object(oldest).await.map(|found| found.index.written);
        written.is_ok_and(|written| self.shared.now().since_ms(written) >= after)
    }

    /// The batches of contiguous rows of one partition, read from the bucket and checked; or what is to be quarantined.
    pub(super) async fn read_rows(
        &self,
        partition: PartitionId,
        rows: &[Row],
    ) -> Result<Result<Vec<Batch>, Quarantine>, StepError> {
        let reads = rows.iter().map(|row| self.read_row(partition, *row));
        let mut reads = futures::stream::iter(reads).buffered(PARALLEL_READS);
        let mut out: Vec<Batch> = Vec::new();
        while let Some(read) = reads.next().await {
            let batches = match read? {
                Ok(batches) => batches,
                Err(bad) => return Ok(Err(bad)),
            };
            // Rows may be clips of what objects hold: the batch at an edge can come twice.
            let next = out.last().map(|last| last.header.next_offset());
            out.extend(batches.into_iter().filter(|batch| next.is_none_or(|next| batch.header.base_offset >= next)));
        }
        let broken = out.windows(2).find_map(|pair| match pair {
            [a, b] if a.header.next_offset() != b.header.base_offset => {
                Some(OffsetRange::new(a.header.next_offset(), b.header.base_offset))
            }
            _ => None,
        });
        Ok(match broken {
            Some(offsets) => Err(Quarantine { partition, offsets, reason: "offsets missing between rows".to_owned() }),
            None => Ok(out),
        })
    }

    /// One row's batches. A row is bad only if several reads in a row bring bytes that fail their check; if the store
    /// denies, refuses or does not find the object, the row is read again another time.
    async fn read_row(&self, partition: PartitionId, row: Row) -> Result<Result<Vec<Batch>, Quarantine>, StepError> {
        let is_bad = |error: &RowError| matches!(error, RowError::Bad(..));
        match self.shared.read_again(is_bad, async || self.read_row_once(partition, row).await).await {
            Ok(batches) => Ok(Ok(batches)),
            Err(RowError::Bad(offsets, reason)) => {
                Ok(Err(Quarantine { partition, offsets, reason: format!("{}: {reason}", row.object()) }))
            }
            Err(RowError::Store(error)) => Err(StepError::Later(format!("{partition} {}: {error}", row.offsets))),
        }
    }

    async fn read_row_once(&self, partition: PartitionId, row: Row) -> Result<Vec<Batch>, RowError> {
        let object = row.object();
        let bad = |offsets, reason: String| Err(RowError::Bad(offsets, reason));
        let found = match self.shared.indexes.of_row(&row).await {
            Ok(found) => found,
            Err(IndexError::Store(error)) => return Err(RowError::Store(error)),
            Err(IndexError::Format(error)) => return bad(row.offsets, error.to_string()),
        };
        let Some(entry) = found.index.partition(partition) else {
            return bad(row.offsets, "it does not hold the partition".to_owned());
        };
        let mut batches = Vec::new();
        let pieces = locate_runs(object, entry, row.offsets, self.shared.config.object_bytes_max);
        for group in pieces.chunk_by(|a, b| a.chunk.object == b.chunk.object && a.bytes.end == b.bytes.start) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
            let key = first.chunk.object.key();
            let got = self.shared.bucket.store.get(&key, Some(first.bytes.start..last.bytes.end)).await;
            let got = got.map_err(RowError::Store)?.body;
            for piece in group {
                let place = |at: u64| usize::try_from(at - first.bytes.start).unwrap_or(usize::MAX).min(got.len());
                let run = got.slice(place(piece.bytes.start)..place(piece.bytes.end));
                let sum = piece.run.sum;
                if !sum.matches(partition, &run) {
                    return bad(sum.offsets, "bytes do not match their checksum".to_owned());
                }
                match Batch::split_all(run) {
                    Ok(run) => batches.extend(run),
                    Err(error) => return bad(sum.offsets, error.to_string()),
                }
            }
        }
        batches.retain(|batch| !batch.header.offsets().intersect(&row.offsets).is_empty());
        Ok(batches)
    }
}

/// Why a row was not read.
enum RowError {
    /// The bytes of this range fail their check; how.
    Bad(OffsetRange, String),
    Store(StoreError),
}

fn sequence_of(object: &ObjectName) -> Sequence {
    match object.kind {
        ObjectKind::Bundle { sequence, .. } => sequence,
        _ => Sequence::NONE,
    }
}
