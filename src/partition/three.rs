//! Three brokers in one simulated world, each with a replica of one lane, for unit tests. Shard-local.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::World;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    BatchHeader, Compression, Incarnation, LaneId, LeaderEpoch, NodeId, Offset, PartitionId, PartitionIndex,
    ProducerEpoch, ProducerId, ReplicaId, ShardId, TimestampMs, TopicId, TopicName,
};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::manifest::LaneManifest;
use uuid::Uuid;

use super::message::{
    CheckedBatch, Isolation, Origin, PartitionAddress, ProduceDone, ProduceError, ProducePart, ReadDone, ReadError,
    ReadPart,
};
use super::router::Router;
use super::shard::{Local, PartitionShard};
use super::state::command::{LaneCommand, LaneOp};
use super::state::lane::{DataLane, RecoveredState};
use crate::raft::network::in_process::InProcess;
use crate::raft::{Lane, LaneOptions};
use crate::shard::mesh::Mesh;

const LANE: LaneId = LaneId(1);
pub(crate) const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// One broker: a shard with the lane's replica.
pub(crate) struct Broker {
    pub(crate) node: NodeId,
    pub(crate) env: Env,
    pub(crate) engine: Engine,
    pub(crate) lane: Rc<DataLane>,
    pub(crate) partitions: Rc<PartitionShard>,
    pub(crate) router: Router,
}

/// The brokers, and the wires between them.
pub(crate) struct Three {
    pub(crate) env: Env,
    pub(crate) brokers: Vec<Broker>,
    wires: InProcess,
}

impl Broker {
    async fn start(env: Env, node: NodeId, wires: &InProcess) -> Self {
        let (engine, _) =
            Engine::open(env.clone(), PathBuf::from("/shard"), EngineConfig::default()).await.expect("opens");
        let state = RecoveredState { applied: None, blob: Bytes::new(), replicas: Vec::new() };
        let home = Home { cluster: ClusterId(Uuid::from_u128(1)), epoch: LineageEpoch(1) };
        let lane = DataLane::recover(LANE, env.clone(), engine.clone(), state, LaneManifest::new(home, LANE));
        let lane = Rc::new(lane.expect("a new lane"));
        let partitions = Rc::new(PartitionShard::new(ShardId(0), env.clone()));
        partitions.add_lane(Rc::clone(&lane), engine.clone());
        let transport = Some(wires.transport(env.clone(), node, Duration::from_millis(2)));
        let voters = NODES.map(ReplicaId::first).to_vec();
        let options = LaneOptions { transport, ..LaneOptions::replica(LANE, ReplicaId::first(node), voters) };
        let raft = Lane::start(&env, engine.lane(LANE), Rc::clone(&lane) as _, options).await.expect("starts");
        wires.connect(LANE, node, raft.clone());
        lane.status.attach(raft);
        let router = Router::new(ShardId(0), Rc::new(Local(Rc::clone(&partitions))), Mesh::new(1, 16).0);
        Self { node, env, engine, lane, partitions, router }
    }

    /// Sends one record of a producer to partition 0.
    pub(crate) async fn send(&self, producer: i64, sequence: i32) -> Result<ProduceDone, ProduceError> {
        let builder = BatchBuilder::new(Compression::None);
        let mut builder = builder.producer(ProducerId(producer), ProducerEpoch(0), sequence);
        builder.push(Record::new(TimestampMs(1000), None, Some(Bytes::from_static(b"v"))));
        let built = builder.build();
        let header = BatchHeader::parse(&built).expect("a batch");
        let batch = CheckedBatch { header, bytes: BytesMut::from(&built[..]) };
        self.router
            .produce(vec![ProducePart { address: address(), batch, origin: Origin::Client { acks_all: true } }])
            .await
            .remove(0)
    }

    pub(crate) async fn read(&self, from: u64, epoch: Option<LeaderEpoch>) -> Result<ReadDone, ReadError> {
        let (from, isolation) = (Offset::new(from), Isolation::ReadUncommitted);
        let part = ReadPart { address: address(), from, max_bytes: 1 << 20, isolation, epoch };
        self.router.read(vec![part], 1 << 20).await.remove(0)
    }

    pub(crate) fn leads(&self) -> bool {
        self.lane.status.leading().is_some()
    }

