//! `start`: how soon a broker with gigabytes of local data serves after `kill -9`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use crate::support::broker::{Broker, Options};
use crate::support::wire::{PRODUCE_VERSION, Wire, produce_request, produced};
use crate::{Run, process, topics};

const TOPIC: &str = "filled";
const PARTITIONS: i32 = 16;
const BATCH: usize = 1 << 20;
/// Requests sent ahead of their answers.
const AHEAD: u64 = 4;

fn batch() -> Bytes {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let value: Vec<u8> = (0..BATCH - 512).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Record::new(now, None, Some(value.into())));
    builder.build()
}

fn fill(broker: &Broker, bytes: u64) {
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    topics::one(&mut wire, TOPIC, PARTITIONS, &[("remote.storage.enable", "false"), ("segment.bytes", "268435456")]);
    let (batch, batches) = (batch(), bytes / BATCH as u64);
    for n in 0..batches + AHEAD {
        if n < batches {
            let partition = i32::try_from(n % PARTITIONS as u64).expect("small");
            wire.send(&produce_request(TOPIC, partition, batch.clone()), PRODUCE_VERSION).expect("sent");
        }
        if n >= AHEAD {
            let answer = wire.receive::<kafka_protocol::messages::ProduceRequest>(PRODUCE_VERSION).expect("an answer");
            produced(&answer).expect("a partition").expect("acknowledged");
        }
    }
}

pub fn run(run: &Run) {
    let dir = run.dir("start");
    let mib = run.number("TIDEWATER_START_MIB", 10 << 10, 32);
    let mut options = Options::new(&dir.path().join("data")).arg("--disk-bytes", "32GiB");
    options.bucket = Some(format!("file://{}", dir.path().join("bucket").display()));
    let broker = Broker::start(&options);
    let begun = Instant::now();
    fill(&broker, mib << 20);
    println!("{mib} MiB produced in {:.1} s\n", begun.elapsed().as_secs_f64());
    println!("| killed | ready after | processor time until then | resident MiB | files |\n|---|---|---|---|---|");
    let mut broker = Some(broker);
    for (what, pause) in [("at once", 0), ("after a checkpoint", run.number("TIDEWATER_MANY_SETTLE", 15, 1))] {
        std::thread::sleep(Duration::from_secs(pause));
        broker.take().expect("running").kill();
        let begun = Instant::now();
        let started = Broker::start(&options);
        let (took, pid) = (begun.elapsed(), started.pid());
        println!(
            "| {what} | {:.2} s | {:.2} s | {:.0} | {} |",
            took.as_secs_f64(),
            process::cpu(pid).as_secs_f64(),
            process::resident(pid) as f64 / (1u64 << 20) as f64,
            process::files(pid),
        );
        broker = Some(started);
    }
    broker.expect("running").stop();
}
