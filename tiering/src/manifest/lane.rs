//! What a lane has in the bucket: its bundle chain, its live and dying objects, what was published.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidewater_storage::model::{LaneId, LogIndex, TimestampMs};

use super::objects::ObjectPageRef;
use super::page::PageRef;
use super::partition::PartitionManifest;
use crate::keys::{Home, ObjectKind, ObjectName, Sequence};

/// Publications remembered; beyond, every second one is dropped (which only delays deletes).
pub(crate) const PUBLICATIONS_MAX: usize = 64;

/// The replicated state of a lane's share of the tier. *Shard-local* by use, a *message* by type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneManifest {
    pub home: Home,
    pub lane: LaneId,
    /// Log index of the last command that changed this; what is at or below is covered.
    pub changed: Option<LogIndex>,
    /// The last bundle settled; [`Sequence::NONE`] before the first.
    pub last: Sequence,
    /// Its index's crc: `previous` of the next.
    pub last_crc: u32,
    /// From here on bundles exist without a hole; what is published says so.
    pub follow_from: Sequence,
    /// Bundles and gathered objects that rows may name.
    pub live: BTreeMap<ObjectName, Live>,
    /// Objects no row names, to be deleted once a published manifest forgot them for long enough.
    pub pending: BTreeMap<ObjectName, Pending>,
    /// Pages of the manifest last published.
    pub pages: Vec<PageRef>,
    /// Its pages of live and pending objects; `None` if a version published it that did not write them. Then the next
    /// publication writes all pages again: none of them has what such versions left out.
    pub object_pages: Option<Vec<ObjectPageRef>>,
    /// Its version, for the next put-if-match.
    pub etag: Option<String>,
    /// When which state was published, oldest first; thinned, never empty after the first.
    pub publications: VecDeque<Publication>,
    /// Why archiving stopped, if it did.
    pub stopped: Option<String>,
}

/// A shared object that rows may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub size: u64,
    pub since: LogIndex,
    /// Parts of a bundle that no row names yet. They are deleted with the bundle. A part that a row takes over
    /// ([`super::Command::Replaced`]) belongs to its partition alone from then on, as a segment object does.
    pub parts: Vec<ObjectName>,
    /// Holds that others have on it: partitions that moved away (R5).
    pub pins: u32,
    /// Spill pages of level 0 that name it.
    pub spilled: u32,
}

/// An object on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// When the intent was applied.
    pub intended: LogIndex,
    /// Parts that go with it.
    pub parts: Vec<ObjectName>,
}

/// One publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication {
    pub as_of: LogIndex,
    pub at: TimestampMs,
}

/// When what a published manifest forgot may go.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    pub now: TimestampMs,
    /// Time since the publication, milliseconds.
    pub ms: i64,
    /// The last state whose publication has stood for as long by the monotonic clock of the process that deletes.
    pub stood: Option<LogIndex>,
    /// The last intent that no kept cut is in the way of; `None`: there is no cut (`cuts`). It does not count for pages
    /// of manifests.
    pub horizon: Option<LogIndex>,
}

impl LaneManifest {
    /// Of a lane that has archived nothing.
    #[must_use]
    pub fn new(home: Home, lane: LaneId) -> Self {
        Self {
            home,
            lane,
            changed: None,
            last: Sequence::NONE,
            last_crc: 0,
            follow_from: Sequence::NONE.next(),
            live: BTreeMap::new(),
            pending: BTreeMap::new(),
            pages: Vec::new(),
            object_pages: None,
            etag: None,
            publications: VecDeque::new(),
            stopped: None,
        }
    }

    /// Where the next bundle goes.
    #[must_use]
    pub fn next_bundle(&self) -> ObjectName {
        self.home.bundle(self.lane, self.last.next())
    }

    /// As of which log index the last publication is.
    #[must_use]
    pub fn published_as_of(&self) -> Option<LogIndex> {
        self.publications.back().map(|publication| publication.as_of)
    }

    /// When a manifest that forgets what was intended at `intended` was (at the latest) first published.
    #[must_use]
    pub fn forgotten_since(&self, intended: LogIndex) -> Option<TimestampMs> {
        self.publications.iter().find(|publication| publication.as_of >= intended).map(|publication| publication.at)
    }

