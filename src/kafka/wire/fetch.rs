//! The Fetch response, versions 4 to 18, by hand: stored batches are spliced in, never copied.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::begin_response;
use super::leader::{CurrentLeader, NodeEndpoint, put_endpoints, put_hint};
use super::writer::{put_list_len, put_no_tags, put_text, put_uvarint};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;
use crate::partition::message::EpochEnd;

const FLEXIBLE_FROM: i16 = 12;
/// First version with the leader beside an error that says that it is not here.
pub const HINTS_FROM: i16 = 16;

/// The answer for one partition.
#[derive(Clone, Debug)]
pub struct PartitionAnswer {
    pub index: i32,
    pub error: ErrorCode,
    /// First offset not committed, or -1.
    pub high_watermark: i64,
    /// First offset not stable, or -1.
    pub last_stable_offset: i64,
    /// First offset of the partition, or -1.
    pub log_start_offset: i64,
    /// Is there a list of aborted transactions, if an empty one? Asked with `read_committed`; and where no partition
    /// was found to ask, as by Kafka.
    pub lists_aborted: bool,
    /// Where the client's log diverges from the partition's, for a client that sent its last epoch (from version 12).
    pub diverging: Option<EpochEnd>,
    /// The leader, if the error says that it is not here; sent from version 16.
    pub leader: Option<CurrentLeader>,
    /// Whole batches.
    pub batches: Vec<Bytes>,
}

impl PartitionAnswer {
    /// One with an error only.
    #[must_use]
    pub fn error(index: i32, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            lists_aborted: matches!(error, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::UNKNOWN_TOPIC_ID),
            diverging: None,
            leader: None,
            batches: Vec::new(),
        }
    }

    /// The same with these batches.
    #[must_use]
    pub fn with(self, batches: Vec<Bytes>) -> Self {
        Self { batches, ..self }
    }

    /// Bytes of its records.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

/// Writes a whole response frame, as the pieces to send one after another. `session` is 0 outside of one;
/// `nodes` are the brokers that answers name as leaders.
#[must_use]
pub fn encode_response(
    correlation_id: i32,
    version: i16,
    error: ErrorCode,
    session: i32,
    topics: Vec<(TopicRef, Vec<PartitionAnswer>)>,
    nodes: &[NodeEndpoint],
) -> Vec<Bytes> {
    let flexible = version >= FLEXIBLE_FROM;
    let partitions: usize = topics.iter().map(|(_, p)| p.len()).sum();
    let mut pieces = Pieces::new(begin_response(correlation_id, flexible, 32 + topics.len() * 64 + partitions * 64));
    let out = &mut pieces.tail;
    out.put_i32(0); // throttle time
    if version >= 7 {
        out.put_i16(error.number());
        out.put_i32(session);
    }
    put_list_len(out, flexible, topics.len());
    for (topic, partitions) in topics {
        match topic {
            TopicRef::Name(name) => put_text(&mut pieces.tail, flexible, &name),
            TopicRef::Id(id) => pieces.tail.put_slice(id.as_bytes()),
        }
        put_list_len(&mut pieces.tail, flexible, partitions.len());
        for partition in partitions {
            put_partition(&mut pieces, version, partition);
        }
        put_no_tags(&mut pieces.tail, flexible);
    }
    if version >= HINTS_FROM {
        put_endpoints(&mut pieces.tail, nodes);
    } else {
        put_no_tags(&mut pieces.tail, flexible);
    }
    pieces.finish()
}

fn put_partition(pieces: &mut Pieces, version: i16, answer: PartitionAnswer) {
    let flexible = version >= FLEXIBLE_FROM;
    let out = &mut pieces.tail;
    out.put_i32(answer.index);
    out.put_i16(answer.error.number());
    out.put_i64(answer.high_watermark);
    out.put_i64(answer.last_stable_offset);
    if version >= 5 {
        out.put_i64(answer.log_start_offset);
    }
    match (answer.lists_aborted, flexible) {
        (true, _) => put_list_len(out, flexible, 0),
        (false, true) => out.put_u8(0),
        (false, false) => out.put_i32(-1),
    }
    if version >= 11 {
        out.put_i32(-1); // no preferred read replica
    }
    let len = answer.record_bytes();
    if flexible {
        put_uvarint(out, u32::try_from(len + 1).unwrap_or(u32::MAX));
    } else {
        out.put_i32(i32::try_from(len).unwrap_or(i32::MAX));
    }
    for batch in answer.batches {
        pieces.splice(batch);
    }
    let out = &mut pieces.tail;
    let diverging = answer.diverging.filter(|_| flexible);
    let hint = answer.leader.filter(|_| version >= HINTS_FROM);
    if flexible {
        out.put_u8(u8::from(diverging.is_some()) + u8::from(hint.is_some()));
    }
    if let Some(diverging) = diverging {
        // Number 0, of 13 bytes: epoch, end offset, no tags of its own.
        out.put_slice(&[0, 13]);
        out.put_i32(diverging.epoch.0);
        out.put_i64(diverging.end.to_wire());
        out.put_u8(0);
    }
    if let Some(hint) = hint {
        put_hint(out, 1, hint);
    }
}

/// Written parts and spliced parts, in order.
struct Pieces {
    done: Vec<Bytes>,
    tail: BytesMut,
}

impl Pieces {
    fn new(begun: BytesMut) -> Self {
        Self { done: Vec::new(), tail: begun }
    }

    fn splice(&mut self, bytes: Bytes) {
        if !self.tail.is_empty() {
            self.done.push(self.tail.split().freeze());
        }
        self.done.push(bytes);
    }

    /// Writes the length prefix, which lies in the first piece.
    fn finish(mut self) -> Vec<Bytes> {
        let len = self.done.iter().map(Bytes::len).sum::<usize>() + self.tail.len();
        let prefix = u32::try_from(len.saturating_sub(4)).unwrap_or(u32::MAX).to_be_bytes();
        if !self.tail.is_empty() {
            self.done.push(self.tail.split().freeze());
        }
        if let Some(first) = self.done.first_mut() {
            let mut head = BytesMut::from(std::mem::take(first));
            if let Some(place) = head.get_mut(..4) {
                place.copy_from_slice(&prefix);
            }
            *first = head.freeze();
        }
        self.done
    }
}
