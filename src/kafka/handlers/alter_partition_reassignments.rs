//! `AlterPartitionReassignments` (45, KIP-455): a partition stays on the replicas of its lane; moving it is not built.

use kafka_protocol::messages::alter_partition_reassignments_request::ReassignablePartition;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse};

use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::message;

/// Answers from the image; nothing changes.
pub async fn handle(
    ctx: &RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    answer(&ctx.image(), request)
}

fn answer(image: &ClusterImage, request: AlterPartitionReassignmentsRequest) -> AlterPartitionReassignmentsResponse {
    let responses = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let (error, why) = match refusal(image, topic.name.as_str(), asked) {
                Ok(()) => (ErrorCode::NONE, None),
                Err((error, why)) => (error, message(&why)),
            };
            ReassignablePartitionResponse::default()
                .with_partition_index(asked.partition_index)
                .with_error_code(error.number())
                .with_error_message(why)
        });
        let partitions = partitions.collect();
        ReassignableTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    AlterPartitionReassignmentsResponse::default()
        .with_error_message(None)
        .with_allow_replication_factor_change(request.allow_replication_factor_change)
        .with_responses(responses.collect())
}

/// No replicas named is "cancel what is under way".
fn refusal(image: &ClusterImage, name: &str, asked: &ReassignablePartition) -> Result<(), (ErrorCode, String)> {
    let topic = image
        .topic(name)
        .ok_or_else(|| (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("Unable to find a topic named {name}.")))?;
    let partition = topic.partition(asked.partition_index).ok_or_else(|| {
        (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("Unable to find partition {name}:{}.", asked.partition_index))
    })?;
    match &asked.replicas {
        None => Err((ErrorCode::NO_REASSIGNMENT_IN_PROGRESS, "no reassignment is in progress".to_owned())),
        Some(replicas) => {
            let has = image.replicas(partition.lane);
            if replicas.len() == has.len() && replicas.iter().all(|broker| has.iter().any(|id| id.0 == broker.0)) {
                return Ok(());
            }
            let has = has.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let why = format!(
                "partition {name}-{} stays on brokers {has}: partitions cannot be moved yet",
                asked.partition_index
            );
            Err((ErrorCode::INVALID_REPLICA_ASSIGNMENT, why))
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;

    use super::*;
    use crate::kafka::handlers::fixture::{cluster, encodes_in_every_version, image};
    use crate::kafka::words::topic_name;

    #[test]
    fn a_partition_stays_where_it_is() {
        let ask_of = |image: &ClusterImage, name: &str, index, replicas: Option<Vec<i32>>| {
            let replicas = replicas.map(|ids| ids.into_iter().map(Into::into).collect());
            let partition = ReassignablePartition::default().with_partition_index(index).with_replicas(replicas);
            let topic = ReassignableTopic::default().with_name(topic_name(name)).with_partitions(vec![partition]);
            let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]);
            let answer = answer(image, request);
            if answer.allow_replication_factor_change {
                encodes_in_every_version(ApiKey::AlterPartitionReassignments, &answer);
            }
            answer.responses[0].partitions[0].error_code
        };
        let (one, three) = (image(&[("a", 1)]), cluster(&[("a", 1)]));
        let ask = |name: &str, index, replicas| ask_of(&one, name, index, replicas);
        assert_eq!(ask_of(&three, "a", 0, Some(vec![1, 2, 3])), 0);
        assert_eq!(ask_of(&three, "a", 0, Some(vec![1, 2, 4])), 39);
        assert_eq!(ask("a", 0, Some(vec![1])), 0);
        assert_eq!(ask("a", 0, Some(vec![1, 2])), 39);
        assert_eq!(ask("a", 0, None), 85);
        assert_eq!((ask("a", 1, None), ask("b", 0, None)), (3, 3));
    }
}
