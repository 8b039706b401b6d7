//! Hostile bytes on the Kafka port.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic};
use kafka_protocol::messages::{
    ApiVersionsRequest, DescribeConfigsRequest, DescribeGroupsRequest, MetadataRequest, OffsetFetchRequest, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use tidewater::client::{Client, OffsetQuery};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use super::steady::{batch, create, fetch, produce, resident, run, serves_on};
use super::support::broker::{Broker, Options};
use super::support::wire::{PRODUCE_VERSION, Wire, frame, produce_request};

const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const UNSUPPORTED_VERSION: i16 = 35;

fn start(dir: &tempfile::TempDir) -> Broker {
    Broker::start(&Options::new(&dir.path().join("data")))
}

/// A frame of these bytes, length in front.
fn framed(bytes: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
    out
}

/// The broker closes the connection after these bytes and answers nothing.
fn closes_after(broker: &Broker, what: &str, bytes: &[u8]) {
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    // The broker may close before all is written.
    let _ = wire.send_bytes(bytes);
    let answer = wire.read_until_closed().unwrap_or_else(|e| panic!("{what}: the connection stays open: {e}"));
    assert!(answer.is_empty(), "{what}: answered {answer:?}");
}

fn high_watermark(broker: &Broker, topic: &str) -> u64 {
    fetch(broker, topic, 0, 0).expect("fetch").high_watermark
}

#[test]
fn truncated_frames() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "cut", 1, &[]);
    let whole = frame(&produce_request("cut", 0, batch(&[b"never whole"])), PRODUCE_VERSION, 1).expect("frame");
    for cut in 0..whole.len() {
        let mut wire = Wire::connect(&broker.kafka).expect("connects");
        wire.send_bytes(&whole[..cut]).expect("sent");
    }
    // Cut, but with a length that says so is fine: the body ends in the middle of a field.
    for cut in 4..whole.len() {
        closes_after(&broker, &format!("a request cut at {cut}"), &framed(&whole[4..cut]));
    }
    assert_eq!(high_watermark(&broker, "cut"), 0, "nothing of it was appended");
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    wire.send_bytes(&whole).expect("sent");
    wire.read_frame().expect("the whole one is answered");
    assert_eq!(high_watermark(&broker, "cut"), 1);
    serves_on(&broker);
    broker.stop();
}

