//! What must precede what. The whole archiver exists to keep this page true.
//!
//! ```text
//! bundle     catalogue names lane and topics → parts of N: PUT → bundle N: PUT if absent → command bundled(N) applied
//!              → only then, on any replica, local bytes may go          → only then N+1 and its parts are PUT
//! part       bundled(N) applied → command replaced gives the part a row → it no longer goes with bundle N
//! replace    new object PUT (unique key) → command replaced applied: the intent for objects of the partition's own
//!              → shared objects (bundles, gathered) that no row names any more, bundles only below follow_from of a
//!              published manifest → command forgotten: the intent for them
//! delete     intent applied at index i → manifest as of j ≥ i published → command published(j) applied
//!              → delete.grace, by both clocks → DELETE → command deleted
//! ```
//!
//! A leader that dies between two arrows leaves at most an object that no row names: a bundle that the next leader
//! finds at the next key and adopts, or a uniquely named object that the sweeper removes after its grace. No successor
//! needs to know where its predecessor stopped. The sweeper keeps parts of N until a bundle N is settled: one that
//! names them may still be found.
//!
//! A taken key (R2): the content is adopted if it is this lane's and of this log's records (`adopt`), continues what is
//! archived and was written by a replica that had applied no more than this one has. The command is made from what was
//! *found*; if that is this replica's own content, an answer was lost, and the case needs no other treatment. Any other
//! content stops archiving and trimming, visibly.
//!
//! A free key means "not yet" only while the lane's manifest in the bucket is one that this replica's log can have led
//! to (R3): a data directory put back from a backup finds the bundles after its own gathered and deleted, and must
//! neither write at their keys nor publish over what is newer. A manifest that was published and is not found beside
//! the cluster's root says that the bucket lost objects: free keys say nothing then, and local bytes stay.
//!
//! The guards: [`judge`] and [`judge_published`] here; `bundled`, `replaced`, `published` in `manifest/apply.rs`;
//! `LaneManifest::must_follow`, which `forget` (`collect.rs`) checks before it proposes `forgotten` (applying that does
//! not) and `LaneManifest::deletable` again; both clocks in that and `PartitionManifest::deletable`.
//! Pure. Shard-local by use.

use tidewater_storage::model::{LaneId, LogIndex, Offset, OffsetRange, PartitionId, Term};

use crate::format::{DataIndex, DataKind};
use crate::keys::{Home, LineageEpoch, ObjectName, Sequence};
use crate::manifest::{BundledEnd, LaneManifest, PublishedLane};

/// Why archiving of a lane stops until an operator looks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopReason {
    /// The lineage went on elsewhere (R6).
    #[error("the lane is sealed: epoch {next} went on after bundle {last}; this copy of the cluster must not write")]
    Sealed {
        /// The epoch that took over.
        next: LineageEpoch,
        /// The last bundle that counts.
        last: Sequence,
    },
    /// An object of another lane or cluster under this lane's key.
    #[error("bundle {sequence} was written by lane {lane} of {found:?}; two clusters share a cluster id")]
    Foreign { sequence: Sequence, found: Home, lane: LaneId },
    /// The bundle does not follow the last one.
    #[error("bundle {sequence} names a predecessor with checksum {found:#010x}, the last bundle has {expected:#010x}")]
    Chain {
        sequence: Sequence,
        /// Checksum it names.
        found: u32,
        /// Checksum of the last one.
        expected: u32,
    },
    /// The bundle's writer had applied entries that this replica has not.
    #[error(
        "bundle {sequence} was written in term {term} at log index {found}, which is not in this leader's log: entries are \
         lost here, as in a data directory put back from a backup"
    )]
    Ahead { sequence: Sequence, term: Term, found: LogIndex },
    /// The bundle holds other records than this replica's log.
    #[error(
        "bundle {sequence} holds other records at {offsets} of {partition} than this log: another life of this data \
         directory wrote to the bucket, as after one is put back from a backup"
    )]
    Differs { sequence: Sequence, partition: PartitionId, offsets: OffsetRange },
    /// The publisher of the lane manifest had applied entries that this replica has not.
    #[error(
        "the lane manifest in the bucket was published in term {term} at log index {as_of} and goes on at bundle \
         {follow_from}, which this leader's log does not lead to (its last is bundle {last}): entries are lost here, as in a \
         data directory put back from a backup"
    )]
    Outrun {
        term: Term,
        as_of: LogIndex,
        /// The first bundle that is not in it.
        follow_from: Sequence,
        /// The last bundle known here.
        last: Sequence,
    },
    /// The lane manifest follows another bundle of the same sequence than the one this replica settled.
    #[error(
        "the lane manifest in the bucket goes on after another bundle {sequence} (checksum {found:#010x}) than this log's \
         (checksum {expected:#010x}): two copies of this data directory write to the bucket; stop one of them"
    )]
    TwoCopies {
        /// The last bundle of both.
        sequence: Sequence,
        found: u32,
        expected: u32,
    },
    /// The bundle leaves a hole in a partition.
    #[error("bundle {sequence} begins at offset {found} of {partition}, the archive ends at {archived_end}")]
    Gap {
        sequence: Sequence,
        partition: PartitionId,
        /// Its first offset.
        found: Offset,
        /// Where the archive ends.
        archived_end: Offset,
    },
    /// The object is not a bundle.
    #[error("what lies at the key of bundle {sequence} is not a readable bundle: {reason}")]
    Unreadable { sequence: Sequence, reason: String },
    /// The lane manifest was closed by a restore (R6).
    #[error("the lane manifest was closed for epoch {next}; this copy of the cluster must not write")]
    Closed {
        /// The epoch that took over.
        next: LineageEpoch,
    },
    /// The lane manifest was published and is not there any more, although the cluster's root is.
    #[error(
        "the lane manifest {object} was published and is gone from the bucket, perhaps with other objects: put the bucket's \
         objects back from the store's versions or a copy, and run tidewater verify"
    )]
    ManifestGone { object: ObjectName },
}

