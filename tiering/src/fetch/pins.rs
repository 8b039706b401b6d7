//! What answers keep in memory beyond their own bytes: a slice of a chunk keeps the whole chunk, however long its
//! client takes.
//!
//! Owns: when an answer is a slice and when a copy. Does not own: what an answer holds (`answer`). The count is
//! *node-wide* (a slice may be dropped anywhere), the rest shard-local.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// An answer that takes less than this part of a chunk is copied out of it: that costs little. A fetch of 1 MiB takes a
/// quarter of a chunk, or parts of two, and must not be copied.
const SLICED_PART: u64 = 16;

/// Counts them, up to a bound. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    bytes: Arc<AtomicU64>,
    bytes_max: u64,
}

/// Bytes kept for an answer, until its last slice goes.
struct Pin {
    of: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Slice {
    bytes: Bytes,
    _pin: Arc<Pin>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Pins {
    /// At most `bytes_max` bytes.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes: Arc::default(), bytes_max }
    }

    /// Pieces of one chunk of `chunk_len` bytes for an answer: slices of it, or copies where it is not worth being
    /// kept.
    pub(super) fn give(&self, chunk_len: u64, slices: Vec<Bytes>) -> Vec<Bytes> {
        let taken: u64 = slices.iter().map(|slice| slice.len() as u64).sum();
        let kept = chunk_len.saturating_sub(taken);
        let room = self.bytes_max.saturating_sub(self.bytes.load(Ordering::Relaxed));
        if taken < chunk_len / SLICED_PART || kept > room {
            return slices.iter().map(|slice| Bytes::copy_from_slice(slice)).collect();
        }
        self.bytes.fetch_add(kept, Ordering::Relaxed);
        let pin = Arc::new(Pin { of: Arc::clone(&self.bytes), bytes: kept });
        slices.into_iter().map(|bytes| Bytes::from_owner(Slice { bytes, _pin: Arc::clone(&pin) })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "one slice at a place is what is asked for")]
    fn small_parts_are_copied_and_so_is_what_is_over_the_bound() {
        let body = Bytes::from(vec![3; 1000]);
        let pins = Pins::new(1500);
        let give = |slices: &[std::ops::Range<usize>]| {
            let slices: Vec<_> = slices.iter().map(|slice| body.slice(slice.clone())).collect();
            let given = pins.give(1000, slices.clone());
            assert_eq!(given, slices);
            (given.iter().zip(&slices).all(|(given, slice)| given.as_ptr() == slice.as_ptr()), given)
        };
        assert!(!give(&[100..130, 130..161]).0, "too small a part");
        assert!(give(&[100..130, 130..162]).0, "together");
        let (sliced, mut one) = give(&[100..200, 200..350]);
        assert!(sliced, "together");
        assert_eq!(pins.bytes.load(Ordering::Relaxed), 750);
        let (sliced, other) = give(&[0..250]);
        assert!(sliced);
        assert!(!give(&[0..250]).0, "the bound is reached");
        assert!(give(&[0..1000]).0, "all of it keeps nothing more");
        one.pop();
        assert!(!give(&[0..250]).0, "half of an answer was sent");
        one.pop();
        assert!(give(&[0..250]).0);
        drop(other);
        assert_eq!(pins.bytes.load(Ordering::Relaxed), 0);
    }
}