/// Counts that promise more than any machine has, in requests of a few bytes, for every key in its lowest and highest
/// version.
#[test]
fn huge_counts() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    serves_on(&broker);
    let before = resident(broker.pid());
    let mut tail = BytesMut::new();
    tail.put_i32(i32::MAX);
    // Produce v3 in 14 bytes behind the length: header (no client id), and a transactional id of 32,767 bytes.
    let mut short = BytesMut::new();
    short.put_slice(&[0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff]);
    short.put_slice(&tail);
    assert_eq!(short.len(), 14);
    closes_after(&broker, "14 bytes of Produce", &framed(&short));
    // The same with the count where the topics are.
    let mut topics = BytesMut::new();
    topics.put_slice(&[0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x75, 0x30]);
    topics.put_slice(&tail);
    closes_after(&broker, "Produce of 2^31 topics", &framed(&topics));
    let mut flexible = BytesMut::new();
    flexible.put_slice(&[0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0x75, 0x30]);
    flexible.put_slice(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    closes_after(&broker, "Produce of 2^32 topics", &framed(&flexible));
    for (key, version) in every_version(&broker) {
        for pad in [0, 1, 2, 4, 6, 8, 10, 14, 18] {
            for count in [&tail[..], &[0xff, 0xff, 0xff, 0xff, 0x0f], &[0xff, 0xff, 0xff, 0xff, 0x07]] {
                let mut request = BytesMut::new();
                request.put_i16(key);
                request.put_i16(version);
                request.put_slice(&[0, 0, 0, 1, 0xff, 0xff]);
                request.put_bytes(0, pad);
                request.put_slice(count);
                let mut wire = Wire::connect(&broker.kafka).expect("connects");
                let _ = wire.send_bytes(&framed(&request));
            }
        }
    }
    serves_on(&broker);
    let grown = resident(broker.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more than before");
    broker.stop();
}

fn every_version(broker: &Broker) -> Vec<(i16, i16)> {
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let answer = wire.call(&ApiVersionsRequest::default(), 0).expect("versions");
    assert!(answer.api_keys.len() > 20);
    answer.api_keys.iter().flat_map(|k| [(k.api_key, k.min_version), (k.api_key, k.max_version)]).collect()
}

#[test]
fn connections_that_announce_and_stop() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    serves_on(&broker);
    let before = resident(broker.pid());
    let mut head = BytesMut::new();
    head.put_u32(50 << 20);
    head.put_slice(&[0, 0, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0]);
    head.put_bytes(7, 1000);
    let held: Vec<Wire> = (0..500)
        .map(|_| {
            let mut wire = Wire::connect(&broker.kafka).expect("connects");
            wire.send_bytes(&head).expect("sent");
            wire
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    serves_on(&broker);
    let grown = resident(broker.pid()).saturating_sub(before);
    assert!(grown < 100 << 20, "500 connections that announced 50 MiB each hold {} KiB", grown >> 10);
    drop(held);
    serves_on(&broker);
    broker.stop();
}

#[test]
fn wrong_crc_is_refused_and_not_appended() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "crc", 1, &[]);
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let good = batch(&[b"one", b"two"]);
    // Every byte under the checksum and the checksum itself (17..21).
    for at in 17..good.len() {
        let mut bad = BytesMut::from(&good[..]);
        bad[at] ^= 0x40;
        let (code, message) = wire.produce("crc", 0, bad.freeze()).expect("an answer").expect_err("refused");
        // Some bytes make the header senseless before the sum is looked at.
        assert!([CORRUPT_MESSAGE, 87, 43, 76].contains(&code), "byte {at}: {code} {message}");
        if at < 21 {
            assert_eq!(code, CORRUPT_MESSAGE, "{message}");
        }
    }
    assert_eq!(high_watermark(&broker, "crc"), 0);
    assert_eq!(wire.produce("crc", 0, good).expect("an answer"), Ok(0), "the same connection goes on");
    serves_on(&broker);
    broker.stop();
}

#[test]
fn batches_too_large_or_senseless() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "large", 1, &[("max.message.bytes", "10000")]);
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let refused = wire.produce("large", 0, batch(&[&[1; 10_000]])).expect("an answer").expect_err("refused");
    assert_eq!(refused.0, MESSAGE_TOO_LARGE, "{}", refused.1);
    let refused = wire.produce("large", 0, batch(&[&[1; 5 << 20]])).expect("an answer").expect_err("refused");
    assert_eq!(refused.0, MESSAGE_TOO_LARGE, "{}", refused.1);
    for senseless in
        [Bytes::new(), Bytes::from_static(b"short"), Bytes::from(vec![0xff; 200]), Bytes::from(vec![2; 61])]
    {
        let refused = wire.produce("large", 0, senseless.clone()).expect("an answer").expect_err("refused");
        assert_ne!(refused.0, 0, "{senseless:?}");
    }
    assert_eq!(high_watermark(&broker, "large"), 0);
    assert_eq!(wire.produce("large", 0, batch(&[&[1; 9000]])).expect("an answer"), Ok(0));
    // A frame beyond what any request may have is not waited for.
    closes_after(&broker, "a frame of 2 GiB", &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 9]);
    closes_after(&broker, "a frame of negative length", &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9]);
    serves_on(&broker);
    broker.stop();
}

