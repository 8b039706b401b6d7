//! A broker with a disk that is full or slow: the cluster goes on, says so, and is whole again afterwards.

use std::time::{Duration, Instant};

use tidewater::client::{Client, Producer};
use tidewater_storage::model::Compression;
use tidewater_storage::model::record::Record;

use super::clients::{create, read_all};
use super::run;
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::disk::SlowDisk;
use super::tools::{cli, produce, produce_of};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders";
const PARTITIONS: i32 = 6;
/// Records stay on the brokers' own disks.
const LOCAL: &[(&str, &str)] = &[("remote.storage.enable", "false"), ("segment.bytes", "16777216")];
/// What a broker on a full disk says.
pub const FULL: [&str; 4] = ["the disk is full", "disk full", "storage upkeep", "No space left"];

fn options(dir: &tempfile::TempDir) -> ClusterOptions {
    ClusterOptions {
        bucket: Some(format!("file://{}", dir.path().join("bucket").display())),
        expected: super::EXPECTED.iter().chain(&FULL).map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    }
}

/// Waits until `cluster health` has a problem of this kind of this broker (from 0).
fn wait_problem(cluster: &mut Cluster, kind: &str, n: usize) {
    let begun = Instant::now();
    loop {
        let health = cluster.get("/v1/cluster/health").unwrap_or_default();
        let is_it = |problem: &serde_json::Value| problem["kind"] == kind && problem["brokers"][0] == n + 1;
        if health["problems"].as_array().is_some_and(|problems| problems.iter().any(is_it)) {
            return;
        }
        let ended = cluster.brokers[n].as_mut().and_then(super::support::broker::Broker::ended);
        assert!(ended.is_none(), "broker {} ended with {ended:?}\n{}", n + 1, cluster.logs());
        assert!(begun.elapsed() < PATIENCE, "no {kind:?} of broker {}: {health:#}\n{}", n + 1, cluster.logs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_full_disk_stops_neither_its_broker_nor_the_cluster() {
    const FULL_ONE: usize = 2;
    let dir = tempfile::tempdir().expect("tempdir");
    let options = ClusterOptions { small_disk: Some((FULL_ONE, "1400m".to_owned())), ..options(&dir) };
    let mut cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), TOPIC, PARTITIONS, LOCAL);
    cluster.wait_balanced(TOPIC, PATIENCE);
    let mut written = produce(&cluster.bootstrap(), TOPIC, PARTITIONS, 60);

    // Not a block is left. Broker 3 leads a third of the partitions at that moment.
    cluster.small_disk.as_ref().expect("it has one").1.fill();
    let begun = Instant::now();
    written += produce_of(&cluster.bootstrap(), TOPIC, PARTITIONS, 120, 900_000);
    println!("120 records of 900 kB were acknowledged after {:?}", begun.elapsed());
    wait_problem(&mut cluster, "full", FULL_ONE);
    let begun = Instant::now();
    written += produce_of(&cluster.bootstrap(), TOPIC, PARTITIONS, 60, 900_000);
    println!("60 more after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(30), "the others carry the load");
    let ended = cluster.brokers[FULL_ONE].as_mut().and_then(super::support::broker::Broker::ended);
    assert!(ended.is_none(), "{ended:?}\n{}", cluster.logs());

    cluster.small_disk.as_ref().expect("it has one").1.free();
    let begun = Instant::now();
    cluster.wait_healthy(PATIENCE);
    cluster.wait_balanced(TOPIC, PATIENCE);
    println!("whole again {:?} after there was room", begun.elapsed());
    // What it missed it has now: it carries the log alone with either of the others.
    cluster.kill(0);
    written += produce(&cluster.bootstrap(), TOPIC, PARTITIONS, 60);
    let log = read_all(&cluster.bootstrap(), TOPIC, PARTITIONS);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written, "nothing lost, nothing doubled");
    cluster.check_logs();
}

/// How long each of `count` records takes until it is acknowledged, round the partitions: the median and the longest.
fn waits(cluster: &Cluster, count: usize) -> (Duration, Duration) {
    let mut waits: Vec<Duration> = run(async {
        let client = Client::connect(&cluster.bootstrap()).await.expect("connects");
        let mut producer = Producer::new(client, TOPIC, Compression::None).await.expect("a producer id");
        let mut waits = Vec::new();
        for n in 0..count {
            let record = Record::new(super::now(), None, Some(bytes::Bytes::from_static(b"drop")));
            let begun = Instant::now();
            producer.send(n as i32 % PARTITIONS, vec![record]).await.expect("sent");
            producer.flush().await.expect("acknowledged");
            waits.push(begun.elapsed());
        }
        waits
    });
    waits.sort_unstable();
    (waits[waits.len() / 2], waits[waits.len() - 1])
}

#[test]
fn a_full_disk_beside_the_bucket_costs_no_cut() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = ClusterOptions {
        small_disk: Some((0, "1400m".to_owned())),
        args: vec!["--cut-interval-ms".to_owned(), "1000".to_owned()],
        ..options(&dir)
    };
    let cluster = Cluster::start(dir.path(), 1, &options);
    cli(&cluster, 0, &["topic", "create", TOPIC, "--partitions", "6", "--set", "archive.lag.ms=100"]);
    produce(&cluster.bootstrap(), TOPIC, PARTITIONS, 60);
    let cuts = |cluster: &Cluster| {
        let kept = cluster.get("/v1/cuts").expect("it answers");
        kept.as_array().unwrap_or_else(|| panic!("{kept}")).len()
    };
    let begun = Instant::now();
    while cuts(&cluster) == 0 {
        assert!(begun.elapsed() < PATIENCE, "no cut is made\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(100));
    }

    cluster.small_disk.as_ref().expect("it has one").1.fill();
    let begun = Instant::now();
    while !cluster.logs().contains("the disk is full: producers are refused") {
        assert!(begun.elapsed() < PATIENCE, "it does not notice\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    // A look at the cuts or two.
    std::thread::sleep(Duration::from_secs(3));
    assert_ne!(cuts(&cluster), 0, "the bucket has room\n{}", cluster.logs());
    cluster.small_disk.as_ref().expect("it has one").1.free();
    cluster.check_logs();
}

#[test]
fn a_slow_disk_holds_nobody_else_up() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::start(dir.path(), 3, &options(&dir));
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), TOPIC, PARTITIONS, LOCAL);
    cluster.wait_settled(PATIENCE);
    let before = waits(&cluster, 300);
    let terms = cluster.terms();
    let slow = SlowDisk::of(cluster.broker(1).pid(), &cluster.options[1].data, 8);
    let how = if matches!(slow, SlowDisk::Throttled { .. }) { "8 writes a second" } else { "stop and go" };
    let begun = Instant::now();
    let during = waits(&cluster, 300);
    let written = 300 + produce_of(&cluster.bootstrap(), TOPIC, PARTITIONS, 60, 300_000);
    let took = begun.elapsed();
    // A broker that is behind may name an older term than one named before.
    let elections: u64 = cluster.terms().iter().map(|(lane, term)| term.saturating_sub(terms[lane])).sum();
    println!(
        "a write before: {before:?}; with the disk of broker 2 at {how}: {during:?}; {elections} elections in {took:?}"
    );
    drop(slow);
    cluster.wait_healthy(PATIENCE);
    assert!(during.0 < Duration::from_millis(500), "the others' disks are fast: {during:?}");
    let ended = cluster.brokers[1].as_mut().and_then(super::support::broker::Broker::ended);
    assert!(ended.is_none(), "{ended:?}\n{}", cluster.logs());
    let log = read_all(&cluster.bootstrap(), TOPIC, PARTITIONS);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), 300 + written, "nothing lost, nothing doubled");
    cluster.check_logs();
}
