//! The sweeper: objects of this lane that nothing names, older than the grace, are removed.
//!
//! Owns: the listing and the judgement. Does not own: objects of other epochs, lanes or clusters, the catalogue, cuts.
//! Shard-local.
//!
//! - The listing comes first and the state after it: an object that was named when it was listed is still in the state,
//!   or was deleted properly.
//! - An object's age is by the store's clock on both sides: the sweep writes an object of its own and takes the time
//!   that the store gives it. An upload that is under way is younger than the grace (`segment::replace` gives up after
//!   half).
//! - A manifest may have been put whose command was never applied, and a cut may have been made of it. So a page is
//!   removed only if no kept cut names it, and if an earlier sweep saw it a whole grace ago: cuts that were begun
//!   before this leader's manifest replaced that one are noted by then.
//! - A part is kept while its bundle may still be settled, however old it is.
//! - A leader that was cut off from its peers confirms that it leads before it deletes, and so finds that it does not.
//!   An object that a later term wrote is never removed.
//! - Objects of a partition that no lane carries are removed only once this node has asked which topics there are: what
//!   it knows may lag behind a topic that another broker's lane archives already.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use bytes::Bytes;
use tidewater_storage::env::Mono;
use tidewater_storage::model::{PartitionId, Term, TimestampMs};

use super::host::{LaneHost, Whereabouts};
use super::housekeeping::Housekeeping;
use super::steps::{StepError, StepSeries};
use crate::fetch::locate::Step;
use crate::keys::{ObjectKey, ObjectKind, ObjectName};
use crate::manifest::{LaneManifest, PartitionManifest, SpillPage, SpillRow, is_manifest_page};
use crate::store::PutMode;

/// Keys per LIST, and per DELETE.
const LIST_MAX: usize = 1000;
/// Names of objects in spill pages that a sweep remembers, as hashes of 8 bytes: 16 MiB or so.
const NAMES_MAX: usize = 1 << 20;

/// What spill pages name, by partition, with the pages that were read: read once a sweep while it fits. A row that was
/// spilled since lies in a page that was not read, so the names count only while the partition has the same pages.
/// Hashes: two names that collide keep an object that could go, never the other way round.
#[derive(Default)]
struct NamesInPages {
    of: BTreeMap<PartitionId, (Vec<SpillRow>, BTreeSet<u64>)>,
    /// Partitions whose pages could not be read in this sweep.
    unread: BTreeSet<PartitionId>,
}

impl NamesInPages {
    fn insert(&mut self, partition: PartitionId, pages: Vec<SpillRow>, names: BTreeSet<u64>) {
        let held: usize = self.of.values().map(|(_, names)| names.len()).sum();
        if held + names.len() > NAMES_MAX {
            self.of.clear();
        }
        self.of.insert(partition, (pages, names));
    }

    /// Have the pages that the partition has now been read?
    fn is_current(&self, partition: PartitionId, pages: &[SpillRow]) -> bool {
        self.of.get(&partition).is_some_and(|(read, _)| read == pages)
    }

    /// May a page of the partition name the object?
    fn may_name(&self, partition: PartitionId, object: &ObjectName) -> bool {
        self.of.get(&partition).is_none_or(|(_, names)| names.contains(&hash(object)))
    }
}

fn hash(object: &ObjectName) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    hasher.finish()
}

/// Pages of lane manifests that a sweep finds unnamed.
struct SweptPages {
    began: Mono,
    /// By when a sweep of this archiver first saw them.
    unnamed: BTreeMap<ObjectName, Mono>,
}

