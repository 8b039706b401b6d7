//! Reading archived offsets back: [`RemoteReader`].
//!
//! [`RemoteReader::read_batches`] in the order of its calls:
//! 1. the caller copies a [`ReadView`] from the manifest, without awaiting;
//! 2. `RowWalk` finds the row of an offset, through spill pages if need be ([`Indexes`]);
//! 3. `locate_runs` finds the row's runs in the object's index, and the chunk of each;
//! 4. `read_run` → `read_chunk` → [`hydrate`]: from memory, from the disk cache, from a GET under way, or by a new GET;
//! 5. [`chunk`] gives a run's bytes out after their seeded checksum holds in that very buffer;
//! 6. `AnswerBuilder` takes whole batches until the answer is full; `read_ahead` starts the next chunks.
//!
//! Owns: that walk, deadlines, read-ahead. Does not own: manifests, what a Kafka fetch answers. Shard-local, cheap to
//! clone. A chunk that fails its sums is fetched again; if it keeps failing the read is [`RemoteError::Corrupt`].

mod answer;
mod away;
pub mod chunk;
pub mod chunk_cache;
pub mod error;
pub mod hydrate;
pub mod indexes;
pub mod locate;
mod pins;
pub mod read_ahead;
mod rows;
mod times;
mod warm;
mod write_behind;

use std::cell::RefCell;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{Either, select};
use tidewater_storage::env::{Deadlines, Env};
use tidewater_storage::model::{Offset, OffsetRange, PartitionId, RunSum, TimestampMs};

use answer::AnswerBuilder;
use chunk::Chunk;
pub use chunk_cache::{ChunkCache, ChunkId};
pub use error::RemoteError;
pub use hydrate::HydrateCounts;
use hydrate::{HydrateError, Hydrator};
pub use indexes::Indexes;
pub use locate::ReadView;
use locate::{LocatedRun, locate_runs};
use pins::Pins;
use read_ahead::ReadAhead;
use rows::RowWalk;

use crate::keys::ObjectKey;
use crate::manifest::Row;
use crate::store::ObjectStore;

/// Runs of one read that are fetched side by side: four chunks of four.
const PARALLEL_RUNS: usize = 16;
/// How often a run is read that does not match its sum: the disk's copy may lie, and an answer be damaged on its way.
const RUN_TRIES: usize = 3;
/// Rows and pages that [`RemoteReader::view`] takes of a manifest: enough for any answer, cheap to copy.
const VIEW_STEPS: usize = 64;

/// Bounds of one shard's remote reading.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// Directory of the chunk cache; each shard its own.
    pub cache_dir: PathBuf,
    /// Disk that the cache may take, in bytes. 0: no cache.
    pub cache_bytes: u64,
    /// Size at which chunks are cut, in bytes.
    pub chunk_bytes: u64,
    /// Memory for chunks on their way to waiting readers; a read that finds it taken waits, until its deadline. Beside
    /// it: half as much for chunks ahead of readers, as much for chunks that arrived lately, as much for answers that
    /// slow clients have not taken, an eighth for chunks to be written to the disk cache, a quarter for free buffers.
    /// Bytes.
    pub memory_bytes: u64,
    /// Memory for indexes and spill pages, in bytes.
    pub index_bytes: u64,
    /// Chunks fetched ahead of a sequential reader.
    pub read_ahead_max: usize,
    /// A read that takes longer fails with a retriable error.
    pub deadline: Duration,
    /// The cluster's root: while it is not there either, a missing object means that the bucket is away.
    pub root: Option<ObjectKey>,
}

impl FetchConfig {
    /// The defaults, with the cache in `cache_dir` of `cache_bytes`.
    #[must_use]
    pub fn new(cache_dir: PathBuf, cache_bytes: u64) -> Self {
        Self {
            cache_dir,
            cache_bytes,
            chunk_bytes: (cache_bytes / 32).clamp(1 << 20, 4 << 20),
            memory_bytes: 64 << 20,
            index_bytes: 32 << 20,
            read_ahead_max: 4,
            deadline: Duration::from_secs(20),
            root: None,
        }
    }
}

/// What a read brought. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteRead {
    /// Slices, each of whole batches back to back; the first batch holds the offset asked for.
    pub batches: Vec<Bytes>,
    /// From the first batch's base offset to after the last batch.
    pub range: OffsetRange,
    /// Bytes of all slices.
    pub bytes: u64,
}

