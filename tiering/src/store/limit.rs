//! Bounds how many requests, and how many body bytes, are at a store at once. Waiting is first come, first served.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    Buffers, ByteSource, ETag, Got, Head, KeyLimits, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};

/// Bytes of one permit.
const UNIT: u64 = 4096;
/// Bytes that a request of unknown size counts as: about an index or a manifest.
const UNKNOWN_BYTES: u64 = 64 << 10;
/// Bytes that a large put keeps in memory at once.
const LARGE_BYTES: u64 = 40 << 20;

/// A store with a cap on concurrency and bytes in flight.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn ObjectStore>,
    requests: Semaphore,
    bytes: Semaphore,
    units_max: u32,
}

impl Limited {
    /// At most `requests_max` requests with at most `bytes_max` bytes between them; one larger request goes alone.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, requests_max: usize, bytes_max: u64) -> Self {
        let units_max = u32::try_from(bytes_max.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).clamp(1, u32::MAX >> 4);
        let requests = Semaphore::new(requests_max.clamp(1, Semaphore::MAX_PERMITS));
        Self { inner, requests, bytes: Semaphore::new(units_max as usize), units_max }
    }

    async fn slot(&self, bytes: u64) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), StoreError> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units_max);
        // Bytes before the request slot: a large request that waits for bytes must not hold a slot.
        let bytes = self.bytes.acquire_many(units).await.map_err(|_| StoreError::Closed)?;
        let request = self.requests.acquire().await.map_err(|_| StoreError::Closed)?;
        Ok((request, bytes))
    }
}

#[async_trait]
impl ObjectStore for Limited {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        let _slot = self.slot(body.len() as u64).await?;
        self.inner.put(key, body, mode).await
    }

    async fn put_pieces(&self, key: &ObjectKey, pieces: Vec<Bytes>, mode: PutMode) -> Result<PutDone, StoreError> {
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        let _slot = self.slot(bytes as u64).await?;
        self.inner.put_pieces(key, pieces, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        let bytes = range.as_ref().map_or(UNKNOWN_BYTES, |range| range.end.saturating_sub(range.start));
        let _slot = self.slot(bytes).await?;
        self.inner.get(key, range).await
    }

    async fn get_into(&self, key: &ObjectKey, range: Range<u64>, buffers: &Buffers) -> Result<Got, StoreError> {
        let _slot = self.slot(range.end.saturating_sub(range.start)).await?;
        self.inner.get_into(key, range, buffers).await
    }

    fn key_limits(&self) -> KeyLimits {
        self.inner.key_limits()
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        let _slot = self.slot(UNKNOWN_BYTES).await?;
        self.inner.get_if_changed(key, etag).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        let _slot = self.slot(1).await?;
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        let _slot = self.slot(UNKNOWN_BYTES).await?;
        self.inner.list(prefix, after, max).await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        let _slot = self.slot(1).await?;
        self.inner.delete(keys).await
    }

    async fn delete_if(&self, key: &ObjectKey, etag: &ETag) -> Result<(), StoreError> {
        let _slot = self.slot(1).await?;
        self.inner.delete_if(key, etag).await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, source: ByteSource) -> Result<PutDone, StoreError> {
        let _slot = self.slot(size.min(LARGE_BYTES)).await?;
        self.inner.put_large(key, size, source).await
    }
}
