//! `Fetch` (1): reads hot or cold, waits for more if there is too little, sends stored batches as they are.
//!
//! Without fetch sessions: every answer is whole and says session 0, which clients take as "send all partitions each
//! time" (KIP-227 allows it).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, FetchRequest};
use kafka_protocol::protocol::Decodable;
use tidewater_storage::model::{LeaderEpoch, Offset};

use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::connection::{CloseReason, Reply};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::{FETCH_BYTES_FLOOR, FETCH_BYTES_MAX, FETCH_WAIT_MAX};
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::wire::fetch::{PartitionAnswer, encode_response};
use crate::kafka::wire::{guard, schema};
use crate::partition::message::{Isolation, Place, ReadDone, ReadError, ReadPart};

/// First version that names topics by id.
const IDS_FROM: i16 = 13;

/// Decodes, reads, perhaps waits and reads again, answers.
pub async fn serve(ctx: &RequestContext, body: BytesMut) -> Reply {
    let request = match read_request(ctx.version, body) {
        Ok(request) => request,
        Err(why) => {
            return Reply::Close(CloseReason::Malformed { key: ctx.key as i16, version: ctx.version, why });
        }
    };
    if request.session_id != 0 {
        let error = ErrorCode::FETCH_SESSION_ID_NOT_FOUND;
        ctx.broker.metrics.told(ctx.key, error);
        return Reply::Send(encode_response(ctx.correlation_id, ctx.version, error, Vec::new()), None);
    }
    let terms = Terms::of(&request);
    let plan = plan(&ctx.image(), ctx.version, &request);
    let deadline = ctx.broker.env.clock.now() + terms.wait;
    let mut lease = ctx.budget.up_to(terms.max_bytes, FETCH_BYTES_FLOOR);
    let found = loop {
        let found = ctx.broker.router.read(plan.parts.clone(), lease.bytes()).await;
        let left = deadline.since(ctx.broker.env.clock.now());
        if plan.refuses || left.is_zero() || is_enough(&found, terms.min_bytes) {
            break found;
        }
        let ends = awaited(&plan.parts, &found);
        drop(found);
        // What is waited for holds no memory.
        lease.set(0);
        ctx.broker.router.wait_for_data(ends, left).await;
        lease = ctx.budget.up_to(terms.max_bytes, FETCH_BYTES_FLOOR);
    };
    let topics = answer(plan, found, terms.isolation);
    for partition in topics.iter().flat_map(|(_, partitions)| partitions) {
        ctx.broker.metrics.told(ctx.key, partition.error);
    }
    let pieces = encode_response(ctx.correlation_id, ctx.version, ErrorCode::NONE, topics);
    lease.set(pieces.iter().map(Bytes::len).sum());
    Reply::Send(pieces, Some(lease))
}

fn read_request(version: i16, body: BytesMut) -> Result<FetchRequest, String> {
    let schema = schema::schema(ApiKey::Fetch).ok_or("no schema")?;
    guard::check(&schema, version, &body).map_err(|e| e.to_string())?;
    FetchRequest::decode(&mut body.freeze(), version).map_err(|e| e.to_string())
}

/// What the client wants of the answer as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    min_bytes: usize,
    max_bytes: usize,
    wait: Duration,
    isolation: Isolation,
}

impl Terms {
    fn of(request: &FetchRequest) -> Self {
        let natural = |n: i32| usize::try_from(n).unwrap_or(0);
        let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
        let max_bytes = natural(request.max_bytes).min(FETCH_BYTES_MAX);
        Self {
            min_bytes: natural(request.min_bytes).min(max_bytes),
            max_bytes,
            wait: wait.min(FETCH_WAIT_MAX),
            isolation: if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted },
        }
    }
}

/// What to read, and where its answers go.
struct Plan {
    topics: Vec<(TopicRef, Vec<Want>)>,
    parts: Vec<ReadPart>,
    /// Something is refused already: answer at once.
    refuses: bool,
}

