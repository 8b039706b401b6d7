//! `Produce` (0): checks each batch without opening it and appends.
//!
//! One batch per partition, as every client since 2017 sends. The checks are those of Kafka's `LogValidator`, on the 61
//! bytes of the header and the CRC; records are read only where a topic limits timestamps or sets `compression.type`.
//! A partition that is named twice is refused and none of its batches is appended: Kafka appends the last one, drops
//! the others and acknowledges the partition.

mod append;
mod timestamps;

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use append::{Outcome, PlannedPart, append, within};
use bytes::BytesMut;
use tidewater_storage::model::{BatchError, BatchHeader, Compression, TimestampMs, TimestampType};

use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::connection::{CloseReason, Reply};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::FREE_BYTES;
use crate::kafka::metrics::Stage;
use crate::kafka::named_twice::{by_topic, repeated};
use crate::kafka::naming::until_named;
use crate::kafka::recompress::differs;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::view::Hints;
use crate::kafka::wire::leader::NodeEndpoint;
use crate::kafka::wire::produce::{HINTS_FROM, PartitionAnswer, ProduceRequest, ProduceTopic, decode, encode_response};
use crate::partition::message::{CheckedBatch, OffsetSpec, Origin, ProduceError, ProducePart};
use crate::schema::SCHEMAS_TOPIC;

/// What a topic or a partition takes while its request is in work, beside its records: where they lie, the batch's
/// header, its place in the queue, its answer. Bytes.
const ELEMENT_BYTES: usize = 400;

/// What a client waits that gives no time.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);

/// First version whose clients know zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

/// Decodes, checks, appends and answers. Batches are handed to their lanes in the first poll, except as [`append()`]
/// says.
pub async fn serve(ctx: &RequestContext, body: BytesMut) -> Reply {
    let clock = &ctx.broker.env.clock;
    let begun = clock.now();
    let request = match decode(body, ctx.version) {
        Ok(request) => request,
        Err(why) => {
            let why = why.to_string();
            return Reply::Close(CloseReason::Malformed { key: ctx.key as i16, version: ctx.version, why });
        }
    };
    let acks = request.acks;
    let timeout = patience(acks, request.timeout_ms);
    // Never waits: the order of first polls is the client's.
    let mut held = ctx.budget.empty();
    held.set(Some(request.elements * ELEMENT_BYTES).filter(|bytes| *bytes > FREE_BYTES).unwrap_or(0));
    let Plan { answers, parts } = plan(&ctx.image(), ctx.version, ctx.broker.env.clock.wall(), request);
    let checked = clock.now();
    ctx.broker.metrics.stage(Stage::ProduceDecode, checked.since(begun));
    let (planned, bytes) = (parts.len(), parts.iter().map(|planned| planned.part.batch.bytes.len()).sum::<usize>());
    let append = append(Rc::clone(&ctx.broker), Rc::clone(&ctx.order), parts);
    let outcomes = match timeout {
        None => append.await,
        Some(timeout) => {
            // What is left behind must be charged until it is committed; the request's own share ends with its answer.
            let lease = || {
                let mut lease = ctx.budget.empty();
                lease.set(held.bytes() + bytes);
                lease
            };
            let outcomes = within(&ctx.broker.env, &ctx.broker.deadlines, timeout, append, lease).await;
            outcomes.unwrap_or_else(|| vec![Err(timed_out(timeout)); planned])
        }
    };
    ctx.broker.metrics.stage(Stage::ProduceAppend, clock.now().since(checked));
    let mut answers = answered(answers, outcomes);
    fill_log_starts(ctx, &mut answers).await;
    let nodes = name_leaders(ctx, &mut answers).await;
    for partition in answers.iter().flat_map(|(_, partitions)| partitions) {
        ctx.broker.metrics.count_code(ctx.key, partition.error);
    }
    if acks != 0 {
        return ctx.reply(encode_response(ctx.correlation_id, ctx.version, &answers, &nodes));
    }
    let failed = answers.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |p| (topic, p)));
    match failed.into_iter().find(|(_, partition)| !partition.error.is_none()) {
        None => Reply::Silent,
        Some((topic, p)) => {
            let why = format!("{topic}/{}: {} {}", p.index, p.error.name(), p.message.as_deref().unwrap_or_default());
            Reply::Close(CloseReason::Unacknowledged(why))
        }
    }
}

/// For errors that Kafka finds at the log, its answer carries the log start.
async fn fill_log_starts(ctx: &RequestContext, answers: &mut [(TopicRef, Vec<PartitionAnswer>)]) {
    for (topic, partitions) in answers {
        for answer in partitions.iter_mut().filter(|answer| carries_log_start(answer.error)) {
            let Ok(address) = topic.partition(&ctx.image(), answer.index).map(|(_, partition)| partition.address())
            else {
                continue;
            };
            if let Ok(Some(first)) = ctx.broker.router.list_offset(address, None, OffsetSpec::Earliest).await {
                answer.log_start_offset = first.offset.to_wire();
            }
        }
    }
}

