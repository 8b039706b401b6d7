//! A lane over the simulated disk: what idempotent producers are told when a batch is refused for a while, or comes twice.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use tidewater_storage::budget::{DiskBudget, DiskUse};
use tidewater_storage::engine::EngineConfig;
use tidewater_storage::env::sim::World;
use tidewater_storage::journal::JournalConfig;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Compression, Incarnation, LaneId, NodeId, PartitionIndex, ProducerEpoch, ShardId, TopicId, TopicName,
};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::manifest::LaneManifest;
use uuid::Uuid;

use super::*;
use crate::partition::command::LaneCommand;
use crate::partition::lane::RecoveredState;
use crate::partition::message::{CheckedBatch, Place};
use crate::partition::router::Router;
use crate::partition::shard::{Local, PartitionShard};
use crate::raft::{Lane, LaneOptions};
use crate::shard::mesh::Mesh;

const HERE: ShardId = ShardId(0);
const LANE: LaneId = LaneId(1);
const DISK: u64 = 1 << 30;

/// One shard with one partition.
struct Shard {
    budget: DiskBudget,
    router: Router,
    place: Place,
}

impl Shard {
    async fn open(env: &Env) -> Self {
        let budget = DiskBudget::new(DISK);
        let journal = JournalConfig { first_file_bytes: 32 << 10, file_bytes: 1 << 20, ..JournalConfig::default() };
        let config = EngineConfig { budget: budget.clone(), journal, ..EngineConfig::default() };
        let (engine, _) = Engine::open(env.clone(), PathBuf::from("/shard"), config).await.expect("opens");
        let state = RecoveredState { applied: None, blob: Bytes::new(), replicas: Vec::new() };
        let home = Home { cluster: ClusterId(Uuid::from_u128(1)), epoch: LineageEpoch(1) };
        let fresh = LaneManifest::new(home, LANE);
        let lane = DataLane::recover(LANE, env.clone(), engine.clone(), state, fresh).expect("a new lane");
        let lane = Rc::new(lane);
        let shard = Rc::new(PartitionShard::new(HERE, env.clone()));
        shard.add_lane(Rc::clone(&lane), engine.clone());
        let options = LaneOptions::single(LANE, NodeId(1));
        let raft = Lane::start(env, engine.lane(LANE), Rc::clone(&lane) as _, options).await;
        lane.attach(raft.expect("starts"));
        while lane.leading().is_none() {
            lane.leadership_bell.heard().await;
        }
        let topic = TopicId(Uuid::from_u128(2));
        let id = PartitionId { topic, index: PartitionIndex(0), incarnation: Incarnation(0) };
        let (topic, overrides) = (TopicName::new("orders").expect("legal"), BTreeMap::new());
        let create = LaneCommand::Create { partition: id, topic, overrides, epoch_base: 0 };
        lane.propose(LaneEntry::Command(create)).await.expect("is made");
        let router = Router::new(HERE, Rc::new(Local(shard)), Mesh::new(1, 16).0);
        Self { budget, router, place: Place { id, lane: LANE, shard: HERE } }
    }

    /// Sends one record of a producer.
    async fn send(&self, producer: i64, epoch: i16, sequence: i32) -> Result<ProduceDone, ProduceError> {
        let builder = BatchBuilder::new(Compression::None);
        let mut builder = builder.producer(ProducerId(producer), ProducerEpoch(epoch), sequence);
        let at = TimestampMs(1000 + i64::from(sequence));
        builder.push(Record::new(at, None, Some(Bytes::from_static(b"v"))));
        let built = builder.build();
        let header = BatchHeader::parse(&built).expect("a batch");
        let batch = CheckedBatch { header, bytes: BytesMut::from(&built[..]) };
        let part = ProducePart { place: self.place, batch, origin: Origin::Client };
        self.router.produce(vec![part]).await.remove(0)
    }

    /// The same with a disk that is full meanwhile.
    async fn send_in_vain(&self, producer: i64, epoch: i16, sequence: i32) {
        let other = self.budget.account(DiskUse::Cache);
        other.add(DISK);
        let refused = self.send(producer, epoch, sequence).await;
        other.remove(DISK);
        assert!(matches!(refused, Err(ProduceError::NoSpace(_))), "{refused:?}");
    }
}

