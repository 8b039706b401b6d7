//! One GET per chunk, however many readers wait for it.
//!
//! Owns: the GETs under way of one shard, their memory budget, handing a finished chunk to the disk cache. Does not own:
//! what a chunk is (`locate`), whether its bytes are right (the reader checks run sums).
//! Shard-local. A reader that goes away does not end the GET; the chunk is kept for the next one. A chunk is given to
//! its readers as soon as it has arrived, before it is written to the cache.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::channel::oneshot;
use futures::future::Shared;
use tidewater_storage::env::Env;
use tidewater_storage::metrics::Counter;
use tokio::sync::Semaphore;

use super::chunk_cache::{ChunkCache, ChunkId};
use crate::store::{ObjectStore, StoreError};

/// How a GET ended; shared by its readers.
type Arrived = Result<Bytes, Arc<StoreError>>;
type Flight = Shared<oneshot::Receiver<Arrived>>;

/// Fetches chunks. *Shard-local*, cheap to clone.
#[derive(Clone)]
pub struct Hydrator {
    inner: Rc<Inner>,
}

struct Inner {
    env: Env,
    store: Arc<dyn ObjectStore>,
    cache: Option<ChunkCache>,
    flights: RefCell<HashMap<ChunkId, Flight>>,
    /// Chunks in memory on behalf of readers.
    demand: Budget,
    /// Chunks in memory that nobody has asked for yet.
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
    /// Reads answered by the chunk cache.
    pub hits: u64,
    /// Reads that waited for a GET that was under way.
    pub joined: u64,
    /// Reads that began a GET.
    pub misses: u64,
    /// GETs begun ahead of a reader.
    pub ahead: u64,
}

/// KiB of memory for chunks. A chunk larger than all of it may still be read, alone.
#[derive(Clone)]
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
    /// Keeps at most `memory_bytes` of chunks in memory for readers, and half of that again for read-ahead.
    #[must_use]
    pub fn new(env: Env, store: Arc<dyn ObjectStore>, cache: Option<ChunkCache>, memory_bytes: u64) -> Self {
        let (demand, ahead) = (Budget::new(memory_bytes), Budget::new(memory_bytes / 2));
        Self {
            inner: Rc::new(Inner {
                env,
                store,
                cache,
                flights: RefCell::default(),
                demand,
                ahead,
                counters: HydrateCounters::default(),
            }),
        }
    }

    /// What was counted since start.
    #[must_use]
    pub fn counts(&self) -> HydrateCounts {
        let HydrateCounters { hits, joined, misses, ahead } = &self.inner.counters;
        HydrateCounts { hits: hits.get(), joined: joined.get(), misses: misses.get(), ahead: ahead.get() }
    }

    /// Bytes `want` of the object (inside the chunk): from the cache, from a GET under way, or from one of its own.
    ///
    /// # Errors
    /// What the store said. Waits as long as the store takes; the caller holds the deadline.
    pub async fn read(&self, id: &ChunkId, want: Range<u64>) -> Result<Bytes, HydrateError> {
        let flight = self.inner.flights.borrow().get(id).cloned();
        if let Some(flight) = flight {
            self.inner.counters.joined.add(1);
            return cut(id, &landed(flight).await?, &want);
        }
        if let Some(cache) = &self.inner.cache
            && let Some(bytes) = cache.read(id, want.clone()).await
        {
            self.inner.counters.hits.add(1);
            return Ok(bytes);
        }
        self.inner.counters.misses.add(1);
        let flight = self.fly(id, &self.inner.demand);
        cut(id, &landed(flight).await?, &want)
    }

    /// Starts fetching a chunk that somebody may soon want. Does nothing without a cache, when it is there or under way,
    /// or when the memory for it is taken.
    pub fn prefetch(&self, id: &ChunkId) {
        let inner = &self.inner;
        let room = inner.ahead.free.available_permits() >= inner.ahead.permits(id) as usize;
        let Some(cache) = &inner.cache else { return };
        if room && !cache.contains(id) && !inner.flights.borrow().contains_key(id) {
            inner.counters.ahead.add(1);
            drop(self.fly(id, &inner.ahead));
        }
    }

    /// Forgets a chunk whose bytes turned out wrong, so that the next read fetches it again.
    pub async fn forget(&self, id: &ChunkId) {
        self.inner.flights.borrow_mut().remove(id);
        if let Some(cache) = &self.inner.cache {
            cache.forget(id).await;
        }
    }

    /// Joins the GET of the chunk or starts it.
    fn fly(&self, id: &ChunkId, budget: &Budget) -> Flight {
        let (inner, id, budget) = (Rc::clone(&self.inner), id.clone(), budget.clone());
        let mut flights = self.inner.flights.borrow_mut();
        if let Some(flight) = flights.get(&id) {
            return flight.clone();
        }
        let (answer, arrived) = oneshot::channel();
        let flight = arrived.shared();
        flights.insert(id.clone(), flight.clone());
        drop(flights);
        drop(self.inner.env.tasks.spawn("hydrate", async move { inner.run(id, budget, answer).await }));
        flight
    }
}

impl Inner {
    async fn run(self: Rc<Self>, id: ChunkId, budget: Budget, answer: oneshot::Sender<Arrived>) {
        let Ok(_memory) = budget.free.acquire_many(budget.permits(&id)).await else { return };
        let space = self.cache.as_ref().and_then(|cache| cache.reserve(&id));
        let got = self.store.get(&id.object.key(), Some(id.bytes.clone())).await;
        match got {
            Ok(got) => {
                answer.send(Ok(got.body.clone())).ok();
                if let (Some(cache), Some(space)) = (&self.cache, space) {
                    cache.store(&id, &got.body, space).await;
                }
            }
            Err(error) => {
                answer.send(Err(Arc::new(error))).ok();
            }
        }
        self.flights.borrow_mut().remove(&id);
    }
}

async fn landed(flight: Flight) -> Result<Bytes, HydrateError> {
    match flight.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(HydrateError::Store(error)),
        Err(oneshot::Canceled) => Err(HydrateError::Cancelled),
    }
}

/// Bytes `want` of the object, out of its chunk; fewer when the object was shorter than its index says, which the
/// reader's sums then tell.
fn cut(id: &ChunkId, chunk: &Bytes, want: &Range<u64>) -> Result<Bytes, HydrateError> {
    let place = |at: u64| usize::try_from(at.saturating_sub(id.bytes.start)).unwrap_or(usize::MAX).min(chunk.len());
    let (start, end) = (place(want.start), place(want.end));
    Ok(chunk.slice(start..end.max(start)))
}
