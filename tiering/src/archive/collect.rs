//! Retention, topic deletion, and the way of objects out of the bucket: forgotten → published → grace → deleted.
//!
//! Owns: those steps. Does not own: what retention decides (`retention`), the guards (`manifest`). Shard-local. A
//! partition that cannot be worked on now (a page that does not read) does not hold up the others.

use tidewater_storage::model::{Offset, PartitionId};

use super::host::LaneHost;
use super::housekeeping::Housekeeping;
use super::steps::{StepError, StepSeries};
use crate::fetch::indexes::IndexError;
use crate::fetch::locate::{Step, unfold};
use crate::keys::{ObjectKey, ObjectName};
use crate::manifest::{
    Command, Deleted, Grace, PartitionManifest, Row, SpillPage, SpillRow, Trimmed, Unfolded, is_manifest_page,
    plan_spill,
};
use crate::retention::{self, Extent};
use crate::store::{PutMode, StoreError};

/// Objects deleted in one step: one request to stores that take a thousand.
const DELETE_BATCH: usize = 1000;
/// Pages opened to look at single rows of the oldest; each is one level down.
const LEVELS_MAX: usize = 8;

fn extent(row: &Row) -> Extent {
    Extent { offsets: row.offsets, bytes: row.bytes, max_timestamp: row.max_timestamp }
}

/// Objects that may be deleted: of the lane, each with its parts, and of partitions.
struct Due {
    lane: Vec<(ObjectName, Vec<ObjectName>)>,
    partitions: Vec<(PartitionId, Vec<ObjectName>)>,
}

impl Due {
    fn is_empty(&self) -> bool {
        self.lane.is_empty() && self.partitions.is_empty()
    }
}

fn page_extent(page: &SpillRow) -> Extent {
    Extent { offsets: page.offsets, bytes: page.bytes, max_timestamp: page.max_timestamp }
}

impl<H: LaneHost> Housekeeping<H> {
    /// Moves log starts as `retention.ms` and `retention.bytes` ask.
    pub(super) async fn retain(&self, series: &mut StepSeries) -> Result<(), StepError> {
        let partitions = self.lists.borrow_mut().retention_now(self.shared.now());
        for partition in partitions {
            if series.note(self.retain_one(partition).await)? {
                self.lists.borrow_mut().retention.remove(&partition);
            }
        }
        Ok(())
    }

    /// Looks at one partition, and notes when its oldest records will be too old.
    async fn retain_one(&self, partition: PartitionId) -> Result<bool, StepError> {
        let moved = self.follow_log_start(partition).await?;
        self.lists.borrow_mut().due.set(partition, None);
        let Some(policy) = self.shared.host.retention(partition) else { return Ok(moved) };
        if policy.retention_ms.is_none() && policy.retention_bytes.is_none() {
            return Ok(moved);
        }
        let Some(extents) = self.extents(partition).await? else { return Ok(moved) };
        let seen = self.shared.host.with_partition(partition, |m| (m.log_start, m.archived_end));
        let Some((log_start, archived_end)) = seen else { return Ok(moved) };
        let tail = self.shared.host.bytes_after(partition, archived_end);
        if let Some((to, cause)) = retention::plan(&extents, tail, log_start, self.shared.now(), policy) {
            tracing::info!(%partition, %to, ?cause, "log start moves");
            self.trim_to(partition, to).await?;
            return Ok(true);
        }
        let due = retention::due(&extents, log_start, policy);
        self.lists.borrow_mut().due.set(partition, due);
        Ok(moved)
    }

    /// Lets the manifest follow a log start that was moved by DeleteRecords.
    async fn follow_log_start(&self, partition: PartitionId) -> Result<bool, StepError> {
        let held = self.shared.host.with_partition(partition, |m| m.log_start);
        let (Some(wanted), Some(held)) = (self.shared.host.wanted_log_start(partition), held) else { return Ok(false) };
        if wanted <= held {
            return Ok(false);
        }
        self.trim_to(partition, wanted).await?;
        Ok(true)
    }