/// A record found by time. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteTime {
    pub offset: Offset,
    pub timestamp: TimestampMs,
}

/// Reads archived offsets. *Shard-local*, cheap to clone.
#[derive(Clone)]
pub struct RemoteReader {
    inner: Rc<Inner>,
}

struct Inner {
    env: Env,
    config: FetchConfig,
    store: Arc<dyn ObjectStore>,
    indexes: Indexes,
    hydrator: Hydrator,
    cache: Option<ChunkCache>,
    ahead: RefCell<ReadAhead>,
    deadlines: Deadlines,
    pins: Pins,
}

impl RemoteReader {
    /// Opens the chunk cache and the reader over it.
    ///
    /// # Errors
    /// The cache's directory cannot be made or listed.
    pub async fn open(env: Env, store: Arc<dyn ObjectStore>, config: FetchConfig) -> std::io::Result<Self> {
        let cache = match config.cache_bytes {
            0 => None,
            bytes => Some(ChunkCache::open(env.clone(), &config.cache_dir, bytes).await?),
        };
        Ok(Self::over(env, store, config, cache))
    }

    fn over(env: Env, store: Arc<dyn ObjectStore>, config: FetchConfig, cache: Option<ChunkCache>) -> Self {
        let indexes = Indexes::new(Arc::clone(&store), config.index_bytes);
        let hydrator = Hydrator::new(env.clone(), Arc::clone(&store), cache.clone(), config.memory_bytes);
        let ahead = RefCell::new(ReadAhead::new(config.read_ahead_max));
        let (deadlines, pins) = (Deadlines::new(env.clone()), Pins::new(config.memory_bytes));
        Self { inner: Rc::new(Inner { env, config, store, indexes, hydrator, cache, ahead, deadlines, pins }) }
    }

    /// A reader of another bucket, which shares this one's cache on disk and no memory: objects have different names in
    /// different clusters. Of `config`, the cache counts nothing.
    #[must_use]
    pub fn beside(&self, store: Arc<dyn ObjectStore>, config: FetchConfig) -> Self {
        let (env, cache) = (self.inner.env.clone(), self.inner.cache.clone());
        Self::over(env, store, config, cache)
    }

    /// What [`RemoteReader::read_batches`] needs of a manifest, for a read from `from` on.
    #[must_use]
    pub fn view(manifest: &crate::manifest::PartitionManifest, from: Offset) -> ReadView {
        ReadView::from_offset(manifest, from, VIEW_STEPS)
    }

    /// The index cache, to be shared with the archivers of the shard.
    #[must_use]
    pub fn indexes(&self) -> Indexes {
        self.inner.indexes.clone()
    }

    /// Disk taken by the chunk cache, in bytes.
    #[must_use]
    pub fn cache_used_bytes(&self) -> u64 {
        self.inner.cache.as_ref().map_or(0, ChunkCache::used_bytes)
    }

    /// Disk that the chunk cache may take, in bytes.
    #[must_use]
    pub fn cache_capacity_bytes(&self) -> u64 {
        self.inner.config.cache_bytes
    }

    /// Where the bytes of reads came from.
    #[must_use]
    pub fn counts(&self) -> HydrateCounts {
        self.inner.hydrator.counts()
    }

    /// Reads whole batches from the one that holds `from`, up to `until` (exclusive; a batch that begins below it may
    /// end above) and about `max_bytes`, at least one.
    ///
    /// # Errors
    /// [`RemoteError`]; retriable ones when the bucket does not answer within the deadline.
    pub async fn read_batches(
        &self,
        view: ReadView,
        from: Offset,
        until: Offset,
        max_bytes: usize,
    ) -> Result<RemoteRead, RemoteError> {
        let partition = view.partition;
        if from < view.log_start {
            return Err(RemoteError::BelowStart { partition, offset: from, start: view.log_start });
        }
        if from >= view.archived_end {
            return Err(RemoteError::AboveEnd { partition, offset: from, end: view.archived_end });
        }
        let wanted = OffsetRange::new(from, until.min(view.archived_end));
        let once = async || {
            let mut walk = RowWalk::new(self.inner.indexes.clone(), view.clone());
            let read = self.read_rows(&mut walk, wanted, max_bytes).await?;
            Ok((walk, read))
        };
        let (walk, read) = self.within_deadline(partition, self.unless_away(once)).await?;
        self.read_ahead(walk, from, read.range.end);
        Ok(read)
    }

