//! What both loops of an archiver share: the lane, the bucket, the settings, and one command in flight.
//!
//! Owns: proposing, setting ranges aside, the visible status, repeated reads. Does not own: any decision. Shard-local.
//! Each field that changes has one writer, named at the field.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::env::Env;
use tidewater_storage::model::{LogIndex, PartitionId, Term, TimestampMs, TopicId};
use tokio::sync::Mutex;

use super::config::ArchiveConfig;
use super::host::LaneHost;
use super::order::{Known, StopReason};
use super::parts::PartRow;
use super::status::{ArchiveStatus, Ended};
use super::steps::StepError;
use crate::bucket::{Bucket, CatalogueChange, CatalogueKeeper};
use crate::fetch::Indexes;
use crate::keys::{Nonce, ObjectName, Sequence};
use crate::manifest::{CatalogueTopic, Command, Quarantine};
use crate::store::StoreError;

/// Reads of an object, at least [`ArchiveConfig::backoff`]'s first pause apart, before it counts as damaged or gone: a
/// single answer may be spoiled, cut or misdirected on its way.
pub(super) const READS: u32 = 3;
/// How long a step waits for a topic that this node does not know yet, before it gives way to others.
const TOPIC_WAIT: Duration = Duration::from_secs(5);

/// See the header.
pub(super) struct LaneContext<H> {
    pub(super) env: Env,
    pub(super) host: Rc<H>,
    pub(super) bucket: Bucket,
    pub(super) catalogue: Rc<CatalogueKeeper>,
    pub(super) indexes: Indexes,
    pub(super) config: ArchiveConfig,
    /// Each step notes its own counts; `probed` and `failing` belong to the bundle loop, which also probes again if
    /// another step finds a reason to.
    pub(super) status: RefCell<ArchiveStatus>,
    /// What was applied when this archiver began.
    began: LogIndex,
    /// This archiver may have written a bundle or a manifest. Only ever set.
    wrote: Cell<bool>,
    /// Held while a command is in flight.
    pub(super) proposing: Mutex<()>,
    /// Parts of bundles that this archiver settled. The bundle loop adds them, housekeeping gives them rows.
    pub(super) written_parts: RefCell<BTreeMap<Sequence, Vec<PartRow>>>,
}

impl<H: LaneHost> LaneContext<H> {
    pub(super) fn new(
        env: Env,
        host: Rc<H>,
        bucket: Bucket,
        catalogue: Rc<CatalogueKeeper>,
        indexes: Indexes,
        config: ArchiveConfig,
    ) -> Self {
        let began = host.applied();
        Self {
            env,
            host,
            bucket,
            catalogue,
            indexes,
            config,
            status: RefCell::default(),
            began,
            wrote: Cell::new(false),
            proposing: Mutex::new(()),
            written_parts: RefCell::default(),
        }
    }

    /// The term in which this replica leads.
    pub(super) fn term(&self) -> Result<Term, StepError> {
        self.host.leading().ok_or(StepError::End(Ended::Deposed))
    }

    /// To be called before anything is written that a later archiver could find.
    pub(super) fn will_write(&self) {
        self.wrote.set(true);
    }

    /// How far this replica can have written to the bucket.
    pub(super) fn known(&self, term: Term) -> Known {
        Known { term, applied: if self.wrote.get() { self.host.applied() } else { self.began } }
    }

    /// Proposes one command and waits until it is applied here. One at a time.
    pub(super) async fn propose(&self, command: Command) -> Result<(), StepError> {
        let _one = self.proposing.lock().await;
        Ok(self.host.propose(command).await?)
    }

    /// Returns once it is certain that this replica leads in `term` still, with all applied that was committed when the
    /// call began. To be called before each DELETE. A leader that was cut off from its peers waits here.
    pub(super) async fn confirm_leadership(&self, term: Term) -> Result<(), StepError> {
        let _one = self.proposing.lock().await;
        self.host.confirm().await?;
        if self.term()? == term { Ok(()) } else { Err(StepError::End(Ended::Deposed)) }
    }

    /// Stops the lane's archiving for everyone to see.
    pub(super) async fn stop(&self, reason: StopReason) -> Result<(), StepError> {
        if let StopReason::Sealed { next, .. } | StopReason::Closed { next } = reason {
            self.host.superseded(next);
        }
        tracing::error!(lane = %self.host.lane(), %reason, "archiving of the lane stopped: its records stay on this disk; once the reason is gone, tidewater lane resume lets it go on");
        self.propose(Command::Stopped { reason: Some(reason.to_string()) }).await
    }

    /// Sets a range aside, once.
    pub(super) async fn quarantine(&self, bad: Quarantine) -> Result<(), StepError> {
        let Quarantine { partition, offsets, reason } = &bad;
        debug_assert!(!offsets.is_empty(), "a range that failed a check is not empty");
        let known = self.host.with_partition(*partition, |manifest| {
            manifest.quarantined.iter().any(|range| range.offsets.intersect(offsets) == *offsets)
        });
        if known != Some(false) {
            return Ok(());
        }
        tracing::error!(%partition, %offsets, reason, "range quarantined: if it is not in the bucket yet its partition waits for it, if it is the scrubber looks at it again");
        self.propose(Command::Quarantined(bad)).await
    }

