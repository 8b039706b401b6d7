//! What a lane's log entries say: batches of its partitions, or one command. The encoding of [`Payload::meta`].
//!
//! Batches travel beside it as blobs, never copied. The first byte is the kind (`DESIGN.md`, "Formats of this
//! package"); an unknown one is of a newer version and stops its lane, and so does a command with a field that is not
//! known.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{LeaderEpoch, Offset, PartitionId, TimestampMs, TopicName};

use super::codec::LittleEndian;
use crate::limits::PRODUCER_ID_EXPIRATION_MS;

/// Kinds of entry. 1 and 2, little-endian, were written before 5 and 6 and are read; 4 is kept for the decisions of
/// transactions.
const OLD_BATCHES: u8 = 1;
const OLD_COMMAND: u8 = 2;
const ARCHIVE: u8 = 3;
const BATCHES: u8 = 5;
const COMMAND: u8 = 6;
/// Bytes of meta before the batches of an entry: kind, flags, time, count.
const BATCHES_HEAD_LEN: usize = 1 + 1 + 8 + 4;
/// Flag of an entry of batches: it says how long silent producers are remembered.
const HAS_EXPIRY: u8 = 1;
/// Bytes of meta that a batch takes.
const PLACED_LEN: usize = PartitionId::ENCODED_LEN + 8 + 4;
const WHAT: &str = "lane entry";
/// `producer.id.expiration.ms` of entries that do not say: the default, and what older versions' entries are applied
/// with.
pub const PRODUCERS_AFTER_MS: i64 = PRODUCER_ID_EXPIRATION_MS.cast_signed();

/// One entry of a data lane.
#[derive(Clone, Debug)]
pub enum LaneOp {
    Batches {
        /// The proposer's wall clock: the log's time.
        at: TimestampMs,
        /// The proposer's `producer.id.expiration.ms`: every replica forgets the same producers.
        producers_after_ms: i64,
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
    pub partition: PartitionId,
    /// Offset of its first record; already patched into the bytes.
    pub base_offset: Offset,
    /// The epoch patched into the bytes.
    pub epoch: LeaderEpoch,
    pub bytes: Bytes,
}

/// A command of a data lane. Rare, so JSON: readable in `inspect journal`.
///
/// `revision` is the controller's revision that a command follows: 0 in entries of versions that did not write it. A
/// command older than the lane's newest has no effect, so that a leader whose copy of the controller's state lags
/// cannot undo what its predecessor did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum LaneCommand {
    /// A partition is born in this lane.
    Create {
        partition: PartitionId,
        topic: TopicName,
        overrides: BTreeMap<String, String>,
        /// What its leader epochs are counted from.
        epoch_base: i32,
        /// Of a topic that is copied: these offsets are copied before anything else is written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        copied: Option<CopiedRange>,
        #[serde(default, skip_serializing_if = "is_zero")]
        revision: u64,
    },
    /// A partition is gone, with its data here and in the bucket.
    Drop {
        partition: PartitionId,
        #[serde(default, skip_serializing_if = "is_zero")]
        revision: u64,
    },
    /// A dropped partition has nothing left in the bucket.
    Clean { partition: PartitionId },
    /// The topic's overrides changed.
    Configure {
        partition: PartitionId,
        /// All of them, as they now are.
        overrides: BTreeMap<String, String>,
        #[serde(default, skip_serializing_if = "is_zero")]
        revision: u64,
    },
    /// Several commands in one entry, in order: a topic of thousands of partitions is made in a few entries.
    #[serde(rename = "batch")]
    Commands { commands: Vec<LaneCommand> },
    /// The log start moves forward (retention, DeleteRecords).
    Trim {
        partition: PartitionId,
        /// The new log start; an earlier one than held changes nothing.
        to: Offset,
    },
}

/// The offsets of a partition that come from another topic's archive. The partition begins at `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopiedRange {
    pub start: Offset,
    /// Until the partition has reached it, only the copy is written.
    pub end: Offset,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(revision: &u64) -> bool {
    *revision == 0
}

