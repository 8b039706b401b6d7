//! What must always be true of manifests, each a named predicate: run when state is decoded, before it is published,
//! in tests after every command, and by the simulator.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{OffsetRange, PartitionId};

use super::lane::{LaneManifest, is_shared};
use super::partition::PartitionManifest;
use crate::keys::ObjectName;

/// A predicate that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// T1: rows leave a gap, overlap, are empty, or do not end at the archived end.
    #[error("{partition}: rows are not contiguous up to the archived end: {before} then {after}")]
    NotContiguous {
        partition: PartitionId,
        before: OffsetRange,
        /// What comes after it.
        after: OffsetRange,
    },
    /// T1: the log start is above the archived end, or rows wholly below it are kept.
    #[error("{partition}: log start {log_start} does not fit the rows {covered}")]
    LogStart { partition: PartitionId, log_start: tidewater_storage::model::Offset, covered: OffsetRange },
    /// T2: something that never falls fell.
    #[error("{what} fell")]
    Fell { what: &'static str },
    /// T4: an object is about to be deleted while something names it.
    #[error("{0} is pending but named")]
    PendingNamed(Box<ObjectName>),
    /// T4: a row names a shared object that is not live.
    #[error("{partition} names {object}, which is not live")]
    NotLive { partition: PartitionId, object: Box<ObjectName> },
    /// T4: a row names a part that would be deleted with its bundle.
    #[error("{partition} names {part}, which still goes with its bundle")]
    PartOfTwo { partition: PartitionId, part: Box<ObjectName> },
    /// T2: `follow_from` is beyond the next bundle, or publications are not in order.
    #[error("lane positions are out of order")]
    LaneOrder,
}

/// Every predicate about one partition by itself.
///
/// # Errors
/// The first that does not hold.
pub fn check_partition(manifest: &PartitionManifest) -> Result<(), Violation> {
    let partition = manifest.id;
    let spilled = manifest.spilled.iter().map(|page| page.offsets);
    let ranges = spilled.chain(manifest.rows.iter().map(|row| row.offsets));
    let covered = OffsetRange { start: manifest.first_covered(), end: manifest.archived_end };
    let mut before = OffsetRange { start: covered.start, end: covered.start };
    for after in ranges {
        if after.start != before.end || after.is_empty() {
            return Err(Violation::NotContiguous { partition, before, after });
        }
        before = after;
    }
    if before.end != manifest.archived_end {
        return Err(Violation::NotContiguous { partition, before, after: covered });
    }
    let log_start = manifest.log_start;
    // Opened pages may leave pages below the log start, until the next trim.
    let first = manifest.rows.first().filter(|_| manifest.spilled.is_empty());
    if log_start > manifest.archived_end || first.is_some_and(|row| row.offsets.end <= log_start) {
        return Err(Violation::LogStart { partition, log_start, covered });
    }
    match manifest.pending.iter().find(|(object, _)| manifest.names(object)) {
        Some((object, _)) => Err(Violation::PendingNamed(Box::new(*object))),
        None => Ok(()),
    }
}

/// Every predicate about a lane and all its partitions.
///
/// # Errors
/// The first that does not hold.
pub fn check_lane(lane: &LaneManifest, partitions: &BTreeMap<PartitionId, PartitionManifest>) -> Result<(), Violation> {
    let ordered = lane.publications.iter().zip(lane.publications.iter().skip(1)).all(|(a, b)| a.as_of <= b.as_of);
    if lane.follow_from > lane.last.next() || !ordered {
        return Err(Violation::LaneOrder);
    }
    if let Some(object) = lane.pending.keys().find(|object| lane.live.contains_key(object)) {
        return Err(Violation::PendingNamed(Box::new(*object)));
    }
    let live = lane.live.values().flat_map(|live| &live.parts);
    let parts: BTreeSet<&ObjectName> = live.chain(lane.pending.values().flat_map(|pending| &pending.parts)).collect();
    for (partition, manifest) in partitions {
        check_partition(manifest)?;
        if let Some(row) = manifest.rows.iter().find(|row| parts.contains(&row.object())) {
            return Err(Violation::PartOfTwo { partition: *partition, part: Box::new(row.object()) });
        }
        for object in manifest.rows.iter().map(|row| row.object()).filter(is_shared) {
            let own = object.home == lane.home;
            if own && lane.pending.contains_key(&object) {
                return Err(Violation::PendingNamed(Box::new(object)));
            }
            if own && !lane.live.contains_key(&object) {
                return Err(Violation::NotLive { partition: *partition, object: Box::new(object) });
            }
        }
    }
    Ok(())
}

/// What may never fall did not, from one state of a partition to a later one.
///
/// # Errors
/// [`Violation::Fell`].
pub fn check_partition_step(before: &PartitionManifest, after: &PartitionManifest) -> Result<(), Violation> {
    let fell = |what| Err(Violation::Fell { what });
    match () {
        () if after.archived_end < before.archived_end => fell("archived end"),
        () if after.log_start < before.log_start => fell("log start"),
        () if after.changed < before.changed => fell("covered log index"),
        () if before.dropped && !after.dropped => fell("dropped"),
        () => Ok(()),
    }
}

/// What may never fall did not, from one state of a lane to a later one.
///
/// # Errors
/// [`Violation::Fell`].
pub fn check_lane_step(before: &LaneManifest, after: &LaneManifest) -> Result<(), Violation> {
    let fell = |what| Err(Violation::Fell { what });
    match () {
        () if after.last < before.last => fell("bundle sequence"),
        () if after.follow_from < before.follow_from => fell("follow_from"),
        () if after.published_as_of() < before.published_as_of() => fell("published index"),
        () if after.changed < before.changed => fell("covered log index"),
        () => Ok(()),
    }
}
