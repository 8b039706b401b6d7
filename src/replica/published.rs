//! What this broker knows of its sources, for its shards and the side runtime. Node-wide, replaced as a whole.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tidewater_storage::model::TopicId;
use tidewater_tiering::keys::{ClusterName, Home};
use tidewater_tiering::store::ObjectStore;
use tokio::sync::{Notify, watch};

use crate::controller::followed::Followed;
use crate::controller::sources::SourceId;

/// What is known of all sources.
#[derive(Debug, Default)]
pub struct Published {
    pub followed: Arc<Followed>,
    pub sources: BTreeMap<SourceId, SourceNow>,
}

impl Published {
    /// Do shards and operators learn the same from `other`?
    #[must_use]
    pub fn is_shown_by(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.followed, &other.followed)
            && self.sources.keys().eq(other.sources.keys())
            && self.sources.values().zip(other.sources.values()).all(|(held, now)| held.is_shown_by(now))
    }
}

impl SourceNow {
    fn is_shown_by(&self, other: &Self) -> bool {
        let same_open = match (&self.open, &other.open) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        same_open && (self.state, &self.reason) == (other.state, &other.reason)
    }
}

/// A source at this moment.
#[derive(Clone, Debug)]
pub struct SourceNow {
    pub state: SourceState,
    /// Why it is not followed, or not now.
    pub reason: Option<String>,
    /// Since its root and catalogue were read first.
    pub open: Option<Arc<OpenSource>>,
    /// Requests of this broker to its bucket in the last hour, or as many as that would be. Changes in place.
    pub requests_per_hour: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Its root and catalogue were not read yet.
    Opening,
    Following,
    /// Its bucket or its root cannot be read now; what was known is served still.
    Failing,
    /// Its bucket cannot be opened, or belongs to another cluster now.
    Refused,
}

impl SourceState {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Following => "following",
            Self::Failing => "failing",
            Self::Refused => "refused",
        }
    }
}

/// A source whose lanes can be followed.
pub struct OpenSource {
    pub store: Arc<dyn ObjectStore>,
    /// Under which name it lies in its bucket.
    pub name: ClusterName,
    /// The home whose records are served.
    pub home: Home,
    /// Has root and catalogue read soon: a lane has a partition that the catalogue did not name.
    pub look_soon: Arc<Notify>,
    /// Takes topics whose deletion a lane has found: the catalogue may name them until their objects are gone.
    pub dropped: flume::Sender<TopicId>,
}

impl fmt::Debug for OpenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenSource({}, {:?})", self.name, self.home)
    }
}

/// Where a shard and the side runtime learn of sources.
pub type Publisher = watch::Sender<Arc<Published>>;
pub type Subscriber = watch::Receiver<Arc<Published>>;
