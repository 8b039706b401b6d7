//! Figures of a cluster: three brokers as real processes on this machine, with one directory bucket.
//!
//! Owns: the command line, the scales and the table at the end. Each row (`idle`, `load`, `frozen`, `rebuild`,
//! `failover`) starts a cluster of its own and compares with something of the same run. `cargo bench --bench cluster --
//! idle` measures; without `--bench` (as `cargo test` runs it) or with `TIDEWATER_BENCH_SMALL=1` each row runs on tiny
//! inputs, to check that it works. `benches/README.md` explains the numbers.
#![allow(
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a measuring program: it stops with a message"
)]

mod failover;
mod frozen;
mod idle;
mod leaders;
mod librdkafka;
mod load;
#[path = "../figures/machine.rs"]
#[allow(dead_code, reason = "shared with the figures")]
mod machine;
mod paced;
mod rebuild;
#[path = "../figures/report.rs"]
#[allow(dead_code, reason = "shared with the figures")]
mod report;
#[path = "../../tests/support/support.rs"]
mod support;
#[path = "../many/topics.rs"]
mod topics;

use std::path::{Path, PathBuf};
use std::time::Duration;

use machine::process;

use report::Table;
use support::cluster::{Cluster, ClusterOptions};
use support::wire::Wire;

/// How many brokers a cluster has here.
pub const BROKERS: usize = 3;
/// How long a cluster may take to be healthy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A row: its name on the command line and its function.
type Row = (&'static str, fn(&Run) -> Vec<Line>);

const ROWS: [Row; 5] = [
    ("idle", idle::run),
    ("load", load::run),
    ("frozen", frozen::run),
    ("rebuild", rebuild::run),
    ("failover", failover::run),
];

/// Flags, each with a number behind it.
const FLAGS: [&str; 6] = ["--partitions", "--rounds", "--rate", "--seconds", "--gib", "--kills"];

/// A line of the last table.
pub struct Line {
    pub what: String,
    pub figure: String,
    /// What it is compared with, measured in the same run.
    pub beside: String,
    pub ratio: String,
}

/// Scale of a run and the directory of its files.
pub struct Run {
    /// Tiny inputs: checks that the row works and measures nothing.
    pub small: bool,
    root: PathBuf,
    args: Vec<String>,
}

impl Run {
    /// The number behind a flag if it is given, else `full` when measuring and `small` otherwise.
    pub fn number(&self, flag: &str, full: u64, small: u64) -> u64 {
        let given = self.args.iter().skip_while(|arg| *arg != flag).nth(1);
        let given = given.map(|text| text.parse().unwrap_or_else(|_| panic!("{flag} {text}: no number")));
        given.unwrap_or(if self.small { small } else { full })
    }

    /// The same, as a duration.
    pub fn seconds(&self, flag: &str, full: u64, small: u64) -> Duration {
        Duration::from_secs(self.number(flag, full, small))
    }

    /// An empty directory on the measured disk, removed when the guard is dropped.
    pub fn dir(&self, name: &str) -> tempfile::TempDir {
        tempfile::Builder::new().prefix(name).tempdir_in(&self.root).expect("a directory to measure in")
    }

    /// A healthy cluster of three with a directory bucket and default settings.
    pub fn cluster(&self, dir: &Path) -> Cluster {
        let bucket = Some(format!("file://{}", dir.join("bucket").display()));
        let cluster = Cluster::start(dir, BROKERS, &ClusterOptions { bucket, ..ClusterOptions::default() });
        cluster.wait_healthy(PATIENCE);
        cluster
    }
}

/// A connection to the first broker that runs.
pub fn wire(cluster: &Cluster) -> Wire {
    Wire::connect(&cluster.broker(cluster.running()[0]).kafka).expect("connects")
}

pub fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// The names on the command line; an unknown one ends the run.
fn wanted(args: &[String]) -> Vec<&str> {
    let mut names = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if FLAGS.contains(&arg.as_str()) {
            args.next();
        } else if !arg.starts_with('-') {
            names.push(arg.as_str());
        }
    }
    if let Some(unknown) = names.iter().find(|name| !ROWS.iter().any(|(known, _)| known == *name)) {
        let known: Vec<&str> = ROWS.iter().map(|(name, _)| *name).collect();
        panic!("no row is called {unknown:?}; there are {} and the flags {}", known.join(", "), FLAGS.join(", "));
    }
    names
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let measure = args.iter().any(|arg| arg == "--bench") && std::env::var_os("TIDEWATER_BENCH_SMALL").is_none();
    let root = std::env::var_os("TIDEWATER_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let run = Run { small: !measure, root: root.into(), args };
    let wanted = wanted(&run.args);
    std::fs::create_dir_all(&run.root).expect("the directory to measure in");
    machine::print(&run.root);
    let note = if run.small { " (tiny inputs: no figure)" } else { "" };
    let mut lines = Vec::new();
    for (name, row) in ROWS {
        if wanted.is_empty() || wanted.contains(&name) {
            println!("\n### {name}{note}\n");
            lines.extend(row(&run));
        }
    }
    println!("\n### All{note}\n");
    let table = Table::new(&["measured", "figure", "beside, in the same run", "ratio"]);
    for line in lines {
        table.row(&[line.what, line.figure, line.beside, line.ratio]);
    }
}
