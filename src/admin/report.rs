//! The report of one shard for a scrape, as one message: its counters, queues and the sums of its partitions. And the
//! one operator's command that goes to shards: resuming a lane.
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
}

/// A message to a shard's [`Reporter`].
#[derive(Debug)]
pub enum ReportRequest {
    Report(Reply<ShardReport>),
    /// Resumes the archiving of a lane, if it has stopped.
    Resume(LaneId, Reply<Resumed>),
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
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reporter({})", self.here)
    }
}

impl Reporter {
    /// Answers requests one after the other until the mesh closes.
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
