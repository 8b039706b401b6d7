//! A data directory and a bucket that an older version wrote and that a kill -9 ended: this version opens them, reads
//! the same, goes on, and opens what it wrote itself.
//!
//! `tests/golden/directories/<name>.tar.gz` holds both, `<name>.json` what the old version answered just before the
//! kill. `TIDEWATER_GOLDEN=write TIDEWATER_BIN=<binary of the old version> TIDEWATER_DIRECTORY=<name>` makes a new
//! pair.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidewater::client::{Client, OffsetQuery};
use tidewater_storage::model::record::{BatchBuilder, Record, RecordHeader};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId, TimestampMs};

use super::steady::{create, files, run, serves_on};
use super::support::broker::{Broker, Options};
use super::support::cache::source;
use super::support::python;
use super::support::wire::Wire;

/// Every sample that is read; a new version adds one.
const SAMPLES: &[&str] = &["48cd2ee"];
/// A table names its files by absolute URLs, so a sample is always unpacked to where it was made.
const HOME: &str = "/tmp/tidewater-golden";
const PATIENCE: Duration = Duration::from_secs(120);
/// Timestamp of the first record, in ms.
const TIME: i64 = 1_767_225_600_000;

const TIERED: &[(&str, &str)] = &[
    ("retention.ms", "-1"),
    ("segment.bytes", "16384"),
    ("archive.lag.ms", "100"),
    ("local.retention.bytes", "16384"),
];
const TRICKLE: &[(&str, &str)] = &[("retention.ms", "-1"), ("archive.lag.ms", "100")];
const UNTIERED: &[(&str, &str)] =
    &[("retention.ms", "-1"), ("segment.bytes", "16384"), ("remote.storage.enable", "false")];
const TABLE: &[(&str, &str)] = &[
    ("retention.ms", "-1"),
    ("archive.lag.ms", "100"),
    ("iceberg.mode", "key_value"),
    ("iceberg.target.lag.ms", "200"),
];

/// What a broker answers about everything that it holds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listing {
    cluster: String,
    topics: BTreeMap<String, Topic>,
    /// By group: topic, partition, offset, metadata.
    groups: BTreeMap<String, Vec<(String, i32, u64, String)>>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Topic {
    id: String,
    overrides: BTreeMap<String, String>,
    partitions: Vec<Partition>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Partition {
    earliest: u64,
    latest: u64,
    /// The first offset at or after some times.
    at_times: Vec<Option<u64>>,
    /// Offset, timestamp, key, value, headers; long values as length and checksum.
    records: Vec<String>,
}

/// The expectation beside a sample.
#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    listing: Listing,
    /// The idempotent producer: id, epoch.
    producer: (i64, i16),
    /// Where its last batch lies: topic, partition, sequence, base offset.
    last_batches: Vec<(String, i32, i32, u64)>,
}

#[test]
fn what_an_older_version_wrote_is_read_and_goes_on() {
    let home = PathBuf::from(HOME);
    std::fs::create_dir_all(&home).expect("a directory for samples");
    let lock = File::create(home.join("lock")).expect("a lock file");
    lock.lock().expect("one user of the directory at a time");
    if std::env::var_os("TIDEWATER_GOLDEN").is_some_and(|v| v == "write") {
        let name = std::env::var("TIDEWATER_DIRECTORY").expect("TIDEWATER_DIRECTORY names the sample");
        return make(&home, &name);
    }
    for name in SAMPLES {
        check(&home, name);
    }
}

fn options(home: &Path) -> Options {
    let mut options = Options::new(&home.join("data"))
        .arg("--shards", "2")
        .arg("--offsets-retention-minutes", "1000000000")
        .arg("--producer-id-expiration-ms", "1000000000000000");
    options.bucket = Some(format!("file://{}", home.join("bucket").display()));
    options
}

fn empty(home: &Path) {
    for part in ["data", "bucket"] {
        let _ = std::fs::remove_dir_all(home.join(part));
    }
    let _ = std::fs::remove_file(home.join("data.log"));
}

