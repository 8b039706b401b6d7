//! Damaged files in the data directory, and a disk that is full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::scrape::{scrape, sum};
use super::steady::{batch, create, damage, fetch, files, produce, read_to_end, run, serves_on};
use super::support::broker::{Broker, Options};
use super::support::wire::Wire;

const CORRUPT_MESSAGE: i16 = 2;
const KAFKA_STORAGE_ERROR: i16 = 56;

fn options(dir: &tempfile::TempDir) -> Options {
    Options::new(&dir.path().join("data")).arg("--shards", "1")
}

/// Bytes written into a preallocated file.
fn written(path: &Path) -> usize {
    let bytes = std::fs::read(path).expect("file");
    bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

fn journal(data: &Path) -> PathBuf {
    data.join("shard-0/journal/00000001.journal")
}

fn write_some(broker: &Broker, topic: &str) -> Vec<String> {
    create(broker, topic, 1, &[]);
    let values: Vec<String> = (0..50).map(|n| format!("record {n} {}", "x".repeat(n * 40))).collect();
    for (n, value) in values.iter().enumerate() {
        assert_eq!(produce(broker, topic, 0, value.as_bytes()), n as u64);
    }
    values
}

#[test]
fn a_journal_damaged_in_its_middle_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = options(&dir);
    let broker = Broker::start(&options);
    let values = write_some(&broker, "kept");
    broker.kill();
    let path = journal(&options.data);
    let good = std::fs::read(&path).expect("journal");
    let end = written(&path);
    // Commits are aligned: the middle of the last third holds records, not padding.
    let marker = b"record 25 ";
    let at = good.windows(marker.len()).position(|window| window == marker).expect("record 25 is in the journal");
    assert!(at < end);
    damage(&path, at);
    let mut broker = Broker::spawn(&options);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = broker.ended() {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it runs on a damaged journal:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(1), "an error, not a crash:\n{}", broker.log());
    let log = broker.log();
    let line =
        log.lines().find(|line| line.contains("is corrupt at")).unwrap_or_else(|| panic!("no word of it:\n{log}"));
    assert!(line.contains("00000001.journal") && line.contains("restore"), "{line}");
    assert!(!log.contains("panicked"), "{log}");
    // With the file restored, it starts with all records.
    std::fs::write(&path, good).expect("write");
    let broker = Broker::start(&options);
    assert_eq!(read_to_end(&broker, "kept", 0, 0), values);
    serves_on(&broker);
}

#[test]
fn a_torn_tail_of_the_journal_is_cut_off() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = options(&dir);
    let broker = Broker::start(&options);
    let values = write_some(&broker, "kept");
    broker.kill();
    let path = journal(&options.data);
    let end = written(&path).next_multiple_of(4096);
    let mut bytes = std::fs::read(&path).expect("journal");
    // What a power cut leaves of a commit: its first sector and noise.
    let last = end - 4096;
    bytes.copy_within(last..last + 512, end);
    bytes[end + 512..end + 1500].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 31) as u8);
    std::fs::write(&path, bytes).expect("write");
    let broker = Broker::start(&options);
    assert_eq!(read_to_end(&broker, "kept", 0, 0), values);
    assert_eq!(produce(&broker, "kept", 0, b"goes on"), 50);
    broker.kill();
    let broker = Broker::start(&options);
    assert_eq!(read_to_end(&broker, "kept", 0, 0).len(), 51);
    serves_on(&broker);
    broker.stop();
}

#[test]
fn files_cut_to_nothing_are_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = options(&dir);
    let broker = Broker::start(&options);
    write_some(&broker, "kept");
    broker.stop();
    for file in ["shard-0/journal/layout", "node.json"] {
        let path = options.data.join(file);
        let good = std::fs::read(&path).expect("file");
        std::fs::write(&path, &good[..good.len() / 2]).expect("write");
        let mut broker = Broker::spawn(&options);
        let start = Instant::now();
        while broker.ended().is_none() {
            assert!(start.elapsed() < Duration::from_secs(30), "it runs with half of {file}:\n{}", broker.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let log = broker.log();
        let name = file.rsplit('/').next().expect("name");
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(name) || last.contains("data directory"), "{file}: {last}");
        assert!(!log.contains("panicked"), "{log}");
        std::fs::write(&path, good).expect("write");
    }
    let broker = Broker::start(&options);
    assert_eq!(read_to_end(&broker, "kept", 0, 0).len(), 50);
    serves_on(&broker);
}

