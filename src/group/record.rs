//! Records of `__consumer_offsets`, byte for byte as Kafka writes them, so that its tools can read the topic.
//!
//! Keys: i16 version, then 0 or 1: an offset commit (group, topic, partition); 2: a group's metadata (group). Values
//! begin with their own version. Written are `OffsetCommitValue` v4 with the topic's id in its tag 0 (v3 when no id is
//! known; v1, which has no room for one, when the commit carries its own expiry) and `GroupMetadataValue` v3; read are
//! v0 to v4 of both (v4 is the flexible form). A null value is a tombstone. Strings are i16 length and UTF-8. Bytes
//! come from the log: nothing here indexes or allocates past what is there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidewater_storage::model::{LeaderEpoch, TimestampMs, TopicId};
use uuid::Uuid;

use super::offsets::{Commit, CommittedOffset};
use super::state::{SavedGroup, SavedMember};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GroupRecord {
    /// An offset was committed, or (`None`) removed.
    Offset { group: String, topic: String, partition: i32, commit: Option<Commit> },
    /// A group changed, or (`None`) was removed.
    Group { group: String, saved: Option<SavedGroup> },
}

/// Why a record was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// A key of a kind this version does not know (share or KIP-848 groups): left alone.
    #[error("key version {0} is not one of a classic group")]
    Kind(i16),
    /// A value newer than this version.
    #[error("value version {0} is newer than this broker understands")]
    Version(i16),
    /// Cut short, negative lengths, no UTF-8.
    #[error("the record is malformed")]
    Malformed,
}

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
const FLEXIBLE: i16 = 4;
/// The tagged field of `OffsetCommitValue` that is the topic's id.
const TOPIC_ID_TAG: usize = 0;
const TOPIC_ID_BYTES: usize = 16;

/// Key and value of a record, as they go into a batch.
pub(super) type Pair = (Bytes, Option<Bytes>);

impl GroupRecord {
    /// The record's key and value.
    pub(super) fn encode(&self) -> Pair {
        let mut key = BytesMut::with_capacity(64);
        match self {
            Self::Offset { group, topic, partition, commit } => {
                key.put_i16(OFFSET_KEY);
                put_str(&mut key, group);
                put_str(&mut key, topic);
                key.put_i32(*partition);
                (key.freeze(), commit.as_ref().map(encode_commit))
            }
            Self::Group { group, saved } => {
                key.put_i16(GROUP_KEY);
                put_str(&mut key, group);
                (key.freeze(), saved.as_ref().map(encode_group))
            }
        }
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// It is of another kind, newer, or malformed.
    pub(super) fn decode(key: &Bytes, value: Option<&Bytes>) -> Result<Self, RecordError> {
        let mut key = Reader { bytes: key.clone(), flexible: false };
        match key.i16().ok_or(RecordError::Malformed)? {
            0 | 1 => {
                let (group, topic, partition) = key.offset_key().ok_or(RecordError::Malformed)?;
                let commit = value.map(decode_commit).transpose()?;
                Ok(Self::Offset { group, topic, partition, commit })
            }
            GROUP_KEY => {
                let group = key.string().ok_or(RecordError::Malformed)?;
                Ok(Self::Group { group, saved: value.map(decode_group).transpose()? })
            }
            other => Err(RecordError::Kind(other)),
        }
    }
}

fn encode_commit(commit: &Commit) -> Bytes {
    let mut out = BytesMut::with_capacity(32 + commit.metadata.len());
    let epoch = commit.leader_epoch.map_or(-1, |epoch| epoch.0);
    match (commit.expires_at, commit.topic) {
        (Some(expires_at), _) => {
            out.put_i16(1);
            out.put_i64(commit.offset.0);
            put_str(&mut out, &commit.metadata);
            out.put_i64(commit.at.0);
            out.put_i64(expires_at.0);
        }
        (None, None) => {
            out.put_i16(3);
            out.put_i64(commit.offset.0);
            out.put_i32(epoch);
            put_str(&mut out, &commit.metadata);
            out.put_i64(commit.at.0);
        }
        (None, Some(topic)) => {
            out.put_i16(FLEXIBLE);
            out.put_i64(commit.offset.0);
            out.put_i32(epoch);
            put_varint(&mut out, commit.metadata.len() + 1);
            out.put_slice(commit.metadata.as_bytes());
            out.put_i64(commit.at.0);
            put_varint(&mut out, 1);
            put_varint(&mut out, TOPIC_ID_TAG);
            put_varint(&mut out, TOPIC_ID_BYTES);
            out.put_slice(topic.0.as_bytes());
        }
    }
    out.freeze()
}

fn decode_commit(value: &Bytes) -> Result<Commit, RecordError> {
    let mut value = Reader { bytes: value.clone(), flexible: false };
    let version = value.version()?;
    value.commit(version).ok_or(RecordError::Malformed)
}

fn encode_group(saved: &SavedGroup) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    out.put_i16(3);
    put_str(&mut out, &saved.protocol_type);
    out.put_i32(saved.generation);
    put_nullable(&mut out, saved.protocol.as_deref());
    put_nullable(&mut out, saved.leader.as_deref());
    out.put_i64(saved.changed.0);
    out.put_i32(saved.members.len() as i32);
    for member in &saved.members {
        put_str(&mut out, &member.id);
        put_nullable(&mut out, member.instance.as_deref());
        put_str(&mut out, &member.client_id);
        put_str(&mut out, &member.client_host);
        out.put_i32(member.rebalance_ms);
        out.put_i32(member.session_ms);
        put_bytes(&mut out, &member.subscription);
        put_bytes(&mut out, &member.assignment);
    }
    out.freeze()
}

