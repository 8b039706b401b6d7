//! Tests of `produce`, beside it.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Offset, TimestampMs};

use super::*;
use crate::kafka::handlers::fixture::image;
use crate::kafka::wire::produce::ProducePartition;
use crate::partition::message::ProduceDone;

fn batch(compression: Compression, records: usize) -> BytesMut {
    let mut builder = BatchBuilder::new(compression);
    for n in 0..records {
        builder.push(Record::new(TimestampMs(1000 + n as i64), None, Some(Bytes::from(vec![n as u8; 100]))));
    }
    BytesMut::from(&builder.build()[..])
}

fn code(records: BytesMut) -> ErrorCode {
    check(records, 9, 1 << 20).expect_err("refused").code
}

/// Overwrites a field and renews the CRC, so that only the field is wrong.
fn with_field(at: usize, bytes: &[u8]) -> BytesMut {
    let mut batch = batch(Compression::None, 3);
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

#[test]
fn good_batches_of_every_codec_pass_unopened() {
    for compression in Compression::ALL {
        let sent = batch(compression, 10);
        let checked = check(sent.clone(), 9, 1 << 20).expect("passes");
        assert_eq!((checked.header.record_count, &checked.bytes), (10, &sent));
    }
}

#[test]
fn bad_batches_get_kafkas_errors() {
    assert_eq!(code(BytesMut::new()), ErrorCode::INVALID_RECORD);
    assert_eq!(code(with_field(16, &[1])), ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    assert_eq!(code(with_field(57, &4i32.to_be_bytes())), ErrorCode::INVALID_RECORD);
    assert_eq!(code(with_field(57, &0i32.to_be_bytes())), ErrorCode::INVALID_RECORD);
    assert_eq!(code(with_field(57, &i32::MAX.to_be_bytes())), ErrorCode::INVALID_RECORD);
    assert_eq!(code(with_field(21, &7i16.to_be_bytes())), ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
    assert_eq!(code(with_field(21, &0x08i16.to_be_bytes())), ErrorCode::INVALID_TIMESTAMP);
    assert_eq!(code(with_field(21, &0x10i16.to_be_bytes())), ErrorCode::INVALID_RECORD);
    assert_eq!(code(with_field(21, &0x20i16.to_be_bytes())), ErrorCode::INVALID_RECORD);
    assert_eq!(code(with_field(43, &9i64.to_be_bytes())), ErrorCode::INVALID_RECORD);

    let mut broken = batch(Compression::None, 3);
    let last = broken.len() - 1;
    broken[last] ^= 1;
    assert_eq!(code(broken), ErrorCode::CORRUPT_MESSAGE);

    let mut short = batch(Compression::None, 3);
    short.truncate(short.len() - 1);
    assert_eq!(code(short), ErrorCode::CORRUPT_MESSAGE);

    let mut two = batch(Compression::None, 3);
    two.extend_from_slice(&batch(Compression::None, 3));
    assert_eq!(code(two), ErrorCode::INVALID_RECORD);

    let large = batch(Compression::None, 100);
    assert_eq!(check(large, 9, 1000).expect_err("refused").code, ErrorCode::MESSAGE_TOO_LARGE);
    let zstd = batch(Compression::Zstd, 3);
    assert_eq!(check(zstd, 6, 1 << 20).expect_err("refused").code, ErrorCode::UNSUPPORTED_COMPRESSION_TYPE);
}

fn request(acks: i16, topics: &[(&str, &[i32])]) -> ProduceRequest {
    let partitions = |indexes: &[i32]| {
        let one = |index: &i32| ProducePartition { index: *index, records: batch(Compression::None, 3) };
        indexes.iter().map(one).collect()
    };
    let topics = topics.iter();
    let topics = topics
        .map(|(name, indexes)| ProduceTopic { topic: TopicRef::Name((*name).into()), partitions: partitions(indexes) });
    ProduceRequest { transactional_id: None, acks, timeout_ms: 1000, topics: topics.collect(), elements: 0 }
}

#[test]
fn what_is_refused_keeps_its_place_among_what_is_appended() {
    let image = image(&[("orders", 2), ("users", 1)]);
    let plan = plan(&image, 9, TimestampMs(0), request(-1, &[("orders", &[1, 7, 0]), ("nope", &[0]), ("users", &[0])]));
    assert_eq!(plan.parts.len(), 3);
    assert_eq!(
        outcomes(plan),
        [vec![(1, NONE, 0), (7, UNKNOWN, -1), (0, NONE, 1)], vec![(0, UNKNOWN, -1)], vec![(0, NONE, 2)]]
    );
}

const NONE: ErrorCode = ErrorCode::NONE;
const UNKNOWN: ErrorCode = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;

/// For each topic its answers, when the parts are appended at offsets 0, 1, …: partition, error, offset.
fn outcomes(plan: Plan) -> Vec<Vec<(i32, ErrorCode, i64)>> {
    let done = |n| ProduceDone { base_offset: Offset::new(n), log_append_time: None, log_start: Offset::ZERO };
    let answers = answered(plan.answers, (0..plan.parts.len() as u64).map(|n| Ok(done(n))).collect());
    answers.iter().map(|(_, of)| of.iter().map(|a| (a.index, a.error, a.base_offset)).collect()).collect()
}

#[test]
fn a_partition_named_twice_is_refused_once_and_nothing_of_it_is_appended() {
    const TWICE: ErrorCode = ErrorCode::INVALID_REQUEST;
    let image = image(&[("orders", 3), ("users", 1)]);
    let plan = |topics| plan(&image, 9, TimestampMs(0), request(-1, topics));
    assert_eq!(outcomes(plan(&[("orders", &[0, 1, 0])])), [[(0, TWICE, -1), (1, NONE, 0)]]);
    let apart = outcomes(plan(&[("orders", &[2, 1]), ("users", &[0]), ("orders", &[0, 1])]));
    assert_eq!(apart, [vec![(2, NONE, 0), (1, TWICE, -1), (0, NONE, 1)], vec![(0, NONE, 2)]]);
    assert_eq!(outcomes(plan(&[("orders", &[7, 7])])), [[(7, UNKNOWN, -1)]]);
}

#[test]
fn a_batch_is_recompressed_where_the_topic_wants_another_codec() {
    use crate::config::topic::TopicCompression;
    let mut image = image(&[("orders", 1), ("users", 1)]);
    let lz4 = TopicCompression { codec: Compression::Lz4, level: None };
    for topic in image.topics.values_mut().filter(|topic| topic.name.as_str() == "orders") {
        let topic = std::sync::Arc::get_mut(topic);
        std::sync::Arc::make_mut(&mut topic.expect("one owner").config).compression = Some(lz4);
    }
    let plan = plan(&image, 9, TimestampMs(0), request(-1, &[("orders", &[0]), ("users", &[0])]));
    assert_eq!(plan.parts.iter().map(|planned| planned.to).collect::<Vec<_>>(), [Some(lz4), None]);
}

#[test]
fn a_request_waits_as_long_as_its_client() {
    assert_eq!(patience(-1, 1500), Some(Duration::from_millis(1500)));
    assert_eq!((patience(1, 0), patience(-1, -5)), (Some(TIMEOUT_DEFAULT), Some(TIMEOUT_DEFAULT)));
    assert_eq!(patience(0, 1500), None);
}

#[test]
fn whole_requests_are_refused() {
    let image = image(&[("orders", 2)]);
    let refused = plan(&image, 9, TimestampMs(0), request(2, &[("orders", &[0, 1])]));
    assert!(refused.parts.is_empty());
    let codes = outcomes(refused).concat().iter().map(|(_, code, _)| *code).collect::<Vec<_>>();
    assert_eq!(codes, [ErrorCode::INVALID_REQUIRED_ACKS; 2]);
    let transactional = ProduceRequest { transactional_id: Some("t".into()), ..request(-1, &[("orders", &[0])]) };
    assert!(plan(&image, 9, TimestampMs(0), transactional).parts.is_empty());
}

#[test]
fn answers() {
    let done = ProduceDone { base_offset: Offset::new(7), log_append_time: None, log_start: Offset::new(2) };
    let good = appended(3, &Ok(done));
    assert_eq!((good.base_offset, good.log_append_time_ms, good.log_start_offset), (7, -1, 2));
    let bad = appended(3, &Err(ProduceError::NoSpace("disk full".into()).into()));
    assert_eq!((bad.error, bad.base_offset), (ErrorCode::KAFKA_STORAGE_ERROR, -1));
    assert!(bad.message.expect("there").contains("disk full"));
}

proptest! {
    #[test]
    fn hostile_records_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 3i16..=13) {
        let _ = check(BytesMut::from(&bytes[..]), version, 1 << 20);
    }

    #[test]
    fn every_flip_is_refused_or_changes_nothing_that_the_crc_covers(at in 0usize..300, bit in 0u8..8) {
        let mut bytes = batch(Compression::None, 3);
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if check(bytes, 9, 1 << 20).is_ok() {
            // Base offset and leader epoch: overwritten by the broker.
            prop_assert!(at < 8 || (12..16).contains(&at), "flip at {} passed", at);
        }
    }
}
