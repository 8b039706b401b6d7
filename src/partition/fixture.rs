//! One shard with one lane over the simulated disk, and a bucket if wanted, for unit tests. Shard-local.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidewater_storage::budget::{DiskBudget, DiskUse};
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::Env;
use tidewater_storage::journal::JournalConfig;
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    BatchHeader, Compression, EntryId, Incarnation, LaneId, NodeId, Offset, PartitionId, PartitionIndex, ProducerEpoch,
    ProducerId, ShardId, TimestampMs, TopicId, TopicName,
};
use tidewater_tiering::bucket::{Bucket, Claim};
use tidewater_tiering::fetch::{FetchConfig, RemoteReader};
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch, Nonce};
use tidewater_tiering::manifest::LaneManifest;
use tidewater_tiering::store::{Faults, SimBucket};
use uuid::Uuid;

use super::message::{CheckedBatch, Origin, PartitionAddress, ProduceDone, ProduceError, ProducePart};
use super::router::Router;
use super::shard::{Local, PartitionShard};
use super::state::apply::Outcome;
use super::state::command::{LaneCommand, LaneOp};
use super::state::lane::{DataLane, RecoveredState, log_settings};
use super::state::replica::Replica;
use crate::archival::run::{Cadence, Opening, Tier, start_with};
use crate::controller::client::ControllerHandle;
use crate::kafka::handlers::fixture::image;
use crate::node::source::ShardSource;
use crate::raft::{Lane, LaneOptions, NotUnderstood, PROPOSALS_MAX, ProposeError};
use crate::shard::mesh::Mesh;

const HERE: ShardId = ShardId(0);
const LANE: LaneId = LaneId(1);
const DISK: u64 = 1 << 30;

/// One shard, one lane, partition 0 of a topic `orders`.
pub(crate) struct Fixture {
    budget: DiskBudget,
    pub(crate) engine: Engine,
    pub(crate) lane: Rc<DataLane>,
    pub(crate) partitions: Rc<PartitionShard>,
    pub(crate) router: Router,
}

impl Fixture {
    pub(crate) async fn open(env: &Env) -> Self {
        Self::try_open(env).await.expect("starts")
    }

    /// Over what the disk holds of a life before, all of it in the journal.
    pub(crate) async fn try_open(env: &Env) -> Result<Self, NotUnderstood> {
        Self::with_memory(env, EngineConfig::default().recent_bytes).await
    }

    async fn with_memory(env: &Env, recent_bytes: u64) -> Result<Self, NotUnderstood> {
        let budget = DiskBudget::new(DISK);
        let journal = JournalConfig { first_file_bytes: 32 << 10, file_bytes: 1 << 20, ..JournalConfig::default() };
        let config = EngineConfig { budget: budget.clone(), journal, recent_bytes, ..EngineConfig::default() };
        let (engine, _) = Engine::open(env.clone(), PathBuf::from("/shard"), config).await.expect("opens");
        let state = RecoveredState { applied: None, blob: Bytes::new(), replicas: Vec::new() };
        let home = Home { cluster: ClusterId(Uuid::from_u128(1)), epoch: LineageEpoch(1) };
        let fresh = LaneManifest::new(home, LANE);
        let lane = DataLane::recover(LANE, env.clone(), engine.clone(), state, fresh).expect("a new lane");
        let lane = Rc::new(lane);
        let partitions = Rc::new(PartitionShard::new(HERE, env.clone()));
        partitions.add_lane(Rc::clone(&lane), engine.clone());
        let options = LaneOptions::single(LANE, NodeId(1));
        let raft = Lane::start(env, engine.lane(LANE), Rc::clone(&lane) as _, options).await;
        lane.status.attach(raft.expect("starts"));
        lane.status.led().await?;
        let router = Router::new(HERE, Rc::new(Local(Rc::clone(&partitions))), Mesh::new(1, 16).0);
        let this = Self { budget, engine, lane, partitions, router };
        this.create(1, BTreeMap::new()).await;
        Ok(this)
    }

