//! Fetch through a real broker process ÷ its floor: loopback TCP when hot, ranged GETs of the bucket when cold.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt};
use tidewater_tiering::store::{ObjectKey, ObjectStore, StoreOptions, open};

use crate::report::{Samples, Table, cpu_per_gb, mb_per_s, micros, ratio, size};
use crate::wire::Fetcher;
use crate::{Run, loopback, machine, topic};

/// Maximum bytes of a fetch.
const FETCHES: [usize; 3] = [64 << 10, 1 << 20, 4 << 20];
/// Bytes of a raw ranged GET, and how many are in flight.
const GETS: [(u64, usize); 3] = [(1 << 20, 1), (4 << 20, 1), (4 << 20, 4)];
const PATIENCE: Duration = Duration::from_secs(120);

/// Hot: served from the broker's memory.
pub fn hot(run: &Run) {
    let dir = run.dir("hot");
    let broker = topic::broker(&dir.path().join("data"), &topic::bucket(dir.path(), "hot"));
    let batches = run.pick(1000, 32);
    topic::runtime().block_on(async {
        topic::create(&broker.kafka, 1, &[("remote.storage.enable", "false")]).await;
        topic::fill(&broker.kafka, batches).await;
    });
    let time = run.pick(Duration::from_secs(3), Duration::from_millis(50));
    let table = Table::new(&["bytes asked", "what", "rate", "÷ loopback", "p50", "p99", "broker CPU"]);
    for bytes in FETCHES {
        // With room for the batch header, so that a fetch of 64 K is one batch with a record of 64 K.
        let mut fetcher = Fetcher::connect(&broker.kafka, topic::NAME, bytes + (bytes >> 4));
        let mut from = 0;
        let (mut samples, start, cpu) = (Samples::default(), Instant::now(), machine::cpu_of(broker.pid()));
        while start.elapsed() < time {
            let one = Instant::now();
            let fetched = fetcher.fetch(from);
            samples.add(one.elapsed(), fetched.wire as u64);
            from = if fetched.next >= batches as u64 { 0 } else { fetched.next };
        }
        samples.cpu = machine::cpu_of(broker.pid()).saturating_sub(cpu);
        let answer = usize::try_from(samples.bytes).unwrap_or_default() / samples.count();
        let mut bare = loopback::measure(answer, time);
        let base = bare.rate();
        let cpu = cpu_per_gb(samples.cpu, samples.bytes);
        for (what, samples, cpu) in [("loopback TCP", &mut bare, "–".to_owned()), ("fetch", &mut samples, cpu)] {
            table.row(&[
                size(bytes),
                what.into(),
                mb_per_s(samples.rate()),
                ratio(samples.rate(), base),
                micros(samples.percentile(50)),
                micros(samples.percentile(99)),
                cpu,
            ]);
        }
    }
    broker.stop();
}

/// Cold: archived and trimmed, with an empty chunk cache.
pub fn cold(run: &Run) {
    let dir = run.dir("cold");
    let (data, bucket) = (dir.path().join("data"), topic::bucket(dir.path(), "cold"));
    let end = archive_and_trim(run, &data, &bucket);
    // The objects of a directory were written past the page cache: bring them into it for both sides.
    let _ = ranged_gets(&bucket, 4 << 20, 1, u64::MAX);
    let _ = std::fs::remove_dir_all(data.join("cache"));
    let broker = topic::broker(&data, &bucket);
    let asked = 1 << 20;
    let mut fetcher = Fetcher::connect(&broker.kafka, topic::NAME, asked + (asked >> 4));
    let (mut samples, mut from, cpu) = (Samples::default(), 0, machine::cpu_of(broker.pid()));
    while from < end {
        let one = Instant::now();
        let fetched = fetcher.fetch(from);
        samples.add(one.elapsed(), fetched.wire as u64);
        assert!(fetched.next > from, "a cold fetch brings something");
        from = fetched.next;
    }
    samples.cpu = machine::cpu_of(broker.pid()).saturating_sub(cpu);
    broker.stop();

    let table = Table::new(&["what", "rate", "cold fetch ÷ this", "p50", "p99", "broker CPU"]);
    let ours = samples.rate();
    for (bytes, at_once) in GETS {
        let mut raw = ranged_gets(&bucket, bytes, at_once, samples.bytes);
        table.row(&[
            format!("raw GETs of {}, {at_once} at once", size(usize::try_from(bytes).unwrap_or_default())),
            mb_per_s(raw.rate()),
            ratio(ours, raw.rate()),
            micros(raw.percentile(50)),
            micros(raw.percentile(99)),
            "–".into(),
        ]);
    }
    table.row(&[
        format!("cold fetches of {}, one after the other", size(asked)),
        mb_per_s(ours),
        "–".into(),
        micros(samples.percentile(50)),
        micros(samples.percentile(99)),
        cpu_per_gb(samples.cpu, samples.bytes),
    ]);
}