/// Unpacks a sample, opens it and compares; then writes, opens it again and compares again.
fn check(home: &Path, name: &str) {
    let kept = source("golden/directories");
    empty(home);
    tar(&["-xzf", &kept.join(format!("{name}.tar.gz")).display().to_string(), "-C", HOME]);
    let text = std::fs::read_to_string(kept.join(format!("{name}.json"))).expect("the expectation");
    let sample: Sample = serde_json::from_str(&text).expect("the expectation is well formed");
    let options = options(home);
    let broker = Broker::start(&options);
    same(&sample.listing, &listing(&broker), name);
    table_is_log(&broker, home, &sample.listing);
    let mut now = sample.listing;

    // Idempotence goes on: the last batch again is a duplicate, the next one is appended, one too far is refused.
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    for (topic, partition, sequence, base) in &sample.last_batches {
        let batch = |sequence| batch_of(sequence as u64, 1, Some((sample.producer, sequence)));
        let mut send = |sequence| wire.produce(topic, *partition, batch(sequence)).expect("an answer");
        assert_eq!(send(*sequence), Ok(*base), "{name}: a duplicate of {topic}/{partition}");
        let (code, _) = send(sequence + 2).expect_err("out of order");
        assert_eq!(code, 45, "OUT_OF_ORDER_SEQUENCE_NUMBER");
        let end = now.topics[topic].partitions[*partition as usize].latest;
        assert_eq!(send(sequence + 1), Ok(end), "{name}: the next batch of {topic}/{partition}");
    }
    for (topic, held) in &now.topics {
        for partition in 0..held.partitions.len() {
            let answer = wire.produce(topic, partition as i32, batch_of(900, 3, None)).expect("an answer");
            assert!(answer.is_ok(), "{name}: {topic}/{partition}: {answer:?}");
        }
    }
    run(async { Client::connect(&broker.kafka).await?.commit("late", "tiered", &[(0, 7)]).await }).expect("commits");
    let later = listing(&broker);
    for (topic, held) in &now.topics {
        for (before, after) in held.partitions.iter().zip(&later.topics[topic].partitions) {
            let kept = after.records.get(..before.records.len()).expect("nothing is lost");
            assert_eq!(kept, before.records, "{name}: {topic}");
            assert!(after.records.len() >= before.records.len() + 3, "{name}: {topic}");
        }
    }
    now = later;
    table_is_log(&broker, home, &now);
    broker.stop();
    let broker = Broker::start(&options);
    same(&now, &listing(&broker), name);
    broker.kill();
    let broker = Broker::start(&options);
    same(&now, &listing(&broker), name);
    table_is_log(&broker, home, &now);
    serves_on(&broker);
    broker.stop();
    empty(home);
}

fn same(expected: &Listing, found: &Listing, name: &str) {
    assert_eq!(expected.cluster, found.cluster, "{name}: cluster");
    assert_eq!(expected.groups, found.groups, "{name}: groups");
    let names = |listing: &Listing| listing.topics.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(expected), names(found), "{name}: topics");
    for (topic, held) in &expected.topics {
        assert_eq!(held, &found.topics[topic], "{name}: {topic}");
    }
}

/// Everything through the protocol.
fn listing(broker: &Broker) -> Listing {
    run(async {
        let mut client = Client::connect(&broker.kafka).await.expect("connects");
        let cluster = client.cluster().await.expect("a cluster").cluster_id;
        let mut topics = BTreeMap::new();
        for info in client.topics().await.expect("topics").into_iter().filter(|info| !info.internal) {
            let configs = client.topic_configs(&info.name).await.expect("settings");
            let overrides = configs.into_iter().filter(|config| config.is_override);
            let overrides = overrides.map(|config| (config.name, config.value.unwrap_or_default())).collect();
            let mut partitions = Vec::new();
            for partition in 0..info.partitions.len() as i32 {
                partitions.push(partition_of(&mut client, &info.name, partition).await);
            }
            topics.insert(info.name, Topic { id: info.id, overrides, partitions });
        }
        topics.remove("steady");
        let mut groups = BTreeMap::new();
        for summary in client.groups().await.expect("groups") {
            let offsets = client.group_offsets(&summary.group).await.expect("offsets");
            let offsets = offsets.into_iter().map(|o| (o.topic, o.partition, o.offset, o.metadata)).collect();
            groups.insert(summary.group, offsets);
        }
        Listing { cluster, topics, groups }
    })
}

async fn partition_of(client: &mut Client, topic: &str, partition: i32) -> Partition {
    let mut offset = async |query| {
        let found = client.list_offsets(topic, &[partition], query).await.expect("offsets");
        found.first().expect("a partition").1
    };
    let earliest = offset(OffsetQuery::Earliest).await.expect("a log start");
    let latest = offset(OffsetQuery::Latest).await.expect("an end");
    let mut at_times = Vec::new();
    for n in [0, 5, 100, 300, 800] {
        at_times.push(offset(OffsetQuery::AtTime(TIME + n)).await);
    }
    let (mut at, mut records) = (earliest, Vec::new());
    while at < latest {
        let found = client.fetch(topic, &[(partition, at)], 1000, 4 << 20).await.expect("fetch");
        let found = found.into_iter().next().expect("a partition");
        records.extend(found.records.iter().map(line));
        assert!(found.next_offset > at || found.records.is_empty());
        at = found.next_offset;
    }
    Partition { earliest, latest, at_times, records }
}

