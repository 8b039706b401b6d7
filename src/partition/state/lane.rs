//! A data lane's state machine: committed entries become batches in partitions.
//!
//! Owns: the partitions of one lane, the lane's archive state, and what applying an entry does. Every decision here is
//! a function of the log alone, so that all replicas come to the same. Proposals come from `proposer.rs`, from the
//! controller's reconciliation and from archiving. Shard-local.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::engine::Engine;
use tidewater_storage::env::Env;
use tidewater_storage::journal::Payload;
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::{EntryId, LaneId, LogIndex, Offset, PartitionId, Term, TimestampMs, TopicName};
use tidewater_tiering::manifest::{self, LaneManifest, PartitionManifest};

use super::codec::{begin_lane_blob, open_lane_blob};
use super::command::{EntryError, LaneCommand, LaneEntry, PlacedBatch};
use super::dirty::Touched;
use super::event::Bell;
use super::not_understood::{NotUnderstood, Stopped};
use super::replica::{Birth, Replica};
use super::replicas::Replicas;
use crate::config::topic::TopicConfig;
use crate::limits;
use crate::partition::message::{ProduceDone, ProduceError};
use crate::raft::{Answer, Apply, Lane, ProposeError};

/// What applying an entry came to, told to whoever proposed it.
#[derive(Debug)]
pub enum Outcome {
    /// Per batch, in order.
    Batches(Vec<Result<ProduceDone, ProduceError>>),
    /// A command took effect, or had done so before.
    Done,
    /// An archive command: applied, or why it was rejected.
    Archive(Result<manifest::Applied, manifest::Rejected>),
    /// The entry could not be understood: it changed nothing, and the lane stands still.
    Refused(EntryError),
}

/// One data lane on its shard.
pub struct DataLane {
    /// Its id.
    pub id: LaneId,
    env: Env,
    engine: Engine,
    replicas: RefCell<Replicas>,
    covered: RefCell<BTreeMap<PartitionId, LogIndex>>,
    /// The greatest index in it.
    covered_upto: LogIndex,
    archive: RefCell<LaneManifest>,
    /// Dropped partitions whose objects are not gone yet.
    gone: RefCell<BTreeMap<PartitionId, PartitionManifest>>,
    happenings: RefCell<VecDeque<(LogIndex, Happening)>>,
    applied: Cell<Option<EntryId>>,
    /// Who votes, as of `applied`: Raft's, for the checkpoint.
    membership: RefCell<Bytes>,
    leading: Cell<Option<Term>>,
    stopped: Stopped,
    raft: OnceCell<Lane>,
    /// `producer.id.expiration.ms`.
    producers_after_ms: Cell<i64>,
    /// Rung when leadership changes.
    pub leadership_bell: Rc<Bell>,
    /// Partitions to which something happened, for those who look after them.
    pub touched: Touched,
}

impl fmt::Debug for DataLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataLane({}, {} partitions)", self.id, self.replicas.borrow().len())
    }
}

/// What happened to a partition of the lane, for readers that follow its bundles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// It came to be.
    Created {
        /// Who.
        partition: PartitionId,
        /// Its topic's name.
        topic: TopicName,
        /// The topic's overrides.
        overrides: BTreeMap<String, String>,
        /// What its leader epochs are counted from.
        epoch_base: i32,
    },
    /// Its topic was deleted.
    Dropped {
        /// Who.
        partition: PartitionId,
    },
    /// Records below were deleted.
    LogStartMoved {
        /// Who.
        partition: PartitionId,
        /// The new log start.
        to: Offset,
    },
}

/// Happenings kept for the next bundles; a reader further behind starts from the lane manifest. Every checkpoint of the
/// lane writes them, some 200 bytes each, also while no bundle goes out.
const HAPPENINGS_MAX: usize = 10_000;

/// A lane's state as a checkpoint held it.
#[derive(Debug)]
pub struct RecoveredState {
    /// What was applied.
    pub applied: Option<EntryId>,
    /// The lane's own blob; empty for a new lane.
    pub blob: Bytes,
    /// Its partitions, each with the index it is *as of*.
    pub replicas: Vec<(Replica, LogIndex)>,
}

