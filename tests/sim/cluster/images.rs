//! The topics of the simulated cluster and the replicas of its brokers, as a controller that never fails decides them,
//! and their way to each broker: every change makes an image, which reaches each broker in its own time, in order.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidewater::config::topic::TopicConfig;
use tidewater::controller::image::{BrokerImage, ClusterImage, LaneImage, PartitionImage, TopicImage};
use tidewater_storage::model::{
    Incarnation, LaneId, PartitionId, PartitionIndex, ReplicaId, ReplicaIncarnation, ShardId, TopicId, TopicName,
};
use uuid::Uuid;

use super::defect::Defect;
use super::wire::{node_id, replica};
use super::world::Cluster;

/// Longest usual time until a broker has an image.
const USUAL_DELAY_MS: u64 = 60;

type Incarnations = BTreeMap<u32, ReplicaIncarnation>;

#[derive(Debug)]
pub(crate) struct Images {
    topics: RefCell<BTreeMap<TopicName, Arc<TopicImage>>>,
    /// Of brokers that were replaced.
    incarnations: RefCell<Incarnations>,
    revision: Cell<u64>,
}

/// What a broker's replica of the controller knows; it survives the broker's crashes.
#[derive(Debug, Default)]
pub(crate) struct Known {
    topics: RefCell<BTreeMap<TopicName, Arc<TopicImage>>>,
    incarnations: RefCell<Incarnations>,
    revision: Cell<u64>,
    /// Virtual time until which it learns nothing.
    pub(crate) lags_until_ms: Cell<u64>,
}

impl Images {
    pub(crate) fn new() -> Self {
        Self { topics: RefCell::default(), incarnations: RefCell::default(), revision: Cell::new(0) }
    }

    /// Makes a topic; its partitions go round the lanes, from `first_lane`.
    pub(crate) fn create(
        &self,
        cluster: &Rc<Cluster>,
        name: &str,
        partitions: i32,
        first_lane: u32,
        overrides: BTreeMap<String, String>,
    ) -> Arc<TopicImage> {
        let revision = self.revision.get() + 1;
        let id = TopicId(Uuid::from_u128(u128::from(revision) << 64 | 0x70));
        let lane = |index: i32| LaneId(1 + (first_lane + u32::try_from(index).expect("small")) % cluster.plan.lanes);
        let partition = |index: i32| PartitionImage {
            id: PartitionId { topic: id, index: PartitionIndex(index), incarnation: Incarnation(0) },
            lane: lane(index),
            shard: ShardId(0),
            epoch_base: 0,
        };
        let topic = Arc::new(TopicImage {
            id,
            name: TopicName::new(name).expect("legal"),
            partitions: (0..partitions).map(partition).collect(),
            config: Arc::new(TopicConfig::resolve(&overrides)),
            overrides,
            revision,
            copy: None,
        });
        self.topics.borrow_mut().insert(topic.name.clone(), Arc::clone(&topic));
        self.publish(cluster);
        topic
    }

    pub(crate) fn remove(&self, cluster: &Rc<Cluster>, name: &TopicName) {
        self.topics.borrow_mut().remove(name);
        self.publish(cluster);
    }

    /// An empty broker takes the place of a lost one; gives its incarnation.
    pub(crate) fn replace(&self, cluster: &Rc<Cluster>, node: u32) -> ReplicaIncarnation {
        let same = cluster.plan.defect == Some(Defect::ReplaceUnderTheSameId);
        let now = {
            let mut all = self.incarnations.borrow_mut();
            let held = all.entry(node).or_insert(ReplicaIncarnation(0));
            held.0 += u32::from(!same);
            *held
        };
        self.publish(cluster);
        now
    }

    /// The replica of every lane on this broker.
    pub(crate) fn replica(&self, node: u32) -> ReplicaId {
        replica_of(&self.incarnations.borrow(), node)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision.get()
    }

    fn publish(&self, cluster: &Rc<Cluster>) {
        let revision = self.revision.get() + 1;
        self.revision.set(revision);
        let (topics, incarnations) = (self.topics.borrow().clone(), self.incarnations.borrow().clone());
        for node in cluster.plan.all_nodes() {
            let (cluster, topics, incarnations) = (Rc::clone(cluster), topics.clone(), incarnations.clone());
            let env = cluster.clients.clone();
            drop(env.clone().tasks.spawn("image", async move {
                env.tasks.sleep(Duration::from_millis(env.rng.below(USUAL_DELAY_MS))).await;
                while cluster.now_ms() < cluster.slot(node).known.lags_until_ms.get() {
                    cluster.sleep_ms(20).await;
                }
                cluster.slot(node).known.learn(revision, topics, incarnations);
            }));
        }
    }
}

impl Known {
    fn learn(&self, revision: u64, topics: BTreeMap<TopicName, Arc<TopicImage>>, incarnations: Incarnations) {
        if revision > self.revision.get() {
            self.revision.set(revision);
            *self.topics.borrow_mut() = topics;
            *self.incarnations.borrow_mut() = incarnations;
        }
    }

    /// The image that the broker makes of it.
    pub(crate) fn image(&self, cluster: &Cluster, node: u32) -> Arc<ClusterImage> {
        let topics = self.topics.borrow().clone();
        let nodes = || cluster.plan.all_nodes();
        let brokers = nodes().map(|node| (node_id(node), BrokerImage::plain(node_id(node), "sim", 9092))).collect();
        let replicas: Vec<_> = nodes().map(|node| replica_of(&self.incarnations.borrow(), node)).collect();
        let factor = u16::try_from(cluster.plan.nodes).expect("few");
        let lane = LaneImage { factor, replicas, initial: nodes().map(replica).collect() };
        let lanes = cluster.plan.all_lanes().map(|id| (id, lane.clone())).collect();
        let stale = cluster.plan.defect == Some(Defect::DropFromStaleImage);
        Arc::new(ClusterImage {
            cluster: cluster.home().cluster.0,
            cluster_id: "sim".into(),
            cluster_name: crate::world::NAME.into(),
            here: node_id(node),
            brokers: Arc::new(brokers),
            lanes: Arc::new(lanes),
            features: Arc::default(),
            sources: Arc::default(),
            followed: Arc::default(),
            lineage: None,
            names: topics.values().map(|topic| (topic.id, topic.name.clone())).collect::<HashMap<_, _>>(),
            topics,
            revision: if stale { cluster.images.revision() } else { self.revision.get() },
        })
    }
}

fn replica_of(incarnations: &Incarnations, node: u32) -> ReplicaId {
    let incarnation = incarnations.get(&node).copied().unwrap_or_default();
    ReplicaId { incarnation, ..replica(node) }
}
