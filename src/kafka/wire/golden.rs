//! Frames that must never change: `tests/golden/kafka/*.hex`, one frame a file. Files are only ever added.
//!
//! To add one, write the test, run it with `TIDEWATER_GOLDEN=write`, and look at the file against Kafka's message
//! schema.

use std::path::Path;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, ApiVersionsResponse, api_versions_response::ApiVersion};
use uuid::Uuid;

use super::{fetch, produce, response};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;

fn hex(frame: &[u8]) -> String {
    let lines = frame.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>());
    lines.map(|line| line + "\n").collect()
}

fn holds(name: &str, frame: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kafka").join(name).with_extension("hex");
    if std::env::var_os("TIDEWATER_GOLDEN").is_some_and(|v| v == "write") && !path.exists() {
        std::fs::write(&path, hex(frame)).expect("writes");
    }
    let kept = std::fs::read_to_string(&path).expect("the golden file is there");
    assert_eq!(kept, hex(frame), "{name} has changed on the wire");
}

fn topic(version: i16, ids_from: i16) -> TopicRef {
    if version >= ids_from {
        TopicRef::Id(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10))
    } else {
        TopicRef::Name("orders".into())
    }
}

#[test]
fn produce_responses() {
    for version in [3, 5, 8, 9, 12, 13] {
        let good = produce::PartitionAnswer {
            index: 0,
            error: ErrorCode::NONE,
            base_offset: 1_000_000,
            log_append_time_ms: -1,
            log_start_offset: 17,
            message: None,
            record_errors: Vec::new(),
            leader: None,
        };
        let bad = produce::PartitionAnswer {
            index: 7,
            error: ErrorCode::MESSAGE_TOO_LARGE,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            message: Some("too large".into()),
            record_errors: Vec::new(),
            leader: None,
        };
        let frame = produce::encode_response(0x0a0b_0c0d, version, &[(topic(version, 13), vec![good, bad])], &[]);
        holds(&format!("produce-response-v{version}"), &frame);
    }
}

#[test]
fn fetch_responses() {
    for version in [4, 5, 7, 11, 12, 13, 16, 18] {
        let good = fetch::PartitionAnswer {
            index: 0,
            error: ErrorCode::NONE,
            high_watermark: 2000,
            last_stable_offset: 1999,
            log_start_offset: 17,
            lists_aborted: true,
            diverging: None,
            leader: None,
            batches: vec![Bytes::from_static(b"first batch"), Bytes::from_static(b"second")],
        };
        let bad = fetch::PartitionAnswer::error(1, ErrorCode::OFFSET_OUT_OF_RANGE);
        let topics = vec![(topic(version, 13), vec![good, bad])];
        let pieces = fetch::encode_response(0x0a0b_0c0d, version, ErrorCode::NONE, 0, topics, &[]);
        holds(&format!("fetch-response-v{version}"), &pieces.concat());
    }
}

#[test]
fn api_versions_responses() {
    let fallback = response::api_versions_fallback(5, [(18, 0, 4)].into_iter());
    holds("api-versions-fallback", &fallback);
    for version in [0, 3] {
        let key = ApiVersion::default().with_api_key(18).with_max_version(4);
        let answer = ApiVersionsResponse::default().with_api_keys(vec![key]);
        let frame = response::encode(ApiKey::ApiVersions, version, 5, &answer).expect("encodes");
        holds(&format!("api-versions-response-v{version}"), &frame);
    }
}
