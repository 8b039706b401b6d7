//! One row of a partition manifest: a range of offsets and the object that holds it.

use tidewater_storage::model::{OffsetRange, TimestampMs};

use crate::format::IndexRef;
use crate::keys::ObjectName;

/// Offsets of one partition that lie in one object.
///
/// A row may be a clip of what the object holds; readers take only `offsets` of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What this row answers for.
    pub offsets: OffsetRange,
    /// Bytes; an estimate by offsets once clipped.
    pub bytes: u64,
    /// Greatest timestamp of what the object holds of the partition (an upper bound once clipped).
    pub max_timestamp: TimestampMs,
    /// Where the bytes are.
    pub source: Source,
}

/// Where a row's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a bundle or its parts: places and sums are in the bundle's index, read through a cache.
    Bundle(ObjectName),
    /// In a segment, part or gathered object.
    Object {
        object: ObjectName,
        /// The partition's bytes in it, whole.
        start: u64,
        len: u64,
        /// Where its index is, so that one ranged GET brings it.
        index: IndexRef,
    },
}

impl Row {
    #[must_use]
    pub fn object(&self) -> ObjectName {
        match self.source {
            Source::Bundle(object) | Source::Object { object, .. } => object,
        }
    }

    /// The same row answering only for what lies in `within` too; bytes in proportion, rounded down, at least 1.
    #[must_use]
    pub fn clip(&self, within: OffsetRange) -> Option<Self> {
        let offsets = self.offsets.intersect(&within);
        if offsets.is_empty() {
            return None;
        }
        if offsets == self.offsets {
            return Some(*self);
        }
        let bytes = u128::from(self.bytes) * u128::from(offsets.count()) / u128::from(self.offsets.count().max(1));
        Some(Self { offsets, bytes: u64::try_from(bytes).unwrap_or(u64::MAX).max(1), ..*self })
    }
}