    /// The epoch in which it leads.
    pub(crate) fn epoch(&self) -> Option<LeaderEpoch> {
        Some(self.lane.replica(address().id)?.leader_epoch(self.lane.status.leading()?))
    }
}

impl Three {
    /// With partition 0 of a topic, and a leader.
    pub(crate) async fn open(world: &World) -> Self {
        let (wires, mut brokers) = (InProcess::new(), Vec::new());
        for node in NODES {
            brokers.push(Broker::start(world.env_of(node.0.unsigned_abs()), node, &wires).await);
        }
        let this = Self { env: world.env_of(99), brokers, wires };
        let create = LaneCommand::Create {
            partition: address().id,
            topic: TopicName::new("orders").expect("legal"),
            overrides: BTreeMap::new(),
            epoch_base: 0,
            copied: None,
            revision: 1,
        };
        let leader = this.leader_of(&NODES).await;
        leader.lane.propose(LaneOp::Command(create)).await.expect("is made");
        this
    }

    /// Waits for a leader among some of the brokers.
    pub(crate) async fn leader_of(&self, nodes: &[NodeId]) -> &Broker {
        loop {
            let leads = self.brokers.iter().filter(|broker| nodes.contains(&broker.node) && broker.leads());
            if let Some(leader) = leads.max_by_key(|broker| broker.lane.status.leading()) {
                return leader;
            }
            self.env.tasks.sleep(Duration::from_millis(10)).await;
        }
    }

    /// The brokers besides one.
    pub(crate) fn others(node: NodeId) -> Vec<NodeId> {
        NODES.into_iter().filter(|other| *other != node).collect()
    }

    /// Cuts a broker off from the others, or ends that.
    pub(crate) fn cut_off(&self, node: NodeId, cut: bool) {
        Self::others(node).into_iter().for_each(|other| self.wires.cut(node, other, cut));
    }

