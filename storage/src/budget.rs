//! The disk budget (`--disk-bytes`): how much each use takes, and what may still be admitted. *Node-wide*: one for all
//! shards, the chunk cache and a directory bucket; the numbers are atomics, so accounts are *messages*.
//!
//! The file system may have less room than the budget, when other programs fill it. How much it has is looked at now
//! and then, and admissions respect that too.
//!
//! A write is admitted before it is proposed, for the bytes it takes in journal and segment. Admissions never use the
//! reserve, the last part of the budget: votes, commands, purges and checkpoints need it so that a full disk can be
//! freed. An account records what was written, and refuses nothing.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The reserve is the budget divided by this. A shard's checkpoint and a few journal files fit in 64 MiB.
const RESERVE_DIVISOR: u64 = 20;
/// The largest reserve. Bytes.
const RESERVE_BYTES_MAX: u64 = 1 << 30;

/// A disk with less to admit than the budget divided by this, or than 16 MiB, is full: larger requests are refused.
const FULL_DIVISOR: u64 = 100;
const FULL_BYTES_MAX: u64 = 16 << 20;

/// A use of the disk that the budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
pub enum DiskUse {
    /// Journal files, including spare ones.
    Journal,
    /// Segment files.
    Segments,
    /// Checkpoint pages and roots.
    Checkpoint,
    /// The cache of chunks read from the bucket.
    Cache,
    /// A bucket that is a directory on this disk.
    Bucket,
}

const USES: usize = 5;

/// Bytes used, by kind. A *message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    pub journal: u64,
    pub segments: u64,
    pub checkpoint: u64,
    pub cache: u64,
    pub bucket: u64,
    /// Admitted and not yet written.
    pub admitted: u64,
    /// The budget; `u64::MAX` when there is none.
    pub limit: u64,
    /// Part of it that admissions never touch.
    pub reserve: u64,
    /// Bytes that were free on the file system when it was looked at last; `None` if it was not.
    pub free: Option<u64>,
}

impl DiskUsage {
    /// Bytes used or admitted.
    #[must_use]
    pub fn total(&self) -> u64 {
        let used = [self.journal, self.segments, self.checkpoint, self.cache, self.bucket, self.admitted];
        used.iter().fold(0, |sum, used| sum.saturating_add(*used))
    }

    /// Bytes that may still be admitted.
    #[must_use]
    pub fn admissible(&self) -> u64 {
        let budget = self.limit.saturating_sub(self.reserve).saturating_sub(self.total());
        self.free.map_or(budget, |free| free.saturating_sub(self.reserve).min(budget))
    }

    /// Are producers refused, or some of them?
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.admissible() < (self.limit / FULL_DIVISOR).min(FULL_BYTES_MAX)
    }

    /// Is it the file system that has no room, rather than the budget?
    fn lacks_room(&self) -> bool {
        self.free.is_some_and(|free| {
            free.saturating_sub(self.reserve) < self.limit.saturating_sub(self.reserve).saturating_sub(self.total())
        })
    }
}

/// A write does not fit in the budget, or on the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFull {
    pub wanted: u64,
    pub usage: DiskUsage,
}

impl std::error::Error for DiskFull {}

impl fmt::Display for DiskFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, usage } = self;
        if usage.lacks_room() {
            return write!(
                f,
                "the disk is full: {wanted} bytes wanted, {} free on the file system of the data directory, of which {} \
                 are kept; free space there",
                usage.free.unwrap_or_default(),
                usage.reserve
            );
        }
        write!(
            f,
            "disk budget is used up: {wanted} bytes wanted, {} left of {} (journal {}, segments {}, cache {}, bucket {}); \
             shorten retention or raise --disk-bytes",
            usage.admissible(),
            usage.limit,
            usage.journal,
            usage.segments,
            usage.cache,
            usage.bucket
        )
    }
}

#[derive(Debug)]
struct BudgetShared {
    limit: AtomicU64,
    used: [AtomicU64; USES],
    admitted: AtomicU64,
    /// [`DiskUsage::free`]; `u64::MAX` for `None`.
    free: AtomicU64,
}

/// The budget. Clones share it.
#[derive(Clone)]
pub struct DiskBudget {
    shared: Arc<BudgetShared>,
}

