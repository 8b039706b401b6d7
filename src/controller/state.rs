//! The cluster's state and the pure transition that a committed command makes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{
    Incarnation, LaneId, NodeId, PartitionId, PartitionIndex, ProducerId, ReplicaId, ReplicaIncarnation, ShardId,
    TimestampMs, TopicId, TopicName,
};
use uuid::Uuid;

use super::brokers::{BrokerAddress, BrokerRecord};
use super::command::{Command, Founder, is_zero_base};
use super::copies::TopicCopy;
use super::features;
use super::image::{BrokerImage, ClusterImage, LaneImage, PartitionImage, TopicImage};
use super::lane_table::{LaneRecord, LaneTable, Pool};
use super::lineage::Lineage;
use super::sources::{SourceId, SourceRecord};
use crate::config::topic::TopicConfig;
use crate::limits::LANES_MAX;

/// Everything the controller knows. A *message*; equal on every replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ControllerState {
    /// The cluster's id; nil before genesis.
    pub cluster: Uuid,
    pub topics: BTreeMap<TopicName, TopicRecord>,
    /// First producer id never given out.
    pub next_producer_id: i64,
    /// Grows with every change.
    pub revision: u64,
    /// Finalized feature levels. Has a section of the checkpoint of its own, as the three below.
    #[serde(skip)]
    pub features: BTreeMap<String, u16>,
    #[serde(skip)]
    pub lanes: LaneTable,
    #[serde(skip)]
    pub brokers: BTreeMap<NodeId, BrokerRecord>,
    /// Other clusters whose buckets are followed.
    #[serde(skip)]
    pub sources: BTreeMap<SourceId, SourceRecord>,
    /// Of a restored cluster.
    #[serde(skip)]
    pub lineage: Option<Arc<Lineage>>,
    /// Partitions of each lane; follows from the topics.
    #[serde(skip)]
    loads: BTreeMap<LaneId, u32>,
}

/// A topic as the controller keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRecord {
    pub id: TopicId,
    /// The lane of each partition, by number.
    pub lanes: Vec<LaneId>,
    /// Settings that were given.
    pub overrides: BTreeMap<String, String>,
    /// [`ControllerState::revision`] after the topic's last change; 0 if that was before revisions were kept per topic.
    #[serde(default)]
    pub changed: u64,
    /// What its leader epochs are counted from at least; 0 for most.
    #[serde(default, skip_serializing_if = "is_zero_base")]
    pub epoch_base: i32,
    /// Where its first records came from, if it was made as a copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Box<TopicCopy>>,
}

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// State had moved on since it was planned: plan again.
    Stale,
    /// Producer ids from here on are the proposer's.
    ProducerIds(ProducerId),
}

/// Facts of this broker that the image needs besides the state.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub cluster_name: String,
    /// This broker, as it is reached now.
    pub broker: BrokerImage,
    /// How many shards it has.
    pub shards: u16,
}

impl ControllerState {
    pub fn apply(&mut self, command: Command) -> Verdict {
        let verdict = self.change(command);
        if verdict != Verdict::Stale {
            self.revision += 1;
        }
        verdict
    }

