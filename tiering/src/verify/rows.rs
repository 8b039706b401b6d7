//! A lane's pages and spill pages: every row of every partition, in order, checked to continue each other.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use tidewater_storage::model::{LaneId, OffsetRange, PartitionId, TopicId};
use tokio::sync::SemaphorePermit;

use super::Run;
use super::damage::{Damage, DamageKind};
use super::lanes::{Lane, is_of_lineage};
use super::named::{At, Named};
use super::object::is_settled;
use super::tail::ArchivedTo;
use crate::fetch::indexes::IndexError;
use crate::fetch::locate::{Step, unfold};
use crate::format::FormatError;
use crate::keys::ObjectName;
use crate::manifest::{
    PageRef, PartitionManifest, PublishedPartition, Row, Source, SpillPage, SpillRow, Violation, check_partition,
    decode_objects, decode_page_unchecked, decode_spill,
};
use crate::store::StoreError;

/// Pages of a lane that are walked at once. Their partition manifests lie in memory meanwhile.
const LANE_PAGES_AT_ONCE: usize = 8;
/// Partitions of a page whose spill pages are read at once.
const PARTITIONS_AT_ONCE: usize = 16;
/// Spill pages of a partition that are read at once. All of them lie in memory until their rows are noted.
const SPILL_PAGES_AT_ONCE: usize = super::PAGES_AT_ONCE;

/// What a walk over a lane's pages found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) ends: BTreeMap<PartitionId, ArchivedTo>,
    pub(super) topics: BTreeSet<TopicId>,
    pub(super) partitions: u64,
    pub(super) rows: u64,
}

/// How a walk over pages goes.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    /// Gets what rows name.
    pub(super) named: &'a RefCell<Named>,
    pub(super) faults: Faults<'a>,
    /// Pages that were walked already, which are passed over: cuts have most of theirs in common.
    pub(super) seen: Option<&'a RefCell<BTreeSet<ObjectName>>>,
    /// Pages are noted in `named`, too.
    pub(super) names_pages: bool,
}

/// What becomes of damage of pages.
#[derive(Clone, Copy)]
pub(super) enum Faults<'a> {
    /// It is reported, if the lane's manifest of now still names the page.
    Report,
    /// It is kept for the caller to judge.
    Keep(&'a RefCell<Vec<BadPage>>),
    /// Another walk reports it.
    Pass,
}

impl<'a> Walk<'a> {
    /// Over the pages of a lane as it is now.
    pub(super) fn of_lane(named: &'a RefCell<Named>, report: bool) -> Self {
        let faults = if report { Faults::Report } else { Faults::Pass };
        Self { named, faults, seen: None, names_pages: false }
    }

    fn reports(&self) -> bool {
        matches!(self.faults, Faults::Report)
    }

    /// Is the page to be walked?
    fn enter(&self, page: ObjectName) -> bool {
        self.seen.is_none_or(|seen| seen.borrow_mut().insert(page))
    }

    fn name_page(&self, lane: LaneId, page: ObjectName, range: Option<(PartitionId, OffsetRange)>) {
        if self.names_pages {
            self.named.borrow_mut().add(lane, page, At::Page, range);
        }
    }
}