/// Bytes that are no entry of a lane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// A first byte of a newer version.
    #[error("lane entry of unknown kind {0}: it was written by a newer version")]
    Kind(u8),
    /// Cut short or contradictory.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A command that is not known, or one with an unknown field; `0` is the parser's reason.
    #[error("a command that cannot be read: {0}")]
    Command(String),
    /// It comes after one that was not understood.
    #[error("the lane has stopped at an entry before it")]
    Stopped,
}

impl LaneCommand {
    /// Several commands as one, in order; never nested.
    #[must_use]
    pub fn together(mut commands: Vec<Self>) -> Self {
        match (commands.pop(), commands.is_empty()) {
            (Some(one), true) => one,
            (last, _) => {
                commands.extend(last);
                Self::Commands { commands }
            }
        }
    }

    /// The controller's revision that it follows; `None` for commands that do not come from the controller, and for
    /// lists.
    #[must_use]
    pub const fn revision(&self) -> Option<u64> {
        match self {
            Self::Create { revision, .. } | Self::Drop { revision, .. } | Self::Configure { revision, .. } => {
                Some(*revision)
            }
            Self::Clean { .. } | Self::Commands { .. } | Self::Trim { .. } => None,
        }
    }

    /// Bytes it takes in an entry, about.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.json().len()
    }

    fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps, numbers and strings serialise into memory")
    }

    fn from_json(json: &[u8]) -> Result<Self, EntryError> {
        let command: Self = serde_json::from_slice(json).map_err(|error| EntryError::Command(error.to_string()))?;
        if command.is_nested() {
            return Err(EntryError::Command("a list of commands within a list".to_owned()));
        }
        Ok(command)
    }

    fn is_nested(&self) -> bool {
        let list = |command: &Self| matches!(command, Self::Commands { .. });
        matches!(self, Self::Commands { commands } if commands.iter().any(list))
    }
}

impl LaneOp {
    /// An entry of batches with the default `producer.id.expiration.ms`.
    #[must_use]
    pub fn batches(at: TimestampMs, batches: Vec<PlacedBatch>) -> Self {
        Self::Batches { at, producers_after_ms: PRODUCERS_AFTER_MS, batches }
    }

    /// As a log payload; batches move as blobs.
    #[must_use]
    pub fn encode(self) -> Payload {
        match self {
            Self::Batches { at, producers_after_ms, batches } => {
                assert!(producers_after_ms > 0, "producers are forgotten after {producers_after_ms} ms");
                let says_expiry = producers_after_ms != PRODUCERS_AFTER_MS;
                let head_len = BATCHES_HEAD_LEN + if says_expiry { 8 } else { 0 };
                let mut meta = Encoder::with_capacity(head_len + batches.len() * PLACED_LEN);
                meta.u8(BATCHES);
                meta.u8(if says_expiry { HAS_EXPIRY } else { 0 });
                meta.i64(at.0);
                meta.len32(batches.len());
                if says_expiry {
                    meta.i64(producers_after_ms);
                }
                let mut blobs = Vec::with_capacity(batches.len());
                for batch in batches {
                    meta.partition(batch.partition);
                    meta.u64(batch.base_offset.get());
                    meta.i32(batch.epoch.0);
                    blobs.push(batch.bytes);
                }
                debug_assert_eq!(meta.len(), head_len + blobs.len() * PLACED_LEN);
                Payload { meta: meta.finish(), blobs, verified: true }
            }
            Self::Command(command) => {
                assert!(!command.is_nested(), "a list of commands within a list: {command:?}");
                let json = command.json();
                let mut meta = Encoder::with_capacity(1 + json.len());
                meta.u8(COMMAND);
                meta.raw(&json);
                Payload { meta: meta.finish(), blobs: Vec::new(), verified: false }
            }
            Self::Archive(bytes) => {
                Payload { meta: Bytes::from_static(&[ARCHIVE]), blobs: vec![bytes], verified: false }
            }
        }
    }