    /// The ranges that the partition has in the bucket. The oldest page is opened down to its rows, so that single rows
    /// can go.
    async fn extents(&self, partition: PartitionId) -> Result<Option<Vec<Extent>>, StepError> {
        let seen =
            self.shared.host.with_partition(partition, |m| (m.spilled.clone(), m.rows.iter().map(extent).collect()));
        let Some((spilled, rows)): Option<(Vec<SpillRow>, Vec<Extent>)> = seen else { return Ok(None) };
        let mut steps: Vec<Step> = spilled.iter().map(|page| Step::Page(*page)).collect();
        for _ in 0..LEVELS_MAX {
            let Some(Step::Page(oldest)) = steps.first().copied() else { break };
            let page = self.page(partition, &oldest).await?;
            steps.splice(0..1, unfold(&page, Offset::ZERO));
        }
        let pages = steps.iter().map(|step| match step {
            Step::Row(row) => extent(row),
            Step::Page(page) => page_extent(page),
        });
        Ok(Some(pages.chain(rows).collect()))
    }

    async fn page(&self, partition: PartitionId, row: &SpillRow) -> Result<SpillPage, StepError> {
        let read = self.shared.indexes.page(partition, row).await;
        read.map(|page| (*page).clone()).map_err(|error| StepError::Later(format!("page {}: {error}", row.page)))
    }

    /// A page that is to go; `None` if it is lost for good and its topic is deleted, so that its content is not needed.
    /// The partition's own objects that it names are then left to the sweeper; bundles and gathered objects stay.
    async fn page_to_go(&self, partition: PartitionId, row: &SpillRow) -> Result<Option<SpillPage>, StepError> {
        if self.shared.host.with_partition(partition, |m| m.dropped) != Some(true) {
            return self.page(partition, row).await.map(Some);
        }
        let is_lost = |error: &IndexError| {
            matches!(error, IndexError::Format(_) | IndexError::Store(StoreError::NotFound { .. }))
        };
        let read = async || match self.shared.indexes.page(partition, row).await {
            Err(IndexError::Store(error @ StoreError::NotFound { .. })) => {
                Err(IndexError::Store(self.shared.unless_away(error).await))
            }
            read => read,
        };
        match self.shared.read_again(is_lost, read).await {
            Ok(page) => Ok(Some((*page).clone())),
            Err(error) if is_lost(&error) => {
                tracing::error!(%partition, page = %row.page, %error, "a page of a deleted topic is lost; bundles it names stay in the bucket");
                Ok(None)
            }
            Err(error) => Err(StepError::Later(format!("page {}: {error}", row.page))),
        }
    }

    /// Moves the log start to `to`, page by page: a page of pages is opened first, a page of rows goes with what it
    /// names.
    async fn trim_to(&self, partition: PartitionId, to: Offset) -> Result<(), StepError> {
        loop {
            let oldest = self.shared.host.with_partition(partition, |m| {
                let nested = m.spilled.first().filter(|page| page.level() > 0 && page.offsets.start < to).copied();
                (nested, m.spilled.first().filter(|page| page.offsets.end <= to).copied())
            });
            match oldest {
                None => return Ok(()),
                Some((Some(nested), _)) => match self.page_to_go(partition, &nested).await? {
                    Some(content) => {
                        self.shared
                            .propose(Command::Unfolded(Unfolded { partition, page: nested.page, content }))
                            .await?;
                    }
                    None => self.trim_page(partition, &nested, Vec::new()).await?,
                },
                Some((None, Some(page))) => {
                    let content = self.page_to_go(partition, &page).await?;
                    self.trim_page(partition, &page, content.map(|page| page.named()).unwrap_or_default()).await?;
                }
                Some((None, None)) => {
                    self.shared
                        .propose(Command::Trimmed(Trimmed { partition, log_start: to, pages: Vec::new() }))
                        .await?;
                    self.unpublished.set(true);
                    return Ok(());
                }
            }
            self.unpublished.set(true);
        }
    }