    /// The first record of the view, at or after its log start, whose timestamp is at least `at_or_after`, exactly as
    /// Kafka's ListOffsets asks; `None` if the bucket holds none below `until`. `view` is [`ReadView::whole`].
    ///
    /// # Errors
    /// As [`RemoteReader::read_batches`].
    pub async fn find_time(
        &self,
        view: ReadView,
        at_or_after: TimestampMs,
        until: Offset,
    ) -> Result<Option<RemoteTime>, RemoteError> {
        let partition = view.partition;
        let once = async || times::find_time(self, view.clone(), at_or_after, until).await;
        self.within_deadline(partition, self.unless_away(once)).await
    }

    /// The first record with the greatest timestamp of the view below `until`. `view` is [`ReadView::whole`].
    ///
    /// # Errors
    /// As [`RemoteReader::read_batches`].
    pub async fn max_timestamp(&self, view: ReadView, until: Offset) -> Result<Option<RemoteTime>, RemoteError> {
        let partition = view.partition;
        let once = async || times::max_timestamp(self, view.clone(), until).await;
        self.within_deadline(partition, self.unless_away(once)).await
    }

    async fn within_deadline<T>(
        &self,
        partition: PartitionId,
        work: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let after = self.inner.config.deadline;
        let mut work = pin!(work);
        // What is in memory needs no timer.
        if let Poll::Ready(done) = futures::poll!(&mut work) {
            return done;
        }
        let deadline = self.inner.deadlines.until(self.inner.env.clock.now() + after);
        match select(work, deadline).await {
            Either::Left((done, _)) => done,
            Either::Right(((), _)) => Err(RemoteError::Deadline { partition, after }),
        }
    }

