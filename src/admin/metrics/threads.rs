//! What the kernel counts per thread name: processor time and wake-ups of shards and of the side runtime.

use std::collections::BTreeMap;
use std::fs;

use super::samples::{Labels, Sheet, label};

/// Ticks of processor time a second: `USER_HZ`, 100 on every Linux since 2.6.
const TICKS: f64 = 100.0;

/// Sums over the threads of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    wake_ups: u64,
}

pub(super) fn fill(sheet: &mut Sheet) {
    let threads = by_name();
    let rows = |name: &str| -> Labels { label("thread", name.to_owned()) };
    sheet.amounts(
        "tidewater_thread_cpu_seconds",
        "Processor time of the threads of a name (shard-N, tidewater-side, tidewater-table, other), in seconds",
        threads.iter().map(|(name, usage)| (rows(name), usage.cpu_seconds)).collect(),
    );
    sheet.counters(
        "tidewater_thread_wake_ups",
        "Times a thread of a name slept and was woken (voluntary context switches)",
        threads.iter().map(|(name, usage)| (rows(name), usage.wake_ups)).collect(),
    );
}

/// Threads that have ended are not counted any more; those of shards and of the side runtime live as long as the
/// process.
fn by_name() -> BTreeMap<String, Usage> {
    let mut threads: BTreeMap<String, Usage> = BTreeMap::new();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return threads };
    for task in tasks.flatten() {
        // A thread may end between the listing and the reads.
        let read = |file: &str| fs::read_to_string(task.path().join(file)).ok();
        let (Some(comm), Some(status), Some(stat)) = (read("comm"), read("status"), read("stat")) else { continue };
        let usage = threads.entry(series(comm.trim()).to_owned()).or_default();
        usage.cpu_seconds += super::process::cpu_ticks(&stat).unwrap_or_default() / TICKS;
        usage.wake_ups += voluntary_switches(&status).unwrap_or_default();
    }
    threads
}

/// Shards and the side runtime by their names; everything else (kernel workers, helpers) as one series.
fn series(name: &str) -> &str {
    if name.starts_with("shard-") || name == "tidewater-side" || name == "tidewater-table" { name } else { "other" }
}

fn voluntary_switches(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(
            voluntary_switches("Name:\tx\nvoluntary_ctxt_switches:\t46\nnonvoluntary_ctxt_switches:\t14\n"),
            Some(46)
        );
        assert_eq!(series("shard-0"), "shard-0");
        assert_eq!(series("iou-wrk-24486"), "other");
        assert!(!by_name().is_empty());
    }
}
