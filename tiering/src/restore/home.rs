//! The new home: its lanes and catalogue written before the switch, and read by the broker that begins there.
//!
//! Owns: these requests. Does not own: the content (`plan`). What lies at a key of the home was put there by the same
//! attempt, from the same plan, and stays.

use std::sync::Arc;

use futures::stream::{self, TryStreamExt};
use tidewater_storage::model::{LaneId, LogIndex, PartitionId, Term, TimestampMs};

use super::error::RestoreError;
use super::freeze::{Lanes, unreadable};
use super::plan::{LaneSeed, SEED};
use crate::fetch::Indexes;
use crate::keys::{Home, Nonce, ObjectKey, ObjectKind};
use crate::manifest::{Catalogue, LogFacts, PartitionManifest, PublishRequest, PublishedLane, plan_publish};
use crate::store::{ObjectStore, PutMode, StoreError};

/// Pages written at once.
const PUTS_AT_ONCE: usize = 16;
/// Memory for indexes; a restore reads none of them twice.
const INDEX_BYTES: u64 = 1 << 20;

/// Writes what a lane begins with, the manifest last.
pub(super) async fn write_lane(
    store: &dyn ObjectStore,
    seed: &LaneSeed,
    now: TimestampMs,
    nonce: impl FnMut() -> Nonce,
) -> Result<(), RestoreError> {
    let partitions: Vec<&PartitionManifest> = seed.partitions.iter().map(|published| &published.manifest).collect();
    let facts = |id: PartitionId| {
        let found = seed.partitions.binary_search_by_key(&id, |published| published.manifest.id);
        found.ok().and_then(|at| seed.partitions.get(at)).map_or_else(LogFacts::default, |found| found.facts.clone())
    };
    let request =
        PublishRequest { lane: &seed.archive, partitions: &partitions, facts: &facts, as_of: SEED, term: Term(0), now };
    let plan = plan_publish(&request, nonce);
    let pages = stream::iter(plan.pages.into_iter().map(Ok::<_, RestoreError>));
    let put = async |(page, body): (crate::keys::ObjectName, bytes::Bytes)| put_once(store, &page.key(), body).await;
    pages.try_for_each_concurrent(PUTS_AT_ONCE, put).await?;
    put_once(store, &plan.name.key(), plan.manifest).await
}

pub(super) async fn write_catalogue(store: &dyn ObjectStore, catalogue: &Catalogue) -> Result<(), RestoreError> {
    put_once(store, &catalogue.home.name(ObjectKind::Catalogue).key(), catalogue.encode()).await
}

async fn put_once(store: &dyn ObjectStore, key: &ObjectKey, body: bytes::Bytes) -> Result<(), RestoreError> {
    match store.put(key, body, PutMode::IfAbsent).await {
        Ok(_) | Err(StoreError::Taken { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The catalogue of a home; `None` if its cluster has archived nothing.
///
/// # Errors
/// What the store says, or that it does not decode.
pub async fn read_catalogue(store: &dyn ObjectStore, home: Home) -> Result<Option<Catalogue>, RestoreError> {
    let key = home.name(ObjectKind::Catalogue).key();
    let got = match store.get(&key, None).await {
        Err(StoreError::NotFound { .. }) => return Ok(None),
        got => got?,
    };
    let catalogue = Catalogue::decode(&got.body);
    catalogue.map(Some).map_err(|error| RestoreError::Unreadable { key, reason: error.to_string() })
}

/// What a lane of a restored home begins with.
///
/// # Errors
/// What the store says, or that an object does not decode.
pub async fn read_lane(store: &Arc<dyn ObjectStore>, home: Home, lane: LaneId) -> Result<LaneSeed, RestoreError> {
    let object = home.lane_manifest(lane);
    let got = store.get(&object.key(), None).await?;
    let published = PublishedLane::decode(&got.body).map_err(|error| unreadable(object, &error))?;
    if (published.home, published.lane) != (home, lane) {
        return Err(RestoreError::Foreign { object, home: published.home, lane: published.lane });
    }
    let indexes = Indexes::new(Arc::clone(store), INDEX_BYTES);
    let now = published.written;
    let lanes = Lanes { store: Arc::clone(store), indexes, home, fence: None, accept_damage: false, now };
    let objects = published.objects.clone().unwrap_or_default();
    let pages = lanes.pages(published.pages.clone(), objects).await?;
    let mut archive = published.state(pages.objects.into_values().flatten().collect(), SEED);
    archive.etag = Some(got.etag.0.to_string());
    let mut partitions: Vec<_> = pages.partitions.into_values().flatten().collect();
    partitions.sort_by_key(|published| published.manifest.id);
    let is_seed = |index: Option<LogIndex>| index == Some(SEED);
    if published.as_of != SEED || !partitions.iter().all(|published| is_seed(published.manifest.changed)) {
        let reason = format!("it is as of entry {}, not as a restore leaves it", published.as_of);
        return Err(RestoreError::Unreadable { key: object.key(), reason });
    }
    Ok(LaneSeed { archive, partitions })
}
