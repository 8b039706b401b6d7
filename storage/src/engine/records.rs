//! The records of the checkpoint: what storage wraps around the blobs of the layers above. Mirrors `FORMAT.md`,
//! "Checkpoint records". Big-endian.

use bytes::{Buf, BufMut, Bytes};

use crate::log::shared::Doomed;
use crate::model::{EntryId, LaneId, LogIndex, Offset, PartitionId, Term};

const VERSION: u8 = 1;
const SEGMENT: u8 = 1;
const PARTITION: u8 = 2;

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// They end too early or hold too much.
    #[error("wrong length")]
    Length,
    /// Written by a newer version.
    #[error("has version {0}; this version reads 1")]
    Version(u8),
    /// A kind that is not known.
    #[error("has an entry of unknown kind {0}")]
    Kind(u8),
}

impl From<bytes::TryGetError> for RecordError {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Length
    }
}

/// A lane: what its state machine has applied, and the upper layer's blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneRecord {
    pub(crate) applied: Option<EntryId>,
    pub(crate) state: Bytes,
}

/// A partition: as of which entry, the upper layer's blob, the log's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionRecord {
    pub(crate) lane: LaneId,
    pub(crate) as_of: LogIndex,
    pub(crate) state: Bytes,
    pub(crate) log: Bytes,
}

/// The shard: the journal's last durable commit, files to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardRecord {
    pub(crate) journal_sequence: u64,
    pub(crate) doomed: Vec<Doomed>,
}

fn version(bytes: &mut Bytes) -> Result<(), RecordError> {
    match bytes.try_get_u8()? {
        VERSION => Ok(()),
        other => Err(RecordError::Version(other)),
    }
}

fn put_blob(out: &mut Vec<u8>, blob: &Bytes) {
    out.put_u32(u32::try_from(blob.len()).unwrap_or(u32::MAX));
    out.put_slice(blob);
}

fn take_blob(bytes: &mut Bytes) -> Result<Bytes, RecordError> {
    let len = bytes.try_get_u32()? as usize;
    if len > bytes.remaining() {
        return Err(RecordError::Length);
    }
    Ok(bytes.split_to(len))
}

fn done<T>(bytes: &Bytes, record: T) -> Result<T, RecordError> {
    if bytes.has_remaining() { Err(RecordError::Length) } else { Ok(record) }
}

impl LaneRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION, u8::from(self.applied.is_some())];
        let applied = self.applied.unwrap_or_default();
        out.put_u64(applied.term.0);
        out.put_u64(applied.index.0);
        put_blob(&mut out, &self.state);
        out.into()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, RecordError> {
        version(&mut bytes)?;
        let some = bytes.try_get_u8()? != 0;
        let applied = EntryId { term: Term(bytes.try_get_u64()?), index: LogIndex(bytes.try_get_u64()?) };
        let state = take_blob(&mut bytes)?;
        done(&bytes, Self { applied: some.then_some(applied), state })
    }
}

impl PartitionRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.state.len() + self.log.len() + 32);
        out.put_u8(VERSION);
        out.put_u32(self.lane.0);
        out.put_u64(self.as_of.0);
        put_blob(&mut out, &self.state);
        put_blob(&mut out, &self.log);
        out.into()
    }

    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, RecordError> {
        version(&mut bytes)?;
        let (lane, as_of) = (LaneId(bytes.try_get_u32()?), LogIndex(bytes.try_get_u64()?));
        let (state, log) = (take_blob(&mut bytes)?, take_blob(&mut bytes)?);
        done(&bytes, Self { lane, as_of, state, log })
    }
}

impl ShardRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        out.put_u64(self.journal_sequence);
        out.put_u32(u32::try_from(self.doomed.len()).unwrap_or(u32::MAX));
        for doomed in &self.doomed {
            match doomed {
                Doomed::Segment { partition, base, .. } => {
                    out.put_u8(SEGMENT);
                    out.put_slice(&partition.to_bytes());
                    out.put_u64(base.get());
                }
                Doomed::Partition { partition, .. } => {
                    out.put_u8(PARTITION);
                    out.put_slice(&partition.to_bytes());
                }
            }
        }
        out.into()
    }

    /// Bytes of doomed files are not kept: after a restart they are in nobody's account.
    pub(crate) fn decode(mut bytes: Bytes) -> Result<Self, RecordError> {
        version(&mut bytes)?;
        let journal_sequence = bytes.try_get_u64()?;
        let count = bytes.try_get_u32()? as usize;
        let mut doomed = Vec::with_capacity(count.min(bytes.remaining() / 25));
        for _ in 0..count {
            let kind = bytes.try_get_u8()?;
            let mut id = [0; PartitionId::ENCODED_LEN];
            bytes.try_copy_to_slice(&mut id)?;
            let partition = PartitionId::from_bytes(&id);
            doomed.push(match kind {
                SEGMENT => Doomed::Segment { partition, base: Offset::new(bytes.try_get_u64()?), bytes: 0 },
                PARTITION => Doomed::Partition { partition, bytes: 0 },
                other => return Err(RecordError::Kind(other)),
            });
        }
        done(&bytes, Self { journal_sequence, doomed })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::sample;

    #[test]
    fn records_round_trip() {
        let applied = EntryId { term: Term(3), index: LogIndex(9) };
        for applied in [None, Some(applied)] {
            let lane = LaneRecord { applied, state: Bytes::from_static(b"lane") };
            assert_eq!(LaneRecord::decode(lane.encode()), Ok(lane));
        }
        let (state, log) = (Bytes::from_static(b"state"), Bytes::from_static(b"log"));
        let partition = PartitionRecord { lane: LaneId(1), as_of: LogIndex(7), state, log };
        assert_eq!(PartitionRecord::decode(partition.encode()), Ok(partition));
        let id = sample::partition(4);
        let segment = Doomed::Segment { partition: id, base: Offset::new(5), bytes: 0 };
        let shard =
            ShardRecord { journal_sequence: 8, doomed: vec![segment, Doomed::Partition { partition: id, bytes: 0 }] };
        assert_eq!(ShardRecord::decode(shard.encode()), Ok(shard));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            let bytes = Bytes::from(bytes);
            let _ = LaneRecord::decode(bytes.clone());
            let _ = PartitionRecord::decode(bytes.clone());
            let _ = ShardRecord::decode(bytes);
        }
    }
}