/// A lane blob that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint of lane {0} is malformed or of a newer version")]
pub struct BadLaneBlob(pub LaneId);

impl DataLane {
    /// A lane as recovered; `fresh` is its archive state when it never had one.
    ///
    /// # Errors
    /// The checkpoint's blob is malformed.
    pub fn recover(
        id: LaneId,
        env: Env,
        engine: Engine,
        recovered: RecoveredState,
        fresh: LaneManifest,
    ) -> Result<Self, BadLaneBlob> {
        let blob = if recovered.blob.is_empty() {
            Blob { membership: Bytes::new(), archive: fresh, gone: BTreeMap::new(), happenings: VecDeque::new() }
        } else {
            Blob::decode(&recovered.blob).ok_or(BadLaneBlob(id))?
        };
        let mut replicas = Replicas::default();
        let mut covered = BTreeMap::new();
        let touched = Touched::default();
        for (replica, as_of) in recovered.replicas {
            covered.insert(replica.id, as_of);
            touched.touch(replica.id, &replica.marks);
            replicas.insert(Rc::new(replica));
        }
        Ok(Self {
            id,
            env,
            engine,
            replicas: RefCell::new(replicas),
            covered_upto: covered.values().max().copied().unwrap_or(LogIndex(0)),
            covered: RefCell::new(covered),
            archive: RefCell::new(blob.archive),
            gone: RefCell::new(blob.gone),
            happenings: RefCell::new(blob.happenings),
            applied: Cell::new(recovered.applied),
            membership: RefCell::new(blob.membership),
            leading: Cell::new(None),
            stopped: Stopped::default(),
            raft: OnceCell::new(),
            producers_after_ms: Cell::new(i64::try_from(limits::PRODUCER_ID_EXPIRATION_MS).unwrap_or(i64::MAX)),
            leadership_bell: Rc::default(),
            touched,
        })
    }

    /// Idempotent producers silent for `ms` of the log's time are forgotten from now on (`producer.id.expiration.ms`).
    pub fn forget_producers_after(&self, ms: u64) {
        self.producers_after_ms.set(i64::try_from(ms).unwrap_or(i64::MAX));
    }

    /// Gives the lane its Raft group; once, before anything is proposed. What a checkpoint covered while the group started
    /// is let go of after the next one.
    pub fn attach(&self, raft: Lane) {
        let _ = self.raft.set(raft);
        if self.applied.get().is_some() {
            self.engine.touch_lane(self.id);
        }
    }

    /// Its Raft group.
    #[must_use]
    pub fn raft(&self) -> Option<&Lane> {
        self.raft.get()
    }

    /// The term in which this replica leads and serves; `None` while it does not.
    #[must_use]
    pub fn leading(&self) -> Option<Term> {
        self.leading.get()
    }

    /// Waits until this replica leads and has applied all that its log held.
    ///
    /// # Errors
    /// An entry was met that this version does not understand: the lane must not be served.
    pub async fn led(&self) -> Result<(), NotUnderstood> {
        while self.leading().is_none() {
            if let Some(why) = self.stopped.why() {
                return Err(why);
            }
            self.leadership_bell.heard().await;
        }
        Ok(())
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Option<EntryId> {
        self.applied.get()
    }

    /// A partition of this lane.
    #[must_use]
    pub fn replica(&self, id: PartitionId) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(id).cloned()
    }

