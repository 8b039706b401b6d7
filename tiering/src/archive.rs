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
mod gather;
mod grace;
pub mod host;
mod housekeeping;
pub mod order;
pub mod plan;
mod publish;
pub mod scrub;
mod segment;
mod sweep;
mod tries;
mod unread;
pub mod verify;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
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
use crate::manifest::{Command, Quarantine};
use crate::store::StoreError;
use bundle::{Probe, Put, Stamp};
use grace::Standing;
pub use host::{LaneHost, LocalRead, LocalReadError, LocalSegment, Loop, ProposeError, TopicFacts, Whereabouts};
use housekeeping::Work;
use order::Known;
pub use order::StopReason;
pub use plan::Pending;
use plan::{BundlePlan, BundlePolicy, next_bundle};
pub use scrub::ScrubReport;
use unread::Unread;

/// Bounds and cadence of one lane's archiving.
#[derive(Clone, Debug)]
pub struct ArchiveConfig {
    /// A bundle takes no more than this (and is in memory while it is written).
    pub bundle_bytes_max: u64,
    /// So much waiting makes a bundle due at once.
    pub bundle_bytes_eager: u64,
    /// A segment or gathered object takes no more than this (and is in memory while it is written).
    pub object_bytes_max: u64,
    /// So many live bundles make gathering due.
    pub gather_bundles: usize,
    /// So old a live bundle makes gathering due.
    pub gather_after: Duration,
    /// Rows larger than this are left in their bundles, unless the bundle is mostly dead.
    pub gather_row_bytes_max: u64,
    /// Least time between two publications of the lane's manifest.
    pub publish_interval: Duration,
    /// Time between the publication that forgets an object and its deletion: longer than any PUT with its retries and
    /// any reader's refresh.
    pub delete_grace: Duration,
    /// How often total retention is looked at.
    pub retention_interval: Duration,
    /// Instead of [`ArchiveConfig::delete_grace`] and [`ArchiveConfig::publish_interval`] while the host is pressed for the
    /// bucket's space: longer than a read's deadline, with no reader but this broker.
    pub pressed: (Duration, Duration),
    /// How often the bucket is listed for objects that nobody names.
    pub sweep_interval: Duration,
    /// How often the scrubber looks: at what is quarantined, and at the next [`ArchiveConfig::scrub_bytes`] of the rest.
    pub scrub_interval: Duration,
    /// So much it reads in one look.
    pub scrub_bytes: u64,
    /// Longest sleep between two looks at what waits for a bundle. With nothing waiting, a lane that stirs is left alone.
    pub tick: Duration,
    /// Sleep between two rounds of everything else that found nothing to do. With nothing left to do, the next round waits
    /// until the lane stirs, at most `retention_interval`.
    pub housekeeping_interval: Duration,
    /// First and longest pause after a failure of the store.
    pub backoff: (Duration, Duration),
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            bundle_bytes_max: 32 << 20,
            bundle_bytes_eager: 8 << 20,
            object_bytes_max: 64 << 20,
            gather_bundles: 256,
            gather_after: Duration::from_secs(3600),
            gather_row_bytes_max: 4 << 20,
            publish_interval: Duration::from_secs(60),
            delete_grace: Duration::from_secs(3600),
            pressed: (Duration::from_secs(45), Duration::from_secs(10)),
            retention_interval: Duration::from_secs(60),
            sweep_interval: Duration::from_secs(6 * 3600),
            scrub_interval: Duration::from_secs(3600),
            scrub_bytes: 16 << 20,
            tick: Duration::from_millis(250),
            housekeeping_interval: Duration::from_secs(1),
            backoff: (Duration::from_millis(200), Duration::from_secs(10)),
        }
    }
}

/// How archiving of a lane is doing; for metrics and people. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// The next key was looked at in this term: local bytes below archived ends may go (R2).
    pub probed: bool,
    /// Why nothing is archived until an operator looks.
    pub stopped: Option<String>,
    /// The last failure of the store or bucket that is not overcome yet.
    pub failing: Option<String>,
    /// Partitions whose local log cannot be read now, and why: they wait, all others are archived.
    pub unread: BTreeMap<PartitionId, String>,
    /// Last bundle settled under this archiver.
    pub last_bundle: Option<Sequence>,
    /// Bundles put or adopted by this archiver.
    pub bundles: u64,
    /// Those of them that were found at their key: lost answers, a dead predecessor's last.
    pub adopted: u64,
    /// Bytes of those that this archiver put.
    pub bundle_bytes: u64,
    /// Segment objects put.
    pub segments: u64,
    /// Gathered objects put.
    pub gathered: u64,
    /// Lane manifests published.
    pub published: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// Objects removed because nobody named them.
    pub swept: u64,
}

/// Why an archiver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The replica does not lead (any more).
    Deposed,
    /// The outcome of a command is unknown; start a new one once the lane has settled.
    Unsettled(String),
}

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
        let published = host.with_lane(crate::manifest::LaneManifest::published_as_of);
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

    /// What waits, cut off before quarantined ranges: one bad range keeps only its own partition back. Beside it the
    /// ranges into which a log start was moved since.
    fn pending(&self) -> (Vec<Pending>, Vec<Quarantine>) {
        let (mut pending, mut passed) = (self.host.pending(), Vec::new());
        for piece in &mut pending {
            let partition = piece.partition;
            let bad = self.host.with_partition(partition, |manifest| {
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
        pending.retain(|piece| !piece.offsets.is_empty());
        (pending, passed)
    }

    /// A log start in the middle of a range has perhaps passed what was bad in it: the range is let go, and what is left
    /// of it read again. A command of its own, so that an old log is applied as it always was.
    async fn judge_afresh(&self, passed: Vec<Quarantine>) -> Result<Rest, StepError> {
        for range in passed {
            tracing::info!(partition = %range.partition, offsets = %range.offsets, "log start moved into a quarantined range: the rest is read again");
            self.propose(Command::Repaired(range)).await?;
        }
        Ok(Rest::For(Duration::ZERO))
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

    async fn quarantine(&self, bad: Quarantine) -> Result<(), StepError> {
        let Quarantine { partition, offsets, reason } = &bad;
        let known = self.host.with_partition(*partition, |manifest| {
            manifest.quarantined.iter().any(|range| range.offsets.intersect(offsets) == *offsets)
        });
        if known != Some(false) {
            return Ok(());
        }
        tracing::error!(%partition, %offsets, reason, "range quarantined: if it is not in the bucket yet its partition waits for it, if it is the scrubber looks at it again");
        self.propose(Command::Quarantined(bad)).await
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
