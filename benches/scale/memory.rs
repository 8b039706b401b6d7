//! The bytes that are allocated, and the most there were at once, as the global allocator reports them.

use std::sync::atomic::{AtomicIsize, Ordering};

static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

/// For the allocator.
pub fn count(bytes: isize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if bytes > 0 {
        PEAK.fetch_max(live, Ordering::Relaxed);
    }
}

/// Bytes that belong to the store from now on: what is measured does not hold them.
pub fn hand_over(bytes: usize) {
    LIVE.fetch_sub(bytes.cast_signed(), Ordering::Relaxed);
}

/// Gives the result of `act` and the most bytes that it held at once, beyond those that were held before.
pub fn measured<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = act();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    (done, usize::try_from(peak).unwrap_or(0))
}
