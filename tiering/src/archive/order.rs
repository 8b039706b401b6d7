//! What must precede what. The whole archiver exists to keep this page true.
//!
//! ```text
//! bundle     catalogue names lane and topics → bundle N: PUT if absent → command bundled(N) applied
//!              → only then, on any replica, local bytes may go          → only then bundle N+1 is PUT
//! replace    new object PUT (unique key) → command replaced applied → bundles that no row names any more are below
//!              follow_from of a published manifest → command forgotten (the intent)
//! delete     intent applied at index i → manifest as of j ≥ i published → command published(j) applied
//!              → delete.grace → DELETE → command deleted
//! ```
//!
//! Whoever dies between two arrows leaves at most an object that no row names: a bundle that the next leader finds at
//! the next key and adopts, or a uniquely named object that the sweeper removes after its grace. Nobody ever needs to
//! know where the predecessor stopped.
//!
//! A taken key (R2): the content is adopted if it is this lane's, continues what is archived and was written by a
//! replica that had applied no more than this one has. What is then proposed is what was *found*: one's own content is
//! the case of a lost answer and needs no telling apart. Anything else stops archiving and trimming, visibly.
//!
//! The guards: [`judge`] here; `bundled`, `replaced`, `published` in `manifest/apply.rs`; `LaneManifest::deletable`.
//! Pure. Shard-local by use.

use tidewater_storage::model::{LaneId, LogIndex, Offset, PartitionId};

use crate::format::{DataIndex, DataKind};
use crate::keys::{Home, LineageEpoch, Sequence};
use crate::manifest::{BundledEnd, LaneManifest};

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
    /// Somebody else's object under this lane's key.
    #[error("bundle {sequence} was written by lane {lane} of {found:?}; two clusters share a cluster id")]
    Foreign {
        /// Which bundle.
        sequence: Sequence,
        /// Whose.
        found: Home,
        /// Which lane of it.
        lane: LaneId,
    },
    /// It does not follow the last bundle.
    #[error("bundle {sequence} names a predecessor with checksum {found:#010x}, the last bundle has {expected:#010x}")]
    Chain {
        /// Which bundle.
        sequence: Sequence,
        /// Checksum it names.
        found: u32,
        /// Checksum of the last one.
        expected: u32,
    },
    /// Its writer had applied what this replica has not.
    #[error(
        "bundle {sequence} was written at log index {found}, this leader has applied {applied}: entries are lost here"
    )]
    Ahead {
        /// Which bundle.
        sequence: Sequence,
        /// Its log index.
        found: LogIndex,
        /// What is applied here.
        applied: LogIndex,
    },
    /// It leaves a hole in a partition.
    #[error("bundle {sequence} begins at offset {found} of {partition}, the archive ends at {archived_end}")]
    Gap {
        /// Which bundle.
        sequence: Sequence,
        /// Whose.
        partition: PartitionId,
        /// Its first offset.
        found: Offset,
        /// Where the archive ends.
        archived_end: Offset,
    },
    /// Not a bundle at all.
    #[error("what lies at the key of bundle {sequence} is not a readable bundle: {reason}")]
    Unreadable {
        /// Which bundle.
        sequence: Sequence,
        /// What the decoder said.
        reason: String,
    },
    /// The lane manifest was closed by a takeover (R6).
    #[error("the lane manifest was closed for epoch {next}; this copy of the cluster must not write")]
    Closed {
        /// The epoch that took over.
        next: LineageEpoch,
    },
}

/// Judges what lies at the key of bundle `last + 1` (R2): its ends to propose, or why the lane stops.
/// `archived_end` answers `None` for a partition that is not of this lane (any more); its rows are ignored.
///
/// # Errors
/// The first reason not to adopt it.
pub fn judge(
    found: &DataIndex,
    lane: &LaneManifest,
    applied: LogIndex,
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
    if found.log_index > applied {
        return Err(StopReason::Ahead { sequence, found: found.log_index, applied });
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
