//! `written`: bytes written to disk per acknowledged byte, by journal, segments and checkpoints.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::support::broker::{Broker, Options, http_get};
use crate::support::wire::Wire;
use crate::{Run, load, process, topics};

/// Longer than the interval of checkpoints: appended bytes are in segments and the journal is released.
const SETTLE: u64 = 13;

/// Bytes written since the start.
#[derive(Clone, Copy)]
struct Written {
    /// Bytes that the process wrote to disk.
    disk: u64,
    journal: u64,
    segments: u64,
    checkpoints: u64,
    pages: u64,
}

fn look(broker: &Broker) -> Written {
    let (_, text) = http_get(&broker.admin, "/metrics").expect("metrics");
    let sum = |name: &str| -> u64 {
        let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    };
    Written {
        disk: process::written(broker.pid()),
        journal: sum("tidewater_journal_written_bytes_total"),
        segments: sum("tidewater_storage_write_back_bytes_total"),
        checkpoints: sum("tidewater_storage_checkpoint_bytes_total"),
        pages: sum("tidewater_storage_checkpoint_pages_total"),
    }
}

/// Runs one load; returns the bytes it wrote, measured while the broker was idle before and after.
fn row(run: &Run, broker: &Broker, what: &str, load: impl FnOnce() -> u64) {
    let before = look(broker);
    let acknowledged = load();
    std::thread::sleep(Duration::from_secs(run.number("TIDEWATER_MANY_SETTLE", SETTLE, 1)));
    let after = look(broker);
    let kib = |of: fn(&Written) -> u64| (of(&after) - of(&before)) >> 10;
    let disk = after.disk - before.disk;
    println!(
        "| {what} | {} | {:.2} | {} | {} | {} | {} |",
        acknowledged >> 10,
        disk as f64 / acknowledged as f64,
        kib(|w| w.journal),
        kib(|w| w.segments),
        kib(|w| w.checkpoints),
        after.pages - before.pages,
    );
}

/// One record a second to each partition.
fn trickle(wire: &mut Wire, topic: &str, partitions: i32, batch: &Bytes, seconds: u64) -> u64 {
    let (begun, mut sent) = (Instant::now(), 0);
    for second in 1..=seconds {
        sent += load::send(wire, topic, partitions, batch, u64::from(partitions.unsigned_abs()));
        std::thread::sleep(Duration::from_secs(second).saturating_sub(begun.elapsed()));
    }
    sent
}

pub fn run(run: &Run) {
    let dir = run.dir("written");
    let data = dir.path().join("data");
    let mut options = Options::new(&data).arg("--shards", "1");
    options.bucket = Some(format!("file://{}", dir.path().join("bucket").display()));
    let broker = Broker::start(&options);
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let local = [("remote.storage.enable", "false"), ("retention.bytes", "268435456"), ("segment.bytes", "134217728")];
    topics::one(&mut wire, "bulk", 4, &local);
    topics::one(&mut wire, "ten", 10, &local);
    topics::one(&mut wire, "thousand", 1000, &local);
    topics::one(&mut wire, "idle", i32::try_from(run.number("TIDEWATER_MANY", 10_000, 100)).expect("a number"), &local);
    std::thread::sleep(Duration::from_secs(run.number("TIDEWATER_MANY_SETTLE", SETTLE, 1)));

    println!("| load | KiB acknowledged | KiB to disk per KiB | of it journal | segments | checkpoints | pages |");
    println!("|{}", "---|".repeat(7));
    let one = load::batch(100);
    row(run, &broker, "one record into one of 10,000 idle partitions", || load::send(&mut wire, "idle", 1, &one, 1));
    let seconds = run.number("TIDEWATER_TRICKLE_SECONDS", 30, 2);
    row(run, &broker, "100 B a second into each of 10", || trickle(&mut wire, "ten", 10, &one, seconds));
    row(run, &broker, "100 B a second into each of 1,000", || trickle(&mut wire, "thousand", 1000, &one, seconds));
    let (large, small) = (load::batch((1 << 20) - 512), load::batch(16 << 10));
    let mib = run.number("TIDEWATER_WRITTEN_MIB", 2048, 16);
    row(run, &broker, "1 MiB batches, the journal grows", || load::send(&mut wire, "bulk", 4, &large, mib));
    row(run, &broker, "1 MiB batches, steady", || load::send(&mut wire, "bulk", 4, &large, mib));
    row(run, &broker, "16 KiB batches, steady", || load::send(&mut wire, "bulk", 4, &small, mib * 16));
    row(run, &broker, "16 KiB batches over 1,000 partitions", || {
        load::send(&mut wire, "thousand", 1000, &small, mib * 16)
    });
    broker.stop();
}