    fn change(&mut self, command: Command) -> Verdict {
        let changed = self.revision + 1;
        match command {
            Command::Genesis { cluster, founders, voters, level } if self.cluster.is_nil() => {
                self.cluster = cluster;
                self.found(founders, voters, level, changed);
            }
            Command::CreateTopic { name, id, lanes, overrides, epoch_base, copy }
                if !self.topics.contains_key(&name) =>
            {
                self.load(&lanes);
                self.topics.insert(name, TopicRecord { id, lanes, overrides, changed, epoch_base, copy });
            }
            Command::Copied { id, partition, at } => return self.copied(id, partition, at, changed),
            Command::DeleteTopic { name, id } if self.topics.get(&name).is_some_and(|t| t.id == id) => {
                let gone = self.topics.remove(&name);
                self.unload(gone.map(|topic| topic.lanes).unwrap_or_default());
            }
            Command::AddPartitions { name, from, lanes } => match self.topics.get_mut(&name) {
                Some(topic) if topic.lanes.len() == from as usize => {
                    topic.lanes.extend(&lanes);
                    topic.changed = changed;
                    self.load(&lanes);
                }
                _ => return Verdict::Stale,
            },
            Command::Configure { name, overrides } => match self.topics.get_mut(&name) {
                Some(topic) => {
                    topic.overrides = overrides;
                    topic.changed = changed;
                }
                None => return Verdict::Stale,
            },
            Command::TakeProducerIds { count } => {
                let first = self.next_producer_id;
                self.next_producer_id = first.saturating_add(i64::from(count));
                return Verdict::ProducerIds(ProducerId(first));
            }
            Command::Finalize { feature, level } if self.level(&feature) < level => {
                self.features.insert(feature, level);
            }
            Command::Register { node, birth, address, replaces } => {
                return self.register(node, birth, address, replaces, changed);
            }
            Command::AdoptLanes { count } => return self.adopt(count),
            Command::AddLanes { lanes } if lanes.keys().all(|lane| !self.lanes.lanes.contains_key(lane)) => {
                self.lanes.lanes.extend(lanes);
            }
            Command::SetReplicas { lane, before, nodes } => return self.set_replicas(lane, &before, &nodes),
            Command::Follow { id, spec } => {
                let since = self.sources.get(&id).map_or(changed, |held| held.since);
                self.sources.insert(id, SourceRecord { spec, since });
            }
            Command::Unfollow { id } if self.sources.contains_key(&id) => {
                self.sources.remove(&id);
            }
            Command::EndHold {} => return self.end_hold(changed),
            Command::Genesis { .. }
            | Command::CreateTopic { .. }
            | Command::DeleteTopic { .. }
            | Command::Finalize { .. }
            | Command::AddLanes { .. }
            | Command::Unfollow { .. } => return Verdict::Stale,
        }
        Verdict::Done
    }

    fn copied(&mut self, id: TopicId, partition: i32, at: TimestampMs, changed: u64) -> Verdict {
        let topic = self.topics.values_mut().find(|topic| topic.id == id);
        let Some(TopicRecord { copy: Some(copy), changed: last, .. }) = topic else { return Verdict::Stale };
        copy.complete(partition, at);
        *last = changed;
        Verdict::Done
    }

    /// Is there a hold of retention that may not have ended by itself?
    #[must_use]
    pub fn may_hold(&self) -> bool {
        let of_copy =
            |topic: &TopicRecord| topic.copy.as_ref().is_some_and(|copy| copy.finished.is_some() && !copy.lifted);
        self.lineage.as_ref().is_some_and(|lineage| lineage.hold_until.is_some()) || self.topics.values().any(of_copy)
    }

    /// Of the restore, and of copies that are complete.
    fn end_hold(&mut self, changed: u64) -> Verdict {
        let mut verdict = Verdict::Stale;
        if let Some(lineage) = &mut self.lineage {
            Arc::make_mut(lineage).hold_until = None;
            verdict = Verdict::Done;
        }
        for topic in self.topics.values_mut() {
            if let Some(copy) = topic.copy.as_mut().filter(|copy| copy.finished.is_some() && !copy.lifted) {
                copy.lifted = true;
                topic.changed = changed;
                verdict = Verdict::Done;
            }
        }
        verdict
    }

    fn found(&mut self, founders: Vec<Founder>, voters: Vec<ReplicaId>, level: u16, revision: u64) {
        if level > 0 {
            self.features.insert(features::CLUSTER.to_owned(), level);
        }
        if !voters.is_empty() {
            self.lanes.lanes.insert(LaneId::CONTROLLER, LaneRecord::new(Pool::Controller, voters));
        }
        for Founder { node, birth, address } in founders {
            self.register(node, birth, address, false, revision);
        }
    }

    fn register(
        &mut self,
        node: NodeId,
        birth: Uuid,
        address: BrokerAddress,
        replaces: bool,
        revision: u64,
    ) -> Verdict {
        match self.brokers.get_mut(&node) {
            Some(held) if held.birth == birth => {
                held.address = address;
                return Verdict::Done;
            }
            Some(_) if !replaces => return Verdict::Stale,
            None if replaces => return Verdict::Stale,
            Some(_) | None => {}
        }
        let incarnation = if replaces { self.lanes.take_incarnation() } else { ReplicaIncarnation(0) };
        if replaces {
            let replicas = self.lanes.lanes.values_mut().flat_map(|lane| &mut lane.replicas);
            replicas.filter(|replica| replica.node == node).for_each(|replica| replica.incarnation = incarnation);
        }
        let record = BrokerRecord { birth, address, incarnation, registered_at_revision: revision };
        self.brokers.insert(node, record);
        Verdict::Done
    }

