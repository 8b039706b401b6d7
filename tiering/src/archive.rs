//! The archiver of one led lane: [`Archiver`].
//!
//! Two loops in one future, each plan → run → commit → apply: new bytes become bundles (`bundle`), and everything else,
//! in order of urgency, is housekeeping (`housekeeping`): topics deleted, log starts moved, segment objects, gathering,
//! spilling, publishing, forgetting, deleting. What must precede what is `order`.
//! Owns: the loops, their back-off, the visible status. Does not own: state (the lane does, through [`LaneHost`]), the
//! store. Shard-local. **Cancellation**: the future may be dropped at any await; a new archiver on any replica goes on
//! from replicated state. One command is in flight at a time.

mod adopt;
mod bundle;
mod collect;
mod config;
mod gather;
mod grace;
pub mod host;
mod housekeeping;
pub mod order;
pub mod plan;
mod publish;
mod quarantine;
pub mod scrub;
mod segment;
mod status;
mod sweep;
mod tries;
mod unread;
pub mod verify;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::model::{LogIndex, Offset, PartitionId, TimestampMs};
use tokio::sync::Mutex;

use crate::bucket::{Bucket, BucketError, CatalogueChange, CatalogueKeeper};
use crate::fetch::Indexes;
use crate::keys::{Nonce, Sequence};
use crate::manifest::{Command, LaneManifest};
use crate::store::StoreError;
use bundle::{Probe, Put, Stamp};
pub use config::ArchiveConfig;
use grace::Standing;
pub use host::{LaneHost, LocalRead, LocalReadError, LocalSegment, Loop, ProposeError, TopicFacts, Whereabouts};
use housekeeping::Work;
use order::Known;
pub use order::StopReason;
pub use plan::Pending;
use plan::{BundlePlan, BundlePolicy, next_bundle};
pub use scrub::ScrubReport;
pub use status::{ArchiveStatus, Ended};
use unread::Unread;

/// What an archiver is made of.
pub struct ArchiverParts<H> {
    /// The machine.
    pub env: Env,
    /// The lane.
    pub host: Rc<H>,
    /// The opened bucket.
    pub bucket: Bucket,
    /// The shard's keeper of the catalogue.
    pub catalogue: Rc<CatalogueKeeper>,
    /// The shard's index cache ([`crate::fetch::RemoteReader::indexes`]).
    pub indexes: Indexes,
    /// Bounds and cadence.
    pub config: ArchiveConfig,
}

/// Archives one led lane for as long as [`Archiver::run`] is polled. *Shard-local*, cheap to clone.
pub struct Archiver<H> {
    inner: Rc<Inner<H>>,
}

impl<H> Clone for Archiver<H> {
    fn clone(&self) -> Self {
        Self { inner: Rc::clone(&self.inner) }
    }
}

struct Inner<H> {
    env: Env,
    host: Rc<H>,
    bucket: Bucket,
    catalogue: Rc<CatalogueKeeper>,
    indexes: Indexes,
    config: ArchiveConfig,
    status: RefCell<ArchiveStatus>,
    /// One command in flight.
    proposing: Mutex<()>,
    /// What was applied when this archiver began: what it did not write itself is of that index or an earlier one.
    began: LogIndex,
    /// It may have written a bundle or a manifest itself.
    wrote: Cell<bool>,
    /// Log index up to which bundles have told the lane's events.
    told: Cell<Option<LogIndex>>,
    /// Since when events wait to be told.
    events_since: Cell<Option<Mono>>,
    /// Something happened that readers who start from the manifest should see.
    unpublished: Cell<bool>,
    /// A manifest was published since objects that no row names were last looked for.
    unlooked: Cell<bool>,
    /// How long publications have stood by this process's clock.
    standing: RefCell<Standing>,
    /// What housekeeping has to look at.
    work: RefCell<Work>,
    /// Whose local log could not be read.
    unread: RefCell<Unread>,
}

/// What a loop does when it has looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Looks again after so long.
    For(Duration),
    /// Nothing is to be done before the lane stirs.
    UntilStirred,
}

/// What made a step fail.
#[derive(Debug)]
enum StepError {
    /// The archiver ends.
    End(Ended),
    /// Later again.
    Later(String),
    /// The lane stops (R2, R6).
    Stop(StopReason),
}

