//! The report of one shard for a scrape, as one message: its counters, queues and the sums of its partitions. And the
//! operator's commands that go to shards: resuming a lane's archiving, handing a lane over to another broker.
//!
//! The shard makes its report only when asked, so that a broker without scrapes pays nothing. It sums partitions by
//! topic, with pauses, so that 100,000 of them neither cross the mesh nor delay requests.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use tidewater_storage::budget::DiskUsage;
use tidewater_storage::engine::Engine;
use tidewater_storage::journal::JournalUsage;
use tidewater_storage::metrics::{EngineCounts, EngineTimingCounts, JournalCounts};
use tidewater_storage::model::{EntryId, LaneId, NodeId, ShardId, TopicId};
use tidewater_tiering::archive::ArchiveStatus;
use tidewater_tiering::fetch::{HydrateCounts, RemoteReader};

use super::cluster::facts::{ClusterFacts, FollowerFacts, LaneFacts};
use super::cluster::gather::{Gatherer, Reach, TransferError};
use crate::archival::run::{Archives, Resumed};
use crate::controller::ask::TopicError;
use crate::controller::lane::ControllerLane;
use crate::controller::sources::{SourceId, SourceSpec};
use crate::copies::error::CopyError;
use crate::copies::facts::{CopyCounts, CopyFacts};
use crate::copies::prepare::{CopyAsk, CopyBegun, CopyPlan};
use crate::copies::shard::CopyShard;
use crate::kafka::Server;
use crate::kafka::metrics::{KafkaMetrics, Snapshot};
use crate::partition::produce::proposer::ProposerTimings;
use crate::partition::shard::PartitionShard;
use crate::partition::sums::TopicSums;
use crate::partition::superseded::SupersededBy;
use crate::raft::Lane;
use crate::rebuild::{RebuildCounts, RebuildFacts, RebuildProgress};
use crate::replica::facts::ReplicaFacts;
use crate::replica::shard::ReplicaShard;
use crate::rpc::{Rpc, RpcCounts};
use crate::shard::mesh::{Inbox, Reply};

/// A shard at one moment. A message.
#[derive(Clone, Debug)]
pub struct ShardReport {
    pub shard: ShardId,
    pub kafka: Snapshot,
    /// Memory for requests and responses, in bytes: in use, and the limit.
    pub request_memory: (u64, u64),
    /// Batches queued at the proposers: their number and bytes.
    pub proposer_queue: (u64, u64),
    pub storage: EngineCounts,
    /// Of segment files.
    pub disk_timings: EngineTimingCounts,
    /// From queueing to application.
    pub entries: ProposerTimings,
    pub journal: JournalUsage,
    /// Of the journal.
    pub commits: JournalCounts,
    /// Bytes of recent batches in memory.
    pub recent_bytes: u64,
    /// Of the node; every shard reports the same.
    pub disk: DiskUsage,
    /// Chunk cache on disk, in bytes: in use, and the limit.
    pub cache: (u64, u64),
    pub cold_reads: HydrateCounts,
    pub archives: Vec<(LaneId, ArchiveStatus)>,
    pub topics: BTreeMap<TopicId, TopicSums>,
    /// Replicas of lanes.
    pub lanes: Vec<LaneFacts>,
    /// Replicas that are being rebuilt; `None`: none.
    pub rebuild: Option<RebuildFacts>,
    pub rebuilt: RebuildCounts,
    /// Connections to and from other brokers.
    pub rpc: RpcCounts,
    /// Sources, and the lanes of theirs that this shard follows.
    pub replicas: ReplicaFacts,
    /// Topics that are made as copies.
    pub copies: CopyCounts,
}

/// A shard's part of what a broker says about itself. A message.
#[derive(Clone, Debug)]
pub struct ShardFacts {
    pub lanes: Vec<LaneFacts>,
    pub connections: u64,
    pub disk: DiskUsage,
    pub replicas: ReplicaFacts,
    pub copies: Vec<CopyFacts>,
    pub rebuild: Option<RebuildFacts>,
    /// Of the node, as the disk: whether the cluster was restored elsewhere, why the bucket's root counts as gone, and
    /// why no cuts are made.
    pub superseded: Option<SupersededBy>,
    pub bucket_gone: Option<String>,
    pub cuts_failing: Option<String>,
}

