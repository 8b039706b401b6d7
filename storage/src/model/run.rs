//! Checksums over runs of batches, the same on disk and in the bucket.
//!
//! Base offset and leader epoch lie outside Kafka's CRC, so a misdirected block of another partition would pass it.
//! Therefore every run of at most 1 MiB, cut at batch boundaries, has a crc32c over *all* its bytes, seeded with the
//! partition and the first offset. Computed when the batches are applied, checked on every read.

use serde::{Deserialize, Serialize};

use super::ids::PartitionId;
use super::offset::{Offset, OffsetRange};

/// A run grows until the next batch would carry it past this many bytes; a larger single batch is a run of its own.
pub const RUN_BYTES_MAX: u32 = 1 << 20;

/// One run: its offsets, length and seeded checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSum {
    pub offsets: OffsetRange,
    /// Bytes, batches back to back.
    pub len: u32,
    /// [`seed`] of the partition and `offsets.start`, continued over the bytes.
    pub crc: u32,
}

/// The initial value of a run's checksum: crc32c of partition id and first offset.
#[must_use]
pub fn seed(partition: PartitionId, first: Offset) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&partition.to_bytes()), &first.get().to_be_bytes())
}

/// Continues a run's checksum over more bytes.
#[must_use]
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

impl RunSum {
    /// Are these the bytes of this run of `partition`?
    #[must_use]
    pub fn matches(&self, partition: PartitionId, bytes: &[u8]) -> bool {
        bytes.len() == self.len as usize && extend(seed(partition, self.offsets.start), bytes) == self.crc
    }
}
