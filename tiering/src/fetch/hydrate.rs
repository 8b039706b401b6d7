//! One GET per chunk, however many readers wait for it.
//!
//! Owns: the GETs under way of one shard, their memory budget, what becomes of a chunk that arrived: its readers have
//! it at once, it stays in memory for a while (`warm`) and goes to the disk cache behind them (`write_behind`). Does
//! not own: what a chunk is (`locate`), whether its bytes are right (`chunk`). Shard-local. A reader that goes away
//! does not end the GET; the chunk is kept for the next one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::Shared;
use tidewater_storage::env::Env;
use tidewater_storage::metrics::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::chunk::Chunk;
use super::chunk_cache::{ChunkCache, ChunkId};
use super::warm::Warm;
use super::write_behind::WriteBehind;
use crate::store::{Buffers, ObjectStore, StoreError};

/// Time between two looks for chunks in memory that were not used since the last one.
const COOLING_INTERVAL: Duration = Duration::from_secs(10);

/// How a GET ended; shared by its readers.
type GetResult = Result<Rc<Chunk>, Arc<StoreError>>;
pub(super) type ComingChunk = Shared<oneshot::Receiver<GetResult>>;

/// Fetches chunks. *Shard-local*, cheap to clone.
#[derive(Clone)]
pub struct Hydrator {
    inner: Rc<Inner>,
}

struct Inner {
    env: Env,
    store: Arc<dyn ObjectStore>,
    cache: Option<ChunkCache>,
    writer: Option<WriteBehind>,
    /// GETs under way, and reads of whole chunks from the disk cache. Only its own task removes an entry, at its end.
    coming_chunks: RefCell<HashMap<ChunkId, ComingChunk>>,
    warm: Warm,
    cooling: Cell<bool>,
    buffers: Buffers,
    /// Chunks under way to readers.
    demand: Budget,
    /// Chunks ahead of their readers, under way or arrived.
    ahead: Budget,
    counters: HydrateCounters,
}

/// Where the bytes of reads came from. Shard-local.
#[derive(Debug, Default)]
struct HydrateCounters {
    hits: Counter,
    joined: Counter,
    misses: Counter,
    ahead: Counter,
}

/// Where the bytes of reads came from, since start. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HydrateCounts {
    /// Reads answered by the chunk cache or out of memory.
    pub hits: u64,
    /// Reads that waited for a GET that was under way.
    pub joined: u64,
    /// Reads that began a GET.
    pub misses: u64,
    /// GETs begun ahead of a reader.
    pub ahead: u64,
}

/// KiB of memory for chunks. A chunk larger than all of it may still be read, alone.
struct Budget {
    free: Arc<Semaphore>,
    total: u32,
}

impl Budget {
    fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1);
        Self { free: Arc::new(Semaphore::new(total as usize)), total }
    }

    fn permits(&self, id: &ChunkId) -> u32 {
        u32::try_from(id.len().div_ceil(1024)).unwrap_or(u32::MAX).min(self.total)
    }

    /// Memory for a chunk, when it is free.
    async fn wait_for(&self, id: &ChunkId) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).acquire_many_owned(self.permits(id)).await.ok()
    }

    /// Memory for a chunk, if it is free now.
    fn take(&self, id: &ChunkId) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_many_owned(self.permits(id)).ok()
    }
}

/// Why a chunk did not come.
#[derive(Clone, Debug)]
pub enum HydrateError {
    /// The store said so.
    Store(Arc<StoreError>),
    /// The task that fetched it ended without an answer (shutdown).
    Cancelled,
}

impl Hydrator {
    /// Has at most `memory_bytes` of chunks under way for readers, and half of that again ahead of them; with a cache
    /// it keeps as much of what arrived in memory, and an eighth waits to be written to the cache. A quarter may lie
    /// free, to be read into.
    #[must_use]
    pub fn new(env: Env, store: Arc<dyn ObjectStore>, cache: Option<ChunkCache>, memory_bytes: u64) -> Self {
        let writer = cache.clone().map(|cache| WriteBehind::new(env.clone(), cache, memory_bytes / 8));
        let warm = Warm::new(if cache.is_some() { memory_bytes } else { 0 });
        let inner = Inner {
            env,
            store,
            cache,
            writer,
            coming_chunks: RefCell::default(),
            warm,
            cooling: Cell::new(false),
            buffers: Buffers::new(usize::try_from(memory_bytes / 4).unwrap_or(usize::MAX)),
            demand: Budget::new(memory_bytes),
            ahead: Budget::new(memory_bytes / 2),
            counters: HydrateCounters::default(),
        };
        Self { inner: Rc::new(inner) }
    }

    /// What was counted since start.
    #[must_use]
    pub fn counts(&self) -> HydrateCounts {
        let HydrateCounters { hits, joined, misses, ahead } = &self.inner.counters;
        HydrateCounts { hits: hits.get(), joined: joined.get(), misses: misses.get(), ahead: ahead.get() }
    }

