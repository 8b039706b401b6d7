//! What the registry counts, for metrics. Node-wide; written on the side runtime, read by scrapes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// See the header.
#[derive(Debug, Default)]
pub struct RegistryCounts {
    pub queries: Requests,
    pub commands: Requests,
    /// Of registrations, for the bucket.
    pub waits: ArchiveWaits,
}

/// Requests by outcome.
#[derive(Debug, Default)]
pub struct Requests {
    done: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Requests {
    /// An HTTP request was answered with this status.
    pub fn note(&self, status: u16) {
        let count = match status {
            ..400 => &self.done,
            400..500 => &self.refused,
            500.. => &self.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// With their outcome: `ok`, `refused` (the client's request), `failed` (the registry could not).
    #[must_use]
    pub fn by_outcome(&self) -> [(&'static str, u64); 3] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("ok", read(&self.done)), ("refused", read(&self.refused)), ("failed", read(&self.failed))]
    }
}

/// Waits for the bucket.
#[derive(Debug, Default)]
pub struct ArchiveWaits {
    waits: AtomicU64,
    late: AtomicU64,
    nanos: AtomicU64,
}

impl ArchiveWaits {
    pub(super) fn note(&self, took: Duration, in_time: bool) {
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.late.fetch_add(u64::from(!in_time), Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Waits that have ended.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Those of them that were given up: the id was not given out.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }

    /// Seconds of all waits together.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64()
    }
}