fn decode_group(value: &Bytes) -> Result<SavedGroup, RecordError> {
    let mut value = Reader { bytes: value.clone(), flexible: false };
    let version = value.version()?;
    value.group(version).ok_or(RecordError::Malformed)
}

/// Names were accepted from the wire with an i16 length or are cut here at a character.
fn put_str(out: &mut BytesMut, text: &str) {
    let mut len = text.len().min(i16::MAX as usize);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    out.put_i16(len as i16);
    out.put_slice(text.as_bytes().get(..len).unwrap_or_default());
}

fn put_nullable(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_str(out, text),
        None => out.put_i16(-1),
    }
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_bytes(out: &mut BytesMut, bytes: &Bytes) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

struct Reader {
    bytes: Bytes,
    flexible: bool,
}

impl Reader {
    fn version(&mut self) -> Result<i16, RecordError> {
        let version = self.i16().ok_or(RecordError::Malformed)?;
        self.flexible = version >= FLEXIBLE;
        if (0..=FLEXIBLE).contains(&version) { Ok(version) } else { Err(RecordError::Version(version)) }
    }

    fn i16(&mut self) -> Option<i16> {
        self.bytes.try_get_i16().ok()
    }

    fn i32(&mut self) -> Option<i32> {
        self.bytes.try_get_i32().ok()
    }

