//! Three brokers in one simulated world, each with a replica of the controller's lane and its share of the data lanes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use tidewater_storage::engine::{Engine, EngineConfig};
use tidewater_storage::env::sim::World;
use tidewater_storage::model::LaneId;
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::manifest::LaneManifest;

use super::*;
use crate::controller::ask::{TopicError, TopicSpec};
use crate::controller::brokers::Registration;
use crate::controller::brokers::tests::address;
use crate::controller::features::CLUSTER_MAX;
use crate::controller::image::{BrokerImage, LaneImage};
use crate::controller::reconcile::{self, Prepare};
use crate::partition::shard::PartitionShard;
use crate::partition::state::lane::{DataLane, RecoveredState};
use crate::raft::network::in_process::InProcess;
use crate::raft::{Lane, LaneOptions};
use crate::rpc::{RpcError, Service};

const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];
const CLUSTER: Uuid = Uuid::from_u128(9);

/// What all brokers of a test share: the wires of their lanes, and those of their calls.
#[derive(Clone, Default)]
struct Wires {
    lanes: InProcess,
    handles: Rc<RefCell<BTreeMap<NodeId, (Env, ControllerHandle)>>>,
    cut: Rc<RefCell<BTreeSet<NodeId>>>,
    /// Answers of the controller that will be lost.
    lose: Rc<Cell<u32>>,
}

struct Calls {
    from: NodeId,
    env: Env,
    wires: Wires,
}

impl PeerCalls for Calls {
    fn call(
        &self,
        to: NodeId,
        service: Service,
        body: Bytes,
        _: Duration,
    ) -> LocalBoxFuture<'static, Result<Bytes, RpcError>> {
        let (wires, from, env) = (self.wires.clone(), self.from, self.env.clone());
        Box::pin(async move {
            env.tasks.sleep(Duration::from_millis(1)).await;
            let broker = to.to_string();
            let is_cut = || wires.cut.borrow().contains(&from) || wires.cut.borrow().contains(&to);
            let target = wires.handles.borrow().get(&to).cloned().filter(|_| !is_cut());
            let Some((at, handle)) = target else {
                return Err(RpcError::Unreachable { broker, why: "it is cut off".to_owned() });
            };
            let serve = async move {
                match service {
                    Service::Controller => handle.serve_peer(&body).await,
                    _ => handle.take_report(&body).await.map(|()| Bytes::new()),
                }
            };
            let answer = at.tasks.spawn("peer call", serve).await;
            if service == Service::Controller && wires.lose.get() > 0 {
                wires.lose.set(wires.lose.get() - 1);
                return Err(RpcError::Lost { broker });
            }
            Ok(answer.expect("runs").expect("is read"))
        })
    }

    fn connected(&self) -> BTreeSet<NodeId> {
        self.wires.handles.borrow().keys().copied().filter(|node| !self.wires.cut.borrow().contains(node)).collect()
    }

    fn is_connected_at(&self, _: NodeId, _: &(String, u16)) -> bool {
        false
    }

    fn changed(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.env.tasks.sleep(Duration::from_millis(5)))
    }
}

struct Broker {
    node: NodeId,
    handle: ControllerHandle,
    lane: Rc<ControllerLane>,
    shard: Rc<PartitionShard>,
}

impl Broker {
    async fn start(env: Env, node: NodeId, voters: &[ReplicaId], founders: &[Founder], wires: &Wires) -> Self {
        let (engine, _) =
            Engine::open(env.clone(), PathBuf::from("/shard"), EngineConfig::default()).await.expect("opens");
        let (lane, _) = ControllerLane::recover(engine.clone(), None, &Bytes::new()).expect("new");
        let lane = Rc::new(lane);
        let raft = start_lane(&env, &engine, LaneId::CONTROLLER, node, voters, wires, Rc::clone(&lane) as _).await;
        lane.status.attach(raft);
        let image = Arc::new(ClusterImage {
            cluster: CLUSTER,
            cluster_id: String::new(),
            cluster_name: "test".into(),
            here: node,
            brokers: Arc::new(BTreeMap::from([(node, broker(node))])),
            lanes: Arc::default(),
            features: Arc::default(),
            sources: Arc::default(),
            followed: Arc::default(),
            lineage: None,
            topics: BTreeMap::new(),
            names: std::collections::HashMap::new(),
            revision: 0,
        });
        let (mesh, mut inboxes) = Mesh::new(1, 64);
        let (reconcile, mut reconciles) = Mesh::new(1, 64);
        let handle = ControllerHandle::new(image, mesh);
        wires.handles.borrow_mut().insert(node, (env.clone(), handle.clone()));
        let shard = Rc::new(PartitionShard::new(ShardId(0), env.clone()));
        let prepare = lanes_of(&env, node, &engine, &shard, wires);
        reconcile::serve_with(&env, &shard, &handle, reconciles.remove(0), prepare);
        let options = ControllerOptions {
            around: Surroundings { cluster_name: "test".into(), broker: broker(node), shards: 1 },
            cluster: CLUSTER,
            founders: founders.to_vec(),
            voters: voters.to_vec(),
            data_lanes: 0,
            birth: Uuid::from_u128(node.0 as u128),
            address: address(node.0, None, 1),
            num_partitions: 3,
        };
        let calls = Some(Rc::new(Calls { from: node, env: env.clone(), wires: wires.clone() }) as _);
        let service = Controller::new(env.clone(), Rc::clone(&lane), options, calls, reconcile, handle.clone(), None);
        drop(env.tasks.spawn("controller", Rc::new(service).run(inboxes.remove(0))));
        Self { node, handle, lane, shard }
    }
}