fn on_a_shard(act: impl AsyncFnOnce(&Shard)) {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async {
        let shard = Shard::open(&env).await;
        act(&shard).await;
    });
}

fn base(done: Result<ProduceDone, ProduceError>) -> u64 {
    done.expect("is stored").base_offset.get()
}

#[test]
fn a_second_batch_is_not_stored_in_place_of_a_first_that_was_refused() {
    on_a_shard(async |shard| {
        shard.send_in_vain(7, 0, 0).await;
        for later in [1, 2] {
            let out = shard.send(7, 0, later).await;
            assert!(matches!(out, Err(ProduceError::OutOfOrder { expected: 0, .. })), "{out:?}");
        }
        assert_eq!(base(shard.send(8, 0, 5).await), 0, "another producer may begin anywhere");
        for sequence in 0..3 {
            assert_eq!(base(shard.send(7, 0, sequence).await), 1 + sequence as u64, "sent again in order");
        }
    });
}

#[test]
fn a_producer_that_gave_its_first_batch_up_begins_a_new_epoch() {
    on_a_shard(async |shard| {
        shard.send_in_vain(7, 0, 0).await;
        assert_eq!(base(shard.send(7, 1, 0).await), 0);
        assert_eq!(base(shard.send(7, 1, 1).await), 1);
    });
}

#[test]
fn a_batch_that_comes_again_is_answered_with_its_offset_and_time() {
    on_a_shard(async |shard| {
        assert_eq!(base(shard.send(7, 0, 0).await), 0);
        let both = futures::future::join(shard.send(7, 0, 1), shard.send(7, 0, 1)).await;
        let again = shard.send(7, 0, 1).await;
        assert_eq!((base(both.0), again.clone().map(|done| done.base_offset.get())), (1, Ok(1)));
        assert_eq!(both.1, again, "in flight or applied");
        assert_eq!(again.map(|done| done.log_append_time), Ok(Some(TimestampMs(1001))));
    });
}

#[test]
fn a_producer_that_is_known_is_held_to_its_sequence() {
    on_a_shard(async |shard| {
        assert_eq!(base(shard.send(7, 0, 0).await), 0);
        shard.send_in_vain(7, 0, 1).await;
        let out = shard.send(7, 0, 2).await;
        assert!(matches!(out, Err(ProduceError::OutOfOrder { expected: 1, .. })), "{out:?}");
        assert_eq!(base(shard.send(7, 0, 1).await), 1);
    });
}

#[test]
fn producers_whose_batches_are_applied_do_not_stay_ahead() {
    let header = |producer: i64, sequence: i32| {
        let builder = BatchBuilder::new(Compression::None);
        let mut builder = builder.producer(ProducerId(producer), ProducerEpoch(0), sequence);
        builder.push(Record::new(TimestampMs(1000), None, Some(Bytes::from_static(b"v"))));
        BatchHeader::parse(&builder.build()).expect("a batch")
    };
    let mut ahead = Ahead::default();
    // One batch is always in flight, of ever new producers; the last few are not applied yet.
    for n in 0..20_000u64 {
        let entry = producers::noted(None, &header(n as i64, 0), Offset::new(n), TimestampMs(1000));
        ahead.note(ProducerId(n as i64), entry, Offset::new(n.saturating_sub(20)));
        assert!(ahead.producers.len() <= AHEAD_PRODUCERS_KEPT, "{} after {n}", ahead.producers.len());
        assert!((n.saturating_sub(20)..=n).all(|n| ahead.producers.contains_key(&ProducerId(n as i64))), "{n}");
    }
    // However many are in flight, none of them goes.
    for n in 20_000..21_000u64 {
        let entry = producers::noted(None, &header(n as i64, 0), Offset::new(n), TimestampMs(1000));
        ahead.note(ProducerId(n as i64), entry, Offset::new(20_000));
    }
    assert!((20_000..21_000).all(|n| ahead.producers.contains_key(&ProducerId(n))));
    ahead.forget();
    assert!(ahead.producers.is_empty() && ahead.producers.capacity() < 1000);
}