/// One partition of the request.
#[derive(Clone, Copy, Debug)]
struct Want {
    index: i32,
    refused: Option<ErrorCode>,
}

fn plan(image: &ClusterImage, version: i16, request: &FetchRequest) -> Plan {
    let isolation = Terms::of(request).isolation;
    let mut plan = Plan { topics: Vec::with_capacity(request.topics.len()), parts: Vec::new(), refuses: false };
    for asked in &request.topics {
        let topic = TopicRef::either(version >= IDS_FROM, asked.topic.as_str(), asked.topic_id);
        let mut wants = Vec::with_capacity(asked.partitions.len());
        for partition in &asked.partitions {
            let part = topic.partition(image, partition.partition).and_then(|(_, found)| {
                epoch_holds(partition.current_leader_epoch, found.leader_epoch)?;
                let from = Offset::from_wire(partition.fetch_offset).ok_or(ErrorCode::OFFSET_OUT_OF_RANGE)?;
                let max_bytes = usize::try_from(partition.partition_max_bytes).unwrap_or(0);
                Ok(ReadPart { place: found.place(), from, max_bytes, isolation })
            });
            wants.push(Want { index: partition.partition, refused: part.as_ref().err().copied() });
            plan.parts.extend(part);
        }
        plan.refuses |= wants.iter().any(|want| want.refused.is_some());
        plan.topics.push((topic, wants));
    }
    plan.refuses |= plan.parts.is_empty();
    plan
}

/// Does the client know the leader's epoch (KIP-320)? -1 is "does not say".
pub(super) fn epoch_holds(told: i32, known: LeaderEpoch) -> Result<(), ErrorCode> {
    match told {
        told if told < 0 || told == known.0 => Ok(()),
        told if told < known.0 => Err(ErrorCode::FENCED_LEADER_EPOCH),
        _ => Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
    }
}

/// Errors are told at once; else there must be enough bytes.
fn is_enough(found: &[Result<ReadDone, ReadError>], min_bytes: usize) -> bool {
    let mut bytes = 0;
    for part in found {
        match part {
            Ok(done) => bytes += done.bytes(),
            Err(_) => return true,
        }
    }
    bytes >= min_bytes
}

/// Where more data would have to come: past the end that the read saw.
fn awaited(parts: &[ReadPart], found: &[Result<ReadDone, ReadError>]) -> Vec<(Place, Offset)> {
    let end = |done: &ReadDone, isolation| match isolation {
        Isolation::ReadCommitted => done.last_stable_offset,
        Isolation::ReadUncommitted => done.high_watermark,
    };
    let ends = parts.iter().zip(found).map(|(part, found)| {
        let end = found.as_ref().map_or(part.from, |done| end(done, part.isolation));
        (part.place, end.max(part.from))
    });
    ends.collect()
}

fn answer(
    plan: Plan,
    found: Vec<Result<ReadDone, ReadError>>,
    isolation: Isolation,
) -> Vec<(TopicRef, Vec<PartitionAnswer>)> {
    let mut found = found.into_iter();
    let mut one = |want: Want| match want.refused {
        Some(error) => PartitionAnswer::error(want.index, error),
        None => match found.next() {
            Some(Ok(done)) => PartitionAnswer {
                index: want.index,
                error: ErrorCode::NONE,
                high_watermark: done.high_watermark.to_wire(),
                last_stable_offset: done.last_stable_offset.to_wire(),
                log_start_offset: done.log_start.to_wire(),
                lists_aborted: isolation == Isolation::ReadCommitted,
                batches: done.batches,
            },
            Some(Err(error)) => PartitionAnswer::error(want.index, ErrorCode::from(&error)),
            None => PartitionAnswer::error(want.index, ErrorCode::UNKNOWN_SERVER_ERROR),
        },
    };
    plan.topics.into_iter().map(|(topic, wants)| (topic, wants.into_iter().map(&mut one).collect())).collect()
}

#[cfg(test)]
mod tests;
