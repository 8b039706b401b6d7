//! `DeleteRecords` (21): moves the log start forward.

use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use tidewater_storage::model::Offset;

use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;
use crate::partition::message::{OffsetSpec, Place};

/// Trims every partition named; each stands or falls by itself.
pub async fn handle(ctx: &RequestContext, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let image = &ctx.image();
    let names: Vec<TopicRef> = request.topics.iter().map(|t| TopicRef::Name(t.name.as_str().to_owned())).collect();
    let topics = names.iter().zip(&request.topics);
    let asked = topics.flat_map(|(name, topic)| topic.partitions.iter().map(move |asked| (name, asked)));
    let trimmed = asked.map(|(name, asked)| async move {
        let done = match place(image, name, asked.partition_index) {
            Ok(place) => trim(ctx, place, asked.offset).await,
            Err(error) => Err(error),
        };
        answer(asked.partition_index, done)
    });
    let mut answers = at_once(trimmed).await.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = answers.by_ref().take(topic.partitions.len()).collect();
        DeleteRecordsTopicResult::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}

/// Where the partition is. The broker's own topics are cut by the broker alone: groups live in them.
fn place(image: &ClusterImage, topic: &TopicRef, index: i32) -> Result<Place, ErrorCode> {
    let (topic, partition) = topic.partition(image, index)?;
    if topic.name.is_internal() { Err(ErrorCode::INVALID_TOPIC_EXCEPTION) } else { Ok(partition.place()) }
}

/// -1 is "all there is".
async fn trim(ctx: &RequestContext, place: Place, offset: i64) -> Result<Offset, ErrorCode> {
    let router = &ctx.broker.router;
    let to = match Offset::from_wire(offset) {
        Some(to) => to,
        None if offset == -1 => {
            let end = router.list_offset(place, OffsetSpec::Latest).await.map_err(|e| ErrorCode::from(&e))?;
            end.map(|end| end.offset).ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)?
        }
        None => return Err(ErrorCode::OFFSET_OUT_OF_RANGE),
    };
    router.trim(place, to).await.map_err(|e| ErrorCode::from(&e))
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

    #[test]
    fn the_brokers_own_topics_are_not_cut() {
        let image = image(&[("orders", 1), ("__consumer_offsets", 1)]);
        let of = |name: &str, index| place(&image, &TopicRef::Name(name.into()), index).err();
        assert_eq!(of("orders", 0), None);
        assert_eq!(of("orders", 1), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
        assert_eq!(of("__consumer_offsets", 0), Some(ErrorCode::INVALID_TOPIC_EXCEPTION));
    }
}
