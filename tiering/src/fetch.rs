//! Reading archived offsets back: [`RemoteReader`].
//!
//! The calls in order: manifest → [`locate::ReadView`] (by the caller, without awaiting) → rows, spill pages read through
//! `indexes` → runs → chunks through `hydrate` and `chunk_cache` → run sums → whole batches.
//! Owns: that walk, deadlines, read-ahead. Does not own: manifests, what a Kafka fetch answers. Shard-local, cheap to
//! clone. Every byte given out has passed its run's seeded checksum in the very buffer that is given out ([`chunk`]),
//! wherever it came from: a chunk that fails is fetched again, one that goes on failing is [`RemoteError::Corrupt`].

mod away;
pub mod chunk;
pub mod chunk_cache;
pub mod error;
mod gathered;
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

use chunk::Chunk;
pub use chunk_cache::{ChunkCache, ChunkId};
pub use error::RemoteError;
use gathered::Gathered;
pub use hydrate::HydrateCounts;
use hydrate::{HydrateError, Hydrator};
pub use indexes::Indexes;
pub use locate::ReadView;
use locate::{Piece, pieces};
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
    /// Disk it may take. 0: no cache.
    pub cache_bytes: u64,
    /// Size at which chunks are cut.
    pub chunk_bytes: u64,
    /// Memory for chunks under way to readers. Half as much again may be ahead of them, as much is kept for a while of
    /// what arrived and by answers that slow clients have not taken, an eighth waits to be written to the cache, and a
    /// quarter may lie free, to be read into. Whoever finds it taken waits, until the deadline: the cap on hydration.
    pub memory_bytes: u64,
    /// Memory for indexes and pages.
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
    /// Whole batches back to back in each piece; the first holds the offset asked for.
    pub batches: Vec<Bytes>,
    /// From the first batch's base offset to after the last batch.
    pub range: OffsetRange,
    /// Bytes of all pieces.
    pub bytes: u64,
}