    /// Makes the catalogue name the lane and the topics of `partitions`.
    ///
    /// A topic that this node does not know and the catalogue does not name is waited for: after a start, or behind the
    /// controller's leader, the lane may have a partition before the node has its topic. Records whose topic the
    /// catalogue lacks are a damaged archive to a restore.
    ///
    /// # Errors
    /// [`StepError::Later`] if the topic stays unknown; those of the catalogue.
    pub(super) async fn ensure_catalogue(
        &self,
        partitions: impl Iterator<Item = PartitionId>,
    ) -> Result<(), StepError> {
        let lanes = BTreeSet::from([self.host.lane()]);
        let partitions: Vec<PartitionId> = partitions.collect();
        let mut waited = Duration::ZERO;
        loop {
            let (topics, unknown) = self.topics_of(&partitions);
            let change = CatalogueChange { topics, lanes: lanes.clone(), ..CatalogueChange::default() };
            self.catalogue.ensure(&change, &|| self.host.catalogue()).await?;
            let Some(topic) = unknown.into_iter().find(|topic| !self.catalogue.names(*topic)) else { return Ok(()) };
            if waited >= TOPIC_WAIT {
                return Err(StepError::Later(format!(
                    "this broker does not know topic {topic} yet, whose records are archived once the catalogue names it"
                )));
            }
            self.env.tasks.sleep(self.config.backoff.0).await;
            waited += self.config.backoff.0;
        }
    }

    /// What the catalogue is to say of the topics of `partitions`, and the topics that this node does not know although
    /// the lane has not dropped their partitions.
    fn topics_of(&self, partitions: &[PartitionId]) -> (BTreeMap<TopicId, CatalogueTopic>, BTreeSet<TopicId>) {
        let (mut topics, mut unknown) = (BTreeMap::new(), BTreeSet::new());
        for partition in partitions {
            // A topic's facts name all its partitions: once is enough.
            if topics.contains_key(&partition.topic) {
                continue;
            }
            match self.host.topic(*partition) {
                Some(facts) => drop(topics.insert(partition.topic, facts.catalogue)),
                None if !self.host.dropped(*partition) => drop(unknown.insert(partition.topic)),
                None => {}
            }
        }
        (topics, unknown)
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut ArchiveStatus)) {
        change(&mut self.status.borrow_mut());
    }

    pub(super) fn nonce(&self) -> Nonce {
        Nonce(self.env.rng.next_u64())
    }

    /// By this machine's wall clock.
    pub(super) fn now(&self) -> TimestampMs {
        self.env.clock.wall()
    }

    /// Time between the publication that forgets an object and its deletion, now.
    pub(super) fn delete_grace(&self) -> Duration {
        let grace = self.config.delete_grace;
        if self.host.is_short_of_space() { grace.min(self.config.short_of_space.0) } else { grace }
    }

    /// Least time between two publications, now.
    pub(super) fn publish_interval(&self) -> Duration {
        let interval = self.config.publish_interval;
        if self.host.is_short_of_space() { interval.min(self.config.short_of_space.1) } else { interval }
    }

    /// Looks until the answer is no reason to stop the lane's archiving, at most [`READS`] times with the first and the
    /// longest pause between: only the same reason every time stops it.
    ///
    /// # Errors
    /// The reason to stop; any other error of `look`; [`StepError::Later`] for reasons that differ.
    pub(super) async fn unless_stopped<T>(&self, look: impl AsyncFn() -> Result<T, StepError>) -> Result<T, StepError> {
        let mut first: Option<StopReason> = None;
        let mut pauses = [self.config.backoff.0, self.config.backoff.1].into_iter();
        loop {
            let reason = match look().await {
                Err(StepError::Stop(reason)) => reason,
                settled => return settled,
            };
            let first = first.get_or_insert_with(|| reason.clone());
            if *first != reason {
                return Err(StepError::Later(format!("the bucket contradicts itself: first {first}, then {reason}")));
            }
            let Some(pause) = pauses.next() else { return Err(StepError::Stop(reason)) };
            tracing::warn!(lane = %self.host.lane(), %reason, ?pause, "a reason to stop the lane; looking again");
            self.env.tasks.sleep(pause).await;
        }
    }

    /// An object that is not found counts as gone only while the cluster's root is found: otherwise the bucket is away.
    pub(super) async fn unless_away(&self, error: StoreError) -> StoreError {
        let root = self.bucket.root.name.root_key();
        match self.bucket.store.head(&root).await {
            Ok(_) => error,
            Err(StoreError::NotFound { key }) => {
                let detail = format!("{error}, and neither does the cluster's root: the bucket is away");
                StoreError::Unavailable { key, detail }
            }
            Err(unknown) => unknown,
        }
    }

    /// Why the lane's manifest, which was published, is not found: it is gone, or the bucket is away. The bundle loop
    /// looks again before anything else is done.
    pub(super) async fn manifest_gone(&self, object: ObjectName) -> StepError {
        self.note(|status| status.probed = false);
        match self.unless_away(StoreError::NotFound { key: object.key().to_string() }).await {
            StoreError::NotFound { .. } => StepError::Stop(StopReason::ManifestGone { object }),
            error => error.into(),
        }
    }

    /// Reads until the answer is no verdict, at most [`READS`] times; the pauses between double.
    ///
    /// # Errors
    /// The last verdict, or the first error that is none.
    pub(super) async fn read_again<T, E>(
        &self,
        is_verdict: impl Fn(&E) -> bool,
        read: impl AsyncFn() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut pause = self.config.backoff.0;
        for _ in 1..READS {
            match read().await {
                Err(error) if is_verdict(&error) => {}
                settled => return settled,
            }
            self.env.tasks.sleep(pause).await;
            pause *= 2;
        }
        read().await
    }
}
