//! A shard without its socket: engine, one data lane, its Raft group and proposer, and the router in front.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tidewater::partition::message::{CheckedBatch, Origin, PartitionAddress, ProducePart};
use tidewater::partition::router::Router;
use tidewater::partition::shard::{Local, PartitionShard};
use tidewater::partition::state::command::{LaneCommand, LaneOp};
use tidewater::partition::state::lane::{DataLane, RecoveredState};
use tidewater::raft::{Lane, LaneOptions};
use tidewater::shard::executor;
use tidewater::shard::mesh::Mesh;
use tidewater_storage::engine::{CheckpointSource, Engine, EngineConfig, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::env::Env;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    BatchHeader, Compression, EntryId, Incarnation, LaneId, NodeId, PartitionId, PartitionIndex, ShardId, TimestampMs,
    TopicId, TopicName,
};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::manifest::LaneManifest;
use uuid::Uuid;

use super::{BATCH_MIN, Until, WARM_UP};
use crate::machine;
use crate::report::Samples;

const HERE: ShardId = ShardId(0);
const LANE: LaneId = LaneId(1);
/// Appends in flight when each goes to one partition.
const AT_ONCE: usize = 256;

/// Commits of `bytes`, one at a time, on an executor of its own.
pub fn measure(dir: &Path, bytes: usize, partitions: usize, until: Until) -> Samples {
    on_a_shard(dir, partitions, async move |shard: &Shard| shard.appends(bytes, until).await)
}

/// Appends of 1 KiB to one partition each, many in flight, over all partitions, on an executor of its own.
pub fn spread(dir: &Path, partitions: usize, until: Until) -> Samples {
    on_a_shard(dir, partitions, async move |shard: &Shard| shard.singles(until).await)
}

fn on_a_shard(dir: &Path, partitions: usize, work: impl AsyncFnOnce(&Shard) -> Samples + Send + 'static) -> Samples {
    let (sender, samples) = flume::bounded(1);
    let dir = dir.to_owned();
    let main = move || async move {
        let shard = Shard::open(&dir, partitions).await;
        let _ = sender.send(work(&shard).await);
        shard.close().await;
    };
    executor::spawn(HERE, main).expect("an executor").join().expect("the shard ends well");
    samples.recv().expect("samples")
}

struct Shard {
    engine: Engine,
    lane: Rc<DataLane>,
    router: Router,
    addresses: Vec<PartitionAddress>,
}

impl Shard {
    async fn open(dir: &Path, partitions: usize) -> Self {
        let env = Env::real(1);
        let opened = Engine::open(env.clone(), dir.to_owned(), EngineConfig::default()).await;
        let (engine, _) = opened.expect("the engine opens");
        let state = RecoveredState { applied: None, blob: Bytes::new(), replicas: Vec::new() };
        let home = Home { cluster: ClusterId(Uuid::from_u128(1)), epoch: LineageEpoch(1) };
        let manifest = LaneManifest::new(home, LANE);
        let lane = DataLane::recover(LANE, env.clone(), engine.clone(), state, manifest).expect("a new lane");
        let lane = Rc::new(lane);
        let shard = Rc::new(PartitionShard::new(HERE, env.clone()));
        engine.set_source(Rc::new(Source(Rc::clone(&shard))));
        engine.start();
        let options = LaneOptions::single(LANE, NodeId(1));
        let raft = Lane::start(&env, engine.lane(LANE), Rc::clone(&lane) as _, options).await;
        lane.status.attach(raft.expect("the Raft group starts"));
        shard.add_lane(Rc::clone(&lane), engine.clone());
        while lane.status.leading().is_none() {
            lane.status.leadership_changed().await;
        }
        let addresses: Vec<PartitionAddress> = (0..partitions).map(address).collect();
        for addresses in addresses.chunks(100) {
            join_all(addresses.iter().map(|address| create(&lane, address.id))).await;
        }
        let (mesh, _inboxes) = Mesh::new(1, 16);
        let router = Router::new(HERE, Rc::new(Local(shard)), mesh);
        Self { engine, lane, router, addresses }
    }