fn line(record: &Record) -> String {
    let text = |bytes: &Option<Bytes>| match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() <= 40 => String::from_utf8_lossy(bytes).into_owned(),
        Some(bytes) => format!("{} bytes, crc {:08x}", bytes.len(), crc32c::crc32c(bytes)),
    };
    let mut line =
        format!("{} {} {} {}", record.offset.get(), record.timestamp.0, text(&record.key), text(&record.value));
    for header in &record.headers {
        line += &format!(" {}={}", String::from_utf8_lossy(&header.key), text(&header.value));
    }
    line
}

/// Waits until the table has all of its topic, then compares every row with `PyIceberg`.
fn table_is_log(broker: &Broker, home: &Path, listing: &Listing) {
    broker.wait_topic("table", "the table has caught up", PATIENCE, caught_up);
    let mut lines = String::new();
    for (partition, held) in listing.topics["table"].partitions.iter().enumerate() {
        for record in &held.records {
            let mut words = record.split(' ');
            let mut next = || words.next().expect("offset, timestamp, key, value");
            let (offset, _, key, value) = (next(), next(), next(), next());
            lines += &format!("{partition}\t{offset}\t{key}\t{value}\n");
        }
    }
    let log = home.join("log.tsv");
    std::fs::write(&log, lines).expect("file");
    let catalog = format!("http://{}", broker.catalog);
    println!("{}", python::script("crash/table.py", &[&catalog, "table", &log.display().to_string()], &[]).trim());
}

fn caught_up(partitions: &[Value]) -> bool {
    archived(partitions) && partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
}

fn archived(partitions: &[Value]) -> bool {
    !partitions.is_empty() && partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
}

fn trimmed(partitions: &[Value]) -> bool {
    archived(partitions) && partitions.iter().all(|p| p["local_start_offset"].as_u64() > Some(0))
}

