//! `Produce` (0): checks each batch without opening it and appends.
//!
//! One batch per partition, as every client since 2017 sends. The checks are those of Kafka's `LogValidator`, on the 61
//! bytes of the header and the CRC; the records inside are the client's business.

mod timestamps;

use bytes::BytesMut;
use tidewater_storage::model::{BatchError, BatchHeader, Compression, TimestampMs, TimestampType};

use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::connection::{CloseReason, Reply};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::FREE_BYTES;
use crate::kafka::metrics::Stage;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::wire::produce::{PartitionAnswer, ProduceRequest, decode, encode_response};
use crate::partition::message::{CheckedBatch, OffsetSpec, Origin, ProduceDone, ProduceError, ProducePart};

/// What a topic or a partition takes while its request is in work, beside its records: where they lie, the batch's header,
/// its place in the queue, its answer. Bytes.
const ELEMENT_BYTES: usize = 400;

/// First version whose clients know zstd (KIP-110).
const ZSTD_FROM: i16 = 7;

/// Decodes, checks, appends and answers. What is appended is handed to its lane in the first poll.
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
    // Never waits: the order of first polls is the client's.
    let mut held = ctx.budget.empty();
    held.set(Some(request.elements * ELEMENT_BYTES).filter(|bytes| *bytes > FREE_BYTES).unwrap_or(0));
    let Plan { mut answers, parts, places } = plan(&ctx.image(), ctx.version, ctx.broker.env.clock.wall(), request);
    let checked = clock.now();
    ctx.broker.metrics.stage(Stage::ProduceDecode, checked.since(begun));
    let done = ctx.broker.router.produce(parts).await;
    ctx.broker.metrics.stage(Stage::ProduceAppend, clock.now().since(checked));
    for ((topic, partition), done) in places.into_iter().zip(done) {
        if let Some(slot) = answers.get_mut(topic).and_then(|(_, partitions)| partitions.get_mut(partition)) {
            *slot = appended(slot.index, &done);
        }
    }
    tell_log_starts(ctx, &mut answers).await;
    for partition in answers.iter().flat_map(|(_, partitions)| partitions) {
        ctx.broker.metrics.told(ctx.key, partition.error);
    }
    if acks != 0 {
        return ctx.reply(encode_response(ctx.correlation_id, ctx.version, &answers));
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

/// Beside what it refuses with the log at hand, Kafka tells where the log starts.
async fn tell_log_starts(ctx: &RequestContext, answers: &mut [(TopicRef, Vec<PartitionAnswer>)]) {
    for (topic, partitions) in answers {
        for answer in partitions.iter_mut().filter(|answer| told_with_log_start(answer.error)) {
            let Ok(place) = topic.partition(&ctx.image(), answer.index).map(|(_, partition)| partition.place()) else {
                continue;
            };
            if let Ok(Some(first)) = ctx.broker.router.list_offset(place, OffsetSpec::Earliest).await {
                answer.log_start_offset = first.offset.to_wire();
            }
        }
    }
}

fn told_with_log_start(error: ErrorCode) -> bool {
    let told =
        [ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode::INVALID_PRODUCER_EPOCH, ErrorCode::INVALID_TIMESTAMP];
    told.contains(&error)
}

/// What to append, and the answers in the request's order, those of refused batches already final.
struct Plan {
    answers: Vec<(TopicRef, Vec<PartitionAnswer>)>,
    parts: Vec<ProducePart>,
    /// For each part, its topic and partition in `answers`.
    places: Vec<(usize, usize)>,
}

fn plan(image: &ClusterImage, version: i16, now: TimestampMs, request: ProduceRequest) -> Plan {
    let whole = whole_request(&request);
    let mut plan = Plan { answers: Vec::with_capacity(request.topics.len()), parts: Vec::new(), places: Vec::new() };
    let mut opened = timestamps::Opened::default();
    for topic in request.topics {
        let mut answers = Vec::with_capacity(topic.partitions.len());
        for partition in topic.partitions {
            let index = partition.index;
            let checked = whole.clone().and_then(|()| {
                let (found, place) = topic.topic.partition(image, index).map_err(Refusal::code)?;
                if found.name.is_internal() {
                    return Err(Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, "the topic is the broker's own"));
                }
                let batch = check(partition.records, version, found.config.max_message_bytes)?;
                timestamps::check(&batch, &found.config, now, &mut opened)?;
                Ok(ProducePart { place: place.place(), batch, origin: Origin::Client })
            });
            match checked {
                Ok(part) => {
                    plan.places.push((plan.answers.len(), answers.len()));
                    plan.parts.push(part);
                    answers.push(refused(index, &Refusal::code(ErrorCode::UNKNOWN_SERVER_ERROR)));
                }
                Err(refusal) => answers.push(refused(index, &refusal)),
            }
        }
        plan.answers.push((topic.topic, answers));
    }
    plan
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
    }
}

fn appended(index: i32, done: &Result<ProduceDone, ProduceError>) -> PartitionAnswer {
    match done {
        Ok(done) => PartitionAnswer {
            index,
            error: ErrorCode::NONE,
            base_offset: done.base_offset.to_wire(),
            log_append_time_ms: done.log_append_time.map_or(-1, |t| t.0),
            log_start_offset: done.log_start.to_wire(),
            message: None,
            record_errors: Vec::new(),
        },
        Err(error) => refused(index, &Refusal::new(error.into(), error.to_string())),
    }
}

#[cfg(test)]
mod tests;
