//! Request bodies read by the generated decoders, behind the guard; and the versions that those decoders lack.
//!
//! kafka-protocol 0.18 reads `OffsetCommit` and `OffsetFetch` up to v9 and `DescribeLogDirs` up to v4. Version 10 of
//! the first two puts a topic's id where its name was; v5 of the last asks like v4, and `ListOffsets` v11 like v10.

use bytes::BytesMut;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{ApiKey, OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::protocol::{Decodable, StrBytes};

use super::guard::Weight;
use super::reader::{FieldReader, Malformed};
use super::{guard, schema};
use crate::kafka::words::text;

/// First version of `OffsetCommit` and `OffsetFetch` that names topics by id.
pub const OFFSETS_BY_ID: i16 = 10;
/// Highest version of `ListOffsets` that the generated codec knows; v11 is written alike and only gives one more
/// timestamp a meaning (KIP-1023).
pub const LIST_OFFSETS_GENERATED_MAX: i16 = 10;
/// Highest version of `DescribeLogDirs` that the generated codec knows.
pub const LOG_DIRS_GENERATED_MAX: i16 = 4;

/// A body whose structure is checked: only such a one reaches a decoder.
#[derive(Debug)]
pub struct Checked {
    /// As the decoder knows it.
    version: i16,
    body: BytesMut,
    weight: Weight,
}

impl Checked {
    /// What decoding takes beside the body, at most. Bytes.
    #[must_use]
    pub fn decoding_bytes(&self) -> usize {
        self.weight.bytes()
    }
}

/// Checks the structure.
///
/// # Errors
/// What does not fit, in words.
pub fn check(key: ApiKey, version: i16, body: BytesMut) -> Result<Checked, String> {
    let schema = schema::schema(key).ok_or("no schema")?;
    let version = match key {
        ApiKey::DescribeLogDirs => version.min(LOG_DIRS_GENERATED_MAX),
        ApiKey::ListOffsets => version.min(LIST_OFFSETS_GENERATED_MAX),
        _ => version,
    };
    let weight = guard::check(&schema, version, &body).map_err(|e| e.to_string())?;
    Ok(Checked { version, body, weight })
}

/// Decodes what was checked.
///
/// # Errors
/// What does not fit, in words.
pub fn decode<R: Decodable>(checked: Checked) -> Result<R, String> {
    R::decode(&mut checked.body.freeze(), checked.version).map_err(|e| e.to_string())
}

/// `OffsetCommit`, any version.
///
/// # Errors
/// As [`decode`].
pub fn offset_commit(checked: Checked) -> Result<OffsetCommitRequest, String> {
    if checked.version < OFFSETS_BY_ID {
        return decode(checked);
    }
    commit_by_id(&mut FieldReader::new(&checked.body)).map_err(|e| e.to_string())
}

/// `OffsetFetch`, any version.
///
/// # Errors
/// As [`decode`].
pub fn offset_fetch(checked: Checked) -> Result<OffsetFetchRequest, String> {
    if checked.version < OFFSETS_BY_ID {
        return decode(checked);
    }
    fetch_by_id(&mut FieldReader::new(&checked.body)).map_err(|e| e.to_string())
}

fn commit_by_id(from: &mut FieldReader<'_>) -> Result<OffsetCommitRequest, Malformed> {
    let request = OffsetCommitRequest::default()
        .with_group_id(string(from)?.into())
        .with_generation_id_or_member_epoch(from.i32("generation")?)
        .with_member_id(string(from)?)
        .with_group_instance_id(string_or_null(from)?);
    let topics = list(from, |from| {
        let topic = OffsetCommitRequestTopic::default().with_topic_id(from.uuid("topic id")?);
        let partitions = list(from, |from| {
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(from.i32("partition")?)
                .with_committed_offset(from.i64("offset")?)
                .with_committed_leader_epoch(from.i32("leader epoch")?)
                .with_committed_metadata(string_or_null(from)?);
            tags(from)?;
            Ok(partition)
        })?;
        tags(from)?;
        Ok(topic.with_partitions(partitions.unwrap_or_default()))
    })?;
    tags(from)?;
    Ok(request.with_topics(topics.unwrap_or_default()))
}

fn fetch_by_id(from: &mut FieldReader<'_>) -> Result<OffsetFetchRequest, Malformed> {
    let groups = list(from, |from| {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(string(from)?.into())
            .with_member_id(string_or_null(from)?)
            .with_member_epoch(from.i32("member epoch")?);
        let topics = list(from, |from| {
            let topic = OffsetFetchRequestTopics::default().with_topic_id(from.uuid("topic id")?);
            let partitions = list_of_numbers(from)?;
            tags(from)?;
            Ok(topic.with_partition_indexes(partitions))
        })?;
        tags(from)?;
        Ok(group.with_topics(topics))
    })?;
    let request = OffsetFetchRequest::default().with_groups(groups.unwrap_or_default());
    let request = request.with_require_stable(from.i8("require stable")? != 0);
    tags(from)?;
    Ok(request)
}

fn tags(from: &mut FieldReader<'_>) -> Result<(), Malformed> {
    from.skip_tags(true, schema::TAGS_MAX)
}

fn list<T>(
    from: &mut FieldReader<'_>,
    mut one: impl FnMut(&mut FieldReader<'_>) -> Result<T, Malformed>,
) -> Result<Option<Vec<T>>, Malformed> {
    let Some(count) = from.list_len(true, 1, "number of elements")? else { return Ok(None) };
    (0..count).map(|_| one(from)).collect::<Result<Vec<T>, Malformed>>().map(Some)
}

fn list_of_numbers(from: &mut FieldReader<'_>) -> Result<Vec<i32>, Malformed> {
    let count = from.list_len(true, 4, "number of partitions")?.unwrap_or(0);
    (0..count).map(|_| from.i32("partition")).collect()
}

fn string_or_null(from: &mut FieldReader<'_>) -> Result<Option<StrBytes>, Malformed> {
    Ok(from.text_or_null(true, "string")?.map(text))
}

fn string(from: &mut FieldReader<'_>) -> Result<StrBytes, Malformed> {
    string_or_null(from).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::protocol::Encodable;
    use uuid::Uuid;

    use super::*;

    fn commit(body: BytesMut) -> Result<OffsetCommitRequest, String> {
        check(ApiKey::OffsetCommit, OFFSETS_BY_ID, body).and_then(offset_commit)
    }

    fn fetch(body: BytesMut) -> Result<OffsetFetchRequest, String> {
        check(ApiKey::OffsetFetch, OFFSETS_BY_ID, body).and_then(offset_fetch)
    }

    /// What v9 writes, with each topic's name (`t`, two bytes compact) replaced by an id.
    fn by_id(written: &[u8], id: Uuid) -> BytesMut {
        let mut out = BytesMut::new();
        let mut rest = written;
        while let Some(at) = rest.windows(2).position(|w| w == [2, b't']) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(id.as_bytes());
            rest = &rest[at + 2..];
        }
        out.extend_from_slice(rest);
        out
    }

    #[test]
    fn a_commit_by_id_is_one_by_name_but_for_the_topic() {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(3)
            .with_committed_offset(77)
            .with_committed_metadata(Some(text("here")));
        let topic = OffsetCommitRequestTopic::default().with_partitions(vec![partition.clone(), partition]);
        let named = OffsetCommitRequest::default()
            .with_group_id(text("g").into())
            .with_member_id(text("m"))
            .with_generation_id_or_member_epoch(4)
            .with_topics(vec![topic.clone().with_name(text("t").into())]);
        let mut written = BytesMut::new();
        named.encode(&mut written, 9).expect("encodes");
        let id = Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888);
        let body = by_id(&written, id);
        let read = commit(body.clone()).expect("reads");
        assert_eq!(read, named.with_topics(vec![topic.with_topic_id(id)]));
        (0..body.len()).for_each(|cut| assert!(commit(BytesMut::from(&body[..cut])).is_err(), "cut {cut}"));
    }

    #[test]
    fn a_fetch_by_id_is_one_by_name_but_for_the_topic() {
        let topic = OffsetFetchRequestTopics::default().with_partition_indexes(vec![0, 5]);
        let group = OffsetFetchRequestGroup::default().with_group_id(text("g").into());
        let of = |topics| vec![group.clone().with_topics(topics), group.clone().with_topics(None)];
        let named = OffsetFetchRequest::default().with_require_stable(true);
        let mut written = BytesMut::new();
        let asked = named.clone().with_groups(of(Some(vec![topic.clone().with_name(text("t").into())])));
        asked.encode(&mut written, 9).expect("encodes");
        let id = Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888);
        let body = by_id(&written, id);
        let read = fetch(body.clone()).expect("reads");
        assert_eq!(read, named.with_groups(of(Some(vec![topic.with_topic_id(id)]))));
        (0..body.len()).for_each(|cut| assert!(fetch(BytesMut::from(&body[..cut])).is_err(), "cut {cut}"));
    }
}
