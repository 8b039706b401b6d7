//! A lane's new bytes as one object: gather, build, put, or adopt what is there already.
//!
//! Owns: the content of a bundle and its PUT. Does not own: when (`plan`), whether a found one is adopted (`order`),
//! the command (`archive`). Shard-local.

use std::sync::Arc;

use tidewater_storage::model::{Batch, LogIndex, Offset, OffsetRange, PartitionId, Term, TimestampMs};

use super::adopt::foreign_run;
use super::host::{LaneHost, LocalReadError};
use super::order::{Known, StopReason, judge, judge_published};
use super::plan::Take;
use super::verify;
use crate::fetch::indexes::{FoundIndex, IndexError, Indexes};
use crate::format::{DataIndex, DataKind, IndexRef, ObjectBuilder, Placed};
use crate::keys::{ObjectName, Sequence};
use crate::manifest::{Bundled, BundledEnd, Command, PublishedLane, Quarantine};
use crate::store::{ObjectStore, PutMode, StoreError};

/// What the next bundle will hold, read from the local log and checked. *Shard-local*.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Sorted by partition.
    pub(super) parts: Vec<(PartitionId, Vec<Batch>)>,
    /// Ranges that failed a check; their partitions are left out.
    pub(super) failed: Vec<Quarantine>,
    /// Partitions that could not be read now, from where on, and why.
    pub(super) unread: Vec<(PartitionId, Offset, String)>,
}

/// Reads what `takes` ask for, in their order, until `bytes_max` is reached.
pub(super) async fn gather<H: LaneHost>(host: &H, takes: Vec<Take>, bytes_max: u64) -> Gathered {
    let mut out = Gathered::default();
    let mut room = bytes_max;
    for take in takes {
        if room == 0 {
            break;
        }
        match read_checked(host, take.partition, take.offsets, take.bytes_max.min(room)).await {
            Ok(batches) => {
                room = room.saturating_sub(batches.iter().map(|batch| batch.bytes.len() as u64).sum());
                if !batches.is_empty() {
                    out.parts.push((take.partition, batches));
                }
            }
            Err(ReadFailure::Bad(bad)) => out.failed.push(bad),
            Err(ReadFailure::Later(reason)) => {
                tracing::warn!(partition = %take.partition, reason, "partition left out of this bundle");
                out.unread.push((take.partition, take.offsets.start, reason));
            }
        }
    }
    out.parts.sort_by_key(|(partition, _)| *partition);
    out
}

/// Why a local range was not read.
pub(super) enum ReadFailure {
    /// It failed a check: quarantine it.
    Bad(Quarantine),
    /// Not now.
    Later(String),
}

/// Reads at least one whole batch from `offsets.start` on, all checked.
pub(super) async fn read_checked<H: LaneHost>(
    host: &H,
    partition: PartitionId,
    offsets: OffsetRange,
    bytes_max: u64,
) -> Result<Vec<Batch>, ReadFailure> {
    let bad = |offsets: OffsetRange, reason: String| ReadFailure::Bad(Quarantine { partition, offsets, reason });
    match host.read(partition, offsets, bytes_max).await {
        Ok(read) => verify::batches(partition, offsets, read).map_err(|b| bad(b.offsets(), b.to_string())),
        Err(LocalReadError::Corrupt { offsets, reason }) => Err(bad(offsets, reason)),
        Err(error @ (LocalReadError::BelowStart { .. } | LocalReadError::Unavailable { .. })) => {
            Err(ReadFailure::Later(error.to_string()))
        }
    }
}

/// Who writes a bundle, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) term: Term,
    pub(super) applied: LogIndex,
    pub(super) now: TimestampMs,
}

/// Builds bundle `last + 1` of the lane.
pub(super) fn build<H: LaneHost>(
    host: &H,
    stamp: Stamp,
    told: LogIndex,
    parts: Vec<(PartitionId, Vec<Batch>)>,
) -> Placed {
    let header = host.with_lane(|lane| DataIndex {
        kind: DataKind::Bundle,
        home: lane.home,
        lane: lane.lane,
        sequence: lane.last.next(),
        term: stamp.term,
        log_index: stamp.applied,
        previous: lane.last_crc,
        written: stamp.now,
        partitions: Vec::new(),
        events: host.events(told),
        seal: None,
        cut: None,
    });
    let mut builder = ObjectBuilder::new(header);
    for (partition, batches) in parts {
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else { continue };
        let offsets = OffsetRange::new(first.header.base_offset, last.header.next_offset());
        let log_start = host.with_partition(partition, |manifest| manifest.log_start).unwrap_or_default();
        builder.begin(partition, offsets.start, log_start);
        batches.iter().for_each(|batch| builder.push(batch));
        host.aborted(partition, offsets).into_iter().for_each(|aborted| builder.aborted(aborted));
    }
    builder.finish()
}

