//! Idle and many: the cost of idle partitions, the time until a killed broker serves again, and bytes written to disk.
//!
//! Owns: three selections, `idle`, `start` and `written`. A real broker process is driven over its Kafka port;
//! processor time, resident memory and open files are read from `/proc`, so that a busy machine makes the run slower
//! but does not change the figures (except times until ready). `cargo bench --bench many -- idle` measures; without
//! `--bench` tiny inputs show that it works. `benches/README.md` explains the numbers.
#![allow(
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a measuring program: it stops with a message"
)]

mod idle;
mod load;
#[allow(dead_code, reason = "shared with other programs")]
mod process;
mod start;
#[path = "../../tests/support/support.rs"]
mod support;
mod topics;
mod written;

use std::path::PathBuf;

/// A selection: its name on the command line and its function.
type Selection = (&'static str, fn(&Run));

const SELECTIONS: [Selection; 3] = [("idle", idle::run), ("start", start::run), ("written", written::run)];

/// Scale of a run and the directory of its files.
pub struct Run {
    /// Tiny inputs.
    pub small: bool,
    root: PathBuf,
}

impl Run {
    /// The environment variable `name` if set, else `full` when measuring and `small` otherwise.
    pub fn number(&self, name: &str, full: u64, small: u64) -> u64 {
        let asked = std::env::var(name).ok().map(|text| text.parse().expect("a number"));
        asked.unwrap_or(if self.small { small } else { full })
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
    if let Some(unknown) = wanted.iter().find(|name| !SELECTIONS.iter().any(|(known, _)| known == *name)) {
        panic!("nothing is called {unknown:?}; there are idle, start and written");
    }
    let root = std::env::var_os("TIDEWATER_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let run = Run { small: !measure, root: root.into() };
    std::fs::create_dir_all(&run.root).expect("the directory to measure in");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load {}, files in {}", load.trim(), run.root.display());
    for (name, selection) in SELECTIONS {
        if wanted.is_empty() || wanted.iter().any(|want| *want == name) {
            println!("\n### {name}{}\n", if run.small { " (tiny inputs: no figure)" } else { "" });
            selection(&run);
        }
    }
}