/// A record found by time. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteTime {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
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
        let indexes = Indexes::new(Arc::clone(&store), config.index_bytes);
        let hydrator = Hydrator::new(env.clone(), Arc::clone(&store), cache.clone(), config.memory_bytes);
        let ahead = RefCell::new(ReadAhead::new(config.read_ahead_max));
        let (deadlines, pins) = (Deadlines::new(env.clone()), Pins::new(config.memory_bytes));
        Ok(Self { inner: Rc::new(Inner { env, config, store, indexes, hydrator, cache, ahead, deadlines, pins }) })
    }

    /// What [`RemoteReader::read`] needs of a manifest, for a read from `from` on.
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
    pub async fn read(
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

    /// The first record at or after `offset` floor of the view whose timestamp is at least `at_or_after`, exactly, as
    /// Kafka's ListOffsets asks; `None` if the bucket holds none below `until`. `view` is [`ReadView::whole`].
    ///
    /// # Errors
    /// As [`RemoteReader::read`].
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
    /// As [`RemoteReader::read`].
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

    /// Takes rows until `max_bytes` are covered, their chunks side by side, in order. What was read before an error is
    /// an answer; only an error on the first piece is one.
    async fn read_rows(
        &self,
        walk: &mut RowWalk,
        wanted: OffsetRange,
        max_bytes: usize,
    ) -> Result<RemoteRead, RemoteError> {
        let mut gathered = Gathered::new(wanted, max_bytes, self.inner.pins.clone());
        while !gathered.full() {
            let located = match walk.next_at(gathered.next).await {
                Ok(Some(row)) => self.locate(walk.partition(), &row, gathered.left()).await,
                Ok(None) => break,
                Err(error) => Err(error),
            };
            let located = match located {
                Ok(located) => located,
                Err(error) => return gathered.or(error),
            };
            let (before, partition) = (gathered.next, walk.partition());
            let runs = self.limit_to(located, before, gathered.room());
            let sequential = self.inner.ahead.borrow().follows(partition, wanted.start);
            let mut fetched = futures::stream::iter(runs)
                .map(|piece| async move { self.run(partition, &piece, sequential).await.map(|run| (piece, run)) })
                .buffered(PARALLEL_RUNS);
            while let Some(run) = fetched.next().await {
                match run {
                    Ok((piece, (chunk, bytes))) => {
                        if let Err(error) = gathered.take(partition, &piece, &chunk, &bytes) {
                            return gathered.or(error);
                        }
                    }
                    Err(error) => return gathered.or(error),
                }
            }
            if gathered.next == before && !gathered.full() {
                // The row names an object that does not hold it. Asking again would find the same, for ever.
                return gathered.or(RemoteError::Gap { partition, offset: before });
            }
        }
        gathered.finish(walk.partition())
    }

    /// The runs of a row that hold anything of `wanted`.
    async fn locate(&self, partition: PartitionId, row: &Row, wanted: OffsetRange) -> Result<Vec<Piece>, RemoteError> {
        let object = row.object();
        let found = self.inner.indexes.of_row(row).await.map_err(|error| error.for_reader(partition, object))?;
        let missing = || RemoteError::BadIndex { object, reason: format!("it does not hold {partition}") };
        let entry = found.index.partition(partition).ok_or_else(missing)?;
        Ok(pieces(object, entry, row.offsets.intersect(&wanted), self.inner.config.chunk_bytes))
    }

    /// As many runs as `room` bytes take, at least one.
    fn limit_to(&self, pieces: Vec<Piece>, from: Offset, room: usize) -> Vec<Piece> {
        let mut taken = 0;
        let from_here = pieces.into_iter().filter(|piece| piece.run.sum.offsets.end > from);
        from_here
            .take_while(|piece| {
                let more = taken < room;
                taken = taken.saturating_add(piece.run.sum.len as usize);
                more
            })
            .collect()
    }

    /// The bytes of a run, checked, and the chunk they lie in; read again if what came is bad.
    async fn run(
        &self,
        partition: PartitionId,
        piece: &Piece,
        sequential: bool,
    ) -> Result<(Rc<Chunk>, Bytes), RemoteError> {
        for _ in 0..RUN_TRIES {
            let chunk = self.chunk(partition, piece, sequential).await?;
            let known = chunk.is_proven(partition, piece);
            if let Some(bytes) = chunk.run(partition, piece) {
                if !known {
                    // A sum over a megabyte takes long enough for others to have their turn.
                    self.inner.env.tasks.yield_now().await;
                }
                return Ok((chunk, bytes));
            }
            self.inner.hydrator.forget(&piece.chunk, &chunk).await;
        }
        let RunSum { offsets, .. } = piece.run.sum;
        tracing::error!(%partition, %offsets, object = %piece.chunk.object, "archived bytes do not match their checksum: the object was damaged after it was written; restore it from a copy of the bucket");
        Err(RemoteError::Corrupt { partition, offsets, object: piece.chunk.object, bytes: piece.bytes.clone() })
    }

    async fn chunk(&self, partition: PartitionId, piece: &Piece, sequential: bool) -> Result<Rc<Chunk>, RemoteError> {
        let object = piece.chunk.object;
        self.inner.hydrator.read(&piece.chunk, &piece.bytes, sequential).await.map_err(|error| match error {
            HydrateError::Store(error) => RemoteError::of_store(partition, object, &error),
            HydrateError::Cancelled => {
                RemoteError::Unavailable { object, reason: "the shard is shutting down".to_owned() }
            }
        })
    }

    /// Starts fetching what a sequential reader will ask for next, across objects. Never waits.
    fn read_ahead(&self, mut walk: RowWalk, from: Offset, next: Offset) {
        let depth = self.inner.ahead.borrow_mut().observe(walk.partition(), from, next);
        if depth == 0 || next >= walk.archived_end() || self.inner.cache.is_none() {
            return;
        }
        let this = self.clone();
        drop(self.inner.env.tasks.spawn("read-ahead", async move {
            let mut next = next;
            let mut found: Vec<Piece> = Vec::new();
            // At most one more row than chunks wanted: a row has at least one chunk.
            for _ in 0..=depth {
                let Ok(Some(row)) = walk.next_at(next).await else { break };
                let wanted = OffsetRange::new(next, walk.archived_end());
                let Ok(pieces) = this.locate(walk.partition(), &row, wanted).await else { break };
                found.extend(pieces);
                next = row.offsets.end;
                if found.chunk_by(in_one_chunk).count() > depth {
                    break;
                }
            }
            for pieces in found.chunk_by(in_one_chunk).take(depth) {
                this.bring_ahead(walk.partition(), pieces);
            }
        }));
    }

    /// Starts fetching a chunk if it is not here, and sums its runs when it has come, so that its reader need not wait
    /// for that.
    fn bring_ahead(&self, partition: PartitionId, pieces: &[Piece]) {
        let Some(landing) = pieces.first().and_then(|piece| self.inner.hydrator.prefetch(&piece.chunk)) else { return };
        let (pieces, tasks) = (pieces.to_vec(), self.inner.env.tasks.clone());
        drop(self.inner.env.tasks.spawn("read-ahead sums", async move {
            let Ok(Ok(chunk)) = landing.await else { return };
            for piece in pieces {
                // What does not match is told when somebody reads it.
                let _ = chunk.run(partition, &piece);
                tasks.yield_now().await;
            }
        }));
    }
}

fn in_one_chunk(one: &Piece, other: &Piece) -> bool {
    one.chunk == other.chunk
}
