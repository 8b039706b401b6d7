//! Proves on the bucket itself that conditional puts hold (R7): a store that only claims them loses data.

use bytes::Bytes;

use super::{ETag, ObjectStore, PutMode, StoreError};
use crate::keys::{ClusterName, Nonce};

/// Why a bucket cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    /// It overwrote what put-if-absent must not.
    #[error(
        "the bucket ignores put-if-absent (If-None-Match: *): a second put of {0} succeeded; use a store that honours it"
    )]
    IfAbsentIgnored(String),
    /// It overwrote a newer version.
    #[error("the bucket ignores put-if-match (If-Match): a stale put of {0} succeeded; use a store that honours it")]
    IfMatchIgnored(String),
    /// What was written is not what is read.
    #[error("the bucket does not read back what was written to {0}")]
    ReadBack(String),
    /// A request failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Writes, overwrites and deletes one small object under the cluster's name. Two failures are what it wants to see.
///
/// # Errors
/// [`PreflightError`]: what is wrong with the bucket, and what to do.
pub async fn prove(store: &dyn ObjectStore, name: &ClusterName, nonce: Nonce) -> Result<(), PreflightError> {
    let key = name.proof_key(nonce);
    let put = |body: &'static str, mode| store.put(&key, Bytes::from_static(body.as_bytes()), mode);
    let first = match put("first", PutMode::IfAbsent).await {
        // A lost answer that was tried again meets its own object: take its version.
        Err(StoreError::Taken { .. }) => store.head(&key).await?.etag,
        done => done?.etag,
    };
    let proof = prove_conditions(store, name, nonce, first).await;
    let cleaned = store.delete(vec![key]).await;
    proof.and(cleaned.map_err(PreflightError::from))
}

async fn prove_conditions(
    store: &dyn ObjectStore,
    name: &ClusterName,
    nonce: Nonce,
    first: ETag,
) -> Result<(), PreflightError> {
    let key = name.proof_key(nonce);
    let put = |body: &'static str, mode| store.put(&key, Bytes::from_static(body.as_bytes()), mode);
    match put("absent", PutMode::IfAbsent).await {
        Err(StoreError::Taken { .. }) => {}
        Ok(_) => return Err(PreflightError::IfAbsentIgnored(key.to_string())),
        Err(other) => return Err(other.into()),
    }
    match put("second", PutMode::IfMatch(first.clone())).await {
        Ok(_) | Err(StoreError::Taken { .. }) => {}
        Err(other) => return Err(other.into()),
    }
    match put("stale", PutMode::IfMatch(first)).await {
        Err(StoreError::Taken { .. }) => {}
        Ok(_) => return Err(PreflightError::IfMatchIgnored(key.to_string())),
        Err(other) => return Err(other.into()),
    }
    let got = store.get(&key, None).await?;
    if got.body.as_ref() == b"second" { Ok(()) } else { Err(PreflightError::ReadBack(key.to_string())) }
}