impl From<ProposeError> for StepError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected { .. } => Self::Later(error.to_string()),
            ProposeError::NotLeader => Self::End(Ended::Deposed),
            ProposeError::Unknown { .. } => Self::End(Ended::Unsettled(error.to_string())),
        }
    }
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        Self::Later(error.to_string())
    }
}

impl From<BucketError> for StepError {
    fn from(error: BucketError) -> Self {
        Self::Later(error.to_string())
    }
}

impl<H: LaneHost> Archiver<H> {
    /// For a lane that this replica leads. Nothing happens before [`Archiver::run`].
    #[must_use]
    pub fn new(parts: ArchiverParts<H>) -> Self {
        let ArchiverParts { env, host, bucket, catalogue, indexes, config } = parts;
        let unpublished = Cell::new(host.with_lane(|lane| lane.last != Sequence::NONE));
        let began = host.applied();
        let published = host.with_lane(LaneManifest::published_as_of);
        let standing = RefCell::new(Standing::new(published, env.clock.now()));
        Self {
            inner: Rc::new(Inner {
                env,
                host,
                bucket,
                catalogue,
                indexes,
                config,
                status: RefCell::default(),
                proposing: Mutex::new(()),
                began,
                wrote: Cell::new(false),
                told: Cell::new(None),
                events_since: Cell::new(None),
                unpublished,
                unlooked: Cell::new(true),
                standing,
                work: RefCell::default(),
                unread: RefCell::default(),
            }),
        }
    }

    /// How it is doing.
    #[must_use]
    pub fn status(&self) -> ArchiveStatus {
        let mut status = self.inner.status.borrow().clone();
        status.stopped = self.inner.host.with_lane(|lane| lane.stopped.clone());
        status.unread = self.inner.unread.borrow().reasons();
        status
    }

    /// Archives until the replica is deposed or a command's outcome is unknown.
    pub async fn run(&self) -> Ended {
        let bundles = pin!(self.inner.bundles());
        let housekeeping = pin!(self.inner.housekeeping());
        match select(bundles, housekeeping).await {
            Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
        }
    }

    /// Lets a stopped lane archive again, after an operator's word; gives what had stopped it, `None` if nothing had. The
    /// next key is looked at before anything is written: a reason that is still there stops the lane again.
    ///
    /// # Errors
    /// The command that says so was not applied here, and why.
    pub async fn resume(&self) -> Result<Option<String>, ProposeError> {
        let inner = &self.inner;
        let _one = inner.proposing.lock().await;
        let Some(reason) = inner.host.with_lane(|lane| lane.stopped.clone()) else { return Ok(None) };
        inner.note(|status| status.probed = false);
        inner.host.propose(Command::Stopped { reason: None }).await?;
        tracing::info!(lane = %inner.host.lane(), reason, "archiving of the lane goes on by an operator's word");
        Ok(Some(reason))
    }

    /// Reads and checks about `bytes_max` of what the lane has in the bucket, from `from` on (the first partition if
    /// `None`); what fails is quarantined, or repaired where the local log still holds it. Housekeeping does so by itself.
    ///
    /// # Errors
    /// Why the archiver must end, as from [`Archiver::run`].
    pub async fn scrub(&self, from: Option<(PartitionId, Offset)>, bytes_max: u64) -> Result<ScrubReport, Ended> {
        match self.inner.scrub(from, bytes_max).await {
            Ok(report) => Ok(report),
            Err(StepError::End(ended)) => Err(ended),
            Err(StepError::Later(reason)) => Ok(ScrubReport { failed: Some(reason), ..ScrubReport::default() }),
            Err(StepError::Stop(reason)) => {
                Ok(ScrubReport { failed: Some(reason.to_string()), ..ScrubReport::default() })
            }
        }
    }
}

