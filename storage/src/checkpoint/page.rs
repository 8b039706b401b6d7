//! A page: the records of one bucket, as in `FORMAT.md`, "Checkpoint". The root holds its checksum.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error::FormatError;
use crate::codec::{CodecError, Decoder, Encoder};
use crate::model::{LaneId, PartitionId};

/// First bytes of a page: "TWCP".
pub const MAGIC: u32 = 0x5457_4350;

const LANE: u8 = 1;
const PARTITION: u8 = 2;
const SHARD: u8 = 3;
/// The shortest key and an empty blob. Bytes.
const RECORD_LEN_MIN: usize = 5;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Lane(LaneId),
    Partition(PartitionId),
    /// The shard itself.
    Shard,
}

/// The records of one bucket.
pub type Records = BTreeMap<Key, Bytes>;

impl Key {
    fn put(self, out: &mut Encoder) {
        match self {
            Self::Lane(lane) => {
                out.u8(LANE);
                out.u32(lane.0);
            }
            Self::Partition(id) => {
                out.u8(PARTITION);
                out.partition(id);
            }
            Self::Shard => out.u8(SHARD),
        }
    }

    fn take(bytes: &mut Decoder<'_>) -> Result<Self, CodecError> {
        match bytes.u8()? {
            LANE => Ok(Self::Lane(LaneId(bytes.u32()?))),
            PARTITION => Ok(Self::Partition(bytes.partition()?)),
            SHARD => Ok(Self::Shard),
            _ => Err(bytes.bad("key kind")),
        }
    }

    /// The bucket of `count` (a power of two) that holds it.
    #[must_use]
    pub fn bucket(self, count: usize) -> usize {
        assert!(count.is_power_of_two(), "{count} buckets");
        let mut bytes = Encoder::with_capacity(32);
        self.put(&mut bytes);
        crc32c::crc32c(bytes.as_slice()) as usize & (count - 1)
    }
}

/// A page's bytes: magic, bucket u32, count u32, then per record key, length u32, bytes.
#[must_use]
pub fn encode(bucket: u32, records: &Records) -> Vec<u8> {
    let mut out = Encoder::with_capacity(records.values().map(|blob| blob.len() + 32).sum::<usize>() + 12);
    out.u32(MAGIC);
    out.u32(bucket);
    out.len32(records.len());
    for (key, blob) in records {
        key.put(&mut out);
        out.blob(blob);
    }
    out.into_vec()
}

/// The inverse of [`encode`]; `expected` is the checksum from the root.
///
/// # Errors
/// What is wrong with it.
pub fn decode(bucket: u32, expected: u32, bytes: Bytes) -> Result<Records, FormatError> {
    let found = crc32c::crc32c(&bytes);
    if found != expected {
        return Err(FormatError::Crc { expected, found });
    }
    let mut fields = Decoder::new("checkpoint page", &bytes);
    let found = fields.u32()?;
    if found != MAGIC {
        return Err(FormatError::Magic { expected: MAGIC, found });
    }
    if fields.u32()? != bucket {
        return Err(FormatError::Field("bucket"));
    }
    let count = fields.count32(RECORD_LEN_MIN)?;
    let mut records = Records::new();
    for _ in 0..count {
        let key = Key::take(&mut fields)?;
        records.insert(key, bytes.slice_ref(fields.blob()?));
    }
    fields.end()?;
    if records.len() != count {
        return Err(FormatError::Field("record count"));
    }
    Ok(records)
}
