//! A bucket that says that objects are there before they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidewater_storage::env::Env;
use tidewater_tiering::store::meddler::Meddler;
use tidewater_tiering::store::{ETag, ObjectKey, ObjectStore, PutDone, PutMode, StoreError};

/// Answers some puts at once and does them later, or never. What was put off dies with its process.
#[derive(Debug)]
pub(crate) struct Hasty {
    store: Arc<dyn ObjectStore>,
    which: fn(&ObjectKey, &PutMode) -> bool,
    put_off: Mutex<Vec<(ObjectKey, Bytes, PutMode)>>,
}

impl Hasty {
    /// Puts off those that `which` chooses.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, which: fn(&ObjectKey, &PutMode) -> bool) -> Arc<Self> {
        Arc::new(Self { store, which, put_off: Mutex::default() })
    }

    /// Does what was put off so far once `after` has passed; again and again if `repeats`.
    pub(crate) fn work(self: &Arc<Self>, env: &Env, after: Duration, repeats: bool) {
        let (hasty, worker) = (Arc::clone(self), env.clone());
        drop(env.tasks.spawn("hasty store", async move {
            loop {
                worker.tasks.sleep(after).await;
                let put_off = std::mem::take(&mut *hasty.put_off.lock().unwrap_or_else(PoisonError::into_inner));
                for (key, body, mode) in put_off {
                    let _ = hasty.store.put(&key, body, mode).await;
                }
                if !repeats {
                    return;
                }
            }
        }));
    }
}

#[async_trait]
impl Meddler for Hasty {
    fn below(&self) -> &dyn ObjectStore {
        &*self.store
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        if !(self.which)(key, &mode) {
            return self.store.put(key, body, mode).await;
        }
        self.put_off.lock().unwrap_or_else(PoisonError::into_inner).push((key.clone(), body, mode));
        Ok(PutDone { etag: ETag("soon".into()) })
    }
}
