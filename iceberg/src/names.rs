//! Where fresh names come from: UUIDs of files and ids of snapshots. Random in production, from a seed in simulation.
//!
//! *Node-wide*; cheap to clone.

use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// A source of unique names.
#[derive(Clone, Debug)]
pub struct Names(Arc<Source>);

#[derive(Debug)]
enum Source {
    Random,
    Seeded(Mutex<u64>),
}

impl Names {
    #[must_use]
    pub fn random() -> Self {
        Self(Arc::new(Source::Random))
    }

    /// The same names again for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Source::Seeded(Mutex::new(seed))))
    }

    /// A UUID not handed out before.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        match &*self.0 {
            Source::Random => Uuid::new_v4(),
            Source::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let (high, low) = (split_mix(&mut state), split_mix(&mut state));
                uuid::Builder::from_u128((u128::from(high) << 64) | u128::from(low))
                    .with_version(uuid::Version::Random)
                    .into_uuid()
            }
        }
    }

    /// Eight hexadecimal digits, for the end of a name that is found by other means.
    #[must_use]
    pub fn suffix(&self) -> String {
        format!("{:08x}", self.uuid().as_u128() >> 96)
    }

    /// A snapshot id: positive.
    #[must_use]
    pub fn snapshot_id(&self) -> i64 {
        let (high, low) = self.uuid().as_u64_pair();
        ((high ^ low) & (i64::MAX as u64)).max(1) as i64
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
