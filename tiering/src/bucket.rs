//! A cluster's place in a bucket: its root and its catalogue.
//!
//! Owns: opening (create, use or refuse the root; R7), keeping the catalogue up to date. Does not own: lanes and
//! partitions in the bucket (`archive`), which store it is (`store`). The preflight proof of the store's conditional
//! puts runs before a root is created, because everything after it relies on them. [`Bucket`] is *node-wide* and cheap
//! to clone; [`CatalogueKeeper`] is *shard-local*, one per shard: keepers of several shards meet at the object by
//! put-if-match.

pub mod catalogue;
pub mod root;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidewater_storage::disposition::Disposition;
use tidewater_storage::env::Clock;
use tidewater_storage::model::{TimestampMs, TopicId};

use crate::keys::{Home, Nonce, ObjectKey, ObjectKind};
use crate::manifest::{Catalogue, CatalogueTopic, PointerError, Root, UnarchivedTopics};
use crate::store::{ETag, Got, ObjectStore, PreflightError, PutMode, StoreError};
pub use catalogue::CatalogueChange;
pub use root::{Claim, RootRefusal};
use root::{RootStep, decide};

/// How often a conditional put that met another writer is tried again before it is [`BucketError::Busy`].
const CONFLICTS_MAX: usize = 16;

/// Why the bucket cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BucketError {
    /// It does not belong to this data directory.
    #[error(transparent)]
    Refused(#[from] RootRefusal),
    /// It does not keep the promises the tier is built on.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object that does not decode.
    #[error("object {key}: {reason}; restore it from a copy of the bucket")]
    Unreadable {
        key: ObjectKey,
        /// What the decoder said.
        reason: PointerError,
    },
    /// Other writers were faster every time.
    #[error("object {key} was written by others {CONFLICTS_MAX} times in a row; will be tried again")]
    Busy { key: ObjectKey },
}

impl BucketError {
    /// [`Disposition::Fatal`]: the bucket belongs to another cluster or breaks a promise that the tier is built on, so
    /// this broker must not use it. Everything else passes, by itself or by an operator's hand: credentials, a policy,
    /// an answer that was damaged or misdirected on its way.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::Refused(
                RootRefusal::Foreign { .. } | RootRefusal::Superseded { .. } | RootRefusal::Incomplete { .. },
            ) => Disposition::Fatal,
            Self::Refused(RootRefusal::Vanished { .. }) => Disposition::Refused,
            Self::Store(error) | Self::Preflight(PreflightError::Store(error)) => error.disposition(),
            Self::Preflight(_) => Disposition::Fatal,
            Self::Unreadable { .. } => Disposition::Corrupt,
            Self::Busy { .. } => Disposition::Retry,
        }
    }
}

/// An opened bucket. *Node-wide*.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub store: Arc<dyn ObjectStore>,
    /// What every key begins with.
    pub home: Home,
    /// The root as found or made.
    pub root: Arc<Root>,
}

