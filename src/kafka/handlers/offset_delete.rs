//! `OffsetDelete` (47): forgets offsets of topics that no member of the group subscribes to.

use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use crate::group::GroupId;
use crate::kafka::RequestContext;
use crate::kafka::error_code::{ErrorCode, code_of};

/// Answers when the deletions are durable.
pub async fn handle(ctx: &RequestContext, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let image = ctx.image();
    let exists = |name: &str, index| image.topic(name).is_some_and(|topic| topic.partition(index).is_some());
    let keys = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.to_string(), partition.partition_index)))
        .filter(|(name, index)| exists(name, *index));
    let group = GroupId::from(request.group_id.as_str());
    let outcomes = match ctx.broker.groups.delete_offsets(group, keys.collect()).await {
        Err(error) => return OffsetDeleteResponse::default().with_error_code(code_of::<()>(&Err(error))),
        Ok(outcomes) => outcomes,
    };
    let mut outcomes = outcomes.iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let code = match exists(topic.name.as_str(), partition.partition_index) {
                true => outcomes.next().map_or(0, code_of),
                false => ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.number(),
            };
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetDeleteResponseTopic::default().with_name(topic.name).with_partitions(partitions)
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
