//! The end of every test: the broker still takes a record and returns it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidewater::client::{Client, ClientError, Fetched, NewTopic};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use super::support::broker::Broker;
use super::support::wire::Wire;

/// Longer than this counts as stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a client's call to its end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(future)
}

/// Makes a topic.
pub fn create(broker: &Broker, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
    let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let topic = NewTopic { name: topic.to_owned(), partitions: Some(partitions), configs, ..NewTopic::default() };
    run(async { Client::connect(&broker.kafka).await?.create_topic(&topic).await }).expect("topic is made");
}

/// One batch, uncompressed, one record for each value.
pub fn batch(values: &[&[u8]]) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let now = TimestampMs(i64::try_from(now).expect("a date"));
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.push(Record::new(now, None, Some(Bytes::copy_from_slice(value))));
    }
    builder.build()
}

/// Produces one record on a connection of its own; its offset.
pub fn produce(broker: &Broker, topic: &str, partition: i32, value: &[u8]) -> u64 {
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    wire.produce(topic, partition, batch(&[value])).expect("an answer").expect("appended")
}

/// Fetches from one partition.
pub fn fetch(broker: &Broker, topic: &str, partition: i32, from: u64) -> Result<Fetched, ClientError> {
    let found =
        run(async { Client::connect(&broker.kafka).await?.fetch(topic, &[(partition, from)], 1000, 8 << 20).await })?;
    Ok(found.into_iter().next().expect("a partition"))
}

/// Reads a partition from `from` to its end; values.
pub fn read_to_end(broker: &Broker, topic: &str, partition: i32, from: u64) -> Vec<Bytes> {
    let (mut at, mut values) = (from, Vec::new());
    loop {
        let found = fetch(broker, topic, partition, at).expect("fetch");
        for record in &found.records {
            assert_eq!(record.offset.get(), from + values.len() as u64, "offsets are contiguous");
            values.push(record.value.clone().unwrap_or_default());
        }
        at = found.next_offset;
        if at >= found.high_watermark {
            return values;
        }
    }
}

/// The broker takes a record in the topic `steady` and returns it soon.
pub fn serves_on(broker: &Broker) {
    let start = Instant::now();
    let known = run(async { Client::connect(&broker.kafka).await?.topic("steady").await });
    if known.is_err() {
        create(broker, "steady", 1, &[]);
    }
    let value = format!("steady at {:?}", SystemTime::now());
    let offset = produce(broker, "steady", 0, value.as_bytes());
    let found = fetch(broker, "steady", 0, offset).expect("fetch");
    let values: Vec<_> = found.records.iter().filter_map(|record| record.value.clone()).collect();
    assert_eq!(values, [Bytes::from(value)]);
    assert!(start.elapsed() < PATIENCE, "a round trip took {:?}", start.elapsed());
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most that was ever resident, in bytes.
pub fn resident_at_most(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("process status");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a line of that name");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

/// Files below a directory whose path holds `part`, sorted.
pub fn files(dir: &Path, part: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Inverts 16 bytes of a file.
pub fn damage(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("file");
    bytes[at..at + 16].iter_mut().for_each(|byte| *byte ^= 0xff);
    std::fs::write(path, bytes).expect("write");
}
