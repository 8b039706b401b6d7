//! Why a read of the bucket gave nothing.

use std::ops::Range;
use std::time::Duration;

use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{Offset, OffsetRange, PartitionId};

use crate::keys::ObjectName;
use crate::store::StoreError;

/// A failed read below the local start. Every variant says what the caller can do; see [`RemoteError::disposition`].
/// *Message*.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RemoteError {
    /// The store did not answer, or not in time. Kafka: retriable.
    #[error("bucket did not give {object}: {reason}; the read may be repeated")]
    Unavailable {
        /// What was asked for.
        object: ObjectName,
        /// What the store said.
        reason: String,
    },
    /// Too many reads of the bucket are under way on this shard, or this one took too long. Kafka: retriable.
    #[error("read of {partition} from the bucket took longer than {after:?}; it may be repeated")]
    Deadline {
        partition: PartitionId,
        /// The time it was given.
        after: Duration,
    },
    /// Offsets below what retention has left.
    #[error("offset {offset} of {partition} is below the log start {start}")]
    BelowStart { partition: PartitionId, offset: Offset, start: Offset },
    /// Offsets that are not in the bucket yet.
    #[error("offset {offset} of {partition} is at or above the archived end {end}")]
    AboveEnd {
        partition: PartitionId,
        offset: Offset,
        /// First one not there.
        end: Offset,
    },
    /// An offset between start and end that no object holds: a defect, or a damaged manifest.
    #[error("no object holds offset {offset} of {partition} although it counts as archived; run the scrubber")]
    Gap { partition: PartitionId, offset: Offset },
    /// An object that a row names is not there.
    #[error("object {object}, which holds {partition}, is not in the bucket; restore it from a copy of the bucket")]
    Missing { partition: PartitionId, object: ObjectName },
    /// Bytes that do not match their sums, also when read again.
    #[error("object {object} bytes {bytes:?}, offsets {offsets} of {partition}, do not match their checksum")]
    Corrupt {
        partition: PartitionId,
        /// Which offsets are unreadable.
        offsets: OffsetRange,
        object: ObjectName,
        bytes: Range<u64>,
    },
    /// An index, footer or page that does not decode.
    #[error("metadata of object {object} is unreadable: {reason}")]
    BadIndex {
        object: ObjectName,
        /// What the decoder said.
        reason: String,
    },
    /// The store refuses for good (credentials, permissions).
    #[error("bucket refuses {object}: {reason}")]
    Denied {
        object: ObjectName,
        /// What the store said.
        reason: String,
    },
}

impl RemoteError {
    /// [`Disposition::Refused`]: the archived bytes are whole, but cannot be read before an operator acts.
    /// [`Disposition::Absent`]: the offset is not in the bucket (any more, or yet). [`Disposition::Corrupt`]: archived
    /// bytes are lost or damaged.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Unavailable { .. } | Self::Deadline { .. } => Disposition::Retry,
            Self::Denied { .. } => Disposition::Refused,
            Self::BelowStart { .. } | Self::AboveEnd { .. } => Disposition::Absent,
            Self::Gap { .. } | Self::Missing { .. } | Self::Corrupt { .. } | Self::BadIndex { .. } => {
                Disposition::Corrupt
            }
        }
    }

    /// What a store's answer for `object` means to a reader of `partition`.
    #[must_use]
    pub fn of_store(partition: PartitionId, object: ObjectName, error: &StoreError) -> Self {
        let reason = error.to_string();
        match error {
            StoreError::NotFound { .. } => Self::Missing { partition, object },
            StoreError::Denied { .. } | StoreError::Refused { .. } => Self::Denied { object, reason },
            StoreError::Range { .. } => Self::BadIndex { object, reason },
            StoreError::Taken { .. }
            | StoreError::Unavailable { .. }
            | StoreError::Torn { .. }
            | StoreError::Source { .. }
            | StoreError::NoSpace { .. }
            | StoreError::Closed => Self::Unavailable { object, reason },
        }
    }
}
