//! The object store interface: put, put-if-absent, put-if-match, ranged get, list, delete.
//!
//! Owns: the trait, its errors, opening a store by URL. Does not own: what is stored, or where keys come from
//! (`keys.rs`). Affinity: *node-wide*: an `Arc<dyn ObjectStore>` is called from any executor; implementations that
//! need tokio hop to the handle they were opened with.
//!
//! **Consistency**: a `get`, `head` or `list` that starts after a write answered sees it. **Atomicity**: a reader
//! sees a whole object or none. **Conditional puts** are linearizable per key. **Lost answers**: a write that ends in
//! [`StoreError::Unavailable`] may or may not have happened; the store never resolves that by itself for conditional
//! puts (a retried put-if-absent may answer [`StoreError::Taken`] about its own first attempt), the caller reads what
//! is there. **Cancellation**: dropping a future abandons the answer, not the effect. **Durability**: what is
//! answered survives power loss.

mod buffers;
mod counted;
mod directory;
mod key_limits;
mod limit;
mod open;
mod preflight;
mod remote;
mod retry;
mod sim;

#[doc(hidden)]
pub mod contract;
#[doc(hidden)]
pub mod meddler;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::TimestampMs;

pub use crate::keys::{KeyError, ObjectKey};
pub use buffers::{Buffer, Buffers};
pub use counted::{Counted, RequestKind, StoreStats};
pub use directory::DirectoryStore;
pub use key_limits::{KeyLimits, KeyTooLong};
pub use limit::Limited;
pub use open::{OpenError, StoreOptions, attach, open};
pub use preflight::{PreflightError, prove};
pub use remote::RemoteStore;
pub use remote::signer::{BucketAddress, S3Signer};
pub use retry::{RetryPolicy, Retrying, Sleeper, TokioSleeper};
pub use sim::{Faults, SimBucket, SimSleeper, SimStore};

/// An opaque version of an object's content: changes with every write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(pub Arc<str>);

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The condition under which a put takes effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// No condition.
    Overwrite,
    /// Nothing lies at the key.
    IfAbsent,
    /// This version lies at the key.
    IfMatch(ETag),
}

/// A put that took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutDone {
    pub etag: ETag,
}

/// A get's answer.
#[derive(Clone, Debug)]
pub struct Got {
    /// The bytes asked for, exactly.
    pub body: Bytes,
    /// The object's version.
    pub etag: ETag,
    /// Bytes of the whole object.
    pub size: u64,
}

/// A head's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the object.
    pub size: u64,
    pub etag: ETag,
    /// When it was written, by the store's clock.
    pub modified: TimestampMs,
}

/// One object of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: ObjectKey,
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: TimestampMs,
}

/// The bytes of a large put, piece by piece. An error abandons the put; nothing appears at the key.
pub type ByteSource = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Keeps objects by key. Contract: module header; suite: `store/contract.rs`.
#[async_trait]
pub trait ObjectStore: fmt::Debug + Send + Sync {
    /// Writes an object whole.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when the condition does not hold (also: `IfMatch` on an absent key); what the store says.
    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError>;

    /// As [`ObjectStore::put`] of `pieces` back to back. Stores that can send several pieces do not copy them together.
    ///
    /// # Errors
    /// As [`ObjectStore::put`].
    async fn put_pieces(&self, key: &ObjectKey, pieces: Vec<Bytes>, mode: PutMode) -> Result<PutDone, StoreError> {
        self.put(key, pieces.concat().into(), mode).await
    }

    /// Reads an object, or `range` of it. A range that reaches past the end is cut there.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Range`] when `range` is empty or starts at or past the end; what the
    /// store says.
    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError>;

    /// As [`ObjectStore::get`] of a range, into memory of `buffers` if the store can.
    ///
    /// # Errors
    /// As [`ObjectStore::get`].
    async fn get_into(&self, key: &ObjectKey, range: Range<u64>, buffers: &Buffers) -> Result<Got, StoreError> {
        let _ = buffers;
        self.get(key, Some(range)).await
    }

    /// How long keys may be. A longer one is [`StoreError::Refused`].
    fn key_limits(&self) -> KeyLimits {
        KeyLimits::object_store("")
    }