fn broker(node: NodeId) -> BrokerImage {
    BrokerImage::plain(node, "broker", 9000 + node.0 as u16)
}

async fn start_lane(
    env: &Env,
    engine: &Engine,
    lane: LaneId,
    node: NodeId,
    voters: &[ReplicaId],
    wires: &Wires,
    apply: Rc<dyn crate::raft::Apply>,
) -> Lane {
    let transport = Some(wires.lanes.transport(env.clone(), node, Duration::from_millis(2)));
    let options = LaneOptions { transport, ..LaneOptions::replica(lane, ReplicaId::first(node), voters.to_vec()) };
    let raft = Lane::start(env, engine.lane(lane), apply, options).await.expect("starts");
    wires.lanes.connect(lane, node, raft.clone());
    raft
}

/// Starts the data lanes of an image that this broker carries.
fn lanes_of(env: &Env, node: NodeId, engine: &Engine, shard: &Rc<PartitionShard>, wires: &Wires) -> Prepare {
    let (env, engine, shard, wires) = (env.clone(), engine.clone(), Rc::clone(shard), wires.clone());
    Rc::new(move |image| {
        let (env, engine, shard, wires) = (env.clone(), engine.clone(), Rc::clone(&shard), wires.clone());
        Box::pin(async move {
            let is_new = |lane: &LaneId, record: &LaneImage| {
                let carried = record.replicas.iter().any(|replica| replica.node == node);
                *lane != LaneId::CONTROLLER && carried && shard.lane(*lane).is_none()
            };
            let new: Vec<_> = image.lanes.iter().filter(|(lane, record)| is_new(lane, record)).collect();
            for (id, record) in new {
                let state = RecoveredState { applied: None, blob: Bytes::new(), replicas: Vec::new() };
                let home = Home { cluster: ClusterId(CLUSTER), epoch: LineageEpoch(1) };
                let lane = DataLane::recover(*id, env.clone(), engine.clone(), state, LaneManifest::new(home, *id));
                let lane = Rc::new(lane.expect("new"));
                let apply = Rc::clone(&lane) as _;
                lane.status.attach(start_lane(&env, &engine, *id, node, &record.initial, &wires, apply).await);
                shard.add_lane(lane, engine.clone());
            }
        })
    })
}

struct Three {
    env: Env,
    wires: Wires,
    brokers: Vec<Broker>,
}

impl Three {
    async fn open(world: &World) -> Self {
        let wires = Wires::default();
        let voters = NODES.map(ReplicaId::first);
        let founders = NODES.map(|node| Founder {
            node,
            birth: Uuid::from_u128(node.0 as u128),
            address: address(node.0, None, 1),
        });
        let mut brokers = Vec::new();
        for node in NODES {
            let env = world.env_of(node.0.unsigned_abs());
            brokers.push(Broker::start(env, node, &voters, &founders, &wires).await);
        }
        let this = Self { env: world.env_of(99), wires, brokers };
        this.wait("a first image everywhere", |broker| broker.handle.image().revision > 0).await;
        this
    }

    async fn wait(&self, what: &str, holds: impl Fn(&Broker) -> bool) {
        for _ in 0..3000 {
            if self.brokers.iter().all(&holds) {
                return;
            }
            self.env.tasks.sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}");
    }

