//! Which shard gets the next connection: the one with the fewest. Node-wide counters, nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tidewater_storage::model::ShardId;

/// Connections per shard.
#[derive(Clone, Debug)]
pub struct Placement {
    open: Arc<[AtomicUsize]>,
}

/// One connection counted on its shard; dropping it counts it out.
#[derive(Debug)]
pub struct Seat {
    open: Arc<[AtomicUsize]>,
    shard: usize,
}

impl Placement {
    /// For `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self { open: (0..shards).map(|_| AtomicUsize::new(0)).collect() }
    }

    /// Connections open on all shards.
    #[must_use]
    pub fn total(&self) -> usize {
        self.open.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Takes a seat on the shard with the fewest connections; `None` when `max` are open already.
    #[must_use]
    pub fn seat(&self, max: usize) -> Option<(ShardId, Seat)> {
        if self.total() >= max {
            return None;
        }
        let (shard, counter) = self.open.iter().enumerate().min_by_key(|(_, n)| n.load(Ordering::Relaxed))?;
        counter.fetch_add(1, Ordering::Relaxed);
        Some((ShardId(u16::try_from(shard).ok()?), Seat { open: Arc::clone(&self.open), shard }))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(counter) = self.open.get(self.shard) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_spread_and_are_counted_out() {
        let placement = Placement::new(3);
        let seats: Vec<_> = (0..6).map(|_| placement.seat(6).expect("room")).collect();
        assert_eq!(seats.iter().map(|(s, _)| s.0).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
        assert!(placement.seat(6).is_none());
        drop(seats);
        assert_eq!(placement.total(), 0);
    }
}
