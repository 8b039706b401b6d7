//! A look at a bucket before it is followed: it can be read, holds the cluster, and this version understands it. Runs
//! on the side runtime; changes nothing.

use std::time::Duration;

use tidewater_read_replica::{PatternError, ReplicaError, TopicPattern};
use tidewater_tiering::follow::served_home;
use tidewater_tiering::keys::{ClusterName, ObjectKey, ObjectKind};
use tidewater_tiering::manifest::{Catalogue, Root};
use tidewater_tiering::store::{self, ObjectStore, OpenError, StoreError, StoreOptions};
use tokio::runtime::Handle;
use uuid::Uuid;

/// How long the bucket may take. The client waits ten seconds for the answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The source's cluster id.
    pub cluster: Uuid,
    /// Topics that match.
    pub topics: usize,
    /// Of the topics that match.
    pub partitions: usize,
}

/// Why the bucket cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{url}: {error}")]
    Bucket { url: String, error: ReplicaError },
    #[error("{url} has not answered within {PATIENCE:?}; check the URL, the network and the brokers' credentials")]
    TimedOut { url: String },
}

/// Reads root and catalogue of the cluster `name` at `url`.
///
/// # Errors
/// Why it cannot be followed, with what to do.
pub async fn prove(handle: &Handle, url: &str, name: &ClusterName, topics: &str) -> Result<Proof, ProveError> {
    let pattern: TopicPattern = topics.parse()?;
    let store = store::attach(url, handle.clone(), &StoreOptions::default())?;
    match tokio::time::timeout(PATIENCE, look(&*store, name, &pattern)).await {
        Ok(Ok(proof)) => Ok(proof),
        Ok(Err(error)) => Err(ProveError::Bucket { url: url.to_owned(), error }),
        Err(_) => Err(ProveError::TimedOut { url: url.to_owned() }),
    }
}

async fn look(store: &dyn ObjectStore, name: &ClusterName, pattern: &TopicPattern) -> Result<Proof, ReplicaError> {
    let key = name.root_key();
    let body = match store.get(&key, None).await {
        Ok(got) => got.body,
        Err(StoreError::NotFound { .. }) => return Err(ReplicaError::NoCluster { name: name.clone(), key }),
        Err(error) => return Err(error.into()),
    };
    let root = Root::decode(&body).map_err(|reason| ReplicaError::Pointer { key, reason })?;
    let home = served_home(&root)?;
    let key: ObjectKey = home.name(ObjectKind::Catalogue).key();
    let catalogue = match store.get(&key, None).await {
        Ok(got) => Some(Catalogue::decode(&got.body).map_err(|reason| ReplicaError::Pointer { key, reason })?),
        // Nothing is archived yet.
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let topics = catalogue.map(|catalogue| catalogue.topics).unwrap_or_default();
    let matching = || topics.iter().filter(|topic| pattern.matches(&topic.name) && !topic.name.is_internal());
    let partitions = matching().map(|topic| topic.partitions.len()).sum();
    Ok(Proof { cluster: home.cluster.0, topics: matching().count(), partitions })
}
