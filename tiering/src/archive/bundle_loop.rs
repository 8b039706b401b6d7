//! The loop that puts new bytes into the bucket: [`BundleLoop`].
//!
//! Owns: when the next key is looked at, which events are reported, which partitions wait because their local log does
//! not read. Does not own: when a bundle is due (`plan`), its content (`bundle`). Shard-local.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::env::Mono;
use tidewater_storage::model::{LogIndex, PartitionId};

use super::bundle::{self, Probe, Put};
use super::context::LaneContext;
use super::host::{LaneHost, Loop};
use super::plan::{BundlePlan, BundlePolicy, PartitionTake, Unarchived, next_bundle};
use super::status::Ended;
use super::steps::{Pause, StepError};
use super::unread::UnreadPartitions;
use crate::keys::Sequence;
use crate::manifest::{Command, Quarantine};

/// Lane events go with the next bundle, or in one of their own after this time.
const EVENTS_LAG: Duration = Duration::from_secs(10);

/// See the header.
pub(super) struct BundleLoop<H> {
    shared: Rc<LaneContext<H>>,
    /// Bundles hold the lane's events up to this log index; `None` before that was looked up.
    reported: Cell<Option<LogIndex>>,
    /// Since when events wait for a bundle.
    events_since: Cell<Option<Mono>>,
    pub(super) unread: RefCell<UnreadPartitions>,
}

impl<H: LaneHost> BundleLoop<H> {
    pub(super) fn new(shared: Rc<LaneContext<H>>) -> Self {
        Self { shared, reported: Cell::new(None), events_since: Cell::new(None), unread: RefCell::default() }
    }

    pub(super) async fn run(&self) -> Ended {
        let shared = &*self.shared;
        let mut pause = shared.config.backoff.0;
        loop {
            // A probe that finds the key free does not show that the write which failed before would work now.
            let only_probed = !shared.status.borrow().probed;
            match self.step().await {
                Ok(rest) => {
                    if !only_probed {
                        pause = shared.config.backoff.0;
                        shared.note(|status| status.failing = None);
                    }
                    match rest {
                        Pause::For(sleep) => shared.env.tasks.sleep(sleep).await,
                        Pause::UntilChanged if shared.host.notifies() => shared.host.changed(Loop::Bundles).await,
                        Pause::UntilChanged => shared.env.tasks.sleep(shared.config.tick).await,
                    }
                }
                Err(StepError::End(ended)) => return ended,
                Err(StepError::Stop(reason)) => {
                    if let Err(StepError::End(ended)) = shared.stop(reason).await {
                        return ended;
                    }
                }
                Err(StepError::Later(reason)) => {
                    // Once for each reason: what will not pass by itself would fill the log.
                    if shared.status.borrow().failing.as_ref() != Some(&reason) {
                        tracing::warn!(lane = %shared.host.lane(), reason, ?pause, "archiving fails, will be tried again");
                    }
                    shared.note(|status| {
                        status.failing = Some(reason);
                        status.probed = false;
                    });
                    shared.env.tasks.sleep(pause).await;
                    pause = (pause * 2).min(shared.config.backoff.1);
                }
            }
        }
    }

    /// Probes, writes the next bundle, or neither; how long to pause afterwards.
    async fn step(&self) -> Result<Pause, StepError> {
        let shared = &*self.shared;
        shared.term()?;
        if shared.host.with_lane(|lane| lane.stopped.is_some()) {
            return Ok(Pause::UntilChanged);
        }
        if !shared.status.borrow().probed {
            self.probe().await?;
            return Ok(Pause::For(Duration::ZERO));
        }
        let now = shared.env.clock.now();
        let policy = BundlePolicy {
            bundle_bytes_max: shared.config.bundle_bytes_max,
            part_bytes_min: shared.config.part_bytes_min,
            part_bytes_eager: shared.config.part_bytes_eager,
            waiting_bytes_max: if shared.host.is_disk_filling() {
                shared.config.part_bytes_eager.min(shared.config.waiting_bytes_max)
            } else {
                shared.config.waiting_bytes_max
            },
        };
        let (mut unarchived, passed) = self.unarchived();
        if !passed.is_empty() {
            return self.release_passed(passed).await;
        }
        self.unread.borrow_mut().hold_back(&mut unarchived, now);
        match next_bundle(&unarchived, self.events_due(now), now, policy) {
            BundlePlan::Idle if self.unread.borrow().is_empty() => Ok(Pause::UntilChanged),
            BundlePlan::Idle => Ok(Pause::For(shared.config.tick)),
            BundlePlan::NotBefore(due) => {
                Ok(Pause::For(due.since(now).clamp(Duration::from_millis(1), shared.config.tick)))
            }
            BundlePlan::Now(takes) => {
                let made = self.write(takes).await?;
                Ok(Pause::For(if made { Duration::ZERO } else { shared.config.backoff.0 }))
            }
        }
    }

    /// What is not archived, cut off before quarantined ranges: a bad range keeps only its own partition back. Beside
    /// it the quarantined ranges into which a log start was moved since.
    fn unarchived(&self) -> (Vec<Unarchived>, Vec<Quarantine>) {
        let (mut unarchived, mut passed) = (self.shared.host.unarchived(), Vec::new());
        for piece in &mut unarchived {
            let partition = piece.partition;
            let bad = self.shared.host.with_partition(partition, |manifest| {
                manifest
                    .quarantine_in(piece.offsets)
                    .map(|range| (range.offsets, range.offsets.start < manifest.log_start))
            });
            let Some(Some((offsets, moved))) = bad else { continue };
            piece.offsets.end = offsets.start.max(piece.offsets.start);
            if moved {
                passed.push(Quarantine { partition, offsets, reason: String::new() });
            }
        }
        unarchived.retain(|piece| !piece.offsets.is_empty());
        (unarchived, passed)
    }

