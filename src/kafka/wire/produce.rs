//! Produce, versions 3 to 13, by hand: records stay where they were received.
//!
//! The request is walked once, every length checked against what remains; then each partition's records are split off
//! the frame as a `BytesMut` of their own, without a copy, so that base offset and epoch can be patched in place.
//! Records that are a small part of their frame are copied: they may be kept, and charged by their length, when all
//! else of the frame is gone, and would keep all of its memory.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::header::{begin_response, end_response};
use super::leader::{CurrentLeader, NodeEndpoint, put_endpoints, put_hint};
use super::reader::{FieldReader, Malformed};
use super::schema::TAGS_MAX;
use super::writer::{put_list_len, put_no_tags, put_text, put_text_or_null};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::PRODUCE_ELEMENTS_MAX;
use crate::kafka::topic_ref::TopicRef;

/// First version with compact encodings.
const FLEXIBLE_FROM: i16 = 9;
/// First version with the leader beside an error that says that it is not here.
pub const HINTS_FROM: i16 = 10;
/// First version with topic ids.
const IDS_FROM: i16 = 13;
/// Fewest bytes of a topic, or of a partition: what bounds their number by the frame's length, before the cap does.
const ELEMENT_MIN: usize = 5;

/// Records that are less than this part of the request are copied: memory that is kept is at most so many times what is
/// charged.
const KEPT_PART: usize = 4;

#[derive(Debug)]
pub struct ProduceRequest {
    /// Set by transactional producers.
    pub transactional_id: Option<String>,
    /// 0, 1 or -1.
    pub acks: i16,
    /// How long the client waits for its batches to be committed.
    pub timeout_ms: i32,
    /// In the client's order.
    pub topics: Vec<ProduceTopic>,
    /// Topics and partitions together.
    pub elements: usize,
}

#[derive(Debug)]
pub struct ProduceTopic {
    pub topic: TopicRef,
    /// In the client's order.
    pub partitions: Vec<ProducePartition>,
}

#[derive(Debug)]
pub struct ProducePartition {
    pub index: i32,
    /// Its batches, as received.
    pub records: BytesMut,
}

struct TopicPlaces {
    topic: TopicRef,
    partitions: Vec<(i32, usize, usize)>,
}

/// Reads the body of a request.
///
/// # Errors
/// The first place that makes no sense.
pub fn decode(mut body: BytesMut, version: i16) -> Result<ProduceRequest, Malformed> {
    let flexible = version >= FLEXIBLE_FROM;
    let mut reader = FieldReader::new(&body);
    let transactional_id = reader.text_or_null(flexible, "transactional id")?.map(str::to_owned);
    let acks = reader.i16("acks")?;
    let timeout_ms = reader.i32("timeout")?;
    let count = reader.list_len(flexible, ELEMENT_MIN.min(3), "number of topics")?.unwrap_or(0);
    let mut elements = 0;
    charge(&reader, &mut elements, count)?;
    let places =
        (0..count).map(|_| topic_places(&mut reader, version, &mut elements)).collect::<Result<Vec<_>, _>>()?;
    reader.skip_tags(flexible, TAGS_MAX)?;

    let (whole, mut taken) = (body.len(), 0);
    let mut split = |start: usize, len: usize| {
        body.advance(start - taken);
        taken = start + len;
        if len.saturating_mul(KEPT_PART) >= whole {
            return body.split_to(len);
        }
        let copy = BytesMut::from(body.get(..len).unwrap_or_default());
        body.advance(len);
        copy
    };
    let topics = places
        .into_iter()
        .map(|t| ProduceTopic {
            topic: t.topic,
            partitions: t
                .partitions
                .into_iter()
                .map(|(index, start, len)| ProducePartition { index, records: split(start, len) })
                .collect(),
        })
        .collect();
    Ok(ProduceRequest { transactional_id, acks, timeout_ms, topics, elements })
}

fn charge(reader: &FieldReader<'_>, elements: &mut usize, count: usize) -> Result<(), Malformed> {
    *elements = elements.saturating_add(count);
    if *elements > PRODUCE_ELEMENTS_MAX { Err(reader.bad("too many elements")) } else { Ok(()) }
}

fn topic_places(reader: &mut FieldReader<'_>, version: i16, elements: &mut usize) -> Result<TopicPlaces, Malformed> {
    let flexible = version >= FLEXIBLE_FROM;
    let topic = if version >= IDS_FROM {
        TopicRef::Id(reader.uuid("topic id")?)
    } else {
        TopicRef::Name(reader.text(flexible, "topic name")?.to_owned())
    };
    let count = reader.list_len(flexible, ELEMENT_MIN, "number of partitions")?.unwrap_or(0);
    charge(reader, elements, count)?;
    let mut partitions = Vec::with_capacity(count.min(64));
    for _ in 0..count {
        let index = reader.i32("partition")?;
        let len = reader.blob_len(flexible, "records")?.unwrap_or(0);
        partitions.push((index, reader.position(), len));
        reader.take(len, "records")?;
        reader.skip_tags(flexible, TAGS_MAX)?;
    }
    reader.skip_tags(flexible, TAGS_MAX)?;
    Ok(TopicPlaces { topic, partitions })
}

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAnswer {
    pub index: i32,
    pub error: ErrorCode,
    /// Offset of the first record, or -1.
    pub base_offset: i64,
    /// The broker's stamp, or -1.
    pub log_append_time_ms: i64,
    /// First offset of the partition, or -1.
    pub log_start_offset: i64,
    /// For people, from version 8.
    pub message: Option<String>,
    /// Records at fault, by their index in the batch, and why; from version 8.
    pub record_errors: Vec<(i32, String)>,
    /// The leader, if the error says that it is not here; sent from version 10.
    pub leader: Option<CurrentLeader>,
}