    /// Moves the log start past the oldest page, which goes with the objects it names.
    async fn trim_page(
        &self,
        partition: PartitionId,
        page: &SpillRow,
        named: Vec<ObjectName>,
    ) -> Result<(), StepError> {
        let (log_start, pages) = (page.offsets.end, vec![(page.page, named)]);
        self.shared.propose(Command::Trimmed(Trimmed { partition, log_start, pages })).await
    }

    /// Partitions of deleted topics: all their rows and pages go.
    pub(super) async fn drop_topics(&self, series: &mut StepSeries) -> Result<(), StepError> {
        for partition in self.shared.host.dropped_partitions() {
            series.note(self.drop_partition(partition).await)?;
        }
        Ok(())
    }

    async fn drop_partition(&self, partition: PartitionId) -> Result<bool, StepError> {
        let seen = |m: &PartitionManifest| (m.dropped, m.rows.is_empty() && m.spilled.is_empty(), m.archived_end);
        let Some((known, empty, end)) = self.shared.host.with_partition(partition, seen) else { return Ok(false) };
        if !known {
            self.shared.propose(Command::Dropped { partition }).await?;
            self.unpublished.set(true);
        }
        if !empty {
            self.trim_to(partition, end).await?;
        }
        Ok(!known || !empty)
    }

    /// Writes the oldest rows of crowded manifests into pages. A partition stays on the list until it has none to
    /// write.
    pub(super) async fn spill(&self, series: &mut StepSeries) -> Result<(), StepError> {
        let partitions: Vec<PartitionId> = self.lists.borrow().spills.iter().copied().collect();
        for partition in partitions {
            let spilled = self.spill_one(partition).await;
            if matches!(spilled, Ok(false)) {
                self.lists.borrow_mut().spills.remove(&partition);
            }
            series.note(spilled)?;
        }
        Ok(())
    }

    async fn spill_one(&self, partition: PartitionId) -> Result<bool, StepError> {
        let (home, nonce) = (self.shared.bucket.home, self.shared.nonce());
        let planned = self.shared.host.with_partition(partition, |m| (!m.dropped).then(|| plan_spill(m, home, nonce)));
        let Some(Some(Some((object, command)))) = planned else { return Ok(false) };
        self.shared.bucket.store.put(&command.page.page.key(), object, PutMode::IfAbsent).await?;
        self.shared.propose(Command::Spilled(command)).await?;
        self.unpublished.set(true);
        Ok(true)
    }

    /// Declares the intent to delete bundles and gathered objects that no row names any more. Bundles that followers
    /// may still ask for wait for the publication that moves `follow_from` past them. This reads the rows of all
    /// partitions, so it runs once after a publication and not after every object that replaces rows: a forgotten
    /// object waits for the next publication in any case.
    pub(super) async fn forget(&self) -> Result<bool, StepError> {
        if !self.unnamed_to_find.replace(false) {
            return Ok(false);
        }
        let mut objects = self.shared.host.with_manifests(|lane, partitions| {
            let mut unnamed = lane.unnamed(partitions.iter().copied());
            unnamed.retain(|object| !lane.must_follow(object));
            unnamed
        });
        let more = objects.len() > DELETE_BATCH;
        objects.truncate(DELETE_BATCH);
        if objects.is_empty() {
            self.ask_for_publication();
            return Ok(false);
        }
        self.unnamed_to_find.set(true);
        self.shared.propose(Command::Forgotten { objects }).await?;
        self.unnamed_to_find.set(more);
        self.unpublished.set(true);
        Ok(true)
    }

    /// Objects that wait for a publication to forget them make one due.
    fn ask_for_publication(&self) {
        let waiting = self.shared.host.with_manifests(|lane, partitions| {
            let unseen = |intended| lane.forgotten_since(intended).is_none();
            let shared = lane.pending.iter().filter(|(object, _)| !is_manifest_page(object));
            let own = partitions.iter().flat_map(|manifest| &manifest.pending);
            shared.map(|(_, pending)| pending.intended).chain(own.map(|(_, at)| *at)).any(unseen)
        });
        if waiting {
            self.unpublished.set(true);
        }
    }

