//! Chunks on their way to the disk cache, behind the readers who have them already.
//!
//! Owns: how many may wait for that, and how much of the disk's time it may take. Does not own: files (`chunk_cache`).
//! Shard-local. The disk is the journal's first: one chunk is written at a time, and after each the writer rests
//! [`RESTS`] times as long as the write took. What comes faster is not kept; a replay out of a near bucket does not
//! need the cache, and one out of a far bucket does not come faster.

use std::cell::Cell;
use std::rc::Rc;

use tidewater_storage::env::Env;
use tokio::sync::Semaphore;

use super::chunk::Chunk;
use super::chunk_cache::{ChunkCache, ChunkId};

/// A quarter of the disk's time.
const RESTS: u32 = 3;

/// See the header. *Shard-local*.
pub(super) struct WriteBehind {
    env: Env,
    cache: ChunkCache,
    /// Taken while a chunk is written, and in the rest after it.
    turn: Semaphore,
    /// Bytes of chunks that wait for it or have it.
    waiting: Cell<u64>,
    bytes_max: u64,
}

/// Bytes that count as waiting until it is dropped.
struct Waiting<'a> {
    of: &'a WriteBehind,
    bytes: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.of.waiting.set(self.of.waiting.get().saturating_sub(self.bytes));
    }
}

impl WriteBehind {
    /// Into `cache`; chunks of at most `bytes_max` bytes wait, but one larger one may.
    pub(super) fn new(env: Env, cache: ChunkCache, bytes_max: u64) -> Self {
        Self { env, cache, turn: Semaphore::new(1), waiting: Cell::new(0), bytes_max }
    }

    /// Writes a chunk to the disk cache, unless too many wait for that or it turned out wrong meanwhile.
    pub(super) async fn keep(&self, id: &ChunkId, chunk: Rc<Chunk>) {
        let waiting = self.waiting.get();
        if waiting > 0 && waiting + chunk.len() > self.bytes_max {
            return;
        }
        let Some(space) = self.cache.reserve(id) else { return };
        self.waiting.set(waiting + chunk.len());
        let held = Waiting { of: self, bytes: chunk.len() };
        let Ok(_turn) = self.turn.acquire().await else { return };
        if chunk.is_spoiled() {
            return;
        }
        let begun = self.env.clock.now();
        self.cache.store(id, chunk.unproven(), space).await;
        drop((chunk, held));
        self.env.tasks.sleep(self.env.clock.now().since(begun) * RESTS).await;
    }
}
