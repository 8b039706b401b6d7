//! The drill: everything is lost but the bucket.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tidewater::client::Client;

use super::run;
use super::support::broker::{Broker, Options};
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::wire::Wire;
use super::tools::{content, create, ends_of, read_all, restore, restored, settings};
use super::writer::{Told, Writer};

const PARTITIONS: i32 = 4;
const PATIENCE: Duration = Duration::from_secs(60);
const QUICK: (&str, &str) = ("archive.lag.ms", "300");

fn commit(addr: &str, offsets: &[(i32, u64)]) {
    run(async { Client::connect(addr).await?.commit("billing", "orders", offsets).await }).expect("is committed");
}

fn committed(addr: &str) -> Vec<(i32, u64)> {
    let held = run(async { Client::connect(addr).await?.group_offsets("billing").await }).expect("answers");
    let mut held: Vec<(i32, u64)> = held.into_iter().map(|found| (found.partition, found.offset)).collect();
    held.sort_unstable();
    held
}

fn topic_id(broker: &Broker, topic: &str) -> String {
    broker.topic(topic)["id"].as_str().expect("an id").to_owned()
}

/// Everything acknowledged below the restored ends is there at its offset, and nothing else is.
fn compare(addr: &str, told: &[Told], ends: &[u64]) {
    for (partition, values) in read_all(addr, "orders", PARTITIONS).into_iter().enumerate() {
        let end = ends[partition];
        assert_eq!(values.len() as u64, end, "partition {partition} ends where the plan said");
        let of = |told: &&Told| told.partition as usize == partition && told.offset < end;
        let expected: Vec<&String> = told.iter().filter(of).map(|told| &told.value).collect();
        // The last records may have come into the bucket before their answer came to the client.
        assert!(values.len() - expected.len() <= 1, "{} of {} were acknowledged", expected.len(), values.len());
        assert!(values.iter().zip(&expected).all(|(found, told)| found == *told), "partition {partition} is as it was");
    }
}

