//! Decides whether the shard makes a durable write with a blocking call or through its ring.
//!
//! Sleeping on the ring and waking up costs the executor more than 20 µs of CPU time and adds as much latency. A small
//! write to a disk that makes it durable in some tens of µs takes less, so the shard makes it with one blocking call.
//! After a slow write, the next ones go through the ring; the blocking call is tried again after a pause that doubles
//! with each slow write.
//!
//! Owns: the decision, pure. Shard-local.

use std::cell::Cell;
use std::time::Duration;

/// Larger writes go through the ring: on every disk they take longer than a sleep costs. Bytes.
const BYTES_MAX: usize = 128 << 10;
/// A write that takes longer is slow.
const QUICK: Duration = Duration::from_micros(200);
/// Writes that go through the ring after one slow write, and at most after many.
const PAUSE_MIN: u32 = 8;
const PAUSE_MAX: u32 = 4096;

/// The recent speed of a file's durable writes.
#[derive(Debug)]
pub(super) struct Pace {
    /// Writes still to go through the ring.
    paused: Cell<u32>,
    /// How many go through the ring after the next slow write.
    pause: Cell<u32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { paused: Cell::new(0), pause: Cell::new(PAUSE_MIN) }
    }
}

impl Pace {
    /// Should a write of `len` bytes be a blocking call? Counts it if not.
    pub(super) fn is_quick(&self, len: usize) -> bool {
        if len > BYTES_MAX {
            return false;
        }
        let paused = self.paused.get();
        self.paused.set(paused.saturating_sub(1));
        paused == 0
    }

    /// Notes how long a blocking write took.
    pub(super) fn took(&self, time: Duration) {
        if time > QUICK {
            self.paused.set(self.pause.get());
            self.pause.set((self.pause.get() * 2).min(PAUSE_MAX));
        } else {
            self.pause.set((self.pause.get() - self.pause.get() / 8).max(PAUSE_MIN));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `writes`, how many are waited for when each that is takes `time`?
    fn waited(pace: &Pace, writes: u32, time: Duration) -> u32 {
        let one = |()| {
            let quick = pace.is_quick(4096);
            if quick {
                pace.took(time);
            }
            u32::from(quick)
        };
        (0..writes).map(|_| one(())).sum()
    }

    #[test]
    fn a_quick_disk_is_always_waited_for() {
        assert_eq!(waited(&Pace::default(), 1000, QUICK), 1000);
    }

    #[test]
    fn a_slow_disk_is_hardly_ever_waited_for_and_found_out_when_it_is_quick_again() {
        let pace = Pace::default();
        assert!(waited(&pace, 100_000, QUICK * 5) < 40);
        assert!(waited(&pace, 10_000, QUICK / 2) > 5_000);
        assert_eq!(waited(&pace, 1000, QUICK / 2), 1000);
    }

    #[test]
    fn one_hiccup_costs_little() {
        let pace = Pace::default();
        pace.took(QUICK * 100);
        assert_eq!(waited(&pace, 100, QUICK / 2), 100 - PAUSE_MIN);
    }

    #[test]
    fn large_writes_go_to_the_ring() {
        assert!(!Pace::default().is_quick(BYTES_MAX + 1));
    }
}