    /// Lanes of before the lane table, and more of them while there is one broker.
    fn adopt(&mut self, count: u32) -> Verdict {
        let only = match self.brokers.keys().collect::<Vec<_>>().as_slice() {
            [] => NodeId(1),
            [only] => **only,
            _ => return Verdict::Stale,
        };
        if count > LANES_MAX {
            return Verdict::Stale;
        }
        let replica = self.brokers.get(&only).map_or_else(|| ReplicaId::first(only), |broker| broker.replica(only));
        let table = &mut self.lanes.lanes;
        let before = table.len();
        for lane in (0..=count).map(LaneId) {
            let pool = if lane == LaneId::CONTROLLER { Pool::Controller } else { Pool::Shared };
            table.entry(lane).or_insert_with(|| LaneRecord::new(pool, vec![replica]));
        }
        if table.len() == before { Verdict::Stale } else { Verdict::Done }
    }

    fn set_replicas(&mut self, lane: LaneId, before: &[ReplicaId], nodes: &[NodeId]) -> Verdict {
        match self.lanes.lanes.get(&lane) {
            Some(record) if record.replicas == before && !nodes.is_empty() => {}
            _ => return Verdict::Stale,
        }
        let incarnation = self.lanes.take_incarnation();
        let kept = |node: &NodeId| before.iter().find(|replica| replica.node == *node).copied();
        let made = |node: &NodeId| match self.brokers.get(node) {
            // Every broker is a learner of the controller's lane already, as this replica.
            Some(broker) if lane == LaneId::CONTROLLER => broker.replica(*node),
            _ => ReplicaId { node: *node, incarnation },
        };
        let replicas: Vec<ReplicaId> = nodes.iter().map(|node| kept(node).unwrap_or_else(|| made(node))).collect();
        if let Some(record) = self.lanes.lanes.get_mut(&lane) {
            record.factor = u16::try_from(replicas.len()).unwrap_or(u16::MAX);
            record.replicas = replicas;
        }
        Verdict::Done
    }

    /// The finalized level of a feature; 0 before it is.
    #[must_use]
    pub fn level(&self, feature: &str) -> u16 {
        self.features.get(feature).copied().unwrap_or(0)
    }

    /// Partitions that a lane carries.
    #[must_use]
    pub fn load_of(&self, lane: LaneId) -> u32 {
        self.loads.get(&lane).copied().unwrap_or(0)
    }

    fn load(&mut self, lanes: &[LaneId]) {
        for lane in lanes {
            *self.loads.entry(*lane).or_default() += 1;
        }
    }

    fn unload(&mut self, lanes: Vec<LaneId>) {
        for lane in lanes {
            let left = self.loads.get(&lane).and_then(|load| load.checked_sub(1));
            let left = left.expect("a lane carries the partitions of every topic");
            if left == 0 {
                self.loads.remove(&lane);
            } else {
                self.loads.insert(lane, left);
            }
        }
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("maps, numbers and strings serialise into memory"))
    }

    /// The inverse of [`ControllerState::encode`]; without what has a section of its own.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut state: Self = serde_json::from_slice(bytes).ok()?;
        let lanes: Vec<LaneId> = state.topics.values().flat_map(|topic| &topic.lanes).copied().collect();
        state.load(&lanes);
        Some(state)
    }

    /// The cluster as shards and clients see it. Topics that are in `before` as they are now are shared with it, not
    /// made again: `before` must be of the same surroundings.
    #[must_use]
    pub fn image(&self, around: &Surroundings, before: Option<&ClusterImage>) -> ClusterImage {
        let base = self.lineage.as_ref().map_or(0, |lineage| lineage.epoch_base);
        let topic = |(name, record): (&TopicName, &TopicRecord)| {
            let held = before.and_then(|before| before.topics.get(name)).filter(|held| record.is_shown_by(held));
            (name.clone(), held.map_or_else(|| Arc::new(record.image(name, around.shards, base)), Arc::clone))
        };
        let topics: BTreeMap<_, _> = self.topics.iter().map(topic).collect();
        let names: HashMap<_, _> = topics.values().map(|topic| (topic.id, topic.name.clone())).collect();
        ClusterImage {
            cluster: self.cluster,
            cluster_id: kafka_id(self.cluster),
            cluster_name: around.cluster_name.clone(),
            here: around.broker.id,
            brokers: same_or_new(before.map(|before| &before.brokers), self.broker_images(around)),
            lanes: same_or_new(before.map(|before| &before.lanes), self.lane_images()),
            features: same_or_new(before.map(|before| &before.features), self.features.clone()),
            sources: same_or_new(before.map(|before| &before.sources), self.sources.clone()),
            followed: Arc::default(),
            lineage: self.lineage.clone(),
            topics,
            names,
            revision: self.revision,
        }
    }

    fn broker_images(&self, around: &Surroundings) -> BTreeMap<NodeId, BrokerImage> {
        let image = |(node, record): (&NodeId, &BrokerRecord)| (*node, BrokerImage::of(*node, record));
        let mut brokers: BTreeMap<NodeId, BrokerImage> = self.brokers.iter().map(image).collect();
        // This broker is reached as it says itself, not as it registered last.
        let own = &around.broker;
        let held = brokers.get(&own.id);
        let (birth, incarnation) = held.map_or((own.birth, own.incarnation), |held| (held.birth, held.incarnation));
        brokers.insert(own.id, BrokerImage { birth, incarnation, ..own.clone() });
        brokers
    }

    fn lane_images(&self) -> BTreeMap<LaneId, LaneImage> {
        let image = |(lane, record): (&LaneId, &LaneRecord)| {
            let (replicas, initial) = (record.replicas.clone(), record.initial.clone());
            (*lane, LaneImage { factor: record.factor, replicas, initial })
        };
        self.lanes.lanes.iter().map(image).collect()
    }
}

