//! Peers that disappear: their network vanishes, they stop reading, or they send nothing more. Their connections are
//! closed, and those of waiting consumers are not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::{ApiVersionsRequest, BrokerId, FetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::scrape::{scrape, sum};
use super::steady::{create, produce, serves_on};
use super::support::broker::{Broker, Options};
use super::support::wire::Wire;

/// Takes loopback down, or up; `ip link set lo` for machines without it.
const LOOPBACK: &str = r#"
import fcntl, socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held = fcntl.ioctl(s, 0x8913, struct.pack("16sh", b"lo", 0) + bytes(22))
flags = struct.unpack("16sh", held[:18])[1]
flags = flags | 1 if sys.argv[1] == "up" else flags & ~1
fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", flags) + bytes(22))
"#;

fn loopback(state: &str) {
    let done = Command::new("python3").args(["-c", LOOPBACK, state]).status().expect("python3 runs");
    assert!(done.success(), "loopback goes {state}");
}

/// Connections that the broker holds on its ports, as the kernel sees them.
fn held(broker: &Broker) -> usize {
    let ports: Vec<String> = [&broker.kafka, &broker.admin, &broker.catalog]
        .iter()
        .map(|addr| {
            format!(":{:04X}", addr.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).expect("port"))
        })
        .collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("/proc/self/net/tcp");
    let established = table.lines().skip(1).filter(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, state) = (words.next().unwrap_or(""), words.nth(1).unwrap_or(""));
        state == "01" && ports.iter().any(|port| local.ends_with(port))
    });
    established.count()
}

fn fetch(topic: &str, from: i64, wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(from)
        .with_partition_max_bytes(50 << 20);
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(name).with_partitions(vec![partition])])
}

/// Runs itself again in a network namespace whose loopback it can take down without being root.
#[test]
fn a_peer_whose_network_vanished_is_let_go() {
    if std::env::var_os("TIDEWATER_TEST_INSIDE").is_some() {
        return vanish();
    }
    let done = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "gone::a_peer_whose_network_vanished_is_let_go", "--nocapture"])
        .env("TIDEWATER_TEST_INSIDE", "1")
        .status()
        .expect("unshare (util-linux) runs");
    assert!(done.success(), "see above; it needs user namespaces");
}

fn vanish() {
    loopback("up");
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = Broker::start(&Options::new(&dir.path().join("data")).arg("--shards", "1"));
    create(&broker, "quiet", 1, &[]);
    serves_on(&broker);
    let connect = || Wire::connect(&broker.kafka).expect("connects");
    let (mut idle, mut waiting, mut silent) = (connect(), connect(), connect());
    idle.call(&ApiVersionsRequest::default(), 0).expect("an answer");
    // Answered after the network has gone: the answer is never acknowledged.
    waiting.send(&fetch("quiet", 0, 5000), 11).expect("sent");
    silent.send_bytes(&[0, 0]).expect("half of a length");
    let mut page = TcpStream::connect(&broker.admin).expect("connects");
    page.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    assert!(page.read(&mut [0; 512]).expect("an answer") > 0);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(held(&broker), 4, "three clients and a browser");
    loopback("down");
    let start = Instant::now();
    while held(&broker) > 0 {
        assert!(start.elapsed() < Duration::from_secs(135), "{} connections are held for ever", held(&broker));
        std::thread::sleep(Duration::from_millis(500));
    }
    eprintln!("peers without a network: all let go within {:?}", start.elapsed());
    loopback("up");
    serves_on(&broker);
    let closed = |reason: &str| sum(&scrape(&broker), "tidewater_kafka_connections_closed_total", &[reason]);
    assert!(closed("reason=\"broken\"") >= 2.0, "by the kernel");
    assert!(closed("reason=\"stalled\"") >= 1.0, "the one with half a request");
    assert!(sum(&scrape(&broker), "tidewater_kafka_connections", &[]) < 2.0);
    drop((idle, waiting, silent, page));
    broker.stop();
}

/// The peer's window is full and its kernel answers keepalives, so only the missing acknowledgement shows it.
#[test]
#[ignore = "at_length.rs runs it beside others that wait"]
pub(super) fn a_peer_that_stopped_reading_is_let_go() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = Broker::start(&Options::new(&dir.path().join("data")).arg("--shards", "1"));
    create(&broker, "heavy", 1, &[("remote.storage.enable", "false")]);
    (0..20).for_each(|n| assert_eq!(produce(&broker, "heavy", 0, &vec![b'h'; 900_000]), n));
    let mut stuck = Wire::connect(&broker.kafka).expect("connects");
    (0..20).for_each(|_| stuck.send(&fetch("heavy", 0, 100), 11).expect("sent"));
    let start = Instant::now();
    let stalled = || sum(&scrape(&broker), "tidewater_kafka_connections_closed_total", &["reason=\"stalled\""]) >= 1.0;
    while !stalled() {
        assert!(start.elapsed() < Duration::from_secs(90), "it is held for ever");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(start.elapsed() > Duration::from_secs(55), "after {:?}", start.elapsed());
    assert!(sum(&scrape(&broker), "tidewater_kafka_request_memory_bytes", &[]) < 1e6, "its answers are given up");
    serves_on(&broker);
    broker.stop();
}

#[test]
fn an_idle_connection_is_closed_and_a_waiting_consumer_is_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = Options::new(&dir.path().join("data")).arg("--connections-max-idle-ms", "2000");
    let broker = Broker::start(&options);
    create(&broker, "quiet", 1, &[]);
    let connect = || Wire::connect(&broker.kafka).expect("connects");
    let (mut idle, mut mute, mut waiting) = (connect(), connect(), connect());
    idle.call(&ApiVersionsRequest::default(), 0).expect("an answer");
    waiting.send(&fetch("quiet", 0, 8000), 11).expect("sent");
    let start = Instant::now();
    assert!(idle.read_until_closed().expect("closed").is_empty());
    assert!(mute.read_until_closed().expect("closed").is_empty(), "one that never said anything");
    let closed = start.elapsed();
    assert!((Duration::from_millis(1900)..Duration::from_secs(5)).contains(&closed), "closed after {closed:?}");
    let answer = waiting.receive::<FetchRequest>(11).expect("an answer after four times as long");
    assert!(answer.error_code == 0 && start.elapsed() > Duration::from_secs(7), "after {:?}", start.elapsed());
    assert_eq!(sum(&scrape(&broker), "tidewater_kafka_connections_closed_total", &["reason=\"idle\""]), 2.0);
    serves_on(&broker);
    broker.stop();
}