    fn time(&mut self) -> Option<TimestampMs> {
        self.bytes.try_get_i64().ok().map(TimestampMs)
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0u32;
        for shift in (0..35).step_by(7) {
            let byte = self.bytes.try_get_u8().ok()?;
            value |= u32::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return usize::try_from(value).ok();
            }
        }
        None
    }

    /// A length of `width` bytes; the inner `None` is null.
    #[allow(clippy::option_option, reason = "outer: malformed; inner: Kafka's null")]
    fn length(&mut self, wide: bool) -> Option<Option<usize>> {
        let len = match (self.flexible, wide) {
            (true, _) => return Some(self.varint()?.checked_sub(1)),
            (false, true) => self.i32()?,
            (false, false) => i32::from(self.i16()?),
        };
        if len == -1 { Some(None) } else { Some(Some(usize::try_from(len).ok()?)) }
    }

    fn take(&mut self, len: usize) -> Option<Bytes> {
        (len <= self.bytes.len()).then(|| self.bytes.split_to(len))
    }

    fn blob(&mut self) -> Option<Bytes> {
        let len = self.length(true)??;
        self.take(len)
    }

    #[allow(clippy::option_option, reason = "outer: malformed; inner: Kafka's null")]
    fn nullable(&mut self) -> Option<Option<String>> {
        match self.length(false)? {
            None => Some(None),
            Some(len) => Some(Some(String::from_utf8(self.take(len)?.into()).ok()?)),
        }
    }

    fn string(&mut self) -> Option<String> {
        self.nullable()?
    }

    /// Reads the tagged fields past.
    fn tags(&mut self) -> Option<()> {
        self.tag(usize::MAX).map(drop)
    }

    /// Reads the tagged fields past; the inner value is the one that is wanted.
    #[allow(clippy::option_option, reason = "outer: malformed; inner: not there")]
    fn tag(&mut self, wanted: usize) -> Option<Option<Bytes>> {
        let mut found = None;
        if !self.flexible {
            return Some(found);
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let len = self.varint()?;
            let value = self.take(len)?;
            if tag == wanted {
                found = Some(value);
            }
        }
        Some(found)
    }

    fn offset_key(&mut self) -> Option<(String, String, i32)> {
        Some((self.string()?, self.string()?, self.i32()?))
    }

    fn commit(&mut self, version: i16) -> Option<Commit> {
        let offset = CommittedOffset(self.bytes.try_get_i64().ok()?);
        let leader_epoch = if version >= 3 { self.i32()? } else { -1 };
        let metadata = self.string()?;
        let at = self.time()?;
        let expires_at = if version == 1 { Some(self.time()?).filter(|t| t.0 >= 0) } else { None };
        let topic = self.tag(TOPIC_ID_TAG)?.and_then(|id| Uuid::from_slice(&id).ok()).filter(|id| !id.is_nil());
        let leader_epoch = (leader_epoch != -1).then_some(LeaderEpoch(leader_epoch));
        Some(Commit { offset, leader_epoch, metadata: metadata.into(), at, expires_at, topic: topic.map(TopicId) })
    }

    fn group(&mut self, version: i16) -> Option<SavedGroup> {
        let mut saved = SavedGroup {
            protocol_type: self.string()?,
            generation: self.i32()?,
            protocol: self.nullable()?,
            leader: self.nullable()?,
            changed: TimestampMs::NONE,
            members: Vec::new(),
        };
        if version >= 2 {
            saved.changed = self.time()?;
        }
        let count = self.length(true)??;
        // A member takes at least 12 bytes: a count beyond that is a lie, seen before it is allocated.
        saved.members.reserve(count.min(self.bytes.len() / 12));
        for _ in 0..count {
            saved.members.push(self.member(version)?);
        }
        self.tags()?;
        Some(saved)
    }

    fn member(&mut self, version: i16) -> Option<SavedMember> {
        let id = self.string()?;
        let instance = if version >= 3 { self.nullable()? } else { None };
        let (client_id, client_host) = (self.string()?, self.string()?);
        let rebalance = if version >= 1 { Some(self.i32()?) } else { None };
        let session_ms = self.i32()?;
        let (subscription, assignment) = (self.blob()?, self.blob()?);
        self.tags()?;
        let rebalance_ms = rebalance.unwrap_or(session_ms);
        Some(SavedMember { id, instance, client_id, client_host, rebalance_ms, session_ms, subscription, assignment })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use tidewater_storage::model::Offset;

    use super::*;

    fn commit(offset: u64, expires_at: Option<i64>) -> Commit {
        Commit {
            offset: Offset::new(offset).into(),
            leader_epoch: expires_at.is_none().then_some(LeaderEpoch(7)),
            metadata: "why".into(),
            at: TimestampMs(1_700_000_000_000),
            expires_at: expires_at.map(TimestampMs),
            topic: None,
        }
    }

    #[test]
    fn an_offset_is_written_as_kafka_writes_it() {
        let record =
            GroupRecord::Offset { group: "g".into(), topic: "t".into(), partition: 3, commit: Some(commit(5, None)) };
        let (key, value) = record.encode();
        assert_eq!(&key[..], [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 3]);
        let mut expected = vec![0, 3];
        expected.extend_from_slice(&5i64.to_be_bytes());
        expected.extend_from_slice(&7i32.to_be_bytes());
        expected.extend_from_slice(&[0, 3, b'w', b'h', b'y']);
        expected.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
        assert_eq!(&value.clone().expect("has a value")[..], expected);
        assert_eq!(GroupRecord::decode(&key, value.as_ref()), Ok(record));
    }

    #[test]
    fn an_offset_tells_the_life_of_its_topic() {
        let topic = Some(TopicId(Uuid::from_u128(0x0123)));
        for len in [0, 3, 126, 127, 4096] {
            let commit = Commit { topic, metadata: "x".repeat(len).into(), ..commit(5, None) };
            let record =
                GroupRecord::Offset { group: "g".into(), topic: "t".into(), partition: 3, commit: Some(commit) };
            let (key, value) = record.encode();
            assert_eq!(GroupRecord::decode(&key, value.as_ref()), Ok(record));
            let value = value.expect("has a value");
            assert_eq!(value[..2], [0, 4]);
            assert_eq!(value[value.len() - 19..], [1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x23]);
        }
    }

    #[test]
    fn groups_and_tombstones_round_trip() {
        let member = SavedMember {
            id: "m-1".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            rebalance_ms: 60_000,
            session_ms: 45_000,
            subscription: Bytes::from_static(b"sub"),
            assignment: Bytes::from_static(b"assigned"),
        };
        let saved = SavedGroup {
            protocol_type: "consumer".into(),
            generation: 4,
            protocol: Some("range".into()),
            leader: Some("m-1".into()),
            changed: TimestampMs(5),
            members: vec![member],
        };
        for record in [
            GroupRecord::Group { group: "g".into(), saved: Some(saved) },
            GroupRecord::Group { group: "g".into(), saved: None },
            GroupRecord::Offset { group: "g".into(), topic: "t".into(), partition: 0, commit: None },
            GroupRecord::Offset {
                group: "g".into(),
                topic: "t".into(),
                partition: 0,
                commit: Some(commit(1, Some(99))),
            },
        ] {
            let (key, value) = record.encode();
            assert_eq!(GroupRecord::decode(&key, value.as_ref()), Ok(record));
        }
    }

    #[test]
    fn flexible_values_are_read() {
        let mut value = BytesMut::new();
        value.put_i16(4);
        value.put_i64(9);
        value.put_i32(2);
        value.put_slice(&[2, b'x']);
        value.put_i64(77);
        value.put_slice(&[1, 0, 16]);
        value.put_slice(&[0; 16]);
        let commit = decode_commit(&value.freeze()).expect("reads");
        assert_eq!((commit.offset, commit.metadata.as_ref(), commit.at), (Offset::new(9).into(), "x", TimestampMs(77)));
    }

    proptest! {
        #[test]
        fn hostile_records_never_panic(
            kind in 0i16..4,
            version in 0i16..6,
            key in proptest::collection::vec(any::<u8>(), 0..40),
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let key = [&kind.to_be_bytes()[..], &key].concat();
            let value = [&version.to_be_bytes()[..], &value].concat();
            let _ = GroupRecord::decode(&Bytes::from(key), Some(&Bytes::from(value)));
        }
    }
}