impl<H: LaneHost> Housekeeping<H> {
    /// Lists this epoch once and removes what nothing names.
    pub(super) async fn sweep(&self, series: &mut StepSeries) -> Result<(), StepError> {
        let shared = &*self.shared;
        let term = shared.term()?;
        let prefix = shared.bucket.home.prefix();
        let mut after: Option<ObjectKey> = None;
        let is_missed = |id: &PartitionId, _: &mut Mono| shared.host.whereabouts(*id) == Whereabouts::Nowhere;
        self.lists.borrow_mut().missed.retain(is_missed);
        let grace = i64::try_from(shared.config.delete_grace.as_millis()).unwrap_or(i64::MAX);
        let now = self.store_time().await?;
        let mut names = NamesInPages::default();
        let mut pages = SweptPages { began: shared.env.clock.now(), unnamed: BTreeMap::new() };
        loop {
            let after_key = after.as_ref().map(ObjectKey::as_str);
            let listed = shared.bucket.store.list(&prefix, after_key, LIST_MAX).await?;
            let more = listed.len() == LIST_MAX;
            after = listed.last().map(|last| last.key.clone());
            let old = listed.into_iter().filter(|object| now.since_ms(object.modified) >= grace);
            let mut candidates: Vec<ObjectName> = old.filter_map(|object| ObjectName::parse(&object.key)).collect();
            candidates.retain(|object| object.home == shared.bucket.home);
            self.retain_unnamed(&mut candidates, term);
            self.retain_unnamed_by_pages(&mut candidates, &mut names, series).await?;
            self.retain_unnamed_by_cuts(&mut candidates, &mut pages, series).await?;
            if !candidates.is_empty() {
                shared.confirm_leadership(term).await?;
                let is_nowhere = |partition| shared.host.whereabouts(partition) == Whereabouts::Nowhere;
                if candidates.iter().filter_map(ObjectName::owner).any(is_nowhere) {
                    shared.host.confirm_topics().await?;
                }
                self.retain_unnamed(&mut candidates, term);
                let count = candidates.len() as u64;
                tracing::info!(lane = %shared.host.lane(), count, "objects that nothing names are removed");
                shared.bucket.store.delete(candidates.iter().map(ObjectName::key).collect()).await?;
                shared.note(|status| status.swept += count);
                series.note(Ok(count > 0))?;
            }
            if !more {
                self.lists.borrow_mut().unnamed_pages = pages.unnamed;
                return Ok(());
            }
        }
    }

    /// The store's clock: the time that it gives to an object which is written now.
    async fn store_time(&self) -> Result<TimestampMs, StepError> {
        let shared = &*self.shared;
        let key = shared.bucket.root.name.clock_key(shared.host.lane());
        let body = Bytes::from_static(b"The time of this object is the store's clock at the last sweep of a lane.\n");
        shared.bucket.store.put(&key, body, PutMode::Overwrite).await?;
        Ok(shared.bucket.store.head(&key).await?.modified)
    }

    /// Leaves those of `objects` that are this lane's to judge and that neither the lane nor the resident state of
    /// their partition names. Spill pages are not looked at.
    fn retain_unnamed(&self, objects: &mut Vec<ObjectName>, term: Term) {
        let parts = self.shared.host.with_lane(LaneManifest::parts);
        let mut owned: BTreeMap<PartitionId, BTreeSet<ObjectName>> = BTreeMap::new();
        for object in objects.iter() {
            if let Some(partition) = object.owner() {
                owned.entry(partition).or_default().insert(*object);
            }
        }
        let orphans = owned.into_iter().flat_map(|(partition, objects)| self.orphans(partition, objects)).collect();
        objects.retain(|object| self.is_unnamed(object, &parts, &orphans, term));
    }

    /// `parts` are the lane's; `orphans` are what no partition names.
    fn is_unnamed(
        &self,
        object: &ObjectName,
        parts: &BTreeSet<ObjectName>,
        orphans: &BTreeSet<ObjectName>,
        term: Term,
    ) -> bool {
        let host = &*self.shared.host;
        let lane_id = host.lane();
        match object.kind {
            ObjectKind::Bundle { lane, .. } => lane == lane_id && !host.with_lane(|lane| lane.names(object)),
            ObjectKind::Gathered { lane, term: of, .. } | ObjectKind::Page { lane, term: of, .. } => {
                lane == lane_id && of <= term && !host.with_lane(|lane| lane.names(object))
            }
            ObjectKind::Part { lane, sequence, term: of, .. } => {
                let is_settled = |lane: &LaneManifest| sequence <= lane.last;
                let is_free = host.with_lane(is_settled) && !parts.contains(object);
                lane == lane_id && of <= term && is_free && orphans.contains(object)
            }
            ObjectKind::Segment { term: of, .. } => of <= term && orphans.contains(object),
            ObjectKind::Spill { .. } => orphans.contains(object),
            ObjectKind::Catalogue | ObjectKind::LaneManifest { .. } | ObjectKind::Cut { .. } => false,
        }
    }

