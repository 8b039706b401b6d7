//! `ElectLeaders` (43): with one replica the preferred leader leads already, and every election says so.

use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};

use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::message;

/// Answers from the image.
pub async fn handle(ctx: &RequestContext, request: ElectLeadersRequest) -> ElectLeadersResponse {
    answer(&ctx.image(), request)
}

/// A request for all partitions is answered with those that needed one: none.
fn answer(image: &ClusterImage, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let asked = request.topic_partitions.unwrap_or_default();
    let results = asked.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| partition(image, topic.topic.as_str(), *index)).collect();
        ReplicaElectionResult::default().with_topic(topic.topic).with_partition_result(partitions)
    });
    ElectLeadersResponse::default().with_replica_election_results(results.collect())
}

fn partition(image: &ClusterImage, name: &str, index: i32) -> PartitionResult {
    let (error, why) = match image.topic(name) {
        None => (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("No such topic as {name}")),
        Some(topic) if topic.partition(index).is_none() => {
            (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("No such partition as {name}-{index}"))
        }
        Some(_) => (ErrorCode::ELECTION_NOT_NEEDED, "the preferred replica leads".to_owned()),
    };
    PartitionResult::default()
        .with_partition_id(index)
        .with_error_code(error.number())
        .with_error_message(message(&why))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    use super::*;
    use crate::kafka::handlers::fixture::{encodes_in_every_version, image};
    use crate::kafka::words::topic_name;

    #[test]
    fn nothing_needs_an_election() {
        let image = image(&[("a", 2)]);
        let of = |name: &str| TopicPartitions::default().with_topic(topic_name(name)).with_partitions(vec![1, 2]);
        let named = answer(&image, ElectLeadersRequest::default().with_topic_partitions(Some(vec![of("a"), of("b")])));
        let codes = named.replica_election_results.iter().flat_map(|t| t.partition_result.iter().map(|p| p.error_code));
        assert_eq!(codes.collect::<Vec<_>>(), [84, 3, 3, 3]);
        encodes_in_every_version(ApiKey::ElectLeaders, &named);
        let all = answer(&image, ElectLeadersRequest::default().with_topic_partitions(None));
        assert!(all.replica_election_results.is_empty() && all.error_code == 0);
    }
}