fn tar(args: &[&str]) {
    let output = Command::new("tar").args(args).output().expect("tar runs");
    assert!(output.status.success(), "tar {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Records with times, keys and values that follow from their number; of a producer with a sequence, or of none.
fn batch_of(first: u64, count: u64, producer: Option<((i64, i16), i32)>) -> Bytes {
    batch(Compression::None, first, count, 0, producer)
}

fn batch(codec: Compression, first: u64, count: u64, pad: usize, producer: Option<((i64, i16), i32)>) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    if let Some(((id, epoch), sequence)) = producer {
        builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    }
    for n in first..first + count {
        let value = format!("value-{n}{}", "=".repeat(pad));
        let (key, value) = (Bytes::from(format!("key-{}", n % 7)), Bytes::from(value));
        let mut record = Record::new(TimestampMs(TIME + n as i64), Some(key), Some(value));
        if n % 11 == 10 {
            let (key, value) = (Bytes::from_static(b"n"), Some(Bytes::from(n.to_string())));
            record.headers.push(RecordHeader { key, value });
        }
        builder.push(record);
    }
    builder.build()
}

/// Makes a sample with the binary that `TIDEWATER_BIN` names.
fn make(home: &Path, name: &str) {
    empty(home);
    let options = options(home);
    let broker = Broker::start(&options);
    for (topic, partitions, settings) in [
        ("tiered", 3, TIERED),
        ("spilled", 1, TIERED),
        ("trickle", 1, TRICKLE),
        ("untiered", 2, UNTIERED),
        ("table", 2, TABLE),
        ("deleted", 2, TIERED),
        ("altered", 1, TIERED),
    ] {
        create(&broker, topic, partitions, settings);
    }
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let send = |wire: &mut Wire, topic: &str, partition: i32, batch: Bytes| {
        wire.produce(topic, partition, batch).expect("an answer").expect("appended")
    };
    let kinds = |kind: &str| files(&home.join("bucket"), &format!("/{kind}/"));
    let wait_for = |kind: &str| {
        let start = Instant::now();
        while kinds(kind).is_empty() {
            assert!(start.elapsed() < PATIENCE, "the bucket has no {kind}:\n{}", broker.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    // Bundles of one record each, so many that they are gathered.
    for n in 0..300 {
        send(&mut wire, "trickle", 0, batch_of(n, 1, None));
        std::thread::sleep(Duration::from_millis(115));
    }
    wait_for("gathered");
    // Many segments.
    for n in 0..1200 {
        send(&mut wire, "spilled", 0, batch(Compression::None, n, 1, 17_000, None));
    }
    for (n, codec) in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
        .into_iter()
        .cycle()
        .take(40)
        .enumerate()
    {
        for (topic, partitions) in [("tiered", 3), ("untiered", 2), ("table", 2), ("deleted", 2), ("altered", 1)] {
            let pad = if topic == "table" { 0 } else { 300 };
            send(&mut wire, topic, n as i32 % partitions, batch(codec, n as u64 * 20, 20, pad, None));
        }
    }
    let (id, epoch) = wire.producer().expect("a producer id");
    let identity = (id.0, epoch.0);
    for sequence in 0..8 {
        for topic in ["tiered", "untiered"] {
            send(&mut wire, topic, 0, batch_of(sequence as u64, 1, Some((identity, sequence))));
        }
    }
    commit(&broker, "readers", "tiered", &[(0, 10), (1, 20), (2, 30)]);
    commit(&broker, "readers", "untiered", &[(0, 1)]);
    commit(&broker, "gone", "tiered", &[(0, 1)]);
    for topic in ["tiered", "spilled", "trickle"] {
        broker.wait_topic(topic, "archived", PATIENCE, archived);
    }
    broker.wait_topic("spilled", "trimmed", PATIENCE, trimmed);
    broker.wait_topic("table", "caught up", PATIENCE, caught_up);
    run(async {
        let mut client = Client::connect(&broker.kafka).await?;
        client.delete_records("tiered", &[(1, 25)]).await?;
        client.delete_records("untiered", &[(1, 30)]).await?;
        client.delete_topic("deleted").await?;
        client.delete_group("gone").await
    })
    .expect("trimmed and deleted");
    ["segments", "manifests", "pages"].into_iter().for_each(wait_for);
    broker.stop();

    // A second life, which ends in a kill: what follows the last checkpoint is in the journal alone.
    let broker = Broker::start(&options);
    std::thread::sleep(Duration::from_secs(2));
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    for (topic, partitions) in [("tiered", 3), ("untiered", 2), ("table", 2), ("trickle", 1), ("spilled", 1)] {
        for n in 0..6 {
            send(&mut wire, topic, n % partitions, batch(Compression::None, 850 + n as u64 * 4, 4, 0, None));
        }
    }
    let mut last_batches = Vec::new();
    for topic in ["tiered", "untiered"] {
        for sequence in 8..11 {
            let batch = batch_of(sequence as u64, 1, Some((identity, sequence)));
            let base = send(&mut wire, topic, 0, batch);
            if sequence == 10 {
                last_batches.push((topic.to_owned(), 0, sequence, base));
            }
        }
    }
    let tail = |name: &str| vec![("retention.bytes".to_owned(), Some(name.to_owned()))];
    run(async {
        let mut client = Client::connect(&broker.kafka).await?;
        client.add_partitions("altered", 3).await?;
        client.alter_configs("altered", &tail("123456789")).await?;
        client.delete_records("tiered", &[(1, 33)]).await?;
        client.delete_records("untiered", &[(1, 44)]).await
    })
    .expect("altered");
    create(&broker, "late", 2, TIERED);
    send(&mut wire, "late", 1, batch_of(1, 2, None));
    send(&mut wire, "altered", 2, batch_of(2, 5, None));
    commit(&broker, "readers", "tiered", &[(0, 11), (1, 34)]);
    let sample = Sample { listing: listing(&broker), producer: identity, last_batches };
    broker.kill();

    let kept = source("golden/directories");
    let json = serde_json::to_string_pretty(&sample).expect("JSON");
    std::fs::write(kept.join(format!("{name}.json")), json + "\n").expect("writes the expectation");
    let archive = kept.join(format!("{name}.tar.gz")).display().to_string();
    tar(&[
        "--sparse",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "-I",
        "gzip -9",
        "-cf",
        &archive,
        "-C",
        HOME,
        "data",
        "bucket",
    ]);
    println!("{archive}: {} bytes", std::fs::metadata(&archive).expect("the archive").len());
    empty(home);
}

fn commit(broker: &Broker, group: &str, topic: &str, offsets: &[(i32, u64)]) {
    run(async { Client::connect(&broker.kafka).await?.commit(group, topic, offsets).await }).expect("commits");
}