#[test]
fn a_damaged_segment_file_is_an_error_not_wrong_data() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = options(&dir).expect("local data is damaged").expect("archiving");
    let broker = Broker::start(&options);
    create(&broker, "rotten", 1, &[("archive.lag.ms", "3600000")]);
    create(&broker, "sound", 1, &[("archive.lag.ms", "3600000")]);
    let value = vec![b'v'; 50_000];
    for topic in ["rotten", "sound"] {
        (0..40).for_each(|n| assert_eq!(produce(&broker, topic, 0, &value), n));
    }
    broker.stop();
    let all = files(&options.data.join("p"), ".log");
    let path = all.iter().find(|path| std::fs::metadata(path).is_ok_and(|m| m.len() > 1 << 20)).expect("a segment");
    damage(path, 1_000_000);
    let broker = Broker::start(&options);
    let (mut refused, mut whole) = (0, 0);
    for topic in ["rotten", "sound"] {
        // Batch by batch: 20 is the damaged one of one topic, and no other.
        for offset in 0..40 {
            let mut wire = Wire::connect(&broker.kafka).expect("connects");
            match one(&mut wire, topic, offset) {
                Ok(found) => {
                    assert!(found == value, "wrong data at {topic} {offset}");
                    whole += 1;
                }
                Err(code) => {
                    assert_eq!(code, CORRUPT_MESSAGE);
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 0, "the damage was not seen");
    assert!(whole >= 60, "{whole} of 80 batches are to be had");
    assert!(broker.log().contains("local data is damaged"), "{}", broker.log());
    serves_on(&broker);
    broker.stop();
}

/// The value at one offset, or the error's code.
fn one(wire: &mut Wire, topic: &str, offset: u64) -> Result<bytes::Bytes, i16> {
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::{BrokerId, FetchRequest, TopicName};
    use kafka_protocol::protocol::StrBytes;
    use tidewater_storage::model::BatchHeader;
    use tidewater_storage::model::record::read_all;
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset as i64)
        .with_partition_max_bytes(1000);
    let asked = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(100)
        .with_min_bytes(1)
        .with_max_bytes(1000)
        .with_session_epoch(-1)
        .with_topics(vec![asked]);
    let answer = wire.call(&request, 11).expect("an answer");
    let part = answer.responses.first().and_then(|topic| topic.partitions.first()).expect("a partition");
    if part.error_code != 0 {
        return Err(part.error_code);
    }
    let bytes = part.records.clone().expect("records");
    let header = BatchHeader::parse(&bytes).expect("a batch");
    header.verify_crc(&bytes).expect("a good checksum");
    let records = read_all(&header, &bytes, 1 << 20).expect("records");
    let record = records.into_iter().find(|record| record.offset.get() == offset).expect("the record asked for");
    Ok(record.value.expect("a value"))
}

#[test]
fn a_full_disk_refuses_writes_until_something_goes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = options(&dir).expect("the disk is full").arg("--disk-bytes", "400MiB").arg("--cache-bytes", "16MiB");
    let broker = Broker::start(&options);
    // Not archived: what is in the bucket goes only after a grace.
    create(&broker, "fat", 1, &[("remote.storage.enable", "false"), ("segment.bytes", "16777216")]);
    create(&broker, "thin", 1, &[]);
    produce(&broker, "thin", 0, b"before");
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let block = vec![b'f'; 900_000];
    let mut appended = 0;
    let refused = loop {
        match wire.produce("fat", 0, batch(&[&block])).expect("an answer") {
            Ok(_) => appended += 1,
            Err(refused) => break refused,
        }
        assert!(appended < 500, "450 MB went into a budget of 400 MiB");
    };
    assert_eq!(refused.0, KAFKA_STORAGE_ERROR, "{}", refused.1);
    assert!(refused.1.contains("disk budget") || refused.1.contains("--disk-bytes"), "{}", refused.1);
    assert!(appended > 20, "refused after {appended} batches");
    // A checkpoint may have made room for a few more meanwhile.
    let mut refusals = (0..40).map(|_| wire.produce("thin", 0, batch(&[&block])).expect("an answer"));
    let refused = refusals.find_map(Result::err).expect("no room for 36 MB");
    assert_eq!(refused.0, KAFKA_STORAGE_ERROR);
    // Reads and commands still work.
    assert_eq!(read_to_end(&broker, "fat", 0, 0).len(), appended);
    assert!(!fetch(&broker, "thin", 0, 0).expect("fetch").records.is_empty());
    run(async { tidewater::client::Client::connect(&broker.kafka).await?.delete_topic("fat").await }).expect("deleted");
    let start = Instant::now();
    while let Err(refused) = wire.produce("thin", 0, batch(&[&block])).expect("an answer") {
        assert!(start.elapsed() < Duration::from_secs(60), "still no room: {}\n{}", refused.1, broker.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    serves_on(&broker);
    broker.stop();
    // A broker that stopped on a full disk starts again.
    let mut log = std::fs::File::options().append(true).open(options.data.with_extension("log")).expect("log");
    writeln!(log, "-- started again").expect("write");
    let broker = Broker::start(&options);
    serves_on(&broker);
    broker.stop();
}

/// The objects of a deleted topic in a directory bucket count against the disk budget. When producers need the space,
/// they are deleted after seconds, not after the grace of an hour.
#[test]
#[ignore = "at_length.rs runs it beside others that wait"]
pub(super) fn a_deleted_topic_frees_its_share_of_a_directory_bucket() {
    let dir = tempfile::tempdir().expect("tempdir");
    // On a slow machine a cut is made before the disk is full.
    let options = options(&dir).expect("the disk is full").expect("its cuts are released");
    let options = options.arg("--disk-bytes", "640MiB").arg("--cache-bytes", "16MiB");
    let broker = Broker::start(&options);
    let archived = [("segment.bytes", "8388608"), ("archive.lag.ms", "100"), ("local.retention.bytes", "1")];
    create(&broker, "fat", 1, &archived);
    create(&broker, "next", 1, &[("remote.storage.enable", "false")]);
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let block = vec![b'f'; 900_000];
    let held = || sum(&scrape(&broker), "tidewater_disk_used_bytes", &["use=\"bucket\""]);
    let start = Instant::now();
    while held() < 250e6 {
        assert!(start.elapsed() < Duration::from_secs(120), "{} bytes in the bucket\n{}", held(), broker.log());
        if wire.produce("fat", 0, batch(&[&block])).expect("an answer").is_err() {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    run(async { tidewater::client::Client::connect(&broker.kafka).await?.delete_topic("fat").await }).expect("deleted");
    // More than the budget has left beside the bucket.
    let (start, mut written) = (Instant::now(), 0);
    while written < 280 {
        match wire.produce("next", 0, batch(&[&block])).expect("an answer") {
            Ok(_) => written += 1,
            Err((code, why)) => {
                assert_eq!(code, KAFKA_STORAGE_ERROR, "{why}");
                assert!(start.elapsed() < Duration::from_secs(180), "no room after {written}: {why}\n{}", broker.log());
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
    eprintln!("250 MB more found room after {:?}", start.elapsed());
    // What it still deletes is counted until it is deleted.
    let start = Instant::now();
    while held() >= 50e6 {
        assert!(start.elapsed() < Duration::from_secs(60), "{} bytes still in the bucket\n{}", held(), broker.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    serves_on(&broker);
    broker.stop();
}
