//! What handler tests share: a cluster image and the check that a response can be written in every version.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Encodable;
use tidewater_storage::model::{
    Incarnation, LaneId, LeaderEpoch, NodeId, PartitionId, PartitionIndex, ShardId, TopicId, TopicName,
};
use uuid::Uuid;

use crate::controller::image::{BrokerImage, ClusterImage, PartitionImage, TopicImage};
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
            shard: ShardId(0),
            leader_epoch: LeaderEpoch(3),
        });
        let config = Arc::default();
        let overrides = BTreeMap::new();
        Arc::new(TopicImage { id, name, partitions: partitions.collect(), config, overrides, revision: 0 })
    });
    let topics: Vec<_> = made.collect();
    ClusterImage {
        cluster: Uuid::nil(),
        cluster_id: "AAAAAAAAAAAAAAAAAAAAAA".into(),
        cluster_name: "tidewater".into(),
        broker: BrokerImage { id: NodeId(1), host: "127.0.0.1".into(), port: 9092 },
        names: topics.iter().map(|t| (t.id, t.name.clone())).collect::<HashMap<_, _>>(),
        topics: topics.into_iter().map(|t| (t.name.clone(), t)).collect(),
        revision: 1,
    }
}

/// Fails for a version in which the response sets a field that the version lacks.
pub(super) fn encodes_in_every_version<R: Encodable>(key: ApiKey, answer: &R) {
    let api = APIS.iter().find(|api| api.key == key).expect("served");
    for version in api.min..=api.max {
        response::encode(key, version, 7, answer).expect("writes");
    }
}
