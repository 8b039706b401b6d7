//! A lane's new bytes as one object and its parts: read, build, put, or adopt what is there already.
//!
//! Owns: the content of a bundle and of its parts, and their PUTs. Does not own: when (`plan`), whether a found one is
//! adopted (`order`), the command (`bundle_loop`). Shard-local.

use tidewater_storage::model::{Batch, LogIndex, Offset, OffsetRange, PartitionId, Term, TimestampMs};

use super::adopt::foreign_run;
use super::context::LaneContext;
use super::host::{LaneHost, LocalReadError};
use super::order::{Known, StopReason, judge, judge_published};
use super::parts::{PartRow, named_by};
use super::plan::PartitionTake;
use super::verify;
use crate::fetch::indexes::{FoundIndex, IndexError, Indexes};
use crate::format::{BuiltObject, DataIndex, DataKind, IndexRef, LaneEvent, ObjectBuilder};
use crate::keys::{ObjectKind, ObjectName};
use crate::manifest::{Bundled, BundledEnd, Command, NewObject, PublishedLane, Quarantine};
use crate::store::{ObjectStore, PutMode, StoreError};

/// The local log is read in steps of about this many bytes. A run on disk is read whole, so a step holds several.
pub(super) const READ_BYTES: u64 = 4 << 20;
/// After this many bytes were summed other tasks of the shard have their turn.
const SUM_BYTES: u64 = 1 << 20;

/// What the next bundle will hold, read from the local log and checked. *Shard-local*.
#[derive(Debug, Default)]
pub(super) struct BundleInput {
    /// Sorted by partition.
    pub(super) batches: Vec<(PartitionId, Vec<Batch>)>,
    /// Ranges that failed a check.
    pub(super) failed: Vec<Quarantine>,
    /// Partitions of which nothing could be read now, from where on, and why.
    pub(super) unread: Vec<(PartitionId, Offset, String)>,
}

/// Reads what `takes` ask for, in their order, until the bundle is full.
pub(super) async fn read_input<H: LaneHost>(lane: &LaneContext<H>, takes: Vec<PartitionTake>) -> BundleInput {
    let mut out = BundleInput::default();
    let mut room = lane.config.bundle_bytes_max;
    for PartitionTake { partition, offsets, bytes_max } in takes {
        if room == 0 {
            break;
        }
        let (batches, failure) = read_range(lane, partition, offsets, bytes_max.min(room)).await;
        room = room.saturating_sub(bytes_of(&batches));
        match failure {
            Some(ReadFailure::Bad(bad)) => out.failed.push(bad),
            // What could be read goes; the rest fails again at its own start.
            Some(ReadFailure::Later(reason)) if batches.is_empty() => {
                tracing::warn!(%partition, reason, "partition left out of this bundle");
                out.unread.push((partition, offsets.start, reason));
            }
            Some(ReadFailure::Later(_)) | None => {}
        }
        if !batches.is_empty() {
            out.batches.push((partition, batches));
        }
    }
    out.batches.sort_by_key(|(partition, _)| *partition);
    out
}

fn bytes_of(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| batch.bytes.len() as u64).sum()
}

/// Whole batches from `offsets.start` on, about `bytes_max` of them, and what ended the reading early.
async fn read_range<H: LaneHost>(
    lane: &LaneContext<H>,
    partition: PartitionId,
    offsets: OffsetRange,
    bytes_max: u64,
) -> (Vec<Batch>, Option<ReadFailure>) {
    let (mut out, mut left, mut next) = (Vec::new(), bytes_max, offsets.start);
    while next < offsets.end && left > 0 {
        if next > offsets.start {
            lane.env.tasks.yield_now().await;
        }
        let range = OffsetRange::new(next, offsets.end);
        match read_checked(&*lane.host, partition, range, left.min(READ_BYTES)).await {
            Ok(batches) => {
                let Some(last) = batches.last() else { break };
                debug_assert!(last.header.next_offset() > next, "a read makes progress");
                next = last.header.next_offset();
                left = left.saturating_sub(bytes_of(&batches));
                out.extend(batches);
            }
            Err(failure) => return (out, Some(failure)),
        }
    }
    (out, None)
}

