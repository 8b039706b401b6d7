//! A new base: the lane manifest was published again, and its pages replace the tail below its `follow_from`.
//!
//! Owns: which pages have to be read, and the state made of them. A page that the base before has is not read again:
//! none of its partitions changed in between, unless the tail that goes says so. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LogIndex, PartitionId};

use super::bundle::{judge, take};
use super::error::FollowError;
use super::lane::{Changes, FollowedLane, Purpose, Stage};
use super::partition::{FollowedPartition, Origin};
use super::tail::TailBundle;
use crate::keys::{ObjectName, Sequence};
use crate::manifest::{LaneObject, ObjectPageRef, PageRef, PublishedLane, PublishedPartition, check_partition};
use crate::store::ETag;

/// A lane manifest that is to be the base once its pages are read.
#[derive(Clone, Debug)]
pub(super) struct Rebase {
    published: PublishedLane,
    version: ETag,
    /// Pages to be read.
    needed: Vec<PageRef>,
    /// Pages of the lane's objects to be read.
    objects: Vec<ObjectPageRef>,
    /// Does the tail from `follow_from` on stay?
    tail_stays: bool,
}

/// Pages that were read and decoded, by name. *Message*.
#[derive(Clone, Debug, Default)]
pub struct ReadPages {
    pub partitions: BTreeMap<ObjectName, Vec<PublishedPartition>>,
    pub objects: BTreeMap<ObjectName, Vec<LaneObject>>,
}

impl Rebase {
    pub(super) fn pages(&self) -> (&[PageRef], &[ObjectPageRef]) {
        (&self.needed, &self.objects)
    }
}

impl FollowedLane {
    /// Takes the lane manifest that [`super::Next::Manifest`] asked for, with its version.
    ///
    /// # Errors
    /// Why it is not taken over; nothing has changed then, and following goes on by the base before.
    pub fn on_manifest(&mut self, published: PublishedLane, version: ETag) -> Result<Changes, FollowError> {
        self.stage = Stage::Following;
        if (published.home, published.lane) != (self.home, self.lane) {
            let object = self.home.lane_manifest(self.lane);
            return Err(FollowError::Foreign { object, home: published.home, lane: published.lane });
        }
        let known = self.base().map_or(Sequence::NONE, |base| base.follow_from);
        if published.follow_from < known {
            return Err(FollowError::Older { found: published.follow_from, known });
        }
        // Known before its pages are: those of a home that ended may be gone.
        self.closed_for = published.closed_for;
        let tail_stays = self.continues(&published);
        let gone: BTreeSet<PartitionId> =
            self.tail_below(&published, tail_stays).flat_map(TailBundle::touched).collect();
        let needed = published.pages.iter().filter(|page| !self.has_page(page, &gone)).copied().collect();
        let objects = published.objects.iter().flatten().filter(|_| self.purpose == Purpose::Restore);
        let objects: Vec<ObjectPageRef> = objects.copied().collect();
        let rebase = Rebase { published, version, needed, objects, tail_stays };
        let is_read = rebase.needed.is_empty() && rebase.objects.is_empty();
        self.stage = Stage::Pages(Box::new(rebase));
        if is_read { self.on_pages(ReadPages::default()) } else { Ok(Changes::default()) }
    }

    /// The lane manifest is still the base's version: nothing changes.
    pub fn on_same_manifest(&mut self) {
        if matches!(self.stage, Stage::Manifest) {
            self.stage = Stage::Following;
        }
    }

    /// There is no lane manifest: the lane has not published yet, and its bundles begin with the first.
    ///
    /// # Errors
    /// [`FollowError::Gone`]: there was one.
    pub fn on_no_manifest(&mut self) -> Result<(), FollowError> {
        self.stage = Stage::Following;
        match &self.base {
            Some(_) => Err(FollowError::Gone { object: self.home.lane_manifest(self.lane) }),
            None => Ok(()),
        }
    }

    /// The pages cannot be read: following goes on by the base before.
    pub fn forget_pages(&mut self) {
        if matches!(self.stage, Stage::Pages(_)) {
            self.stage = Stage::Following;
        }
    }