    /// A log start in the middle of a range may have passed what was bad in it: the quarantine ends, and the rest of
    /// the range is read again. This is a command of its own, so that an old log is applied as it always was.
    async fn release_passed(&self, passed: Vec<Quarantine>) -> Result<Pause, StepError> {
        for range in passed {
            tracing::info!(partition = %range.partition, offsets = %range.offsets, "log start moved into a quarantined range: the rest is read again");
            self.shared.propose(Command::Repaired(range)).await?;
        }
        Ok(Pause::For(Duration::ZERO))
    }

    fn events_due(&self, now: Mono) -> Option<Mono> {
        if !self.shared.host.has_events(self.reported.get().unwrap_or_default()) {
            self.events_since.set(None);
            return None;
        }
        let since = self.events_since.get().unwrap_or(now);
        self.events_since.set(Some(since));
        Some(since + EVENTS_LAG)
    }

    /// Looks at the next key before anything is written in this term, or after an answer was lost.
    async fn probe(&self) -> Result<(), StepError> {
        let shared = &*self.shared;
        if self.reported.get().is_none() {
            self.look_up_reported().await;
        }
        let term = shared.term()?;
        let known = || shared.known(term);
        let look = async || match bundle::probe(&*shared.host, &shared.indexes, &*shared.bucket.store, known).await? {
            Probe::ManifestGone(object) => Err(shared.manifest_gone(object).await),
            Probe::Stop(reason) => Err(StepError::Stop(reason)),
            found => Ok(found),
        };
        match shared.unless_stopped(look).await? {
            Probe::Free => {
                shared.note(|status| status.probed = true);
                Ok(())
            }
            Probe::Adopt(command) => {
                self.settle(command).await?;
                shared.note(|status| status.adopted += 1);
                Ok(())
            }
            Probe::ManifestGone(_) | Probe::Stop(_) => unreachable!("the look has ended with them"),
        }
    }

    /// The last bundle holds events up to its log index. If it is gone, all events are reported again.
    async fn look_up_reported(&self) {
        let shared = &*self.shared;
        let last =
            shared.host.with_lane(|lane| (lane.last != Sequence::NONE).then(|| lane.home.bundle(lane.lane, lane.last)));
        let reported = match last {
            Some(object) => shared.indexes.of_object(object).await.map_or(LogIndex(0), |found| found.index.log_index),
            None => LogIndex(0),
        };
        self.note_reported(reported);
    }

    fn note_reported(&self, upto: LogIndex) {
        debug_assert!(self.reported.get().is_none_or(|before| before <= upto), "events are reported in order");
        self.reported.set(Some(upto));
    }

    /// Writes the next bundle; `false` if nothing could be read. That does not put the bucket in doubt: the next key
    /// need not be looked at again, and each partition comes back in its own time.
    async fn write(&self, takes: Vec<PartitionTake>) -> Result<bool, StepError> {
        let shared = &*self.shared;
        let input = bundle::read_input(shared, takes).await;
        input.batches.iter().for_each(|(partition, _)| self.unread.borrow_mut().reads(*partition));
        let now = shared.env.clock.now();
        for (partition, from, reason) in input.unread {
            self.unread.borrow_mut().fails(partition, from, reason, now, shared.config.backoff);
        }
        for bad in input.failed {
            shared.quarantine(bad).await?;
        }
        let reported = self.reported.get().unwrap_or_default();
        if input.batches.is_empty() && !shared.host.has_events(reported) {
            return Ok(false);
        }
        shared.ensure_catalogue(input.batches.iter().map(|(partition, _)| *partition)).await?;
        let term = shared.term()?;
        let built = bundle::build(shared, term, reported, input.batches).await;
        self.put(built).await?;
        Ok(true)
    }

    async fn put(&self, built: bundle::BuiltBundle) -> Result<(), StepError> {
        let shared = &*self.shared;
        shared.will_write();
        let put = bundle::put(&*shared.bucket.store, &built).await?;
        shared.note(|status| status.part_bytes += built.part_bytes());
        match put {
            Put::Done(command) => {
                let parts = built.part_rows();
                if !parts.is_empty() {
                    shared.written_parts.borrow_mut().insert(built.bundle.index.sequence, parts);
                }
                self.settle(command).await?;
                self.note_reported(built.applied);
                shared.note(|status| status.bundle_bytes += built.bundle.size);
            }
            Put::Taken => shared.note(|status| status.probed = false),
        }
        Ok(())
    }

    /// Settles a bundle that is in the bucket.
    async fn settle(&self, command: Command) -> Result<(), StepError> {
        // If the command is not applied, the next key must be looked at again.
        self.shared.note(|status| status.probed = false);
        self.shared.propose(command).await?;
        self.shared.note(|status| {
            status.probed = true;
            status.bundles += 1;
            status.last_bundle = Some(self.shared.host.with_lane(|lane| lane.last));
        });
        Ok(())
    }

    /// Partitions whose local log cannot be read now, and why.
    pub(super) fn unread_reasons(&self) -> std::collections::BTreeMap<PartitionId, String> {
        self.unread.borrow().reasons()
    }
}
