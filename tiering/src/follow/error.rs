//! Why a lane cannot be followed further for now. What is served stays as it is.

use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{LaneId, Offset, PartitionId};

use super::lane::TAIL_ENTRIES_MAX;
use crate::keys::{Home, ObjectName, Sequence};
use crate::manifest::Violation;

/// What is wrong with what was read, compared with what is known. *Message*.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// Another lane's or cluster's object under this key.
    #[error("{object} was written by lane {lane} of cluster {}, epoch {}: the bucket's objects are mixed up", home.cluster, home.epoch)]
    Foreign { object: ObjectName, home: Home, lane: LaneId },
    /// The bundle does not follow the last one.
    #[error("bundle {sequence} names a predecessor with checksum {found:#010x}, the last bundle has {expected:#010x}")]
    Chain {
        sequence: Sequence,
        /// Checksum it names.
        found: u32,
        /// Checksum of the last one.
        expected: u32,
    },
    /// Offsets are missing.
    #[error("bundle {sequence} begins at offset {found} of {partition}, what was followed ends at {end}")]
    Gap {
        sequence: Sequence,
        partition: PartitionId,
        /// Its first offset.
        found: Offset,
        end: Offset,
    },
    /// A partition that neither the base nor an event made known.
    #[error("bundle {sequence} holds {partition}, which nothing before it mentions")]
    Unknown { sequence: Sequence, partition: PartitionId },
    /// Partitions that move between lanes (R5) are not followed by this version.
    #[error("bundle {sequence} moves {partition} between lanes, which this version does not follow: update this one")]
    Moves { sequence: Sequence, partition: PartitionId },
    /// An older lane manifest than one read before, as from a copy of the bucket that lags.
    #[error(
        "the lane manifest goes on at bundle {found}, one read before at bundle {known}: the bucket shows an older state"
    )]
    Older {
        /// The bundle that the manifest read last goes on at.
        found: Sequence,
        /// The greatest `follow_from` so far.
        known: Sequence,
    },
    /// The lane manifest was there and is gone.
    #[error("{object} is gone, though it was read before: the bucket is away or was emptied")]
    Gone { object: ObjectName },
    /// A page that does not hold what a manifest must.
    #[error("the lane manifest's pages contradict each other: {0}")]
    Contradiction(#[from] Violation),
    /// A page of the lane manifest was not among those given.
    #[error("page {page} of the lane manifest was not read")]
    NoPage { page: ObjectName },
    /// The source publishes no lane manifest.
    #[error(
        "the bundles since the last lane manifest hold more than {TAIL_ENTRIES_MAX} ranges; following goes on when the \
         source publishes: look at its lane list"
    )]
    TailFull,
}

impl FollowError {
    /// [`Disposition::Retry`]: the source, or a copy under way, can end it by itself.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Older { .. } | Self::TailFull | Self::Gone { .. } => Disposition::Retry,
            Self::Moves { .. } => Disposition::Refused,
            Self::Foreign { .. }
            | Self::Chain { .. }
            | Self::Gap { .. }
            | Self::Unknown { .. }
            | Self::Contradiction(_)
            | Self::NoPage { .. } => Disposition::Corrupt,
        }
    }
}
