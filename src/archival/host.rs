//! A data lane as the archiver sees it.

use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::engine::Engine;
use tidewater_storage::log::ReadError;
use tidewater_storage::model::{
    LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, ProducerId, Term, TopicId,
};
use tidewater_tiering::archive::{
    LaneState, LocalLog, LocalRead, LocalReadError, LocalSegment, Loop, Propose, ProposeError, TopicFacts, Unarchived,
    Whereabouts,
};
use tidewater_tiering::bucket::CatalogueChange;
use tidewater_tiering::format::{EpochStart, LaneEvent, PRODUCER_BATCHES_MAX, ProducerBatch, ProducerState};
use tidewater_tiering::keys::LineageEpoch;
use tidewater_tiering::manifest::{
    CataloguePartition, CatalogueTopic, Command, LaneManifest, LogFacts, PartitionManifest, UnarchivedTopic,
    UnarchivedTopics,
};
use tidewater_tiering::retention::RetentionPolicy;

use super::leads_controller;
use crate::config::topic::TopicConfig;
use crate::controller::client::ControllerHandle;
use crate::controller::copies::TopicCopy;
use crate::controller::image::{ClusterImage, PartitionImage, TopicImage};
use crate::partition::message::PartitionAddress;
use crate::partition::produce::producers::{BATCHES_REMEMBERED, ProducerEntry, Remembered};
use crate::partition::shard::PartitionShard;
use crate::partition::state::apply::Outcome;
use crate::partition::state::command::{LaneCommand, LaneOp};
use crate::partition::state::dirty::{DirtyList, Marks};
use crate::partition::state::lane::DataLane;
use crate::partition::state::lane_events::LaneEvent as AppliedEvent;
use crate::partition::state::replica::Replica;
use crate::raft;

/// The disk is filling up while producers may write less than this fraction (1/n) of the disk budget.
const FILLING_BELOW: u64 = 4;
/// The bucket's disk is short of space while producers may write less than this fraction (1/n) of the disk budget.
const SHORT_OF_SPACE_BELOW: u64 = 20;

/// How long this broker's image may take to reach the controller's revision.
const IMAGE_PATIENCE: Duration = Duration::from_secs(10);

/// One lane and the cluster's image beside it.
#[derive(Clone)]
pub struct Host {
    lane: Rc<DataLane>,
    shard: Rc<PartitionShard>,
    controller: ControllerHandle,
    engine: Engine,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host(lane {})", self.lane.id)
    }
}

impl Host {
    /// A host over a lane.
    #[must_use]
    pub fn new(lane: Rc<DataLane>, shard: Rc<PartitionShard>, controller: ControllerHandle, engine: Engine) -> Self {
        Self { lane, shard, controller, engine }
    }

    /// Batches that the local log lost, from another replica. The damage is of this disk only: it becomes the lane's
    /// state, as a quarantined range, only where no replica has the records.
    async fn read_from_peers(&self, partition: PartitionId, offsets: OffsetRange, max: usize) -> Option<LocalRead> {
        let peers = self.shard.peers()?;
        let address = PartitionAddress { id: partition, lane: self.lane.id, shard: self.shard.here };
        let batches = peers.read(address, offsets, max).await.ok().filter(|batches| !batches.is_empty())?;
        tracing::warn!(%partition, %offsets, "the local log is damaged; another replica has the records");
        Some(LocalRead { batches, sums: Vec::new() })
    }

    /// How long records are kept. For a while after a restore, and of a topic that is made as a copy, nothing is
    /// deleted: after a long outage retention would take at once what was restored.
    fn policy(&self, topic: TopicId, config: &TopicConfig) -> RetentionPolicy {
        let (now, image) = (self.shard.env().clock.wall(), self.controller.image());
        let copy = image.topic_by_id(topic).and_then(|topic| topic.copy.as_ref());
        if image.lineage.as_ref().is_some_and(|lineage| lineage.holds(now)) || copy.is_some_and(|copy| copy.holds(now))
        {
            return RetentionPolicy::default();
        }
        RetentionPolicy { retention_ms: config.retention_ms, retention_bytes: config.retention_bytes }
    }

    /// A topic's entry for the catalogue. A lane knows the leader-epoch bases of its own partitions best; merging keeps
    /// the greater of two ([`CatalogueTopic::newer`]).
    pub(super) fn catalogue_topic(topic: &TopicImage, lane: Option<&DataLane>) -> CatalogueTopic {
        let base = |p: &PartitionImage| Some(lane?.replica(p.id)?.epoch_base());
        let partition = |p: &PartitionImage| CataloguePartition {
            incarnation: p.id.incarnation,
            lane: p.lane,
            epoch_base: LeaderEpoch(base(p).unwrap_or(p.epoch_base)),
        };
        CatalogueTopic {
            id: topic.id,
            name: topic.name.clone(),
            configs: topic.overrides.clone(),
            partitions: topic.partitions.iter().map(partition).collect(),
            revision: topic.revision,
            copy: topic.copy.as_deref().and_then(TopicCopy::catalogued),
        }
    }