/// A message to a shard's [`Reporter`].
#[derive(Debug)]
pub enum ReportRequest {
    Report(Reply<ShardReport>),
    /// Resumes the archiving of a lane, if it has stopped.
    Resume(LaneId, Reply<Resumed>),
    Facts(Reply<ShardFacts>),
    /// Which brokers this one reaches; for shard 0.
    Reach(Reply<Reach>),
    /// Hands a lane of this shard, which this broker leads, to the replica on another broker.
    HandOver(LaneId, NodeId, Reply<Result<(), TransferError>>),
    /// What all brokers say about themselves; for shard 0.
    Cluster(Reply<ClusterFacts>),
    /// Has the leader of a lane hand it over, wherever it is; for shard 0.
    Transfer(LaneId, NodeId, Reply<Result<(), TransferError>>),
    /// Gives every lane so many replicas; the answer is the number of lanes that get more. For shard 0.
    Grow(u16, Reply<Result<usize, TopicError>>),
    /// Ends the hold of retention after a restore; the answer is whether there was one. For shard 0.
    EndHold(Reply<Result<bool, TopicError>>),
    /// Begins a copy of an archived topic. For shard 0.
    Copy(CopyAsk, Reply<Result<CopyBegun, CopyError>>),
    /// What a copy would bring, on shard 0.
    PlanCopy(CopyAsk, Reply<Result<CopyPlan, CopyError>>),
    /// Follows another cluster's bucket. For shard 0.
    Follow(SourceId, SourceSpec, Reply<Result<(), TopicError>>),
    /// Follows a source no longer. For shard 0.
    Unfollow(SourceId, Reply<Result<(), TopicError>>),
}

/// The parts of a shard that a report is made from. Shard-local.
pub struct Reporter {
    pub here: ShardId,
    pub engine: Engine,
    pub partitions: Rc<PartitionShard>,
    pub kafka: Rc<KafkaMetrics>,
    pub server: Server,
    pub remote: Rc<RemoteReader>,
    pub archives: Archives,
    /// On shard 0.
    pub controller_lane: Option<Rc<ControllerLane>>,
    pub rebuilds: Rc<RebuildProgress>,
    pub gatherer: Gatherer,
    pub replicas: ReplicaShard,
    pub copies: CopyShard,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reporter({})", self.here)
    }
}

impl Reporter {
    /// Answers requests until the mesh closes: reports one after the other, what waits for other brokers beside them.
    pub async fn serve(self, inbox: Inbox<ReportRequest>) {
        self.gatherer.serve_peers();
        let tasks = self.gatherer.env.tasks.clone();
        while let Some(request) = inbox.recv().await {
            match request {
                ReportRequest::Report(reply) => reply.send(self.report().await),
                ReportRequest::Resume(lane, reply) => self.archives.resume(lane, reply),
                ReportRequest::Facts(reply) => reply.send(self.facts()),
                ReportRequest::Reach(reply) => reply.send(self.gatherer.reach()),
                ReportRequest::HandOver(lane, to, reply) => {
                    let raft = self.raft(lane);
                    drop(tasks.spawn("hand over", async move { reply.send(hand_over(raft, lane, to).await) }));
                }
                ReportRequest::Cluster(reply) => {
                    let gatherer = self.gatherer.clone();
                    drop(tasks.spawn("cluster facts", async move { reply.send(gatherer.cluster().await) }));
                }
                ReportRequest::Grow(factor, reply) => {
                    let controller = self.gatherer.controller.clone();
                    drop(tasks.spawn("grow", async move { reply.send(controller.widen(factor).await) }));
                }
                ReportRequest::Follow(id, spec, reply) => {
                    let controller = self.gatherer.controller.clone();
                    drop(tasks.spawn("follow", async move { reply.send(controller.follow(id, spec).await) }));
                }
                ReportRequest::Copy(ask, reply) => {
                    let begun = self.copies.begin(ask);
                    drop(tasks.spawn("begin a copy", async move { reply.send(begun.await) }));
                }
                ReportRequest::PlanCopy(ask, reply) => {
                    let planned = self.copies.plan(ask);
                    drop(tasks.spawn("plan a copy", async move { reply.send(planned.await) }));
                }
                ReportRequest::Unfollow(id, reply) => {
                    let controller = self.gatherer.controller.clone();
                    drop(tasks.spawn("unfollow", async move { reply.send(controller.unfollow(id).await) }));
                }
                ReportRequest::EndHold(reply) => {
                    let (controller, now) = (self.gatherer.controller.clone(), self.gatherer.env.clock.wall());
                    drop(tasks.spawn("end hold", async move { reply.send(controller.end_hold(now).await) }));
                }
                ReportRequest::Transfer(lane, to, reply) => {
                    let gatherer = self.gatherer.clone();
                    drop(tasks.spawn("transfer", async move { reply.send(gatherer.transfer(lane, to).await) }));
                }
            }
        }
    }