/// How far this replica, or one before it, can have written to the bucket, unless entries are lost here.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The term in which this replica leads.
    pub term: Term,
    /// What it had applied when it began to archive; once it has written anything itself, what it has applied.
    pub applied: LogIndex,
}

impl Known {
    fn covers(&self, term: Term, index: LogIndex) -> bool {
        term <= self.term && index <= self.applied
    }
}

/// Judges what lies at the key of bundle `last + 1` (R2): its ends to propose, or why archiving stops.
/// `archived_end` answers `None` for a partition that is not of this lane (any more); its rows are ignored.
///
/// # Errors
/// The first reason not to adopt it.
pub fn judge(
    found: &DataIndex,
    lane: &LaneManifest,
    known: Known,
    archived_end: impl Fn(PartitionId) -> Option<Offset>,
) -> Result<Vec<BundledEnd>, StopReason> {
    let sequence = lane.last.next();
    if let Some(seal) = found.seal
        && (found.home.cluster, found.lane) == (lane.home.cluster, lane.lane)
    {
        return Err(StopReason::Sealed { next: seal.next_epoch, last: seal.last });
    }
    if (found.home, found.lane, found.sequence) != (lane.home, lane.lane, sequence) || found.kind != DataKind::Bundle {
        return Err(StopReason::Foreign { sequence, found: found.home, lane: found.lane });
    }
    if found.previous != lane.last_crc {
        return Err(StopReason::Chain { sequence, found: found.previous, expected: lane.last_crc });
    }
    if !known.covers(found.term, found.log_index) {
        return Err(StopReason::Ahead { sequence, term: found.term, found: found.log_index });
    }
    let mut ends = Vec::new();
    for entry in found.partitions.iter().filter(|entry| !entry.offsets.is_empty()) {
        let partition = entry.partition;
        let Some(end) = archived_end(partition) else { continue };
        if entry.offsets.start > end {
            return Err(StopReason::Gap { sequence, partition, found: entry.offsets.start, archived_end: end });
        }
        let (offsets, bytes, max_timestamp) = (entry.offsets, entry.bytes(), entry.max_timestamp);
        ends.push(BundledEnd { partition, offsets, bytes, max_timestamp });
    }
    Ok(ends)
}

/// Judges the lane's manifest as it lies in the bucket (R3): may this replica write beside it and over it?
///
/// # Errors
/// Why archiving of the lane stops.
pub fn judge_published(found: &PublishedLane, lane: &LaneManifest, known: Known) -> Result<(), StopReason> {
    if let Some(next) = found.closed_for {
        return Err(StopReason::Closed { next });
    }
    if (found.home, found.lane) != (lane.home, lane.lane) {
        return Err(StopReason::Foreign { sequence: lane.last, found: found.home, lane: found.lane });
    }
    if found.follow_from > lane.last.next() || !known.covers(found.term, found.as_of) {
        let PublishedLane { term, as_of, follow_from, .. } = *found;
        return Err(StopReason::Outrun { term, as_of, follow_from, last: lane.last });
    }
    if found.follow_from == lane.last.next() && found.last_crc != lane.last_crc {
        return Err(StopReason::TwoCopies { sequence: lane.last, found: found.last_crc, expected: lane.last_crc });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::TimestampMs;

    use super::*;
    use crate::keys::ClusterId;

    #[test]
    fn two_live_copies_of_a_data_directory_stop_at_each_others_manifest() {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        let mut lane = LaneManifest::new(home, LaneId(1));
        (lane.last, lane.last_crc) = (Sequence(7), 0xaa);
        let known = Known { term: Term(3), applied: LogIndex(100) };
        let published = |follow_from, last_crc| PublishedLane {
            home,
            lane: LaneId(1),
            term: Term(3),
            as_of: LogIndex(90),
            follow_from: Sequence(follow_from),
            last_crc,
            written: TimestampMs(0),
            pages: Vec::new(),
            objects: None,
            pins: Vec::new(),
            closed_for: None,
        };
        assert_eq!(judge_published(&published(8, 0xaa), &lane, known), Ok(()), "its own");
        assert_eq!(judge_published(&published(5, 0xbb), &lane, known), Ok(()), "an earlier one of its own");
        let other = StopReason::TwoCopies { sequence: Sequence(7), found: 0xbb, expected: 0xaa };
        assert_eq!(judge_published(&published(8, 0xbb), &lane, known), Err(other));
    }
}
