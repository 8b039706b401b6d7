//! The root during a restore: found, raised to the attempt's epoch, switched to its catalogue.
//!
//! Owns: these requests. Does not own: the decisions (`order`).

use tidewater_storage::model::TimestampMs;

use super::error::RestoreError;
use super::freeze::CONFLICTS_MAX;
use super::order::{Attempt, RootStep};
use crate::keys::{ClusterName, ObjectKey};
use crate::manifest::Root;
use crate::store::{ETag, ObjectStore, PutMode, StoreError};

/// Names of clusters that are looked up in a bucket for an error's text.
const NAMES_MAX: usize = 32;

/// What became of the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The attempt has the root; its version, for the switch.
    Raised(Box<Root>, ETag),
    /// The attempt has made the switch.
    Switched(Box<Root>),
}

/// The root of the cluster with its version.
///
/// # Errors
/// [`RestoreError::NoCluster`] with the clusters that are there; what the store says, or that it does not decode.
pub(super) async fn read(store: &dyn ObjectStore, name: &ClusterName) -> Result<(Root, ETag), RestoreError> {
    let key = name.root_key();
    let got = match store.get(&key, None).await {
        Err(StoreError::NotFound { .. }) => {
            return Err(RestoreError::NoCluster { name: name.clone(), others: names(store).await? });
        }
        got => got?,
    };
    let root = Root::decode(&got.body);
    let root = root.map_err(|error| RestoreError::Unreadable { key, reason: error.to_string() })?;
    Ok((root, got.etag))
}

/// Clusters whose roots lie in the bucket: the folders at its top are skipped through.
async fn names(store: &dyn ObjectStore) -> Result<Vec<ClusterName>, StoreError> {
    let (mut after, mut found): (Option<String>, Vec<ClusterName>) = (None, Vec::new());
    for _ in 0..NAMES_MAX {
        let Some(first) = store.list("", after.as_deref(), 1).await?.into_iter().next() else { break };
        let folder = first.key.as_str().split('/').next().unwrap_or_default().to_owned();
        if let Ok(name) = ClusterName::new(&folder)
            && store.head(&name.root_key()).await.is_ok()
        {
            found.push(name);
        }
        // '0' follows '/'.
        after = Some(format!("{folder}0"));
    }
    Ok(found)
}

/// Makes the root the attempt's.
pub(super) async fn raise(
    store: &dyn ObjectStore,
    name: &ClusterName,
    attempt: &Attempt,
    now: TimestampMs,
) -> Result<Held, RestoreError> {
    let key = name.root_key();
    for _ in 0..CONFLICTS_MAX {
        let (found, version) = read(store, name).await?;
        match attempt.on_root(&found, now)? {
            RootStep::Held => return Ok(Held::Raised(Box::new(found), version)),
            RootStep::Switched => return Ok(Held::Switched(Box::new(found))),
            RootStep::Raise(root) => put(store, &key, &root, version).await?,
        }
    }
    Err(RestoreError::Busy { key })
}

/// Makes the switch; returns once the root says so.
pub(super) async fn switch(
    store: &dyn ObjectStore,
    name: &ClusterName,
    attempt: &Attempt,
    now: TimestampMs,
) -> Result<Root, RestoreError> {
    let key = name.root_key();
    for _ in 0..CONFLICTS_MAX {
        match raise(store, name, attempt, now).await? {
            Held::Switched(root) => return Ok(*root),
            Held::Raised(root, version) => put(store, &key, &attempt.switched(&root), version).await?,
        }
    }
    Err(RestoreError::Busy { key })
}

/// Puts a root over the version that was judged. Whether it did is for the caller to read: an answer may have been
/// lost.
async fn put(store: &dyn ObjectStore, key: &ObjectKey, root: &Root, version: ETag) -> Result<(), RestoreError> {
    match store.put(key, root.encode(), PutMode::IfMatch(version)).await {
        Ok(_) | Err(StoreError::Taken { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
