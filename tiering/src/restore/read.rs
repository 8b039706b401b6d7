//! A lane read to its end: manifest, pages, bundles, into a [`FollowedLane`].
//!
//! Owns: these requests. Does not own: what counts (`follow`), the end of the lane (`freeze`).

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use tidewater_storage::model::{LaneId, PartitionId, TopicId};

use super::error::RestoreError;
use super::freeze::{LaneEnd, Lanes, unreadable};
use super::plan::own_objects;
use super::topic::of_topic;
use crate::cuts::CutLaneState;
use crate::fetch::indexes::FoundIndex;
use crate::follow::{FollowedLane, Next, Purpose, ReadPages};
use crate::keys::{ObjectName, Sequence};
use crate::manifest::{ObjectPageRef, PageRef, PublishedLane, decode_objects, decode_page};
use crate::store::{ETag, StoreError};

/// Pages read at once.
const PAGES_AT_ONCE: usize = 16;

/// A lane as far as its bundles count.
#[derive(Clone, Debug)]
pub(super) struct LaneRead {
    pub(super) followed: FollowedLane,
    /// What each partition's page of the base names beside its rows: objects of its own that are to be deleted, and
    /// those that its rows name, which may be trimmed by a bundle.
    pub(super) own: BTreeMap<PartitionId, Vec<ObjectName>>,
    pub(super) end: LaneEnd,
}

impl Lanes {
    /// Reads a lane; ends it, if there is an attempt.
    pub(super) async fn read(&self, lane: LaneId) -> Result<LaneRead, RestoreError> {
        let manifest = self.manifest(lane, None).await?;
        self.read_from(lane, manifest, Sequence(u64::MAX), None).await
    }

    /// Reads what a lane has of one topic. Writes nothing.
    pub(super) async fn read_topic(&self, lane: LaneId, topic: TopicId) -> Result<LaneRead, RestoreError> {
        debug_assert!(self.fence.is_none(), "the lane goes on");
        let manifest = self.manifest(lane, None).await?;
        self.read_from(lane, manifest, Sequence(u64::MAX), Some(topic)).await
    }

    /// Reads what a lane has of one topic in a cut. Writes nothing.
    pub(super) async fn read_topic_in_cut(
        &self,
        lane: &CutLaneState,
        topic: TopicId,
    ) -> Result<LaneRead, RestoreError> {
        self.read_cut_of(lane, Some(topic)).await
    }

    /// Reads a lane as it is in a cut. Writes nothing.
    pub(super) async fn read_cut(&self, lane: &CutLaneState) -> Result<LaneRead, RestoreError> {
        self.read_cut_of(lane, None).await
    }

    async fn read_cut_of(&self, lane: &CutLaneState, topic: Option<TopicId>) -> Result<LaneRead, RestoreError> {
        debug_assert!(self.fence.is_none(), "a cut is only read");
        // No version that the store gives: nothing is put over it.
        let manifest = self.manifest_in(lane)?.map(|found| (found, ETag("cut".into())));
        let mut read = self.read_from(lane.lane, manifest, lane.last, topic).await?;
        let (last, crc) = (read.followed.last(), read.followed.last_crc());
        if !matches!(read.end, LaneEnd::Damaged { .. }) && (last, crc) != (lane.last, lane.last_crc) {
            let reason = format!("the cut reaches to bundle {}, and another one lies there now", lane.last);
            read.end = LaneEnd::Damaged { at: last.next(), reason };
        }
        Ok(read)
    }

    /// The lane's manifest in a cut.
    pub(super) fn manifest_in(&self, lane: &CutLaneState) -> Result<Option<PublishedLane>, RestoreError> {
        let object = self.home.lane_manifest(lane.lane);
        let decode = |body: &bytes::Bytes| PublishedLane::decode(body).map_err(|error| unreadable(object, &error));
        let manifest = lane.manifest.as_ref().map(decode).transpose()?;
        match manifest {
            Some(found) if (found.home, found.lane) != (self.home, lane.lane) => {
                Err(RestoreError::Foreign { object, home: found.home, lane: found.lane })
            }
            manifest => Ok(manifest),
        }
    }

    /// Reads a lane from its manifest on, up to the bundle `until` at most. Of one topic, only what its records need is
    /// read.
    async fn read_from(
        &self,
        lane: LaneId,
        mut manifest: Option<(PublishedLane, ETag)>,
        until: Sequence,
        topic: Option<TopicId>,
    ) -> Result<LaneRead, RestoreError> {
        let object = self.home.lane_manifest(lane);
        let purpose = if topic.is_some() { Purpose::Read } else { Purpose::Restore };
        if let (Some((published, _)), Some(topic)) = (&mut manifest, topic) {
            published.pages.retain(|page| (page.first.topic..=page.last.topic).contains(&topic));
        }
        let mut followed = FollowedLane::new(self.home, lane, purpose);
        let refused = |error: crate::follow::FollowError| RestoreError::Unreadable {
            key: object.key(),
            reason: error.to_string(),
        };
        match manifest {
            Some((published, version)) => drop(followed.on_manifest(published, version).map_err(refused)?),
            None => followed.on_no_manifest().map_err(refused)?,
        }
        let mut own = BTreeMap::new();
        if let Next::Pages { partitions, objects } = followed.next() {
            let pages = self.pages(partitions, objects).await?;
            for published in pages.partitions.values().flatten() {
                own.insert(published.manifest.id, own_objects(&published.manifest));
            }
            followed.on_pages(pages).map_err(refused)?;
        }
        let (from, crc) = (followed.last().next(), followed.last_crc());
        let take = |found: &FoundIndex| {
            let taken = match topic {
                Some(topic) => followed.on_bundle(&of_topic(&found.index, topic), found.at, found.size),
                None => followed.on_bundle(&found.index, found.at, found.size),
            };
            taken.map(drop).map_err(|error| error.to_string())
        };
        let end = self.walk_to(lane, until, (from, crc), take).await?;
        Ok(LaneRead { followed, own, end })
    }

    pub(super) async fn pages(
        &self,
        partitions: Vec<PageRef>,
        objects: Vec<ObjectPageRef>,
    ) -> Result<ReadPages, RestoreError> {
        let partitions = stream::iter(partitions).map(async |page| {
            let body = self.store.get(&page.page.key(), None).await.map_err(|error| missing(page.page, error))?.body;
            let read = decode_page(&page, &body).map_err(|error| unreadable(page.page, &error))?;
            Ok::<_, RestoreError>((page.page, read))
        });
        let objects = stream::iter(objects).map(async |page| {
            let body = self.store.get(&page.page.key(), None).await.map_err(|error| missing(page.page, error))?.body;
            let read = decode_objects(&page, &body).map_err(|error| unreadable(page.page, &error))?;
            Ok::<_, RestoreError>((page.page, read))
        });
        Ok(ReadPages {
            partitions: partitions.buffered(PAGES_AT_ONCE).try_collect().await?,
            objects: objects.buffered(PAGES_AT_ONCE).try_collect().await?,
        })
    }
}

/// A page that a manifest names and that is not there: the bucket was copied out of order, or has lost objects.
fn missing(page: ObjectName, error: StoreError) -> RestoreError {
    match error {
        StoreError::NotFound { .. } => {
            let reason = "it does not exist, though the lane's manifest names it (was the bucket copied while it was \
                          written?)";
            RestoreError::Unreadable { key: page.key(), reason: reason.to_owned() }
        }
        error => error.into(),
    }
}
