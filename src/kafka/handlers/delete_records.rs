//! `DeleteRecords` (21): moves the log start forward.

use std::collections::HashMap;

use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{self, DeleteRecordsRequest, DeleteRecordsResponse};
use tidewater_storage::model::Offset;

use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::by_topic;
use crate::kafka::topic_ref::TopicRef;
use crate::partition::message::{OffsetSpec, PartitionAddress};
use crate::schema::SCHEMAS_TOPIC;

/// Trims every partition named, each independently. Of a partition named more than once the last offset counts, and it
/// is answered once, as by Kafka.
pub async fn handle(ctx: &RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let image = &ctx.image();
    let topics = topics(request.topics);
    let names: Vec<TopicRef> = topics.iter().map(|(name, _)| TopicRef::Name(name.as_str().to_owned())).collect();
    let asked = names.iter().zip(&topics);
    let asked = asked.flat_map(|(name, (_, partitions))| partitions.iter().map(move |asked| (name, asked)));
    let trimmed = asked.map(|(name, asked)| async move {
        let done = match address(image, name, asked.partition_index) {
            Ok(address) => trim(ctx, address, asked.offset).await,
            Err(error) => Err(error),
        };
        answer(asked.partition_index, done)
    });
    let mut answers = at_once(trimmed).await.into_iter();
    let topics = topics.into_iter().map(|(name, asked)| {
        let partitions: Vec<_> = answers.by_ref().take(asked.len()).collect();
        assert_eq!(partitions.len(), asked.len(), "one answer for each partition");
        DeleteRecordsTopicResult::default().with_name(name).with_partitions(partitions)
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}

/// Each topic once, each of its partitions once, with the offset named last.
fn topics(asked: Vec<DeleteRecordsTopic>) -> Vec<(messages::TopicName, Vec<DeleteRecordsPartition>)> {
    let mut topics = by_topic(asked.into_iter().map(|topic| (topic.name, topic.partitions)));
    for (_, partitions) in &mut topics {
        let offsets: HashMap<i32, i64> = partitions.iter().map(|asked| (asked.partition_index, asked.offset)).collect();
        let mut left = offsets.clone();
        partitions.retain(|asked| left.remove(&asked.partition_index).is_some());
        for asked in partitions {
            asked.offset = offsets.get(&asked.partition_index).copied().unwrap_or(asked.offset);
        }
    }
    topics
}

/// Where the partition is. The broker's own topics are cut by the broker alone: groups live in them. A source's topic
/// is cut by its own cluster.
fn address(image: &ClusterImage, topic: &TopicRef, index: i32) -> Result<PartitionAddress, ErrorCode> {
    let (topic, partition) = topic.partition(image, index)?;
    match () {
        () if topic.name.is_internal() || topic.name.as_str() == SCHEMAS_TOPIC => {
            Err(ErrorCode::INVALID_TOPIC_EXCEPTION)
        }
        () if image.source_of(topic.id).is_some() => Err(ErrorCode::POLICY_VIOLATION),
        () => Ok(partition.address()),
    }
}

/// -1 is "all there is".
async fn trim(ctx: &RequestContext, address: PartitionAddress, offset: i64) -> Result<Offset, ErrorCode> {
    let router = &ctx.broker.router;
    let to = match Offset::from_wire(offset) {
        Some(to) => to,
        None if offset == -1 => {
            let end = router.list_offset(address, None, OffsetSpec::Latest).await.map_err(|e| ErrorCode::from(&e))?;
            end.map(|end| end.offset).ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?
        }
        None => return Err(ErrorCode::OFFSET_OUT_OF_RANGE),
    };
    router.trim(address, to).await.map_err(|e| ErrorCode::from(&e))
}

fn answer(index: i32, done: Result<Offset, ErrorCode>) -> DeleteRecordsPartitionResult {
    let (low, error) = match done {
        Ok(low) => (low.to_wire(), ErrorCode::NONE),
        Err(error) => (-1, error),
    };
    DeleteRecordsPartitionResult::default()
        .with_partition_index(index)
        .with_low_watermark(low)
        .with_error_code(error.number())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::fixture::image;
    use crate::kafka::words::topic_name;

    #[test]
    fn of_a_partition_named_twice_the_last_offset_counts() {
        let topic = |name: &str, partitions: &[(i32, i64)]| {
            let part = |(index, offset): &(i32, i64)| {
                DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset)
            };
            DeleteRecordsTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions.iter().map(part).collect())
        };
        let asked = topics(vec![topic("a", &[(0, 5), (1, 7), (0, 4)]), topic("b", &[(0, 1)]), topic("a", &[(1, -1)])]);
        let of = |(_, partitions): &(_, Vec<DeleteRecordsPartition>)| {
            partitions.iter().map(|part| (part.partition_index, part.offset)).collect::<Vec<_>>()
        };
        assert_eq!(asked.iter().map(of).collect::<Vec<_>>(), [vec![(0, 4), (1, -1)], vec![(0, 1)]]);
    }

    #[test]
    fn the_brokers_own_topics_are_not_cut() {
        let image = image(&[("orders", 1), ("__consumer_offsets", 1)]);
        let of = |name: &str, index| address(&image, &TopicRef::Name(name.into()), index).err();
        assert_eq!(of("orders", 0), None);
        assert_eq!(of("orders", 1), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        assert_eq!(of("__consumer_offsets", 0), Some(ErrorCode::INVALID_TOPIC_EXCEPTION));
    }
}
