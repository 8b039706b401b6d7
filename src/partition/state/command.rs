//! What a lane's log entries say: batches of its partitions, or one command. The encoding of [`Payload::meta`].
//!
//! Batches themselves travel beside it as blobs, never copied. First byte: 1 batches, 2 a command, 3 an archive
//! command; an unknown one is of a newer version and stops its lane.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName};

use super::codec::{Reader, Writer};

const BATCHES: u8 = 1;
const COMMAND: u8 = 2;
const ARCHIVE: u8 = 3;
/// Bytes of meta that a batch takes.
const PLACED_LEN: usize = PartitionId::ENCODED_LEN + 8 + 4;

/// One entry of a data lane.
#[derive(Clone, Debug)]
pub enum LaneEntry {
    /// Batches, in order.
    Batches {
        /// The proposer's wall clock: the log's time.
        at: TimestampMs,
        /// Where each goes.
        batches: Vec<PlacedBatch>,
    },
    /// Create, drop, change or trim a partition.
    Command(LaneCommand),
    /// A change of the lane's archive, in `tiering`'s encoding.
    Archive(Bytes),
}

/// A batch with the offset its proposer gave it.
#[derive(Clone, Debug)]
pub struct PlacedBatch {
    /// Its partition.
    pub partition: PartitionId,
    /// Offset of its first record; already patched into the bytes.
    pub base_offset: Offset,
    /// The epoch patched into the bytes.
    pub epoch: LeaderEpoch,
    /// The batch.
    pub bytes: Bytes,
}

/// A command of a data lane. Rare, so JSON: readable in `inspect journal`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneCommand {
    /// A partition is born in this lane.
    Create {
        /// Its identity.
        partition: PartitionId,
        /// Its topic's name.
        topic: TopicName,
        /// The topic's overrides.
        overrides: BTreeMap<String, String>,
        /// What its leader epochs are counted from.
        epoch_base: i32,
    },
    /// A partition is gone, with its data here and in the bucket.
    Drop {
        /// Which.
        partition: PartitionId,
    },
    /// A dropped partition has nothing left in the bucket.
    Clean {
        /// Which.
        partition: PartitionId,
    },
    /// The topic's overrides changed.
    Configure {
        /// Which partition.
        partition: PartitionId,
        /// All of them, as they now are.
        overrides: BTreeMap<String, String>,
    },
    /// Several commands in one entry, in order: a topic of thousands of partitions is made in a few entries.
    Batch {
        /// They; none of them a batch itself.
        commands: Vec<LaneCommand>,
    },
    /// The log start moves forward (retention, DeleteRecords).
    Trim {
        /// Which partition.
        partition: PartitionId,
        /// The new log start; an earlier one than held changes nothing.
        to: Offset,
    },
}

/// Bytes that are no entry of a lane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A first byte of a newer version.
    #[error("lane entry of unknown kind {0}: it was written by a newer version")]
    Kind(u8),
    /// Cut short, contradictory, or a command that is not known.
    #[error("lane entry is malformed, or a command of a newer version")]
    Malformed,
    /// It comes after one that was not understood.
    #[error("the lane has stopped at an entry before it")]
    Stopped,
}

impl LaneCommand {
    /// Several as one, in order; none of them a batch itself.
    #[must_use]
    pub fn together(mut commands: Vec<Self>) -> Self {
        match (commands.pop(), commands.is_empty()) {
            (Some(one), true) => one,
            (last, _) => {
                commands.extend(last);
                Self::Batch { commands }
            }
        }
    }

    /// Bytes it takes in an entry, about.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        // Serialising plain maps and numbers into memory cannot fail.
        serde_json::to_vec(self).map_or(0, |json| json.len())
    }
}

impl LaneEntry {
    /// As a log payload; batches move as blobs.
    #[must_use]
    pub fn encode(self) -> Payload {
        let mut meta = Writer::default();
        match self {
            Self::Batches { at, batches } => {
                meta.u8(BATCHES);
                meta.i64(at.0);
                meta.u32(batches.len() as u32);
                meta.reserve(batches.len() * PLACED_LEN);
                let mut blobs = Vec::with_capacity(batches.len());
                for batch in batches {
                    meta.partition(batch.partition);
                    meta.u64(batch.base_offset.get());
                    meta.u32(batch.epoch.0 as u32);
                    blobs.push(batch.bytes);
                }
                Payload { meta: meta.finish(), blobs, verified: true }
            }
            Self::Command(command) => {
                meta.u8(COMMAND);
                // Serialising plain maps and numbers into memory cannot fail.
                meta.blob(&serde_json::to_vec(&command).unwrap_or_default());
                Payload { meta: meta.finish(), blobs: Vec::new(), verified: false }
            }
            Self::Archive(bytes) => {
                meta.u8(ARCHIVE);
                Payload { meta: meta.finish(), blobs: vec![bytes], verified: false }
            }
        }
    }

    /// The inverse of [`LaneEntry::encode`].
    ///
    /// # Errors
    /// Why the payload is none.
    pub fn decode(payload: &Payload) -> Result<Self, EntryError> {
        let mut meta = Reader::new(&payload.meta);
        match meta.u8().ok_or(EntryError::Malformed)? {
            BATCHES => Self::decode_batches(&mut meta, &payload.blobs).ok_or(EntryError::Malformed),
            COMMAND => {
                let json = meta.blob().ok_or(EntryError::Malformed)?;
                serde_json::from_slice(json).map(Self::Command).map_err(|_| EntryError::Malformed)
            }
            ARCHIVE => payload.blobs.first().cloned().map(Self::Archive).ok_or(EntryError::Malformed),
            kind => Err(EntryError::Kind(kind)),
        }
    }

    fn decode_batches(meta: &mut Reader<'_>, blobs: &[Bytes]) -> Option<Self> {
        let at = TimestampMs(meta.i64()?);
        if meta.u32()? as usize != blobs.len() {
            return None;
        }
        let mut batches = Vec::with_capacity(blobs.len());
        for bytes in blobs {
            batches.push(PlacedBatch {
                partition: meta.partition()?,
                base_offset: Offset::new(meta.u64()?),
                epoch: LeaderEpoch(meta.u32()? as i32),
                bytes: bytes.clone(),
            });
        }
        Some(Self::Batches { at, batches })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewater_storage::model::{Incarnation, PartitionIndex, TopicId};

    use super::*;

    fn id() -> PartitionId {
        PartitionId { topic: TopicId::default(), index: PartitionIndex(3), incarnation: Incarnation(0) }
    }

    #[test]
    fn entries_round_trip() {
        let batch = PlacedBatch {
            partition: id(),
            base_offset: Offset::new(7),
            epoch: LeaderEpoch(2),
            bytes: Bytes::from_static(b"batch"),
        };
        let entry = LaneEntry::Batches { at: TimestampMs(5), batches: vec![batch] };
        let back = LaneEntry::decode(&entry.clone().encode()).expect("decodes");
        assert_eq!(format!("{back:?}"), format!("{entry:?}"));
        let command = LaneCommand::Trim { partition: id(), to: Offset::new(9) };
        match LaneEntry::decode(&LaneEntry::Command(command.clone()).encode()) {
            Ok(LaneEntry::Command(back)) => assert_eq!(back, command),
            other => unreachable!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(meta in proptest::collection::vec(any::<u8>(), 0..200), blobs in 0usize..3) {
            let payload = Payload { meta: meta.into(), blobs: vec![Bytes::from_static(b"x"); blobs], verified: false };
            let _ = LaneEntry::decode(&payload);
        }
    }
}