    /// Reads an object unless it is still the version `etag`: then `None`.
    ///
    /// # Errors
    /// As [`ObjectStore::get`].
    async fn get_if_changed(&self, key: &ObjectKey, etag: &ETag) -> Result<Option<Got>, StoreError>;

    /// Size, version and time of an object.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; what the store says.
    async fn head(&self, key: &ObjectKey) -> Result<Head, StoreError>;

    /// At most `max` objects whose keys begin with `prefix` (any string), after the key `after`, sorted by key.
    /// Fewer than `max` means there are no more.
    ///
    /// # Errors
    /// What the store says.
    async fn list(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Listed>, StoreError>;

    /// Deletes objects; an absent one is fine. On error some may be gone.
    ///
    /// # Errors
    /// What the store says.
    async fn delete(&self, keys: Vec<ObjectKey>) -> Result<(), StoreError>;

    /// Deletes an object if it is the version `etag`; an absent one is fine. No protocol of object stores has this
    /// everywhere: unless a store overrides it, it reads the version and then deletes, so a write between the two is
    /// lost. A repeated request reads the version again.
    ///
    /// # Errors
    /// [`StoreError::Taken`] when another version lies there; what the store says.
    async fn delete_if(&self, key: &ObjectKey, etag: &ETag) -> Result<(), StoreError> {
        match self.head(key).await {
            Ok(head) if head.etag == *etag => self.delete(vec![key.clone()]).await,
            Ok(_) => Err(StoreError::Taken { key: key.to_string() }),
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes an object of `size` bytes piece by piece, for keys that are unique by themselves (no condition).
    ///
    /// # Errors
    /// [`StoreError::Source`] when the source fails or does not bring `size` bytes; what the store says.
    async fn put_large(&self, key: &ObjectKey, size: u64, source: ByteSource) -> Result<PutDone, StoreError>;
}

/// Why a store did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing at the key.
    #[error("object {key} does not exist")]
    NotFound { key: String },
    /// A conditional put met another version, or an object where there should be none.
    #[error("object {key} was written by someone else: the put's condition does not hold")]
    Taken { key: String },
    /// The range asked for lies outside the object.
    #[error("object {key}: range {start}..{end} is empty or starts past its end")]
    Range {
        key: String,
        /// First byte asked for.
        start: u64,
        /// One after the last.
        end: u64,
    },
    /// Throttled, timed out, connection lost, server error: passes. A write may have happened.
    #[error("object store is unavailable for {key}: {detail}; will be tried again")]
    Unavailable {
        key: String,
        /// What the store said.
        detail: String,
    },
    /// Credentials or permissions.
    #[error("object store denies access to {key}: {detail}; check the credentials and the bucket's policy")]
    Denied {
        key: String,
        /// What the store said.
        detail: String,
    },
    /// The answer is not what was asked for: torn body, wrong length.
    #[error("object store answered {found} bytes for {key}, expected {expected}")]
    Torn {
        key: String,
        /// Bytes expected.
        expected: u64,
        /// Bytes received.
        found: u64,
    },
    /// The source of a large put failed or was of another size.
    #[error("source of the upload to {key} failed: {detail}")]
    Source { key: String, detail: String },
    /// The disk under a directory store is full.
    #[error("no space left for {key}; free space on the disk of the bucket directory")]
    NoSpace { key: String },
    /// The request is one that this store never takes: a name too long, a body too large, a bucket that does not exist.
    #[error("object store refuses the request for {key}: {detail}")]
    Refused {
        key: String,
        /// What the store said.
        detail: String,
    },
    /// The runtime that does the store's I/O is gone.
    #[error("object store is shut down")]
    Closed,
}

impl StoreError {
    /// [`Disposition::Retry`] also where a write may have happened ([`StoreError::Unavailable`]): puts of whole objects
    /// are safe to repeat, and what a conditional one then meets is for the caller to read.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Unavailable { .. } | Self::Torn { .. } | Self::NoSpace { .. } => Disposition::Retry,
            Self::NotFound { .. } => Disposition::Absent,
            Self::Range { .. } | Self::Denied { .. } | Self::Refused { .. } | Self::Source { .. } => {
                Disposition::Refused
            }
            Self::Taken { .. } => Disposition::Conflict,
            Self::Closed => Disposition::Fatal,
        }
    }
}

#[cfg(test)]
mod tests;