/// Writes a whole response frame. `nodes` are the brokers that answers name as leaders.
#[must_use]
pub fn encode_response(
    correlation_id: i32,
    version: i16,
    topics: &[(TopicRef, Vec<PartitionAnswer>)],
    nodes: &[NodeEndpoint],
) -> Bytes {
    let flexible = version >= FLEXIBLE_FROM;
    let partitions: usize = topics.iter().map(|(_, p)| p.len()).sum();
    let mut out = begin_response(correlation_id, flexible, 32 + topics.len() * 64 + partitions * 64);
    put_list_len(&mut out, flexible, topics.len());
    for (topic, partitions) in topics {
        match topic {
            TopicRef::Name(name) => put_text(&mut out, flexible, name),
            TopicRef::Id(id) => out.put_slice(id.as_bytes()),
        }
        put_list_len(&mut out, flexible, partitions.len());
        for partition in partitions {
            put_partition(&mut out, version, partition);
        }
        put_no_tags(&mut out, flexible);
    }
    out.put_i32(0); // throttle time
    if version >= HINTS_FROM {
        put_endpoints(&mut out, nodes);
    } else {
        put_no_tags(&mut out, flexible);
    }
    end_response(out)
}

fn put_partition(out: &mut BytesMut, version: i16, answer: &PartitionAnswer) {
    let flexible = version >= FLEXIBLE_FROM;
    out.put_i32(answer.index);
    out.put_i16(answer.error.number());
    out.put_i64(answer.base_offset);
    out.put_i64(answer.log_append_time_ms);
    if version >= 5 {
        out.put_i64(answer.log_start_offset);
    }
    if version >= 8 {
        put_list_len(out, flexible, answer.record_errors.len());
        for (index, why) in &answer.record_errors {
            out.put_i32(*index);
            put_text(out, flexible, why);
            put_no_tags(out, flexible);
        }
        put_text_or_null(out, flexible, answer.message.as_deref());
    }
    match answer.leader.filter(|_| version >= HINTS_FROM) {
        None => put_no_tags(out, flexible),
        Some(hint) => {
            out.put_u8(1);
            put_hint(out, 0, hint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 9: partitions with so many bytes of records each, in one topic, and a tagged field of `unknown` bytes.
    fn body(partitions: &[usize], unknown: usize) -> BytesMut {
        fn uvarint(out: &mut BytesMut, mut n: usize) {
            while n > 0x7f {
                out.put_u8(n as u8 | 0x80);
                n >>= 7;
            }
            out.put_u8(n as u8);
        }
        let mut out = BytesMut::from(&[0, 0xff, 0xff, 0, 0, 0x75, 0x30, 2, 2, b't'][..]);
        uvarint(&mut out, partitions.len() + 1);
        for (index, len) in partitions.iter().enumerate() {
            out.put_i32(index as i32);
            uvarint(&mut out, len + 1);
            out.put_bytes(index as u8, *len);
            out.put_u8(0);
        }
        out.put_u8(0);
        out.put_slice(&[1, 99]);
        uvarint(&mut out, unknown);
        out.put_bytes(7, unknown);
        out
    }

    /// Which partitions' records lie where they were received, and which in memory of their own.
    fn stays(partitions: &[usize], unknown: usize) -> Vec<bool> {
        let body = body(partitions, unknown);
        let within = body.as_ptr_range();
        let request = decode(body, 9).expect("reads");
        let records: Vec<_> = request.topics.into_iter().flat_map(|topic| topic.partitions).collect();
        assert_eq!(records.iter().map(|part| part.records.len()).collect::<Vec<_>>(), partitions);
        assert!(records.iter().all(|part| part.records.iter().all(|byte| i32::from(*byte) == part.index)));
        records
            .into_iter()
            .map(|part| {
                let stays = within.contains(&part.records.as_ptr());
                assert!(stays || part.records.freeze().is_unique());
                stays
            })
            .collect()
    }

    #[test]
    fn records_stay_where_they_were_received_unless_they_are_a_small_part() {
        assert_eq!(stays(&[100_000], 0), [true]);
        assert_eq!(stays(&[100_000, 100_000, 90_000], 0), [true, true, true]);
        assert_eq!(stays(&[100, 100_000, 100], 0), [false, true, false]);
        assert_eq!(stays(&[1000; 16], 0), [false; 16]);
        assert_eq!(stays(&[100], 1 << 20), [false], "an unknown tagged field follows");
    }
}
