//! Everything of a lane that is not its next bundle, one step after the other: [`Housekeeping`].
//!
//! Owns: the order and cadence of the steps, and the lists of partitions they look at: a partition to which nothing
//! happened is on none of them. Does not own: any step (`parts`, `collect`, `relieve`, `segment`, `gather`, `publish`,
//! `sweep`, `scrub`). Shard-local. A step that fails is logged and tried again in the next round; it does not hold up
//! the others.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::env::{Mono, Sleep};
use tidewater_storage::model::{LogIndex, OffsetRange, PartitionId, TimestampMs};

use super::context::LaneContext;
use super::grace::PublicationAges;
use super::held::PagesInCuts;
use super::host::{LaneHost, Loop};
use super::scrub::ScrubPosition;
use super::status::Ended;
use super::steps::{StepError, StepSeries};
use crate::keys::{ObjectName, Sequence};
use crate::manifest::LaneManifest;
use crate::retention::DueQueue;

/// See the header.
pub(super) struct Housekeeping<H> {
    pub(super) shared: Rc<LaneContext<H>>,
    /// Something happened that readers who start from the manifest should see.
    pub(super) unpublished: Cell<bool>,
    /// A manifest was published since objects that no row names were last looked for.
    pub(super) unnamed_to_find: Cell<bool>,
    pub(super) publication_ages: RefCell<PublicationAges>,
    /// What the index of cuts said, and when it was read: see `held`.
    pub(super) cuts_read: Cell<Option<(Mono, Option<LogIndex>)>>,
    /// Pages of manifests that cuts hold.
    pub(super) pages_in_cuts: RefCell<PagesInCuts>,
    pub(super) lists: RefCell<WorkLists>,
}

/// When the steps that do not run in every round ran last.
#[derive(Default)]
struct LastRuns {
    retention: Option<Mono>,
    sweep: Option<Mono>,
    scrub: Option<Mono>,
    publish: Option<Mono>,
    relief: Option<Mono>,
    gather: Option<Mono>,
}

/// Partitions to look at, by step, and what the steps remember between rounds.
#[derive(Debug, Default)]
pub(super) struct WorkLists {
    /// May have a closed segment that lies in bundles.
    pub(super) segments: BTreeSet<PartitionId>,
    /// May have a crowded manifest.
    pub(super) spills: BTreeSet<PartitionId>,
    /// May have objects of their own that are to be deleted.
    pub(super) deletes: BTreeSet<PartitionId>,
    /// Something happened to them since retention looked.
    pub(super) retention: BTreeSet<PartitionId>,
    /// The others, by the time at which their oldest records are too old.
    pub(super) due: DueQueue,
    /// Gathering passes over them: the store did not give their rows.
    pub(super) unreadable: BTreeSet<PartitionId>,
    /// Ranges of the local log that failed a check although the bucket holds them: no segment object is made of them.
    pub(super) rotten: BTreeMap<PartitionId, Vec<OffsetRange>>,
    /// Bundles whose remaining parts no row will name: see `parts`.
    pub(super) without_part_rows: BTreeSet<ObjectName>,
    /// Where the scrubber goes on.
    pub(super) scrub_from: Option<ScrubPosition>,
    /// Partitions that no lane carries, by when the sweeper first missed them.
    pub(super) missed: BTreeMap<PartitionId, Mono>,
    /// Pages of this lane's manifests that it does not name, by when the sweeper first saw them.
    pub(super) unnamed_pages: BTreeMap<ObjectName, Mono>,
}

impl WorkLists {
    fn add(&mut self, partitions: Vec<PartitionId>) {
        for list in [&mut self.segments, &mut self.spills, &mut self.deletes, &mut self.retention] {
            list.extend(partitions.iter().copied());
        }
    }

    /// Partitions that retention looks at now; each stays on the list until it was looked at.
    pub(super) fn retention_now(&mut self, now: TimestampMs) -> Vec<PartitionId> {
        let due = self.due.take(now);
        self.retention.extend(due);
        self.retention.iter().copied().collect()
    }

    /// Did the local bytes of any of these offsets fail a check?
    pub(super) fn is_rotten(&self, partition: PartitionId, offsets: OffsetRange) -> bool {
        self.rotten.get(&partition).is_some_and(|bad| bad.iter().any(|bad| !bad.intersect(&offsets).is_empty()))
    }

    /// Have the next rounds something to do even if nothing happens to the lane?
    fn is_open(&self) -> bool {
        !(self.segments.is_empty() && self.spills.is_empty() && self.retention.is_empty())
    }
}

fn due(last: Option<Mono>, every: Duration, now: Mono) -> bool {
    last.is_none_or(|last| now.since(last) >= every)
}

impl<H: LaneHost> Housekeeping<H> {
    pub(super) fn new(shared: Rc<LaneContext<H>>) -> Self {
        let unpublished = Cell::new(shared.host.with_lane(|lane| lane.last != Sequence::NONE));
        let published = shared.host.with_lane(LaneManifest::published_as_of);
        let publication_ages = RefCell::new(PublicationAges::new(published, shared.env.clock.now()));
        let unnamed_to_find = Cell::new(true);
        let (cuts_read, pages_in_cuts, lists) = (Cell::new(None), RefCell::default(), RefCell::default());
        Self { shared, unpublished, unnamed_to_find, publication_ages, cuts_read, pages_in_cuts, lists }
    }

