//! The machine that was measured, its load, and processor time and disk writes of processes.

use std::path::Path;
use std::time::Duration;

/// Kernel ticks a second in `/proc/*/stat` (`USER_HZ`, 100 on every Linux this runs on).
const TICKS: u64 = 100;

/// Prints the machine and its load, with a warning if it is busy.
pub fn print(dir: &Path) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    println!("{cores} x {model}, Linux {}, load {}, files in {}", kernel.trim(), load.trim(), dir.display());
    if load.split(' ').next().and_then(|one| one.parse::<f64>().ok()).is_some_and(|one| one > 0.5) {
        println!("**The machine is busy: these numbers are not to be recorded.**");
    }
}

/// Processor time of a process since its start, all threads.
pub fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the program's name in parentheses; user and system time are the 12th and 13th after it.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_ascii_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Bytes that a process has written to disks since its start.
pub fn written_by(pid: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0)
}

/// Processor time of the calling thread since its start.
pub fn cpu_of_thread() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}