/// What is equal is shared with the image before.
fn same_or_new<T: PartialEq>(before: Option<&Arc<T>>, now: T) -> Arc<T> {
    before.filter(|before| ***before == now).map_or_else(|| Arc::new(now), Arc::clone)
}

impl TopicRecord {
    /// Would [`TopicRecord::image`] return an equal image? A partition's lane never changes.
    fn is_shown_by(&self, image: &TopicImage) -> bool {
        self.id == image.id
            && self.changed == image.revision
            && self.lanes.len() == image.partitions.len()
            && self.overrides == image.overrides
    }

    /// The topic as shards and clients see it.
    pub(super) fn image(&self, name: &TopicName, shards: u16, epoch_base: i32) -> TopicImage {
        let partition = |(n, lane): (usize, &LaneId)| PartitionImage {
            id: PartitionId {
                topic: self.id,
                index: PartitionIndex(i32::try_from(n).unwrap_or(i32::MAX)),
                incarnation: Incarnation(0),
            },
            lane: *lane,
            epoch_base: epoch_base.max(self.epoch_base),
            shard: shard_of(*lane, shards),
        };
        TopicImage {
            id: self.id,
            name: name.clone(),
            partitions: self.lanes.iter().enumerate().map(partition).collect(),
            config: Arc::new(TopicConfig::resolve(&self.overrides)),
            overrides: self.overrides.clone(),
            revision: self.changed,
            copy: self.copy.as_ref().map(|copy| Arc::new(TopicCopy::clone(copy))),
        }
    }
}

/// The shard that runs a lane: lane 0 is the controller's on shard 0, data lanes 1… go round.
#[must_use]
pub fn shard_of(lane: LaneId, shards: u16) -> ShardId {
    let n = lane.0.saturating_sub(1) % u32::from(shards.max(1));
    ShardId(u16::try_from(n).unwrap_or_default())
}

/// The data lanes of a broker: one per shard.
pub fn data_lanes(shards: u16) -> impl Iterator<Item = LaneId> {
    (1..=u32::from(shards)).map(LaneId)
}

