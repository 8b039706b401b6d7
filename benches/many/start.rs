//! `start`: time until a broker with gigabytes of local data serves after `kill -9`.

use std::time::{Duration, Instant};

use crate::support::broker::{Broker, Options};
use crate::support::wire::Wire;
use crate::{Run, load, process, topics};

const TOPIC: &str = "filled";
const PARTITIONS: i32 = 16;
/// Lines of the broker's log that report the phases of a start.
const TOLD: [&str; 2] = ["a shard has recovered", "the address was still"];

fn fill(broker: &Broker, bytes: u64) {
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    topics::one(&mut wire, TOPIC, PARTITIONS, &[("remote.storage.enable", "false"), ("segment.bytes", "268435456")]);
    let batch = load::batch((1 << 20) - 512);
    load::send(&mut wire, TOPIC, PARTITIONS, &batch, bytes >> 20);
}

pub fn run(run: &Run) {
    let dir = run.dir("start");
    let mib = run.number("TIDEWATER_START_MIB", 10 << 10, 32);
    let mut options = Options::new(&dir.path().join("data"));
    options.bucket = Some(format!("file://{}", dir.path().join("bucket").display()));
    let broker = Broker::start(&options);
    let begun = Instant::now();
    fill(&broker, mib << 20);
    println!("{mib} MiB produced in {:.1} s\n", begun.elapsed().as_secs_f64());
    println!("| killed | ready after | processor time until then | resident MiB | files |\n|---|---|---|---|---|");
    let (mut broker, mut told) = (Some(broker), Vec::new());
    let settle = run.number("TIDEWATER_MANY_SETTLE", 15, 1);
    for (what, pause) in [("at once", 0), ("again at once", 0), ("after a checkpoint", settle), ("again", settle)] {
        std::thread::sleep(Duration::from_secs(pause));
        let killed = broker.take().expect("running");
        let before = killed.log().len();
        killed.kill();
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
        let log = started.log();
        let lines = log.get(before..).unwrap_or_default().lines();
        told.push((what, lines.filter(|line| TOLD.iter().any(|one| line.contains(one))).map(str::to_owned).collect()));
        broker = Some(started);
    }
    let told: Vec<(&str, Vec<String>)> = told;
    for (what, lines) in told {
        println!("\nkilled {what}:\n{}", lines.join("\n"));
    }
    broker.expect("running").stop();
}
