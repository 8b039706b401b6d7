//! Brokers that are wrong on purpose, at the seams of the simulated world: what the simulation must notice.
//!
//! | defect | made by |
//! | --- | --- |
//! | acknowledge before fsync | syncs of journal files do nothing |
//! | skip a checkpoint sync | syncs of the checkpoint's file do nothing |
//! | skip a segment sync | syncs of segment files do nothing |
//! | trim before the bundle is in the bucket | its PUT is answered at once and done later |
//! | commit the table before its files exist | the files' PUTs are answered at once and done later |
//! | replay a producer's batch | an acknowledged batch is appended again, behind the proposer's back |
//! | purge the log before the checkpoint is durable | while the checkpoint is collected |

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::SimDisk;
use tidewater_tiering::store::{
    ByteSource, ETag, Got, Head, Listed, ObjectKey, ObjectStore, PutDone, PutMode, StoreError,
};

/// See the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    AckBeforeSync,
    SkipCheckpointSync,
    SkipSegmentSync,
    TrimBeforeBundle,
    CommitBeforeFiles,
    ReplayBatch,
    PurgeBeforeCheckpoint,
}

impl Defect {
    pub(crate) const ALL: [Self; 7] = [
        Self::AckBeforeSync,
        Self::SkipCheckpointSync,
        Self::SkipSegmentSync,
        Self::TrimBeforeBundle,
        Self::CommitBeforeFiles,
        Self::ReplayBatch,
        Self::PurgeBeforeCheckpoint,
    ];

    /// Makes the disk as forgetful as a broker that does not sync.
    pub(crate) fn spoil_disk(self, disk: &SimDisk) {
        match self {
            Self::AckBeforeSync => disk.lie(".journal"),
            Self::SkipCheckpointSync => disk.lie("checkpoint.pages"),
            Self::SkipSegmentSync => disk.lie(".log"),
            _ => {}
        }
    }

    /// Keys whose PUTs are put off.
    fn hurries(self) -> Option<&'static str> {
        match self {
            Self::TrimBeforeBundle => Some("/lanes/"),
            Self::CommitBeforeFiles => Some(".parquet"),
            _ => None,
        }
    }

    /// The bucket as such a broker uses it.
    pub(crate) fn spoil_store(self, env: &Env, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        let Some(keys) = self.hurries() else { return store };
        let hasty = Arc::new(Hasty { store, keys, put_off: Mutex::default() });
        let (later, worker) = (Arc::clone(&hasty), env.clone());
        drop(env.tasks.spawn("hasty store", async move {
            loop {
                worker.tasks.sleep(Duration::from_millis(400)).await;
                let put_off = later.put_off.lock().unwrap_or_else(PoisonError::into_inner).pop();
                if let Some((key, body, mode)) = put_off {
                    let _ = later.store.put(&key, body, mode).await;
                }
            }
        }));
        hasty
    }
}

/// Says that objects are there before they are. What was put off dies with the broker.
#[derive(Debug)]
struct Hasty {
    store: Arc<dyn ObjectStore>,
    keys: &'static str,
    put_off: Mutex<Vec<(ObjectKey, Bytes, PutMode)>>,
}

#[async_trait]
impl ObjectStore for Hasty {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        if !key.as_str().contains(self.keys) {
            return self.store.put(key, body, mode).await;
        }
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), body, mode));
        Ok(PutDone { etag: ETag("soon".into()) })
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.store.get(key, range).await
    }

    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError> {
        self.store.get_if_changed(key, etag).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        self.store.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        self.store.list(prefix, after, max).await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        self.store.delete(keys).await
    }

    async fn put_large(&self, key: &ObjectKey, size: u64, source: ByteSource) -> Result<PutDone, StoreError> {
        self.store.put_large(key, size, source).await
    }
}