    /// All its partitions.
    #[must_use]
    pub fn replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().iter().cloned().collect()
    }

    /// The lane's share of the archive.
    #[must_use]
    pub fn archive(&self) -> Ref<'_, LaneManifest> {
        self.archive.borrow()
    }

    /// Dropped partitions that still have objects in the bucket.
    #[must_use]
    pub fn gone(&self) -> Ref<'_, BTreeMap<PartitionId, PartitionManifest>> {
        self.gone.borrow()
    }

    /// What happened after log index `after`, oldest first.
    #[must_use]
    pub fn happenings(&self, after: LogIndex) -> Vec<Happening> {
        self.happenings.borrow().iter().filter(|(index, _)| *index > after).map(|(_, what)| what.clone()).collect()
    }

    /// Did anything happen after log index `after`?
    #[must_use]
    pub fn has_happenings(&self, after: LogIndex) -> bool {
        self.happenings.borrow().back().is_some_and(|(index, _)| *index > after)
    }

    /// Forgets what happened up to `upto`: a bundle in the bucket tells it.
    pub fn told(&self, upto: LogIndex) {
        let mut happenings = self.happenings.borrow_mut();
        let told = happenings.partition_point(|(index, _)| *index <= upto);
        if told > 0 {
            happenings.drain(..told);
            happenings.shrink_to_fit();
            self.engine.touch_lane(self.id);
        }
    }

    fn happened(&self, index: LogIndex, what: Happening) {
        let mut happenings = self.happenings.borrow_mut();
        if happenings.len() == HAPPENINGS_MAX {
            happenings.pop_front();
        }
        happenings.push_back((index, what));
        self.touched.ring();
    }

    /// Proposes an entry at once; the future resolves when it is applied here. The order of calls is the order in the
    /// log. It fails when the entry was not committed, or when it is not known whether it was.
    pub fn propose(&self, entry: LaneEntry) -> impl Future<Output = Result<(EntryId, Outcome), ProposeError>> + use<> {
        let proposal = self.raft.get().map(|raft| raft.propose(entry.encode()));
        async move {
            let (id, answer) = proposal.ok_or(ProposeError::Shutdown)?.await?;
            Ok((id, outcome(answer)))
        }
    }

    /// Would [`DataLane::propose`] find room among what is in flight?
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.raft.get().is_none_or(Lane::has_room)
    }

    /// The lane's blob for the checkpoint.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = begin_lane_blob(&self.membership.borrow());
        out.blob(&self.archive.borrow().encode());
        let gone = self.gone.borrow();
        out.u32(gone.len() as u32);
        for manifest in gone.values() {
            out.blob(&manifest.encode());
        }
        // Serialising plain maps and numbers into memory cannot fail.
        out.blob(&serde_json::to_vec(&*self.happenings.borrow()).unwrap_or_default());
        out.finish()
    }

    fn apply_entry(&self, id: EntryId, payload: &Payload) -> Result<Outcome, EntryError> {
        Ok(match LaneEntry::decode(payload)? {
            LaneEntry::Batches { at, batches } => Outcome::Batches(self.apply_batches(id, at, batches)),
            LaneEntry::Command(command) => {
                self.apply_command(id, command);
                Outcome::Done
            }
            LaneEntry::Archive(bytes) => {
                let command = manifest::Command::decode(&bytes).map_err(|_| EntryError::Malformed)?;
                Outcome::Archive(self.apply_archive(id, &command))
            }
        })
    }

    fn apply_batches(
        &self,
        id: EntryId,
        at: TimestampMs,
        batches: Vec<PlacedBatch>,
    ) -> Vec<Result<ProduceDone, ProduceError>> {
        let (replicas, now) = (self.replicas.borrow(), self.env.clock.now());
        let producers_after_ms = self.producers_after_ms.get();
        // Only what comes soon after a start can be in the checkpoint already.
        let repeats = id.index <= self.covered_upto;
        let append = |placed: PlacedBatch| {
            let partition = placed.partition;
            let replica = replicas.get(partition).ok_or(ProduceError::UnknownPartition(partition))?;
            if repeats && self.is_covered(partition, id.index) {
                return Err(ProduceError::NotLeader);
            }
            self.touched.touch(partition, &replica.marks);
            replica.append(placed, id, at, now, producers_after_ms)
        };
        batches.into_iter().map(append).collect()
    }

    /// The lane decides first; only what it accepts reaches the partitions, dropped ones included.
    fn apply_archive(&self, id: EntryId, command: &manifest::Command) -> Result<manifest::Applied, manifest::Rejected> {
        let applied = self.archive.borrow_mut().apply(id.index, command)?;
        self.touched.ring();
        self.engine.touch_lane(self.id);
        let (home, mut result) = (self.archive.borrow().home, Ok(applied));
        for partition in command.partitions() {
            if self.is_covered(partition, id.index) {
                continue;
            }
            let share = match self.replica(partition) {
                Some(replica) => {
                    self.engine.touch_partition(partition);
                    self.touched.touch(partition, &replica.marks);
                    replica.with_manifest(|manifest| manifest.apply(home, self.id, id.index, command))
                }
                None => match self.gone.borrow_mut().get_mut(&partition) {
                    Some(manifest) => manifest.apply(home, self.id, id.index, command),
                    None => continue,
                },
            };
            result = result.and(share);
        }
        result
    }

    /// Does the checkpoint this partition was recovered from hold the effect of that entry already?
    fn is_covered(&self, partition: PartitionId, index: LogIndex) -> bool {
        self.covered.borrow().get(&partition).is_some_and(|as_of| index <= *as_of)
    }

    fn apply_command(&self, id: EntryId, command: LaneCommand) {
        match command {
            LaneCommand::Create { partition, topic, overrides, epoch_base } => {
                if self.replicas.borrow().contains(partition) || self.is_covered(partition, id.index) {
                    return;
                }
                let settings = log_settings(&TopicConfig::resolve(&overrides));
                let log = self.engine.create_partition(partition, self.id, id, settings);
                let (name, configs) = (topic.clone(), overrides.clone());
                let replica = Replica::born(partition, self.id, id.index, Birth { topic, epoch_base }, overrides, log);
                self.touched.touch(partition, &replica.marks);
                self.replicas.borrow_mut().insert(Rc::new(replica));
                self.engine.touch_partition(partition);
                self.happened(id.index, Happening::Created { partition, topic: name, overrides: configs, epoch_base });
            }
            LaneCommand::Drop { partition } => {
                if let Some(replica) = self.replicas.borrow_mut().remove(partition) {
                    replica.waiters.all();
                    self.engine.drop_partition(partition, id);
                    self.gone.borrow_mut().insert(partition, replica.manifest().clone());
                    self.happened(id.index, Happening::Dropped { partition });
                }
            }
            LaneCommand::Batch { commands } => {
                // None of them is a batch: an entry made otherwise is not walked into without end.
                let single = |command: &LaneCommand| !matches!(command, LaneCommand::Batch { .. });
                commands.into_iter().filter(single).for_each(|command| self.apply_command(id, command));
            }
            LaneCommand::Clean { partition } => {
                self.gone.borrow_mut().remove(&partition);
            }
            LaneCommand::Configure { partition, overrides } => {
                if let Some(replica) = self.replica(partition) {
                    replica.configure(overrides);
                    replica.log.set_settings(log_settings(&replica.config()));
                    self.engine.touch_partition(partition);
                    self.touched.touch(partition, &replica.marks);
                }
            }
            LaneCommand::Trim { partition, to } => {
                if let Some(replica) = self.replica(partition) {
                    replica.trim(to);
                    self.engine.touch_partition(partition);
                    self.touched.touch(partition, &replica.marks);
                    self.happened(id.index, Happening::LogStartMoved { partition, to: replica.log_start() });
                }
            }
        }
    }
}

