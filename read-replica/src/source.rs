//! A source's root and catalogue: which home is served, which of its topics match, which lanes carry them.
//!
//! Owns: looking at both objects, and what is known of them. Does not own: lanes (`lane`). Shard-local, one per broker.
//! An answer that does not help changes nothing: what was known is served still.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::select;
use tidewater_storage::env::{Env, Mono, Notify};
use tidewater_storage::model::LaneId;
use tidewater_tiering::follow::{FollowedRoot, RootStep};
use tidewater_tiering::keys::{ClusterName, Home, LineageEpoch, ObjectKey, ObjectKind};
use tidewater_tiering::manifest::{Catalogue, CatalogueTopic, Root};
use tidewater_tiering::store::{ETag, ObjectStore, StoreError};

use crate::config::ReplicaConfig;
use crate::error::ReplicaError;
use crate::pattern::TopicPattern;
use crate::status::Requests;

/// What a [`Source`] is made of.
pub struct SourceParts {
    pub env: Env,
    pub store: Arc<dyn ObjectStore>,
    /// Under which name the source lies in the bucket.
    pub name: ClusterName,
    /// Which of its topics are followed.
    pub topics: TopicPattern,
    pub config: ReplicaConfig,
    /// Called after every change of [`Source::state`].
    pub changed: Rc<dyn Fn()>,
}

/// See the header. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    inner: Rc<SourceInner>,
}

struct SourceInner {
    parts: SourceParts,
    root: RefCell<FollowedRoot>,
    versions: RefCell<Versions>,
    state: RefCell<Option<Rc<SourceState>>>,
    restoring: Cell<Option<LineageEpoch>>,
    requests: Cell<Requests>,
    error: RefCell<Option<String>>,
    /// When root and catalogue were last answered.
    looked: Cell<Option<Mono>>,
    wake: Notify,
}

/// Versions of the objects last read.
#[derive(Default)]
struct Versions {
    root: Option<ETag>,
    catalogue: Option<(ObjectKey, ETag)>,
}

/// What is followed of a source. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// Whose records are served.
    pub home: Home,
    /// Topics that match, by id.
    pub topics: Vec<CatalogueTopic>,
    /// The lanes that carry them.
    pub lanes: BTreeSet<LaneId>,
}

/// See [`crate::LaneStatus`]. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    pub name: ClusterName,
    /// `None` before the first root.
    pub home: Option<Home>,
    /// A restore has begun in this epoch and has not switched.
    pub restoring: Option<LineageEpoch>,
    pub topics: usize,
    pub lanes: usize,
    /// Milliseconds since root and catalogue were last answered.
    pub looked_ms: Option<u64>,
    pub requests: Requests,
    /// Why the last look did not help.
    pub error: Option<String>,
}

impl Source {
    #[must_use]
    pub fn new(parts: SourceParts) -> Self {
        let root = RefCell::new(FollowedRoot::new(parts.name.clone()));
        Self {
            inner: Rc::new(SourceInner {
                parts,
                root,
                versions: RefCell::default(),
                state: RefCell::default(),
                restoring: Cell::default(),
                requests: Cell::default(),
                error: RefCell::default(),
                looked: Cell::default(),
                wake: Notify::default(),
            }),
        }
    }

