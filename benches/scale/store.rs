//! An object store in memory that answers each request after a fixed time, and counts requests and bytes.
//!
//! Bodies are copied out, as a real store's are received. Of data objects that are only listed it holds the size alone.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidewater_storage::model::TimestampMs;
use tidewater_tiering::store::{
    ByteSource, ETag, Got, Head, Listed, ObjectKey, ObjectStore, PutDone, PutMode, Sleeper, StoreError,
};

use crate::memory;

/// An object's content, or how long it would be.
#[derive(Clone)]
pub enum Content {
    Body(Bytes),
    Size(u64),
}

/// Objects by key.
pub type Objects = BTreeMap<String, Content>;

/// What was asked of the store.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub gets: u64,
    pub puts: u64,
    /// LIST, HEAD and DELETE.
    pub others: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// The most requests that were open at once.
    pub at_once: u64,
    /// Those that are open now.
    pub open: u64,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Content, u64)>,
    versions: u64,
    counts: Counts,
}

/// See the header.
pub struct SlowStore {
    latency: Duration,
    sleeper: Arc<dyn Sleeper>,
    state: Mutex<State>,
}

impl fmt::Debug for SlowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlowStore({:?})", self.latency)
    }
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Body(body) => body.len() as u64,
            Self::Size(size) => *size,
        }
    }
}

impl SlowStore {
    pub fn new(objects: Objects, latency: Duration, sleeper: Arc<dyn Sleeper>) -> Arc<Self> {
        let objects = objects.into_iter().map(|(key, content)| (key, (content, 0))).collect();
        Arc::new(Self { latency, sleeper, state: Mutex::new(State { objects, ..State::default() }) })
    }

    /// What was asked since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut self.state().counts)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn request<T>(&self, act: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        {
            let counts = &mut self.state().counts;
            counts.open += 1;
            counts.at_once = counts.at_once.max(counts.open);
        }
        self.sleeper.sleep(self.latency).await;
        let mut state = self.state();
        state.counts.open = state.counts.open.saturating_sub(1);
        act(&mut state)
    }
}

impl State {
    fn find(&self, key: &str) -> Result<&(Content, u64), StoreError> {
        self.objects.get(key).ok_or_else(|| StoreError::NotFound { key: key.to_owned() })
    }

    fn get(&mut self, key: &str, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.counts.gets += 1;
        let (content, version) = self.find(key)?;
        let Content::Body(body) = content else { panic!("{key} is only to be listed") };
        let size = body.len() as u64;
        let (start, end) = range.map_or((0, size), |range| (range.start, range.end.min(size)));
        if start >= end {
            return Err(StoreError::Range { key: key.to_owned(), start, end });
        }
        let at = |byte: u64| usize::try_from(byte).expect("an object in memory");
        let body = Bytes::copy_from_slice(&body[at(start)..at(end)]);
        let etag = etag(*version);
        self.counts.bytes_read += body.len() as u64;
        Ok(Got { body, etag, size })
    }
}

fn etag(version: u64) -> ETag {
    ETag(version.to_string().into())
}

#[async_trait]
impl ObjectStore for SlowStore {
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        self.request(|state| {
            state.counts.puts += 1;
            let known = state.objects.get(key.as_str()).map(|(_, version)| etag(*version));
            let holds = match mode {
                PutMode::Overwrite => true,
                PutMode::IfAbsent => known.is_none(),
                PutMode::IfMatch(wanted) => known == Some(wanted),
            };
            if !holds {
                return Err(StoreError::Taken { key: key.to_string() });
            }
            state.versions += 1;
            state.counts.bytes_written += body.len() as u64;
            memory::hand_over(body.len());
            state.objects.insert(key.to_string(), (Content::Body(body), state.versions));
            Ok(PutDone { etag: etag(state.versions) })
        })
        .await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        self.request(|state| state.get(key.as_str(), range)).await
    }

    async fn get_if_changed(&self, key: &ObjectKey, known: &ETag) -> Result<Option<Got>, StoreError> {
        self.request(|state| {
            if state.find(key.as_str()).is_ok_and(|(_, version)| etag(*version) == *known) {
                state.counts.gets += 1;
                return Ok(None);
            }
            state.get(key.as_str(), None).map(Some)
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError> {
        self.request(|state| {
            state.counts.others += 1;
            let (content, version) = state.find(key.as_str())?;
            Ok(Head { size: content.size(), etag: etag(*version), modified: TimestampMs(0) })
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError> {
        self.request(|state| {
            state.counts.others += 1;
            let from = match after {
                Some(after) if after >= prefix => Bound::Excluded(after),
                _ => Bound::Included(prefix),
            };
            let matching = state.objects.range::<str, _>((from, Bound::Unbounded));
            let listed = matching.take_while(|(key, _)| key.starts_with(prefix)).take(max);
            let listed = listed.map(|(key, (content, _))| Listed {
                key: ObjectKey::new(key).expect("it was put under a legal key"),
                size: content.size(),
                modified: TimestampMs(0),
            });
            Ok(listed.collect())
        })
        .await
    }

    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError> {
        self.request(|state| {
            state.counts.others += 1;
            for key in keys {
                state.objects.remove(key.as_str());
            }
            Ok(())
        })
        .await
    }

    async fn put_large(&self, key: &ObjectKey, _: u64, _: ByteSource) -> Result<PutDone, StoreError> {
        panic!("nothing that is measured puts {key} in pieces");
    }
}