/// Why a local range was not read.
pub(super) enum ReadFailure {
    /// It failed a check: quarantine it.
    Bad(Quarantine),
    /// It may be readable later.
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

/// A bundle with its parts, ready to be put.
#[derive(Debug)]
pub(super) struct BuiltBundle {
    pub(super) parts: Vec<(PartitionId, ObjectName, BuiltObject)>,
    pub(super) bundle: BuiltObject,
    /// Lane events up to this index are in the bundle.
    pub(super) applied: LogIndex,
}

impl BuiltBundle {
    pub(super) fn part_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, _, part)| part.size).sum()
    }

    /// The rows that will name the parts.
    pub(super) fn part_rows(&self) -> Vec<PartRow> {
        let row = |(partition, object, part): &(PartitionId, ObjectName, BuiltObject)| {
            let extent = part.index.partition(*partition)?.extents.first()?;
            PartRow::new(NewObject { object: *object, size: part.size, index: part.at }, *partition, extent)
        };
        let rows: Vec<PartRow> = self.parts.iter().filter_map(row).collect();
        assert_eq!(rows.len(), self.parts.len(), "every part holds one extent of its partition");
        rows
    }
}

/// Builds bundle `last + 1` of the lane, which carries the lane's events after `reported`.
pub(super) async fn build<H: LaneHost>(
    lane: &LaneContext<H>,
    term: Term,
    reported: LogIndex,
    input: Vec<(PartitionId, Vec<Batch>)>,
) -> BuiltBundle {
    // One moment of the lane's state: no await up to the log starts.
    let (applied, written) = (lane.host.applied(), lane.now());
    let mut header = header(&*lane.host, term, applied, written, reported);
    let log_start = |id: &PartitionId| lane.host.with_partition(*id, |m| m.log_start);
    let log_starts: Vec<Option<Offset>> = input.iter().map(|(id, _)| log_start(id)).collect();
    header.events.retain(|event| !is_said_by_entry(event, &input, &log_starts));

    let part_header = DataIndex { kind: DataKind::Part, previous: 0, events: Vec::new(), ..header.clone() };
    let sequence = header.sequence;
    let mut bundle = ObjectBuilder::new(header);
    let mut parts = Vec::new();
    for ((partition, batches), log_start) in input.into_iter().zip(log_starts) {
        // A partition that is gone meanwhile is left out.
        let (Some(log_start), Some(first), Some(last)) = (log_start, batches.first(), batches.last()) else { continue };
        let offsets = OffsetRange::new(first.header.base_offset, last.header.next_offset());
        if bytes_of(&batches) < lane.config.part_bytes_min {
            push_all(lane, &mut bundle, partition, offsets, log_start, &batches).await;
            continue;
        }
        let mut part = ObjectBuilder::new(part_header.clone());
        push_all(lane, &mut part, partition, offsets, log_start, &batches).await;
        let part = part.finish();
        let kind = ObjectKind::Part { partition, lane: lane.host.lane(), sequence, term, nonce: lane.nonce() };
        let object = lane.bucket.home.name(kind);
        debug_assert_eq!(part.index.partition(partition).map(|entry| entry.offsets), Some(offsets));
        bundle.refer_to_part(&part, object);
        parts.push((partition, object, part));
    }
    BuiltBundle { parts, bundle: bundle.finish(), applied }
}

/// A moved log start of a partition that has an entry in the bundle: the entry says it. So the trims that retention
/// makes all day in partitions that are written cost no events.
fn is_said_by_entry(event: &LaneEvent, input: &[(PartitionId, Vec<Batch>)], log_starts: &[Option<Offset>]) -> bool {
    let LaneEvent::LogStartMoved { partition, to } = event else { return false };
    let at = input.binary_search_by_key(partition, |(id, _)| *id).ok();
    at.and_then(|at| *log_starts.get(at)?).is_some_and(|log_start| log_start >= *to)
}

fn header<H: LaneHost>(host: &H, term: Term, applied: LogIndex, written: TimestampMs, reported: LogIndex) -> DataIndex {
    host.with_lane(|lane| DataIndex {
        kind: DataKind::Bundle,
        home: lane.home,
        lane: lane.lane,
        sequence: lane.last.next(),
        term,
        log_index: applied,
        previous: lane.last_crc,
        written,
        partitions: Vec::new(),
        events: host.events(reported),
        producers: None,
        seal: None,
        cut: None,
    })
}

async fn push_all<H: LaneHost>(
    lane: &LaneContext<H>,
    builder: &mut ObjectBuilder,
    partition: PartitionId,
    offsets: OffsetRange,
    log_start: Offset,
    batches: &[Batch],
) {
    builder.begin(partition, offsets.start, log_start);
    let mut step = 0;
    for batch in batches {
        if step >= SUM_BYTES {
            step = 0;
            lane.env.tasks.yield_now().await;
        }
        step += batch.bytes.len() as u64;
        builder.push(batch);
    }
    lane.host.aborted(partition, offsets).into_iter().for_each(|aborted| builder.aborted(aborted));
}