    /// Has a published manifest forgotten it for long enough, by both clocks, and does no kept cut reach it? A
    /// publication in the future is one of before the wall clock was put back: then the other clock alone decides.
    #[must_use]
    pub fn is_past_grace(&self, intended: LogIndex, grace: Grace) -> bool {
        let passed = |since: TimestampMs| since > grace.now || grace.now.since_ms(since) >= grace.ms;
        grace.horizon.is_none_or(|horizon| intended <= horizon)
            && grace.stood.is_some_and(|as_of| intended <= as_of)
            && self.forgotten_since(intended).is_some_and(passed)
    }

    /// Live objects that no spill page, no hold and no row of `partitions` (all of the lane's) names: what a
    /// `Forgotten` command may take. Naming only ever falls after an object's birth was applied, so the answer stays
    /// true until the command is.
    #[must_use]
    pub fn unnamed<'a>(&self, partitions: impl IntoIterator<Item = &'a PartitionManifest>) -> Vec<ObjectName> {
        let free = |(object, live): (&ObjectName, &Live)| (live.pins == 0 && live.spilled == 0).then_some(*object);
        let mut candidates: BTreeSet<ObjectName> = self.live.iter().filter_map(free).collect();
        for row in partitions.into_iter().flat_map(|partition| &partition.rows) {
            if candidates.is_empty() {
                break;
            }
            candidates.remove(&row.object());
        }
        candidates.into_iter().collect()
    }

    /// Pending objects, each with its parts, that may be deleted now. A page of manifests may be in a kept cut all the
    /// same: the caller leaves out those that cuts name. By the horizon, each publication would add pages that stay for
    /// as long as cuts do, and their names would fill the next publication's pages.
    #[must_use]
    pub fn deletable(&self, grace: Grace) -> Vec<(ObjectName, Vec<ObjectName>)> {
        let without_cuts = Grace { horizon: None, ..grace };
        let due = |object: &ObjectName, pending: &Pending| {
            let grace = if is_manifest_page(object) { without_cuts } else { grace };
            self.is_past_grace(pending.intended, grace) && !self.must_follow(object)
        };
        let pending = self.pending.iter().filter(|(object, pending)| due(object, pending));
        pending.map(|(object, pending)| (*object, pending.parts.clone())).collect()
    }

    /// Settled bundles with parts that no row names yet, oldest first: see [`Live::parts`].
    pub fn bundles_with_parts(&self) -> impl Iterator<Item = (ObjectName, &[ObjectName])> {
        let all = self.home.bundle(self.lane, Sequence::NONE)..=self.home.bundle(self.lane, Sequence(u64::MAX));
        let with_parts = self.live.range(all).filter(|(_, live)| !live.parts.is_empty());
        with_parts.map(|(object, live)| (*object, live.parts.as_slice()))
    }

    /// Is it one of the bundles that followers may still ask for (R4)?
    #[must_use]
    pub fn must_follow(&self, object: &ObjectName) -> bool {
        match object.kind {
            ObjectKind::Bundle { lane, sequence } => {
                object.home == self.home && lane == self.lane && sequence >= self.follow_from
            }
            _ => false,
        }
    }

    /// Parts of its live and pending bundles.
    #[must_use]
    pub fn parts(&self) -> BTreeSet<ObjectName> {
        let pending = self.pending.values().map(|pending| &pending.parts);
        self.live.values().map(|live| &live.parts).chain(pending).flatten().copied().collect()
    }

    /// Does the lane's own state name this object (live, pending, a published page, its manifest)? Parts of bundles are
    /// not looked at: see [`LaneManifest::parts`].
    #[must_use]
    pub fn names(&self, object: &ObjectName) -> bool {
        self.live.contains_key(object)
            || self.pending.contains_key(object)
            || self.must_follow(object)
            || *object == self.home.lane_manifest(self.lane)
            || self.pages.iter().any(|page| page.page == *object)
            || self.object_pages.iter().flatten().any(|page| page.page == *object)
    }
}

/// Is this kind of object shared by partitions, and therefore kept in [`LaneManifest::live`]?
#[must_use]
pub fn is_shared(object: &ObjectName) -> bool {
    matches!(object.kind, ObjectKind::Bundle { .. } | ObjectKind::Gathered { .. })
}

/// Is it a page that lane manifests name?
#[must_use]
pub(crate) fn is_manifest_page(object: &ObjectName) -> bool {
    matches!(object.kind, ObjectKind::Page { .. })
}
