//! What a step costs: simulated time spent waiting for the store, processor time, requests, bytes, memory.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tidewater_storage::env::sim::World;
use tidewater_tiering::store::{Limited, ObjectStore, SimSleeper, StoreOptions};

use crate::archive::Archive;
use crate::report::Table;
use crate::store::{Counts, SlowStore};
use crate::{machine, memory};

/// How long the simulated store takes for any request.
pub const LATENCY: Duration = Duration::from_millis(20);

/// A simulated machine and a store that is slow by its clock.
pub struct Bench {
    pub world: World,
    slow: Arc<SlowStore>,
    /// As a command opens it: within the bounds on requests and bytes in flight.
    pub store: Arc<dyn ObjectStore>,
}

/// See the header.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    waits: Duration,
    processor: Duration,
    counts: Counts,
    peak: usize,
}

impl Bench {
    pub fn new(archive: &Archive) -> Self {
        let world = World::new(1);
        let sleeper = Arc::new(SimSleeper::new(&world.env_of(9)));
        let slow = SlowStore::new(archive.objects.clone(), LATENCY, sleeper);
        let StoreOptions { requests_max, bytes_max, .. } = StoreOptions::default();
        let inner: Arc<dyn ObjectStore> = slow.clone();
        let store = Arc::new(Limited::new(inner, requests_max, bytes_max));
        Self { world, slow, store }
    }

    /// Runs a step alone.
    pub fn cost<T>(&self, step: impl Future<Output = T>) -> (T, Cost) {
        self.cost_of(|| self.world.block_on(step))
    }

    /// Runs a step that drives the world itself.
    pub fn cost_of<T>(&self, step: impl FnOnce() -> T) -> (T, Cost) {
        let _ = self.slow.take_counts();
        let (begun, processor) = (self.world.now(), machine::cpu_of_thread());
        let (done, peak) = memory::measured(step);
        let processor = machine::cpu_of_thread().saturating_sub(processor);
        let waits = self.world.now().since(begun);
        (done, Cost { waits, processor, counts: self.slow.take_counts(), peak })
    }
}

impl Cost {
    /// One after the other.
    pub fn then(self, next: Self) -> Self {
        let (a, b) = (self.counts, next.counts);
        let counts = Counts {
            gets: a.gets + b.gets,
            puts: a.puts + b.puts,
            others: a.others + b.others,
            bytes_read: a.bytes_read + b.bytes_read,
            bytes_written: a.bytes_written + b.bytes_written,
            at_once: a.at_once.max(b.at_once),
            open: 0,
        };
        let (waits, processor) = (self.waits + next.waits, self.processor + next.processor);
        Self { waits, processor, counts, peak: self.peak.max(next.peak) }
    }

    pub fn table() -> Table {
        Table::new(&[
            "archive",
            "step",
            "waits, simulated",
            "processor",
            "together",
            "GETs",
            "PUTs",
            "LISTs and others",
            "MB read",
            "MB written",
            "memory, MiB",
            "requests at once",
        ])
    }

    pub fn row(&self, table: &Table, archive: &str, step: &str) {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
        table.row(&[
            archive.to_owned(),
            step.to_owned(),
            seconds(self.waits),
            seconds(self.processor),
            format!("**{}**", seconds(self.waits + self.processor)),
            self.counts.gets.to_string(),
            self.counts.puts.to_string(),
            self.counts.others.to_string(),
            mb(self.counts.bytes_read),
            mb(self.counts.bytes_written),
            (self.peak >> 20).to_string(),
            self.counts.at_once.to_string(),
        ]);
    }
}
