//! A page: the records of one bucket. Mirrors `FORMAT.md`, "Checkpoint". Big-endian. Its checksum stands in the root.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};

use super::error::FormatError;
use crate::model::{LaneId, PartitionId};

/// First bytes of a page: "TWCP".
pub const MAGIC: u32 = 0x5457_4350;

const LANE: u8 = 1;
const PARTITION: u8 = 2;
const SHARD: u8 = 3;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A lane.
    Lane(LaneId),
    /// A partition.
    Partition(PartitionId),
    /// The shard itself.
    Shard,
}

/// The records of one bucket.
pub type Records = BTreeMap<Key, Bytes>;

impl Key {
    fn put(self, out: &mut Vec<u8>) {
        match self {
            Self::Lane(lane) => {
                out.put_u8(LANE);
                out.put_u32(lane.0);
            }
            Self::Partition(id) => {
                out.put_u8(PARTITION);
                out.put_slice(&id.to_bytes());
            }
            Self::Shard => out.put_u8(SHARD),
        }
    }

    fn take(bytes: &mut Bytes) -> Result<Self, FormatError> {
        match bytes.try_get_u8()? {
            LANE => Ok(Self::Lane(LaneId(bytes.try_get_u32()?))),
            PARTITION => {
                let mut id = [0; PartitionId::ENCODED_LEN];
                bytes.try_copy_to_slice(&mut id)?;
                Ok(Self::Partition(PartitionId::from_bytes(&id)))
            }
            SHARD => Ok(Self::Shard),
            _ => Err(FormatError::Field("key kind")),
        }
    }

    /// The bucket of `count` (a power of two) that holds it.
    #[must_use]
    pub fn bucket(self, count: usize) -> usize {
        let mut bytes = Vec::with_capacity(32);
        self.put(&mut bytes);
        crc32c::crc32c(&bytes) as usize & count.saturating_sub(1)
    }
}

/// A page's bytes: magic, bucket u32, count u32, then per record key, length u32, bytes.
#[must_use]
pub fn encode(bucket: u32, records: &Records) -> Vec<u8> {
    let mut out = Vec::with_capacity(records.values().map(|blob| blob.len() + 32).sum::<usize>() + 12);
    out.put_u32(MAGIC);
    out.put_u32(bucket);
    out.put_u32(u32::try_from(records.len()).unwrap_or(u32::MAX));
    for (key, blob) in records {
        key.put(&mut out);
        out.put_u32(u32::try_from(blob.len()).unwrap_or(u32::MAX));
        out.put_slice(blob);
    }
    out
}

/// The inverse of [`encode`]; `expected` is the checksum from the root.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bucket: u32, expected: u32, mut bytes: Bytes) -> Result<Records, FormatError> {
    let found = crc32c::crc32c(&bytes);
    if found != expected {
        return Err(FormatError::Crc { expected, found });
    }
    let found = bytes.try_get_u32()?;
    if found != MAGIC {
        return Err(FormatError::Magic { expected: MAGIC, found });
    }
    if bytes.try_get_u32()? != bucket {
        return Err(FormatError::Field("bucket"));
    }
    let count = bytes.try_get_u32()?;
    let mut records = Records::new();
    for _ in 0..count {
        let key = Key::take(&mut bytes)?;
        let len = bytes.try_get_u32()? as usize;
        if len > bytes.remaining() {
            return Err(FormatError::Length);
        }
        records.insert(key, bytes.split_to(len));
    }
    if bytes.has_remaining() || records.len() != count as usize {
        return Err(FormatError::Length);
    }
    Ok(records)
}
