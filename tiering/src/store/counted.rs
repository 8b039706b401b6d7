//! Counts requests by kind, how long they took, and bytes by direction, for `/metrics` and for the figures of PUTs an
//! hour.
//!
//! Sits directly on the store, below retries: every attempt costs money.
#![allow(clippy::disallowed_methods, reason = "measures real requests, for metrics alone")]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tidewater_storage::metrics::{HistogramCounts, SharedHistogram};

use super::{
    Buffers, ByteSource, ETag, Got, Head, KeyLimits, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};

/// Kinds of request, as stores bill them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// Put of any condition.
    Put,
    /// A large put (several requests to a cloud store: about one per 8 MiB and two).
    PutLarge,
    /// Get of any range.
    Get,
    /// Get that answers only when changed.
    GetIfChanged,
    /// Head.
    Head,
    /// One call of list (a request per 1,000 keys).
    List,
    /// Object deleted.
    Delete,
}

/// Totals since start. *Node-wide.*
#[derive(Debug, Default)]
pub struct StoreStats {
    requests: [AtomicU64; RequestKind::ALL.len()],
    failures: [AtomicU64; RequestKind::ALL.len()],
    took: [SharedHistogram; RequestKind::ALL.len()],
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

impl RequestKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Put, Self::PutLarge, Self::Get, Self::GetIfChanged, Self::Head, Self::List, Self::Delete];

    /// As metrics call it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::PutLarge => "put_large",
            Self::Get => "get",
            Self::GetIfChanged => "get_if_changed",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }

    fn place(self) -> usize {
        self as usize
    }
}

impl StoreStats {
    /// Requests of a kind, failed ones included.
    #[must_use]
    pub fn requests(&self, kind: RequestKind) -> u64 {
        self.requests.get(kind.place()).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Requests of a kind that the store could not answer (a missing object or a condition that fails is an answer).
    #[must_use]
    pub fn failures(&self, kind: RequestKind) -> u64 {
        self.failures.get(kind.place()).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How long requests of a kind took, failed ones included; of a list one call, however many keys it gave.
    #[must_use]
    pub fn took(&self, kind: RequestKind) -> HistogramCounts {
        self.took.get(kind.place()).map(SharedHistogram::counts).unwrap_or_default()
    }

    /// Body bytes sent.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent.load(Ordering::Relaxed)
    }

    /// Body bytes received.
    #[must_use]
    pub fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }

    fn note<T>(&self, kind: RequestKind, count: u64, begun: Instant, result: &Result<T, StoreError>) {
        if let Some(took) = self.took.get(kind.place()) {
            took.note(begun.elapsed());
        }
        if let Some(requests) = self.requests.get(kind.place()) {
            requests.fetch_add(count, Ordering::Relaxed);
        }
        let failed = result.as_ref().err().is_some_and(|error| {
            !matches!(error, StoreError::NotFound { .. } | StoreError::Taken { .. } | StoreError::Range { .. })
        });
        if let (true, Some(failures)) = (failed, self.failures.get(kind.place())) {
            failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn received(&self, bytes: usize) {
        self.bytes_received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A store that counts.
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn ObjectStore>,
    stats: Arc<StoreStats>,
}

impl Counted {
    /// Counts what goes to `inner` in `stats`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, stats: Arc<StoreStats>) -> Self {
        Self { inner, stats }
    }

    fn note_get(&self, begun: Instant, result: Result<Got, StoreError>) -> Result<Got, StoreError> {
        self.stats.note(RequestKind::Get, 1, begun, &result);
        self.stats.received(result.as_ref().map_or(0, |got| got.body.len()));
        result
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.stats.bytes_sent.fetch_add(body.len() as u64, Ordering::Relaxed);
        let begun = Instant::now();
        let result = self.inner.put(key, body, mode).await;
        self.stats.note(RequestKind::Put, 1, begun, &result);
        result
    }

    async fn put_pieces(&self, key: &ObjectKey, pieces: Vec<Bytes>, mode: PutMode) -> Result<PutDone, StoreError> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        self.stats.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        let begun = Instant::now();
        let result = self.inner.put_pieces(key, pieces, mode).await;
        self.stats.note(RequestKind::Put, 1, begun, &result);
        result
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        let begun = Instant::now();
        self.note_get(begun, self.inner.get(key, range).await)
    }

    async fn get_into(&self, key: &ObjectKey, range: Range<u64>, buffers: &Buffers) -> Result<Got, StoreError> {
        let begun = Instant::now();
        self.note_get(begun, self.inner.get_into(key, range, buffers).await)
    }

    fn key_limits(&self) -> KeyLimits {
        self.inner.key_limits()
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        let begun = Instant::now();
        let result = self.inner.get_if_changed(key, etag).await;
        self.stats.note(RequestKind::GetIfChanged, 1, begun, &result);
        self.stats.received(result.as_ref().map_or(0, |got| got.as_ref().map_or(0, |got| got.body.len())));
        result
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        let begun = Instant::now();
        let result = self.inner.head(key).await;
        self.stats.note(RequestKind::Head, 1, begun, &result);
        result
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        let begun = Instant::now();
        let result = self.inner.list(prefix, after, max).await;
        self.stats.note(RequestKind::List, 1, begun, &result);
        result
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        let count = keys.len() as u64;
        let begun = Instant::now();
        let result = self.inner.delete(keys).await;
        self.stats.note(RequestKind::Delete, count, begun, &result);
        result
    }

    async fn delete_if(&self, key: &ObjectKey, etag: &ETag) -> Result<(), StoreError> {
        let begun = Instant::now();
        let result = self.inner.delete_if(key, etag).await;
        self.stats.note(RequestKind::Delete, 1, begun, &result);
        result
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, source: ByteSource) -> Result<PutDone, StoreError> {
        let stats = Arc::clone(&self.stats);
        let counted = source.inspect(move |piece| {
            let bytes = piece.as_ref().map_or(0, Bytes::len);
            stats.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        });
        let begun = Instant::now();
        let result = self.inner.put_large(key, size, counted.boxed()).await;
        self.stats.note(RequestKind::PutLarge, 1, begun, &result);
        result
    }
}