    /// Takes the pages that [`super::Next::Pages`] asked for, decoded.
    ///
    /// # Errors
    /// Why they are not taken over; nothing has changed then, and following goes on by the base before.
    pub fn on_pages(&mut self, mut pages: ReadPages) -> Result<Changes, FollowError> {
        let Stage::Pages(rebase) = std::mem::replace(&mut self.stage, Stage::Following) else {
            return Ok(Changes::default());
        };
        let Rebase { published, version, needed, objects, tail_stays } = *rebase;
        let from = published.follow_from;
        let mut fresh = BTreeMap::new();
        for page in &needed {
            let read = pages.partitions.remove(&page.page).ok_or(FollowError::NoPage { page: page.page })?;
            for partition in read {
                check_partition(&partition.manifest)?;
                fresh.insert(partition.manifest.id, FollowedPartition::of_base(partition, from, self.purpose));
            }
        }
        let mut named = Vec::new();
        for page in &objects {
            named.extend(pages.objects.remove(&page.page).ok_or(FollowError::NoPage { page: page.page })?);
        }
        let read: BTreeSet<PartitionId> = fresh.keys().copied().collect();
        let kept = self.tail.iter().filter(|bundle| tail_stays && bundle.sequence >= from);
        for bundle in kept {
            judge(&fresh, bundle, |id| read.contains(&id))?;
            take(&mut fresh, self.home, self.lane, bundle, |id| read.contains(&id));
        }
        // From here on nothing fails.
        if self.state.is_some() {
            self.state = Some(published.state(named, LogIndex(from.0.saturating_sub(1))));
        }
        Ok(self.adopt(published, version, fresh, &needed, tail_stays))
    }

    fn adopt(
        &mut self,
        published: PublishedLane,
        version: ETag,
        mut fresh: BTreeMap<PartitionId, FollowedPartition>,
        needed: &[PageRef],
        tail_stays: bool,
    ) -> Changes {
        let from = published.follow_from;
        let mut changed: BTreeSet<PartitionId> = fresh.keys().copied().collect();
        for (id, before) in std::mem::take(&mut self.partitions) {
            if let Some(after) = fresh.get_mut(&id) {
                after.keep_shown(&before);
                continue;
            }
            let stays = match before.origin() {
                Origin::Base => published.page_of(id).is_some_and(|page| !needed.contains(page)),
                Origin::Created(sequence) => tail_stays && sequence >= from,
            };
            if stays {
                fresh.insert(id, before);
            } else {
                changed.insert(id);
            }
        }
        self.partitions = fresh;
        self.tail.retain(|bundle| tail_stays && bundle.sequence >= from);
        let tail = std::mem::take(&mut self.tail);
        tail.iter().for_each(|bundle| self.apply_to_state(bundle));
        self.tail = tail;
        self.tail_entries = self.tail.iter().map(TailBundle::weight).sum();
        if self.tail.is_empty() {
            // The base is ahead of what was followed, or exactly there.
            self.last = Sequence(from.0.saturating_sub(1));
            self.last_crc = published.last_crc;
            self.last_written = self.last_written.max(published.written);
        }
        self.base = Some((published, version));
        Changes { partitions: changed }
    }

    /// Is what was followed the chain that `published` is of? If it is ahead of what was followed there is nothing to
    /// compare, and nothing of the tail is above it.
    fn continues(&self, published: &PublishedLane) -> bool {
        let before = Sequence(published.follow_from.0.saturating_sub(1));
        let crc = match () {
            () if before > self.last => return false,
            () if before == self.last => Some(self.last_crc),
            () => self.tail.iter().find(|bundle| bundle.sequence == before).map(|bundle| bundle.index.crc),
        };
        // Not in the tail: it is the base before, which ends where this one does.
        crc.or_else(|| self.base().map(|base| base.last_crc)).is_none_or(|crc| crc == published.last_crc)
    }

    /// The bundles that the tail loses.
    fn tail_below<'a>(&'a self, published: &PublishedLane, tail_stays: bool) -> impl Iterator<Item = &'a TailBundle> {
        let from = published.follow_from;
        self.tail.iter().filter(move |bundle| !tail_stays || bundle.sequence < from)
    }

    /// Is the page's content known, and unchanged by what the tail loses?
    fn has_page(&self, page: &PageRef, gone: &BTreeSet<PartitionId>) -> bool {
        let same = self.base().is_some_and(|base| base.pages.contains(page));
        let of_base = || {
            let inside = self.partitions.range(page.first..=page.last);
            inside.filter(|(_, partition)| partition.origin() == Origin::Base).count()
        };
        same && gone.range(page.first..=page.last).next().is_none() && u32::try_from(of_base()) == Ok(page.count)
    }
}
