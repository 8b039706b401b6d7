//! How many requests to the bucket the catalog has signed for its clients. *Node-wide*.

use std::sync::atomic::{AtomicU64, Ordering};

/// See the header.
#[derive(Debug, Default)]
pub struct SignCounts {
    signed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl SignCounts {
    pub fn signed(&self) {
        self.signed.fetch_add(1, Ordering::Relaxed);
    }

    /// The request was at fault.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The broker could not.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// With their outcome.
    #[must_use]
    pub fn by_outcome(&self) -> [(&'static str, u64); 3] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("signed", read(&self.signed)), ("refused", read(&self.refused)), ("failed", read(&self.failed))]
    }
}
