//! What restore, follow and verify cost by the size of the archive.
//!
//! Owns: the command line, the sizes. `cargo bench -p tidewater-read-replica --bench scale -- restore` measures;
//! without `--bench` (as `cargo test` runs it) or with `TIDEWATER_BENCH_SMALL=1` every figure runs on tiny inputs, to
//! check that it works. `benches/README.md` explains the numbers. It belongs to the crate that sees all three and
//! little else, so the broker need not be built for it.
#![allow(
    clippy::panic,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a measuring program: it stops with a message"
)]

#[path = "../../tests/support/allocator.rs"]
#[allow(unreachable_pub, reason = "shared")]
mod allocator;
mod archive;
mod cost;
mod follow;
#[path = "../figures/machine.rs"]
#[allow(dead_code, reason = "shared with the first figures, which use all of it")]
mod machine;
mod memory;
mod quick;
#[path = "../figures/report.rs"]
#[allow(dead_code, reason = "shared with the first figures, which use all of it")]
mod report;
mod restore;
mod store;
mod throughput;

use std::path::PathBuf;

use archive::Shape;

#[global_allocator]
static METER: allocator::Counted = allocator::Counted(memory::count);

/// A figure: its name on the command line and its function.
type Figure = (&'static str, fn(&Run));

const FIGURES: [Figure; 4] =
    [("restore", restore::run), ("quick", quick::run), ("follow", follow::run), ("throughput", throughput::run)];

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

/// Archives of several sizes. In the many partitions, the newest 256 rows are of a trickle that has not been gathered.
fn shapes(run: &Run) -> Vec<Shape> {
    let many = Shape { name: "", lanes: 1, partitions: 10_000, rows: 300, shared_rows: 256, tail: 6 };
    let one = Shape { name: "", lanes: 1, partitions: 1, rows: 1_000, shared_rows: 0, tail: 60 };
    let full = vec![
        Shape { name: "1 partition × 1,000 segments", ..one },
        Shape { name: "1 partition × 1,000,000 segments", rows: 1_000_000, ..one },
        Shape { name: "10,000 partitions × 300 rows, 1 lane", ..many },
        Shape { name: "10,000 partitions × 300 rows, 16 lanes", lanes: 16, ..many },
        Shape { name: "10,000 partitions × 600 rows, 1 lane", rows: 600, ..many },
    ];
    let tiny = vec![
        Shape { name: "1 partition × 1,500 segments", rows: 1_500, tail: 11, ..one },
        Shape {
            name: "20 partitions × 30 rows, 3 lanes", lanes: 3, partitions: 20, rows: 30, shared_rows: 20, ..many
        },
        Shape { name: "4 partitions × 600 rows, 1 lane", partitions: 4, rows: 600, ..many },
    ];
    run.pick(full, tiny)
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
