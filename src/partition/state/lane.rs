//! A data lane: its partitions, its archive state and its Raft group.
//!
//! Owns: the partitions of one lane and the lane's archive state. Changed only by [`apply`](super::apply), in the order
//! of the lane's log. Proposals come from the proposer, the controller's reconciliation and the archiver. Shard-local.

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::engine::Engine;
use tidewater_storage::env::{Env, Notify};
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::{EntryId, LaneId, LogIndex, PartitionId, Term};
use tidewater_tiering::manifest::{LaneManifest, PartitionManifest};

use super::apply::{Outcome, outcome};
use super::command::{LaneOp, PRODUCERS_AFTER_MS};
use super::dirty::DirtyPartitions;
use super::lane_blob::{BadLaneBlob, Blob};
use super::lane_events::{LaneEvent, LaneEvents};
use super::replica::Replica;
use super::replicas::Replicas;
use crate::config::topic::TopicConfig;
use crate::partition::message::LeaderHint;
use crate::raft::{Lane, LaneStatus, ProposeError, ReplicaProgress};

/// A voter that has not answered its leader for longer does not count as live. Milliseconds.
const LIVE_WITHIN_MS: u64 = 2000;

/// One data lane on its shard.
pub struct DataLane {
    pub id: LaneId,
    pub status: LaneStatus,
    /// Partitions that changed, for the tasks that look after them.
    pub dirty: DirtyPartitions,
    /// Notified when leadership of the lane begins or ends.
    on_leadership: RefCell<Vec<Rc<Notify>>>,
    pub(super) env: Env,
    pub(super) engine: Engine,
    pub(super) replicas: RefCell<Replicas>,
    /// What the checkpoint of each recovered partition covers.
    pub(super) covered: RefCell<BTreeMap<PartitionId, LogIndex>>,
    /// The greatest index in `covered`.
    pub(super) covered_upto: Cell<LogIndex>,
    pub(super) archive: RefCell<LaneManifest>,
    /// Dropped partitions that still have objects in the bucket.
    pub(super) gone: RefCell<BTreeMap<PartitionId, PartitionManifest>>,
    pub(super) events: RefCell<LaneEvents>,
    /// `producer.id.expiration.ms`, which goes into the entries proposed here.
    pub(in crate::partition) producers_after_ms: Cell<i64>,
    /// The controller's revision of the newest command that was applied.
    pub(super) revision: Cell<u64>,
}

impl fmt::Debug for DataLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataLane({}, {} partitions)", self.id, self.replicas.borrow().len())
    }
}

/// A lane's state as a checkpoint held it.
#[derive(Debug)]
pub struct RecoveredState {
    pub applied: Option<EntryId>,
    /// The lane's own blob; empty for a new lane.
    pub blob: Bytes,
    /// Its partitions, each with the last index its own checkpoint covers.
    pub replicas: Vec<(Replica, LogIndex)>,
}