    /// Every topic, for the list of those of which nothing is in the bucket.
    pub(super) fn unarchived_topics(image: &ClusterImage) -> UnarchivedTopics {
        let topic = |topic: &TopicImage| UnarchivedTopic {
            id: topic.id,
            name: topic.name.clone(),
            partitions: u32::try_from(topic.partitions.len()).expect("a topic has at most 2^31 partitions"),
            configs: topic.overrides.clone(),
            copy: topic.copy.as_deref().and_then(TopicCopy::catalogued),
        };
        let mut topics: Vec<UnarchivedTopic> = image.topics.values().map(|found| topic(found)).collect();
        topics.sort_unstable_by_key(|topic| topic.id);
        UnarchivedTopics { revision: image.revision, topics }
    }

    /// Everything the catalogue holds, by an image that has every topic: the controller's leader has one. `None` before
    /// the controller's first image.
    pub(super) fn whole_catalogue(image: &ClusterImage, lane: Option<&DataLane>) -> Option<CatalogueChange> {
        if image.revision == 0 {
            return None;
        }
        let archived = || image.topics.values().filter(|topic| topic.config.archived);
        let lanes = archived().flat_map(|topic| topic.partitions.iter().map(|p| p.lane));
        let lanes = lanes.chain(lane.map(|lane| lane.id));
        Some(CatalogueChange {
            topics: archived().map(|topic| (topic.id, Self::catalogue_topic(topic, lane))).collect(),
            lanes: lanes.collect(),
            unarchived: Some(Self::unarchived_topics(image)),
            ..CatalogueChange::default()
        })
    }

    /// Shows a task the partitions in its list; those for which `keep` is true stay on it.
    fn look(&self, who: DirtyList, mut keep: impl FnMut(&Replica) -> bool) {
        let lane = &self.lane;
        let marks = |id| lane.replica(id).map(Marked);
        lane.dirty.retain(who, marks, |id| lane.replica(id).is_some_and(|replica| keep(&replica)));
    }

    /// Events that lead a reader from nothing to the lane's partitions of now.
    fn state_as_events(&self) -> Vec<LaneEvent> {
        let image = self.controller.image();
        let mut events = Vec::new();
        for replica in self.lane.replicas() {
            let Some(topic) = image.topic_by_id(replica.id.topic) else { continue };
            events.push(LaneEvent::Created {
                partition: replica.id,
                topic: topic.name.clone(),
                configs: topic.overrides.clone().into_iter().collect(),
                start: Offset::ZERO,
                epoch_base: LeaderEpoch(replica.epoch_base()),
            });
            if replica.log_start() > Offset::ZERO {
                events.push(LaneEvent::LogStartMoved { partition: replica.id, to: replica.log_start() });
            }
        }
        events.extend(self.lane.gone().keys().map(|partition| LaneEvent::Dropped { partition: *partition }));
        events
    }

    async fn propose_entry(&self, entry: LaneOp) -> Result<Outcome, ProposeError> {
        match self.lane.propose(entry).await {
            Ok((_, outcome)) => Ok(outcome),
            Err(error @ (raft::ProposeError::Unknown { .. } | raft::ProposeError::Fatal)) => {
                Err(ProposeError::Unknown { reason: error.to_string() })
            }
            Err(error) => Err(not_proposed(&error)),
        }
    }
}

/// Is the bucket on this machine's disk, and that disk nearly full?
pub(super) fn is_short_of_space(engine: &Engine) -> bool {
    let usage = engine.usage();
    usage.bucket > 0 && usage.admissible() < usage.limit / SHORT_OF_SPACE_BELOW
}

impl LaneState for Host {
    fn lane(&self) -> LaneId {
        self.lane.id
    }

    fn leading(&self) -> Option<Term> {
        self.lane.status.leading()
    }

    fn superseded(&self, next: LineageEpoch) {
        let own = self.lane.archive().home.epoch;
        self.shard.superseded().note(own, next, "an archiver met the end of its lane in the bucket");
    }

    fn applied(&self) -> LogIndex {
        self.lane.status.applied().map_or(LogIndex(0), |id| id.index)
    }

