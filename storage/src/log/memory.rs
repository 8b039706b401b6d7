//! The shard's account of recent batches, shared by all its logs. Shard-local.
//!
//! Age is counted in bytes appended on the shard since it started, so "older than the cap" needs no list: whatever was
//! appended more than a cap ago may go, if it is written. The cap is soft: what is not written yet stays, and write-back
//! is hurried; admission stops at twice the cap.

use std::cell::Cell;

/// Bytes of recent batches, and their age. Shard-local.
#[derive(Debug)]
pub(crate) struct RecentMemory {
    cap: u64,
    resident: Cell<u64>,
    appended: Cell<u64>,
}

impl RecentMemory {
    pub(crate) fn new(cap: u64) -> Self {
        Self { cap: cap.max(1), resident: Cell::new(0), appended: Cell::new(0) }
    }

    /// Takes in `bytes`; returns the age mark of the batch.
    pub(crate) fn add(&self, bytes: u64) -> u64 {
        self.resident.set(self.resident.get() + bytes);
        self.appended.set(self.appended.get() + bytes);
        self.appended.get()
    }

    pub(crate) fn remove(&self, bytes: u64) {
        self.resident.set(self.resident.get().saturating_sub(bytes));
    }

    pub(crate) fn resident(&self) -> u64 {
        self.resident.get()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.resident.get() > self.cap
    }

    /// So much that nothing more may be admitted.
    pub(crate) fn is_full(&self) -> bool {
        self.resident.get() / 2 > self.cap
    }

    /// Batches with a mark below this go when memory is over its cap: three quarters of a cap stay.
    pub(crate) fn cutoff(&self) -> u64 {
        self.appended.get().saturating_sub(self.cap / 4 * 3)
    }

    pub(crate) fn cap(&self) -> u64 {
        self.cap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutoff_keeps_three_quarters_of_the_cap() {
        let memory = RecentMemory::new(100);
        let marks: Vec<u64> = (0..12).map(|_| memory.add(10)).collect();
        assert!(memory.is_over());
        let stay = marks.iter().filter(|mark| **mark >= memory.cutoff()).count();
        assert_eq!(stay, 8);
        memory.remove(120);
        assert!(!memory.is_over());
    }
}