impl Bucket {
    /// Opens the bucket for the cluster that `claim` describes; makes the root at the first start, after the preflight
    /// has shown that conditional puts hold. `nonce` (random) keeps the proofs of several starts apart.
    ///
    /// # Errors
    /// [`BucketError::Refused`] with the way out; what the store says. Safe to call again after one that passes.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        claim: &Claim,
        nonce: Nonce,
        now: TimestampMs,
    ) -> Result<Self, BucketError> {
        let key = claim.name.root_key();
        for _ in 0..CONFLICTS_MAX {
            let found = match read_object(&*store, &key).await? {
                Some(got) => Some(Root::decode(&got.body).map_err(|reason| unreadable(&key, reason))?),
                None => None,
            };
            let root = match decide(claim, found, now)? {
                RootStep::Use(root) => root,
                RootStep::Create(root) => {
                    crate::store::prove(&*store, &claim.name, nonce).await?;
                    match store.put(&key, root.encode(), PutMode::IfAbsent).await {
                        Ok(_) => root,
                        // Another start was first, or the lost answer was this one's own: look again.
                        Err(StoreError::Taken { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            return Ok(Self { store, home: root.home(), root: Arc::new(root) });
        }
        Err(BucketError::Busy { key })
    }

    /// Where the catalogue lies.
    #[must_use]
    pub fn catalogue_key(&self) -> ObjectKey {
        self.home.name(ObjectKind::Catalogue).key()
    }

    /// Reads the catalogue with its version; `None` before anything was written.
    ///
    /// # Errors
    /// What the store says, or that it does not decode.
    pub async fn catalogue(&self) -> Result<Option<(Catalogue, ETag)>, BucketError> {
        let key = self.catalogue_key();
        let Some(got) = read_object(&*self.store, &key).await? else { return Ok(None) };
        let catalogue = Catalogue::decode(&got.body).map_err(|reason| unreadable(&key, reason))?;
        Ok(Some((catalogue, got.etag)))
    }
}

/// Keeps the catalogue ahead of what refers to it. *Shard-local*.
#[derive(Debug)]
pub struct CatalogueKeeper {
    bucket: Bucket,
    clock: Clock,
    /// As last read or written here; other shards may have written since.
    seen: RefCell<Option<Catalogue>>,
}

impl CatalogueKeeper {
    /// Of an opened bucket.
    #[must_use]
    pub fn new(bucket: Bucket, clock: Clock) -> Self {
        Self { bucket, clock, seen: RefCell::default() }
    }

    /// Returns once the catalogue in the bucket says what `change` says; without a request if it is known to.
    ///
    /// A catalogue that does not decode is written again from `whole`: all that it must say, or `None` from a caller
    /// that does not know all of it. The put matches the damaged version, so a good one written meanwhile is not lost.
    ///
    /// # Errors
    /// What the store says; [`BucketError::Busy`] after [`CONFLICTS_MAX`] conflicts with other writers.
    pub async fn ensure(
        &self,
        change: &CatalogueChange,
        whole: &dyn Fn() -> Option<CatalogueChange>,
    ) -> Result<(), BucketError> {
        if self.seen.borrow().as_ref().is_some_and(|catalogue| change.is_in(catalogue)) {
            return Ok(());
        }
        let key = self.bucket.catalogue_key();
        for _ in 0..CONFLICTS_MAX {
            let now = self.clock.wall();
            let ((mut catalogue, mended), mode) = match read_object(&*self.bucket.store, &key).await? {
                Some(got) => (self.decoded(&key, &got, whole, now)?, PutMode::IfMatch(got.etag)),
                None => ((Catalogue::new(self.bucket.home, now), false), PutMode::IfAbsent),
            };
            if mended || !change.is_in(&catalogue) {
                change.merge_into(&mut catalogue, now);
                assert!(
                    change.is_in(&catalogue),
                    "a merged change is in the catalogue, or it would be written for ever"
                );
                match self.bucket.store.put(&key, catalogue.encode(), mode).await {
                    Ok(_) => {}
                    Err(StoreError::Taken { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            *self.seen.borrow_mut() = Some(catalogue);
            return Ok(());
        }
        Err(BucketError::Busy { key })
    }

    /// Brings what the catalogue says of topics up to date; archived ones that it does not name have nothing in the
    /// bucket yet and are left out. A change of settings reaches the bucket so also while nothing is archived.
    /// `unarchived` are all topics; those without rows are listed, so that a restore makes them again.
    ///
    /// # Errors
    /// As [`CatalogueKeeper::ensure`].
    pub async fn refresh(
        &self,
        mut topics: BTreeMap<TopicId, CatalogueTopic>,
        unarchived: UnarchivedTopics,
        whole: &dyn Fn() -> Option<CatalogueChange>,
    ) -> Result<(), BucketError> {
        if self.seen.borrow().is_none() {
            let key = self.bucket.catalogue_key();
            match read_object(&*self.bucket.store, &key).await? {
                None if unarchived.topics.is_empty() => return Ok(()),
                None => {}
                Some(got) => {
                    let (catalogue, damaged) = self.decoded(&key, &got, whole, self.clock.wall())?;
                    if damaged {
                        let unarchived = Some(unarchived);
                        let change = CatalogueChange { topics, unarchived, ..CatalogueChange::default() };
                        return self.ensure(&change, whole).await;
                    }
                    *self.seen.borrow_mut() = Some(catalogue);
                }
            }
        }
        let named = |catalogue: &Catalogue| catalogue.topics.iter().map(|topic| topic.id).collect::<BTreeSet<_>>();
        let named = self.seen.borrow().as_ref().map(named).unwrap_or_default();
        topics.retain(|id, _| named.contains(id));
        let change = CatalogueChange { topics, unarchived: Some(unarchived), ..CatalogueChange::default() };
        self.ensure(&change, whole).await
    }

    /// Is the topic in the catalogue, as it was read or written last?
    #[must_use]
    pub fn names(&self, topic: TopicId) -> bool {
        let seen = self.seen.borrow();
        seen.as_ref().is_some_and(|seen| seen.topics.binary_search_by_key(&topic, |topic| topic.id).is_ok())
    }

    /// Forgets what was read: the next call reads the catalogue again.
    pub fn look_again(&self) {
        *self.seen.borrow_mut() = None;
    }

    /// Strikes topics whose last object is gone.
    ///
    /// # Errors
    /// As [`CatalogueKeeper::ensure`].
    pub async fn forget(
        &self,
        topics: BTreeSet<TopicId>,
        whole: &dyn Fn() -> Option<CatalogueChange>,
    ) -> Result<(), BucketError> {
        self.ensure(&CatalogueChange { forgotten: topics, ..CatalogueChange::default() }, whole).await
    }

    /// The catalogue that was found. If it is damaged (not if a newer version wrote it): what it must say, and `true`.
    fn decoded(
        &self,
        key: &ObjectKey,
        got: &Got,
        whole: &dyn Fn() -> Option<CatalogueChange>,
        now: TimestampMs,
    ) -> Result<(Catalogue, bool), BucketError> {
        let reason = match Catalogue::decode(&got.body) {
            Ok(catalogue) => return Ok((catalogue, false)),
            Err(reason) => reason,
        };
        let known = matches!(reason, PointerError::Malformed { .. }).then(whole).flatten();
        let Some(known) = known else { return Err(unreadable(key, reason)) };
        tracing::error!(%key, %reason, topics = known.topics.len(), "the damaged catalogue is written again from this cluster's state");
        let mut catalogue = Catalogue::new(self.bucket.home, now);
        // Its count of revisions is lost; the time in milliseconds is greater than any count that was reached.
        catalogue.revision = now.0.max(0).unsigned_abs();
        known.merge_into(&mut catalogue, now);
        Ok((catalogue, true))
    }
}

async fn read_object(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<Got>, StoreError> {
    match store.get(key, None).await {
        Ok(got) => Ok(Some(got)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn unreadable(key: &ObjectKey, reason: PointerError) -> BucketError {
    BucketError::Unreadable { key: key.clone(), reason }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::env::sim::World;
    use tidewater_storage::model::TopicName;

    use super::*;
    use crate::keys::{ClusterId, ClusterName, LineageEpoch};
    use crate::store::{Faults, SimBucket};

    #[test]
    fn a_changed_setting_reaches_the_catalogue_of_an_idle_topic_and_others_stay_out() {
        let world = World::new(3);
        let (env, store) = (world.env_of(1), SimBucket::new(&world.env_of(99), Faults::default()).store());
        world.block_on(async move {
            let cluster = ClusterId::default();
            let name = ClusterName::new("tidewater").expect("legal");
            let claim = Claim { cluster, epoch: LineageEpoch::FIRST, name, confirmed: false };
            let bucket = Bucket::open(store, &claim, Nonce(1), env.clock.wall()).await.expect("opened");
            let topic = |id: u128, revision: u64, retention: &str| CatalogueTopic {
                id: TopicId(uuid::Uuid::from_u128(id)),
                name: TopicName::new(&format!("t{id}")).expect("legal"),
                configs: BTreeMap::from([("retention.ms".to_owned(), retention.to_owned())]),
                partitions: Vec::new(),
                revision,
                copy: None,
            };
            let of = |topics: Vec<CatalogueTopic>| topics.into_iter().map(|t| (t.id, t)).collect::<BTreeMap<_, _>>();
            let nothing = || None;
            let none = UnarchivedTopics::default;
            let keeper = CatalogueKeeper::new(bucket.clone(), env.clock.clone());
            keeper.refresh(of(vec![topic(1, 1, "1")]), none(), &nothing).await.expect("refreshed");
            assert!(bucket.catalogue().await.expect("read").is_none(), "nothing is archived yet");
            let archived = CatalogueChange { topics: of(vec![topic(1, 1, "1")]), ..CatalogueChange::default() };
            keeper.ensure(&archived, &nothing).await.expect("written");

            // Another process, as after a restart, has seen nothing yet.
            let keeper = CatalogueKeeper::new(bucket.clone(), env.clock.clone());
            let changed = of(vec![topic(1, 5, "2"), topic(2, 4, "1")]);
            keeper.refresh(changed.clone(), none(), &nothing).await.expect("refreshed");
            let (found, version) = bucket.catalogue().await.expect("read").expect("there");
            assert_eq!(found.topics, [topic(1, 5, "2")]);
            keeper.refresh(changed, none(), &nothing).await.expect("refreshed");
            keeper.ensure(&archived, &nothing).await.expect("a stale lane asks for the old settings");
            assert_eq!(bucket.catalogue().await.expect("read").expect("there").1, version, "written once");
        });
    }

    #[test]
    fn only_another_clusters_bucket_is_fatal() {
        let name = || ClusterName::new("tidewater").expect("legal");
        let (cluster, key) = (ClusterId::default(), String::from("tidewater/root"));
        let epoch = LineageEpoch::FIRST;
        let foreign = RootRefusal::Foreign { name: name(), found: cluster, epoch, own: cluster };
        assert_eq!(BucketError::Refused(foreign).disposition(), Disposition::Fatal);
        let superseded = RootRefusal::Superseded { name: name(), cluster, found: epoch, own: epoch };
        assert_eq!(BucketError::Refused(superseded).disposition(), Disposition::Fatal);
        let ignored = BucketError::Preflight(PreflightError::IfAbsentIgnored(key.clone()));
        assert_eq!(ignored.disposition(), Disposition::Fatal);

        let denied = StoreError::Denied { key: key.clone(), detail: "403".to_owned() };
        assert_eq!(BucketError::Store(denied.clone()).disposition(), Disposition::Refused);
        assert_eq!(BucketError::Preflight(PreflightError::Store(denied)).disposition(), Disposition::Refused);
        let vanished = RootRefusal::Vanished { name: name(), cluster, key: name().root_key() };
        assert_eq!(BucketError::Refused(vanished).disposition(), Disposition::Refused);
        let damaged = Root::decode(&bytes::Bytes::from_static(b"{")).expect_err("damaged");
        assert_eq!(unreadable(&name().root_key(), damaged).disposition(), Disposition::Corrupt);
    }
}
