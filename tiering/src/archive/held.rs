//! What cuts hold: how far this lane may delete, and which pages only cuts name.
//!
//! Owns: reading the index of cuts and the cuts, how long an answer counts. Does not own: what the index means
//! ([`crate::cuts`], which says why an answer of this age is new enough). Shard-local.

use std::cell::Ref;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::LogIndex;

use super::host::LaneHost;
use super::housekeeping::Housekeeping;
use super::steps::StepError;
use crate::cuts::{Cut, CutEntry, CutIndex, part_of, read_index};
use crate::format::FormatError;
use crate::keys::ObjectName;
use crate::manifest::PublishedLane;
use crate::restore::RestoreError;
use crate::store::{PutMode, StoreError};

/// An answer is asked for again after this long at the latest, so that what cuts held goes soon after their release.
const READ_AGAIN: Duration = Duration::from_secs(300);

/// Pages of the lane's manifests in kept cuts.
#[derive(Debug, Default)]
pub(super) struct PagesInCuts {
    /// When the index was read that this goes by.
    read: Option<Mono>,
    /// By the cut's number.
    of: BTreeMap<u64, BTreeSet<ObjectName>>,
}

impl PagesInCuts {
    /// Does a kept cut name the page?
    pub(super) fn name(&self, page: &ObjectName) -> bool {
        self.of.values().any(|named| named.contains(page))
    }
}

impl<H: LaneHost> Housekeeping<H> {
    /// What [`Housekeeping::horizon`] says without a request; `None`: the index has to be read first.
    pub(super) fn horizon_read(&self) -> Option<Option<LogIndex>> {
        let counts = part_of(self.shared.delete_grace()).min(READ_AGAIN);
        let (read, horizon) = self.cuts_read.get()?;
        (self.shared.env.clock.now().since(read) < counts).then_some(horizon)
    }

    /// The last intent of this lane that no kept cut is in the way of; `None`: there is no cut. An index that
    /// cannot be read lets nothing be deleted.
    pub(super) async fn horizon(&self) -> Result<Option<LogIndex>, StepError> {
        if let Some(horizon) = self.horizon_read() {
            return Ok(horizon);
        }
        // As of before the request: a cut that was noted during it may be missing in the answer.
        let now = self.shared.env.clock.now();
        let horizon = self.index_of_cuts().await?.horizon(self.shared.host.lane());
        self.cuts_read.set(Some((now, horizon)));
        Ok(horizon)
    }

    /// Pages that this lane's manifests in kept cuts name, without a request; `None`: they have to be read first.
    pub(super) fn pages_in_cuts(&self) -> Option<Ref<'_, PagesInCuts>> {
        let counts = part_of(self.shared.delete_grace()).min(READ_AGAIN);
        let is_new = |read| self.shared.env.clock.now().since(read) < counts;
        Ref::filter_map(self.pages_in_cuts.borrow(), |pages| pages.read.is_some_and(is_new).then_some(pages)).ok()
    }

    /// Reads what [`Housekeeping::pages_in_cuts`] answers, unless its answer still counts. A cut is read once: it never
    /// changes. If that lasts so long that the index no longer counts, there is no answer before the next call.
    pub(super) async fn read_pages_in_cuts(&self) -> Result<(), StepError> {
        if self.pages_in_cuts().is_some() {
            return Ok(());
        }
        let now = self.shared.env.clock.now();
        let index = self.index_of_cuts().await?;
        self.cuts_read.set(Some((now, index.horizon(self.shared.host.lane()))));
        let kept = index.cuts;
        let is_kept = |number: &u64| kept.binary_search_by_key(number, |entry| entry.number).is_ok();
        self.pages_in_cuts.borrow_mut().of.retain(|number, _| is_kept(number));
        for entry in kept {
            if !self.pages_in_cuts.borrow().of.contains_key(&entry.number)
                && let Some(pages) = self.pages_in_cut(&entry).await?
            {
                self.pages_in_cuts.borrow_mut().of.insert(entry.number, pages);
            }
        }
        self.pages_in_cuts.borrow_mut().read = Some(now);
        Ok(())
    }

    /// Pages that the lane's manifest in the cut names; `None`: the cut was released meanwhile.
    async fn pages_in_cut(&self, entry: &CutEntry) -> Result<Option<BTreeSet<ObjectName>>, StepError> {
        let (shared, lane) = (&*self.shared, self.shared.host.lane());
        let key = entry.key(shared.bucket.home);
        let object = match shared.bucket.store.get(&key, None).await {
            Ok(got) => got.body,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let later = |error: FormatError| StepError::Later(format!("{key}: {error}"));
        let cut = Cut::decode(&object).map_err(later)?;
        let mut pages = BTreeSet::new();
        for manifest in cut.lanes.iter().filter(|state| state.lane == lane).filter_map(|state| state.manifest.as_ref())
        {
            let published = PublishedLane::decode(manifest).map_err(later)?;
            pages.extend(published.pages.iter().map(|page| page.page));
            pages.extend(published.objects.iter().flatten().map(|page| page.page));
        }
        Ok(Some(pages))
    }

    async fn index_of_cuts(&self) -> Result<CutIndex, StepError> {
        let shared = &*self.shared;
        let (store, home) = (&*shared.bucket.store, shared.bucket.home);
        // That there is no index is believed only of a bucket that has the root, and asked for repeatedly.
        let is_absent = |error: &RestoreError| matches!(error, RestoreError::Store(StoreError::NotFound { .. }));
        let read = shared.read_again(is_absent, async || match read_index(store, home).await? {
            (_, PutMode::IfAbsent) => {
                let absent = StoreError::NotFound { key: home.cuts_key().to_string() };
                Err(RestoreError::Store(shared.unless_away(absent).await))
            }
            (index, _) => Ok(index),
        });
        match read.await {
            Ok(index) => Ok(index),
            // An index is never deleted: one that held something has to come back first, or a new one.
            Err(error) if is_absent(&error) && self.cuts_read.get().is_some_and(|(_, horizon)| horizon.is_some()) => {
                let was = "the index of cuts, which was there before, is not found";
                Err(StepError::Later(format!("nothing is deleted from the bucket: {was}: {error}")))
            }
            Err(error) if is_absent(&error) => Ok(CutIndex::new(home)),
            Err(error) => Err(StepError::Later(format!("nothing is deleted from the bucket: {error}"))),
        }
    }
}
