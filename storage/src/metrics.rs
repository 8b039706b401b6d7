//! Counters and histograms of a shard's storage engine, as named fields; the root crate renders them. Counters are
//! shard-local, snapshots are *messages*.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A counter that only grows. Shard-local.
#[derive(Debug, Default)]
pub struct Counter(Cell<u64>);

impl Counter {
    /// Adds.
    pub fn add(&self, by: u64) {
        self.0.set(self.0.get().wrapping_add(by));
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// Buckets of a [`Histogram`]. The last counts everything from 16 s on.
pub const BUCKETS: usize = 26;

/// Durations in buckets of powers of two: bucket `n` counts durations of at least `2^(n-1)` and less than `2^n` µs.
/// Fixed in size, never allocates. Shard-local.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Cell<u64>; BUCKETS],
    micros: Cell<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Cell::new(0)), micros: Cell::new(0) }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn note(&self, took: Duration) {
        let (bucket, micros) = bucket_of(took);
        let counter = &self.buckets[bucket];
        counter.set(counter.get().wrapping_add(1));
        self.micros.set(self.micros.get().wrapping_add(micros));
    }

    /// The counts now.
    #[must_use]
    pub fn counts(&self) -> HistogramCounts {
        let mut counts = HistogramCounts { micros: self.micros.get(), ..HistogramCounts::default() };
        for (to, from) in counts.buckets.iter_mut().zip(&self.buckets) {
            *to = from.get();
        }
        counts
    }
}

/// The bucket that counts a duration, and the duration in µs.
fn bucket_of(took: Duration) -> (usize, u64) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    (((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1), micros)
}

/// A [`Histogram`] that several threads count into. Node-wide.
#[derive(Debug, Default)]
pub struct SharedHistogram {
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl SharedHistogram {
    /// Counts one duration.
    pub fn note(&self, took: Duration) {
        let (bucket, micros) = bucket_of(took);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The counts now.
    #[must_use]
    pub fn counts(&self) -> HistogramCounts {
        let mut counts = HistogramCounts { micros: self.micros.load(Ordering::Relaxed), ..HistogramCounts::default() };
        for (to, from) in counts.buckets.iter_mut().zip(&self.buckets) {
            *to = from.load(Ordering::Relaxed);
        }
        counts
    }
}

/// A [`Histogram`] at one moment. A *message*; those of several shards add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramCounts {
    /// By bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// Sum of all durations, in µs.
    pub micros: u64,
}

impl HistogramCounts {
    /// Number of durations counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (to, from) in self.buckets.iter_mut().zip(&other.buckets) {
            *to += from;
        }
        self.micros += other.micros;
    }

    /// Upper bound of a bucket in seconds; the last has none.
    #[must_use]
    pub fn bound_seconds(bucket: usize) -> Option<f64> {
        (bucket + 1 < BUCKETS).then(|| (1u64 << bucket.min(63)) as f64 / 1e6)
    }
}

/// Counters of one journal. Shard-local.
#[derive(Debug, Default)]
pub struct JournalCounters {
    /// Bytes written in commits, padding included.
    pub written_bytes: Counter,
    /// The durable write of each commit.
    pub write: Histogram,
}

/// [`JournalCounters`] at one moment. A *message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalCounts {
    /// Bytes written in commits, padding included.
    pub written_bytes: u64,
    /// The durable write of each commit.
    pub write: HistogramCounts,
}

impl JournalCounters {
    /// The values now.
    #[must_use]
    pub fn counts(&self) -> JournalCounts {
        JournalCounts { written_bytes: self.written_bytes.get(), write: self.write.counts() }
    }
}

/// Durations of disk calls for segments. Shard-local.
#[derive(Debug, Default)]
pub struct EngineTimings {
    pub write: Histogram,
    /// One sync of a segment file.
    pub sync: Histogram,
    /// One read of a run.
    pub read: Histogram,
}

/// [`EngineTimings`] at one moment. A *message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineTimingCounts {
    pub write: HistogramCounts,
    /// One sync of a segment file.
    pub sync: HistogramCounts,
    /// One read of a run.
    pub read: HistogramCounts,
}

impl EngineTimings {
    /// The values now.
    #[must_use]
    pub fn counts(&self) -> EngineTimingCounts {
        EngineTimingCounts { write: self.write.counts(), sync: self.sync.counts(), read: self.read.counts() }
    }
}

macro_rules! counters {
    ($(#[doc = $help:literal] $name:ident),* $(,)?) => {
        /// The counters of one shard's engine. Shard-local.
        #[derive(Debug, Default)]
        pub struct EngineCounters {
            $(#[doc = $help] pub $name: Counter,)*
            /// Durations of disk calls.
            pub timings: EngineTimings,
        }

        /// Their values at one moment. A *message*.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct EngineCounts { $(#[doc = $help] pub $name: u64,)* }

        impl EngineCounters {
            /// The values now.
            #[must_use]
            pub fn counts(&self) -> EngineCounts {
                EngineCounts { $($name: self.$name.get(),)* }
            }
        }

        impl EngineCounts {
            /// Name, description and value of each, for rendering.
            #[must_use]
            pub fn table(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $help.trim().trim_end_matches('.'), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Writes to segment files.
    write_backs,
    /// Bytes written to segment files.
    write_back_bytes,
    /// Syncs of segment files.
    segment_syncs,
    /// Segments closed and indexed.
    segments_closed,
    /// Runs read from segment files.
    run_reads,
    /// Bytes of runs read from segment files.
    run_read_bytes,
    /// Checkpoints made durable.
    checkpoints,
    /// Pages written by checkpoints.
    checkpoint_pages,
    /// Bytes written by checkpoints, roots included.
    checkpoint_bytes,
    /// Segment files and directories removed.
    files_removed,
    /// Admissions refused because the disk budget is used up.
    refused_disk,
    /// Admissions refused because the journal or the memory for recent batches is full.
    refused_pressure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_their_buckets() {
        let histogram = Histogram::default();
        for micros in [0, 1, 3, 1000, u64::MAX] {
            histogram.note(Duration::from_micros(micros));
        }
        let mut counts = histogram.counts();
        assert_eq!(counts.buckets[..3], [1, 1, 1]);
        assert_eq!((counts.buckets[10], counts.buckets[BUCKETS - 1]), (1, 1));
        counts.merge(&counts.clone());
        assert_eq!(counts.count(), 10);
        assert_eq!(HistogramCounts::bound_seconds(10), Some(0.001024));
        assert_eq!(HistogramCounts::bound_seconds(BUCKETS - 1), None);
    }
}
