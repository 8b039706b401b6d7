//! Beside Apache Kafka: the same clients, the same bytes, the same disk, one broker at a time, runs alternated.
//!
//! Owns: the command line and the rows. `cargo bench -p tidewater --bench vs_kafka` measures all rows, `-- bulk paced`
//! these, `-- cluster` three brokers beside three; without `--bench` (that is how `cargo test` runs it) or with
//! `TIDEWATER_BENCH_SMALL=1` every row that needs no JVM runs on tiny inputs against Tidewater alone, to check that it
//! works. `benches/README.md` explains the numbers.
#![allow(
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a measuring program: it stops with a message"
)]

mod cluster;
mod consumer;
mod contender;
mod java;
#[path = "../figures/machine.rs"]
#[allow(dead_code, reason = "shared with the figures")]
mod machine;
mod many;
mod memory;
mod paced;
mod producer;
mod rows;
#[path = "../../tests/support/support.rs"]
mod support;

use std::path::PathBuf;

use machine::process;

use contender::Field;

/// Scale of a run and the directory of its files.
pub struct Run {
    /// Tiny inputs, Tidewater alone: checks that the row works and measures nothing.
    pub small: bool,
    root: PathBuf,
    /// Rounds; a figure is their median.
    pub rounds: usize,
}

impl Run {
    /// `full` when measuring, `small` otherwise.
    pub fn pick<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }
}

/// A row: its name on the command line and its function.
type Row = (&'static str, fn(&Run, &Field));

const ROWS: [Row; 8] = [
    ("bulk", rows::bulk),
    ("small", rows::small),
    ("hundred", rows::hundred),
    ("java", java::run),
    ("paced", paced::run),
    ("fetch", consumer::run),
    ("connections", many::run),
    ("memory", memory::run),
];

/// The row of two clusters: only by name, before and without the brokers of the others.
const CLUSTER: &str = "cluster";

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let measure = args.iter().any(|arg| arg == "--bench") && std::env::var_os("TIDEWATER_BENCH_SMALL").is_none();
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_known = |name: &str| name == CLUSTER || ROWS.iter().any(|(known, _)| *known == name);
    if let Some(unknown) = wanted.iter().find(|name| !is_known(name)) {
        let known: Vec<&str> = ROWS.iter().map(|(name, _)| *name).chain([CLUSTER]).collect();
        panic!("no row is called {unknown:?}; there are {}", known.join(", "));
    }
    let root = std::env::var_os("TIDEWATER_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let rounds = number("TIDEWATER_BENCH_ROUNDS").unwrap_or(3);
    let run = Run { small: !measure, root: root.into(), rounds: if measure { rounds } else { 1 } };
    std::fs::create_dir_all(&run.root).expect("the directory to measure in");
    machine::print(&run.root);
    let _held = measure.then(|| memory::populate(number("TIDEWATER_BENCH_FREE_GIB").unwrap_or(4)));
    let dir = tempfile::Builder::new().prefix("vs_kafka").tempdir_in(&run.root).expect("a directory to measure in");
    if wanted.iter().any(|want| *want == CLUSTER) {
        println!("\n### {CLUSTER}\n");
        cluster::run(&run, dir.path());
        if wanted.len() == 1 {
            return;
        }
    }
    let field = Field::start(&run, dir.path());
    for (name, row) in ROWS {
        if wanted.is_empty() || wanted.iter().any(|want| *want == name) {
            println!("\n### {name}{}\n", if run.small { " (tiny inputs: no figure)" } else { "" });
            row(&run, &field);
        }
    }
}