#[test]
fn unknown_keys_and_versions() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    for (key, version) in [(9999, 0), (-1, 0), (4, 0), (6, 7), (0, 2), (0, 99), (1, 3), (3, -1), (1, i16::MAX)] {
        let mut request = BytesMut::new();
        request.put_i16(key);
        request.put_i16(version);
        request.put_slice(&[0, 0, 0, 1, 0xff, 0xff, 0, 0, 0, 0]);
        closes_after(&broker, &format!("key {key} version {version}"), &framed(&request));
    }
    // ApiVersions of the future is answered in version 0, with the table (KIP-511).
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    wire.send_bytes(&framed(&[0, 18, 0, 99, 0, 0, 0, 7, 0xff, 0xff, 0])).expect("sent");
    let answer = wire.read_frame().expect("an answer");
    assert_eq!(&answer[..6], &[0, 0, 0, 7, 0, UNSUPPORTED_VERSION as u8]);
    assert!(answer.len() > 6 + 4 + 20 * 6, "the table is in it");
    let metadata = wire.call(&MetadataRequest::default().with_topics(None), 9).expect("the same connection goes on");
    assert_eq!(metadata.brokers.len(), 1);
    serves_on(&broker);
    broker.stop();
}

#[test]
fn other_protocols_and_noise() {
    let dir = tempfile::tempdir().expect("tempdir");
    // Noise asks for coordinators, so `__consumer_offsets` is made while it is asked for.
    let options = Options::new(&dir.path().join("data")).expect("groups of a partition cannot be loaded");
    let broker = Broker::start(&options);
    create(&broker, "noise", 1, &[]);
    closes_after(&broker, "HTTP", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n");
    closes_after(&broker, "TLS", &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]);
    // Noise behind a good header, of every key and version: answered, closed or waited on, never fatal.
    let seed = 0x7461_6c65_u64;
    let mut state = seed;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (key, version) in every_version(&broker) {
        for _ in 0..12 {
            let mut request = BytesMut::new();
            request.put_i16(key);
            request.put_i16(version);
            request.put_slice(&[0, 0, 0, 1, 0xff, 0xff]);
            for _ in 0..next() % 90 {
                // Small numbers are likelier counts and lengths.
                let byte = next();
                request.put_u8(if byte & 0x300 == 0 { byte as u8 } else { (byte % 3) as u8 });
            }
            let mut wire = Wire::connect(&broker.kafka).expect("connects");
            let _ = wire.send_bytes(&framed(&request));
        }
    }
    let start = Instant::now();
    serves_on(&broker);
    assert!(start.elapsed() < Duration::from_secs(5), "seed {seed:#x}");
    let topics = run(async { Client::connect(&broker.kafka).await?.topics().await }).expect("topics");
    assert!(topics.iter().any(|topic| topic.name == "noise"));
    produce(&broker, "noise", 0, b"still there");
    broker.stop();
}

#[test]
fn a_small_batch_of_millions_of_records_takes_no_memory_to_look_into() {
    const RECORDS: i64 = 3_000_000;
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "bomb", 1, &[("max.message.bytes", "16777216")]);
    let mut bomb = BatchBuilder::new(Compression::Zstd);
    for n in 0..RECORDS {
        let late = n + 1 == RECORDS;
        bomb.push(Record::new(TimestampMs(if late { 2000 } else { 1000 }), None, None));
    }
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    wire.produce("bomb", 0, bomb.build()).expect("an answer").expect("appended");
    let before = resident(broker.pid());
    let found = run(async {
        Client::connect(&broker.kafka).await?.list_offsets("bomb", &[0], OffsetQuery::AtTime(1500)).await
    });
    assert_eq!(found.expect("looked up"), [(0, Some(RECORDS as u64 - 1))]);
    // Unpacked it is 35 MB; as three million structs it was 450.
    let grown = resident(broker.pid()).saturating_sub(before);
    assert!(grown < 120 << 20, "{} MiB more", grown >> 20);
    serves_on(&broker);
    broker.stop();
}

/// Bytes of the answer to a request.
fn answer_bytes<R: Request>(wire: &mut Wire, request: &R, version: i16) -> usize {
    wire.send(request, version).expect("sent");
    wire.read_frame().expect("an answer").len()
}