/// Storage's settings of a partition, from its topic's.
#[must_use]
pub fn log_settings(config: &TopicConfig) -> LogSettings {
    LogSettings { segment_bytes: config.segment_bytes, segment_ms: config.segment_ms }
}

/// The membership blob within a lane's checkpoint blob; `None` for a new lane.
#[must_use]
pub fn membership_of(blob: &Bytes) -> Option<Bytes> {
    Blob::decode(blob).map(|blob| blob.membership).filter(|m| !m.is_empty())
}

/// What a lane's checkpoint blob holds.
struct Blob {
    membership: Bytes,
    archive: LaneManifest,
    gone: BTreeMap<PartitionId, PartitionManifest>,
    happenings: VecDeque<(LogIndex, Happening)>,
}

impl Blob {
    fn decode(blob: &Bytes) -> Option<Self> {
        let (membership, mut from) = open_lane_blob(blob)?;
        let archive = LaneManifest::decode(from.blob()?).ok()?;
        let mut gone = BTreeMap::new();
        for _ in 0..from.u32()? {
            let manifest = PartitionManifest::decode(from.blob()?).ok()?;
            gone.insert(manifest.id, manifest);
        }
        let happenings = serde_json::from_slice(from.blob()?).ok()?;
        Some(Self { membership, archive, gone, happenings })
    }
}