/// Puts the leader beside each error that says that it is not here; the brokers named.
async fn name_leaders(ctx: &RequestContext, answers: &mut [(TopicRef, Vec<PartitionAnswer>)]) -> Vec<NodeEndpoint> {
    if ctx.version < HINTS_FROM || answers.iter().flat_map(|(_, of)| of).all(|answer| answer.error.is_none()) {
        return Vec::new();
    }
    until_named(ctx, answers.iter().flat_map(|(topic, of)| of.iter().map(move |a| (topic, a.index, a.error)))).await;
    let (image, leaders) = (ctx.image(), ctx.leaders());
    let mut hints = Hints::new(&image, &leaders);
    for (topic, partitions) in answers {
        partitions.iter_mut().for_each(|answer| answer.leader = hints.beside(answer.error, topic, answer.index));
    }
    hints.nodes()
}

fn carries_log_start(error: ErrorCode) -> bool {
    let errors = [
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::INVALID_TIMESTAMP,
        ErrorCode::INVALID_RECORD,
    ];
    errors.contains(&error)
}

/// How long a request waits for its batches to be committed. A client that wants no answer gets none; one that gives no
/// time gets a second, for Kafka with a single replica would not make it wait either.
fn patience(acks: i16, timeout_ms: i32) -> Option<Duration> {
    let timeout = u64::try_from(timeout_ms).ok().filter(|ms| *ms > 0).map_or(TIMEOUT_DEFAULT, Duration::from_millis);
    (acks != 0).then_some(timeout)
}

fn timed_out(timeout: Duration) -> Refusal {
    let why = format!("not committed within the request's timeout of {} ms; it may be later", timeout.as_millis());
    Refusal::new(ErrorCode::REQUEST_TIMED_OUT, why)
}

/// What to append, and the answers in the request's order: each topic once, each of its partitions once.
struct Plan {
    answers: Vec<(TopicRef, Vec<PlannedAnswer>)>,
    parts: Vec<PlannedPart>,
}

/// The answer for one partition.
enum PlannedAnswer {
    Refused(PartitionAnswer),
    /// Known when the next of the plan's parts is appended.
    Appended {
        index: i32,
    },
}

fn plan(image: &ClusterImage, version: i16, now: TimestampMs, request: ProduceRequest) -> Plan {
    let (whole, acks_all) = (whole_request(&request), request.acks == -1);
    let mut plan = Plan { answers: Vec::with_capacity(request.topics.len()), parts: Vec::new() };
    let mut opened = timestamps::Opened::default();
    for ProduceTopic { topic, partitions } in each_topic_once(request.topics) {
        let mut answers = Vec::with_capacity(partitions.len());
        let repeated = if partitions.len() > 1 { repeated(partitions.iter().map(|p| p.index)) } else { HashSet::new() };
        let mut refused_already = HashSet::new();
        for partition in partitions {
            let index = partition.index;
            if repeated.contains(&index) && !refused_already.insert(index) {
                continue;
            }
            let checked = whole.clone().and_then(|()| {
                let (found, place) = topic.partition(image, index).map_err(Refusal::code)?;
                if repeated.contains(&index) {
                    let why = "the request names the partition more than once; none of its batches is appended";
                    return Err(Refusal::new(ErrorCode::INVALID_REQUEST, why));
                }
                if found.name.is_internal() || found.name.as_str() == SCHEMAS_TOPIC {
                    return Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, "the topic is the broker's own"));
                }
                if let Some(source) = image.source_of(found.id) {
                    let why = format!("the topic is followed from the source {source} and can only be read here");
                    return Err(Refusal::new(ErrorCode::POLICY_VIOLATION, why));
                }
                let batch = check(partition.records, version, found.config.max_message_bytes)?;
                timestamps::check(&batch, &found.config, now, &mut opened)?;
                let to = differs(&batch.header, found.config.compression);
                Ok(PlannedPart {
                    part: ProducePart { address: place.address(), batch, origin: Origin::Client { acks_all } },
                    to,
                })
            });
            answers.push(match checked {
                Ok(part) => {
                    plan.parts.push(part);
                    PlannedAnswer::Appended { index }
                }
                Err(refusal) => PlannedAnswer::Refused(refused(index, &refusal)),
            });
        }
        plan.answers.push((topic, answers));
    }
    plan
}

/// Topics in the order in which they are first named, with all partitions that the request names for them.
fn each_topic_once(topics: Vec<ProduceTopic>) -> Vec<ProduceTopic> {
    if topics.len() < 2 || repeated(topics.iter().map(|topic| &topic.topic)).is_empty() {
        return topics;
    }
    let topics = by_topic(topics.into_iter().map(|topic| (topic.topic, topic.partitions)));
    topics.into_iter().map(|(topic, partitions)| ProduceTopic { topic, partitions }).collect()
}

