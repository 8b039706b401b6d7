//! Random numbers from a seed (ChaCha12). The real broker seeds it from the system once per shard, a simulation from
//! its world's seed. Affinity: shard-local; clones share one stream.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use uuid::Uuid;

/// A stream of random numbers. Shard-local.
#[derive(Clone)]
pub struct Rng {
    generator: Rc<RefCell<StdRng>>,
}

impl Rng {
    /// The stream of a seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { generator: Rc::new(RefCell::new(StdRng::seed_from_u64(seed))) }
    }

    /// 64 random bits.
    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.generator.borrow_mut().next_u64()
    }

    /// A number in `0..n`; 0 when `n` is 0.
    #[must_use]
    pub fn below(&self, n: u64) -> u64 {
        // The high half of a 128-bit product: close enough to uniform for every n used here.
        let wide = u128::from(self.next_u64()) * u128::from(n);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    /// Fills a buffer.
    pub fn fill(&self, into: &mut [u8]) {
        self.generator.borrow_mut().fill_bytes(into);
    }

    /// A random (version 4) UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }
}

impl fmt::Debug for Rng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rng")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_stream_and_below_stays_below() {
        let (a, b) = (Rng::seeded(7), Rng::seeded(7));
        for n in 0..1000 {
            let (x, y) = (a.below(n), b.below(n));
            assert_eq!(x, y);
            assert!(x < n.max(1));
        }
        assert_eq!(a.uuid(), b.uuid());
        assert_eq!(a.uuid().get_version_num(), 4);
    }
}
