//! Counts connections by shard and by address: the shard with the fewest gets the next one. Node-wide.
//!
//! Its lock is taken only when a connection is opened or closed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidewater_storage::model::ShardId;

#[derive(Clone, Debug)]
pub struct Placement {
    open: Arc<[AtomicUsize]>,
    by_address: ByAddress,
}

type ByAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection in the counts of its shard and address, until dropped.
#[derive(Debug)]
pub struct Seat {
    open: Arc<[AtomicUsize]>,
    shard: usize,
    by_address: ByAddress,
    address: Option<IpAddr>,
}

impl Placement {
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Self { open: (0..shards).map(|_| AtomicUsize::new(0)).collect(), by_address: Arc::default() }
    }

    /// Connections open on all shards.
    #[must_use]
    pub fn total(&self) -> usize {
        self.open.iter().map(|n| n.load(Ordering::Relaxed)).sum()
    }

    /// Counts a connection on the shard with the fewest; `None` when `max` are open.
    #[must_use]
    pub fn seat(&self, max: usize) -> Option<(ShardId, Seat)> {
        if self.total() >= max {
            return None;
        }
        let (shard, counter) = self.open.iter().enumerate().min_by_key(|(_, n)| n.load(Ordering::Relaxed))?;
        counter.fetch_add(1, Ordering::Relaxed);
        let (open, by_address) = (Arc::clone(&self.open), Arc::clone(&self.by_address));
        Some((ShardId(u16::try_from(shard).ok()?), Seat { open, shard, by_address, address: None }))
    }
}

impl Seat {
    /// Counts the connection for its peer's address; false when it has `max` already.
    #[must_use]
    pub fn claim(&mut self, address: IpAddr, max: usize) -> bool {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= max {
            return false;
        }
        *count += 1;
        self.address = Some(address);
        true
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(counter) = self.open.get(self.shard) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
        let Some(address) = self.address else { return };
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_share() {
        let placement = Placement::new(1);
        let mut seats: Vec<_> = (0..3).map(|_| placement.seat(9).expect("room").1).collect();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!(seats[0].claim(one, 1) && !seats[1].claim(one, 1) && seats[2].claim(other, 1));
        drop(seats);
        assert!(placement.by_address.lock().expect("whole").is_empty());
    }

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
