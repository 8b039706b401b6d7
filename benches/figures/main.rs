//! First figures: the cost of each path through Tidewater as a ratio to the machine's own speed in the same run.
//!
//! Owns: the command line, the two scales. `cargo bench --bench figures -- append` measures; without `--bench` (as
//! `cargo test` runs it) or with `TIDEWATER_BENCH_SMALL=1` every figure runs on tiny inputs, to check that it works.
//! One binary for all figures links the broker once. `benches/README.md` explains the numbers.
#![allow(
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a measuring program: it stops with a message"
)]

mod append;
mod commits;
mod compact;
mod fetch;
mod live;
mod loopback;
mod machine;
mod produce;
mod puts;
mod report;
mod s3;
#[path = "../../tests/support/support.rs"]
mod support;
mod table;
mod topic;
mod upload;
mod wire;

use std::path::PathBuf;

/// A figure: its name on the command line and its function.
type Figure = (&'static str, fn(&Run));

const FIGURES: [Figure; 11] = [
    ("append", append::run),
    ("produce", produce::run),
    ("fetch_hot", fetch::hot),
    ("fetch_cold", fetch::cold),
    ("upload", upload::run),
    ("s3", s3::run),
    ("puts", puts::run),
    ("table", table::run),
    ("compact", compact::run),
    ("commits", commits::run),
    ("live", live::run),
];

/// Scale of a run and the directory of its files.
pub struct Run {
    /// Tiny inputs: checks that the figure works and measures nothing.
    pub small: bool,
    root: PathBuf,
}

impl Run {
    /// `full` when measuring, `small` otherwise.
    pub fn pick<T>(&self, full: T, small: T) -> T {
        if self.small { small } else { full }
    }

    /// An empty directory on the measured disk, removed when the guard is dropped.
    pub fn dir(&self, name: &str) -> tempfile::TempDir {
        tempfile::Builder::new().prefix(name).tempdir_in(&self.root).expect("a directory to measure in")
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let measure = args.iter().any(|arg| arg == "--bench") && std::env::var_os("TIDEWATER_BENCH_SMALL").is_none();
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    if let Some(unknown) = wanted.iter().find(|name| !FIGURES.iter().any(|(known, _)| known == *name)) {
        let known: Vec<&str> = FIGURES.iter().map(|(name, _)| *name).collect();
        panic!("no figure is called {unknown:?}; there are {}", known.join(", "));
    }
    let root = std::env::var_os("TIDEWATER_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let run = Run { small: !measure, root: root.into() };
    std::fs::create_dir_all(&run.root).expect("the directory to measure in");
    machine::print(&run.root);
    for (name, figure) in FIGURES {
        if wanted.is_empty() || wanted.iter().any(|want| *want == name) {
            println!("\n### {name}{}\n", if run.small { " (tiny inputs: no figure)" } else { "" });
            figure(&run);
        }
    }
}