    async fn appends(&self, bytes: usize, until: Until) -> Samples {
        let batches = self.addresses.len().min(bytes / BATCH_MIN).max(1);
        let (header, template) = batch(bytes / batches);
        let mut addresses = self.addresses.iter().cycle();
        let (mut samples, mut warm) = (Samples::default(), 0);
        let (mut start, mut cpu) = (Instant::now(), machine::cpu_of_thread());
        while warm < WARM_UP || !until.done(start, &samples) {
            let parts = addresses.by_ref().take(batches).map(|address| ProducePart {
                address: *address,
                batch: CheckedBatch { header, bytes: template.clone() },
                origin: Origin::Client { acks_all: true },
            });
            let parts: Vec<ProducePart> = parts.collect();
            let one = Instant::now();
            let answers = self.router.produce(parts).await;
            samples.add(one.elapsed(), (template.len() * batches) as u64);
            answers.into_iter().for_each(|answer| assert!(answer.is_ok(), "{answer:?}"));
            warm += 1;
            if warm == WARM_UP {
                (samples, start, cpu) = (Samples::default(), Instant::now(), machine::cpu_of_thread());
            }
        }
        samples.cpu = machine::cpu_of_thread().saturating_sub(cpu);
        samples
    }

    /// Appends of [`BATCH_MIN`] to one partition each, [`AT_ONCE`] of them at any time.
    async fn singles(&self, until: Until) -> Samples {
        let (header, template) = batch(BATCH_MIN);
        let mut addresses = self.addresses.iter().cycle();
        let mut start_next = || {
            let address = *addresses.next().expect("addresses never end");
            let batch = CheckedBatch { header, bytes: template.clone() };
            let part = ProducePart { address, batch, origin: Origin::Client { acks_all: true } };
            async move {
                let one = Instant::now();
                let answers = self.router.produce(vec![part]).await;
                answers.into_iter().for_each(|answer| assert!(answer.is_ok(), "{answer:?}"));
                one.elapsed()
            }
        };
        let mut running: FuturesUnordered<_> = (0..AT_ONCE).map(|_| start_next()).collect();
        let (mut samples, mut warm) = (Samples::default(), 0);
        let (mut start, mut cpu) = (Instant::now(), machine::cpu_of_thread());
        while let Some(took) = running.next().await {
            samples.add(took, template.len() as u64);
            warm += 1;
            if warm == WARM_UP * AT_ONCE as u32 {
                (samples, start, cpu) = (Samples::default(), Instant::now(), machine::cpu_of_thread());
            }
            if warm < WARM_UP * AT_ONCE as u32 || !until.done(start, &samples) {
                running.push(start_next());
            }
        }
        samples.cpu = machine::cpu_of_thread().saturating_sub(cpu);
        samples.over(start.elapsed())
    }

    async fn close(self) {
        if let Some(raft) = self.lane.status.raft() {
            raft.shutdown().await;
        }
        self.engine.close().await;
    }
}

fn address(index: usize) -> PartitionAddress {
    let index = PartitionIndex(i32::try_from(index).expect("few partitions"));
    let id = PartitionId { topic: TopicId(Uuid::from_u128(2)), index, incarnation: Incarnation(0) };
    PartitionAddress { id, lane: LANE, shard: HERE }
}

async fn create(lane: &DataLane, partition: PartitionId) {
    let overrides = BTreeMap::from([("remote.storage.enable".to_owned(), "false".to_owned())]);
    let topic = TopicName::new("bench").expect("legal");
    let command = LaneCommand::Create { partition, topic, overrides, epoch_base: 0, copied: None, revision: 0 };
    lane.propose(LaneOp::Command(command)).await.expect("the partition is created");
}

/// A batch of exactly `bytes`: one record of noise.
pub fn batch(bytes: usize) -> (BatchHeader, BytesMut) {
    let build = |value: usize| {
        let value: Vec<u8> = (0..value).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        let mut builder = BatchBuilder::new(Compression::None);
        builder.push(Record::new(TimestampMs(1_700_000_000_000), None, Some(Bytes::from(value))));
        builder.build()
    };
    let overhead = build(bytes).len() - bytes;
    let built = build(bytes - overhead);
    (BatchHeader::parse(&built).expect("a batch"), BytesMut::from(&built[..]))
}

struct Source(Rc<PartitionShard>);

impl CheckpointSource for Source {
    fn lane(&self, lane: LaneId) -> Option<LaneCheckpoint> {
        self.0.lane_checkpoint(lane)
    }

    fn partition(&self, partition: PartitionId) -> Option<PartitionCheckpoint> {
        self.0.partition_checkpoint(partition)
    }

    fn checkpointed(&self, lane: LaneId, applied: EntryId) {
        if let Some(raft) = self.0.lane(lane).and_then(|lane| lane.status.raft().cloned()) {
            raft.purge(applied);
        }
    }
}