    fn raft(&self, lane: LaneId) -> Option<Lane> {
        match lane {
            LaneId::CONTROLLER => self.controller_lane.as_ref()?.status.raft().cloned(),
            lane => self.partitions.lane(lane)?.status.raft().cloned(),
        }
    }

    fn facts(&self) -> ShardFacts {
        ShardFacts {
            lanes: self.lanes(),
            connections: self.kafka.snapshot().connections_open,
            disk: self.engine.usage(),
            replicas: self.replicas.facts(),
            copies: self.copies.facts(),
            rebuild: self.rebuild(),
            superseded: self.archives.superseded(),
            bucket_gone: self.archives.root_gone(),
            cuts_failing: self.archives.cuts_failing(),
        }
    }

    fn rebuild(&self) -> Option<RebuildFacts> {
        self.rebuilds.facts(self.gatherer.env.clock.now())
    }

    fn lanes(&self) -> Vec<LaneFacts> {
        let controller = self.controller_lane.iter().map(|lane| (LaneId::CONTROLLER, lane.status.raft().cloned()));
        let data = self.partitions.lanes().into_iter().map(|lane| (lane.id, lane.status.raft().cloned()));
        let started = controller.chain(data).filter_map(|(id, raft)| Some((id, raft?)));
        started.map(|(id, raft)| lane_facts(id, self.here, &raft)).collect()
    }

    async fn report(&self) -> ShardReport {
        let topics = self.partitions.topic_sums().await;
        let (taken, most) = self.server.request_memory();
        ShardReport {
            shard: self.here,
            kafka: self.kafka.snapshot(),
            request_memory: (taken as u64, most as u64),
            proposer_queue: self.partitions.queued(),
            storage: self.engine.counts(),
            disk_timings: self.engine.timings(),
            entries: self.partitions.timings(),
            journal: self.engine.journal().usage(),
            commits: self.engine.journal().counts(),
            recent_bytes: self.engine.recent_bytes(),
            disk: self.engine.usage(),
            cache: (self.remote.cache_used_bytes(), self.remote.cache_capacity_bytes()),
            cold_reads: self.remote.counts(),
            archives: self.archives.status(),
            topics,
            lanes: self.lanes(),
            rebuild: self.rebuild(),
            rebuilt: self.rebuilds.counts(),
            rpc: self.gatherer.rpc.as_ref().map(Rpc::counts).unwrap_or_default(),
            replicas: self.replicas.facts(),
            copies: self.copies.counts(),
        }
    }
}

fn lane_facts(lane: LaneId, shard: ShardId, raft: &Lane) -> LaneFacts {
    let (membership, leadership) = (raft.membership(), raft.leadership());
    let me = raft.me();
    let progress = raft.progress();
    let index = |id: Option<EntryId>| id.map_or(0, |id| id.index.0);
    let end = progress.iter().find(|of| of.replica == me).map_or(0, |of| index(of.matched));
    let followers = progress.iter().filter(|of| of.replica != me).map(|of| FollowerFacts {
        node: of.replica.node.0,
        behind_entries: end.saturating_sub(index(of.matched)),
        silent_ms: of.last_answer_ms,
    });
    LaneFacts {
        lane: lane.0,
        shard: shard.0,
        leads: leadership.leader == Some(me.node),
        term: leadership.term.0,
        leader: leadership.leader.map(|node| node.0),
        heard_ms: raft.heard_ms(),
        applied: index(raft.applied()),
        voters: membership.voters.iter().map(|replica| replica.node.0).collect(),
        learners: membership.learners.iter().map(|replica| replica.node.0).collect(),
        changing: membership.joint,
        followers: followers.collect(),
    }
}

async fn hand_over(raft: Option<Lane>, lane: LaneId, to: NodeId) -> Result<(), TransferError> {
    let raft = raft.ok_or(TransferError::UnknownLane(lane))?;
    let voters = raft.membership().voters;
    let Some(replica) = voters.iter().find(|voter| voter.node == to) else {
        let on: Vec<String> = voters.iter().map(|voter| voter.node.to_string()).collect();
        return Err(TransferError::NotAReplica(lane, to, on.join(", ")));
    };
    raft.transfer_leadership(*replica).await.map_err(|error| TransferError::Failed { lane, why: error.to_string() })
}