/// What became of a bundle's PUT.
#[derive(Debug)]
pub(super) enum Put {
    /// It is there, and it is this one.
    Done(Command),
    /// Something else is (or was already) there: look.
    Taken,
}

/// Puts a bundle if its key is free.
pub(super) async fn put(store: &Arc<dyn ObjectStore>, placed: Placed) -> Result<Put, StoreError> {
    let DataIndex { home, lane, sequence, .. } = placed.index;
    match store.put(&home.bundle(lane, sequence).key(), placed.body(), PutMode::IfAbsent).await {
        Ok(_) => {
            let ends = placed.index.partitions.iter().filter(|entry| !entry.offsets.is_empty());
            let ends = ends.map(|entry| BundledEnd {
                partition: entry.partition,
                offsets: entry.offsets,
                bytes: entry.bytes(),
                max_timestamp: entry.max_timestamp,
            });
            Ok(Put::Done(settle(sequence, placed.size, placed.at, ends.collect(), Vec::new())))
        }
        Err(StoreError::Taken { .. }) => Ok(Put::Taken),
        Err(error) => Err(error),
    }
}

/// What lies at the lane's next key.
#[derive(Debug)]
pub(super) enum Probe {
    /// Nothing.
    Free,
    /// A bundle to be settled by this command.
    Adopt(Command),
    /// Something that ends this lane's archiving.
    Stop(StopReason),
}

/// Looks at the lane's manifest and at the next key and judges what is there (R2, R3), by what is `known` once the answer
/// has come. Reads past the caches: what is kept by name is the object of that name, and here anything may lie.
pub(super) async fn probe<H: LaneHost>(
    host: &H,
    indexes: &Indexes,
    store: &dyn ObjectStore,
    known: impl Fn() -> Known,
) -> Result<Probe, StoreError> {
    if let Some(published) = published(host, store).await?
        && let Err(reason) = host.with_lane(|lane| judge_published(&published, lane, known()))
    {
        return Ok(Probe::Stop(reason));
    }
    let (object, sequence) = host.with_lane(|lane| (lane.home.bundle(lane.lane, lane.last.next()), lane.last.next()));
    let found = match indexes.at_key(object).await {
        Ok(found) => found,
        Err(IndexError::Store(StoreError::NotFound { .. })) => return Ok(Probe::Free),
        Err(IndexError::Store(error)) => return Err(error),
        Err(IndexError::Format(error)) => {
            return Ok(Probe::Stop(StopReason::Unreadable { sequence, reason: error.to_string() }));
        }
    };
    let judged = host.with_lane(|lane| {
        judge(&found.index, lane, known(), |partition| {
            host.with_partition(partition, |manifest| (!manifest.dropped).then_some(manifest.archived_end)).flatten()
        })
    });
    if judged.is_ok()
        && let Some((partition, offsets)) = foreign_run(host, &found.index).await
    {
        return Ok(Probe::Stop(StopReason::Differs { sequence, partition, offsets }));
    }
    Ok(match judged {
        Ok(ends) => Probe::Adopt(settle(sequence, found.size, found.at, ends, parts_of(&found))),
        Err(reason) => Probe::Stop(reason),
    })
}

/// The lane's manifest as it lies in the bucket; `None` if there is none, or none that decodes in two answers: it is
/// written anew by the next publication.
async fn published<H: LaneHost>(host: &H, store: &dyn ObjectStore) -> Result<Option<PublishedLane>, StoreError> {
    let key = host.with_lane(|lane| lane.home.lane_manifest(lane.lane)).key();
    for _ in 0..2 {
        let got = match store.get(&key, None).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            got => got?,
        };
        if let Ok(found) = PublishedLane::decode(&got.body) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn settle(sequence: Sequence, size: u64, index: IndexRef, ends: Vec<BundledEnd>, parts: Vec<ObjectName>) -> Command {
    Command::Bundled(Bundled { sequence, size, index, ends, parts })
}

fn parts_of(found: &FoundIndex) -> Vec<ObjectName> {
    let extents = found.index.partitions.iter().flat_map(|entry| &entry.extents);
    let mut parts: Vec<ObjectName> = extents
        .filter_map(|extent| match extent.place {
            crate::format::Place::Part(part) => Some(part),
            crate::format::Place::Here => None,
        })
        .collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}
