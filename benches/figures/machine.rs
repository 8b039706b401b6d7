//! The machine that was measured, its load, and processor time.

use std::path::Path;
use std::time::Duration;

#[path = "../many/process.rs"]
#[allow(dead_code, reason = "not every program measures all of it")]
pub mod process;

#[allow(unused_imports, reason = "not every program measures another process")]
pub use process::{cpu as cpu_of, written as written_by};

/// Prints the machine and its load, with a warning if it is busy.
pub fn print(dir: &Path) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").expect("the machine's load");
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    println!("{cores} x {model}, Linux {}, load {}, files in {}", kernel.trim(), load.trim(), dir.display());
    if load.split(' ').next().and_then(|one| one.parse::<f64>().ok()).is_some_and(|one| one > 0.5) {
        println!("**The machine is busy: these numbers are not to be recorded.**");
    }
}

/// Processor time of the calling thread since its start.
pub fn cpu_of_thread() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts processor time");
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds"))
}
