//! Repeats requests whose error passes: exponential back-off with jitter, within a budget of attempts.
//!
//! Does not own: what a lost answer meant. After a first attempt that ended in [`StoreError::Unavailable`], a
//! conditional put that now answers [`StoreError::Taken`] may have met its own bytes; the caller reads and decides.
//! Large puts are not repeated: their source is spent.

use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Buffers, ByteSource, ETag, Got, Head, KeyLimits, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};

/// How many attempts, and the pauses between them.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts_max: u32,
    /// Wait before the second attempt; doubles from there.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 5, backoff_min: Duration::from_millis(100), backoff_max: Duration::from_secs(5) }
    }
}

/// A timer: the side runtime's, or a simulated clock's.
pub trait Sleeper: std::fmt::Debug + Send + Sync {
    /// Done after `time`.
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// Waits on the side runtime; the future may be polled anywhere.
#[derive(Clone, Debug)]
pub struct TokioSleeper(pub tokio::runtime::Handle);

impl Sleeper for TokioSleeper {
    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let timer = self.0.spawn(async move { tokio::time::sleep(time).await });
        Box::pin(async move {
            // An error means that the runtime is ending: the next attempt fails with that.
            let _ = timer.await;
        })
    }
}

/// A store that repeats requests.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn ObjectStore>,
    policy: RetryPolicy,
    sleeper: Arc<dyn Sleeper>,
    jitter: AtomicU64,
}

impl Retrying {
    /// Over `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, policy: RetryPolicy, sleeper: Arc<dyn Sleeper>) -> Self {
        Self { inner, policy, sleeper, jitter: AtomicU64::new(0x9e37_79b9_7f4a_7c15) }
    }

    async fn run<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut tried = 1;
        loop {
            match attempt().await {
                Err(error) if error.disposition().passes() && tried < self.policy.attempts_max => {
                    tracing::debug!(%error, tried, "object store request will be tried again");
                    self.sleeper.sleep(self.wait(tried)).await;
                    tried += 1;
                }
                result => return result,
            }
        }
    }

    /// Between half and all of the doubled back-off. A Weyl sequence spreads it; no randomness is needed.
    fn wait(&self, tried: u32) -> Duration {
        let doubled = self.policy.backoff_min.saturating_mul(1 << (tried - 1).min(16)).min(self.policy.backoff_max);
        let spread = self.jitter.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) >> 32;
        let half = doubled / 2;
        half + half.mul_f64(spread as f64 / f64::from(u32::MAX))
    }
}

#[async_trait]
impl ObjectStore for Retrying {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.run(|| self.inner.put(key, body.clone(), mode.clone())).await
    }

    async fn put_pieces(&self, key: &ObjectKey, pieces: Vec<Bytes>, mode: PutMode) -> Result<PutDone, StoreError> {
        self.run(|| self.inner.put_pieces(key, pieces.clone(), mode.clone())).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.run(|| self.inner.get(key, range.clone())).await
    }

    async fn get_into(&self, key: &ObjectKey, range: Range<u64>, buffers: &Buffers) -> Result<Got, StoreError> {
        self.run(|| self.inner.get_into(key, range.clone(), buffers)).await
    }

    fn key_limits(&self) -> KeyLimits {
        self.inner.key_limits()
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        self.run(|| self.inner.get_if_changed(key, etag)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        self.run(|| self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        self.run(|| self.inner.list(prefix, after, max)).await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        self.run(|| self.inner.delete(keys.clone())).await
    }

    async fn delete_if(&self, key: &ObjectKey, etag: &ETag) -> Result<(), StoreError> {
        self.run(|| self.inner.delete_if(key, etag)).await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, source: ByteSource) -> Result<PutDone, StoreError> {
        self.inner.put_large(key, size, source).await
    }
}
