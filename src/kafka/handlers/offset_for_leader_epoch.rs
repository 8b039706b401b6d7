//! `OffsetForLeaderEpoch` (23): where a leader epoch ends, by which a consumer sees that its position was truncated
//! away.
//!
//! The table of epochs reaches back to the log start, also where the log lies in the bucket alone.

use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use tidewater_storage::model::LeaderEpoch;

use super::fetch::claimed_epoch;
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;
use crate::partition::message::{EpochEnd, PartitionAddress};

/// Kafka's "no epoch" and "no offset".
const UNDEFINED: i32 = -1;

/// Asks the partitions side by side.
pub async fn handle(ctx: &RequestContext, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let image = &ctx.image();
    let names: Vec<TopicRef> = request.topics.iter().map(|t| TopicRef::Name(t.topic.as_str().to_owned())).collect();
    let topics = names.iter().zip(&request.topics);
    let asked = topics.flat_map(|(name, topic)| topic.partitions.iter().map(move |asked| (name, asked)));
    let asked = asked.map(|(name, asked)| async move {
        let found = match plan(image, name, asked) {
            // Before the first epoch there is nothing: Kafka answers "undefined" and no error.
            Ok((_, None)) => Ok(None),
            Ok((address, Some(epoch))) => {
                let current = claimed_epoch(asked.current_leader_epoch);
                ctx.broker.router.epoch_end(address, current, epoch).await.map_err(|error| ErrorCode::from(&error))
            }
            Err(error) => Err(error),
        };
        answer(asked.partition, found)
    });
    let mut answers = at_once(asked).await.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = answers.by_ref().take(topic.partitions.len()).collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone()).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn plan(
    image: &ClusterImage,
    topic: &TopicRef,
    asked: &OffsetForLeaderPartition,
) -> Result<(PartitionAddress, Option<LeaderEpoch>), ErrorCode> {
    let (_, partition) = topic.partition(image, asked.partition)?;
    Ok((partition.address(), (asked.leader_epoch > UNDEFINED).then_some(LeaderEpoch(asked.leader_epoch))))
}

fn answer(index: i32, found: Result<Option<EpochEnd>, ErrorCode>) -> EpochEndOffset {
    let answer = EpochEndOffset::default().with_partition(index);
    match found {
        Ok(Some(found)) => answer.with_leader_epoch(found.epoch.0).with_end_offset(found.end.to_wire()),
        Ok(None) => answer,
        Err(error) => answer.with_error_code(error.number()),
    }
    // Both fields are "undefined" by default.
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use tidewater_storage::model::Offset;

    use super::*;
    use crate::kafka::handlers::fixture::{encodes_in_every_version, image};

    #[test]
    fn topics_must_be_there() {
        let image = image(&[("orders", 1)]);
        let ask = |topic: &str, current, epoch| {
            let asked = OffsetForLeaderPartition::default().with_current_leader_epoch(current).with_leader_epoch(epoch);
            plan(&image, &TopicRef::Name(topic.into()), &asked).map(|(_, epoch)| epoch)
        };
        assert_eq!(ask("orders", -1, 2), Ok(Some(LeaderEpoch(2))));
        assert_eq!(ask("orders", 3, -1), Ok(None));
        assert_eq!(ask("nope", -1, 0), Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    }

    #[test]
    fn answers_say_undefined_as_kafka_does() {
        let found = answer(0, Ok(Some(EpochEnd { epoch: LeaderEpoch(2), end: Offset::new(7) })));
        assert_eq!((found.error_code, found.leader_epoch, found.end_offset), (0, 2, 7));
        let none = answer(0, Ok(None));
        assert_eq!((none.error_code, none.leader_epoch, none.end_offset), (0, -1, -1));
        let refused = answer(0, Err(ErrorCode::FENCED_LEADER_EPOCH));
        assert_eq!((refused.error_code, refused.leader_epoch, refused.end_offset), (74, -1, -1));
        let topic = OffsetForLeaderTopicResult::default().with_partitions(vec![found, none, refused]);
        let response = OffsetForLeaderEpochResponse::default().with_topics(vec![topic]);
        encodes_in_every_version(ApiKey::OffsetForLeaderEpoch, &response);
    }
}
