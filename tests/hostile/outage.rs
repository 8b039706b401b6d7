//! A real S3 server that dies under load and comes back, and one that is down when the broker starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::scrape::{scrape, sum};
use super::steady::{create, produce, read_to_end, serves_on};
use super::support::broker::{Broker, Options};
use super::support::s3::S3;

const PATIENCE: Duration = Duration::from_secs(90);
const AWAY: Duration = Duration::from_secs(12);
const TOPIC: &str = "weather";

/// Small segments, little local data: reading from the start needs the bucket.
const SMALL: &[(&str, &str)] =
    &[("segment.bytes", "1048576"), ("local.retention.bytes", "65536"), ("archive.lag.ms", "200")];

fn value(n: u64) -> Bytes {
    Bytes::from(format!("{n} {}", "w".repeat(20_000)))
}

/// Writes until `stop`; returns the number of acknowledged records. Each of them must be acknowledged.
fn load(broker: &Broker, from: u64, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let (addr, stop) = (broker.kafka.clone(), Arc::clone(stop));
    std::thread::spawn(move || {
        let mut wire = super::support::wire::Wire::connect(&addr).expect("connects");
        let mut n = from;
        while !stop.load(Ordering::Relaxed) {
            let batch = super::steady::batch(&[&value(n)]);
            let told = wire.produce(TOPIC, 0, batch).expect("an answer").expect("appended");
            assert_eq!(told, n);
            n += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        n
    })
}

fn archived(broker: &Broker) {
    broker.wait_topic(TOPIC, "archived", PATIENCE, |p| p[0]["archived_end_offset"] == p[0]["high_watermark"]);
}

fn lag(broker: &Broker, metric: &str) -> f64 {
    sum(&scrape(broker), metric, &["topic=\"weather\""])
}

fn whole(broker: &Broker, written: u64) {
    let found = read_to_end(broker, TOPIC, 0, 0);
    assert_eq!(found.len() as u64, written);
    assert!((0..).zip(&found).all(|(n, found)| *found == value(n)), "every record as it was written");
}

#[test]
#[ignore = "at_length.rs runs it beside others that wait"]
pub(super) fn an_s3_server_that_dies_under_load_and_comes_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut s3 = S3::start(dir.path(), "outage");
    let mut options = Options { bucket: Some(s3.url()), envs: s3.envs(), ..Options::new(&dir.path().join("data")) }
        .arg("--shards", "1");
    for line in [
        "archiving fails",
        "housekeeping of the bucket fails",
        "the bucket cannot be opened now",
        "a topic's change is not in the bucket's catalogue yet",
        "no cut is made now",
    ] {
        options = options.expect(line);
    }
    let broker = Broker::start(&options);
    create(&broker, TOPIC, 1, SMALL);
    let stop = Arc::new(AtomicBool::new(false));
    let loading = load(&broker, 0, &stop);
    std::thread::sleep(Duration::from_secs(4));
    assert!(lag(&broker, "tidewater_topic_archived_bytes") > 0.0, "archived while the server is well");
    s3.kill();
    let away = Instant::now();
    let mut lags = Vec::new();
    while away.elapsed() < AWAY {
        serves_on(&broker);
        lags.push(lag(&broker, "tidewater_topic_archive_lag_seconds"));
        std::thread::sleep(Duration::from_millis(500));
    }
    let (first, last) = (lags[0], lags[lags.len() - 1]);
    assert!(last > first + AWAY.as_secs_f64() / 2.0, "the lag does not show: {lags:?}");
    assert!(lag(&broker, "tidewater_topic_archive_lag_records") > 100.0);
    assert_eq!(lag(&broker, "tidewater_topic_archive_stopped_partitions"), 1.0);
    assert!(sum(&scrape(&broker), "tidewater_bucket_failures_total", &[]) > 0.0);
    s3.start_again();
    std::thread::sleep(Duration::from_secs(2));
    stop.store(true, Ordering::Relaxed);
    let written = loading.join().expect("every write was acknowledged");
    archived(&broker);
    assert_eq!(lag(&broker, "tidewater_topic_archive_lag_seconds"), 0.0);
    assert_eq!(lag(&broker, "tidewater_topic_archive_stopped_partitions"), 0.0);
    whole(&broker, written);
    broker.stop();
    down_at_start(&options, &mut s3, written);
}

/// The broker starts without its bucket, takes writes, and catches up once it is there.
fn down_at_start(options: &Options, s3: &mut S3, written: u64) {
    s3.kill();
    let start = Instant::now();
    let broker = Broker::start(options);
    assert!(start.elapsed() < Duration::from_secs(20), "ready after {:?}", start.elapsed());
    for n in written..written + 50 {
        assert_eq!(produce(&broker, TOPIC, 0, &value(n)), n);
    }
    assert!(lag(&broker, "tidewater_topic_archive_lag_records") >= 50.0);
    assert_eq!(lag(&broker, "tidewater_topic_archive_stopped_partitions"), 1.0);
    s3.start_again();
    archived(&broker);
    whole(&broker, written + 50);
    broker.stop();
}