    /// Waits until all brokers have applied what the leader has.
    pub(crate) async fn converge(&self) {
        let leader = self.leader_of(&NODES).await;
        let upto = leader.lane.status.applied();
        while self.brokers.iter().any(|broker| broker.lane.status.applied() < upto) {
            self.env.tasks.sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) fn address() -> PartitionAddress {
    let topic = TopicId(Uuid::from_u128(2));
    let id = PartitionId { topic, index: PartitionIndex(0), incarnation: Incarnation(0) };
    PartitionAddress { id, lane: LANE, shard: ShardId(0) }
}

mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::partition::message::OffsetSpec;
    use crate::partition::read::watch::{Alarms, Watched};

    fn in_three(seed: u64, act: impl AsyncFnOnce(&Three)) {
        let world = World::new(seed);
        world.block_on(async {
            let three = Three::open(&world).await;
            act(&three).await;
        });
    }

    fn is_not_leader(done: &Result<ProduceDone, ProduceError>) -> bool {
        matches!(done, Err(ProduceError::NotLeader(_) | ProduceError::Unconfirmed))
    }

    /// A batch in flight at a leader that is cut off, its repetition there, and another batch that gets its offset from
    /// the next leader: the watermark passes the offset, and yet the batch was never stored.
    #[test]
    fn a_repetition_is_never_answered_with_the_offset_of_another_batch() {
        for seed in 0..8 {
            in_three(seed, async |three| {
                let old = three.leader_of(&NODES).await;
                assert_eq!(old.send(1, 0).await.expect("is stored").base_offset, Offset::ZERO);
                three.cut_off(old.node, true);
                let (first, again) = futures::join!(old.send(7, 0), old.send(7, 0));
                // Not "no leader": by that librdkafka knows that nothing was written.
                let unconfirmed = Err(ProduceError::Unconfirmed);
                assert!(first == unconfirmed && again == unconfirmed, "{first:?} {again:?}");
                let new = three.leader_of(&Three::others(old.node)).await;
                assert_eq!(new.send(8, 0).await.expect("is stored").base_offset, Offset::new(1));
                let while_cut_off = async {
                    // It joins the first copy, which is in flight still.
                    old.send(7, 0).await
                };
                let mends = async {
                    three.env.tasks.sleep(Duration::from_millis(100)).await;
                    three.cut_off(old.node, false);
                };
                let (again, ()) = futures::join!(while_cut_off, mends);
                assert!(is_not_leader(&again), "{again:?}");
                three.converge().await;
                assert!(is_not_leader(&old.send(7, 0).await), "it does not lead any more");
                assert_eq!(new.send(7, 0).await.expect("is stored").base_offset, Offset::new(2));
                // The old leader leads again, in a later term, and knows what the other wrote.
                let raft = new.lane.status.raft().expect("is attached");
                while !old.leads() {
                    let _ = raft.transfer_leadership(ReplicaId::first(old.node)).await;
                    three.env.tasks.sleep(Duration::from_millis(500)).await;
                }
                assert_eq!(old.send(7, 0).await.expect("is stored").base_offset, Offset::new(2));
                assert_eq!(old.send(8, 0).await.expect("is stored").base_offset, Offset::new(1));
                assert_eq!(old.send(7, 1).await.expect("is stored").base_offset, Offset::new(3));
                three.converge().await;
                let blob = |broker: &Broker| broker.lane.replica(address().id).expect("is there").encode();
                assert!(three.brokers.iter().all(|broker| blob(broker) == blob(old)), "replicas differ");
            });
        }
    }

    #[test]
    fn a_leader_that_was_replaced_refuses_no_sequence() {
        in_three(15, async |three| {
            let old = three.leader_of(&NODES).await;
            assert!(old.send(7, 0).await.is_ok());
            three.converge().await;
            three.cut_off(old.node, true);
            let new = three.leader_of(&Three::others(old.node)).await;
            for sequence in 1..3 {
                assert!(new.send(7, sequence).await.is_ok());
            }
            assert!(old.leads(), "it has not heard of another");
            let answer = old.send(7, 3).await;
            assert!(matches!(answer, Err(ProduceError::NotLeader(_))), "{answer:?}");
            let gap = new.send(7, 4).await;
            assert!(matches!(gap, Err(ProduceError::OutOfOrder { expected: 3, found: 4, .. })), "{gap:?}");
            assert!(new.send(7, 3).await.is_ok());
        });
    }

    /// The first batch is stored and its producer does not know, the second comes before the broker leads, the third
    /// when it does.
    #[test]
    fn what_a_follower_refused_is_no_gap_once_it_leads() {
        in_three(16, async |three| {
            let old = three.leader_of(&NODES).await;
            for sequence in 0..2 {
                assert!(old.send(7, sequence).await.is_ok());
            }
            three.converge().await;
            let next = three.brokers.iter().find(|broker| !broker.leads()).expect("one of two");
            for sequence in 1..3 {
                let answer = next.send(7, sequence).await;
                assert!(matches!(answer, Err(ProduceError::NotLeader(_))), "{answer:?}");
            }
            let raft = old.lane.status.raft().expect("is attached");
            while !next.leads() {
                let _ = raft.transfer_leadership(ReplicaId::first(next.node)).await;
                three.env.tasks.sleep(Duration::from_millis(500)).await;
            }
            let answer = next.send(7, 3).await;
            assert!(matches!(answer, Err(ProduceError::Early { expected: 2, found: 3, .. })), "{answer:?}");
            for sequence in 1..4 {
                let stored = next.send(7, sequence).await.expect("is stored");
                assert_eq!(stored.base_offset.get(), sequence as u64, "once");
            }
            let gap = next.send(7, 5).await;
            assert!(matches!(gap, Err(ProduceError::OutOfOrder { expected: 4, found: 5, .. })), "{gap:?}");
        });
    }

    #[test]
    fn producers_of_a_leader_that_is_cut_off_are_answered_soon() {
        in_three(11, async |three| {
            let old = three.leader_of(&NODES).await;
            three.cut_off(old.node, true);
            let begun = three.env.clock.now();
            let sends = (0..50).map(|producer| old.send(producer, 0));
            let done = futures::future::join_all(sends).await;
            assert!(done.iter().all(is_not_leader), "{done:?}");
            let took = three.env.clock.now().since(begun);
            assert!(took < Duration::from_secs(3), "{took:?}");
            // One that comes while the entry before it is in flight is answered as well.
            let late = old.send(90, 0).await;
            assert!(is_not_leader(&late), "{late:?}");
        });
    }

    #[test]
    fn only_a_leader_with_a_lease_answers_readers_and_only_in_its_epoch() {
        in_three(12, async |three| {
            let old = three.leader_of(&NODES).await;
            assert!(old.send(1, 0).await.is_ok());
            let before = old.epoch().expect("leads");
            assert_eq!(old.read(0, Some(before)).await.expect("reads").high_watermark, Offset::new(1));
            let follower = three.brokers.iter().find(|broker| !broker.leads()).expect("one of two");
            let hint = match follower.read(0, None).await {
                Err(ReadError::NotLeader(hint)) => hint.expect("a follower knows its leader"),
                other => unreachable!("{other:?}"),
            };
            assert_eq!((hint.node, hint.epoch), (old.node, before));
            assert!(is_not_leader(&follower.send(2, 0).await));
            // Cut off: within the lease it may answer, afterwards it must not, though it knows of no other leader.
            three.cut_off(old.node, true);
            three.env.tasks.sleep(Duration::from_millis(600)).await;
            assert!(old.leads(), "it has not heard of another");
            assert!(matches!(old.read(0, None).await, Err(ReadError::NotLeader(_))));
            let listed = old.router.list_offset(address(), None, OffsetSpec::Latest).await;
            assert!(matches!(listed, Err(ReadError::NotLeader(_))), "{listed:?}");
            assert!(matches!(old.router.producers(address()).await, Err(ReadError::NotLeader(_))));
            let new = three.leader_of(&Three::others(old.node)).await;
            let now = new.epoch().expect("leads");
            assert!(now > before);
            match new.read(0, Some(before)).await {
                Err(ReadError::FencedEpoch(hint)) => assert_eq!(hint.map(|hint| hint.epoch), Some(now)),
                other => unreachable!("{other:?}"),
            }
            let later = LeaderEpoch(now.0 + 1);
            assert!(matches!(new.read(0, Some(later)).await, Err(ReadError::UnknownEpoch)));
            let end = new.router.epoch_end(address(), Some(now), before).await.expect("answers").expect("is known");
            assert_eq!((end.epoch, end.end), (before, Offset::new(1)));
        });
    }

    #[test]
    fn more_replicas_than_a_majority_can_be_asked_for() {
        in_three(14, async |three| {
            let leader = three.leader_of(&NODES).await;
            let overrides = BTreeMap::from([("min.insync.replicas".to_owned(), "3".to_owned())]);
            let configure = LaneCommand::Configure { partition: address().id, overrides, revision: 2 };
            leader.lane.propose(LaneOp::Command(configure)).await.expect("is applied");
            three.env.tasks.sleep(Duration::from_secs(1)).await;
            assert!(leader.send(1, 0).await.is_ok());
            let gone = Three::others(leader.node)[0];
            three.cut_off(gone, true);
            three.env.tasks.sleep(Duration::from_secs(5)).await;
            let refused = leader.send(1, 1).await;
            assert_eq!(refused, Err(ProduceError::NotEnoughReplicas { live: 2, wanted: 3 }));
            three.cut_off(gone, false);
            three.env.tasks.sleep(Duration::from_secs(2)).await;
            let leader = three.leader_of(&NODES).await;
            assert_eq!(leader.send(1, 1).await.expect("is stored").base_offset, Offset::new(1));
        });
    }

    #[test]
    fn readers_that_wait_are_woken_when_leadership_ends() {
        in_three(13, async |three| {
            let old = three.leader_of(&NODES).await;
            assert!(old.send(1, 0).await.is_ok());
            let (alarm, mut alarms) = Alarms::new();
            let (id, end) = (address().id, Offset::new(1));
            let watched = Watched { token: 5, id, end, log_start: Offset::ZERO };
            old.router.watch(ShardId(0), vec![watched], &alarm).await;
            assert_eq!(alarms.try_ring(), None);
            three.cut_off(old.node, true);
            three.leader_of(&Three::others(old.node)).await;
            three.cut_off(old.node, false);
            let rings = std::future::poll_fn(|cx| alarms.poll_ring(cx));
            assert_eq!(rings.await, Some(5));
            assert!(three.leader_of(&NODES).map(|leader| leader.node != old.node).await);
        });
    }
}