    /// Reads row after row, up to [`PARALLEL_RUNS`] runs of a row side by side, until `max_bytes` are covered. After an
    /// error the answer is what was read before it; only without any batch the read fails.
    async fn read_rows(
        &self,
        walk: &mut RowWalk,
        wanted: OffsetRange,
        max_bytes: usize,
    ) -> Result<RemoteRead, RemoteError> {
        let mut answer = AnswerBuilder::new(wanted, max_bytes, self.inner.pins.clone());
        while !answer.full() {
            let found = match walk.next_at(answer.next).await {
                Ok(Some(row)) => self.locate(walk.partition(), &row, answer.left()).await,
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let found = match found {
                Ok(found) => found,
                Err(error) => return answer.or(error),
            };
            let (before, partition) = (answer.next, walk.partition());
            let runs = self.limit_to(found, before, answer.room());
            let sequential = self.inner.ahead.borrow().follows(partition, wanted.start);
            let mut fetched =
                futures::stream::iter(runs)
                    .map(|located| async move {
                        self.read_run(partition, &located, sequential).await.map(|run| (located, run))
                    })
                    .buffered(PARALLEL_RUNS);
            while let Some(run) = fetched.next().await {
                match run {
                    Ok((located, (chunk, bytes))) => {
                        if let Err(error) = answer.take(partition, &located, &chunk, &bytes) {
                            return answer.or(error);
                        }
                    }
                    Err(error) => return answer.or(error),
                }
            }
            if answer.next == before && !answer.full() {
                // The row names an object that does not hold its offsets: another round would find the same.
                return answer.or(RemoteError::Gap { partition, offset: before });
            }
        }
        answer.finish(walk.partition())
    }

    /// The runs of a row that hold anything of `wanted`.
    async fn locate(
        &self,
        partition: PartitionId,
        row: &Row,
        wanted: OffsetRange,
    ) -> Result<Vec<LocatedRun>, RemoteError> {
        let object = row.object();
        let found = self.inner.indexes.of_row(row).await.map_err(|error| error.for_reader(partition, object))?;
        let missing = || RemoteError::BadIndex { object, reason: format!("it does not hold {partition}") };
        let entry = found.index.partition(partition).ok_or_else(missing)?;
        Ok(locate_runs(object, entry, row.offsets.intersect(&wanted), self.inner.config.chunk_bytes))
    }

    /// As many runs as `room` bytes take, at least one.
    fn limit_to(&self, runs: Vec<LocatedRun>, from: Offset, room: usize) -> Vec<LocatedRun> {
        let mut taken = 0;
        let from_here = runs.into_iter().filter(|located| located.run.sum.offsets.end > from);
        from_here
            .take_while(|located| {
                let more = taken < room;
                taken = taken.saturating_add(located.run.sum.len as usize);
                more
            })
            .collect()
    }

    /// The checked bytes of a run, and the chunk that holds them. Bytes that fail the check are read again, at most
    /// [`RUN_TRIES`] times in all.
    async fn read_run(
        &self,
        partition: PartitionId,
        located: &LocatedRun,
        sequential: bool,
    ) -> Result<(Rc<Chunk>, Bytes), RemoteError> {
        for _ in 0..RUN_TRIES {
            let chunk = self.read_chunk(partition, located, sequential).await?;
            let known = chunk.is_proven(partition, located);
            if let Some(bytes) = chunk.run(partition, located) {
                if !known {
                    // A sum over a megabyte takes long enough for others to have their turn.
                    self.inner.env.tasks.yield_now().await;
                }
                return Ok((chunk, bytes));
            }
            self.inner.hydrator.forget(&located.chunk, &chunk).await;
        }
        let RunSum { offsets, .. } = located.run.sum;
        tracing::error!(%partition, %offsets, object = %located.chunk.object, "archived bytes do not match their checksum: the object was damaged after it was written; restore it from a copy of the bucket");
        Err(RemoteError::Corrupt { partition, offsets, object: located.chunk.object, bytes: located.bytes.clone() })
    }

    async fn read_chunk(
        &self,
        partition: PartitionId,
        located: &LocatedRun,
        sequential: bool,
    ) -> Result<Rc<Chunk>, RemoteError> {
        let object = located.chunk.object;
        self.inner.hydrator.read_chunk(&located.chunk, &located.bytes, sequential).await.map_err(|error| match error {
            HydrateError::Store(error) => RemoteError::of_store(partition, object, &error),
            HydrateError::Cancelled => {
                RemoteError::Unavailable { object, reason: "the shard is shutting down".to_owned() }
            }
        })
    }

    /// Starts fetching the chunks after `next` for a sequential reader, across objects. Does not wait for them.
    fn read_ahead(&self, mut walk: RowWalk, from: Offset, next: Offset) {
        let depth = self.inner.ahead.borrow_mut().observe(walk.partition(), from, next);
        if depth == 0 || next >= walk.archived_end() || self.inner.cache.is_none() {
            return;
        }
        let this = self.clone();
        drop(self.inner.env.tasks.spawn("read-ahead", async move {
            let mut next = next;
            let mut found: Vec<LocatedRun> = Vec::new();
            // At most one more row than chunks wanted: a row has at least one chunk.
            for _ in 0..=depth {
                let Ok(Some(row)) = walk.next_at(next).await else { break };
                let wanted = OffsetRange::new(next, walk.archived_end());
                let Ok(runs) = this.locate(walk.partition(), &row, wanted).await else { break };
                found.extend(runs);
                next = row.offsets.end;
                if found.chunk_by(in_one_chunk).count() > depth {
                    break;
                }
            }
            for runs in found.chunk_by(in_one_chunk).take(depth) {
                this.bring_ahead(walk.partition(), runs);
            }
        }));
    }

    /// Starts fetching the chunk of `runs` if it is not in memory, and checks their sums when it has arrived, so that
    /// its reader does not wait for that.
    fn bring_ahead(&self, partition: PartitionId, runs: &[LocatedRun]) {
        let coming = runs.first().and_then(|located| self.inner.hydrator.prefetch(&located.chunk));
        let Some(coming) = coming else { return };
        let (runs, tasks) = (runs.to_vec(), self.inner.env.tasks.clone());
        drop(self.inner.env.tasks.spawn("read-ahead sums", async move {
            let Ok(Ok(chunk)) = coming.await else { return };
            for located in runs {
                // A run that does not match its sum is reported when it is read.
                let _ = chunk.run(partition, &located);
                tasks.yield_now().await;
            }
        }));
    }
}

fn in_one_chunk(one: &LocatedRun, other: &LocatedRun) -> bool {
    one.chunk == other.chunk
}