/// What became of a bundle's PUT.
#[derive(Debug)]
pub(super) enum Put {
    /// This bundle is in the bucket; the command that settles it.
    Done(Command),
    /// An object lies at the key, perhaps this one.
    Taken,
}

/// Puts the parts, then the bundle if its key is free (R1). A part has a key that no other attempt uses, so a repeated
/// PUT of it meets nothing but itself.
pub(super) async fn put(store: &dyn ObjectStore, built: &BuiltBundle) -> Result<Put, StoreError> {
    let keys: Vec<_> = built.parts.iter().map(|(_, object, _)| object.key()).collect();
    let puts = built.parts.iter().zip(&keys);
    let puts = puts.map(|((_, _, part), key)| store.put_pieces(key, part.pieces.clone(), PutMode::Overwrite));
    futures::future::try_join_all(puts).await?;
    let DataIndex { home, lane, sequence, ref partitions, .. } = built.bundle.index;
    let key = home.bundle(lane, sequence).key();
    match store.put_pieces(&key, built.bundle.pieces.clone(), PutMode::IfAbsent).await {
        Ok(_) => {
            let ends = partitions.iter().filter(|entry| !entry.offsets.is_empty()).map(|entry| BundledEnd {
                partition: entry.partition,
                offsets: entry.offsets,
                bytes: entry.bytes(),
                max_timestamp: entry.max_timestamp,
            });
            let parts = sorted(built.parts.iter().map(|(_, object, _)| *object));
            Ok(Put::Done(settle(&built.bundle.index, built.bundle.size, built.bundle.at, ends.collect(), parts)))
        }
        Err(StoreError::Taken { .. }) => Ok(Put::Taken),
        Err(error) => Err(error),
    }
}

/// What lies at the lane's next key.
#[derive(Debug)]
pub(super) enum Probe {
    Free,
    /// A bundle to be settled by this command.
    Adopt(Command),
    /// The lane's manifest was published and is not found.
    ManifestGone(ObjectName),
    /// Something that ends this lane's archiving.
    Stop(StopReason),
}

/// Looks at the lane's manifest and at the next key and judges what is there (R2, R3), by what is `known` once the
/// answer has come. Reads past the caches: they keep objects by name, and here any object may lie.
pub(super) async fn probe<H: LaneHost>(
    host: &H,
    indexes: &Indexes,
    store: &dyn ObjectStore,
    known: impl Fn() -> Known,
) -> Result<Probe, StoreError> {
    match published(host, store).await? {
        InBucket::Found(published) => {
            if let Err(reason) = host.with_lane(|lane| judge_published(&published, lane, known())) {
                return Ok(Probe::Stop(reason));
            }
        }
        InBucket::Absent(object) if host.with_lane(|lane| lane.etag.is_some()) => {
            return Ok(Probe::ManifestGone(object));
        }
        InBucket::Absent(_) | InBucket::Damaged => {}
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
        Ok(ends) => Probe::Adopt(settle(&found.index, found.size, found.at, ends, parts_of(&found))),
        Err(reason) => Probe::Stop(reason),
    })
}

/// The lane's manifest as it lies in the bucket.
enum InBucket {
    Found(PublishedLane),
    /// There is none of this name.
    Absent(ObjectName),
    /// It does not decode in two answers: the next publication writes a new one.
    Damaged,
}

async fn published<H: LaneHost>(host: &H, store: &dyn ObjectStore) -> Result<InBucket, StoreError> {
    let object = host.with_lane(|lane| lane.home.lane_manifest(lane.lane));
    for _ in 0..2 {
        let got = match store.get(&object.key(), None).await {
            Err(StoreError::NotFound { .. }) => return Ok(InBucket::Absent(object)),
            got => got?,
        };
        if let Ok(found) = PublishedLane::decode(&got.body) {
            return Ok(InBucket::Found(found));
        }
    }
    Ok(InBucket::Damaged)
}

/// The command that settles the bundle of `index`, an object of `size` bytes with its index `at`.
fn settle(index: &DataIndex, size: u64, at: IndexRef, ends: Vec<BundledEnd>, parts: Vec<ObjectName>) -> Command {
    debug_assert!(ends.windows(2).all(|pair| matches!(pair, [a, b] if a.partition < b.partition)), "ends are sorted");
    let (sequence, events) = (index.sequence, Some(index.log_index));
    Command::Bundled(Bundled { sequence, size, index: at, ends, parts, events })
}

fn parts_of(found: &FoundIndex) -> Vec<ObjectName> {
    sorted(named_by(&found.index).map(|(part, _, _)| part))
}

fn sorted(parts: impl Iterator<Item = ObjectName>) -> Vec<ObjectName> {
    let mut parts: Vec<ObjectName> = parts.collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}
