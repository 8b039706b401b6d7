//! `DescribeQuorum` (55, KIP-595, KIP-836): where the cluster's metadata log stands, as `kafka-metadata-quorum` shows
//! it.
//!
//! Kafka's log of metadata is our controller's lane: its term is the epoch, its applied entries are the offsets,
//! brokers that do not vote in it are observers. The figures are those of its leader.

use kafka_protocol::messages::describe_quorum_response::{Listener, Node, PartitionData, ReplicaState, TopicData};
use kafka_protocol::messages::{DescribeQuorumRequest, DescribeQuorumResponse};
use tidewater_storage::model::{LaneId, TimestampMs};

use crate::admin::cluster::facts::{ClusterFacts, LaneFacts};
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
    let facts = ctx.broker.cluster.facts().await;
    let Some((leader, lane)) = facts.as_ref().and_then(of_leader) else {
        return DescribeQuorumResponse::default()
            .with_error_code(ErrorCode::LEADER_NOT_AVAILABLE.number())
            .with_error_message(message(&"the leader of the controller's lane does not answer"));
    };
    let brokers = facts.iter().flat_map(|facts| facts.image.brokers.values());
    let nodes = if ctx.version >= NODES_FROM { brokers.map(node).collect() } else { Vec::new() };
    answer(leader, lane, ctx.broker.env.clock.wall()).with_nodes(nodes)
}

/// The leader of the controller's lane, and the lane as it describes it.
fn of_leader(facts: &ClusterFacts) -> Option<(i32, &LaneFacts)> {
    facts.brokers.iter().find_map(|(id, answer)| {
        let lanes = &answer.as_ref().ok()?.lanes;
        let lane = lanes.iter().find(|lane| lane.lane == LaneId::CONTROLLER.0 && lane.leads)?;
        // A leader that was cut off may not know that another one leads.
        let known = facts.leaders.of(LaneId::CONTROLLER);
        known.is_none_or(|led| led.node == *id).then_some((id.0, lane))
    })
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

fn answer(leader: i32, lane: &LaneFacts, now: TimestampMs) -> DescribeQuorumResponse {
    // The offset after the last entry applied.
    let end = i64::try_from(lane.applied).unwrap_or(i64::MAX).saturating_add(1);
    let state = |node: &i32| {
        let state = ReplicaState::default().with_replica_id((*node).into());
        let Some(follower) = lane.followers.iter().find(|follower| follower.node == *node) else {
            return state
                .with_log_end_offset(if *node == leader { end } else { -1 })
                .with_last_fetch_timestamp(if *node == leader { now.0 } else { -1 })
                .with_last_caught_up_timestamp(if *node == leader { now.0 } else { -1 });
        };
        let behind = i64::try_from(follower.behind_entries).unwrap_or(i64::MAX);
        let answered = follower.silent_ms.map_or(-1, |ms| now.0.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)));
        state
            .with_log_end_offset(end.saturating_sub(behind).max(0))
            .with_last_fetch_timestamp(answered)
            .with_last_caught_up_timestamp(if behind == 0 { answered } else { -1 })
    };
    let partition = PartitionData::default()
        .with_leader_id(leader.into())
        .with_leader_epoch(i32::try_from(lane.term).unwrap_or(i32::MAX))
        .with_high_watermark(end)
        .with_current_voters(lane.voters.iter().map(state).collect())
        .with_observers(lane.learners.iter().map(state).collect());
    let topic = TopicData::default().with_topic_name(topic_name(METADATA)).with_partitions(vec![partition]);
    DescribeQuorumResponse::default().with_topics(vec![topic])
}

fn node(broker: &BrokerImage) -> Node {
    let kafka = broker.kafka();
    let listener = Listener::default().with_name(text(LISTENER)).with_host(text(&kafka.host)).with_port(kafka.port);
    Node::default().with_node_id(broker.id.0.into()).with_listeners(vec![listener])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::cluster::facts::FollowerFacts;
    use crate::kafka::handlers::fixture::encodes_in_every_version;
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::describe_quorum_request::{PartitionData as Partition, TopicData as Topic};

    fn asked(topic: &str, partitions: &[i32]) -> DescribeQuorumRequest {
        let partitions = partitions.iter().map(|index| Partition::default().with_partition_index(*index)).collect();
        let topic = Topic::default().with_topic_name(topic_name(topic)).with_partitions(partitions);
        DescribeQuorumRequest::default().with_topics(vec![topic])
    }

    #[test]
    fn voters_and_observers_stand_where_the_leader_says() {
        let follower = |node, behind_entries, silent_ms| FollowerFacts { node, behind_entries, silent_ms };
        let lane = LaneFacts {
            leads: true,
            term: 3,
            applied: 41,
            voters: vec![1, 2, 3],
            learners: vec![4],
            followers: vec![follower(2, 0, Some(10)), follower(3, 5, Some(900)), follower(4, 41, None)],
            ..LaneFacts::default()
        };
        let answered = answer(1, &lane, TimestampMs(1000));
        let partition = &answered.topics[0].partitions[0];
        assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.high_watermark), (1, 3, 42));
        let of = |state: &ReplicaState| {
            (state.replica_id.0, state.log_end_offset, state.last_fetch_timestamp, state.last_caught_up_timestamp)
        };
        let voters: Vec<_> = partition.current_voters.iter().map(of).collect();
        assert_eq!(voters, [(1, 42, 1000, 1000), (2, 42, 990, 990), (3, 37, 100, -1)]);
        assert_eq!(partition.observers.iter().map(of).collect::<Vec<_>>(), [(4, 1, -1, -1)]);
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
