//! Indexes of data objects and spill pages, read from the bucket through a memory cache.
//!
//! Owns: that cache (moka, weighed by encoded bytes), finding an index when only the object's name is known. Does not
//! own: what is in them (`format`, `manifest`). Shard-local by use. Objects are immutable, so nothing is ever stale.

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tidewater_storage::model::PartitionId;

use super::error::RemoteError;
use crate::format::{Body, DataIndex, DataKind, FormatError, IndexRef, TRAILER_LEN, Trailer, decode_index};
use crate::keys::{ObjectKind, ObjectName};
use crate::manifest::{Row, Source, SpillPage, SpillRow, decode_spill};
use crate::store::{ObjectStore, StoreError};

/// Bytes asked for when the place of an index is not known: covers index and trailer of all but the largest bundles,
/// and the whole of a trickling lane's.
const GUESS_BYTES: u64 = 64 << 10;
/// A decoded index takes about this many times its encoded bytes.
const DECODED_FACTOR: u32 = 4;

/// An index with where it lies.
#[derive(Clone, Debug)]
pub struct FoundIndex {
    pub index: DataIndex,
    /// Where it lies and its checksum.
    pub at: IndexRef,
    /// Bytes of the whole object.
    pub size: u64,
}

/// Why an index could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// What the store said.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object is there but is not what it should be.
    #[error("{0}")]
    Format(#[from] FormatError),
}

impl IndexError {
    /// What it means to a reader of `partition`.
    #[must_use]
    pub fn for_reader(&self, partition: PartitionId, object: ObjectName) -> RemoteError {
        match self {
            Self::Store(error) => RemoteError::of_store(partition, object, error),
            Self::Format(error) => RemoteError::BadIndex { object, reason: error.to_string() },
        }
    }
}

/// The caches. *Shard-local*, cheap to clone.
#[derive(Clone, Debug)]
pub struct Indexes {
    store: Arc<dyn ObjectStore>,
    data: Cache<ObjectName, Arc<FoundIndex>>,
    pages: Cache<ObjectName, Arc<SpillPage>>,
}

impl Indexes {
    /// Keeps about `memory_bytes` of decoded indexes and pages.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, memory_bytes: u64) -> Self {
        let half = memory_bytes / 2;
        let data = Cache::builder()
            .max_capacity(half)
            .weigher(|_, found: &Arc<FoundIndex>| found.at.len.saturating_mul(DECODED_FACTOR).max(1024))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let pages = Cache::builder()
            .max_capacity(half)
            .weigher(|_, page: &Arc<SpillPage>| {
                let rows = match &**page {
                    SpillPage::Rows(rows) => rows.len() * size_of::<Row>(),
                    SpillPage::Pages(pages) => pages.len() * size_of::<SpillRow>(),
                };
                u32::try_from(rows).unwrap_or(u32::MAX).max(1024)
            })
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { store, data, pages }
    }

    /// The index of the object that a row names.
    ///
    /// # Errors
    /// What the store or the decoder said.
    pub async fn of_row(&self, row: &Row) -> Result<Arc<FoundIndex>, IndexError> {
        match row.source {
            Source::Bundle(object) => self.of_object(object).await,
            Source::Object { object, index, .. } => {
                if let Some(found) = self.data.get(&object) {
                    return Ok(found);
                }
                let read = async || {
                    let got = self.store.get(&object.key(), Some(index.offset..index.end())).await?;
                    index.verify(&got.body)?;
                    Ok(FoundIndex { index: decode_index(&got.body)?, at: index, size: got.size })
                };
                Ok(self.keep(object, twice(read).await?))
            }
        }
    }

    /// The index of an object of which nothing but the name is known. Nothing pins its checksum, so it must say itself
    /// that it is the one: an answer with another object, however whole, is an error and is not kept.
    ///
    /// # Errors
    /// What the store or the decoder said.
    pub async fn of_object(&self, object: ObjectName) -> Result<Arc<FoundIndex>, IndexError> {
        if let Some(found) = self.data.get(&object) {
            return Ok(found);
        }
        let read = async || {
            let found = find_index(&*self.store, object).await?;
            check_name(object, &found.index)?;
            Ok(found)
        };
        Ok(self.keep(object, twice(read).await?))
    }

    /// The index of the object that lies at the key now, for the archiver's judgement of a taken key: neither read from
    /// the cache nor kept in it.
    ///
    /// # Errors
    /// What the store or the decoder said.
    pub async fn at_key(&self, object: ObjectName) -> Result<FoundIndex, IndexError> {
        twice(async || find_index(&*self.store, object).await).await
    }

    /// Keeps an index that [`Indexes::at_key`] found, for the reads that follow. The caller has judged that it is the
    /// object's own.
    pub fn remember(&self, object: ObjectName, found: FoundIndex) {
        self.keep(object, found);
    }

    /// A spill page of `partition`.
    ///
    /// # Errors
    /// What the store or the decoder said.
    pub async fn page(&self, partition: PartitionId, row: &SpillRow) -> Result<Arc<SpillPage>, IndexError> {
        if let Some(page) = self.pages.get(&row.page) {
            return Ok(page);
        }
        let read = async || {
            let got = self.store.get(&row.page.key(), None).await?;
            Ok(Arc::new(decode_spill(partition, row.crc, &got.body)?))
        };
        let page = twice(read).await?;
        self.pages.insert(row.page, Arc::clone(&page));
        Ok(page)
    }

    fn keep(&self, object: ObjectName, found: FoundIndex) -> Arc<FoundIndex> {
        let found = Arc::new(found);
        self.data.insert(object, Arc::clone(&found));
        found
    }
}