impl DataLane {
    /// A lane as recovered; `fresh` is the archive state of a new lane.
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
            Blob::of_new_lane(fresh)
        } else {
            Blob::decode(&recovered.blob).map_err(|source| BadLaneBlob { lane: id, source })?
        };
        let mut replicas = Replicas::default();
        let mut covered = BTreeMap::new();
        let dirty = DirtyPartitions::default();
        for (replica, as_of) in recovered.replicas {
            covered.insert(replica.id, as_of);
            dirty.mark(replica.id, &replica.marks);
            replicas.insert(Rc::new(replica));
        }
        Ok(Self {
            id,
            status: LaneStatus::recovered(id, engine.clone(), recovered.applied, blob.membership),
            dirty,
            on_leadership: RefCell::default(),
            env,
            engine,
            replicas: RefCell::new(replicas),
            covered_upto: Cell::new(covered.values().max().copied().unwrap_or(LogIndex(0))),
            covered: RefCell::new(covered),
            archive: RefCell::new(blob.archive),
            gone: RefCell::new(blob.gone),
            events: RefCell::new(blob.events),
            producers_after_ms: Cell::new(PRODUCERS_AFTER_MS),
            revision: Cell::new(blob.revision),
        })
    }

    /// The lane is to be rebuilt, and its group has ended: it has no partitions and no state until
    /// [`DataLane::restore`].
    pub fn clear(&self) {
        self.status.detach();
        self.replicas.take();
        self.dirty.clear();
        self.covered.take();
        self.covered_upto.set(LogIndex(0));
        self.gone.take();
        self.events.take();
        self.leadership_changed();
    }

    /// Takes over a state as of `applied`, as [`DataLane::recover`] does.
    ///
    /// # Errors
    /// The lane's blob is malformed; nothing was changed.
    pub fn restore(
        &self,
        applied: EntryId,
        blob: &Bytes,
        replicas: Vec<(Replica, LogIndex)>,
    ) -> Result<(), BadLaneBlob> {
        let blob = Blob::decode(blob).map_err(|source| BadLaneBlob { lane: self.id, source })?;
        self.status.restore(applied, blob.membership);
        for (replica, as_of) in replicas {
            self.covered.borrow_mut().insert(replica.id, as_of);
            self.dirty.mark(replica.id, &replica.marks);
            self.replicas.borrow_mut().insert(Rc::new(replica));
        }
        self.covered_upto.set(self.covered.borrow().values().max().copied().unwrap_or(LogIndex(0)));
        self.archive.replace(blob.archive);
        self.gone.replace(blob.gone);
        self.events.replace(blob.events);
        self.revision.set(blob.revision);
        Ok(())
    }

    /// The last entry whose effect the partition's state has: of a recovered one it may be later than the lane's.
    #[must_use]
    pub fn as_of(&self, id: PartitionId) -> Option<LogIndex> {
        let applied = self.status.applied()?.index;
        Some(self.covered.borrow().get(&id).map_or(applied, |covered| applied.max(*covered)))
    }

    /// The last entry that the recovered state of some partition covers: until it is applied, partitions are ahead of
    /// the lane.
    #[must_use]
    pub fn covered_upto(&self) -> LogIndex {
        self.covered_upto.get()
    }

    /// With the entries proposed here from now on, idempotent producers silent for `ms` of the log's time are forgotten
    /// (`producer.id.expiration.ms`).
    pub fn forget_producers_after(&self, ms: u64) {
        self.producers_after_ms.set(i64::try_from(ms).unwrap_or(i64::MAX).max(1));
    }

    /// `notify` is notified when leadership of the lane begins or ends.
    pub fn on_leadership(&self, notify: Rc<Notify>) {
        self.on_leadership.borrow_mut().push(notify);
    }

    pub(super) fn leadership_changed(&self) {
        self.on_leadership.borrow().iter().for_each(|notify| notify.notify());
        self.dirty.notify();
    }

    /// The controller's revision of the newest command that was applied; 0 if none had one.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.get()
    }

    /// The term in which this replica leads, if no other broker can lead by now: what may answer clients.
    #[must_use]
    pub fn serving(&self) -> Option<Term> {
        let term = self.status.leading()?;
        self.status.raft().is_some_and(Lane::holds_lease).then_some(term)
    }

    /// Does the lane need others to commit an entry?
    #[must_use]
    pub fn has_several_voters(&self) -> bool {
        self.status.raft().is_some_and(Lane::has_several_voters)
    }

    /// How many voters the lane has, and how many of them have answered this leader lately.
    #[must_use]
    pub fn live_voters(&self) -> (usize, usize) {
        let Some(raft) = self.status.raft() else { return (1, 1) };
        let membership = raft.membership();
        let is_live = |progress: &ReplicaProgress| {
            let answers = progress.last_answer_ms.is_some_and(|ms| ms <= LIVE_WITHIN_MS);
            answers && membership.is_voter(progress.replica)
        };
        (membership.voters.len(), raft.progress().iter().filter(|progress| is_live(progress)).count())
    }

    /// The leader of a partition of this lane as this replica knows it.
    #[must_use]
    pub fn leader_hint(&self, id: PartitionId) -> Option<LeaderHint> {
        let leadership = self.status.raft()?.leadership();
        let epoch = self.replica(id)?.leader_epoch(leadership.term);
        Some(LeaderHint { node: leadership.leader?, epoch })
    }

    /// A partition of this lane.
    #[must_use]
    pub fn replica(&self, id: PartitionId) -> Option<Rc<Replica>> {
        self.replicas.borrow().get(id).cloned()
    }

    /// All its partitions, by id.
    #[must_use]
    pub fn replicas(&self) -> Vec<Rc<Replica>> {
        self.replicas.borrow().iter().cloned().collect()
    }

    /// What the lane published to the bucket.
    #[must_use]
    pub fn archive(&self) -> Ref<'_, LaneManifest> {
        self.archive.borrow()
    }

    /// Dropped partitions that still have objects in the bucket.
    #[must_use]
    pub fn gone(&self) -> Ref<'_, BTreeMap<PartitionId, PartitionManifest>> {
        self.gone.borrow()
    }

    /// The lane's events after log index `after`, oldest first.
    #[must_use]
    pub fn events(&self, after: LogIndex) -> Vec<LaneEvent> {
        self.events.borrow().after(after)
    }

    /// Were there so many events that the oldest may have been lost? Then the lane's state says what they said.
    #[must_use]
    pub fn may_have_lost_events(&self) -> bool {
        self.events.borrow().is_full()
    }

    /// Are there events after log index `after`?
    #[must_use]
    pub fn has_events(&self, after: LogIndex) -> bool {
        self.events.borrow().last().is_some_and(|index| index > after)
    }

    /// Proposes an entry at once; the future resolves when it is applied here. The order of calls is the order in the
    /// log. It fails when the entry was not committed, or when it is not known whether it was.
    pub fn propose(&self, op: LaneOp) -> impl Future<Output = Result<(EntryId, Outcome), ProposeError>> + use<> {
        let proposal = self.status.propose(op.encode());
        async move {
            let (id, answer) = proposal.await?;
            Ok((id, outcome(answer)))
        }
    }
}

/// Storage's settings of a partition, from its topic's.
#[must_use]
pub fn log_settings(config: &TopicConfig) -> LogSettings {
    LogSettings { segment_bytes: config.segment_bytes, segment_ms: config.segment_ms }
}
