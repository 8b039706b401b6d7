//! Reading archived offsets back: [`RemoteReader`].
//!
//! The calls in order: manifest → [`locate::ReadView`] (by the caller, without awaiting) → rows, spill pages read through
//! `indexes` → runs → chunks through `hydrate` and `chunk_cache` → run sums → whole batches.
//! Owns: that walk, deadlines, read-ahead. Does not own: manifests, what a Kafka fetch answers. Shard-local, cheap to
//! clone. Every byte given out has passed its run's seeded checksum in this read, wherever it came from: a chunk that
//! fails on disk is fetched again, one that fails from the bucket is [`RemoteError::Corrupt`].

pub mod chunk_cache;
pub mod error;
pub mod hydrate;
pub mod indexes;
pub mod locate;
pub mod read_ahead;
mod rows;
mod times;

use std::cell::RefCell;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{Either, select};
use tidewater_storage::env::Env;
use tidewater_storage::model::{BatchHeader, Offset, OffsetRange, PartitionId, RunSum, TimestampMs};

pub use chunk_cache::{ChunkCache, ChunkId};
pub use error::RemoteError;
pub use hydrate::HydrateCounts;
use hydrate::{HydrateError, Hydrator};
pub use indexes::Indexes;
pub use locate::ReadView;
use locate::{Piece, pieces};
use read_ahead::ReadAhead;
use rows::RowWalk;

use crate::manifest::Row;
use crate::store::ObjectStore;