/// The outcome within an answer of Raft's.
#[must_use]
pub fn outcome(answer: Answer) -> Outcome {
    answer.take::<Outcome>().unwrap_or(Outcome::Done)
}

impl Apply for DataLane {
    fn apply(&self, id: EntryId, payload: &Payload) -> Answer {
        if self.stopped.is_set() {
            return Answer::of(Outcome::Refused(EntryError::Stopped));
        }
        match self.apply_entry(id, payload) {
            Ok(outcome) => {
                self.applied.set(Some(id));
                self.engine.touch_lane(self.id);
                Answer::of(outcome)
            }
            Err(error) => {
                self.stopped.set(NotUnderstood { lane: self.id, entry: id, why: error.to_string() });
                self.leading.set(None);
                self.leadership_bell.ring();
                Answer::of(Outcome::Refused(error))
            }
        }
    }

    fn applied_blank(&self, id: EntryId) {
        if !self.stopped.is_set() {
            self.applied.set(Some(id));
            self.engine.touch_lane(self.id);
        }
    }

    fn membership(&self, blob: Bytes) {
        self.membership.replace(blob);
    }

    fn leading(&self, term: Term, _ready_at: EntryId) {
        self.leading.set(Some(term).filter(|_| !self.stopped.is_set()));
        self.leadership_bell.ring();
        self.touched.ring();
    }

    fn following(&self, _term: Term) {
        self.leading.set(None);
        self.leadership_bell.ring();
        self.replicas.borrow().iter().for_each(|replica| replica.waiters.all());
        self.touched.ring();
    }

    fn snapshot(&self) -> Bytes {
        self.encode()
    }

    fn install(&self, _at: EntryId, _state: Bytes) {
        // One voter never installs: there is nobody to send it a snapshot.
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::env::sim::World;

    use super::*;
    use crate::partition::fixture::Fixture;
    use crate::partition::state::codec::Writer;

    #[test]
    fn a_lane_stops_at_an_entry_of_a_newer_version_and_does_not_start_past_it() {
        let mut command = Writer::default();
        command.u8(2);
        command.blob(b"{\"merge\":1}");
        let (kind, archive) = (Bytes::from_static(b"\x09new"), Bytes::from_static(b"\x03"));
        for (seed, meta) in [(1, kind), (2, command.finish()), (3, archive)] {
            let world = World::new(seed);
            let env = world.env();
            world.block_on(async {
                let shard = Fixture::open(&env).await;
                let before = shard.lane.applied().expect("has applied");
                let blobs = if seed == 3 { vec![Bytes::from_static(b"\xff\xffnew")] } else { Vec::new() };
                let newer = Payload { meta, blobs, verified: false };
                let raft = shard.lane.raft().expect("is attached").clone();
                let (id, answer) = raft.propose(newer).await.expect("is committed");
                assert!(matches!(outcome(answer), Outcome::Refused(_)), "seed {seed}");
                // Of what comes after it nothing may be kept either.
                let after = LaneCommand::Drop { partition: shard.place(0).id };
                let after = raft.propose(LaneEntry::Command(after).encode()).await;
                assert!(after.is_ok() && shard.lane.replica(shard.place(0).id).is_some());
                assert_eq!(shard.lane.applied(), Some(before), "a checkpoint holds what was understood");
                assert_eq!(shard.lane.leading(), None, "it is not served");
                raft.shutdown().await;
                shard.engine.close().await;
                let error = Fixture::try_open(&env).await.err().expect("does not start");
                assert_eq!((error.lane, error.entry), (shard.lane.id, id));
            });
        }
    }
}