/// Fills a topic and waits until its older part is only in the bucket; returns the local start.
fn archive_and_trim(run: &Run, data: &Path, bucket: &str) -> u64 {
    let broker = topic::broker(data, bucket);
    let segment = run.pick("16777216", "1048576");
    let batches = run.pick(12_000, 64);
    let settings = [("segment.bytes", segment), ("local.retention.bytes", "65536"), ("archive.lag.ms", "500")];
    topic::runtime().block_on(async {
        topic::create(&broker.kafka, 1, &settings).await;
        topic::fill(&broker.kafka, batches).await;
    });
    let local_start = std::cell::Cell::new(0);
    broker.wait_topic(topic::NAME, "archived and trimmed", PATIENCE, |partitions| {
        let number = |field| partitions.first().map_or(0, |p| topic::number(p, field));
        local_start.set(number("local_start_offset"));
        number("archived_end_offset") == batches as u64 && local_start.get() > batches as u64 / 2
    });
    broker.stop();
    local_start.get()
}

/// Reads about `total` bytes of the bucket's data objects in ranges.
fn ranged_gets(bucket: &str, bytes: u64, at_once: usize, total: u64) -> Samples {
    let runtime = topic::runtime();
    let store = open(bucket, runtime.handle().clone(), &StoreOptions::default()).expect("the store opens");
    runtime.block_on(async {
        let ranges = data_ranges(&store, bytes, total).await;
        let start = Instant::now();
        let got: Vec<(Duration, u64)> = stream::iter(ranges)
            .map(|(key, range)| {
                let store = Arc::clone(&store);
                async move {
                    let one = Instant::now();
                    let got = store.get(&key, Some(range)).await.expect("the object is there");
                    (one.elapsed(), got.body.len() as u64)
                }
            })
            .buffered(at_once)
            .collect()
            .await;
        let wall = start.elapsed();
        let mut samples = Samples::default();
        got.into_iter().for_each(|(took, bytes)| samples.add(took, bytes));
        samples.over(wall)
    })
}

async fn data_ranges(store: &Arc<dyn ObjectStore>, bytes: u64, total: u64) -> Vec<(ObjectKey, std::ops::Range<u64>)> {
    let (mut ranges, mut left, mut after) = (Vec::new(), total, None::<String>);
    loop {
        let listed = store.list("", after.as_deref(), 1000).await.expect("the bucket is listed");
        let Some(last) = listed.last() else { return ranges };
        after = Some(last.key.as_str().to_owned());
        // Smaller objects are manifests.
        for object in listed.into_iter().filter(|object| object.size >= 1 << 20) {
            let mut at = 0;
            while at < object.size && left > 0 {
                let end = (at + bytes).min(object.size);
                ranges.push((object.key.clone(), at..end));
                left = left.saturating_sub(end - at);
                at = end;
            }
        }
    }
}
