//! The simulated world of a run: a machine that is killed and started again, a bucket, and clients that live on.
//!
//! Node 0 is the broker, 1 the clients, 2 the bucket. Nothing but the disk and the bucket outlives the broker.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater::config::topic::TopicConfig;
use tidewater::controller::image::{BrokerImage, ClusterImage, PartitionImage, TopicImage};
use tidewater_storage::env::sim::World as Machines;
use tidewater_storage::env::{Env, Sleep};
use tidewater_storage::model::{
    Incarnation, LaneId, LeaderEpoch, NodeId, Offset, PartitionId, PartitionIndex, ShardId, TopicId, TopicName,
};
use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};
use tidewater_tiering::store::{Faults, SimBucket};
use uuid::Uuid;

use crate::history::History;
use crate::node::Node;

/// The one data lane.
pub(crate) const LANE: LaneId = LaneId(1);
/// The one shard.
pub(crate) const SHARD: ShardId = ShardId(0);
/// The cluster's name in its bucket.
pub(crate) const NAME: &str = "sim";
const CLUSTER: Uuid = Uuid::from_u128(0x51);
const TOPIC: TopicId = TopicId(Uuid::from_u128(0x70_91c));

/// A run's world.
pub(crate) struct World {
    pub(crate) machines: Machines,
    pub(crate) clients: Env,
    pub(crate) bucket: SimBucket,
    pub(crate) history: History,
    pub(crate) topic: Arc<TopicImage>,
    pub(crate) seed: u64,
    /// The broker while it serves.
    node: Rc<RefCell<Option<Rc<Node>>>>,
    lives: Cell<u64>,
}

/// What a client may see of the broker.
#[derive(Clone)]
pub(crate) struct Way(Rc<RefCell<Option<Rc<Node>>>>);

impl Way {
    /// The broker, if it serves.
    pub(crate) fn node(&self) -> Option<Rc<Node>> {
        self.0.borrow().clone()
    }
}

fn overrides(env: &Env) -> BTreeMap<String, String> {
    let rng = &env.rng;
    let mut pairs = vec![
        ("segment.bytes", 16_384 + rng.below(60_000)),
        ("segment.ms", 2_000 + rng.below(60_000)),
        ("local.retention.bytes", rng.below(80_000)),
        ("local.retention.ms", 500 + rng.below(60_000)),
        ("archive.lag.ms", 100 + rng.below(3_000)),
    ];
    if rng.below(4) == 0 {
        pairs.push(("retention.bytes", 30_000 + rng.below(200_000)));
    }
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect()
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let machines = Machines::new(seed);
        let clients = machines.env_of(1);
        let bucket = SimBucket::new(&machines.env_of(2), Faults::default());
        let partitions = 1 + i32::try_from(clients.rng.below(4)).expect("small");
        let overrides = overrides(&clients);
        let place = |n| PartitionImage {
            id: PartitionId { topic: TOPIC, index: PartitionIndex(n), incarnation: Incarnation(1) },
            lane: LANE,
            shard: SHARD,
            leader_epoch: LeaderEpoch(0),
        };
        let topic = Arc::new(TopicImage {
            id: TOPIC,
            name: TopicName::new("orders").expect("legal"),
            partitions: (0..partitions).map(place).collect(),
            config: Arc::new(TopicConfig::resolve(&overrides)),
            overrides,
        });
        let history = History::default();
        if topic.config.retention_bytes.is_some() {
            (0..partitions).for_each(|n| history.with(n, |past| past.trim_asked = Offset::MAX));
        }
        Self { machines, clients, bucket, history, topic, seed, node: Rc::default(), lives: Cell::new(0) }
    }

    pub(crate) fn home(&self) -> Home {
        Home { cluster: ClusterId(CLUSTER), epoch: LineageEpoch(1) }
    }

    pub(crate) fn cluster(&self) -> Uuid {
        CLUSTER
    }

    pub(crate) fn image(&self) -> Arc<ClusterImage> {
        Arc::new(ClusterImage {
            cluster: CLUSTER,
            cluster_id: "sim".into(),
            cluster_name: NAME.into(),
            broker: BrokerImage { id: NodeId(0), host: "sim".into(), port: 9092 },
            topics: BTreeMap::from([(self.topic.name.clone(), Arc::clone(&self.topic))]),
            names: HashMap::from([(self.topic.id, self.topic.name.clone())]),
            revision: 1,
        })
    }

    pub(crate) fn way(&self) -> Way {
        Way(Rc::clone(&self.node))
    }

    /// How often the broker was started.
    pub(crate) fn lives(&self) -> u64 {
        self.lives.get()
    }

    /// Starts the broker; it serves some time later, and the machine may be killed before that.
    pub(crate) fn start(self: &Rc<Self>) {
        self.lives.set(self.lives.get() + 1);
        let env = self.machines.env();
        let (world, slot, starting) = (Rc::clone(self), Rc::clone(&self.node), env.clone());
        drop(env.tasks.spawn("node", async move {
            let node = Node::start(starting, &world).await;
            world.history.note(format!("{} serves", world.machines.now().nanos()));
            *slot.borrow_mut() = Some(node);
        }));
    }

    /// Ends the broker: `kill -9`, or a power cut that loses and tears what was not synced.
    pub(crate) fn end(&self, power_cut: bool) {
        let node = self.node.borrow_mut().take();
        if power_cut {
            self.machines.crash();
        } else {
            self.machines.kill();
        }
        if let Some(node) = node {
            node.forget();
        }
        self.history.note(format!("{} ends, power cut {power_cut}", self.machines.now().nanos()));
    }

    /// Waits until the broker serves.
    pub(crate) async fn serving(&self) -> Rc<Node> {
        for _ in 0..60_000 {
            if let Some(node) = self.way().node() {
                return node;
            }
            self.sleep_ms(10).await;
        }
        panic!("the broker does not come up again within ten minutes");
    }

    pub(crate) async fn sleep_ms(&self, ms: u64) {
        self.clients.tasks.sleep(Duration::from_millis(ms)).await;
    }
}

/// The answer, or `None` when it does not come in time.
pub(crate) async fn within<T>(env: &Env, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let sleep: Sleep = env.tasks.sleep(time);
    match select(std::pin::pin!(future), sleep).await {
        Either::Left((answer, _)) => Some(answer),
        Either::Right(_) => None,
    }
}