    /// What is followed; `None` before the first answer.
    #[must_use]
    pub fn state(&self) -> Option<Rc<SourceState>> {
        self.inner.state.borrow().clone()
    }

    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let (state, now) = (self.state(), self.inner.parts.env.clock.now());
        SourceStatus {
            name: self.inner.parts.name.clone(),
            home: state.as_ref().map(|state| state.home),
            restoring: self.inner.restoring.get(),
            topics: state.as_ref().map_or(0, |state| state.topics.len()),
            lanes: state.as_ref().map_or(0, |state| state.lanes.len()),
            looked_ms: self.inner.looked.get().map(|at| millis(now.since(at))),
            requests: self.inner.requests.get(),
            error: self.inner.error.borrow().clone(),
        }
    }

    /// The next look comes at once: a lane has a partition that the catalogue did not name yet.
    pub fn look_soon(&self) {
        self.inner.wake.notify();
    }

    /// Looks again and again; does not return.
    pub async fn run(&self) {
        let (mut failures, config) = (0u32, &self.inner.parts.config);
        loop {
            let pause = match self.look().await {
                Ok(()) => {
                    failures = 0;
                    config.root_interval
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.note(&error);
                    crate::lane::backoff(config.backoff, failures)
                }
            };
            let sleep = self.inner.parts.env.tasks.sleep(pause);
            select(sleep, std::pin::pin!(self.inner.wake.notified())).await;
        }
    }

    /// Reads root and catalogue once, each only if it has changed.
    ///
    /// # Errors
    /// Why nothing new is known; see [`ReplicaError::disposition`].
    pub async fn look(&self) -> Result<(), ReplicaError> {
        let key = self.inner.parts.name.root_key();
        let version = self.inner.versions.borrow().root.clone();
        let home = match self.get(&key, version.as_ref()).await? {
            Answer::Same => self.inner.root.borrow().home(),
            Answer::Missing => {
                let name = self.inner.parts.name.clone();
                return Err(ReplicaError::NoCluster { name, key });
            }
            Answer::Changed(body, version) => {
                let root = Root::decode(&body).map_err(|reason| ReplicaError::Pointer { key: key.clone(), reason })?;
                let step = self.inner.root.borrow_mut().on_root(&root)?;
                let restoring = match step {
                    RootStep::Restoring(epoch) => Some(epoch),
                    RootStep::Same | RootStep::Serve(_) => None,
                };
                self.inner.restoring.set(restoring);
                self.inner.versions.borrow_mut().root = Some(version);
                self.inner.root.borrow().home()
            }
        };
        let Some(home) = home else { return Ok(()) };
        self.look_at_catalogue(home).await?;
        self.inner.looked.set(Some(self.inner.parts.env.clock.now()));
        *self.inner.error.borrow_mut() = None;
        Ok(())
    }

    async fn look_at_catalogue(&self, home: Home) -> Result<(), ReplicaError> {
        let key = home.name(ObjectKind::Catalogue).key();
        let known = self.inner.versions.borrow().catalogue.clone();
        let known = known.filter(|(of, _)| *of == key).map(|(_, version)| version);
        let (topics, version) = match self.get(&key, known.as_ref()).await? {
            Answer::Same => return Ok(()),
            // Nothing is archived yet; or what was known is gone, and stays.
            Answer::Missing if known.is_some() => {
                return Err(StoreError::NotFound { key: key.to_string() }.into());
            }
            Answer::Missing => (Vec::new(), None),
            Answer::Changed(body, version) => {
                let catalogue =
                    Catalogue::decode(&body).map_err(|reason| ReplicaError::Pointer { key: key.clone(), reason })?;
                (catalogue.topics, Some((key, version)))
            }
        };
        let matches = |topic: &CatalogueTopic| self.inner.parts.topics.matches(&topic.name);
        let topics: Vec<CatalogueTopic> = topics.into_iter().filter(matches).collect();
        let lanes = topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.lane).collect();
        self.inner.versions.borrow_mut().catalogue = version;
        self.set_state(SourceState { home, topics, lanes });
        Ok(())
    }

    fn set_state(&self, state: SourceState) {
        if self.state().is_some_and(|known| *known == state) {
            return;
        }
        *self.inner.state.borrow_mut() = Some(Rc::new(state));
        (self.inner.parts.changed)();
    }

    async fn get(&self, key: &ObjectKey, version: Option<&ETag>) -> Result<Answer, ReplicaError> {
        let answer = get_changed(&*self.inner.parts.store, key, version).await;
        let mut requests = self.inner.requests.get();
        match answer {
            Ok(_) => requests.roots += 1,
            Err(_) => requests.failed += 1,
        }
        self.inner.requests.set(requests);
        Ok(answer?)
    }

    fn note(&self, error: &ReplicaError) {
        let text = error.to_string();
        let mut known = self.inner.error.borrow_mut();
        if known.as_ref() != Some(&text) {
            tracing::warn!(source = %self.inner.parts.name, %error, "the source's root or catalogue cannot be used; what was known is served still");
            *known = Some(text);
        }
    }
}

/// What a conditional get of an object brought.
pub(crate) enum Answer {
    Same,
    Missing,
    Changed(bytes::Bytes, ETag),
}

pub(crate) async fn get_changed(
    store: &dyn ObjectStore,
    key: &ObjectKey,
    version: Option<&ETag>,
) -> Result<Answer, StoreError> {
    let got = match version {
        Some(version) => store.get_if_changed(key, version).await,
        None => store.get(key, None).await.map(Some),
    };
    match got {
        Ok(None) => Ok(Answer::Same),
        Ok(Some(got)) => Ok(Answer::Changed(got.body, got.etag)),
        Err(StoreError::NotFound { .. }) => Ok(Answer::Missing),
        Err(error) => Err(error),
    }
}

pub(crate) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
