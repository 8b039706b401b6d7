//! Resources of a process, read from `/proc`. A process that has ended, or a field that is not there, ends the program:
//! a figure of 0 would pass for a good one.

use std::time::Duration;

/// Kernel ticks a second in `/proc/*/stat` (`USER_HZ`, 100 on every Linux this runs on).
const TICKS: u64 = 100;

fn read(pid: u32, file: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"));
    text.unwrap_or_else(|error| panic!("process {pid} is measured and /proc/{pid}/{file} cannot be read: {error}"))
}

/// The number behind `name` in a file of `name value` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

/// A field of `/proc/*/status` that counts KiB, such as `VmRSS:`, in bytes.
pub fn memory(pid: u32, name: &str) -> u64 {
    let status = read(pid, "status");
    field(&status, name).unwrap_or_else(|| panic!("process {pid} has ended: it has no {name}\n{status}")) << 10
}

/// Resident memory, bytes.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// Threads of a process now, the kernel workers of its rings among them.
pub fn threads(pid: u32) -> u64 {
    field(&read(pid, "status"), "Threads:").expect("the kernel counts threads")
}

/// Processor time since the start, all threads.
pub fn cpu(pid: u32) -> Duration {
    let stat = read(pid, "stat");
    // The second field is the program's name in parentheses; user and system time are the 12th and 13th after it.
    let (_, after) = stat.rsplit_once(')').expect("the name stands in parentheses");
    let fields = after.split_ascii_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|n| n.parse::<u64>().expect("a number of ticks")).sum();
    Duration::from_millis(ticks * 1000 / TICKS)
}

/// Voluntary and involuntary context switches of all threads.
pub fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs").flatten();
    // A thread may end between the two readings.
    let of = |status: String| {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.map(|line| line.rsplit('\t').next().and_then(|n| n.parse::<u64>().ok()).expect("a number")).sum::<u64>()
    };
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok()).map(of).sum()
}

/// Open files.
pub fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// Bytes that the process has written to disk since its start.
pub fn written(pid: u32) -> u64 {
    field(&read(pid, "io"), "write_bytes:").expect("the kernel counts bytes written")
}
