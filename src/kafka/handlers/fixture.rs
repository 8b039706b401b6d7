//! What handler tests share: a cluster image and the check that a response can be written in every version.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Encodable;
use tidewater_storage::model::{
    Incarnation, LaneId, NodeId, PartitionId, PartitionIndex, ReplicaId, ShardId, Term, TopicId, TopicName,
};
use uuid::Uuid;

use crate::controller::image::{BrokerImage, ClusterImage, LaneImage, PartitionImage, TopicImage};
use crate::controller::leaders::{LaneReport, LeaderReport, Leaders};
use crate::kafka::api::APIS;
use crate::kafka::wire::response;

/// A cluster with these topics and numbers of partitions; topic ids are 1, 2, ….
pub(crate) fn image(topics: &[(&str, i32)]) -> ClusterImage {
    let made = topics.iter().enumerate().map(|(n, (name, partitions))| {
        let id = TopicId(Uuid::from_u128(n as u128 + 1));
        let name = TopicName::new(name).expect("legal");
        let partitions = (0..*partitions).map(|index| PartitionImage {
            id: PartitionId { topic: id, index: PartitionIndex(index), incarnation: Incarnation(0) },
            lane: LaneId(1),
            epoch_base: 0,
            shard: ShardId(0),
        });
        let config = Arc::default();
        let overrides = BTreeMap::new();
        Arc::new(TopicImage { id, name, partitions: partitions.collect(), config, overrides, revision: 0, copy: None })
    });
    let topics: Vec<_> = made.collect();
    ClusterImage {
        cluster: Uuid::nil(),
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".into(),
        cluster_name: "tidewater".into(),
        here: NodeId(1),
        brokers: Arc::new(BTreeMap::from([(NodeId(1), BrokerImage::plain(NodeId(1), "127.0.0.1", 9092))])),
        lanes: Arc::default(),
        features: Arc::default(),
        sources: Arc::default(),
        followed: Arc::default(),
        lineage: None,
        names: topics.iter().map(|t| (t.id, t.name.clone())).collect::<HashMap<_, _>>(),
        topics: topics.into_iter().map(|t| (t.name.clone(), t)).collect(),
        revision: 1,
    }
}

/// [`image`] as broker 1 of three sees it; lane 1 and the controller's lane have replicas on all three, 2 preferred.
pub(crate) fn cluster(topics: &[(&str, i32)]) -> ClusterImage {
    let broker = |n: i32| {
        let port = 9091 + u16::try_from(n).expect("small");
        let rack = Some(format!("rack-{n}"));
        (NodeId(n), BrokerImage { rack, ..BrokerImage::plain(NodeId(n), "127.0.0.1", port) })
    };
    let replicas: Vec<_> = [2, 3, 1].map(|n| ReplicaId::first(NodeId(n))).into();
    let lane = LaneImage { factor: 3, replicas: replicas.clone(), initial: replicas };
    ClusterImage {
        brokers: Arc::new([1, 2, 3].map(broker).into()),
        lanes: Arc::new(BTreeMap::from([(LaneId::CONTROLLER, lane.clone()), (LaneId(1), lane)])),
        ..image(topics)
    }
}

/// `leader` leads both lanes of [`cluster`] in this term; broker 3 is in sync too.
pub(crate) fn leaders_of(leader: i32, term: u64) -> Leaders {
    let mut leaders = Leaders::default();
    let mut in_sync = vec![NodeId(leader), NodeId(3)];
    in_sync.dedup();
    let lane = |lane| LaneReport {
        lane,
        term: Term(term),
        leader: Some(NodeId(leader)),
        in_sync: in_sync.clone(),
        followed: 1,
    };
    let lanes = [LaneId::CONTROLLER, LaneId(1)].map(lane).into();
    leaders.see(&LeaderReport { from: NodeId(leader), lanes, full: None });
    leaders
}

/// Broker 1 leads the lane of [`image`] in term 3.
pub(super) fn leaders() -> Leaders {
    let (mut leaders, here) = (Leaders::default(), NodeId(1));
    let lane = LaneReport { lane: LaneId(1), term: Term(3), leader: Some(here), in_sync: vec![here], followed: 1 };
    leaders.see(&LeaderReport { from: here, lanes: vec![lane], full: None });
    leaders
}

/// Fails for a version in which the response sets a field that the version lacks.
pub(super) fn encodes_in_every_version<R: Encodable>(key: ApiKey, answer: &R) {
    let api = APIS.iter().find(|api| api.key == key).expect("served");
    for version in api.min..=api.max {
        response::encode(key, version, 7, answer).expect("writes");
    }
}