/// The answers with the outcomes of the plan's parts, which are in the same order.
fn answered(
    planned: Vec<(TopicRef, Vec<PlannedAnswer>)>,
    outcomes: Vec<Outcome>,
) -> Vec<(TopicRef, Vec<PartitionAnswer>)> {
    let appended_of =
        planned.iter().flat_map(|(_, of)| of).filter(|answer| matches!(answer, PlannedAnswer::Appended { .. })).count();
    assert_eq!(appended_of, outcomes.len(), "one outcome for each batch of the plan");
    let mut outcomes = outcomes.into_iter();
    let mut answer = |planned| match planned {
        PlannedAnswer::Refused(answer) => Some(answer),
        PlannedAnswer::Appended { index } => outcomes.next().map(|outcome| appended(index, &outcome)),
    };
    planned.into_iter().map(|(topic, planned)| (topic, planned.into_iter().filter_map(&mut answer).collect())).collect()
}

/// Why a batch is not appended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    code: ErrorCode,
    message: Option<String>,
    /// Records of the batch at fault, by index, if it is not the batch as a whole.
    records: Vec<(i32, String)>,
}

impl Refusal {
    fn code(code: ErrorCode) -> Self {
        Self { code, message: None, records: Vec::new() }
    }

    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()), records: Vec::new() }
    }
}

impl From<ProduceError> for Refusal {
    fn from(error: ProduceError) -> Self {
        Self::new((&error).into(), error.to_string())
    }
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        Self::new(ErrorCode::from(&error), error.to_string())
    }
}

/// What is wrong with all of a request.
fn whole_request(request: &ProduceRequest) -> Result<(), Refusal> {
    if !(-1..=1).contains(&request.acks) {
        return Err(Refusal::new(ErrorCode::INVALID_REQUIRED_ACKS, format!("acks is {}", request.acks)));
    }
    if request.transactional_id.is_some() {
        return Err(Refusal::new(ErrorCode::INVALID_REQUEST, "transactions are not supported"));
    }
    Ok(())
}

/// Checks one partition's records: exactly one good batch that the topic accepts.
fn check(records: BytesMut, version: i16, max_bytes: u32) -> Result<CheckedBatch, Refusal> {
    let invalid = |why: &str| Err(Refusal::new(ErrorCode::INVALID_RECORD, why));
    if records.is_empty() {
        return invalid("no record batch");
    }
    let header = BatchHeader::parse(&records)?;
    if header.len as usize != records.len() {
        return invalid("more than one record batch for a partition");
    }
    if header.len > max_bytes {
        let why = ProduceError::TooLarge { size: header.len, max: max_bytes };
        return Err(Refusal::new(ErrorCode::MESSAGE_TOO_LARGE, why.to_string()));
    }
    if header.is_control() {
        return invalid("clients may not write control batches");
    }
    if header.is_transactional() {
        return invalid("transactions are not supported");
    }
    if header.record_count == 0 || header.record_count - 1 != header.last_offset_delta {
        return invalid("the number of records does not match the last offset delta");
    }
    if header.producer_id.is_some() && (header.base_sequence < 0 || header.producer_epoch.0 < 0) {
        return invalid("an idempotent batch without sequence or epoch");
    }
    match header.compression() {
        Some(Compression::Zstd) if version < ZSTD_FROM => {
            let why = "zstd needs Produce version 7 or later";
            return Err(Refusal::new(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, why));
        }
        Some(_) => {}
        None => return Err(Refusal::new(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, "unknown compression")),
    }
    if header.timestamp_type() == TimestampType::LogAppend {
        let why = "producers may not set the timestamp type to LogAppendTime";
        return Err(Refusal::new(ErrorCode::INVALID_TIMESTAMP, why));
    }
    header.verify_crc(&records)?;
    Ok(CheckedBatch { header, bytes: records })
}

fn refused(index: i32, refusal: &Refusal) -> PartitionAnswer {
    PartitionAnswer {
        index,
        error: refusal.code,
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        message: refusal.message.clone(),
        record_errors: refusal.records.clone(),
        leader: None,
    }
}

fn appended(index: i32, outcome: &Outcome) -> PartitionAnswer {
    match outcome {
        Ok(done) => PartitionAnswer {
            index,
            error: ErrorCode::NONE,
            base_offset: done.base_offset.to_wire(),
            log_append_time_ms: done.log_append_time.map_or(-1, |t| t.0),
            log_start_offset: done.log_start.to_wire(),
            message: None,
            record_errors: Vec::new(),
            leader: None,
        },
        Err(refusal) => refused(index, refusal),
    }
}

#[cfg(test)]
mod tests;