    /// The inverse of [`LaneOp::encode`]; reads what older versions wrote too.
    ///
    /// # Errors
    /// Why the payload is none.
    pub fn decode(payload: &Payload) -> Result<Self, EntryError> {
        let mut meta = Decoder::new(WHAT, &payload.meta);
        match meta.u8()? {
            BATCHES => Ok(Self::take_batches(meta, &payload.blobs)?),
            COMMAND => LaneCommand::from_json(meta.rest()).map(Self::Command),
            ARCHIVE => match payload.blobs.as_slice() {
                [bytes] if meta.left() == 0 => Ok(Self::Archive(bytes.clone())),
                _ => Err(meta.bad("archive command").into()),
            },
            OLD_BATCHES => Ok(Self::take_old_batches(LittleEndian::new(meta), &payload.blobs)?),
            OLD_COMMAND => LaneCommand::from_json(LittleEndian::new(meta).blob()?).map(Self::Command),
            kind => Err(EntryError::Kind(kind)),
        }
    }

    fn take_batches(mut meta: Decoder<'_>, blobs: &[Bytes]) -> Result<Self, CodecError> {
        let flags = meta.u8()?;
        if flags & !HAS_EXPIRY != 0 {
            return Err(meta.bad("flag, of a newer version perhaps"));
        }
        let at = TimestampMs(meta.i64()?);
        if meta.count32(PLACED_LEN)? != blobs.len() {
            return Err(meta.bad("count of batches"));
        }
        let producers_after_ms = if flags & HAS_EXPIRY == 0 { PRODUCERS_AFTER_MS } else { meta.i64()? };
        if producers_after_ms <= 0 {
            return Err(meta.bad("expiry of producers"));
        }
        let mut batches = Vec::with_capacity(blobs.len());
        for bytes in blobs {
            batches.push(PlacedBatch {
                partition: meta.partition()?,
                base_offset: meta.offset64()?,
                epoch: LeaderEpoch(meta.i32()?),
                bytes: bytes.clone(),
            });
        }
        meta.end()?;
        Ok(Self::Batches { at, producers_after_ms, batches })
    }

    fn take_old_batches(mut meta: LittleEndian<'_>, blobs: &[Bytes]) -> Result<Self, CodecError> {
        let at = TimestampMs(meta.i64()?);
        if meta.u32()? as usize != blobs.len() {
            return Err(meta.bad("count of batches"));
        }
        let mut batches = Vec::with_capacity(blobs.len());
        for bytes in blobs {
            batches.push(PlacedBatch {
                partition: meta.partition()?,
                base_offset: Offset::new(meta.u64()?),
                epoch: LeaderEpoch(meta.i32()?),
                bytes: bytes.clone(),
            });
        }
        Ok(Self::batches(at, batches))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidewater_storage::model::{Incarnation, PartitionIndex, TopicId};

    use super::*;
    use crate::partition::state::golden;

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
        for entry in [
            LaneOp::batches(TimestampMs(5), vec![batch.clone()]),
            LaneOp::Batches { at: TimestampMs(5), producers_after_ms: 1, batches: vec![batch] },
        ] {
            let back = LaneOp::decode(&entry.clone().encode()).expect("decodes");
            assert_eq!(format!("{back:?}"), format!("{entry:?}"));
        }
        let command = LaneCommand::Trim { partition: id(), to: Offset::new(9) };
        match LaneOp::decode(&LaneOp::Command(command.clone()).encode()) {
            Ok(LaneOp::Command(back)) => assert_eq!(back, command),
            other => unreachable!("{other:?}"),
        }
    }

    /// An entry's meta and blobs, as its golden file holds them.
    fn written(entries: Vec<LaneOp>) -> Bytes {
        let mut out = Encoder::new();
        for entry in entries {
            let payload = entry.encode();
            out.blob(&payload.meta);
            out.len32(payload.blobs.len());
            payload.blobs.iter().for_each(|blob| out.blob(blob));
        }
        out.finish()
    }