/// Chunks of one read that are fetched side by side.
const PARALLEL_CHUNKS: usize = 4;
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
    /// Memory for chunks under way.
    pub memory_bytes: u64,
    /// Memory for indexes and pages.
    pub index_bytes: u64,
    /// Chunks fetched ahead of a sequential reader.
    pub read_ahead_max: usize,
    /// A read that takes longer fails with a retriable error.
    pub deadline: Duration,
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
    indexes: Indexes,
    hydrator: Hydrator,
    cache: Option<ChunkCache>,
    ahead: RefCell<ReadAhead>,
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
        let hydrator = Hydrator::new(env.clone(), store, cache.clone(), config.memory_bytes);
        let ahead = RefCell::new(ReadAhead::new(config.read_ahead_max));
        Ok(Self { inner: Rc::new(Inner { env, config, indexes, hydrator, cache, ahead }) })
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
        let mut walk = RowWalk::new(self.inner.indexes.clone(), view);
        let wanted = OffsetRange::new(from, until.min(walk.archived_end()));
        let read = self.within_deadline(partition, self.read_rows(&mut walk, wanted, max_bytes)).await?;
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
        self.within_deadline(partition, times::find_time(self, view, at_or_after, until)).await
    }

    /// The first record with the greatest timestamp of the view below `until`. `view` is [`ReadView::whole`].
    ///
    /// # Errors
    /// As [`RemoteReader::read`].
    pub async fn max_timestamp(&self, view: ReadView, until: Offset) -> Result<Option<RemoteTime>, RemoteError> {
        let partition = view.partition;
        self.within_deadline(partition, times::max_timestamp(self, view, until)).await
    }

    async fn within_deadline<T>(
        &self,
        partition: PartitionId,
        work: impl Future<Output = Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        let after = self.inner.config.deadline;
        match select(pin!(work), self.inner.env.tasks.sleep(after)).await {
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
        let mut gathered = Gathered::new(wanted, max_bytes);
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
            let runs = self.limit_to(located, gathered.next, gathered.room());
            let partition = walk.partition();
            let mut fetched = futures::stream::iter(runs)
                .map(|piece| async move { self.run(partition, &piece).await.map(|bytes| (piece, bytes)) })
                .buffered(PARALLEL_CHUNKS);
            while let Some(run) = fetched.next().await {
                match run {
                    Ok((piece, bytes)) => gathered.take(partition, &piece, &bytes)?,
                    Err(error) => return gathered.or(error),
                }
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

    /// The bytes of a run, checked; read from the bucket again if the cache's copy is bad.
    async fn run(&self, partition: PartitionId, piece: &Piece) -> Result<Bytes, RemoteError> {
        let sum = piece.run.sum;
        for _ in 0..2 {
            let bytes = self.chunk(partition, &piece.chunk, piece.bytes.clone()).await?;
            if sum.matches(partition, &bytes) {
                return Ok(bytes);
            }
            self.inner.hydrator.forget(&piece.chunk).await;
        }
        let RunSum { offsets, .. } = sum;
        tracing::error!(%partition, %offsets, object = %piece.chunk.object, "archived bytes do not match their checksum: the object was damaged after it was written; restore it from a copy of the bucket");
        Err(RemoteError::Corrupt { partition, offsets, object: piece.chunk.object, bytes: piece.bytes.clone() })
    }

    async fn chunk(&self, partition: PartitionId, id: &ChunkId, want: Range<u64>) -> Result<Bytes, RemoteError> {
        self.inner.hydrator.read(id, want).await.map_err(|error| match error {
            HydrateError::Store(error) => RemoteError::of_store(partition, id.object, &error),
            HydrateError::Cancelled => {
                RemoteError::Unavailable { object: id.object, reason: "the shard is shutting down".to_owned() }
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
            let (mut next, mut chunks): (Offset, Vec<ChunkId>) = (next, Vec::new());
            // At most one more row than chunks wanted: a row has at least one chunk.
            for _ in 0..=depth {
                let Ok(Some(row)) = walk.next_at(next).await else { break };
                let wanted = OffsetRange::new(next, walk.archived_end());
                let Ok(pieces) = this.locate(walk.partition(), &row, wanted).await else { break };
                chunks.extend(pieces.into_iter().map(|piece| piece.chunk));
                chunks.dedup();
                next = row.offsets.end;
                if chunks.len() > depth {
                    break;
                }
            }
            chunks.iter().take(depth).for_each(|chunk| this.inner.hydrator.prefetch(chunk));
        }));
    }
}

/// Batches on their way into an answer.
struct Gathered {
    wanted: OffsetRange,
    max_bytes: usize,
    next: Offset,
    batches: Vec<Bytes>,
    start: Option<Offset>,
    bytes: usize,
    stopped: bool,
}

impl Gathered {
    fn new(wanted: OffsetRange, max_bytes: usize) -> Self {
        let next = wanted.start;
        Self { wanted, max_bytes, next, batches: Vec::new(), start: None, bytes: 0, stopped: false }
    }

    fn full(&self) -> bool {
        self.stopped || self.next >= self.wanted.end || (self.bytes > 0 && self.bytes >= self.max_bytes)
    }

    fn left(&self) -> OffsetRange {
        OffsetRange::new(self.next, self.wanted.end)
    }

    fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes).max(1)
    }

    /// Takes the batches of a checked run that are wanted: one slice of it.
    fn take(&mut self, partition: PartitionId, piece: &Piece, run: &Bytes) -> Result<(), RemoteError> {
        let (mut at, mut first) = (0usize, None);
        while at < run.len() && !self.full() {
            let rest = run.get(at..).unwrap_or_default();
            let header = BatchHeader::parse(rest)
                .map_err(|error| RemoteError::BadIndex { object: piece.chunk.object, reason: error.to_string() })?;
            let len = header.len as usize;
            let fits = self.bytes == 0 || self.bytes + len <= self.max_bytes;
            if header.next_offset() <= self.next {
                at += len;
                continue;
            }
            if header.base_offset > self.next && self.start.is_some() {
                return Err(RemoteError::Gap { partition, offset: self.next });
            }
            if header.base_offset >= self.wanted.end || !fits {
                self.stopped = true;
                break;
            }
            first.get_or_insert(at);
            self.start.get_or_insert(header.base_offset);
            self.bytes += len;
            self.next = header.next_offset();
            at += len;
        }
        if let Some(first) = first {
            self.batches.push(run.slice(first..at));
        }
        Ok(())
    }

    fn or(self, error: RemoteError) -> Result<RemoteRead, RemoteError> {
        match self.start {
            Some(start) => Ok(self.answer(start)),
            None => Err(error),
        }
    }

    fn finish(self, partition: PartitionId) -> Result<RemoteRead, RemoteError> {
        match self.start {
            Some(start) => Ok(self.answer(start)),
            None => Err(RemoteError::Gap { partition, offset: self.next }),
        }
    }

    fn answer(self, start: Offset) -> RemoteRead {
        RemoteRead { range: OffsetRange::new(start, self.next), bytes: self.bytes as u64, batches: self.batches }
    }
}