impl<H: LaneHost> Inner<H> {
    async fn bundles(&self) -> Ended {
        let mut pause = self.config.backoff.0;
        loop {
            // A probe that finds its way free says nothing of the write that failed before it.
            let only_probed = !self.status.borrow().probed;
            match self.bundle_step().await {
                Ok(sleep) => {
                    if !only_probed {
                        pause = self.config.backoff.0;
                        self.note(|status| status.failing = None);
                    }
                    match sleep {
                        Rest::For(sleep) => self.env.tasks.sleep(sleep).await,
                        Rest::UntilStirred if self.host.stirs() => self.host.stirred(Loop::Bundles).await,
                        Rest::UntilStirred => self.env.tasks.sleep(self.config.tick).await,
                    }
                }
                Err(StepError::End(ended)) => return ended,
                Err(StepError::Stop(reason)) => {
                    if let Err(StepError::End(ended)) = self.stop(reason).await {
                        return ended;
                    }
                }
                Err(StepError::Later(reason)) => {
                    tracing::warn!(lane = %self.host.lane(), reason, ?pause, "archiving fails, will be tried again");
                    self.note(|status| {
                        status.failing = Some(reason);
                        status.probed = false;
                    });
                    self.env.tasks.sleep(pause).await;
                    pause = (pause * 2).min(self.config.backoff.1);
                }
            }
        }
    }

    /// One look at what waits; how long to rest afterwards.
    async fn bundle_step(&self) -> Result<Rest, StepError> {
        if self.host.leading().is_none() {
            return Err(StepError::End(Ended::Deposed));
        }
        if self.host.with_lane(|lane| lane.stopped.is_some()) {
            return Ok(Rest::UntilStirred);
        }
        if !self.status.borrow().probed {
            self.probe().await?;
            return Ok(Rest::For(Duration::ZERO));
        }
        let now = self.env.clock.now();
        let policy = BundlePolicy {
            bundle_bytes_max: self.config.bundle_bytes_max,
            bundle_bytes_eager: self.config.bundle_bytes_eager,
        };
        let (mut pending, passed) = self.pending();
        if !passed.is_empty() {
            return self.judge_afresh(passed).await;
        }
        self.unread.borrow_mut().hold_back(&mut pending, now);
        match next_bundle(&pending, self.events_due(now), now, policy) {
            BundlePlan::Idle if self.unread.borrow().is_empty() => Ok(Rest::UntilStirred),
            BundlePlan::Idle => Ok(Rest::For(self.config.tick)),
            BundlePlan::NotBefore(due) => {
                Ok(Rest::For(due.since(now).clamp(Duration::from_millis(1), self.config.tick)))
            }
            BundlePlan::Now(takes) => {
                let made = self.bundle(takes).await?;
                Ok(Rest::For(if made { Duration::ZERO } else { self.config.backoff.0 }))
            }
        }
    }

    /// When events that wait to be told become due: with the next bundle, or after ten seconds by themselves.
    fn events_due(&self, now: Mono) -> Option<Mono> {
        let told = self.told.get().unwrap_or_default();
        if !self.host.has_events(told) {
            self.events_since.set(None);
            return None;
        }
        let since = self.events_since.get().unwrap_or(now);
        self.events_since.set(Some(since));
        Some(since + Duration::from_secs(10))
    }

    /// Looks at the next key before anything is written in this term, or after an answer was lost.
    async fn probe(&self) -> Result<(), StepError> {
        if self.told.get().is_none() {
            self.learn_told().await;
        }
        let Some(term) = self.host.leading() else { return Err(StepError::End(Ended::Deposed)) };
        let known = || Known { term, applied: if self.wrote.get() { self.host.applied() } else { self.began } };
        let look = async || match bundle::probe(&*self.host, &self.indexes, &*self.bucket.store, known).await? {
            Probe::Stop(reason) => Err(StepError::Stop(reason)),
            found => Ok(found),
        };
        match self.unless_stopped(look).await? {
            Probe::Free => {
                self.note(|status| status.probed = true);
                Ok(())
            }
            Probe::Adopt(command) => {
                self.settle(command).await?;
                self.note(|status| status.adopted += 1);
                Ok(())
            }
            Probe::Stop(reason) => Err(StepError::Stop(reason)),
        }
    }

    /// The last bundle says up to where events were told. If it is gone, all are told again.
    async fn learn_told(&self) {
        let last =
            self.host.with_lane(|lane| (lane.last != Sequence::NONE).then(|| lane.home.bundle(lane.lane, lane.last)));
        let told = match last {
            Some(object) => self.indexes.of_object(object).await.map_or(LogIndex(0), |found| found.index.log_index),
            None => LogIndex(0),
        };
        self.host.told(told);
        self.told.set(Some(told));
    }

