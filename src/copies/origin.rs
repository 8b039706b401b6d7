//! The archived topic that a copy is taken from, opened: its bucket's reader, and where its records lie.
//!
//! Owns: these, on one shard. Does not own: what is read next. Memory: one reader's buffers, and the manifests of the
//! topic's partitions in the lanes that were asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tidewater_storage::env::Env;
use tidewater_storage::model::{Incarnation, LaneId, PartitionId, PartitionIndex};
use tidewater_tiering::fetch::FetchConfig;
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch, Nonce};
use tidewater_tiering::manifest::PartitionManifest;
use tidewater_tiering::restore::{Restore, RestoreError};
use tidewater_tiering::store::{self, StoreOptions};
use tokio::runtime::Handle;

use super::error::CopyError;
use crate::archival::run::Tier;
use crate::controller::copies::CopyOrigin;
use crate::limits::{COPY_INDEX_BYTES_MAX, COPY_READ_BYTES_MAX, COPY_STORE_BYTES_MAX};
use crate::partition::read::read_path::Remote;

/// What opens an origin on a shard.
#[derive(Clone)]
pub struct OriginParts {
    pub env: Env,
    /// The reader of this cluster's bucket, whose cache on disk the origin's reader shares.
    pub remote: Remote,
    pub tier: Tier,
    pub side: Handle,
}

/// See the header. Shard-local.
pub(super) struct Origin {
    pub(super) restore: Restore,
    pub(super) remote: Remote,
    /// For errors.
    pub(super) place: String,
    lanes: RefCell<BTreeMap<LaneId, Rc<BTreeMap<PartitionId, PartitionManifest>>>>,
}

impl Origin {
    /// Opens the bucket at `url`, or this cluster's own.
    ///
    /// # Errors
    /// The URL is wrong, or names a directory that does not exist.
    pub(super) fn open(parts: &OriginParts, url: Option<&str>, name: &ClusterName) -> Result<Self, CopyError> {
        let store = match url {
            None => Arc::clone(&parts.tier.store),
            Some(url) => {
                let options = StoreOptions { bytes_max: COPY_STORE_BYTES_MAX, ..StoreOptions::default() };
                store::attach(url, parts.side.clone(), &options)?
            }
        };
        let mut config = FetchConfig::new(PathBuf::new(), parts.remote.cache_capacity_bytes());
        config.memory_bytes = COPY_READ_BYTES_MAX;
        config.index_bytes = COPY_INDEX_BYTES_MAX;
        config.root = Some(name.root_key());
        let remote = Rc::new(parts.remote.beside(Arc::clone(&store), config));
        let restore = Restore {
            store,
            name: name.clone(),
            accept_damage: false,
            now: parts.env.clock.wall(),
            // Nothing is written.
            nonce: Arc::new(|| Nonce(0)),
            progress: Arc::new(|_| {}),
        };
        let place = url.map_or_else(|| "this cluster's bucket".to_owned(), |url| format!("{url}, cluster {name}"));
        Ok(Self { restore, remote, place, lanes: RefCell::default() })
    }

    /// Where the records of a partition lie.
    ///
    /// # Errors
    /// The bucket cannot be read, or has no such partition any more.
    pub(super) async fn manifest(
        &self,
        of: &CopyOrigin,
        lane: LaneId,
        partition: PartitionIndex,
    ) -> Result<PartitionManifest, CopyError> {
        let id = PartitionId { topic: of.topic_id, index: partition, incarnation: Incarnation(0) };
        let held = self.lanes.borrow().get(&lane).cloned();
        let found = match held {
            Some(held) => held,
            None => {
                // A directory that is not mounted would look like a lane without anything in it.
                self.restore.root().await.map_err(|error| self.find(error))?;
                let home = Home { cluster: ClusterId(of.cluster), epoch: LineageEpoch(of.epoch) };
                let read = self.restore.partitions_of(home, of.cut, lane, of.topic_id).await;
                let read = Rc::new(read.map_err(|error| self.not_found(of, error))?);
                self.lanes.borrow_mut().insert(lane, Rc::clone(&read));
                read
            }
        };
        let gone = || RestoreError::NoTopic { topic: of.topic.clone(), others: Vec::new() };
        found.get(&id).cloned().ok_or_else(|| self.find(gone()))
    }

    /// Has the manifests read again: objects that they name are gone.
    pub(super) fn forget(&self, lane: LaneId) {
        self.lanes.borrow_mut().remove(&lane);
    }

    fn not_found(&self, of: &CopyOrigin, error: RestoreError) -> CopyError {
        match (error, of.cut) {
            (RestoreError::NoCut { .. }, Some(number)) => {
                let (place, epoch, origin) = (self.place.clone(), of.epoch, of.topic.clone());
                CopyError::CutReleased { place, number, epoch, origin }
            }
            (error, _) => self.find(error),
        }
    }

    pub(super) fn find(&self, error: RestoreError) -> CopyError {
        CopyError::Find { place: self.place.clone(), error: Box::new(error) }
    }
}