    /// The chunk, or the part of it that holds bytes `want` of the object: from memory, from the disk cache, from a GET
    /// under way, or by a new GET. For a `sequential` reader, who reads the rest next, the whole chunk is read from the
    /// disk.
    ///
    /// # Errors
    /// What the store said. Waits as long as the store takes; the caller holds the deadline.
    pub async fn read_chunk(
        &self,
        id: &ChunkId,
        want: &Range<u64>,
        sequential: bool,
    ) -> Result<Rc<Chunk>, HydrateError> {
        let (inner, counters) = (&self.inner, &self.inner.counters);
        if let Some(chunk) = inner.warm.get(id) {
            counters.hits.add(1);
            return Ok(chunk);
        }
        if let Some(coming) = inner.coming_chunk(id) {
            counters.joined.add(1);
            match wait_for(coming).await {
                // What failed ahead of this reader, or for another, need not fail for it.
                Err(HydrateError::Store(_)) => {}
                done => return done,
            }
        }
        let kept = inner.cache.as_ref().filter(|cache| cache.contains(id));
        if let Some(cache) = kept.filter(|_| !sequential)
            && let Some(bytes) = cache.read_cached(id, want.clone()).await
        {
            counters.hits.add(1);
            return Ok(Rc::new(Chunk::new(want.start, bytes)));
        }
        if kept.is_some() { &counters.hits } else { &counters.misses }.add(1);
        wait_for(Inner::start_get(inner, id, None)).await
    }

    /// Starts to fetch a chunk ahead of its reader. `None`, and nothing is done: without a disk cache, when the chunk
    /// is in memory or under way, or when the memory for chunks ahead of readers is taken.
    pub(super) fn prefetch(&self, id: &ChunkId) -> Option<ComingChunk> {
        let inner = &self.inner;
        let cache = inner.cache.as_ref()?;
        if inner.warm.contains(id) || inner.coming_chunks.borrow().contains_key(id) {
            return None;
        }
        let memory = inner.ahead.take(id)?;
        if !cache.contains(id) {
            inner.counters.ahead.add(1);
        }
        Some(Inner::start_get(inner, id, Some(memory)))
    }

    /// Drops a chunk that failed a check from memory and disk, so that the next read fetches it again.
    pub async fn forget(&self, id: &ChunkId, chunk: &Rc<Chunk>) {
        self.inner.warm.forget(chunk);
        if let Some(cache) = &self.inner.cache {
            cache.forget(id).await;
        }
    }
}

impl Inner {
    fn coming_chunk(&self, id: &ChunkId) -> Option<ComingChunk> {
        self.coming_chunks.borrow().get(id).cloned()
    }

    /// Joins the GET of the chunk or starts it; with memory if it is ahead of its readers.
    fn start_get(self: &Rc<Self>, id: &ChunkId, ahead: Option<OwnedSemaphorePermit>) -> ComingChunk {
        if let Some(coming) = self.coming_chunk(id) {
            return coming;
        }
        let (answer, arrived) = oneshot::channel();
        let coming = arrived.shared();
        self.coming_chunks.borrow_mut().insert(id.clone(), coming.clone());
        let (this, id) = (Rc::clone(self), id.clone());
        drop(self.env.tasks.spawn("hydrate", async move { this.run(id, ahead, answer).await }));
        coming
    }

    async fn run(self: Rc<Self>, id: ChunkId, ahead: Option<OwnedSemaphorePermit>, answer: oneshot::Sender<GetResult>) {
        let under_way = if ahead.is_none() { self.demand.wait_for(&id).await } else { None };
        let kept = match self.cache.as_ref().filter(|cache| cache.contains(&id)) {
            Some(cache) => cache.read_cached(&id, id.bytes.clone()).await,
            None => None,
        };
        let (from_disk, arrived) = match kept {
            Some(bytes) => (true, Ok(bytes)),
            None => {
                let got = self.store.get_into(&id.object.key(), id.bytes.clone(), &self.buffers).await;
                (false, got.map(|got| got.body))
            }
        };
        let arrived = arrived.map(|bytes| self.arrive(&id, bytes, ahead)).map_err(Arc::new);
        self.start_cooling();
        self.coming_chunks.borrow_mut().remove(&id);
        drop((answer.send(arrived.clone()), under_way));
        if let (Ok(chunk), Some(writer), false) = (arrived, &self.writer, from_disk) {
            writer.keep(&id, chunk).await;
        }
    }

    fn arrive(&self, id: &ChunkId, bytes: Bytes, ahead: Option<OwnedSemaphorePermit>) -> Rc<Chunk> {
        let chunk = Rc::new(Chunk::new(id.bytes.start, bytes));
        if let Some(memory) = ahead {
            chunk.hold_until_used(memory);
        }
        self.warm.put(id, &chunk);
        chunk
    }

    fn start_cooling(self: &Rc<Self>) {
        if !self.cooling.replace(true) {
            let this = Rc::clone(self);
            drop(self.env.tasks.spawn("cool", async move { this.cool().await }));
        }
    }

    /// Runs while chunks are in memory.
    async fn cool(&self) {
        loop {
            self.env.tasks.sleep(COOLING_INTERVAL).await;
            if !self.warm.cool() {
                self.buffers.close();
                self.cooling.set(false);
                return;
            }
        }
    }
}

async fn wait_for(coming: ComingChunk) -> Result<Rc<Chunk>, HydrateError> {
    match coming.await {
        Ok(Ok(chunk)) => {
            chunk.used();
            Ok(chunk)
        }
        Ok(Err(error)) => Err(HydrateError::Store(error)),
        Err(oneshot::Canceled) => Err(HydrateError::Cancelled),
    }
}
