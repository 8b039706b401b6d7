//! Chunks in memory after their arrival.
//!
//! A sequential reader takes a chunk of several runs in several reads; without this each of them but the first would
//! come from the disk again. Chunks that were not used for a while are dropped, so that a broker without cold readers
//! holds none.
//! Shard-local.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::chunk::Chunk;
use super::chunk_cache::ChunkId;

/// Chunks kept, however small: they are looked through one by one.
const CHUNKS_MAX: usize = 64;

#[derive(Debug)]
struct Held {
    id: ChunkId,
    chunk: Rc<Chunk>,
    /// Since the last [`Warm::cool`].
    used: bool,
}

/// See the header. The least recently used go first.
#[derive(Debug)]
pub(super) struct Warm {
    chunks: RefCell<VecDeque<Held>>,
    bytes_max: u64,
}

impl Warm {
    /// Of `bytes_max` bytes; 0 keeps nothing.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { chunks: RefCell::default(), bytes_max }
    }

    /// Is the chunk there? Does not count as a use.
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.borrow().iter().any(|held| held.id == *id)
    }

    /// The chunk, for a reader.
    pub(super) fn get(&self, id: &ChunkId) -> Option<Rc<Chunk>> {
        let mut chunks = self.chunks.borrow_mut();
        let at = chunks.iter().rposition(|held| held.id == *id)?;
        let mut held = chunks.remove(at)?;
        held.used = true;
        held.chunk.used();
        let chunk = Rc::clone(&held.chunk);
        chunks.push_back(held);
        Some(chunk)
    }

    /// Keeps a whole chunk, instead of the one that is there under its name; none that is torn or larger than all of
    /// it.
    pub(super) fn put(&self, id: &ChunkId, chunk: &Rc<Chunk>) {
        if chunk.len() != id.len() || id.len() > self.bytes_max {
            return;
        }
        let mut chunks = self.chunks.borrow_mut();
        chunks.retain(|held| held.id != *id);
        chunks.push_back(Held { id: id.clone(), chunk: Rc::clone(chunk), used: true });
        let mut total: u64 = chunks.iter().map(|held| held.id.len()).sum();
        while total > self.bytes_max || chunks.len() > CHUNKS_MAX {
            let Some(gone) = chunks.pop_front() else { break };
            total -= gone.id.len();
        }
    }

    /// Drops these bytes, which are wrong; not others that came under the same name meanwhile.
    pub(super) fn forget(&self, chunk: &Rc<Chunk>) {
        self.chunks.borrow_mut().retain(|held| !Rc::ptr_eq(&held.chunk, chunk));
    }

    /// Drops what was not used since it was called last. Is anything left?
    pub(super) fn cool(&self) -> bool {
        let mut chunks = self.chunks.borrow_mut();
        chunks.retain_mut(|held| std::mem::take(&mut held.used));
        !chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::fetch::chunk::tests::id;

    fn chunk(id: &ChunkId) -> Rc<Chunk> {
        Rc::new(Chunk::new(id.bytes.start, Bytes::from(vec![7; id.len() as usize])))
    }

    #[test]
    fn the_least_used_go_and_what_is_wrong_goes_by_itself() {
        let warm = Warm::new(100);
        let (one, two, three) = (id(0..40), id(40..80), id(80..120));
        warm.put(&one, &chunk(&one));
        warm.put(&two, &chunk(&two));
        assert!(warm.get(&one).is_some());
        let bad = chunk(&three);
        warm.put(&three, &bad);
        assert!(warm.contains(&one) && !warm.contains(&two), "used least recently");
        warm.put(&three, &chunk(&three));
        warm.forget(&bad);
        assert!(warm.contains(&three), "other bytes of that name");
        let held = warm.get(&three).expect("there");
        warm.forget(&held);
        assert!(!warm.contains(&three));
        warm.put(&two, &Rc::new(Chunk::new(40, Bytes::from_static(b"torn"))));
        warm.put(&id(0..101), &chunk(&id(0..101)));
        assert!(!warm.contains(&two) && !warm.contains(&id(0..101)), "neither what is torn nor what is too large");
        let none = Warm::new(0);
        none.put(&one, &chunk(&one));
        assert!(!none.contains(&one));
    }

    #[test]
    fn what_nobody_uses_cools() {
        let warm = Warm::new(100);
        let (one, two) = (id(0..40), id(40..80));
        warm.put(&one, &chunk(&one));
        warm.put(&two, &chunk(&two));
        assert!(warm.cool());
        assert!(warm.get(&two).is_some());
        assert!(warm.cool());
        assert!(!warm.contains(&one) && warm.contains(&two));
        assert!(!warm.cool());
        assert!(!warm.contains(&two));
    }
}
