//! `idle`: a new broker, then the same with thousands of idle partitions.

use std::time::{Duration, Instant};

use crate::support::broker::{Broker, Options};
use crate::support::wire::Wire;
use crate::{Run, process, topics};

const MIB: f64 = (1u64 << 20) as f64;

/// Resources of a broker without requests.
struct Taken {
    resident: u64,
    /// Processor time ÷ wall time, as a share of one core.
    core: f64,
    wakes: f64,
    files: usize,
    written: u64,
}

fn watch(pid: u32, window: Duration) -> Taken {
    let (cpu, switches, written, begun) =
        (process::cpu(pid), process::switches(pid), process::written(pid), Instant::now());
    std::thread::sleep(window);
    let seconds = begun.elapsed().as_secs_f64();
    Taken {
        resident: process::resident(pid),
        core: (process::cpu(pid) - cpu).as_secs_f64() / seconds,
        wakes: process::switches(pid).saturating_sub(switches) as f64 / seconds,
        files: process::files(pid),
        written: process::written(pid).saturating_sub(written),
    }
}

fn row(what: &str, taken: &Taken, fresh: u64, made: &str, ready: &str) {
    println!(
        "| {what} | {:.1} | {:+.1} | {:.2} % | {:.0} | {} | {} | {made} | {ready} |",
        taken.resident as f64 / MIB,
        (taken.resident as f64 - fresh as f64) / MIB,
        taken.core * 100.0,
        taken.wakes,
        taken.files,
        taken.written >> 10,
    );
}

pub fn run(run: &Run) {
    let dir = run.dir("idle");
    let settle = Duration::from_secs(run.number("TIDEWATER_MANY_SETTLE", 25, 2));
    let window = Duration::from_secs(run.number("TIDEWATER_MANY_WINDOW", 30, 2));
    let total = i32::try_from(run.number("TIDEWATER_MANY", 10_000, 200)).expect("a number of partitions");
    let mut options = Options::new(&dir.path().join("data"));
    options.bucket = Some(format!("file://{}", dir.path().join("bucket").display()));
    println!(
        "| broker | resident MiB | more | of a core | wakes/s | files | KiB written | made in | ready after kill -9 |"
    );
    println!("|{}", "---|".repeat(9));
    let broker = Broker::start(&options);
    std::thread::sleep(settle / 2);
    let fresh = watch(broker.pid(), window);
    row("fresh", &fresh, fresh.resident, "", "");

    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let begun = Instant::now();
    let count = topics::many(&mut wire, "many", total);
    let made = begun.elapsed();
    let (partitions, asked) = topics::metadata(&mut wire);
    assert!(partitions >= usize::try_from(total).unwrap_or_default() / 2, "{partitions} partitions");
    drop(wire);
    std::thread::sleep(settle);
    let taken = watch(broker.pid(), window);
    let made = format!("{:.2} s ({count} topics; all of Metadata {} ms)", made.as_secs_f64(), asked.as_millis());
    row(&format!("{partitions} idle partitions"), &taken, fresh.resident, &made, "");

    broker.kill();
    let begun = Instant::now();
    let broker = Broker::start(&options);
    let ready = format!("{:.2} s", begun.elapsed().as_secs_f64());
    std::thread::sleep(settle / 2);
    let taken = watch(broker.pid(), window);
    row("the same, restarted", &taken, fresh.resident, "", &ready);
    println!();
    let log = broker.log();
    log.lines().filter(|line| line.contains("a shard has recovered")).for_each(|line| println!("{line}"));
    broker.stop();
}