impl Run<'_> {
    /// Notes what every row of the lane's pages names.
    pub(super) async fn rows_of(&self, lane: &Lane, walk: Walk<'_>) -> Walked {
        let pages = lane.published.iter().flat_map(|published| &published.pages);
        let pages = stream::iter(pages.filter(|page| walk.enter(page.page)));
        let walks = pages.map(|page| self.rows_of_page(lane, page, walk));
        let mut walks = std::pin::pin!(walks.buffered(LANE_PAGES_AT_ONCE));
        let mut out = Walked::default();
        while let Some(walked) = walks.next().await {
            out.partitions += walked.partitions;
            out.rows += walked.rows;
            out.topics.extend(walked.topics);
            for (partition, to) in walked.ends {
                out.ends.entry(partition).or_insert(to);
            }
        }
        out
    }

    /// Reads the pages that list the lane's objects (`PublishedLane::objects`). What is in them is needed by no
    /// reader, and by a restore.
    pub(super) async fn object_pages_of(&self, lane: &Lane, walk: Walk<'_>) {
        let pages = lane.published.iter().flat_map(|published| published.objects.iter().flatten());
        let pages = stream::iter(pages.filter(|page| walk.enter(page.page)));
        let mut reads = std::pin::pin!(
            pages
                .map(|page| async move {
                    walk.name_page(lane.lane, page.page, None);
                    let _permit = self.page_permits(1).await;
                    self.page(&page.page, |object| decode_objects(page, object)).await.err().map(|bad| (page, bad))
                })
                .buffered(LANE_PAGES_AT_ONCE)
        );
        while let Some(read) = reads.next().await {
            if let Some((page, bad)) = read {
                let content = format!("objects {} to {} of lane {} are in it", page.first, page.last, lane.lane);
                self.bad_page(lane, walk, Some(&page.page), bad.with(&content, None)).await;
            }
        }
    }

    async fn rows_of_page(&self, lane: &Lane, page: &PageRef, walk: Walk<'_>) -> Walked {
        let mut out = Walked::default();
        walk.name_page(lane.lane, page.page, None);
        let read = {
            let _permit = self.page_permits(1).await;
            self.page(&page.page, |object| decode_page_unchecked(page, object)).await
        };
        let partitions = match read {
            Ok(partitions) => partitions,
            Err(bad) => {
                let content = format!("partitions {} to {} are in it", page.first, page.last);
                self.bad_page(lane, walk, Some(&page.page), bad.with(&content, None)).await;
                return out;
            }
        };
        for PublishedPartition { manifest, .. } in &partitions {
            out.partitions += 1;
            if let Err(violation) = check_partition(manifest) {
                let bad = BadPage::Damaged(contradiction(&page.page, &violation));
                self.bad_page(lane, walk, None, bad).await;
            }
            let PartitionManifest { archived_end: end, log_start, dropped, .. } = *manifest;
            out.ends.insert(manifest.id, ArchivedTo { end, log_start, dropped });
            if manifest.bytes() > 0 && !dropped {
                out.topics.insert(manifest.id.topic);
            }
        }
        let living = partitions.iter().map(|published| &published.manifest).filter(|manifest| !manifest.dropped);
        let walks = stream::iter(living).map(|manifest| {
            if walk.reports() {
                self.advance(|progress| progress.bytes_total += manifest.bytes());
            }
            self.rows_of_partition(lane, manifest, walk)
        });
        out.rows = walks.buffered(PARTITIONS_AT_ONCE).fold(0, |sum, rows| async move { sum + rows }).await;
        out
    }

    async fn rows_of_partition(&self, lane: &Lane, manifest: &PartitionManifest, walk: Walk<'_>) -> u64 {
        let mut rows = 0;
        let mut left: VecDeque<Step> = manifest.spilled.iter().copied().map(Step::Page).collect();
        left.extend(manifest.rows.iter().copied().map(Step::Row));
        while let Some(step) = left.pop_front() {
            let first = match step {
                Step::Row(row) => {
                    rows += 1;
                    self.name_row(lane, manifest.id, &row, walk);
                    continue;
                }
                Step::Page(page) => page,
            };
            // The pages that follow it are read with it.
            let mut pages = vec![first];
            while let (Some(Step::Page(page)), true) = (left.front().copied(), pages.len() < SPILL_PAGES_AT_ONCE) {
                pages.push(page);
                left.pop_front();
            }
            pages.retain(|page| walk.enter(page.page));
            for page in &pages {
                walk.name_page(lane.lane, page.page, Some((manifest.id, page.offsets)));
            }
            // All permits at once: partitions that each hold some and wait for more would wait for ever.
            let _permits = self.page_permits(pages.len()).await;
            let reads = stream::iter(pages.clone()).map(|page| self.spill(manifest.id, page));
            let read: Vec<Result<SpillPage, BadPage>> = reads.buffered(SPILL_PAGES_AT_ONCE).collect().await;
            for (row, page) in pages.into_iter().zip(read).rev() {
                match page {
                    Ok(page) => {
                        for step in unfold(&page, row.offsets.start).into_iter().rev() {
                            left.push_front(step);
                        }
                    }
                    Err(bad) => {
                        let bad = bad.with("it holds rows", Some((manifest.id, row.offsets)));
                        self.bad_page(lane, walk, None, bad).await;
                    }
                }
            }
        }
        rows
    }

    fn name_row(&self, lane: &Lane, partition: PartitionId, row: &Row, walk: Walk<'_>) {
        let object = row.object();
        let is_others = object.owner().is_some_and(|owner| owner != partition);
        if is_others || !is_of_lineage(lane.home, &object) {
            // A cut has such a row only if a manifest had it.
            if walk.reports() {
                let reason = format!("a row of {partition} names it, which is not of its lineage");
                self.find(Damage::new(DamageKind::Foreign, &object, reason).of([(partition, row.offsets)]));
            }
            return;
        }
        let at = match row.source {
            Source::Bundle(_) => At::Bundle,
            Source::Object { index, .. } => At::Index(index),
        };
        walk.named.borrow_mut().add(lane.lane, object, at, Some((partition, row.offsets)));
    }

    /// A spill page that covers what its row says, of lower level than the page it was found in.
    async fn spill(&self, partition: PartitionId, row: SpillRow) -> Result<SpillPage, BadPage> {
        let page = self.page(&row.page, |object| decode_spill(partition, row.crc, object)).await?;
        if page.covers() != Some(row.offsets) {
            let covers = page.covers().unwrap_or_default();
            let reason = format!("it covers {covers} of {partition}, the row that names it {}", row.offsets);
            return Err(BadPage::Damaged(Damage::new(DamageKind::Contradiction, &row.page, reason)));
        }
        match &page {
            SpillPage::Pages(pages) if pages.iter().any(|page| page.level() >= row.level()) => {
                let reason = "it names pages that are not below it";
                Err(BadPage::Damaged(Damage::new(DamageKind::Contradiction, &row.page, reason)))
            }
            _ => Ok(page),
        }
    }

    /// Permits for so many pages, of at most [`super::PAGES_AT_ONCE`].
    async fn page_permits(&self, pages: usize) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed.
        self.pages.acquire_many(u32::try_from(pages).unwrap_or(u32::MAX)).await.ok()
    }

    /// Reads a page whole and decodes it; damaged only after several reads.
    async fn page<T>(
        &self,
        name: &ObjectName,
        decode: impl Fn(&Bytes) -> Result<T, FormatError>,
    ) -> Result<T, BadPage> {
        let mut tries = 0;
        let error = loop {
            tries += 1;
            let read = match self.store.get(&name.key(), None).await {
                Ok(got) => decode(&got.body).map_err(IndexError::Format),
                Err(error) => Err(IndexError::Store(error)),
            };
            if is_settled(&read, tries) {
                match read {
                    Ok(content) => return Ok(content),
                    Err(error) => break error,
                }
            }
        };
        let damaged = |kind, reason: String| BadPage::Damaged(Damage::new(kind, name, reason));
        Err(match error {
            IndexError::Store(StoreError::NotFound { .. }) => {
                damaged(DamageKind::Missing, "a manifest names it".into())
            }
            IndexError::Store(error) => BadPage::Unread(*name, error),
            IndexError::Format(error @ FormatError::Checksum { .. }) => {
                damaged(DamageKind::Checksum, error.to_string())
            }
            IndexError::Format(error) => damaged(DamageKind::Unreadable, error.to_string()),
        })
    }

    /// What a walk does with a page that is bad. `page`: it counts only as long as the lane's manifest names this page.
    async fn bad_page(&self, lane: &Lane, walk: Walk<'_>, page: Option<&ObjectName>, bad: BadPage) {
        match walk.faults {
            Faults::Report => {
                if let Some(page) = page
                    && !self.names_page(lane, page).await
                {
                    return;
                }
                match bad {
                    BadPage::Damaged(damage) => self.find(damage),
                    BadPage::Unread(page, error) => self.unread(&page, &error),
                }
            }
            Faults::Keep(kept) => kept.borrow_mut().push(bad),
            Faults::Pass => {}
        }
    }

    /// Is the page still one of the lane's, by the manifest as it is now?
    async fn names_page(&self, lane: &Lane, page: &ObjectName) -> bool {
        let again = self.lane(lane.home, lane.lane, false).await.and_then(|again| again.published);
        again.is_none_or(|published| {
            let objects = published.objects.iter().flatten().map(|named| named.page);
            published.pages.iter().map(|named| named.page).chain(objects).any(|named| named == *page)
        })
    }
}

