//! Everything of a lane that is not its next bundle, one step after the other.
//!
//! Owns: the order and cadence of the steps, and the lists of partitions they look at: one to which nothing happened is on
//! none of them. Does not own: any step (`collect`, `segment`, `gather`, `publish`, `sweep`). Shard-local. A step that
//! fails is logged and tried again in the next round; it keeps none of the others back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::env::{Mono, Sleep};
use tidewater_storage::model::{Offset, OffsetRange, PartitionId, TimestampMs};

use super::tries::Tries;
use super::{Ended, Inner, LaneHost, Loop, StepError};
use crate::retention::DueQueue;

/// When the steps that do not run in every round ran last.
#[derive(Default)]
struct Rounds {
    retention: Option<Mono>,
    sweep: Option<Mono>,
    scrub: Option<Mono>,
    publish: Option<Mono>,
    gather: Option<Mono>,
}

/// Partitions to look at, by step.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// May have a closed segment that lies in bundles.
    pub(super) segments: BTreeSet<PartitionId>,
    /// May have a crowded manifest.
    pub(super) spills: BTreeSet<PartitionId>,
    /// May have objects of their own on the way out.
    pub(super) dying: BTreeSet<PartitionId>,
    /// Something happened to them since retention looked.
    pub(super) retention: BTreeSet<PartitionId>,
    /// Gathering passes over them: the store did not give their rows.
    pub(super) unreadable: BTreeSet<PartitionId>,
    /// Ranges of the local log that failed a check although the bucket holds them: no segment is made of them.
    pub(super) rotten: BTreeMap<PartitionId, Vec<OffsetRange>>,
    /// Where the scrubber goes on.
    pub(super) scrub_from: Option<(PartitionId, Offset)>,
    /// Partitions that nobody carries, by when the sweeper first missed them.
    pub(super) missed: BTreeMap<PartitionId, Mono>,
    /// The others, by the time at which their oldest records are too old.
    pub(super) due: DueQueue,
}

impl Work {
    fn add(&mut self, partitions: Vec<PartitionId>) {
        for list in [&mut self.segments, &mut self.spills, &mut self.dying, &mut self.retention] {
            list.extend(partitions.iter().copied());
        }
    }

    /// Partitions that retention looks at now; each stays on the list until it was looked at.
    pub(super) fn retention_now(&mut self, now: TimestampMs) -> Vec<PartitionId> {
        let due = self.due.take(now);
        self.retention.extend(due);
        self.retention.iter().copied().collect()
    }

    /// Did any of these offsets' local bytes fail a check?
    pub(super) fn is_rotten(&self, partition: PartitionId, offsets: OffsetRange) -> bool {
        self.rotten.get(&partition).is_some_and(|bad| bad.iter().any(|bad| !bad.intersect(&offsets).is_empty()))
    }

    /// Is there something that the next rounds should look at without being told?
    fn is_open(&self) -> bool {
        !(self.segments.is_empty() && self.spills.is_empty() && self.retention.is_empty())
    }
}

fn due(last: Option<Mono>, every: Duration, now: Mono) -> bool {
    last.is_none_or(|last| now.since(last) >= every)
}