/// Reads again what does not decode, once: it may have been damaged on its way here, not where it lies.
async fn twice<T>(read: impl AsyncFn() -> Result<T, IndexError>) -> Result<T, IndexError> {
    match read().await {
        Err(IndexError::Format(error)) => {
            tracing::debug!(%error, "metadata does not decode, reading it again");
            read().await
        }
        read => read,
    }
}

/// Does an index say that it belongs to `object`?
pub(crate) fn check_name(object: ObjectName, index: &DataIndex) -> Result<(), FormatError> {
    let DataIndex { kind, home, lane, sequence, .. } = *index;
    let same = home == object.home
        && match object.kind {
            ObjectKind::Bundle { lane: of, sequence: nth } => (kind, lane, sequence) == (DataKind::Bundle, of, nth),
            ObjectKind::Gathered { lane: of, .. } => (kind, lane) == (DataKind::Gathered, of),
            ObjectKind::Segment { partition, .. } => kind == DataKind::Segment && index.partition(partition).is_some(),
            ObjectKind::Part { partition, lane: of, sequence: nth, .. } => {
                (kind, lane, sequence) == (DataKind::Part, of, nth) && index.partition(partition).is_some()
            }
            _ => true,
        };
    if same { Ok(()) } else { Err(FormatError::Other { kind, lane, sequence }) }
}

/// Finds and reads an object's index. The answer for the object's first bytes says how long it is, its last bytes where
/// the index lies. Small objects take one GET, others two, those with a very large index three.
pub(crate) async fn find_index(store: &dyn ObjectStore, object: ObjectName) -> Result<FoundIndex, IndexError> {
    let key = object.key();
    let got = store.get(&key, Some(0..GUESS_BYTES)).await?;
    let size = got.size;
    let (mut start, mut bytes) = (0, got.body);
    if size > GUESS_BYTES {
        start = size - GUESS_BYTES;
        bytes = store.get(&key, Some(start..size)).await?.body;
    }
    let trailer = Trailer::parse(&bytes, size)?;
    trailer.expect(Body::Index)?;
    let at = trailer.index;
    let body = match at.offset.checked_sub(start).and_then(|from| usize::try_from(from).ok()) {
        Some(from) => bytes.slice(from..bytes.len().saturating_sub(TRAILER_LEN).max(from)),
        None => store.get(&key, Some(at.offset..at.end())).await?.body,
    };
    at.verify(&body)?;
    Ok(FoundIndex { index: decode_index(&body)?, at, size })
}
