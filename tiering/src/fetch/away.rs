//! A missing object, or a bucket that is away: a directory that is not mounted answers "not found" for every object,
//! and so may a store whose name resolves elsewhere for a moment.
//!
//! Owns: distinguishing the two by the cluster's root, before a read fails with lost data. Does not own: what a reader
//! does about either. Shard-local.

use tidewater_storage::model::PartitionId;

use super::RemoteReader;
use super::error::RemoteError;
use crate::keys::ObjectName;
use crate::store::StoreError;

impl RemoteReader {
    /// Repeats a read that met a missing object, between two looks at the root: only an object that is missing twice
    /// while the root is there is [`RemoteError::Missing`]. Without a known root every missing object is.
    pub(super) async fn unless_away<T>(
        &self,
        read: impl AsyncFn() -> Result<T, RemoteError>,
    ) -> Result<T, RemoteError> {
        match read().await {
            Err(RemoteError::Missing { partition, object }) => self.look_at_root(partition, object).await?,
            settled => return settled,
        }
        match read().await {
            Err(RemoteError::Missing { partition, object }) => {
                self.look_at_root(partition, object).await?;
                Err(RemoteError::Missing { partition, object })
            }
            settled => settled,
        }
    }

    async fn look_at_root(&self, partition: PartitionId, object: ObjectName) -> Result<(), RemoteError> {
        let Some(root) = &self.inner.config.root else { return Ok(()) };
        match self.inner.store.head(root).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => {
                let reason = format!("neither it nor the cluster's root {root} is there: the bucket is away");
                Err(RemoteError::Unavailable { object, reason })
            }
            Err(error) => Err(RemoteError::of_store(partition, object, &error)),
        }
    }
}
