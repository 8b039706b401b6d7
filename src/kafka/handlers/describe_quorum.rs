//! `DescribeQuorum` (55, KIP-595, KIP-836): where the cluster's metadata log stands, as `kafka-metadata-quorum` shows it.
//!
//! Kafka's log of metadata is our controller's lane: one voter, its term is the epoch, its applied entries are the offsets.

use kafka_protocol::messages::describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use kafka_protocol::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use tidewater_storage::model::TimestampMs;

use crate::controller::client::Quorum;
use crate::controller::image::BrokerImage;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::{message, text, topic_name};

/// Kafka's name for the log of metadata; it has one partition.
const METADATA: &str = "__cluster_metadata";
/// Kafka's usual name of a controller's listener; ours is the broker's.
const LISTENER: &str = "CONTROLLER";
/// First version with the addresses of voters (KIP-853).
const NODES_FROM: i16 = 2;

/// Asks the controller.
pub async fn handle(ctx: &RequestContext, request: DescribeQuorumRequest) -> DescribeQuorumResponse {
    if !asks_for_metadata(&request) {
        return unknown(&request);
    }
    match ctx.broker.controller.quorum().await {
        Ok(quorum) => {
            let image = ctx.image();
            let broker = image.broker();
            let nodes = if ctx.version >= NODES_FROM { vec![node(broker)] } else { Vec::new() };
            answer(broker, quorum, ctx.broker.env.clock.wall()).with_nodes(nodes)
        }
        Err(error) => DescribeQuorumResponse::default()
            .with_error_code(ErrorCode::from(&error).number())
            .with_error_message(message(&error)),
    }
}

fn asks_for_metadata(request: &DescribeQuorumRequest) -> bool {
    match request.topics.as_slice() {
        [topic] if topic.topic_name.as_str() == METADATA => {
            matches!(topic.partitions.as_slice(), [partition] if partition.partition_index == 0)
        }
        _ => false,
    }
}

/// For any other log, all of the request is answered as unknown, as by Kafka.
fn unknown(request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    let error = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            PartitionData::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.number())
                .with_error_message(message(&error.name()))
        });
        TopicData::default().with_topic_name(topic.topic_name.clone()).with_partitions(partitions.collect())
    });
    DescribeQuorumResponse::default().with_topics(topics.collect())
}

fn answer(broker: &BrokerImage, quorum: Quorum, now: TimestampMs) -> DescribeQuorumResponse {
    let end = i64::try_from(quorum.end.0).unwrap_or(i64::MAX);
    let voter = ReplicaState::default()
        .with_replica_id(broker.id.0.into())
        .with_log_end_offset(end)
        .with_last_fetch_timestamp(now.0)
        .with_last_caught_up_timestamp(now.0);
    let partition = PartitionData::default()
        .with_leader_id(broker.id.0.into())
        .with_leader_epoch(i32::try_from(quorum.term.0).unwrap_or(i32::MAX))
        .with_high_watermark(end)
        .with_current_voters(vec![voter]);
    let topic = TopicData::default().with_topic_name(topic_name(METADATA)).with_partitions(vec![partition]);
    DescribeQuorumResponse::default().with_topics(vec![topic])
}

fn node(broker: &BrokerImage) -> Node {
    let listener = Listener::default().with_name(text(LISTENER)).with_host(text(&broker.kafka().host)).with_port(broker.kafka().port);
    Node::default().with_node_id(broker.id.0.into()).with_listeners(vec![listener])
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::describe_quorum_request::{PartitionData as Partition, TopicData as Topic};
    use tidewater_storage::model::{LogIndex, Term};

    use super::*;
    use crate::kafka::handlers::fixture::{encodes_in_every_version, image};

    fn asked(topic: &str, partitions: &[i32]) -> DescribeQuorumRequest {
        let partitions = partitions.iter().map(|index| Partition::default().with_partition_index(*index)).collect();
        let topic = Topic::default().with_topic_name(topic_name(topic)).with_partitions(partitions);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    }

    #[test]
    fn the_controller_is_its_only_voter() {
        let quorum = Quorum { term: Term(3), end: LogIndex(41), revision: 7 };
        let answered = answer(image(&[]).broker(), quorum, TimestampMs(5));
        let partition = &answered.topics[0].partitions[0];
        assert_eq!((partition.leader_epoch, partition.high_watermark, partition.current_voters.len()), (3, 41, 1));
        encodes_in_every_version(ApiKey::DescribeQuorum, &answered);
    }

    #[test]
    fn nothing_else_has_a_quorum() {
        assert!(asks_for_metadata(&asked(METADATA, &[0])));
        for other in [asked("orders", &[0]), asked(METADATA, &[1]), asked(METADATA, &[0, 1])] {
            assert!(!asks_for_metadata(&other));
            let answered = unknown(&other);
            assert!(answered.topics[0].partitions.iter().all(|partition| partition.error_code == 3));
            encodes_in_every_version(ApiKey::DescribeQuorum, &answered);
        }
    }
}