    /// Writes the next bundle; `false` if nothing of what waits could be read. That says nothing of the bucket: the next
    /// key need not be looked at again, and each partition comes back in its own time.
    async fn bundle(&self, takes: Vec<plan::Take>) -> Result<bool, StepError> {
        let gathered = bundle::gather(&*self.host, takes, self.config.bundle_bytes_max).await;
        let nothing = gathered.parts.is_empty();
        gathered.parts.iter().for_each(|(partition, _)| self.unread.borrow_mut().reads(*partition));
        let now = self.env.clock.now();
        for (partition, from, reason) in gathered.unread {
            self.unread.borrow_mut().fails(partition, from, reason, now, self.config.backoff);
        }
        for bad in gathered.failed {
            self.quarantine(bad).await?;
        }
        let told = self.told.get().unwrap_or_default();
        if nothing && !self.host.has_events(told) {
            return Ok(false);
        }
        self.ensure_catalogue(gathered.parts.iter().map(|(partition, _)| *partition)).await?;
        let Some(term) = self.host.leading() else { return Err(StepError::End(Ended::Deposed)) };
        let stamp = Stamp { term, applied: self.host.applied(), now: self.env.clock.wall() };
        let placed = bundle::build(&*self.host, stamp, told, gathered.parts);
        let bytes = placed.size;
        self.wrote.set(true);
        match bundle::put(&self.bucket.store, placed).await? {
            Put::Done(command) => {
                self.settle(command).await?;
                self.host.told(stamp.applied);
                self.told.set(Some(stamp.applied));
                self.note(|status| status.bundle_bytes += bytes);
            }
            Put::Taken => self.note(|status| status.probed = false),
        }
        Ok(true)
    }

    /// Settles a bundle that is in the bucket.
    async fn settle(&self, command: Command) -> Result<(), StepError> {
        // Whatever happens to the proposal, the next key must be looked at again if this one is not applied.
        self.note(|status| status.probed = false);
        self.propose(command).await?;
        self.note(|status| {
            status.probed = true;
            status.bundles += 1;
            status.last_bundle = Some(self.host.with_lane(|lane| lane.last));
        });
        Ok(())
    }

    async fn ensure_catalogue(&self, partitions: impl Iterator<Item = PartitionId>) -> Result<(), StepError> {
        let mut change = CatalogueChange { lanes: BTreeSet::from([self.host.lane()]), ..CatalogueChange::default() };
        for partition in partitions {
            // A topic's facts name all its partitions: once is enough.
            if change.topics.contains_key(&partition.topic) {
                continue;
            }
            if let Some(facts) = self.host.topic(partition) {
                change.topics.insert(partition.topic, facts.catalogue);
            }
        }
        Ok(self.catalogue.ensure(&change, &|| self.host.catalogue()).await?)
    }

    /// Proposes one command and waits until it is applied here. One at a time.
    async fn propose(&self, command: Command) -> Result<(), StepError> {
        let _one = self.proposing.lock().await;
        Ok(self.host.propose(command).await?)
    }

    /// Stops the lane's archiving where everybody sees it.
    async fn stop(&self, reason: StopReason) -> Result<(), StepError> {
        tracing::error!(lane = %self.host.lane(), %reason, "archiving of the lane stopped: its records stay on this disk; once the reason is gone, tidewater lane resume lets it go on");
        self.propose(Command::Stopped { reason: Some(reason.to_string()) }).await
    }

    /// Time between the publication that forgets an object and its deletion, now.
    fn delete_grace(&self) -> Duration {
        let grace = self.config.delete_grace;
        if self.host.is_pressed() { grace.min(self.config.pressed.0) } else { grace }
    }

    /// Least time between two publications, now.
    fn publish_interval(&self) -> Duration {
        let interval = self.config.publish_interval;
        if self.host.is_pressed() { interval.min(self.config.pressed.1) } else { interval }
    }

    fn note(&self, change: impl FnOnce(&mut ArchiveStatus)) {
        change(&mut self.status.borrow_mut());
    }

    fn nonce(&self) -> Nonce {
        Nonce(self.env.rng.next_u64())
    }

    fn now(&self) -> TimestampMs {
        self.env.clock.wall()
    }
}