    /// The broker that leads the controller's lane, among those that are not cut off.
    async fn leader(&self) -> &Broker {
        loop {
            let reached = self.brokers.iter().filter(|broker| !self.wires.cut.borrow().contains(&broker.node));
            if let Some(leader) = reached.max_by_key(|broker| broker.lane.status.leading())
                && leader.lane.status.leading().is_some()
            {
                return leader;
            }
            self.env.tasks.sleep(Duration::from_millis(10)).await;
        }
    }

    fn others(&self, node: NodeId) -> Vec<&Broker> {
        self.brokers.iter().filter(|broker| broker.node != node).collect()
    }

    fn cut_off(&self, node: NodeId, cut: bool) {
        for other in NODES.into_iter().filter(|other| *other != node) {
            self.wires.lanes.cut(node, other, cut);
        }
        if cut {
            self.wires.cut.borrow_mut().insert(node);
        } else {
            self.wires.cut.borrow_mut().remove(&node);
        }
    }

    /// Replicas of a topic's partitions, by the brokers that have them.
    fn replicas(&self, name: &str) -> Vec<usize> {
        let of = |broker: &Broker| {
            let topic = broker.handle.image().topic(name).cloned();
            let partitions = topic.map(|topic| topic.partitions.clone()).unwrap_or_default();
            partitions.iter().filter(|partition| broker.shard.replica(partition.id).is_some()).count()
        };
        self.brokers.iter().map(of).collect()
    }
}

fn spec(name: &str, factor: i16) -> TopicSpec {
    TopicSpec {
        name: name.into(),
        partitions: Some(6),
        replication_factor: factor,
        assignments: Vec::new(),
        configs: Vec::new(),
        validate_only: false,
        internal: false,
        copy: None,
    }
}

#[test]
fn any_broker_makes_a_topic_and_all_see_it() {
    let world = World::new(1);
    world.block_on(async {
        let three = Three::open(&world).await;
        let leader = three.leader().await;
        for (n, broker) in three.others(leader.node).into_iter().chain([leader]).enumerate() {
            let name = format!("t{n}");
            let made = broker.handle.create_topic(spec(&name, -1)).await.expect("is made");
            assert_eq!(broker.handle.image().topic(&name).map(|topic| topic.id), Some(made.id), "its own image has it");
            let leaders = broker.handle.leaders();
            let led: BTreeMap<NodeId, usize> = made.partitions.iter().fold(BTreeMap::new(), |mut led, partition| {
                let leader = leaders.of(partition.lane).expect("is known").node;
                *led.entry(leader).or_default() += 1;
                led
            });
            assert_eq!(led.values().sum::<usize>(), 6, "{led:?}");
        }
        three
            .wait("every broker has the same image", |broker| {
                let image = broker.handle.image();
                image.topics.len() == 3 && image.brokers.len() == 3 && image.revision == leader.handle.image().revision
            })
            .await;
        three.wait("replicas everywhere", |_| three.replicas("t0") == [6, 6, 6]).await;
        let exists = leader.handle.create_topic(spec("t0", -1)).await;
        assert!(matches!(exists, Err(TopicError::Exists(_))), "{exists:?}");
        let one = three.others(leader.node)[0].handle.create_topic(spec("one", 1)).await.expect("is made");
        assert_eq!(one.partitions.len(), 6);
        three.wait("a replica each", |_| three.replicas("one").iter().sum::<usize>() == 6).await;
    });
}

#[test]
fn a_request_outlives_the_controllers_broker() {
    let world = World::new(2);
    world.block_on(async {
        let three = Three::open(&world).await;
        let deposed = three.leader().await.node;
        three.cut_off(deposed, true);
        let others = three.others(deposed);
        others[0].handle.create_topic(spec("after", 3)).await.expect("another broker leads by then");
        let cut = three.brokers.iter().find(|broker| broker.node == deposed).expect("is one of three");
        let refused = cut.handle.within(Duration::from_secs(1)).create_topic(spec("lost", 3)).await;
        assert_eq!(refused.err(), Some(TopicError::TimedOut), "it proposed the change and heard of no quorum");
        three.cut_off(deposed, false);
        three.wait("the topic", |broker| broker.handle.image().topic("after").is_some()).await;
        let made = cut.handle.create_topic(spec("later", 3)).await;
        assert!(made.is_ok(), "{made:?}");
    });
}

