//! The sweeper: objects of this lane that nothing names, older than the grace, are removed.
//!
//! Owns: the listing and the judgement. Does not own: objects of other epochs, lanes or clusters, the catalogue, cuts.
//! Shard-local. The listing comes first and the state after it: what was named when the object was listed is still in the
//! state or was deleted properly. An upload that is on its way is younger than the grace (`segment::replace` gives up
//! after half of it).

use std::collections::BTreeSet;

use tidewater_storage::env::Mono;
use tidewater_storage::model::PartitionId;

use super::tries::Tries;
use super::{Ended, Inner, LaneHost, StepError, Whereabouts};
use crate::fetch::locate::Step;
use crate::keys::{ObjectKey, ObjectKind, ObjectName};
use crate::manifest::SpillPage;

/// Keys per LIST, and per DELETE.
const LIST_MAX: usize = 1000;

impl<H: LaneHost> Inner<H> {
    /// Lists this epoch once and removes what nobody names.
    pub(super) async fn sweep(&self, tries: &mut Tries) -> Result<(), StepError> {
        let prefix = self.bucket.home.prefix();
        let mut after: Option<ObjectKey> = None;
        let is_missed = |id: &PartitionId, _: &mut Mono| self.host.whereabouts(*id) == Whereabouts::Nowhere;
        self.work.borrow_mut().missed.retain(is_missed);
        loop {
            let after_key = after.as_ref().map(ObjectKey::as_str);
            let listed = self.bucket.store.list(&prefix, after_key, LIST_MAX).await?;
            let more = listed.len() == LIST_MAX;
            after = listed.last().map(|last| last.key.clone());
            let grace = i64::try_from(self.config.delete_grace.as_millis()).unwrap_or(i64::MAX);
            let now = self.now();
            let old = listed.into_iter().filter(|object| now.since_ms(object.modified) >= grace);
            let candidates: Vec<ObjectName> = old.filter_map(|object| ObjectName::parse(&object.key)).collect();
            let garbage = self.garbage(candidates, tries).await?;
            if !garbage.is_empty() {
                tracing::info!(lane = %self.host.lane(), count = garbage.len(), "objects that nothing names are removed");
                let count = garbage.len() as u64;
                self.bucket.store.delete(garbage.iter().map(ObjectName::key).collect()).await?;
                self.note(|status| status.swept += count);
                tries.note(Ok(true))?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Those of `objects` that are this lane's to judge and that nothing names. Those of a partition whose pages cannot be
    /// read now are left for the next time.
    async fn garbage(&self, mut objects: Vec<ObjectName>, tries: &mut Tries) -> Result<Vec<ObjectName>, StepError> {
        objects.retain(|object| object.home == self.bucket.home);
        if objects.is_empty() {
            return Ok(objects);
        }
        let mut pages: BTreeSet<ObjectName> = BTreeSet::new();
        let owners: BTreeSet<PartitionId> = objects.iter().filter_map(owner).collect();
        let mut unknown: BTreeSet<PartitionId> = BTreeSet::new();
        for partition in owners {
            let named = self.named_by_pages(partition).await.map(|named| pages.extend(named));
            if !tries.note(named.map(|()| false))? {
                unknown.insert(partition);
            }
        }
        if self.host.leading().is_none() {
            return Err(StepError::End(Ended::Deposed));
        }
        let lane_id = self.host.lane();
        objects.retain(|object| match object.kind {
            ObjectKind::Bundle { lane, .. }
            | ObjectKind::Part { lane, .. }
            | ObjectKind::Gathered { lane, .. }
            | ObjectKind::Page { lane, .. } => lane == lane_id && !self.host.with_lane(|lane| lane.names(object)),
            ObjectKind::Segment { partition, .. } | ObjectKind::Spill { partition, .. } => {
                !unknown.contains(&partition) && !pages.contains(object) && self.is_orphan(partition, object)
            }
            ObjectKind::Catalogue | ObjectKind::LaneManifest { .. } | ObjectKind::Cut { .. } => false,
        });
        Ok(objects)
    }

    fn is_orphan(&self, partition: PartitionId, object: &ObjectName) -> bool {
        match self.host.whereabouts(partition) {
            Whereabouts::Elsewhere => false,
            Whereabouts::Nowhere => self.is_long_missed(partition),
            Whereabouts::Here => {
                self.host.with_partition(partition, |manifest| {
                    !manifest.names(object) && !manifest.pending.iter().any(|(pending, _)| pending == object)
                }) == Some(true)
            }
        }
    }

    /// Has nobody carried the partition for so long that its lane, whichever it was, has published that and waited the
    /// grace? A lane that still has it to clean up deletes its objects itself.
    fn is_long_missed(&self, partition: PartitionId) -> bool {
        let now = self.env.clock.now();
        let since = *self.work.borrow_mut().missed.entry(partition).or_insert(now);
        now.since(since) >= self.config.delete_grace + self.config.publish_interval
    }

    /// Objects and pages that the partition's spill pages name, of all levels.
    async fn named_by_pages(&self, partition: PartitionId) -> Result<BTreeSet<ObjectName>, StepError> {
        let mut named = BTreeSet::new();
        let spilled = self.host.with_partition(partition, |manifest| manifest.spilled.clone());
        let mut left: Vec<Step> = spilled.unwrap_or_default().into_iter().map(Step::Page).collect();
        while let Some(step) = left.pop() {
            let Step::Page(page) = step else { continue };
            let read = self.indexes.page(partition, &page).await;
            let content = read.map_err(|error| StepError::Later(format!("page {}: {error}", page.page)))?;
            named.extend(content.named());
            if let SpillPage::Pages(pages) = &*content {
                left.extend(pages.iter().map(|page| Step::Page(*page)));
            }
        }
        Ok(named)
    }
}

fn owner(object: &ObjectName) -> Option<PartitionId> {
    match object.kind {
        ObjectKind::Segment { partition, .. } | ObjectKind::Spill { partition, .. } => Some(partition),
        _ => None,
    }
}
