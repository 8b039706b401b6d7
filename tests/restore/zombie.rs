//! The lost cluster that is not dead: a broker that hung through the restore and goes on, and the same one started
//! again. Neither acknowledges a record once it has looked at the bucket, and neither changes what the restored cluster
//! has.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use super::support::broker::{Broker, Options, binary, http_get};
use super::support::wire::Wire;
use super::tools::{content, create, ends_of, read_all, restored};
use super::writer::Writer;

const PATIENCE: Duration = Duration::from_secs(90);
const POLICY_VIOLATION: i16 = 44;

fn batch(n: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    builder.push(Record::new(TimestampMs(now), None, Some(Bytes::from(format!("zombie {n}")))));
    builder.build()
}

fn signal(broker: &Broker, name: &str) {
    let told = Command::new("kill").args([&format!("-{name}"), &broker.pid().to_string()]).status().expect("kill");
    assert!(told.success());
}

/// All that lay in the bucket is as it was; objects that nothing names may have come. The catalogue of the lost epoch,
/// which nothing reads once the switch is made, may have been written by a broker that had not looked at the bucket
/// yet.
fn unchanged(bucket: &Path, before: &BTreeMap<String, Vec<u8>>) {
    let after = content(bucket);
    let kept = before.iter().filter(|(key, _)| !key.ends_with("/0000000001/catalogue"));
    let other: Vec<&String> = kept.filter(|(key, body)| after.get(*key) != Some(*body)).map(|(key, _)| key).collect();
    assert!(other.is_empty(), "changed or gone: {other:?}");
}

#[test]
fn a_broker_of_the_lost_cluster_acknowledges_nothing_any_more() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket_dir = dir.path().join("bucket");
    let bucket = format!("file://{}", bucket_dir.display());
    let lost = Options { bucket: Some(bucket.clone()), ..Options::new(&dir.path().join("lost")) };
    let zombie = Broker::start(&lost);
    create(&zombie.kafka, "orders", 1, &[("archive.lag.ms", "200")]);
    let mut writer = Writer::new(&zombie.kafka, "orders", 1);
    writer.write(&zombie.kafka, 50);
    zombie.wait_topic("orders", "all is archived", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
    signal(&zombie, "STOP");
    let fresh = Options { bucket: Some(bucket.clone()), ..Options::new(&dir.path().join("fresh")) };
    let done = restored(&bucket, &fresh.data, &["--exit"]);
    assert_eq!(ends_of(&done)[&("orders".to_owned(), 0)], 50);
    let before = content(&bucket_dir);

    // It goes on, and meets the end of its lane with the first bundle, or the root within a minute.
    signal(&zombie, "CONT");
    let mut wire = Wire::connect(&zombie.kafka).expect("connects");
    let (begun, mut stored) = (Instant::now(), 0);
    let (code, why) = loop {
        match wire.produce("orders", 0, batch(stored)).expect("answers") {
            Err(refused) => break refused,
            Ok(_) => stored += 1,
        }
        assert!(begun.elapsed() < PATIENCE, "it acknowledges still:\n{}", zombie.log());
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("refused {:?} after it went on; {stored} records were stored before", begun.elapsed());
    assert_eq!(code, POLICY_VIOLATION, "{why}");
    assert!(why.contains("goes on in epoch 2"), "{why}");
    for n in 0..20 {
        let (code, _) = wire.produce("orders", 0, batch(n)).expect("answers").expect_err("it stores nothing any more");
        assert_eq!(code, POLICY_VIOLATION);
    }
    let ready = http_get(&zombie.admin, "/health/ready").expect("answers");
    assert!(ready.0 == 503 && ready.1.contains("superseded"), "{ready:?}");
    let health = Command::new(binary()).args(["cluster", "health", "--admin", &zombie.admin]).output().expect("runs");
    let said = String::from_utf8_lossy(&health.stdout).into_owned();
    assert_eq!(health.status.code(), Some(1), "{said}");
    assert!(said.contains("broker 1 is superseded") && said.contains("stop broker 1"), "{said}");
    unchanged(&bucket_dir, &before);
    zombie.kill();

    // Started again, it is refused the bucket; no record is acknowledged before it ends.
    let mut zombie = Broker::spawn(&lost);
    let begun = Instant::now();
    let mut tried = 0;
    let status = loop {
        if let Some(status) = zombie.ended() {
            break status;
        }
        if let Ok(Ok(offset)) =
            Wire::connect(&zombie.kafka).and_then(|mut wire| wire.produce("orders", 0, batch(tried)))
        {
            panic!("a record was acknowledged at {offset}:\n{}", zombie.log());
        }
        tried += 1;
        assert!(begun.elapsed() < PATIENCE, "it serves:\n{}", zombie.log());
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(!status.success() && zombie.log().contains("lives on in epoch 2"), "{status}, {}", zombie.log());
    println!("it ended {:?} after its start; {tried} records were tried", begun.elapsed());
    unchanged(&bucket_dir, &before);

    let broker = Broker::start(&fresh);
    let values: Vec<&String> = writer.told.iter().map(|told| &told.value).collect();
    assert_eq!(read_all(&broker.kafka, "orders", 1).concat().iter().collect::<Vec<_>>(), values);
    let mut next = Writer::new(&broker.kafka, "orders", 1);
    next.write(&broker.kafka, 5);
    assert_eq!(next.told.first().map(|told| told.offset), Some(50));
}
