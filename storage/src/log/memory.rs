//! The memory that recent batches take on a shard, over all its logs. Shard-local.
//!
//! A batch's age is the number of bytes appended on the shard since it, so eviction needs no list: a written batch may
//! leave memory once a cap's worth of bytes follows it. The cap is soft. Unwritten batches stay; over the cap
//! write-back is hurried, and at twice the cap nothing is admitted.

use std::cell::Cell;

/// Counts bytes of recent batches, and their age. Shard-local.
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

    /// Counts a batch of `bytes`; returns its age mark.
    pub(crate) fn add(&self, bytes: u64) -> u64 {
        self.resident.set(self.resident.get() + bytes);
        self.appended.set(self.appended.get() + bytes);
        self.appended.get()
    }

    pub(crate) fn remove(&self, bytes: u64) {
        let left = self.resident.get().checked_sub(bytes);
        self.resident.set(left.expect("a batch leaves memory once"));
    }

    pub(crate) fn resident(&self) -> u64 {
        self.resident.get()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.resident.get() > self.cap
    }

    /// At twice the cap: nothing more may be admitted.
    pub(crate) fn is_full(&self) -> bool {
        self.resident.get() / 2 > self.cap
    }

    /// Written batches with a mark below this leave memory when it is over its cap: three quarters of a cap stay.
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
