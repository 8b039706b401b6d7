//! Tests of `fetch`, beside it.

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use tidewater_storage::model::OffsetRange;

use super::*;
use crate::kafka::handlers::fixture::image;
use crate::kafka::words::topic_name;

fn asked(topic: &str, partitions: &[(i32, i64)]) -> FetchTopic {
    let partitions = partitions.iter().map(|(index, offset)| {
        FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(*offset)
            .with_current_leader_epoch(-1)
            .with_partition_max_bytes(1000)
    });
    FetchTopic::default().with_topic(topic_name(topic)).with_partitions(partitions.collect())
}

fn request(topics: Vec<FetchTopic>) -> FetchRequest {
    FetchRequest::default().with_max_wait_ms(500).with_min_bytes(1).with_max_bytes(1 << 20).with_topics(topics)
}

fn done(bytes: usize, end: u64) -> ReadDone {
    let end = Offset::new(end);
    let batches = if bytes > 0 { vec![Bytes::from(vec![0; bytes])] } else { Vec::new() };
    ReadDone { batches, high_watermark: end, last_stable_offset: end, log_start: Offset::ZERO }
}

#[test]
fn terms_are_bounded() {
    let wild = request(Vec::new()).with_max_wait_ms(i32::MAX).with_max_bytes(i32::MAX).with_min_bytes(i32::MAX);
    let terms = Terms::of(&wild);
    assert_eq!((terms.wait, terms.max_bytes, terms.min_bytes), (FETCH_WAIT_MAX, FETCH_BYTES_MAX, FETCH_BYTES_MAX));
    let negative = request(Vec::new()).with_max_wait_ms(-1).with_max_bytes(-1).with_min_bytes(-1);
    let terms = Terms::of(&negative);
    assert_eq!((terms.wait, terms.max_bytes, terms.min_bytes), (Duration::ZERO, 0, 0));
}

#[test]
fn refused_partitions_are_told_at_once_and_keep_their_place() {
    let image = image(&[("orders", 2)]);
    let good = plan(&image, 11, &request(vec![asked("orders", &[(0, 5), (1, 6)])]));
    assert_eq!((good.parts.len(), good.refuses), (2, false));

    let mixed = plan(&image, 11, &request(vec![asked("nope", &[(0, 0)]), asked("orders", &[(9, 0), (1, 6), (0, -3)])]));
    assert_eq!((mixed.parts.len(), mixed.refuses), (1, true));
    let topics = answer(mixed, vec![Ok(done(10, 50))], Isolation::ReadUncommitted);
    let errors: Vec<Vec<_>> = topics.iter().map(|(_, p)| p.iter().map(|a| a.error.number()).collect()).collect();
    assert_eq!(errors, [vec![3], vec![3, 0, 1]]);
    assert_eq!(topics[1].1[1].high_watermark, 50);
}

#[test]
fn topics_by_id() {
    let image = image(&[("orders", 1)]);
    let id = image.topic("orders").expect("there").id.0;
    let known = plan(&image, 13, &request(vec![asked("", &[(0, 0)]).with_topic_id(id)]));
    assert_eq!(known.parts.len(), 1);
    let unknown = plan(&image, 13, &request(vec![asked("orders", &[(0, 0)])]));
    assert_eq!(unknown.topics[0].1[0].refused, Some(ErrorCode::UNKNOWN_TOPIC_ID));
}

#[test]
fn nothing_asked_is_answered_at_once() {
    assert!(plan(&image(&[]), 11, &request(Vec::new())).refuses);
}

#[test]
fn enough_is_bytes_or_an_error() {
    assert!(!is_enough(&[Ok(done(0, 5))], 1));
    assert!(is_enough(&[Ok(done(0, 5)), Ok(done(1, 5))], 1));
    assert!(!is_enough(&[Ok(done(40, 5)), Ok(done(50, 5))], 91));
    let out = ReadError::OutOfRange { offset: Offset::new(9), valid: OffsetRange::new(Offset::ZERO, Offset::new(5)) };
    assert!(is_enough(&[Ok(done(0, 5)), Err(out)], 100));
    assert!(is_enough(&[Ok(done(0, 5))], 0));
}

#[test]
fn more_is_awaited_past_what_was_seen() {
    let image = image(&[("orders", 2)]);
    let plan = plan(&image, 11, &request(vec![asked("orders", &[(0, 5), (1, 6)])]));
    let ends = awaited(&plan.parts, &[Ok(done(10, 9)), Ok(done(0, 6))]);
    assert_eq!(ends.iter().map(|(_, end)| end.get()).collect::<Vec<_>>(), [9, 6]);
}
