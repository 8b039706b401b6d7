//! How often lanes elect a leader when nothing fails: at rest, and beside other programs that want all of the CPU.
//!
//! `TIDEWATER_SECONDS=n` watches for so long (10 s), `TIDEWATER_PARTITIONS=n` asks for so many partitions (60),
//! `TIDEWATER_BUSY=n` for so many busy programs beside the brokers (0).

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::clients::create;
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::dice::number;
use super::tools::produce;

const PATIENCE: Duration = Duration::from_secs(60);

/// Programs that do nothing, as fast as they can. They end with this.
struct Busy(Vec<Child>);

impl Busy {
    fn start(count: u64) -> Self {
        let busy = || Command::new("nice").args(["-n", "5", "sh", "-c", "while :; do :; done"]).spawn();
        Self((0..count).map(|_| busy().expect("nice and sh run")).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = (child.kill(), child.wait());
        }
    }
}

#[test]
fn nothing_fails_and_nobody_is_elected() {
    let seconds = number("TIDEWATER_SECONDS").unwrap_or(10);
    let partitions = number("TIDEWATER_PARTITIONS").unwrap_or(60);
    let busy = number("TIDEWATER_BUSY").unwrap_or(0);
    let dir = tempfile::tempdir().expect("tempdir");
    let options = ClusterOptions {
        bucket: Some(format!("file://{}", dir.path().join("bucket").display())),
        expected: super::EXPECTED.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    let mut left = partitions;
    for n in 0.. {
        let some = left.min(1000);
        create(&cluster.bootstrap(), &format!("orders-{n}"), i32::try_from(some).expect("a thousand at most"), &[]);
        left -= some;
        if left == 0 {
            break;
        }
    }
    cluster.wait_healthy(PATIENCE);
    // A lane that goes back to its preferred leader begins a term too.
    cluster.wait_settled(PATIENCE);

    let programs = Busy::start(busy);
    let first = cluster.terms();
    let (begun, mut terms, mut elections, mut longest, mut written) = (Instant::now(), first, 0, Duration::ZERO, 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let asked = Instant::now();
        written += produce(&cluster.bootstrap(), "orders-0", 6, 20);
        longest = longest.max(asked.elapsed());
        std::thread::sleep(Duration::from_secs(1));
        for (lane, term) in cluster.terms() {
            let before = terms.insert(lane, term).unwrap_or(term);
            if term > before {
                elections += term - before;
                println!("{:?}: lane {lane} is in term {term} after {before}", begun.elapsed());
            }
        }
    }
    drop(programs);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{elections} elections of {} lanes with {partitions} partitions in {seconds} s beside {busy} busy programs; \
         20 records took {longest:?} at most, {written} were written; load of the machine {}",
        terms.len(),
        load.trim()
    );
    // Busy programs may keep a leader from the CPU for longer than an election takes.
    assert!(busy > 0 || elections as f64 <= seconds as f64 / 60.0, "{elections} elections without a reason");
    cluster.wait_healthy(PATIENCE);
    cluster.check_logs();
}
