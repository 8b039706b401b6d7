//! A soak test: producers, consumer groups, archiving, trimming, retention, a table, topics that are created and
//! deleted, and restarts, every second one by kill -9. Memory and open files must stay flat.
//!
//! Owns: the command line, the order of events and the verdict.
//! `cargo bench -p tidewater --bench soak -- --minutes 60`; without `--bench` (as `cargo test` runs it) it takes a few
//! seconds and checks that the program still works. Samples go to `soak.csv`, their plot to `soak.svg`, in
//! `TIDEWATER_BENCH_DIR` or `target/tmp`; `TIDEWATER_WRITE=1` puts both into `benches/soak`.
#![allow(
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a measuring program: it stops with a message"
)]

mod load;
#[path = "../figures/machine.rs"]
#[allow(dead_code, reason = "shared with the figures")]
mod machine;
mod plot;
#[path = "../../tests/support/support.rs"]
mod support;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use machine::process;

use load::{Counts, PARTITIONS, TOPIC};
use support::broker::{Broker, Options};
use watch::{Sample, Watch};

/// Warnings that a kill may cause without a fault of the broker; `tests/crash` says why.
const EXPECTED: &[&str] = &[
    "is not on this broker); the sink tries again",
    "groups of a partition cannot be loaded",
    "archiving of a lane starts again",
];
/// The last quarter may hold this factor more memory or open files than the second quarter.
const GROWTH_MAX: f64 = 1.25;
const CATCH_UP: Duration = Duration::from_secs(120);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let measure = args.iter().any(|arg| arg == "--bench");
    let minutes = args.iter().skip_while(|arg| *arg != "--minutes").nth(1);
    let minutes: f64 =
        minutes.map_or(60.0, |text| text.parse().unwrap_or_else(|_| panic!("--minutes {text}: no number")));
    let length = if measure { Duration::from_secs_f64(minutes * 60.0) } else { Duration::from_secs(8) };
    let root: PathBuf =
        std::env::var_os("TIDEWATER_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()).into();
    std::fs::create_dir_all(&root).expect("the directory to soak in");
    machine::print(&root);
    let samples = soak(&root, length);
    let into = if std::env::var_os("TIDEWATER_WRITE").is_some() {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/soak")
    } else {
        root
    };
    watch::write_csv(&into.join("soak.csv"), &samples);
    std::fs::write(into.join("soak.svg"), plot::svg(&samples)).expect("the plot");
    println!("samples and plot in {}", into.display());
    if measure && length >= Duration::from_secs(300) {
        judge(&samples);
    }
}

fn soak(root: &Path, length: Duration) -> Vec<Sample> {
    let dir = tempfile::Builder::new().prefix("soak").tempdir_in(root).expect("a directory to soak in");
    let mut options = Options::new(&dir.path().join("data"));
    options.expected = EXPECTED.iter().map(ToString::to_string).collect();
    let mut broker = Broker::start(&options);
    load::create(&broker.kafka);
    let counts = Arc::new(Counts::default());
    let pid = Arc::new(AtomicU32::new(broker.pid()));
    let load = load::start(&broker.kafka, &counts);
    let watch = Watch::start(Arc::clone(&pid), Arc::clone(&counts), broker.admin.clone(), options.data.clone());
    // Twelve restarts, but far enough apart that the broker also does work between them.
    let pause = (length / 12).max(Duration::from_secs(3));
    let (begin, mut restarts) = (Instant::now(), 0);
    while begin.elapsed() + pause < length {
        std::thread::sleep(pause);
        watch.pause(true);
        if restarts % 2 == 0 {
            broker.stop()
        } else {
            broker.kill()
        }
        broker = Broker::start(&options);
        pid.store(broker.pid(), Ordering::Relaxed);
        watch.pause(false);
        restarts += 1;
        load.check();
    }
    std::thread::sleep(length.saturating_sub(begin.elapsed()));
    let samples = watch.stop();
    load.stop();
    broker.wait_topic(TOPIC, "archive and table have caught up", CATCH_UP, |partitions| {
        partitions.len() == PARTITIONS as usize
            && partitions
                .iter()
                .all(|p| p["archived_end_offset"] == p["high_watermark"] && p["table_offset"] == p["high_watermark"])
    });
    let (produced, consumed) = (counts.produced.load(Ordering::Relaxed), counts.consumed.load(Ordering::Relaxed));
    println!(
        "{restarts} restarts; {produced} records acknowledged, {consumed} read and compared, {} topics came and went",
        counts.topics.load(Ordering::Relaxed)
    );
    broker.stop();
    samples
}

/// Compares the medians of memory and open files in the last quarter with those of the second.
fn judge(samples: &[Sample]) {
    let quarter = samples.len() / 4;
    let median = |of: fn(&Sample) -> u64, part: &[Sample]| {
        let mut values: Vec<u64> = part.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0).max(1) as f64
    };
    let mut grown = Vec::new();
    for (what, of) in [("resident MiB", (|s| s.resident_mib) as fn(&Sample) -> u64), ("file handles", |s| s.handles)] {
        let (before, after) = (median(of, &samples[quarter..2 * quarter]), median(of, &samples[3 * quarter..]));
        println!("{what}: second quarter {before}, last quarter {after}");
        if after > before * GROWTH_MAX {
            grown.push(format!("{what} grew from {before} to {after}"));
        }
    }
    assert!(grown.is_empty(), "not flat: {grown:?}");
}
