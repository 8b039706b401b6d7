//! Offsets by name, by time and by leader epoch: the cluster that follows answers what the source answers.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tidewater::client::Client;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use super::pair::{Pair, Side};
use super::run;
use super::support::wire::Wire;

const TOPIC: &str = "orders";
const CONSUMER: BrokerId = BrokerId(-1);
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

/// Error, offset, timestamp and leader epoch.
fn offset(addr: &str, timestamp: i64) -> (i16, i64, i64, i32) {
    let asked = ListOffsetsPartition::default().with_timestamp(timestamp).with_current_leader_epoch(-1);
    let topic = ListOffsetsTopic::default().with_name(name()).with_partitions(vec![asked]);
    let request = ListOffsetsRequest::default().with_replica_id(CONSUMER).with_topics(vec![topic]);
    let answer = Wire::connect(addr).and_then(|mut wire| wire.call(&request, 8)).expect("answers");
    let found = &answer.topics[0].partitions[0];
    (found.error_code, found.offset, found.timestamp, found.leader_epoch)
}

/// Error, epoch and end.
fn epoch_end(addr: &str, epoch: i32) -> (i16, i32, i64) {
    let asked = OffsetForLeaderPartition::default().with_leader_epoch(epoch).with_current_leader_epoch(-1);
    let topic = OffsetForLeaderTopic::default().with_topic(name()).with_partitions(vec![asked]);
    let request = OffsetForLeaderEpochRequest::default().with_replica_id(CONSUMER).with_topics(vec![topic]);
    let answer = Wire::connect(addr).and_then(|mut wire| wire.call(&request, 4)).expect("answers");
    let found = &answer.topics[0].partitions[0];
    (found.error_code, found.leader_epoch, found.end_offset)
}

/// Leader and its epoch, as Metadata has them.
fn leader(addr: &str) -> (i32, i32) {
    let topic = MetadataRequestTopic::default().with_name(Some(name()));
    let request = MetadataRequest::default().with_topics(Some(vec![topic]));
    let answer = Wire::connect(addr).and_then(|mut wire| wire.call(&request, 9)).expect("answers");
    let found = &answer.topics[0].partitions[0];
    (found.leader_id.0, found.leader_epoch)
}

fn produce(pair: &Pair, timestamps: &[i64]) -> u64 {
    let mut builder = BatchBuilder::new(Compression::None);
    for timestamp in timestamps {
        builder.push(Record::new(TimestampMs(*timestamp), None, Some(Bytes::from_static(b"value"))));
    }
    let mut wire = Wire::connect(&pair.source().kafka).expect("connects");
    wire.produce(TOPIC, 0, builder.build()).expect("an answer").expect("appended")
}

#[test]
fn offsets_are_found_as_at_the_source() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut pair = Pair::start(dir.path(), false);
    pair.source().cli(&["topic", "create", TOPIC, "--partitions", "1", "--set", "archive.lag.ms=200"]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let begin = i64::try_from(now).expect("a date") - 3_600_000;
    // Three lives of the source, each a leader epoch; the greatest timestamp is in the middle of the second.
    for life in 0..3 {
        if life > 0 {
            pair.kill(Side::Source);
            pair.start_again(Side::Source);
        }
        for batch in 0..4 {
            let at = begin + life * 100_000 + batch * 10_000;
            let middle = if (life, batch) == (1, 2) { begin + 900_000 } else { at + 2_000 };
            produce(&pair, &[at, at + 1_000, middle, at + 3_000]);
        }
    }
    let trimmed = run(async { Client::connect(&pair.source().kafka).await?.delete_records(TOPIC, &[(0, 3)]).await });
    assert_eq!(trimmed.expect("trims"), [(0, 3)]);
    assert_eq!(produce(&pair, &[begin + 400_000]), 48);
    pair.follow("*");
    pair.wait_equal(TOPIC);

    let (source, replica) = (pair.source().kafka.clone(), pair.replica().kafka.clone());
    assert_eq!((offset(&replica, EARLIEST).1, offset(&replica, LATEST).1), (3, 49));
    assert_eq!(offset(&replica, MAX_TIMESTAMP).1, 26, "in the second life, in its third batch");
    let between = (0..50).map(|n| begin - 5_000 + n * 9_500);
    let named = [LATEST, EARLIEST, MAX_TIMESTAMP, begin, begin + 900_000, begin + 900_001];
    for timestamp in named.into_iter().chain(between) {
        let (here, there) = (offset(&replica, timestamp), offset(&source, timestamp));
        assert_eq!(here, there, "at {timestamp}, which is {} after the first record", timestamp - begin);
        assert_eq!(here.0, 0);
    }
    assert_eq!(offset(&replica, begin + 900_001).1, -1, "no record is so young");

    let newest = offset(&source, LATEST).3;
    assert_eq!(leader(&source).1, newest, "the source appended in its current epoch");
    let mut ends = Vec::new();
    for epoch in 0..=newest + 1 {
        let (here, there) = (epoch_end(&replica, epoch), epoch_end(&source, epoch));
        assert_eq!(here, there, "the end of epoch {epoch}");
        ends.push(here.2);
    }
    ends.dedup();
    assert!([16, 32, 49, -1].iter().all(|end| ends.contains(end)), "three epochs, and one that is not there: {ends:?}");
    // No epoch: clients do not compare their positions with a follower that may not know the newest yet.
    assert_eq!(leader(&replica), (1, -1));
    pair.stop();
}
