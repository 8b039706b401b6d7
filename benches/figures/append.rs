//! Append to acknowledgement in process ÷ an O_DIRECT write + fdatasync of as many bytes on the same disk.
//!
//! One commit at a time in each of three loops: the raw file; the journal alone; a batch from the router to its answer
//! (proposer, Raft lane, journal, state machine) on a real executor. A commit of `S` bytes over `P` partitions brings
//! one batch each for the next `min(P, S / 1 KiB)` of them, in turn. Not included: socket, decoding, CRC.

mod journal;
mod raw;
mod shard;

use std::time::{Duration, Instant};

use crate::Run;
use crate::report::{Samples, Table, micros, ratio, size};

const COMMITS: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
const PARTITIONS: [usize; 3] = [1, 16, 1000];
/// Bytes of the smallest batch.
const BATCH_MIN: usize = 1 << 10;

/// When a loop ends.
#[derive(Clone, Copy)]
pub struct Until {
    time: Duration,
    bytes: u64,
}

/// Commits before the first that counts.
const WARM_UP: u32 = 50;

impl Until {
    /// Whether the loop has reached its end.
    fn done(&self, start: Instant, samples: &Samples) -> bool {
        start.elapsed() >= self.time || samples.bytes >= self.bytes
    }
}

pub fn run(run: &Run) {
    commits(run);
    spread(run);
}

/// Compares small appends over 1,000 partitions with the same over 16.
fn spread(run: &Run) {
    let until = Until { time: run.pick(Duration::from_secs(4), Duration::from_millis(20)), bytes: 8 << 30 };
    let table = Table::new(&["appends of 1 KiB, 256 at once, over", "appends/s", "÷ 16", "p50", "p99", "CPU each"]);
    let mut sixteen = None;
    for partitions in run.pick([16, 1000], [16, 20]) {
        let mut samples = shard::spread(run.dir("spread").path(), partitions, until);
        let base = *sixteen.get_or_insert(samples.per_second());
        table.row(&[
            format!("{partitions} partitions"),
            format!("{:.0}", samples.per_second()),
            ratio(samples.per_second(), base),
            micros(samples.percentile(50)),
            micros(samples.percentile(99)),
            micros(samples.cpu_each()),
        ]);
    }
}

fn commits(run: &Run) {
    let until = Until { time: run.pick(Duration::from_millis(1500), Duration::from_millis(20)), bytes: 1 << 30 };
    let partitions: &[usize] = run.pick(&PARTITIONS, &[1, 16]);
    let table = Table::new(&["commit", "what", "commits/s", "÷ raw", "p50", "p99", "CPU of the thread per commit"]);
    for bytes in COMMITS {
        let dir = run.dir("append");
        let mut before = raw::measure(dir.path(), bytes, until);
        let mut alone = journal::measure(run.dir("journal").path(), bytes, until);
        let mut whole: Vec<(usize, Samples)> = Vec::new();
        for count in partitions {
            whole.push((*count, shard::measure(run.dir("shard").path(), bytes, *count, until)));
        }
        let mut after = raw::measure(dir.path(), bytes, until);
        // The disk's speed changes from minute to minute: take the mean of before and after.
        let base = f64::midpoint(before.per_second(), after.per_second());
        let print = |what: String, samples: &mut Samples| {
            table.row(&[
                size(bytes),
                what,
                format!("{:.0}", samples.per_second()),
                ratio(samples.per_second(), base),
                micros(samples.percentile(50)),
                micros(samples.percentile(99)),
                micros(samples.cpu_each()),
            ]);
        };
        print("raw write + fdatasync, before".into(), &mut before);
        print("raw write + fdatasync, after".into(), &mut after);
        print("journal alone".into(), &mut alone);
        for (count, samples) in &mut whole {
            print(format!("append to acknowledgement, {count} partitions"), samples);
        }
    }
}