/// A page without which rows are not known.
pub(super) enum BadPage {
    Damaged(Damage),
    Unread(ObjectName, StoreError),
}

impl BadPage {
    /// With what is in it.
    fn with(self, content: &str, range: Option<(PartitionId, OffsetRange)>) -> Self {
        match self {
            Self::Damaged(damage) => {
                let reason = format!("{}; {content}", damage.reason);
                Self::Damaged(Damage { reason, ..damage }.of(range))
            }
            Self::Unread(..) => self,
        }
    }
}

fn contradiction(page: &ObjectName, violation: &Violation) -> Damage {
    let reason = violation.to_string();
    match violation {
        Violation::NotContiguous { partition, before, after } if after.start > before.end => {
            let gap = OffsetRange::new(before.end, after.start);
            Damage::new(DamageKind::Gap, page, reason).of([(*partition, gap)])
        }
        Violation::NotContiguous { partition, before, after } if after.start < before.end => {
            let twice = OffsetRange::new(after.start, before.end.min(after.end.max(after.start)));
            Damage::new(DamageKind::Overlap, page, reason).of([(*partition, twice)])
        }
        Violation::NotContiguous { partition, before, after } => {
            // Nothing between the last row and the archived end.
            let rest = OffsetRange::new(before.end, after.end);
            Damage::new(DamageKind::Gap, page, reason).of([(*partition, rest)])
        }
        _ => Damage::new(DamageKind::Contradiction, page, reason),
    }
}