impl DiskBudget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let limit = AtomicU64::new(limit);
        let (admitted, free) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Self { shared: Arc::new(BudgetShared { limit, used: Default::default(), admitted, free }) }
    }

    /// Changes the limit. What is used and admitted stays.
    pub fn set_limit(&self, limit: u64) {
        self.shared.limit.store(limit, Ordering::Relaxed);
    }

    /// Notes how many bytes are free on the file system.
    pub fn set_free(&self, bytes: u64) {
        self.shared.free.store(bytes, Ordering::Relaxed);
    }

    /// A budget without a limit, which only counts.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// An account for one use; there may be several for the same use.
    #[must_use]
    pub fn account(&self, of: DiskUse) -> DiskAccount {
        DiskAccount { shared: self.shared.clone(), of }
    }

    /// Reserves room for `bytes` until the admission is dropped. Drop it when the bytes are in an account.
    ///
    /// # Errors
    /// [`DiskFull`] if they do not fit beside the reserve.
    pub fn admit(&self, bytes: u64) -> Result<Admission, DiskFull> {
        self.shared.admitted.fetch_add(bytes, Ordering::Relaxed);
        let admission = Admission { shared: self.shared.clone(), bytes };
        let usage = self.usage();
        let no_room = usage.free.is_some_and(|free| bytes > free.saturating_sub(usage.reserve));
        if no_room || usage.total() > usage.limit.saturating_sub(usage.reserve) {
            drop(admission);
            return Err(DiskFull { wanted: bytes, usage: self.usage() });
        }
        Ok(admission)
    }

    /// What each use takes now.
    #[must_use]
    pub fn usage(&self) -> DiskUsage {
        let limit = self.shared.limit.load(Ordering::Relaxed);
        let used = |of: DiskUse| self.shared.used[of as usize].load(Ordering::Relaxed);
        DiskUsage {
            journal: used(DiskUse::Journal),
            segments: used(DiskUse::Segments),
            checkpoint: used(DiskUse::Checkpoint),
            cache: used(DiskUse::Cache),
            bucket: used(DiskUse::Bucket),
            admitted: self.shared.admitted.load(Ordering::Relaxed),
            limit,
            reserve: if limit == u64::MAX { 0 } else { (limit / RESERVE_DIVISOR).min(RESERVE_BYTES_MAX) },
            free: Some(self.shared.free.load(Ordering::Relaxed)).filter(|free| *free != u64::MAX),
        }
    }
}

impl fmt::Debug for DiskBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskBudget").field("usage", &self.usage()).finish()
    }
}

/// Counts the bytes of one use. Clones share it.
#[derive(Clone)]
pub struct DiskAccount {
    shared: Arc<BudgetShared>,
    of: DiskUse,
}

impl DiskAccount {
    /// Adds bytes that are used from now on.
    pub fn add(&self, bytes: u64) {
        self.shared.used[self.of as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Removes bytes that are no longer used.
    pub fn remove(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        let _ = self.shared.used[self.of as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Replaces one measured amount by another.
    pub fn change(&self, before: u64, now: u64) {
        self.add(now.saturating_sub(before));
        self.remove(before.saturating_sub(now));
    }
}

impl fmt::Debug for DiskAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("DiskAccount").field(&self.of).finish()
    }
}

/// Reserved room, given back when dropped.
#[derive(Debug)]
pub struct Admission {
    shared: Arc<BudgetShared>,
    bytes: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.admitted.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_before_the_reserve_and_says_why() {
        let budget = DiskBudget::new(2000);
        let segments = budget.account(DiskUse::Segments);
        segments.add(1500);
        let held = budget.admit(300).expect("fits");
        let full = budget.admit(200).expect_err("the last 100 are reserve");
        assert_eq!((full.wanted, full.usage.segments, full.usage.admissible()), (200, 1500, 100));
        assert!(full.to_string().contains("raise --disk-bytes"), "{full}");
        budget.set_limit(4000);
        assert!(budget.admit(200).is_ok(), "{:?}", budget.usage());
        budget.set_limit(2000);
        drop(held);
        assert!(budget.admit(200).is_ok());
        segments.remove(5000);
        assert_eq!(budget.usage().total(), 0);
    }

    #[test]
    fn a_file_system_without_room_refuses_too() {
        let budget = DiskBudget::new(2000);
        budget.account(DiskUse::Segments).add(500);
        assert!(!budget.usage().is_full(), "{:?}", budget.usage());
        budget.set_free(400);
        assert_eq!(budget.usage().admissible(), 300, "the reserve of 100 stays free");
        assert!(budget.admit(300).is_ok());
        let full = budget.admit(301).expect_err("no room");
        assert!(full.to_string().contains("free on the file system"), "{full}");
        budget.set_free(100);
        assert!(budget.usage().is_full() && budget.admit(1).is_err());
        budget.set_free(5000);
        assert_eq!(budget.usage().admissible(), 1400, "as the budget says");
    }

    #[test]
    fn no_limit_refuses_nothing() {
        let budget = DiskBudget::unlimited();
        budget.account(DiskUse::Bucket).add(u64::MAX / 2);
        assert!(budget.admit(1 << 60).is_ok());
    }
}
