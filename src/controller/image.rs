//! The cluster as every shard sees it: immutable, replaced as a whole when the controller's state changes. Node-wide.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidewater_storage::model::{LaneId, LeaderEpoch, NodeId, PartitionId, PartitionIndex, ShardId, TopicId, TopicName};

use uuid::Uuid;

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
    pub broker: BrokerImage,
    pub topics: BTreeMap<TopicName, Arc<TopicImage>>,
    /// Their names by id.
    pub names: HashMap<TopicId, TopicName>,
    /// Grows with every change.
    pub revision: u64,
}

/// A broker as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerImage {
    pub id: NodeId,
    pub host: String,
    pub port: u16,
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
}

/// Where a partition lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    pub id: PartitionId,
    /// The lane that carries it.
    pub lane: LaneId,
    /// The shard of this broker that runs the lane.
    pub shard: ShardId,
    /// The epoch its leader appends with.
    pub leader_epoch: LeaderEpoch,
}

impl ClusterImage {
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

impl PartitionImage {
    /// Where requests for it go.
    #[must_use]
    pub fn address(&self) -> PartitionAddress {
        PartitionAddress { id: self.id, lane: self.lane, shard: self.shard }
    }
}
