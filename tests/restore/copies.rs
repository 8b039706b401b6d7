//! One topic of a bucket in a living cluster: `topic fork` and `restore --topic`, under load, over kill -9, with one
//! broker and with three, and what is refused.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use tidewater::client::{Client, OffsetQuery, Producer};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Batch, Compression, TimestampMs};

use super::run;
use super::support::broker::{Broker, Options, binary, http_ask, http_get};
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::python::kafka_clients;
use super::support::wire::Wire;
use super::tools::{create, ends_of, read_all, restored};
use super::writer::Writer;

const PATIENCE: Duration = Duration::from_secs(120);
const QUICK: (&str, &str) = ("archive.lag.ms", "300");

fn tidewater(words: &[&str]) -> Output {
    Command::new(binary()).args(words).output().expect("the command runs")
}

/// The JSON of a command that must succeed.
fn done(words: &[&str]) -> Value {
    let output = tidewater(&[words, &["--json"]].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn refused(words: &[&str], expected: &str) {
    let output = tidewater(words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
    assert!(said.contains(expected), "{words:?}: {said}");
}

fn archived(broker: &Broker, topic: &str) {
    broker.wait_topic(topic, "all is archived", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
}

fn make_cut(admin: &str) -> Value {
    let (status, body) = http_ask(admin, "POST", "/v1/cuts", &[("Host", admin)]).expect("answers");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

fn copy_of(admin: &str, topic: &str) -> Value {
    let (status, body) = http_get(admin, &format!("/v1/copies/{topic}")).expect("answers");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// A batch as it is stored: first offset, leader epoch, greatest timestamp, records, producer.
type Stored = (u64, i32, i64, u32, Option<i64>);

/// The batches of a partition from its log start on.
fn batches(addr: &str, topic: &str, partition: i32, from: u64) -> Vec<Stored> {
    run(async {
        let mut client = Client::connect(addr).await.expect("connects");
        let (mut at, mut all): (u64, Vec<Stored>) = (from, Vec::new());
        loop {
            let fetched = client.fetch(topic, &[(partition, at)], 1000, 4 << 20).await.expect("fetch");
            let fetched = fetched.into_iter().next().expect("a partition");
            let mut bytes: Bytes = fetched.bytes;
            while let Ok(Batch { header, .. }) = Batch::split_from(&mut bytes) {
                let producer = header.producer_id.map(|id| id.0);
                let base = header.base_offset.get();
                all.push((base, header.leader_epoch.0, header.max_timestamp.0, header.record_count, producer));
            }
            at = fetched.next_offset;
            if at >= fetched.high_watermark {
                return all;
            }
        }
    })
}

/// The same, without producers: a copy has none.
fn shapes(addr: &str, topic: &str, partition: i32, from: u64) -> Vec<(u64, i32, i64, u32)> {
    let all = batches(addr, topic, partition, from);
    all.into_iter().map(|(base, epoch, time, records, _)| (base, epoch, time, records)).collect()
}

fn rows(document: &Value) -> Vec<(u64, u64)> {
    let rows = document["partitions"].as_array().expect("partitions");
    rows.iter().map(|row| (row["log_start"].as_u64().expect("a number"), row["end"].as_u64().expect("one"))).collect()
}

/// What confluent-kafka reads of a topic: a line for each record.
fn read_with_confluent(addr: &str, topic: &str) -> Vec<String> {
    let script = super::support::cache::source("restore/read.py");
    let output = Command::new(kafka_clients()).arg(script).args([addr, topic]).output().expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(ToOwned::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Writes so many records of 1,000 bytes, in batches, round three partitions.
fn fill(addr: &str, topic: &str, records: usize) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    run(async {
        let client = Client::connect(addr).await.expect("connects");
        let mut producer = Producer::new(client, topic, Compression::None).await.expect("a producer id");
        for n in 0..records / 50 {
            let batch = (0..50).map(|k| {
                let value = format!("{:0>1000}", n * 50 + k);
                Record::new(TimestampMs(now - n as i64), None, Some(value.into()))
            });
            producer.send((n % 3) as i32, batch.collect()).await.expect("sent");
        }
        producer.flush().await.expect("acknowledged");
    });
}

#[test]
fn a_topic_is_forked_under_load_and_both_go_their_own_way() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let options = Options { bucket: Some(bucket), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options.arg("--cut-interval-ms", "0"));
    let (addr, admin) = (broker.kafka.clone(), broker.admin.clone());
    create(&addr, "orders", 3, &[QUICK, ("retention.ms", "3600000"), ("iceberg.target.lag.ms", "600")]);
    let mut writer = Writer::new(&addr, "orders", 3);
    writer.write(&addr, 150);
    run(async { Client::connect(&addr).await?.delete_records("orders", &[(1, 10)]).await }).expect("trims");
    // With the next records, the bucket says so.
    writer.write(&addr, 150);
    archived(&broker, "orders");
    assert_eq!(make_cut(&admin)["made"], true);
    let before: Vec<_> = (0..3).map(|n| shapes(&addr, "orders", n, if n == 1 { 10 } else { 0 })).collect();
    let by_confluent = read_with_confluent(&addr, "orders");

    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (addr, stop) = (addr.clone(), Arc::clone(&stop));
        std::thread::spawn(move || writer.run(&addr, &stop))
    };
    let fork = ["topic", "fork", "orders", "--at", "newest", "--as", "orders_test", "--admin", &admin];
    let made = done(&fork);
    stop.store(true, Ordering::Relaxed);
    let writer = load.join().expect("ends");
    assert!(writer.told.len() > 300, "the source is written meanwhile");
    assert_eq!((made["state"].as_str(), made["cut"].as_u64()), (Some("complete"), Some(1)), "{made}");
    assert_eq!(rows(&made), [(0, 100), (10, 100), (0, 100)], "{made}");
    assert_eq!(made["left_out"], serde_json::json!(["iceberg.target.lag.ms"]));

    // Offsets, leader epochs, timestamps and batches are the source's as of the cut.
    for (n, before) in (0..3).zip(&before) {
        let from = if n == 1 { 10 } else { 0 };
        assert_eq!(&shapes(&addr, "orders_test", n, from), before, "partition {n}");
        assert!(batches(&addr, "orders_test", n, from).iter().all(|batch| batch.4.is_none()), "no producers");
    }
    assert_eq!(read_with_confluent(&addr, "orders_test"), by_confluent);
    let starts = run(async {
        let mut client = Client::connect(&addr).await?;
        client.list_offsets("orders_test", &[0, 1, 2], OffsetQuery::Earliest).await
    });
    let mut starts = starts.expect("answers");
    starts.sort_unstable();
    assert_eq!(starts, [(0, Some(0)), (1, Some(10)), (2, Some(0))]);
    let configs = super::tools::settings(&addr, "orders_test");
    assert_eq!(configs.get("retention.ms").cloned().flatten().as_deref(), Some("3600000"));
    refused(&fork, "topic orders_test exists already");

    // The fork is written by the producer that wrote the source, and forked again.
    let mut other = Writer::new(&addr, "orders_test", 3);
    other.write(&addr, 30);
    assert!(other.told.iter().all(|told| told.offset >= 100), "new records come after the copied ones");
    let last = batches(&addr, "orders_test", 0, 100);
    assert!(last.len() == 10 && last.iter().all(|batch| batch.1 > before[0][99].1), "leader epochs rise: {last:?}");
    archived(&broker, "orders_test");
    let again = done(&["topic", "fork", "orders_test", "--as", "third", "--admin", &admin]);
    assert_eq!(rows(&again), [(0, 110), (10, 110), (0, 110)], "{again}");

    outlive_their_source(&broker, &dir.path().join("bucket"), &other, &by_confluent, &rows(&made));
    broker.stop();
}

/// What the source loses, its forks keep; and the cluster's own bucket brings the source back.
fn outlive_their_source(
    broker: &Broker,
    bucket: &Path,
    other: &Writer,
    by_confluent: &[String],
    at_the_cut: &[(u64, u64)],
) {
    let (addr, admin) = (broker.kafka.clone(), broker.admin.clone());
    run(async { Client::connect(&addr).await?.delete_topic("orders").await }).expect("is deleted");
    let mut told: Vec<String> = other.told.iter().map(|told| told.value.clone()).collect();
    told.extend(by_confluent.iter().map(|line| line.rsplit(' ').next().expect("a value").to_owned()));
    told.sort_unstable();
    for topic in ["orders_test", "third"] {
        let mut values: Vec<String> = read_with_confluent(&addr, topic)
            .iter()
            .map(|line| line.rsplit(' ').next().expect("a value").to_owned())
            .collect();
        values.sort_unstable();
        assert_eq!(values, told, "{topic}");
    }

    // A deleted topic comes back from the cluster's own bucket, as it was at the cut.
    let bucket = format!("file://{}", bucket.display());
    let words = ["restore", "--from", &bucket, "--topic", "orders", "--at", "newest", "--admin", &admin];
    let back = done(&words);
    assert_eq!(rows(&back), at_the_cut, "{back}");
    assert_eq!(read_with_confluent(&addr, "orders"), by_confluent);
    let all: Value = serde_json::from_str(&http_get(&admin, "/v1/copies").expect("answers").1).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(3), "{all}");
    let metrics = http_get(&admin, "/metrics").expect("answers").1;
    assert!(metrics.contains("tidewater_copy_partitions"), "{metrics}");
}

#[test]
fn a_fork_that_is_killed_goes_on_and_has_every_record_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let options = Options { bucket: Some(bucket), ..Options::new(&dir.path().join("data")) };
    let mut broker = Broker::start(&options);
    let (addr, admin) = (broker.kafka.clone(), broker.admin.clone());
    create(&addr, "orders", 3, &[QUICK, ("local.retention.ms", "1000"), ("segment.bytes", "1048576")]);
    fill(&addr, "orders", 30_000);
    // Within a batch: the copy has the whole batch, and begins where the topic begins.
    run(async { Client::connect(&addr).await?.delete_records("orders", &[(1, 25)]).await }).expect("trims");
    fill(&addr, "orders", 30_000);
    archived(&broker, "orders");
    let from = |partition| if partition == 1 { 25 } else { 0 };
    let before: Vec<_> = (0..3).map(|n| shapes(&addr, "orders", n, from(n))).collect();
    let fork = ["topic", "fork", "orders", "--as", "orders_test", "--admin", &admin];
    let begun = done(&[&fork[..], &["--no-wait"]].concat());
    assert_eq!(begun["resumed"], false, "{begun}");
    let mut in_the_midst = 0;
    for kill in 0..4 {
        std::thread::sleep(Duration::from_millis(60 + 90 * kill));
        let now = copy_of(&admin, "orders_test");
        let copied = now["copied"].as_u64().expect("a number");
        in_the_midst += u32::from(copied > 0 && copied < 59_975);
        println!("killed with {copied} records copied");
        broker.kill();
        broker = Broker::start(&options);
    }
    // How many depends on the machine: a copy of this size takes less than a second.
    println!("{in_the_midst} of 4 kills met a copy in the midst");
    // The same command again waits for the copy that is under way; or it is over, and the name is taken.
    let again = tidewater(&fork);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success() || said.contains("exists already"), "{said}");
    for (n, before) in (0..3).zip(&before) {
        assert_eq!(&shapes(&addr, "orders_test", n, from(n)), before, "partition {n}");
    }
    assert_eq!(rows(&copy_of(&admin, "orders_test")), [(0, 20_000), (25, 20_000), (0, 20_000)]);
    let status = broker.topic("orders_test");
    assert_eq!(status["partitions"][1]["log_start_offset"], 25, "{status}");
    archived(&broker, "orders_test");
    assert!(broker.cli(&["restore", "lift"]).contains("the hold has ended"), "that of the copy");
    broker.stop();
}

#[test]
fn one_topic_of_a_lost_cluster_comes_into_a_cluster_of_three() {
    let dir = tempfile::tempdir().expect("tempdir");
    let lost = format!("file://{}", dir.path().join("lost").display());
    let options = Options { bucket: Some(lost.clone()), ..Options::new(&dir.path().join("source")) };
    let source = Broker::start(&options);
    create(&source.kafka, "local", 1, &[("remote.storage.enable", "false")]);
    create(&source.kafka, "orders", 3, &[QUICK]);
    create(&source.kafka, "other", 2, &[QUICK]);
    fill(&source.kafka, "orders", 30_000);
    Writer::new(&source.kafka, "other", 2).write(&source.kafka, 20);
    archived(&source, "orders");
    archived(&source, "other");
    let before: Vec<_> = (0..3).map(|n| shapes(&source.kafka, "orders", n, 0)).collect();
    source.kill();

    let own = format!("file://{}", dir.path().join("own").display());
    let expected = ["a copy of a topic makes no progress", "peer", "lane"].map(ToOwned::to_owned).to_vec();
    let options = ClusterOptions { bucket: Some(own), expected, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(dir.path(), 3, &options);
    let addr = cluster.bootstrap();
    create(&addr, "orders", 1, &[]);
    let admin = cluster.broker(0).admin.clone();
    let words = ["restore", "--from", &lost, "--topic", "orders", "--as", "orders_old", "--admin", &admin];
    done(&[&words[..], &["--no-wait"]].concat());
    std::thread::sleep(Duration::from_millis(300));
    cluster.kill(2);
    // Not by the command again: the copy may be complete by now, and then its name is taken.
    let begun = Instant::now();
    let made = loop {
        let made = copy_of(&admin, "orders_old");
        if made["state"] == "complete" {
            break made;
        }
        assert!(begun.elapsed() < PATIENCE, "{made}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(rows(&made).iter().map(|row| row.1).sum::<u64>(), 30_000);
    let two: Vec<String> = [0, 1].map(|n| cluster.broker(n).kafka.clone()).to_vec();
    for (n, before) in (0..3).zip(&before) {
        assert_eq!(&shapes(&two.join(","), "orders_old", n, 0), before, "partition {n}");
    }
    cluster.spawn(2);
    cluster.wait_ready();
    cluster.wait_healthy(PATIENCE);
    let mut writer = Writer::new(&cluster.broker(0).kafka.clone(), "orders", 1);
    writer.write(&cluster.broker(cluster.leader_of("orders", 0).expect("a leader")).kafka.clone(), 5);

    refused(&words, "topic orders_old exists already");
    let ask = |more: &[&str]| -> Vec<String> {
        let all = ["restore", "--from", &lost, "--as", "new", "--admin", &admin];
        all.iter().chain(more).map(|word| (*word).to_owned()).collect()
    };
    let refuse = |more: &[&str], expected: &str| {
        let words = ask(more);
        refused(&words.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    };
    refused(&[&words[..], &["--plan"]].concat(), "topic orders_old exists already");
    refuse(&["--topic", "nothing", "--plan"], "has no topic nothing there");
    refuse(&["--topic", "nothing"], "has no topic nothing there");
    // It is not archived; the catalogue may be older than the topic.
    refuse(&["--topic", "local"], "local");
    refuse(&["--topic", "__consumer_offsets"], "is the broker's own");
    refuse(&["--topic", "other", "--at", "2001-01-01T00:00:00Z"], "tidewater restore cuts lists those that it has");
    refuse(&["--topic", "other", "--cluster-name", "prod"], "holds no cluster named prod; it holds tidewater");
    let none = format!("file://{}", dir.path().join("none").display());
    refused(&["restore", "--from", &none, "--topic", "other", "--admin", &admin], "none");
    assert!(http_get(&admin, "/v1/copies/new").is_some_and(|(status, _)| status == 404), "nothing was made");
}

/// Begins the copy `orders` with these words. Its bucket goes away in the midst; the copy as it stands there.
fn interrupt(admin: &str, words: &[&str], (objects, gone): (&Path, &Path)) -> Value {
    done(&[words, &["--no-wait"]].concat());
    std::fs::rename(objects, gone).expect("the bucket is away");
    let begun = Instant::now();
    while copy_of(admin, "orders")["state"] == "copying" && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
    }
    copy_of(admin, "orders")
}

fn is_complete(admin: &str, topic: &str) {
    let begun = Instant::now();
    while copy_of(admin, topic)["state"] != "complete" {
        assert!(begun.elapsed() < PATIENCE, "{}", copy_of(admin, topic));
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_copy_waits_for_its_bucket_and_producers_wait_for_the_copy() {
    let dir = tempfile::tempdir().expect("tempdir");
    let lost = format!("file://{}", dir.path().join("lost").display());
    let options = Options { bucket: Some(lost.clone()), ..Options::new(&dir.path().join("source")) };
    let source = Broker::start(&options);
    create(&source.kafka, "orders", 3, &[QUICK]);
    fill(&source.kafka, "orders", 60_000);
    archived(&source, "orders");
    source.kill();
    let own = format!("file://{}", dir.path().join("own").display());
    let options = Options { bucket: Some(own), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options.expect("a copy of a topic makes no progress"));
    let (addr, admin) = (broker.kafka.clone(), broker.admin.clone());
    let words = ["restore", "--from", &lost, "--topic", "orders", "--admin", &admin];
    let planned = done(&[&words[..], &["--plan"]].concat());
    assert_eq!((planned["restored"].as_bool(), planned["topic"].as_str()), (Some(false), Some("orders")), "{planned}");
    assert_eq!(ends_of(&planned).values().sum::<u64>(), 60_000, "{planned}");
    assert!(planned["report"]["lanes"][0]["written"].as_i64().is_some_and(|at| at > 0), "{planned}");
    let shown = tidewater(&[&words[..], &["--plan"]].concat());
    assert!(String::from_utf8_lossy(&shown.stdout).contains("nothing was changed"), "{shown:?}");
    assert!(http_get(&admin, "/v1/copies/orders").is_some_and(|(status, _)| status == 404), "nothing was made");
    let (objects, gone) = (dir.path().join("lost"), dir.path().join("gone"));
    let now = interrupt(&admin, &words, (&objects, &gone));
    println!("{} of {} records are copied", now["copied"], now["records"]);
    assert_eq!((now["state"].as_str(), now["from"].as_str()), (Some("failing"), Some(lost.as_str())), "{now}");
    let parts = now["partitions"].as_array().expect("partitions");
    let waiting = parts.iter().position(|part| part["complete"] == false).expect("one is not complete");
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Record::new(TimestampMs(1), None, Some("new".into())));
    let batch = builder.build();
    let mut wire = Wire::connect(&addr).expect("connects");
    let answer = wire.produce("orders", waiting as i32, batch).expect("answers");
    let (code, why) = answer.expect_err("the copy is under way");
    assert_eq!(code, 19, "NOT_ENOUGH_REPLICAS, which producers retry: {why}");
    std::fs::rename(&gone, &objects).expect("the bucket is back");
    is_complete(&admin, "orders");
    Writer::new(&addr, "orders", 3).write(&addr, 3);
    assert_eq!(read_all(&addr, "orders", 3).concat().len(), 60_003);
    broker.stop();
}

/// Two clusters are lost: first the one that is copied from, then, in the midst of the copy, the one that copies.
#[test]
fn a_copy_that_is_not_complete_goes_on_when_its_cluster_is_restored() {
    let dir = tempfile::tempdir().expect("tempdir");
    let [first, own] = ["first", "own"].map(|name| format!("file://{}", dir.path().join(name).display()));
    let source = Broker::start(&Options { bucket: Some(first.clone()), ..Options::new(&dir.path().join("source")) });
    create(&source.kafka, "orders", 3, &[QUICK]);
    fill(&source.kafka, "orders", 60_000);
    archived(&source, "orders");
    let shapes_of = |addr: &str| (0..3).map(|n| shapes(addr, "orders", n, 0)).collect::<Vec<_>>();
    let before = shapes_of(&source.kafka);
    source.kill();
    let options = Options { bucket: Some(own.clone()), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options.expect("a copy of a topic makes no progress"));
    let words = ["restore", "--from", &first, "--topic", "orders", "--admin", &broker.admin];
    let (objects, gone) = (dir.path().join("first"), dir.path().join("gone"));
    let now = interrupt(&broker.admin, &words, (&objects, &gone));
    assert_ne!(now["state"], "complete", "{now}");
    archived(&broker, "orders");
    broker.kill();
    let data = dir.path().join("again");
    let report = restored(&own, &data, &["--exit"]);
    assert_eq!(report["report"]["copies"], serde_json::json!(["orders"]), "{report}");
    println!("{} of {} records were archived", ends_of(&report).values().sum::<u64>(), now["records"]);
    let options = Options { bucket: Some(own), ..Options::new(&data) };
    let broker = Broker::start(&options.expect("a copy of a topic makes no progress"));
    std::fs::rename(&gone, &objects).expect("the bucket is back");
    is_complete(&broker.admin, "orders");
    assert_eq!(shapes_of(&broker.kafka), before, "offsets, leader epochs, timestamps and sizes of batches");
    Writer::new(&broker.kafka, "orders", 3).write(&broker.kafka, 3);
    assert_eq!(read_all(&broker.kafka, "orders", 3).concat().len(), 60_003);
    broker.stop();
}