#[test]
fn one_broker_comes_back_from_the_bucket_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket_dir = dir.path().join("bucket");
    let bucket = format!("file://{}", bucket_dir.display());
    let options = Options { bucket: Some(bucket.clone()), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options);
    let addr = broker.kafka.clone();
    create(
        &addr,
        "orders",
        PARTITIONS,
        &[QUICK, ("retention.ms", "604800000"), ("iceberg.mode", "key_value"), ("iceberg.target.lag.ms", "500")],
    );
    create(&addr, "empty", 2, &[QUICK]);
    create(&addr, "local", 3, &[("remote.storage.enable", "false")]);
    let mut local = Writer::new(&addr, "local", 3);
    local.write(&addr, 9);
    let mut writer = Writer::new(&addr, "orders", PARTITIONS);
    writer.write(&addr, 400);
    commit(&addr, &[(0, 50), (1, 90), (2, 7)]);
    let before = settings(&addr, "orders");
    let ids = ["orders", "local", "empty"].map(|topic| topic_id(&broker, topic));
    broker.wait_topic("orders", "all is archived and in the table", PATIENCE, |partitions| {
        partitions
            .iter()
            .all(|p| p["archived_end_offset"] == p["high_watermark"] && p["table_offset"] == p["high_watermark"])
    });
    broker.wait_topic("__consumer_offsets", "offsets are archived", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
    // Under load, and with an offset that is committed beyond what will have been archived.
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (addr, stop) = (addr.clone(), Arc::clone(&stop));
        std::thread::spawn(move || writer.run(&addr, &stop))
    };
    std::thread::sleep(Duration::from_secs(2));
    broker.kill();
    let writer = load.join().expect("ends");
    let old = dir.path().join("old");
    std::fs::rename(&options.data, &old).expect("the disk is gone");

    let in_bucket = content(&bucket_dir);
    let planned = restored(&bucket, &options.data, &["--plan"]);
    assert!(!options.data.exists(), "a plan makes no directory");
    assert!(content(&bucket_dir) == in_bucket, "a plan changes nothing");
    let begun = Instant::now();
    let done = restored(&bucket, &options.data, &["--exit"]);
    let took = begun.elapsed();
    assert_eq!(ends_of(&planned), ends_of(&done), "the plan came true");
    let ends: Vec<u64> = (0..PARTITIONS).map(|n| ends_of(&done)[&("orders".to_owned(), n)]).collect();

    let begun = Instant::now();
    let broker = Broker::start(&options);
    let first_read = {
        compare(&addr, &writer.told, &ends);
        begun.elapsed()
    };
    println!("restored in {took:?}; all read {first_read:?} after the start; {} records told", writer.told.len());
    assert_eq!(["orders", "local", "empty"].map(|topic| topic_id(&broker, topic)), ids, "topics keep their ids");
    assert_eq!(settings(&addr, "orders"), before);
    assert_eq!(committed(&addr), [(0, 50), (1, 90), (2, 7)]);
    assert_eq!(read_all(&addr, "local", 3), vec![Vec::<String>::new(); 3], "it was not archived");

    // A batch that was archived is known, one that was not is appended.
    let archived = writer.told.iter().rfind(|told| told.offset < ends[told.partition as usize]).expect("some");
    let mut wire = Wire::connect(&addr).expect("connects");
    assert_eq!(
        wire.produce("orders", archived.partition, archived.batch.clone()).expect("answers"),
        Ok(archived.offset)
    );
    let mut next = Writer::new(&addr, "orders", PARTITIONS);
    assert!(next.id() >= 2 << 40 && next.id() != writer.id(), "producer ids are not given out twice: {}", next.id());
    next.write(&addr, 40);
    for told in &next.told {
        assert!(told.offset >= ends[told.partition as usize], "new records come after the old ones");
    }
    assert_eq!(
        read_all(&addr, "orders", PARTITIONS).iter().map(|found| found.len() as u64).sum::<u64>(),
        ends.iter().sum::<u64>() + 40
    );
    commit(&addr, &[(0, 60)]);
    broker.wait_topic("orders", "archive and table go on", PATIENCE, |partitions| {
        partitions
            .iter()
            .all(|p| p["archived_end_offset"] == p["high_watermark"] && p["table_offset"] == p["high_watermark"])
    });
    assert!(broker.cli(&["restore", "lift"]).contains("the hold has ended"));
    assert!(broker.cli(&["restore", "lift"]).contains("nothing is held"));
    broker.stop();

    // It is a cluster like any other: it starts again, and the one that was lost does not.
    let broker = Broker::start(&options);
    assert_eq!(committed(&addr), [(0, 60), (1, 90), (2, 7)]);
    broker.stop();
    let lost = Options { data: old, ..options.clone() };
    let mut refused = Broker::spawn(&lost);
    let begun = Instant::now();
    while refused.ended().is_none() {
        assert!(begun.elapsed() < PATIENCE, "the lost cluster serves:\n{}", refused.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(refused.log().contains("lives on in epoch 2"), "{}", refused.log());
    let again = restore(&bucket, &options.data, &["--exit"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("needs an empty directory"), "{said}");
}

#[test]
fn three_brokers_come_back_and_lose_one_of_them() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let expected = ["broker", "tried again", "tries again", "try again", "looking again", "replica", "Raft", "raft"];
    let options = ClusterOptions {
        bucket: Some(bucket.clone()),
        expected: expected.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    let addr = cluster.broker(0).kafka.clone();
    create(&addr, "orders", PARTITIONS, &[QUICK]);
    cluster.wait_balanced("orders", PATIENCE);
    // Each partition through our client, which finds its leader.
    let values = fill(&cluster.bootstrap(), 0..200);
    cluster.broker(0).wait_topic("orders", "all is archived", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
    commit(&cluster.bootstrap(), &[(0, 11)]);
    std::thread::sleep(Duration::from_secs(12));
    (0..3).for_each(|n| cluster.kill(n));
    (0..3).for_each(|n| cluster.wipe(n));

    let done = restored(&bucket, &cluster.options[0].data.clone(), &["--exit"]);
    assert_eq!(ends_of(&done).iter().filter(|((topic, _), _)| topic == "orders").map(|(_, end)| end).sum::<u64>(), 200);
    cluster.spawn(0);
    cluster.wait_ready();
    assert_eq!(read_all(&addr, "orders", PARTITIONS).concat().len(), 200, "one broker serves all");
    cluster.spawn(1);
    cluster.spawn(2);
    cluster.wait_ready();
    println!("{}", cluster.broker(0).cli(&["cluster", "grow"]));
    cluster.wait_healthy(Duration::from_secs(120));
    cluster.wait_balanced("orders", Duration::from_secs(120));
    let more = fill(&cluster.bootstrap(), 200..300);
    cluster.kill(0);
    let two = cluster.broker(1).kafka.clone();
    let begun = Instant::now();
    let mut all = loop {
        let read = std::panic::catch_unwind(|| read_all(&two, "orders", PARTITIONS).concat());
        match read {
            Ok(all) if all.len() == 300 => break all,
            other => assert!(begun.elapsed() < PATIENCE, "{:?}", other.map(|all| all.len())),
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    all.sort_unstable();
    let mut expected = [values, more].concat();
    expected.sort_unstable();
    assert_eq!(all, expected);
    assert_eq!(committed(&two), [(0, 11)]);
}

/// Writes values round the partitions; which.
fn fill(bootstrap: &str, which: std::ops::Range<usize>) -> Vec<String> {
    use tidewater::client::Producer;
    use tidewater_storage::model::record::Record;
    use tidewater_storage::model::{Compression, TimestampMs};
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_millis() as i64;
    run(async {
        let client = Client::connect(bootstrap).await.expect("connects");
        let mut producer = Producer::new(client, "orders", Compression::None).await.expect("a producer id");
        let mut values = Vec::new();
        for n in which {
            let value = format!("value {n:05}");
            values.push(value.clone());
            let record = Record::new(TimestampMs(now), None, Some(value.into()));
            producer.send(n as i32 % PARTITIONS, vec![record]).await.expect("sent");
        }
        producer.flush().await.expect("acknowledged");
        values
    })
}