impl<H: LaneHost> Inner<H> {
    pub(super) async fn housekeeping(&self) -> Ended {
        // The first sweep and scrub wait their interval: right after a start the lane has more urgent things to do.
        let started = Some(self.env.clock.now());
        let mut rounds = Rounds { sweep: started, scrub: started, ..Rounds::default() };
        let mut pause = self.config.backoff.0;
        let mut timer = None;
        // What an archiver before this one was told of it did not finish.
        self.work.borrow_mut().add(self.host.partitions());
        loop {
            if self.host.leading().is_none() {
                return Ended::Deposed;
            }
            // Before it is looked at: what happens from here on stirs again.
            let partitions = self.host.touched().unwrap_or_else(|| self.host.partitions());
            self.work.borrow_mut().add(partitions);
            self.work.borrow_mut().dying.extend(self.host.gone());
            let stopped = self.host.with_lane(|lane| lane.stopped.is_some());
            // Before the next key was looked at, this replica may know less than the bucket.
            let ready = self.status.borrow().probed && !stopped;
            let mut tries = Tries::default();
            let done = if ready { self.round(&mut rounds, &mut tries).await } else { Ok(()) };
            let did = tries.did();
            let done = done.and_then(|()| tries.outcome());
            let failed = done.is_err();
            let sleep = match done {
                Ok(true) => {
                    pause = self.config.backoff.0;
                    Duration::ZERO
                }
                Ok(false) => self.config.housekeeping_interval,
                Err(StepError::End(ended)) => return ended,
                Err(StepError::Stop(reason)) => match self.stop(reason).await {
                    Err(StepError::End(ended)) => return ended,
                    _ => self.config.housekeeping_interval,
                },
                Err(StepError::Later(reason)) => {
                    tracing::warn!(lane = %self.host.lane(), reason, ?pause, "housekeeping of the bucket fails, will be tried again");
                    // What fails may fail for ever; what goes on beside it does not wait for it.
                    let slept = if did { pause.min(self.config.housekeeping_interval) } else { pause };
                    pause = (pause * 2).min(self.config.backoff.1);
                    slept
                }
            };
            self.env.tasks.sleep(sleep).await;
            let nothing_left = !self.work.borrow().is_open() && !self.unlooked.get() && !sleep.is_zero() && !failed;
            if self.host.stirs() && (stopped || (ready && nothing_left)) {
                self.until_stirred(&rounds, &mut timer).await;
            }
        }
    }

    /// Until the lane stirs, or a manifest is to be published, or it is time for what goes by time alone. The timer is
    /// kept over wakes: each one made costs a little for ever.
    async fn until_stirred(&self, rounds: &Rounds, timer: &mut Option<(Mono, Sleep)>) {
        let now = self.env.clock.now();
        // A host that is short of room asks at any moment: what could give it some is looked at more often then.
        let look = self.config.retention_interval;
        let look = if self.host.is_pressed() { look.min(self.config.pressed.1) } else { look };
        let mut until = now + look;
        if self.unpublished.get() {
            until = until.min(rounds.publish.map_or(now, |last| last + self.publish_interval()));
        }
        let (_, sleep) = match timer.take() {
            Some((at, sleep)) if at > now && at <= until => timer.insert((at, sleep)),
            _ => timer.insert((until, self.env.tasks.sleep_until(until))),
        };
        let stirred = std::pin::pin!(self.host.stirred(Loop::Housekeeping));
        if let Either::Right(_) = select(stirred, sleep).await {
            *timer = None;
        }
    }

    /// Runs the steps and notes what became of them: if any of them did something the next round should follow at once.
    async fn round(&self, rounds: &mut Rounds, tries: &mut Tries) -> Result<(), StepError> {
        self.drop_topics(tries).await?;
        if due(rounds.retention, self.config.retention_interval, self.env.clock.now()) {
            rounds.retention = Some(self.env.clock.now());
            self.retain(tries).await?;
        }
        tries.note(self.upload_segment().await)?;
        if due(rounds.gather, self.config.publish_interval, self.env.clock.now()) {
            let gathered = self.gather().await;
            if !matches!(gathered, Ok(true)) {
                rounds.gather = Some(self.env.clock.now());
            }
            tries.note(gathered)?;
        }
        self.spill(tries).await?;
        let publication_due = due(rounds.publish, self.publish_interval(), self.env.clock.now());
        if self.unpublished.get() && publication_due && tries.note(self.publish().await)? {
            rounds.publish = Some(self.env.clock.now());
        }
        tries.note(self.forget().await)?;
        tries.note(self.delete().await)?;
        tries.note(self.clean().await)?;
        if due(rounds.sweep, self.config.sweep_interval, self.env.clock.now()) {
            rounds.sweep = Some(self.env.clock.now());
            self.sweep(tries).await?;
        }
        if due(rounds.scrub, self.config.scrub_interval, self.env.clock.now()) {
            rounds.scrub = Some(self.env.clock.now());
            tries.note(self.scrub_some().await)?;
        }
        Ok(())
    }
}