    pub(super) async fn run(&self) -> Ended {
        let shared = &*self.shared;
        // The first sweep and scrub wait their interval: right after a start the lane has more urgent things to do.
        let started = Some(shared.env.clock.now());
        let mut last = LastRuns { sweep: started, scrub: started, ..LastRuns::default() };
        let mut pause = shared.config.backoff.0;
        let mut reported: Option<String> = None;
        let mut timer = None;
        // An archiver before this one may have taken partitions off the host's list and not finished with them.
        self.lists.borrow_mut().add(shared.host.partitions());
        loop {
            if shared.host.leading().is_none() {
                return Ended::Deposed;
            }
            // Before the round: what happens from here on ends the next wait.
            let partitions = shared.host.changed_partitions().unwrap_or_else(|| shared.host.partitions());
            self.lists.borrow_mut().add(partitions);
            self.lists.borrow_mut().deletes.extend(shared.host.dropped_partitions());
            let stopped = shared.host.with_lane(|lane| lane.stopped.is_some());
            // Before the next key was looked at, this replica may know less than the bucket.
            let ready = shared.status.borrow().probed && !stopped;
            let mut series = StepSeries::default();
            let done = if ready { self.round(&mut last, &mut series).await } else { Ok(()) };
            let did = series.did();
            let done = done.and_then(|()| series.outcome());
            let failed = done.is_err();
            let sleep = match done {
                Ok(true) => {
                    reported = None;
                    pause = shared.config.backoff.0;
                    Duration::ZERO
                }
                Ok(false) => {
                    reported = None;
                    shared.config.housekeeping_interval
                }
                Err(StepError::End(ended)) => return ended,
                Err(StepError::Stop(reason)) => match shared.stop(reason).await {
                    Err(StepError::End(ended)) => return ended,
                    _ => shared.config.housekeeping_interval,
                },
                Err(StepError::Later(reason)) => {
                    if reported.as_ref() != Some(&reason) {
                        tracing::warn!(lane = %shared.host.lane(), reason, ?pause, "housekeeping of the bucket fails, will be tried again");
                    }
                    reported = Some(reason);
                    // What fails may fail for ever; the steps that succeed do not wait for it.
                    let slept = if did { pause.min(shared.config.housekeeping_interval) } else { pause };
                    pause = (pause * 2).min(shared.config.backoff.1);
                    slept
                }
            };
            shared.env.tasks.sleep(sleep).await;
            let nothing_left =
                !self.lists.borrow().is_open() && !self.unnamed_to_find.get() && !sleep.is_zero() && !failed;
            if shared.host.notifies() && (stopped || (ready && nothing_left)) {
                self.until_changed(&last, &mut timer).await;
            }
        }
    }

    /// Until something happens to the lane, or a manifest is to be published, or a step is due by time alone. The timer
    /// is kept over wakes: each new one costs a little until it expires.
    async fn until_changed(&self, last: &LastRuns, timer: &mut Option<(Mono, Sleep)>) {
        let shared = &*self.shared;
        let now = shared.env.clock.now();
        // A host that is short of space asks at any moment: steps that could free some run more often then.
        let look = shared.config.retention_interval;
        let look = if shared.host.is_short_of_space() { look.min(shared.config.short_of_space.1) } else { look };
        let mut until = now + look;
        if self.unpublished.get() {
            until = until.min(last.publish.map_or(now, |last| last + shared.publish_interval()));
        }
        let (_, sleep) = match timer.take() {
            Some((at, sleep)) if at > now && at <= until => timer.insert((at, sleep)),
            _ => timer.insert((until, shared.env.tasks.sleep_until(until))),
        };
        let changed = std::pin::pin!(shared.host.changed(Loop::Housekeeping));
        if let Either::Right(_) = select(changed, sleep).await {
            *timer = None;
        }
    }

    /// Runs the steps and notes their outcomes: if a step did something, the next round follows at once.
    async fn round(&self, last: &mut LastRuns, series: &mut StepSeries) -> Result<(), StepError> {
        let config = &self.shared.config;
        let now = || self.shared.env.clock.now();
        self.drop_topics(series).await?;
        self.adopt_parts(series).await?;
        if due(last.retention, config.retention_interval, now()) {
            last.retention = Some(now());
            self.retain(series).await?;
        }
        series.note(self.upload_segment().await)?;
        if due(last.gather, config.publish_interval, now()) {
            let gathered = self.gather().await;
            if !matches!(gathered, Ok(true)) {
                last.gather = Some(now());
            }
            series.note(gathered)?;
        }
        self.spill(series).await?;
        let publication_due = due(last.publish, self.shared.publish_interval(), now());
        if self.unpublished.get() && publication_due && series.note(self.publish().await)? {
            last.publish = Some(now());
        }
        series.note(self.forget().await)?;
        series.note(self.delete().await)?;
        if due(last.relief, config.retention_interval, now()) {
            last.relief = Some(now());
            series.note(self.relieve().await)?;
        }
        series.note(self.clean().await)?;
        // A predecessor's manifest may still lie in the bucket and name pages that this replica knows nothing of.
        let is_published = last.publish.is_some() || !self.unpublished.get();
        if is_published && due(last.sweep, config.sweep_interval, now()) {
            last.sweep = Some(now());
            self.sweep(series).await?;
        }
        if due(last.scrub, config.scrub_interval, now()) {
            last.scrub = Some(now());
            series.note(self.scrub_some().await)?;
        }
        Ok(())
    }
}
