//! Markdown tables, samples and the formats of their numbers.

use std::time::Duration;

/// A table that prints each row at once, so that a long run shows its progress.
pub struct Table {
    columns: usize,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        println!("| {} |\n|{}", columns.join(" | "), "---|".repeat(columns.len()));
        Self { columns: columns.len() }
    }

    pub fn row(&self, cells: &[String]) {
        assert_eq!(cells.len(), self.columns, "a cell for every column");
        println!("| {} |", cells.join(" | "));
    }
}

/// Latencies and bytes of a loop.
#[derive(Default)]
pub struct Samples {
    took: Vec<Duration>,
    /// Bytes moved.
    pub bytes: u64,
    /// Processor time of the process that did the work.
    pub cpu: Duration,
    wall: Option<Duration>,
}

impl Samples {
    pub fn add(&mut self, took: Duration, bytes: u64) {
        self.took.push(took);
        self.bytes += bytes;
    }

    pub fn count(&self) -> usize {
        self.took.len()
    }

    /// Sets the wall time of operations that overlapped.
    pub fn over(mut self, wall: Duration) -> Self {
        self.wall = Some(wall);
        self
    }

    /// Time spent in operations.
    pub fn busy(&self) -> Duration {
        self.wall.unwrap_or_else(|| self.took.iter().sum())
    }

    /// Operations a second of the time spent in them.
    pub fn per_second(&self) -> f64 {
        self.count() as f64 / self.busy().as_secs_f64()
    }

    /// Bytes a second of the time spent in the operations.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.busy().as_secs_f64()
    }

    /// The `of`th percentile.
    pub fn percentile(&mut self, of: usize) -> Duration {
        self.took.sort_unstable();
        let at = (self.took.len() * of / 100).min(self.took.len().saturating_sub(1));
        self.took.get(at).copied().unwrap_or_default()
    }

    /// Processor time per operation.
    pub fn cpu_each(&self) -> Duration {
        self.cpu / u32::try_from(self.count().max(1)).unwrap_or(u32::MAX)
    }
}

pub fn mb_per_s(rate: f64) -> String {
    format!("{:.0} MB/s", rate / 1e6)
}

pub fn micros(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}

pub fn ratio(ours: f64, theirs: f64) -> String {
    format!("**{:.2}**", ours / theirs)
}

/// Processor seconds per 10^9 bytes.
pub fn cpu_per_gb(cpu: Duration, bytes: u64) -> String {
    format!("{:.2} s/GB", cpu.as_secs_f64() / (bytes as f64 / 1e9))
}

/// 4096 as `4 K`.
pub fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 { format!("{} M", bytes >> 20) } else { format!("{} K", bytes >> 10) }
}
