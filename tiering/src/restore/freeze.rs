//! Ends the lanes of a source, or only reads them: manifests closed, bundles walked to the first free key, seals put
//! there.
//!
//! Owns: these requests. Does not own: what they mean (`order`), what is made of manifests and bundles (the caller's
//! `take`). Each step may be repeated, also by another attempt.

use std::collections::VecDeque;
use std::future::ready;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{LaneId, TimestampMs};

use super::error::RestoreError;
use super::order::{Attempt, KeyContent, judge_key};
use crate::cuts::CutLaneState;
use crate::fetch::Indexes;
use crate::fetch::indexes::{FoundIndex, IndexError};
use crate::format::{FormatError, ObjectBuilder};
use crate::keys::{Home, ObjectKey, ObjectName, Sequence};
use crate::manifest::PublishedLane;
use crate::store::{ETag, ObjectStore, PutMode, StoreError};

/// How often a conditional put that met another writer is tried again.
pub(super) const CONFLICTS_MAX: usize = 16;
/// Bundles of a lane whose indexes are read at once, as long as all of them are there.
const BUNDLES_AHEAD: usize = 8;

/// How the walk along a lane's bundles ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// The next key is free: the lane's cluster may still write there.
    Open,
    /// The lane is sealed.
    Sealed,
    /// The bundle `at` is missing or is not what it should be, and later ones cannot be used.
    Damaged { at: Sequence, reason: String },
}

/// The lanes of one home. With an attempt, they are ended; without one, nothing is written.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) indexes: Indexes,
    pub(crate) home: Home,
    pub(crate) fence: Option<Attempt>,
    /// A lane with a missing bundle ends before it, and is sealed there.
    pub(crate) accept_damage: bool,
    pub(crate) now: TimestampMs,
}

