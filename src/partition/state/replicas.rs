//! The partitions of a lane: found by identity in one step, listed in order.
//!
//! An entry carries batches of up to a thousand partitions, and each partition is looked up when the batch is proposed
//! and when it is applied. Owns: the two views of one set. Shard-local.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use tidewater_storage::model::PartitionId;

use super::replica::Replica;

#[derive(Debug, Default)]
pub(super) struct Replicas {
    ordered: BTreeMap<PartitionId, Rc<Replica>>,
    found: HashMap<PartitionId, Rc<Replica>, BuildHasherDefault<Mix>>,
}

impl Replicas {
    pub(super) fn insert(&mut self, replica: Rc<Replica>) {
        self.found.insert(replica.id, Rc::clone(&replica));
        self.ordered.insert(replica.id, replica);
    }

    pub(super) fn remove(&mut self, id: PartitionId) -> Option<Rc<Replica>> {
        self.found.remove(&id);
        self.ordered.remove(&id)
    }

    pub(super) fn get(&self, id: PartitionId) -> Option<&Rc<Replica>> {
        self.found.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.ordered.len()
    }

    /// In the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Replica>> {
        self.ordered.values()
    }
}

/// Mixes a partition's identity, most of which is random by itself. Clients do not choose topic ids.
#[derive(Default)]
pub(super) struct Mix(u64);

/// Odd, its bits spread: the golden ratio in 64 bits.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Mix {
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(SPREAD);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn write_i32(&mut self, value: i32) {
        self.word(u64::from(value.cast_unsigned()));
    }

    fn write_u32(&mut self, value: u32) {
        self.word(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.word(value as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::hash::Hash;

    use tidewater_storage::model::{Incarnation, PartitionIndex, TopicId};

    use super::*;

    #[test]
    fn neighbours_are_far_apart() {
        let hash = |index: i32| {
            let id =
                PartitionId { topic: TopicId::default(), index: PartitionIndex(index), incarnation: Incarnation(0) };
            let mut mix = Mix::default();
            id.hash(&mut mix);
            mix.finish()
        };
        // What hashbrown looks at: the low bits for the place, the top seven for the tag.
        let low: BTreeSet<u64> = (0..1000).map(|n| hash(n) % 4096).collect();
        let top: BTreeSet<u64> = (0..1000).map(|n| hash(n) >> 57).collect();
        assert!(low.len() > 800 && top.len() == 128, "{} {}", low.len(), top.len());
    }
}