    fn with_lane<R>(&self, look: impl FnOnce(&LaneManifest) -> R) -> R {
        look(&self.lane.archive())
    }

    fn with_partition<R>(&self, partition: PartitionId, look: impl FnOnce(&PartitionManifest) -> R) -> Option<R> {
        match self.lane.replica(partition) {
            Some(replica) => Some(look(&replica.manifest())),
            None => self.lane.gone().get(&partition).map(look),
        }
    }

    fn with_manifests<R>(&self, look: impl FnOnce(&LaneManifest, &[&PartitionManifest]) -> R) -> R {
        let replicas: Vec<_> = self.lane.replicas().into_iter().filter(|r| r.config().archived).collect();
        let (held, gone) = (replicas.iter().map(|r| r.manifest()).collect::<Vec<_>>(), self.lane.gone());
        let mut all: Vec<&PartitionManifest> = held.iter().map(|m| &**m).chain(gone.values()).collect();
        all.sort_unstable_by_key(|m| m.id);
        look(&self.lane.archive(), &all)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        let live = self.lane.replicas().into_iter().filter(|r| r.config().archived).map(|r| r.id);
        let mut all: Vec<PartitionId> = live.chain(self.lane.gone().keys().copied()).collect();
        all.sort_unstable();
        all
    }

    fn has_events(&self, after: LogIndex) -> bool {
        self.lane.has_events(after)
    }

    fn changed_partitions(&self) -> Option<Vec<PartitionId>> {
        let mut changed = Vec::new();
        self.look(DirtyList::Housekeeping, |replica| {
            changed.extend(replica.config().archived.then_some(replica.id));
            false
        });
        Some(changed)
    }

    fn notifies(&self) -> bool {
        true
    }

    async fn changed(&self, who: Loop) {
        let who = match who {
            Loop::Bundles => DirtyList::Bundles,
            Loop::Housekeeping => DirtyList::Housekeeping,
        };
        self.lane.dirty.changed(who).await;
    }

    fn dropped_partitions(&self) -> Vec<PartitionId> {
        self.lane.gone().keys().copied().collect()
    }

    fn retention(&self, partition: PartitionId) -> Option<RetentionPolicy> {
        self.lane.replica(partition).map(|replica| self.policy(partition.topic, &replica.config()))
    }

    fn events(&self, after: LogIndex) -> Vec<LaneEvent> {
        let events = self.lane.events(after).into_iter().map(event);
        // What was lost is in the lane's state, which comes last. Readers take an event twice without harm.
        let state = if self.lane.may_have_lost_events() { self.state_as_events() } else { Vec::new() };
        events.chain(state).collect()
    }

    fn log_facts(&self, partition: PartitionId) -> LogFacts {
        self.lane.replica(partition).map(|replica| log_facts(&replica)).unwrap_or_default()
    }

    fn topic(&self, partition: PartitionId) -> Option<TopicFacts> {
        let replica = self.lane.replica(partition)?;
        let image = self.controller.image();
        let topic = image.topic_by_id(partition.topic)?;
        let config = replica.config();
        Some(TopicFacts {
            catalogue: Self::catalogue_topic(topic, Some(&self.lane)),
            retention: self.policy(topic.id, &config),
        })
    }

    fn catalogue(&self) -> Option<CatalogueChange> {
        let image = self.controller.image();
        leads_controller(&image, &self.controller.leaders())
            .then(|| Self::whole_catalogue(&image, Some(&self.lane)))
            .flatten()
    }

    fn is_disk_filling(&self) -> bool {
        let usage = self.engine.usage();
        usage.admissible() < usage.limit / FILLING_BELOW
    }

    fn is_short_of_space(&self) -> bool {
        is_short_of_space(&self.engine)
    }

    fn dropped(&self, partition: PartitionId) -> bool {
        self.lane.replica(partition).is_none()
    }

    fn wanted_log_start(&self, partition: PartitionId) -> Option<Offset> {
        self.lane.replica(partition).map(|replica| replica.log_start())
    }

    fn whereabouts(&self, partition: PartitionId) -> Whereabouts {
        if self.with_partition(partition, |_| ()).is_some() {
            return Whereabouts::Here;
        }
        let image = self.controller.image();
        match image.topic_by_id(partition.topic) {
            // Before the first image this node knows no topic. The image of any broker but the controller's leader may
            // lag; that of a leader of the past does too, see `confirm_topics`.
            None if image.revision > 0 && leads_controller(&image, &self.controller.leaders()) => Whereabouts::Nowhere,
            _ => Whereabouts::Elsewhere,
        }
    }
}