    /// Deletes what a published manifest forgot long enough ago, then says so. Between planning and the DELETE the
    /// leadership is confirmed: a leader that was cut off for longer than the grace deletes nothing.
    pub(super) async fn delete(&self) -> Result<bool, StepError> {
        let term = self.shared.term()?;
        let grace = self.publication_ages.borrow().grace(
            self.shared.delete_grace(),
            self.shared.now(),
            self.shared.env.clock.now(),
        );
        let due = self.due(Grace { horizon: self.horizon_read().flatten(), ..grace }, true);
        if due.is_empty() {
            return Ok(false);
        }
        let read = match due.lane.iter().any(|(object, _)| is_manifest_page(object)) {
            true => self.read_pages_in_cuts().await,
            false => Ok(()),
        };
        let due = self.due(Grace { horizon: self.horizon().await?, ..grace }, false);
        if due.is_empty() {
            return read.map(|()| false);
        }
        let shared = due.lane.iter().flat_map(|(object, parts)| parts.iter().chain([object]));
        let own = due.partitions.iter().flat_map(|(_, objects)| objects);
        let keys: Vec<ObjectKey> = shared.chain(own).map(ObjectName::key).collect();
        let count = keys.len() as u64;
        self.shared.confirm_leadership(term).await?;
        self.shared.bucket.store.delete(keys).await?;
        let lane = due.lane.into_iter().map(|(object, _)| object).collect();
        self.shared.propose(Command::Deleted(Deleted { lane, partitions: due.partitions })).await?;
        self.shared.note(|status| status.deleted += count);
        Ok(true)
    }

    /// What may be deleted, at most a batch. Partitions without pending objects leave the list. `unread_pages`: pages
    /// of manifests are in it although the pages that cuts name have to be read first.
    fn due(&self, grace: Grace, unread_pages: bool) -> Due {
        let mut lane = self.shared.host.with_lane(|lane| lane.deletable(grace));
        let in_cuts = self.pages_in_cuts();
        let is_free = |page: &ObjectName| in_cuts.as_ref().map_or(unread_pages, |cuts| !cuts.name(page));
        lane.retain(|(object, _)| !is_manifest_page(object) || is_free(object));
        lane.truncate(DELETE_BATCH);
        let mut partitions = Vec::new();
        let mut room = DELETE_BATCH;
        let listed: Vec<PartitionId> = self.lists.borrow().deletes.iter().copied().collect();
        for partition in listed {
            let look = |manifest: &PartitionManifest| {
                let due = self.shared.host.with_lane(|lane| manifest.deletable(lane, grace));
                (!manifest.pending.is_empty()).then_some(due)
            };
            let Some(mut objects) = self.shared.host.with_partition(partition, look).flatten() else {
                self.lists.borrow_mut().deletes.remove(&partition);
                continue;
            };
            objects.truncate(room);
            room -= objects.len();
            if !objects.is_empty() {
                partitions.push((partition, objects));
            }
        }
        Due { lane, partitions }
    }

    /// Forgets dropped partitions that have nothing left in the bucket, and takes their topics out of the catalogue.
    pub(super) async fn clean(&self) -> Result<bool, StepError> {
        let mut cleaned = false;
        for partition in self.shared.host.dropped_partitions() {
            let gone = self.shared.host.with_partition(partition, PartitionManifest::is_gone) == Some(true);
            if !gone {
                continue;
            }
            self.shared.catalogue.forget([partition.topic].into(), &|| self.shared.host.catalogue()).await?;
            let _one = self.shared.proposing.lock().await;
            self.shared.host.partition_clean(partition).await?;
            self.unpublished.set(true);
            cleaned = true;
        }
        Ok(cleaned)
    }
}
