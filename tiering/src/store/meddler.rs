//! [`Meddler`]: a store for tests that treats some calls otherwise than the store below it, and passes the rest on.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{ByteSource, ETag, Got, Head, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError};

/// What a test does between a caller and its store. [`Meddler::over`] makes a store of it.
#[async_trait]
pub trait Meddler: fmt::Debug + Send + Sync + 'static {
    /// The store below.
    fn below(&self) -> &dyn ObjectStore;

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.below().put(key, body, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.below().get(key, range).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        self.below().head(key).await
    }

    /// The store with this in front of it.
    fn over(self: Arc<Self>) -> Arc<dyn ObjectStore>
    where
        Self: Sized,
    {
        Arc::new(Meddled(self))
    }
}

#[derive(Debug)]
struct Meddled<M>(Arc<M>);

#[async_trait]
impl<M: Meddler> ObjectStore for Meddled<M> {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.0.put(key, body, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.0.get(key, range).await
    }

    async fn get_if_changed(&self, key: &ObjectKey, known: &ETag) -> Result<Option<Got>, StoreError> {
        self.0.below().get_if_changed(key, known).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        self.0.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        self.0.below().list(prefix, after, max).await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        self.0.below().delete(keys).await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, source: ByteSource) -> Result<PutDone, StoreError> {
        self.0.below().put_large(key, size, source).await
    }
}