    /// With checkpoints, an archiver, retention and a bucket that answers after some milliseconds.
    pub(crate) async fn with_bucket(env: &Env) -> Self {
        let this = Self::with_memory(env, 1024).await.expect("starts");
        this.engine.set_source(Rc::new(ShardSource { partitions: Rc::clone(&this.partitions), controller: None }));
        this.engine.start();
        let (latency_min, latency_max) = (Duration::from_millis(1), Duration::from_millis(9));
        let store = SimBucket::new(env, Faults { latency_min, latency_max, ..Faults::default() }).store();
        let fetch = FetchConfig::new(PathBuf::from("/cache"), 1 << 20);
        let remote = Rc::new(RemoteReader::open(env.clone(), Arc::clone(&store), fetch).await.expect("opens"));
        this.partitions.set_remote(Rc::clone(&remote));
        let (home, name) = (this.lane.archive().home, ClusterName::new("fixture").expect("legal"));
        let (tier, opening) = Tier::over(Arc::clone(&store), home, name.clone());
        let claim = Claim { cluster: home.cluster, epoch: home.epoch, name, confirmed: false };
        let bucket = Bucket::open(store, &claim, Nonce(1), env.clock.wall()).await.expect("opens");
        opening.send_replace(Opening::Open(bucket));
        // Of two topics the second has the id of this one.
        let controller = ControllerHandle::new(Arc::new(image(&[("other", 1), ("orders", 1)])), Mesh::new(1, 16).0);
        start_with(env, &this.partitions, &this.engine, &controller, &tier, &remote, Cadence::default());
        this
    }

    /// Partition `n`, with segments of some three records of [`Fixture::record`] from now on.
    pub(crate) fn in_small_segments(&self, n: i32) -> Rc<Replica> {
        let replica = self.lane.replica(self.address(n).id).expect("is there");
        replica.log.set_settings(LogSettings { segment_bytes: 200, ..log_settings(&replica.config()) });
        replica
    }

    /// Makes the topic's first `count` partitions, those that are there left as they are. No record is too old for
    /// them.
    pub(crate) async fn create(&self, count: i32, mut overrides: BTreeMap<String, String>) {
        for key in ["retention.ms", "local.retention.ms"] {
            overrides.entry(key.to_owned()).or_insert_with(|| "-1".to_owned());
        }
        for n in 0..count {
            let (partition, topic) = (self.address(n).id, TopicName::new("orders").expect("legal"));
            let create = LaneCommand::Create {
                partition,
                topic,
                overrides: overrides.clone(),
                epoch_base: 0,
                copied: None,
                revision: 0,
            };
            self.lane.propose(LaneOp::Command(create)).await.expect("is made");
        }
    }

    pub(crate) fn address(&self, n: i32) -> PartitionAddress {
        let topic = TopicId(Uuid::from_u128(2));
        let id = PartitionId { topic, index: PartitionIndex(n), incarnation: Incarnation(0) };
        PartitionAddress { id, lane: LANE, shard: HERE }
    }

    /// As many proposals as may be in flight, each without effect.
    pub(crate) fn fill(&self) -> Vec<impl Future<Output = Result<(EntryId, Outcome), ProposeError>> + use<>> {
        let nothing = LaneCommand::Trim { partition: self.address(0).id, to: Offset::ZERO };
        (0..PROPOSALS_MAX).map(|_| self.lane.propose(LaneOp::Command(nothing.clone()))).collect()
    }

    /// Sends one record of a producer to partition 0.
    pub(crate) async fn send(&self, producer: i64, epoch: i16, sequence: i32) -> Result<ProduceDone, ProduceError> {
        let builder = BatchBuilder::new(Compression::None);
        let builder = builder.producer(ProducerId(producer), ProducerEpoch(epoch), sequence);
        let at = TimestampMs(1000 + i64::from(sequence));
        self.router.produce(vec![self.part(0, builder, at)]).await.remove(0)
    }

    /// One record for partition `n`.
    pub(crate) fn record(&self, n: i32, at: TimestampMs) -> ProducePart {
        self.part(n, BatchBuilder::new(Compression::None), at)
    }

    fn part(&self, n: i32, mut builder: BatchBuilder, at: TimestampMs) -> ProducePart {
        builder.push(Record::new(at, None, Some(Bytes::from_static(b"v"))));
        let built = builder.build();
        let header = BatchHeader::parse(&built).expect("a batch");
        let batch = CheckedBatch { header, bytes: BytesMut::from(&built[..]) };
        ProducePart { address: self.address(n), batch, origin: Origin::Client { acks_all: true } }
    }

    /// As [`Fixture::send`], with a disk that is full meanwhile.
    pub(crate) async fn send_in_vain(&self, producer: i64, epoch: i16, sequence: i32) {
        let other = self.budget.account(DiskUse::Cache);
        other.add(DISK);
        let refused = self.send(producer, epoch, sequence).await;
        other.remove(DISK);
        assert!(matches!(refused, Err(ProduceError::NoSpace(_))), "{refused:?}");
    }
}