    /// Those of a partition's objects that its state does not name, if this lane carries it; all of them, if no lane
    /// has carried it for long.
    fn orphans(&self, partition: PartitionId, objects: BTreeSet<ObjectName>) -> BTreeSet<ObjectName> {
        match self.shared.host.whereabouts(partition) {
            Whereabouts::Elsewhere => BTreeSet::new(),
            Whereabouts::Nowhere if self.is_long_missed(partition) => objects,
            Whereabouts::Nowhere => BTreeSet::new(),
            Whereabouts::Here => {
                let unnamed = |manifest: &PartitionManifest| manifest.unnamed(objects);
                self.shared.host.with_partition(partition, unnamed).unwrap_or_default()
            }
        }
    }

    /// Has no lane carried the partition for so long that its lane, whichever it was, has published that and waited the
    /// grace? A lane that still has it to clean up deletes its objects itself.
    fn is_long_missed(&self, partition: PartitionId) -> bool {
        let now = self.shared.env.clock.now();
        let since = *self.lists.borrow_mut().missed.entry(partition).or_insert(now);
        now.since(since) >= self.shared.config.delete_grace + self.shared.config.publish_interval
    }

    /// Leaves those of `objects` that no spill page names. Objects of a partition whose pages cannot be read now are
    /// left for the next sweep.
    async fn retain_unnamed_by_pages(
        &self,
        objects: &mut Vec<ObjectName>,
        names: &mut NamesInPages,
        series: &mut StepSeries,
    ) -> Result<(), StepError> {
        let owners: BTreeSet<PartitionId> = objects.iter().filter_map(ObjectName::owner).collect();
        for partition in owners {
            let pages = self.spill_pages(partition);
            if !names.is_current(partition, &pages) && !names.unread.contains(&partition) {
                match self.named_by_pages(partition, &pages).await {
                    Ok(found) => names.insert(partition, pages, found),
                    Err(error) => {
                        series.note(Err(error))?;
                        names.of.remove(&partition);
                        names.unread.insert(partition);
                    }
                }
            }
            objects.retain(|object| object.owner() != Some(partition) || !names.may_name(partition, object));
        }
        Ok(())
    }

    /// Of pages of lane manifests, leaves those that no kept cut names and no cut that is being made will.
    async fn retain_unnamed_by_cuts(
        &self,
        objects: &mut Vec<ObjectName>,
        pages: &mut SweptPages,
        series: &mut StepSeries,
    ) -> Result<(), StepError> {
        let grace = self.shared.config.delete_grace;
        for page in objects.iter().filter(|object| is_manifest_page(object)) {
            let seen = self.lists.borrow().unnamed_pages.get(page).copied();
            pages.unnamed.insert(*page, seen.unwrap_or(pages.began));
        }
        let is_old = |page: &ObjectName| pages.unnamed.get(page).is_some_and(|seen| pages.began.since(*seen) >= grace);
        objects.retain(|object| !is_manifest_page(object) || is_old(object));
        if objects.iter().any(is_manifest_page) {
            series.note(self.read_pages_in_cuts().await.map(|()| false))?;
        }
        let in_cuts = self.pages_in_cuts();
        let is_free = |page: &ObjectName| in_cuts.as_ref().is_some_and(|cuts| !cuts.name(page));
        objects.retain(|object| !is_manifest_page(object) || is_free(object));
        Ok(())
    }

    fn spill_pages(&self, partition: PartitionId) -> Vec<SpillRow> {
        self.shared.host.with_partition(partition, |manifest| manifest.spilled.clone()).unwrap_or_default()
    }

    /// Objects and pages that `pages` of the partition name, of all levels.
    async fn named_by_pages(&self, partition: PartitionId, pages: &[SpillRow]) -> Result<BTreeSet<u64>, StepError> {
        let mut named = BTreeSet::new();
        let mut left: Vec<Step> = pages.iter().copied().map(Step::Page).collect();
        while let Some(step) = left.pop() {
            let Step::Page(page) = step else { continue };
            let read = self.shared.indexes.page(partition, &page).await;
            let content = read.map_err(|error| StepError::Later(format!("page {}: {error}", page.page)))?;
            named.extend(content.named().iter().map(hash));
            if let SpillPage::Pages(pages) = &*content {
                left.extend(pages.iter().map(|page| Step::Page(*page)));
            }
        }
        Ok(named)
    }
}
