//! What one shard tells a scrape: its counters, queues and the sums of its partitions, as one message; and what it does
//! on an operator's word.
//!
//! Gathered on the shard when it is asked and only then: an unscraped broker pays nothing. Partitions are summed by topic
//! where they live, with pauses, so that 100,000 of them neither cross the mesh nor hold up requests.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use tidewater_storage::budget::DiskUsage;
use tidewater_storage::engine::Engine;
use tidewater_storage::journal::JournalUsage;
use tidewater_storage::metrics::{EngineCounts, EngineTimingCounts, JournalCounts};
use tidewater_storage::model::{LaneId, ShardId, TopicId};
use tidewater_tiering::archive::ArchiveStatus;
use tidewater_tiering::fetch::{HydrateCounts, RemoteReader};

use crate::archival::run::{Archives, Resumed};
use crate::kafka::Server;
use crate::kafka::metrics::{KafkaMetrics, Snapshot};
use crate::partition::produce::proposer::ProposerTimings;
use crate::partition::shard::PartitionShard;
use crate::partition::sums::TopicSums;
use crate::shard::mesh::{Inbox, Reply};

/// A shard at one moment. A message.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Which.
    pub shard: ShardId,
    /// Requests, connections, bytes.
    pub kafka: Snapshot,
    /// Memory for requests and responses: taken, and the most it may be. Bytes.
    pub request_memory: (u64, u64),
    /// Batches that wait at the proposers: how many, how many bytes.
    pub proposer_queue: (u64, u64),
    /// Segments, checkpoints, refusals.
    pub storage: EngineCounts,
    /// How long the disk took for segments.
    pub disk_timings: EngineTimingCounts,
    /// How long entries took from queue to application.
    pub entries: ProposerTimings,
    /// Space and memory of the journal.
    pub journal: JournalUsage,
    /// Its writes and syncs.
    pub commits: JournalCounts,
    /// Recent batches in memory. Bytes.
    pub recent_bytes: u64,
    /// The node's disk: every shard sees the same.
    pub disk: DiskUsage,
    /// Chunk cache on disk: taken, and the most it may be. Bytes.
    pub cache: (u64, u64),
    /// Where the bytes of cold reads came from.
    pub cold_reads: HydrateCounts,
    /// Archivers.
    pub archives: Vec<(LaneId, ArchiveStatus)>,
    /// Its partitions.
    pub topics: BTreeMap<TopicId, TopicSums>,
}

/// What crosses the mesh to a shard's reporter.
#[derive(Debug)]
pub enum ReportRequest {
    /// How is the shard?
    Report(Reply<ShardReport>),
    /// Let a lane archive again whose archiving has stopped.
    Resume(LaneId, Reply<Resumed>),
}

/// Where a shard's report comes from. Shard-local.
pub struct Reporter {
    /// This shard.
    pub here: ShardId,
    /// Its storage.
    pub engine: Engine,
    /// Its partitions.
    pub partitions: Rc<PartitionShard>,
    /// Its protocol counters.
    pub kafka: Rc<KafkaMetrics>,
    /// Its connections.
    pub server: Server,
    /// Its reader of the bucket.
    pub remote: Rc<RemoteReader>,
    /// Its archivers.
    pub archives: Archives,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reporter({})", self.here)
    }
}

impl Reporter {
    /// Serves until the mesh closes, one scrape after the other.
    pub async fn serve(self, inbox: Inbox<ReportRequest>) {
        while let Some(request) = inbox.recv().await {
            match request {
                ReportRequest::Report(reply) => reply.send(self.report().await),
                ReportRequest::Resume(lane, reply) => self.archives.resume(lane, reply),
            }
        }
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
        }
    }
}