/// A uuid as Kafka prints ids: 22 characters of URL-safe base64 without padding.
#[must_use]
pub fn kafka_id(id: Uuid) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = id.as_u128();
    (0..22)
        .map(|n| {
            // 22 × 6 = 132 bits: the last character carries the low two bits, shifted up.
            let six = if n < 21 { bits >> (122 - 6 * n) } else { bits << 4 };
            char::from(ALPHABET[(six & 0x3f) as usize])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::copies;

    fn create(name: &str, id: u128) -> Command {
        Command::CreateTopic {
            name: TopicName::new(name).expect("legal"),
            id: TopicId(Uuid::from_u128(id)),
            lanes: vec![LaneId(1), LaneId(2)],
            overrides: BTreeMap::new(),
            epoch_base: 0,
            copy: None,
        }
    }

    #[test]
    fn a_topic_is_made_once_and_deleted_by_id() {
        let mut state = ControllerState::default();
        assert_eq!(state.apply(create("a", 1)), Verdict::Done);
        assert_eq!(state.apply(create("a", 2)), Verdict::Stale);
        let delete =
            |id| Command::DeleteTopic { name: TopicName::new("a").expect("legal"), id: TopicId(Uuid::from_u128(id)) };
        assert_eq!(state.apply(delete(2)), Verdict::Stale);
        assert_eq!(state.apply(delete(1)), Verdict::Done);
        assert_eq!((state.revision, state.topics.len()), (2, 0));
    }

    #[test]
    fn a_topic_carries_the_revision_of_its_own_last_change() {
        let mut state = ControllerState::default();
        let name = || TopicName::new("a").expect("legal");
        state.apply(create("a", 1));
        state.apply(create("b", 2));
        assert_eq!(state.topics.get(&name()).map(|topic| topic.changed), Some(1), "another topic's change is none");
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "1".to_owned())]);
        state.apply(Command::Configure { name: name(), overrides });
        assert_eq!(state.topics.get(&name()).map(|topic| topic.changed), Some(3));
        state.apply(Command::AddPartitions { name: name(), from: 2, lanes: vec![LaneId(1)] });
        assert_eq!(state.topics.get(&name()).map(|topic| topic.changed), Some(4));
        let old = String::from_utf8(state.encode().to_vec()).expect("text").replace(",\"changed\":4", "");
        let state = ControllerState::decode(old.as_bytes()).expect("the version before wrote none");
        assert_eq!(state.topics.get(&name()).map(|topic| topic.changed), Some(0));
    }

    #[test]
    fn a_copy_is_complete_with_its_last_partition() {
        let mut state = ControllerState::default();
        let (id, at) = (TopicId(Uuid::from_u128(1)), TimestampMs(50));
        let Command::CreateTopic { name, lanes, overrides, .. } = create("a", 1) else { unreachable!("it is one") };
        let copy = Some(Box::new(copies::tests::copy(&[(0, 5), (3, 3)])));
        state.apply(Command::CreateTopic { name, id, lanes, overrides, epoch_base: 7 << 20, copy });
        assert_eq!(state.apply(Command::Copied { id: TopicId::default(), partition: 0, at }), Verdict::Stale);
        for partition in [1, 0] {
            assert_eq!(state.apply(Command::Copied { id, partition, at }), Verdict::Done);
        }
        assert_eq!(ControllerState::decode(&state.encode()).as_ref(), Some(&state));
        let around = Surroundings {
            cluster_name: "tidewater".into(),
            broker: BrokerImage::plain(NodeId(1), "localhost", 9092),
            shards: 2,
        };
        let image = state.image(&around, None);
        let topic = image.topic("a").expect("is there");
        assert_eq!(topic.copy.as_ref().and_then(|copy| copy.finished), Some(at));
        assert!(topic.partitions.iter().all(|partition| partition.epoch_base == 7 << 20));
        assert_eq!(topic.revision, 3);
    }

    #[test]
    fn producer_ids_are_never_given_twice() {
        let mut state = ControllerState::default();
        assert_eq!(state.apply(Command::TakeProducerIds { count: 10 }), Verdict::ProducerIds(ProducerId(0)));
        assert_eq!(state.apply(Command::TakeProducerIds { count: 10 }), Verdict::ProducerIds(ProducerId(10)));
    }

    #[test]
    fn state_round_trips_and_ids_print_as_kafkas() {
        let mut state = ControllerState::default();
        state.apply(create("a", 1));
        assert_eq!(ControllerState::decode(&state.encode()), Some(state));
        assert_eq!(kafka_id(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(kafka_id(Uuid::from_u128(u128::MAX)), "_____________________w");
    }

    #[test]
    fn what_did_not_change_is_shared_between_images() {
        let mut state = ControllerState::default();
        let around = Surroundings {
            cluster_name: "tidewater".into(),
            broker: BrokerImage::plain(NodeId(1), "localhost", 9092),
            shards: 2,
        };
        state.apply(create("a", 1));
        state.apply(create("b", 2));
        let before = state.image(&around, None);
        let name = TopicName::new("b").expect("legal");
        state.apply(Command::AddPartitions { name, from: 2, lanes: vec![LaneId(1)] });
        state.apply(create("c", 3));
        let after = state.image(&around, Some(&before));
        let same = |name: &str| match (before.topic(name), after.topic(name)) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            _ => false,
        };
        assert_eq!((same("a"), same("b"), same("c")), (true, false, false));
        assert_eq!(after.topic("b").map(|topic| topic.partitions.len()), Some(3));
        assert_eq!(format!("{after:?}").len(), format!("{:?}", state.image(&around, None)).len());
    }

    #[test]
    fn lanes_go_round_the_shards() {
        let shards: Vec<_> = data_lanes(3).map(|lane| shard_of(lane, 3).0).collect();
        assert_eq!(shards, [0, 1, 2]);
        assert_eq!(shard_of(LaneId::CONTROLLER, 3), ShardId(0));
    }
}
