//! Fetch sessions (KIP-227) on the wire, as Kafka's own consumer uses them: after the first fetch it names only the
//! partitions whose offset moved.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use tidewater::client::{Client, NewTopic};
use tidewater_storage::model::Compression;
use tidewater_storage::model::TimestampMs;
use tidewater_storage::model::record::{BatchBuilder, Record};

use super::support::broker::{Broker, Options};
use super::support::wire::Wire;

/// Sessions, and topics by name.
const VERSION: i16 = 12;
const TOPIC: &str = "seldom";

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn create(broker: &Broker, partitions: i32) {
    let topic = NewTopic { name: TOPIC.to_owned(), partitions: Some(partitions), ..NewTopic::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime
        .block_on(async { Client::connect(&broker.kafka).await?.create_topic(&topic).await })
        .expect("topic is made");
}

fn produce(wire: &mut Wire, partition: i32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let mut batch = BatchBuilder::new(Compression::None);
    batch.push(Record::new(TimestampMs(i64::try_from(now).expect("a date")), None, Some(Bytes::from_static(b"here"))));
    wire.produce(TOPIC, partition, batch.build()).expect("an answer").expect("appended");
}

/// Within a session: the partitions with an offset that the broker does not know yet.
fn fetch(id: i32, epoch: i32, asked: &[(i32, i64)]) -> FetchRequest {
    let partitions = asked.iter().map(|(index, offset)| {
        FetchPartition::default().with_partition(*index).with_fetch_offset(*offset).with_partition_max_bytes(1 << 20)
    });
    let topic = FetchTopic::default().with_topic(name()).with_partitions(partitions.collect());
    FetchRequest::default()
        .with_max_wait_ms(1500)
        .with_min_bytes(1)
        .with_max_bytes(8 << 20)
        .with_session_id(id)
        .with_session_epoch(epoch)
        .with_topics(if asked.is_empty() { Vec::new() } else { vec![topic] })
}

/// Partitions answered, and whether they brought records.
fn answered(answer: &FetchResponse) -> Vec<(i32, bool)> {
    assert_eq!(answer.error_code, 0);
    let partitions = answer.responses.iter().flat_map(|topic| &topic.partitions);
    partitions.map(|p| (p.partition_index, p.records.as_ref().is_some_and(|records| !records.is_empty()))).collect()
}

#[test]
fn a_partition_that_was_empty_in_the_first_fetch_is_served_when_records_come() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    create(&broker, 3);
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    produce(&mut wire, 0);
    let first = wire.call(&fetch(0, 0, &[(0, 0), (1, 0), (2, 0)]), VERSION).expect("an answer");
    assert_eq!(answered(&first), [(0, true), (1, false), (2, false)]);
    let id = first.session_id;
    assert_ne!(id, 0);

    // Records that are there when it asks, and records that come while it waits.
    produce(&mut wire, 1);
    let second = wire.call(&fetch(id, 1, &[(0, 1)]), VERSION).expect("an answer");
    assert_eq!(answered(&second), [(1, true)]);
    let addr = broker.kafka.clone();
    let later = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        produce(&mut Wire::connect(&addr).expect("connects"), 2);
    });
    let third = wire.call(&fetch(id, 2, &[(1, 1)]), VERSION).expect("an answer");
    assert_eq!(answered(&third), [(2, true)]);
    later.join().expect("produced");

    // A client that forgets all partitions gets an empty answer.
    let gone = ForgottenTopic::default().with_topic(name()).with_partitions(vec![0, 1, 2]);
    let last = wire.call(&fetch(id, 3, &[]).with_forgotten_topics_data(vec![gone]), VERSION).expect("an answer");
    assert_eq!((answered(&last), last.session_id), (Vec::new(), 0));
    broker.stop();
}
