//! Archiving ÷ plain PUTs of objects of the same sizes into the same store.
//!
//! A topic is filled with archiving off. Then archiving is switched on; the time until every record is in the bucket is
//! measured, with manifests and reads of segments. The raw PUTs have the sizes and number of the broker's objects and
//! run one after the other.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewater::client::Client;
use tidewater_tiering::store::{ObjectKey, PutMode, StoreOptions, open};

use crate::report::{Samples, Table, cpu_per_gb, mb_per_s, ratio};
use crate::{Run, machine, topic};

const PATIENCE: Duration = Duration::from_secs(120);
/// Interval between questions for the archived end.
const LOOK: Duration = Duration::from_millis(5);

pub fn run(run: &Run) {
    let dir = run.dir("upload");
    let (data, bucket) = (dir.path().join("data"), topic::bucket(dir.path(), "upload"));
    let broker = topic::broker(&data, &bucket);
    let batches = run.pick(8000, 64);
    let runtime = topic::runtime();
    runtime.block_on(async {
        topic::create(&broker.kafka, 1, &[("remote.storage.enable", "false"), ("archive.lag.ms", "100")]).await;
        topic::fill(&broker.kafka, batches).await;
    });
    let before = objects(&bucket);
    let cpu = machine::cpu_of(broker.pid());
    let start = Instant::now();
    runtime.block_on(async {
        let mut client = Client::connect(&broker.kafka).await.expect("connects");
        let on = [("remote.storage.enable".to_owned(), Some("true".to_owned()))];
        client.alter_configs(topic::NAME, &on).await.expect("archiving is switched on");
    });
    while archived_end(&broker.topic(topic::NAME)) < batches as u64 {
        assert!(start.elapsed() < PATIENCE, "not archived:\n{}", broker.log());
        std::thread::sleep(LOOK);
    }
    let took = start.elapsed();
    let cpu = machine::cpu_of(broker.pid()).saturating_sub(cpu);
    let made: Vec<u64> = objects(&bucket).into_iter().filter(|o| !before.contains(o)).map(|(_, size)| size).collect();
    broker.stop();

    let bytes: u64 = made.iter().sum();
    let payload = (batches * topic::VALUE) as u64;
    let raw = raw_puts(&topic::bucket(dir.path(), "raw"), &made);
    let table = Table::new(&["what", "objects", "bytes", "rate", "÷ raw PUT", "processor"]);
    let row = |what: &str, bytes: u64, rate: f64, cpu: String| {
        let objects = made.len().to_string();
        table.row(&[what.into(), objects, bytes.to_string(), mb_per_s(rate), ratio(rate, raw.rate()), cpu]);
    };
    row("raw PUTs", raw.bytes, raw.rate(), cpu_per_gb(raw.cpu, raw.bytes));
    row("archive, bytes of records", payload, payload as f64 / took.as_secs_f64(), cpu_per_gb(cpu, payload));
    row("archive, bytes of objects", bytes, bytes as f64 / took.as_secs_f64(), cpu_per_gb(cpu, bytes));
}

fn archived_end(topic: &serde_json::Value) -> u64 {
    topic::number(&topic["partitions"][0], "archived_end_offset")
}

/// Lists the bucket's objects with their sizes.
pub fn objects(bucket: &str) -> Vec<(String, u64)> {
    let runtime = topic::runtime();
    let store = open(bucket, runtime.handle().clone(), &StoreOptions::default()).expect("the store opens");
    let (mut found, mut after) = (Vec::new(), None::<String>);
    loop {
        let listed = runtime.block_on(store.list("", after.as_deref(), 1000)).expect("the bucket is listed");
        let Some(last) = listed.last() else { return found };
        after = Some(last.key.as_str().to_owned());
        found.extend(listed.into_iter().map(|object| (object.key.as_str().to_owned(), object.size)));
    }
}

fn raw_puts(bucket: &str, sizes: &[u64]) -> Samples {
    let runtime = topic::runtime();
    let store = open(bucket, runtime.handle().clone(), &StoreOptions::default()).expect("the store opens");
    let mut samples = Samples::default();
    let cpu = machine::cpu_of(std::process::id());
    for (n, size) in sizes.iter().enumerate() {
        let body = Bytes::from(vec![0x5a; usize::try_from(*size).expect("an object in memory")]);
        let key = ObjectKey::new(&format!("raw/{n}")).expect("legal");
        let one = Instant::now();
        runtime.block_on(store.put(&key, body, PutMode::IfAbsent)).expect("put");
        samples.add(one.elapsed(), *size);
    }
    samples.cpu = machine::cpu_of(std::process::id()).saturating_sub(cpu);
    samples
}