impl LocalLog for Host {
    fn unarchived(&self) -> Vec<Unarchived> {
        let unarchived = |replica: &Replica| {
            let config = replica.config();
            let (bytes, since) = config.archived.then(|| replica.unarchived()).flatten()?;
            let offsets = OffsetRange::new(replica.manifest().archived_end, replica.last_stable_offset());
            let lag = Duration::from_millis(config.archive_lag_ms);
            Some(Unarchived { partition: replica.id, offsets, bytes, since, lag })
        };
        let mut waiting = Vec::new();
        self.look(DirtyList::Bundles, |replica| {
            let piece = unarchived(replica);
            let waits = piece.is_some();
            waiting.extend(piece);
            waits
        });
        waiting
    }

    fn closed_segments(&self, partition: PartitionId) -> Vec<LocalSegment> {
        let Some(replica) = self.lane.replica(partition) else { return Vec::new() };
        let closed = replica.log.segments().into_iter().filter(|segment| segment.closed);
        closed.map(|segment| LocalSegment { offsets: segment.offsets, bytes: segment.bytes }).collect()
    }

    fn bytes_after(&self, partition: PartitionId, from: Offset) -> u64 {
        let Some(replica) = self.lane.replica(partition) else { return 0 };
        let segments = replica.log.segments();
        let after = |offsets: OffsetRange, bytes: u64| {
            let inside = offsets.intersect(&OffsetRange::new(from, Offset::MAX)).count();
            let share = u128::from(bytes) * u128::from(inside) / u128::from(offsets.count().max(1));
            u64::try_from(share).unwrap_or(u64::MAX)
        };
        segments.into_iter().map(|segment| after(segment.offsets, segment.bytes)).sum()
    }

    async fn read(
        &self,
        partition: PartitionId,
        offsets: OffsetRange,
        bytes_max: u64,
    ) -> Result<LocalRead, LocalReadError> {
        let gone = || LocalReadError::Unavailable { reason: "the partition is gone".into() };
        let replica = self.lane.replica(partition).ok_or_else(gone)?;
        let max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        match replica.log.read(offsets.start, offsets.end, max).await {
            Ok(read) => {
                let sums = replica.log.run_sums(read.range).await.map_err(|error| local_error(offsets, &error))?;
                Ok(LocalRead { batches: read.batches, sums })
            }
            // Nothing there yet.
            Err(ReadError::AboveEnd { .. }) => Ok(LocalRead::default()),
            Err(error) => match local_error(offsets, &error) {
                damage @ LocalReadError::Corrupt { .. } => {
                    self.read_from_peers(partition, offsets, max).await.ok_or(damage)
                }
                other => Err(other),
            },
        }
    }
}

impl Propose for Host {
    async fn propose(&self, command: Command) -> Result<(), ProposeError> {
        match self.propose_entry(LaneOp::Archive(command.encode())).await? {
            Outcome::Archive(Ok(_)) => Ok(()),
            Outcome::Archive(Err(rejected)) => Err(ProposeError::Rejected { reason: rejected.to_string() }),
            Outcome::Refused(error) => Err(ProposeError::Rejected { reason: error.to_string() }),
            other @ (Outcome::Batches(_) | Outcome::Done | Outcome::Stale { .. }) => {
                unreachable!("an archive command was answered {other:?}")
            }
        }
    }

    async fn confirm(&self) -> Result<(), ProposeError> {
        let raft = self.lane.status.raft().ok_or(ProposeError::NotLeader)?;
        raft.confirm().await.map_err(|error| not_proposed(&error))?;
        if raft.membership().voters.len() > 1 {
            // All that an earlier term left in the log is applied before this.
            return self.propose(Command::Forgotten { objects: Vec::new() }).await;
        }
        Ok(())
    }

    async fn confirm_topics(&self) -> Result<(), ProposeError> {
        if self.controller.image().lanes.is_empty() {
            return Ok(());
        }
        let late = |reason: String| ProposeError::Rejected { reason };
        let quorum = self.controller.quorum().await.map_err(|error| late(error.to_string()))?;
        let image = pin!(self.controller.image_after(quorum.revision.saturating_sub(1)));
        match select(image, pin!(self.shard.env().tasks.sleep(IMAGE_PATIENCE))).await {
            Either::Left(_) => Ok(()),
            Either::Right(_) => Err(late("this broker's image of the cluster is late".to_owned())),
        }
    }

    async fn partition_clean(&self, partition: PartitionId) -> Result<(), ProposeError> {
        self.propose_entry(LaneOp::Command(LaneCommand::Clean { partition })).await.map(|_| ())
    }
}