#[test]
fn a_request_whose_answer_was_lost_is_carried_out_once() {
    let world = World::new(3);
    world.block_on(async {
        let three = Three::open(&world).await;
        let leader = three.leader().await;
        let other = three.others(leader.node)[0];
        let lose = || three.wires.lose.set(1);
        lose();
        let made = other.handle.create_topic(spec("orders", 3)).await.expect("is its own");
        lose();
        other.handle.create_partitions("orders", 9, false).await.expect("are its own");
        assert_eq!(other.handle.image().topic("orders").map(|topic| topic.partitions.len()), Some(9));
        lose();
        assert_eq!(other.handle.delete_topic_by_id(made.id).await.map(|name| name.to_string()), Ok("orders".into()));
        let gone = other.handle.delete_topic("orders").await;
        assert!(matches!(gone, Err(TopicError::Unknown(_))), "{gone:?}");
        three
            .wait("no replica is left", |broker| broker.shard.lanes().iter().all(|lane| lane.replicas().is_empty()))
            .await;
    });
}

#[test]
fn producer_ids_of_several_brokers_differ() {
    let world = World::new(4);
    world.block_on(async {
        let three = Three::open(&world).await;
        let mut seen = BTreeSet::new();
        for n in 0..9 {
            assert!(seen.insert(three.brokers[n % 3].handle.producer_id().await.expect("is given")));
        }
        assert_eq!(seen.iter().map(|id| id.0 / 1000).collect::<BTreeSet<_>>().len(), 3, "a block for each broker");
    });
}

#[test]
fn a_lane_that_changes_its_leader_makes_no_topic_image_again() {
    let world = World::new(5);
    world.block_on(async {
        let three = Three::open(&world).await;
        let made = three.brokers[0].handle.create_topic(spec("orders", 3)).await.expect("is made");
        let lane = made.partitions[0].lane;
        let before = three.brokers[0].handle.leaders().of(lane).cloned().expect("has a leader");
        let others: Vec<NodeId> = NODES.into_iter().filter(|node| *node != before.node).collect();
        let watching = three.brokers.iter().find(|broker| others.contains(&broker.node)).expect("one of two");
        let topic = watching.handle.image().topic("orders").cloned().expect("is there");
        three.cut_off(before.node, true);
        loop {
            let now = watching.handle.leaders().of(lane).cloned();
            if now.is_some_and(|now| now.node != before.node && now.term > before.term) {
                break;
            }
            watching.handle.leaders_changed().await;
        }
        let later = watching.handle.create_topic(spec("later", 3)).await.expect("a majority is left");
        assert_eq!(later.partitions.len(), 6);
        let same = watching.handle.image().topic("orders").cloned().expect("is there");
        assert!(Arc::ptr_eq(&topic, &same));
    });
}

#[test]
fn a_broker_registers_once_and_its_replacement_gets_another_incarnation() {
    let world = World::new(6);
    world.block_on(async {
        let three = Three::open(&world).await;
        let ask = |birth: u128, node: Option<i32>, replaces: Option<i32>, n: i32| Registration {
            birth: Uuid::from_u128(birth),
            node: node.map(NodeId),
            replaces: replaces.map(NodeId),
            address: BrokerAddress { level: CLUSTER_MAX, ..address(n, None, 1) },
        };
        let handle = &three.brokers[1].handle;
        let joined = handle.register(ask(4, None, None, 4)).await.expect("joins");
        assert_eq!((joined.node, joined.incarnation.0), (NodeId(4), 0));
        assert_eq!(handle.register(ask(4, None, None, 4)).await.map(|again| again.node), Ok(NodeId(4)));
        let refused = handle.register(ask(5, Some(3), None, 5)).await;
        assert!(matches!(&refused, Err(TopicError::InvalidRequest(why)) if why.contains("--replace 3")), "{refused:?}");
        let leader = three.leader().await.node;
        let lost = NODES.into_iter().find(|node| *node != leader).expect("one of two");
        let alive = handle.register(ask(7, None, Some(lost.0), lost.0)).await;
        assert!(matches!(alive, Err(TopicError::InvalidRequest(_))), "it still runs: {alive:?}");
        three.cut_off(lost, true);
        let asks = three.brokers.iter().find(|broker| broker.node == leader).expect("is there");
        let replaced = asks.handle.register(ask(7, None, Some(lost.0), lost.0)).await.expect("takes its place");
        assert_eq!((replaced.node, replaced.incarnation.0), (lost, 1));
        asks.handle.image_after(replaced.revision - 1).await;
        let image = asks.handle.image();
        let all = image.lanes.values().flat_map(|lane| &lane.replicas).filter(|replica| replica.node == lost);
        assert!(all.clone().count() > 0 && all.into_iter().all(|replica| replica.incarnation.0 == 1));
    });
}
