//! The records of the checkpoint: what storage wraps around the blobs of the layers above. Layout: `FORMAT.md`,
//! "Checkpoint records".

use bytes::Bytes;

use crate::codec::{CodecError, Decoder, Encoder};
use crate::log::shared::Doomed;
use crate::model::{EntryId, LaneId, LogIndex, Offset, PartitionId, Term};

const VERSION: u8 = 1;
/// A lane record of this version marks a lane that is being rebuilt; others are written as version 1.
const REBUILDING: u8 = 2;
const SEGMENT: u8 = 1;
const PARTITION: u8 = 2;
/// A file to remove: kind and partition at least. Bytes.
const DOOMED_LEN_MIN: usize = 1 + PartitionId::ENCODED_LEN;

/// A lane: what its state machine has applied, and the upper layer's blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneRecord {
    pub(crate) applied: Option<EntryId>,
    pub(crate) state: Bytes,
    /// The lane has no state: it is being copied from another broker. `applied` is then the last entry that its log
    /// had, and `state` is empty.
    pub(crate) rebuilding: bool,
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

impl LaneRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(self.state.len() + 32);
        assert!(!self.rebuilding || self.state.is_empty(), "a lane that is being rebuilt has no state");
        out.u8(if self.rebuilding { REBUILDING } else { VERSION });
        out.flag(self.applied.is_some());
        let applied = self.applied.unwrap_or_default();
        out.u64(applied.term.0);
        out.u64(applied.index.0);
        out.blob(&self.state);
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Decoder::new("lane record", bytes);
        let rebuilding = from.version(VERSION, REBUILDING)? == REBUILDING;
        let some = from.flag()?;
        let applied = EntryId { term: Term(from.u64()?), index: LogIndex(from.u64()?) };
        let state = bytes.slice_ref(from.blob()?);
        if rebuilding && !state.is_empty() {
            return Err(from.bad("state of a lane that is being rebuilt"));
        }
        from.end()?;
        Ok(Self { applied: some.then_some(applied), state, rebuilding })
    }
}

impl PartitionRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::with_capacity(self.state.len() + self.log.len() + 32);
        out.u8(VERSION);
        out.u32(self.lane.0);
        out.u64(self.as_of.0);
        out.blob(&self.state);
        out.blob(&self.log);
        out.finish()
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Decoder::new("partition record", bytes);
        from.version(VERSION, VERSION)?;
        let (lane, as_of) = (LaneId(from.u32()?), LogIndex(from.u64()?));
        let (state, log) = (bytes.slice_ref(from.blob()?), bytes.slice_ref(from.blob()?));
        from.end()?;
        Ok(Self { lane, as_of, state, log })
    }
}

impl ShardRecord {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        out.u8(VERSION);
        out.u64(self.journal_sequence);
        out.len32(self.doomed.len());
        for doomed in &self.doomed {
            match doomed {
                Doomed::Segment { partition, base, .. } => {
                    out.u8(SEGMENT);
                    out.partition(*partition);
                    out.u64(base.get());
                }
                Doomed::Partition { partition, .. } => {
                    out.u8(PARTITION);
                    out.partition(*partition);
                }
            }
        }
        out.finish()
    }

    /// The sizes of doomed files are not kept: after a restart no budget counts them.
    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, CodecError> {
        let mut from = Decoder::new("shard record", bytes);
        from.version(VERSION, VERSION)?;
        let journal_sequence = from.u64()?;
        let doomed = from.list32(DOOMED_LEN_MIN, |from| {
            let (kind, partition) = (from.u8()?, from.partition()?);
            Ok(match kind {
                SEGMENT => Doomed::Segment { partition, base: Offset::new(from.u64()?), bytes: 0 },
                PARTITION => Doomed::Partition { partition, bytes: 0 },
                _ => return Err(from.bad("kind of file to remove")),
            })
        })?;
        from.end()?;
        Ok(Self { journal_sequence, doomed })
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
            let lane = LaneRecord { applied, state: Bytes::from_static(b"lane"), rebuilding: false };
            assert_eq!(LaneRecord::decode(&lane.encode()), Ok(lane));
            let lane = LaneRecord { applied, state: Bytes::new(), rebuilding: true };
            assert_eq!(LaneRecord::decode(&lane.encode()), Ok(lane));
        }
        let (state, log) = (Bytes::from_static(b"state"), Bytes::from_static(b"log"));
        let partition = PartitionRecord { lane: LaneId(1), as_of: LogIndex(7), state, log };
        assert_eq!(PartitionRecord::decode(&partition.encode()), Ok(partition));
        let id = sample::partition(4);
        let segment = Doomed::Segment { partition: id, base: Offset::new(5), bytes: 0 };
        let shard =
            ShardRecord { journal_sequence: 8, doomed: vec![segment, Doomed::Partition { partition: id, bytes: 0 }] };
        assert_eq!(ShardRecord::decode(&shard.encode()), Ok(shard));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            let bytes = Bytes::from(bytes);
            let _ = LaneRecord::decode(&bytes);
            let _ = PartitionRecord::decode(&bytes);
            let _ = ShardRecord::decode(&bytes);
        }
    }
}
