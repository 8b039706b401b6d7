//! The cluster as every shard sees it: immutable, replaced as a whole when the controller's state changes. Node-wide.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidewater_storage::model::{
    LaneId, LeaderEpoch, NodeId, PartitionId, PartitionIndex, ReplicaId, ReplicaIncarnation, ShardId, Term, TopicId,
    TopicName,
};
use uuid::Uuid;

use super::brokers::{BrokerAddress, BrokerRecord, Endpoint};
use super::copies::TopicCopy;
use super::followed::Followed;
use super::lineage::Lineage;
use super::sources::{SourceId, SourceRecord};
use crate::config::topic::TopicConfig;
use crate::partition::message::PartitionAddress;

/// Topics, their places and settings, as of one controller revision.
#[derive(Clone, Debug)]
pub struct ClusterImage {
    pub cluster: Uuid,
    /// The same as Kafka prints it: 22 characters of URL-safe base64.
    pub cluster_id: String,
    /// The cluster's name in its bucket.
    pub cluster_name: String,
    /// This broker.
    pub here: NodeId,
    /// Registered brokers, and this one in any case.
    pub brokers: Arc<BTreeMap<NodeId, BrokerImage>>,
    /// Every lane with the brokers that carry it; empty in a cluster that has not named its lanes yet.
    pub lanes: Arc<BTreeMap<LaneId, LaneImage>>,
    /// Finalized feature levels.
    pub features: Arc<BTreeMap<String, u16>>,
    /// Other clusters whose buckets this one follows.
    pub sources: Arc<BTreeMap<SourceId, SourceRecord>>,
    /// What this broker knows of the topics of its sources, which `topics` and `names` then have too. Empty in an image
    /// that the controller made; see [`Followed::view`].
    pub followed: Arc<Followed>,
    /// Of a restored cluster.
    pub lineage: Option<Arc<Lineage>>,
    pub topics: BTreeMap<TopicName, Arc<TopicImage>>,
    /// Their names by id.
    pub names: HashMap<TopicId, TopicName>,
    /// Grows with every change.
    pub revision: u64,
}

/// A broker as clients and other brokers reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerImage {
    pub id: NodeId,
    /// The birth id of its data directory; nil for one that has not registered.
    pub birth: Uuid,
    /// Listeners for clients; never empty.
    pub endpoints: Vec<Endpoint>,
    /// Host and port for other brokers; `None` for one that has not registered.
    pub rpc: Option<(String, u16)>,
    pub rack: Option<String>,
    /// The incarnation of the replicas that it gets with a first assignment.
    pub incarnation: ReplicaIncarnation,
}

/// A lane's replicas as the controller wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneImage {
    /// Replicas it shall have.
    pub factor: u16,
    /// The one that shall lead first.
    pub replicas: Vec<ReplicaId>,
    /// The voters the lane begins with; never changes.
    pub initial: Vec<ReplicaId>,
}

#[derive(Clone, Debug)]
pub struct TopicImage {
    /// Its id, stable across restarts and restores.
    pub id: TopicId,
    pub name: TopicName,
    /// Partitions by number, from 0 without holes.
    pub partitions: Vec<PartitionImage>,
    /// Settings with defaults filled in.
    pub config: Arc<TopicConfig>,
    /// What was set on the topic itself, as given.
    pub overrides: BTreeMap<String, String>,
    /// The controller's revision at the topic's last change; 0 if no version that kept it has changed the topic.
    pub revision: u64,
    /// Where its first records came from, if it was made as a copy.
    pub copy: Option<Arc<TopicCopy>>,
}

/// Where a partition lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    pub id: PartitionId,
    /// The lane that carries it.
    pub lane: LaneId,
    /// Its leader epoch is this plus the lane's term.
    pub epoch_base: i32,
    /// The shard of this broker that runs the lane, if the lane is on this broker.
    pub shard: ShardId,
}

impl ClusterImage {
    /// This broker.
    #[must_use]
    pub fn broker(&self) -> &BrokerImage {
        self.brokers.get(&self.here).expect("an image holds the broker that made it")
    }

    /// Brokers that carry a lane, the one that shall lead first; this one where the lane is in no table.
    #[must_use]
    pub fn replicas(&self, lane: LaneId) -> Vec<NodeId> {
        let named = self.lanes.get(&lane);
        named.map_or_else(|| vec![self.here], |lane| lane.replicas.iter().map(|replica| replica.node).collect())
    }

    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.names.get(&id)?)
    }
}

impl TopicImage {
    /// A partition by number.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// A partition by number, typed.
    #[must_use]
    pub fn at(&self, index: PartitionIndex) -> Option<&PartitionImage> {
        self.partition(index.0)
    }
}

impl BrokerImage {
    /// A broker with one plaintext listener, as clients reach it.
    #[must_use]
    pub fn plain(id: NodeId, host: &str, port: u16) -> Self {
        let endpoints = vec![Endpoint::plain(host, port)];
        let (birth, incarnation) = (Uuid::nil(), ReplicaIncarnation(0));
        Self { id, birth, endpoints, rpc: None, rack: None, incarnation }
    }

    pub(super) fn of(id: NodeId, record: &BrokerRecord) -> Self {
        let BrokerAddress { endpoints, rpc, rack, .. } = record.address.clone();
        Self { id, birth: record.birth, endpoints, rpc, rack, incarnation: record.incarnation }
    }

    /// The replica that a lane of this broker has after a first assignment.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        ReplicaId { node: self.id, incarnation: self.incarnation }
    }

    /// The first listener: the one that serves Kafka clients.
    #[must_use]
    pub fn kafka(&self) -> &Endpoint {
        self.endpoints.first().expect("a broker has a listener")
    }
}

impl PartitionImage {
    /// The leader epoch in a term of its lane.
    #[must_use]
    pub fn epoch_in(&self, term: Term) -> LeaderEpoch {
        LeaderEpoch(self.epoch_base.saturating_add(i32::try_from(term.0).unwrap_or(i32::MAX)))
    }

    /// Where requests for it go.
    #[must_use]
    pub fn address(&self) -> PartitionAddress {
        PartitionAddress { id: self.id, lane: self.lane, shard: self.shard }
    }
}