/// What an error means after which nothing was written.
fn not_proposed(error: &raft::ProposeError) -> ProposeError {
    match error {
        // A lane that is shut down leads no more; what was in flight is settled by the next start.
        raft::ProposeError::NotLeader { .. } | raft::ProposeError::Shutdown => ProposeError::NotLeader,
        error => ProposeError::Rejected { reason: error.to_string() },
    }
}

/// What a failed read of `asked` means to the archiver: the damaged run alone is set aside, and of it no more than was
/// asked for, what is below is in the bucket already. A disk that merely does not answer may do so later.
fn local_error(asked: OffsetRange, error: &ReadError) -> LocalReadError {
    let reason = error.to_string();
    match (error, error.damaged()) {
        (ReadError::BelowStart { start, .. }, _) => LocalReadError::BelowStart { start: *start },
        (_, Some(bad)) if !bad.intersect(&asked).is_empty() => {
            LocalReadError::Corrupt { offsets: bad.intersect(&asked), reason }
        }
        _ => LocalReadError::Unavailable { reason },
    }
}

/// A replica as the keeper of its marks.
pub(super) struct Marked(pub(super) Rc<Replica>);

impl std::ops::Deref for Marked {
    type Target = Marks;

    fn deref(&self) -> &Marks {
        &self.0.marks
    }
}

/// Its leader epochs and producers, as the bucket has them.
pub(super) fn log_facts(replica: &Replica) -> LogFacts {
    const _: () = assert!(BATCHES_REMEMBERED == PRODUCER_BATCHES_MAX, "as many batches as the broker remembers");
    let epochs = replica.epochs().iter().map(|(epoch, start)| EpochStart { epoch: *epoch, start: *start }).collect();
    let batch = |batch: &Remembered| ProducerBatch {
        first: batch.first,
        last: batch.last,
        offset: batch.base_offset,
        timestamp: batch.timestamp,
    };
    let producer = |(id, entry): (&ProducerId, &ProducerEntry)| {
        let batches: Vec<ProducerBatch> = entry.recent.iter().map(batch).collect();
        // One without batches may go on with any sequence, as one that is not known.
        (!batches.is_empty()).then_some(ProducerState { id: *id, epoch: entry.epoch, seen: entry.seen, batches })
    };
    let mut producers: Vec<ProducerState> = replica.producers().iter().filter_map(producer).collect();
    producers.sort_unstable_by_key(|producer| producer.id);
    LogFacts { epochs, producers }
}

fn event(event: AppliedEvent) -> LaneEvent {
    match event {
        AppliedEvent::Created { partition, topic, overrides, epoch_base } => LaneEvent::Created {
            partition,
            topic,
            configs: overrides.into_iter().collect(),
            start: Offset::ZERO,
            epoch_base: LeaderEpoch(epoch_base),
        },
        AppliedEvent::Dropped { partition } => LaneEvent::Dropped { partition },
        AppliedEvent::LogStartMoved { partition, to } => LaneEvent::LogStartMoved { partition, to },
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tidewater_storage::model::{BatchError, FilePos};

    use super::*;

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset::new(start), Offset::new(end))
    }

    fn set_aside(asked: OffsetRange, error: &ReadError) -> Option<OffsetRange> {
        match local_error(asked, error) {
            LocalReadError::Corrupt { offsets, .. } => Some(offsets),
            LocalReadError::BelowStart { .. } | LocalReadError::Unavailable { .. } => None,
        }
    }

    #[test]
    fn a_rotten_run_is_set_aside_and_nothing_beyond_it() {
        let (file, pos) = (PathBuf::from("log"), FilePos(0));
        let corrupt = ReadError::Corrupt { file, pos, offsets: range(90, 110), expected: 1, found: 2 };
        assert_eq!(set_aside(range(100, 5_000), &corrupt), Some(range(100, 110)));
        assert_eq!(set_aside(range(50, 105), &corrupt), Some(range(90, 105)));
    }

    #[test]
    fn every_kind_of_damage_is_set_aside_and_a_silent_disk_is_not() {
        let (file, pos, offsets) = (PathBuf::from("log"), FilePos(0), range(10, 20));
        let short = ReadError::Short { file: file.clone(), pos, offsets, have: 1, need: 2 };
        let no_batch = ReadError::Batch { file: file.clone(), pos, offsets, source: BatchError::Magic(0) };
        let silent = ReadError::Io { file, source: std::io::Error::other("EIO") };
        for (error, expected) in [(short, true), (no_batch, true), (silent, false)] {
            assert_eq!(set_aside(range(10, 5_000), &error), expected.then_some(offsets), "{error}");
        }
    }
}
