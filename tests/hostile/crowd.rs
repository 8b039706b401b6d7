//! Clients in crowds, and clients that do not read, do not finish, or write faster than the disk: the broker holds its
//! bounds, others are served, and well-behaved clients see no error.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiVersionsRequest, BrokerId, FetchRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::scrape::{scrape, sum};
use super::steady::{batch, create, produce, read_to_end, resident, serves_on};
use super::support::broker::{Broker, Options};
use super::support::wire::{PRODUCE_VERSION, Wire, frame, produce_request, produced};

fn start(dir: &tempfile::TempDir) -> Broker {
    Broker::start(&Options::new(&dir.path().join("data")).arg("--shards", "1"))
}

fn until(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < patience, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A fetch from the start of a partition without a limit.
fn fetch_all(topic: &str) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(0)
        .with_partition_max_bytes(50 << 20);
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let asked = FetchTopic::default().with_topic(name).with_partitions(vec![partition]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(100)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![asked])
}

#[test]
fn consumers_that_never_read_cost_no_more_than_the_budget() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "heavy", 1, &[("remote.storage.enable", "false")]);
    let block = vec![b'h'; 900_000];
    (0..220).for_each(|n| assert_eq!(produce(&broker, "heavy", 0, &block), n));
    let before = resident(broker.pid());
    let stuck: Vec<Wire> = (0..40)
        .map(|_| {
            let mut wire = Wire::connect(&broker.kafka).expect("connects");
            // 40 times 20 requests of 50 MB: 40 GB are requested and none is read.
            (0..20).for_each(|_| wire.send(&fetch_all("heavy"), 11).expect("sent"));
            wire
        })
        .collect();
    let mut most = before;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(8) {
        most = most.max(resident(broker.pid()));
        serves_on(&broker);
        std::thread::sleep(Duration::from_millis(200));
    }
    let grown = (most - before) >> 20;
    eprintln!("40 consumers that never read: {grown} MiB more");
    // The budget of the shard is 256 MiB; batches are shared with the memory of recent ones.
    assert!(grown < 400, "{grown} MiB more");
    drop(stuck);
    until("the memory is given back", Duration::from_secs(20), || {
        sum(&scrape(&broker), "tidewater_kafka_request_memory_bytes", &[]) < 1e6
    });
    serves_on(&broker);
    broker.stop();
}

#[test]
fn two_thousand_connections() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    serves_on(&broker);
    let before = resident(broker.pid());
    let hello = frame(&ApiVersionsRequest::default(), 0, 1).expect("encodes");
    let mut open: Vec<TcpStream> = (0..2000)
        .map(|n| {
            let mut stream = TcpStream::connect(&broker.kafka).unwrap_or_else(|e| panic!("connection {n}: {e}"));
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
            stream.write_all(&hello).expect("sent");
            stream
        })
        .collect();
    for stream in &mut open {
        let mut len = [0; 4];
        stream.read_exact(&mut len).expect("an answer");
        let mut rest = vec![0; u32::from_be_bytes(len) as usize];
        stream.read_exact(&mut rest).expect("all of it");
    }
    let connected = sum(&scrape(&broker), "tidewater_kafka_connections", &[]);
    assert!(connected >= 2000.0, "{connected}");
    let each = (resident(broker.pid()) - before) / 2000;
    eprintln!("an idle connection: {each} bytes resident");
    assert!(each < 24 << 10, "{each} bytes for each connection");
    serves_on(&broker);
    drop(open);
    until("they are counted out", Duration::from_secs(20), || {
        sum(&scrape(&broker), "tidewater_kafka_connections", &[]) < 10.0
    });
    serves_on(&broker);
    broker.stop();
}

#[test]
fn an_address_has_no_more_than_its_share() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = Options::new(&dir.path().join("data")).arg("--max-connections-per-ip", "8");
    let broker = Broker::start(&options);
    let greet = || Wire::connect(&broker.kafka).and_then(|mut w| w.call(&ApiVersionsRequest::default(), 0).map(|_| w));
    let mut held: Vec<Wire> = (0..8).map(|_| greet().expect("within the share")).collect();
    assert!(greet().is_err(), "one more than its share");
    assert!(sum(&scrape(&broker), "tidewater_kafka_connections_closed_total", &["reason=\"too_many\""]) >= 1.0);
    held.truncate(4);
    until("a place is free again", Duration::from_secs(10), || greet().is_ok());
    serves_on(&broker);
    broker.stop();
}

#[test]
#[ignore = "at_length.rs runs it beside others that wait"]
pub(super) fn a_request_that_stays_half_is_given_up() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    let request = frame(&produce_request("never", 0, batch(&[b"whole"])), PRODUCE_VERSION, 1).expect("encodes");
    let mut stream = TcpStream::connect(&broker.kafka).expect("connects");
    stream.write_all(&request[..request.len() / 2]).expect("half of it");
    stream.set_read_timeout(Some(Duration::from_secs(100))).expect("timeout");
    let start = Instant::now();
    let end = stream.read(&mut [0; 16]);
    assert!(matches!(end, Ok(0)) || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    let waited = start.elapsed();
    assert!((Duration::from_secs(55)..Duration::from_secs(90)).contains(&waited), "closed after {waited:?}");
    assert!(sum(&scrape(&broker), "tidewater_kafka_connections_closed_total", &["reason=\"stalled\""]) >= 1.0);
    serves_on(&broker);
    broker.stop();
}

/// More than a lane's queue, a connection's share and the shard's memory take, all sent before an answer is read: the
/// producers wait, and every batch is acknowledged.
#[test]
fn producers_faster_than_the_disk_wait_and_see_no_error() {
    const CONNECTIONS: usize = 24;
    const BATCHES: usize = 24;
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = start(&dir);
    create(&broker, "flood", 1, &[("remote.storage.enable", "false")]);
    let block = Bytes::from(vec![b'f'; 900_000]);
    let batch = batch(&[&block]);
    let before = resident(broker.pid());
    let flood = |n: usize| {
        let (addr, batch) = (broker.kafka.clone(), batch.clone());
        std::thread::spawn(move || {
            let mut wire = Wire::connect(&addr).expect("connects");
            let mut reader = wire.try_clone();
            let writer = std::thread::spawn(move || {
                (0..BATCHES).for_each(|_| {
                    wire.send(&produce_request("flood", 0, batch.clone()), PRODUCE_VERSION).expect("sent");
                });
                wire
            });
            for m in 0..BATCHES {
                let answer = reader.receive::<ProduceRequest>(PRODUCE_VERSION).expect("an answer");
                let told = produced(&answer).expect("a partition");
                assert!(told.is_ok(), "producer {n}, batch {m}: {told:?}");
            }
            drop(writer.join().expect("written"));
        })
    };
    let floods: Vec<_> = (0..CONNECTIONS).map(flood).collect();
    let mut most = before;
    while !floods.iter().all(|flood| flood.is_finished()) {
        most = most.max(resident(broker.pid()));
        std::thread::sleep(Duration::from_millis(50));
    }
    floods.into_iter().for_each(|flood| flood.join().expect("every batch is acknowledged"));
    eprintln!("{} MB in flood, {} MiB more resident at most", CONNECTIONS * BATCHES * 9 / 10, (most - before) >> 20);
    assert!((most - before) >> 20 < 1500, "{} MiB more", (most - before) >> 20);
    assert_eq!(read_to_end(&broker, "flood", 0, 0).len(), CONNECTIONS * BATCHES);
    serves_on(&broker);
    broker.stop();
}