/// As Apache Kafka does, DescribeConfigs and DescribeGroups answer a name as often as it stands in the request; the
/// answer has a bound. Metadata and OffsetFetch answer it once.
#[test]
fn what_is_asked_a_hundred_thousand_times_is_answered_within_bounds() {
    /// The bound of an answer, and room for short refusals of the rest.
    const ANSWER_BYTES_MAX: usize = (64 << 20) + 100_000 * 100;
    const TIMES: usize = 100_000;
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "often", 200, &[]);
    serves_on(&broker);
    let before = resident(broker.pid());
    let name = || StrBytes::from_static_str("often");
    let mut wire = Wire::connect(&broker.kafka).expect("connects");

    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(name())));
    let asked = MetadataRequest::default().with_topics(Some(vec![topic; TIMES]));
    let len = answer_bytes(&mut wire, &asked, 1);
    assert!(len < 200 * 100, "metadata of one topic in {len} bytes");

    let topic = DescribeConfigsResource::default().with_resource_type(2).with_resource_name(name());
    let asked = DescribeConfigsRequest::default()
        .with_resources(vec![topic.with_configuration_keys(None); TIMES])
        .with_include_synonyms(true)
        .with_include_documentation(true);
    let len = answer_bytes(&mut wire, &asked, 3);
    assert!(len < ANSWER_BYTES_MAX, "settings of one topic in {len} bytes");

    let group = || StrBytes::from_static_str("a group");
    let asked = DescribeGroupsRequest::default().with_groups(vec![group().into(); TIMES]);
    let len = answer_bytes(&mut wire, &asked, 5);
    assert!(len < ANSWER_BYTES_MAX, "one group in {len} bytes");
    let all = OffsetFetchRequestGroup::default().with_group_id(group().into()).with_topics(None);
    let len = answer_bytes(&mut wire, &OffsetFetchRequest::default().with_groups(vec![all; TIMES]), 8);
    assert!(len < 1000, "one group's offsets in {len} bytes");
    let topic = OffsetFetchRequestTopic::default().with_name(TopicName(name())).with_partition_indexes(vec![7; TIMES]);
    let asked = OffsetFetchRequest::default().with_group_id(group().into()).with_topics(Some(vec![topic]));
    let len = answer_bytes(&mut wire, &asked, 7);
    assert!(len < 1000, "one offset in {len} bytes");

    let grown = resident(broker.pid()).saturating_sub(before);
    // The largest answer as structures and as bytes, and what the allocator keeps.
    assert!(grown < 320 << 20, "{} MiB more", grown >> 20);
    serves_on(&broker);
    broker.stop();
}

#[test]
fn a_small_batch_does_not_keep_its_large_request_in_memory() {
    const REQUESTS: usize = 60;
    const UNKNOWN: usize = 8 << 20;
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "kept", 1, &[]);
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let small = frame(&produce_request("kept", 0, batch(&[b"small"])), PRODUCE_VERSION, 1).expect("frame");
    // The last byte says that there are no tagged fields; an unknown one takes 8 MiB.
    let mut padded = BytesMut::from(&small[4..small.len() - 1]);
    padded.put_slice(&[1, 99, 0x80, 0x80, 0x80, 0x04]);
    padded.put_bytes(7, UNKNOWN);
    let padded = framed(&padded);
    let mut call = || {
        wire.send_bytes(&padded).expect("sent");
        wire.read_frame().expect("an answer");
    };
    call();
    let before = resident(broker.pid());
    (0..REQUESTS).for_each(|_| call());
    let grown = resident(broker.pid()).saturating_sub(before);
    assert!(grown < 120 << 20, "{REQUESTS} batches of a few bytes hold {} MiB", grown >> 20);
    assert_eq!(high_watermark(&broker, "kept"), REQUESTS as u64 + 1);
    serves_on(&broker);
    broker.stop();
}