impl Lanes {
    /// The lane's manifest with its version; closed if there is an attempt, also that of a lane that published nothing.
    /// In place of one that is damaged, the one in `cut` is taken, and put there if there is an attempt.
    pub(super) async fn manifest(
        &self,
        lane: LaneId,
        cut: Option<&CutLaneState>,
    ) -> Result<Option<(PublishedLane, ETag)>, RestoreError> {
        let object = self.home.lane_manifest(lane);
        let key = object.key();
        for _ in 0..CONFLICTS_MAX {
            let (found, version) = match self.store.get(&key, None).await {
                Ok(got) => {
                    let found = match (PublishedLane::decode(&got.body), cut) {
                        (Err(error), Some(cut)) if error.disposition() == Disposition::Corrupt => {
                            self.manifest_in(cut)?
                        }
                        (found, _) => Some(found.map_err(|error| unreadable(object, &error))?),
                    };
                    if let Some(found) = found.as_ref().filter(|found| (found.home, found.lane) != (self.home, lane)) {
                        return Err(RestoreError::Foreign { object, home: found.home, lane: found.lane });
                    }
                    (found, Some(got.etag))
                }
                Err(StoreError::NotFound { .. }) => (None, None),
                Err(error) => return Err(error.into()),
            };
            let Some(closed) = self.fence.and_then(|attempt| attempt.closing(lane, found.clone(), self.now)) else {
                return Ok(found.zip(version));
            };
            let mode = version.map_or(PutMode::IfAbsent, PutMode::IfMatch);
            match self.store.put(&key, closed.encode(), mode).await {
                Ok(done) => return Ok(Some((closed, done.etag))),
                // Its own put, whose answer was lost, or a publication that came first.
                Err(StoreError::Taken { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RestoreError::Busy { key })
    }

    /// Gives `take` every bundle from `from` on, whose predecessor's index has the checksum `crc`. If `take` refuses
    /// one, or one is missing, the walk ends before it.
    pub(super) async fn walk(
        &self,
        lane: LaneId,
        from: Sequence,
        crc: u32,
        take: impl FnMut(&FoundIndex) -> Result<(), String>,
    ) -> Result<LaneEnd, RestoreError> {
        self.walk_to(lane, Sequence(u64::MAX), (from, crc), take).await
    }

    /// As [`Lanes::walk`], from the bundle and checksum of `from` on, at most up to the bundle `last`.
    pub(super) async fn walk_to(
        &self,
        lane: LaneId,
        last: Sequence,
        from: (Sequence, u32),
        mut take: impl FnMut(&FoundIndex) -> Result<(), String>,
    ) -> Result<LaneEnd, RestoreError> {
        let (mut at, mut crc) = from;
        // Of the bundles from `at` on. Many lanes have no bundle to follow: nothing is read ahead before the first.
        let (mut ahead, mut width) = (VecDeque::new(), 0);
        loop {
            if at > last {
                return Ok(LaneEnd::Open);
            }
            if ahead.is_empty() {
                let left = usize::try_from(last.0 - at.0).unwrap_or(usize::MAX).saturating_add(1);
                ahead = self.found_from(lane, at, left.min(width)).await;
            }
            match self.look(lane, at, crc, ahead.pop_front()).await? {
                Look::End(end) => return Ok(end),
                Look::Again => {}
                Look::Bundle(found) => {
                    if let Err(reason) = take(&found) {
                        return Ok(LaneEnd::Damaged { at, reason });
                    }
                    (at, crc) = (at.next(), found.at.crc);
                    width = (width * 2).clamp(1, BUNDLES_AHEAD);
                }
            }
        }
    }

    /// The indexes of bundle `at` and those after it, up to the first that is not read at once: what its key holds,
    /// [`Lanes::look`] finds out when its turn comes.
    async fn found_from(&self, lane: LaneId, at: Sequence, count: usize) -> VecDeque<FoundIndex> {
        let objects = stream::iter((at.0..).take(count).map(|next| self.home.bundle(lane, Sequence(next))));
        let reads = objects.map(|object| self.indexes.at_key(object)).buffered(BUNDLES_AHEAD);
        let good = reads.take_while(|found| ready(found.is_ok()));
        good.filter_map(|found| ready(found.ok())).collect().await
    }

    /// What lies at the key of bundle `at`, of which `found` was read before. A free key is sealed if there is an
    /// attempt.
    async fn look(
        &self,
        lane: LaneId,
        at: Sequence,
        crc: u32,
        found: Option<FoundIndex>,
    ) -> Result<Look, RestoreError> {
        let object = self.home.bundle(lane, at);
        let damaged = |reason: String| Look::End(LaneEnd::Damaged { at, reason });
        let found = match found {
            Some(found) => Ok(found),
            None => self.indexes.at_key(object).await,
        };
        match found {
            Ok(found) => Ok(match judge_key(self.home, lane, at, &found.index) {
                KeyContent::Bundle => Look::Bundle(Box::new(found)),
                KeyContent::Seal => Look::End(LaneEnd::Sealed),
                KeyContent::Foreign => damaged(format!(
                    "what lies there was written by lane {} of epoch {}",
                    found.index.lane, found.index.home.epoch
                )),
            }),
            Err(IndexError::Format(error)) if error.disposition() == Disposition::Refused => {
                Err(unreadable(object, &error))
            }
            Err(IndexError::Format(error)) => Ok(damaged(error.to_string())),
            Err(IndexError::Store(StoreError::NotFound { .. })) => self.at_free_key(lane, at, crc).await,
            Err(IndexError::Store(error)) => Err(error.into()),
        }
    }

    async fn at_free_key(&self, lane: LaneId, at: Sequence, crc: u32) -> Result<Look, RestoreError> {
        let key = self.home.bundle(lane, at).key();
        let prefix = key.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let later = self.store.list(&format!("{prefix}/"), Some(key.as_str()), 1).await?;
        let later = later.first().map(|listed| listed.key.clone());
        // The lane's cluster may have written both meanwhile.
        if later.is_some() && self.store.head(&key).await.is_ok() {
            return Ok(Look::Again);
        }
        let hole =
            |later: &ObjectKey| LaneEnd::Damaged { at, reason: format!("it does not exist, though {later} does") };
        if let Some(later) = later.as_ref().filter(|_| !self.accept_damage) {
            return Ok(Look::End(hole(later)));
        }
        if let Some(attempt) = &self.fence {
            let Some(last) = at.0.checked_sub(1).map(Sequence) else { unreachable!("the first bundle is 1") };
            let seal = ObjectBuilder::new(attempt.seal(lane, last, crc, self.now)).finish();
            match self.store.put(&key, seal.body(), PutMode::IfAbsent).await {
                Ok(_) => {}
                // A bundle came first, or a seal.
                Err(StoreError::Taken { .. }) => return Ok(Look::Again),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Look::End(match later {
            Some(later) => hole(&later),
            None if self.fence.is_some() => LaneEnd::Sealed,
            None => LaneEnd::Open,
        }))
    }
}

enum Look {
    Bundle(Box<FoundIndex>),
    /// Look at the same key again.
    Again,
    End(LaneEnd),
}

pub(super) fn unreadable(object: ObjectName, error: &FormatError) -> RestoreError {
    RestoreError::Unreadable { key: object.key(), reason: error.to_string() }
}