    fn read(entries: &Bytes) -> Vec<LaneOp> {
        let (mut from, mut read) = (Decoder::new("golden entries", entries), Vec::new());
        while from.left() > 0 {
            let meta = entries.slice_ref(from.blob().expect("meta"));
            let blobs = from.list32(4, |from| Ok(entries.slice_ref(from.blob()?))).expect("blobs");
            read.push(LaneOp::decode(&Payload { meta, blobs, verified: false }).expect("is read"));
        }
        read
    }

    /// As versions without revisions wrote them: revision 0 takes no bytes.
    fn every_kind(revision: u64) -> Vec<LaneOp> {
        let topic = TopicName::new("orders").expect("legal");
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        let batch = |offset, bytes| PlacedBatch {
            partition: id(),
            base_offset: Offset::new(offset),
            epoch: LeaderEpoch(2),
            bytes: Bytes::from_static(bytes),
        };
        let create = LaneCommand::Create {
            partition: id(),
            topic,
            overrides: overrides.clone(),
            epoch_base: 3,
            copied: None,
            revision,
        };
        let batches = LaneOp::Batches {
            at: TimestampMs(1_767_225_600_000),
            producers_after_ms: if revision == 0 { PRODUCERS_AFTER_MS } else { 1000 },
            batches: vec![batch(7, b"one"), batch(9, b"two")],
        };
        vec![
            batches,
            LaneOp::Command(LaneCommand::together(vec![create, LaneCommand::Clean { partition: id() }])),
            LaneOp::Command(LaneCommand::Configure { partition: id(), overrides, revision }),
            LaneOp::Command(LaneCommand::Trim { partition: id(), to: Offset::new(9) }),
            LaneOp::Command(LaneCommand::Drop { partition: id(), revision }),
            LaneOp::Archive(Bytes::from_static(b"archive")),
        ]
    }

    #[test]
    fn the_creation_of_a_partition_of_a_copy_is_frozen() {
        let create = LaneCommand::Create {
            partition: id(),
            topic: TopicName::new("orders").expect("legal"),
            overrides: BTreeMap::new(),
            epoch_base: 1 << 20,
            copied: Some(CopiedRange { start: Offset::new(40), end: Offset::new(90) }),
            revision: 17,
        };
        let entries = || vec![LaneOp::Command(create.clone())];
        let kept = golden::frozen("lane-entries-v3-copied", &written(entries()));
        assert_eq!(format!("{:?}", read(&kept)), format!("{:?}", entries()));
    }

    #[test]
    fn entries_of_every_version_are_read() {
        golden::frozen("lane-entries-v2", &written(every_kind(0)));
        golden::frozen("lane-entries-v3", &written(every_kind(17)));
        for (name, revision) in [("lane-entries-v1", 0), ("lane-entries-v2", 0), ("lane-entries-v3", 17)] {
            assert_eq!(format!("{:?}", read(&golden::kept(name))), format!("{:?}", every_kind(revision)), "{name}");
        }
    }

    #[test]
    fn a_command_with_an_unknown_field_is_not_read() {
        let command = |json: &str| {
            let meta = Bytes::from([&[COMMAND][..], json.as_bytes()].concat());
            LaneOp::decode(&Payload { meta, blobs: Vec::new(), verified: false })
        };
        let partition = r#"{"topic":"00000000-0000-0000-0000-000000000000","index":3,"incarnation":0}"#;
        let known = format!(r#"{{"drop":{{"partition":{partition}}}}}"#);
        assert!(command(&known).is_ok());
        let unknown = format!(r#"{{"drop":{{"partition":{partition},"unless":4}}}}"#);
        let list = |inner: &str| format!(r#"{{"batch":{{"commands":[{known},{inner}]}}}}"#);
        assert!(command(&list(&known)).is_ok());
        for json in [unknown.clone(), list(&unknown), list(&list(&known))] {
            assert!(matches!(command(&json), Err(EntryError::Command(_))), "{json}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(meta in proptest::collection::vec(any::<u8>(), 0..200), blobs in 0usize..3) {
            let payload = Payload { meta: meta.into(), blobs: vec![Bytes::from_static(b"x"); blobs], verified: false };
            let _ = LaneOp::decode(&payload);
        }
    }
}
