//! `ListOffsets` (2): offsets by time and by name, over local data and bucket alike.

use std::collections::HashSet;

use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{self, ListOffsetsRequest, ListOffsetsResponse};
use tidewater_storage::model::TimestampMs;

use super::fetch::claimed_epoch;
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::{by_topic, repeated};
use crate::kafka::topic_ref::TopicRef;
use crate::partition::message::{ListedOffset, OffsetSpec, PartitionAddress, ReadError};

/// Asks the partitions side by side. A partition named more than once is refused, in one answer.
pub async fn handle(ctx: &RequestContext, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let image = &ctx.image();
    let committed = request.isolation_level == 1;
    let topics = topics(request.topics);
    let asked = topics.iter().flat_map(|topic| topic.partitions.iter().map(move |asked| (topic, asked)));
    let asked = asked.map(|(topic, asked)| async move {
        if topic.repeated.contains(&asked.partition_index) {
            return failed(asked.partition_index, ErrorCode::INVALID_REQUEST);
        }
        match plan(image, &topic.topic, ctx.version, committed, asked) {
            Ok((address, spec)) => {
                let current = claimed_epoch(asked.current_leader_epoch);
                let found = ctx.broker.router.list_offset(address, current, spec).await;
                answer(ctx.version, asked.partition_index, found)
            }
            Err(error) => failed(asked.partition_index, error),
        }
    });
    let mut answers = at_once(asked).await.into_iter();
    let answered = topics.iter().map(|topic| {
        let partitions: Vec<_> = answers.by_ref().take(topic.partitions.len()).collect();
        assert_eq!(partitions.len(), topic.partitions.len(), "one answer for each partition");
        ListOffsetsTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    ListOffsetsResponse::default().with_topics(answered.collect())
}

/// A topic of the request, once, each of its partitions once.
struct AskedTopic {
    name: messages::TopicName,
    topic: TopicRef,
    partitions: Vec<ListOffsetsPartition>,
    /// Partitions that the request names more than once.
    repeated: HashSet<i32>,
}

fn topics(asked: Vec<ListOffsetsTopic>) -> Vec<AskedTopic> {
    let topics = by_topic(asked.into_iter().map(|topic| (topic.name, topic.partitions)));
    let topics = topics.into_iter().map(|(name, mut partitions)| {
        let repeated = repeated(partitions.iter().map(|asked| asked.partition_index));
        let mut named = HashSet::new();
        partitions.retain(|asked| named.insert(asked.partition_index));
        AskedTopic { topic: TopicRef::Name(name.as_str().to_owned()), name, partitions, repeated }
    });
    topics.collect()
}

fn plan(
    image: &ClusterImage,
    topic: &TopicRef,
    version: i16,
    committed: bool,
    asked: &ListOffsetsPartition,
) -> Result<(PartitionAddress, OffsetSpec), ErrorCode> {
    let (_, partition) = topic.partition(image, asked.partition_index)?;
    Ok((partition.address(), spec(asked.timestamp, version, committed)?))
}

/// What a timestamp means; the special ones came with later versions (KIP-79, 734, 405, 1005, 1023).
fn spec(timestamp: i64, version: i16, committed: bool) -> Result<OffsetSpec, ErrorCode> {
    match timestamp {
        0.. => Ok(OffsetSpec::AtTime(TimestampMs(timestamp))),
        -1 if committed => Ok(OffsetSpec::LatestStable),
        -1 => Ok(OffsetSpec::Latest),
        -2 => Ok(OffsetSpec::Earliest),
        -3 if version >= 7 => Ok(OffsetSpec::MaxTimestamp),
        -4 if version >= 8 => Ok(OffsetSpec::EarliestLocal),
        -5 if version >= 9 => Ok(OffsetSpec::LatestTiered),
        -6 if version >= 11 => Ok(OffsetSpec::EarliestPendingUpload),
        _ => Err(ErrorCode::UNSUPPORTED_VERSION),
    }
}

fn answer(version: i16, index: i32, found: Result<Option<ListedOffset>, ReadError>) -> ListOffsetsPartitionResponse {
    match found {
        Ok(Some(found)) => ListOffsetsPartitionResponse::default()
            .with_partition_index(index)
            .with_offset(found.offset.to_wire())
            .with_timestamp(found.timestamp.map_or(-1, |t| t.0))
            .with_leader_epoch(found.leader_epoch.filter(|_| version >= 4).map_or(-1, |e| e.0)),
        Ok(None) => ListOffsetsPartitionResponse::default().with_partition_index(index),
        Err(error) => failed(index, ErrorCode::from(&error)),
    }
}

fn failed(index: i32, error: ErrorCode) -> ListOffsetsPartitionResponse {
    ListOffsetsPartitionResponse::default().with_partition_index(index).with_error_code(error.number())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use tidewater_storage::model::{LeaderEpoch, Offset};

    use super::*;
    use crate::kafka::handlers::fixture::encodes_in_every_version;

    #[test]
    fn special_timestamps_and_the_versions_that_have_them() {
        assert_eq!(spec(5, 1, false), Ok(OffsetSpec::AtTime(TimestampMs(5))));
        assert_eq!(spec(-1, 1, false), Ok(OffsetSpec::Latest));
        assert_eq!(spec(-1, 2, true), Ok(OffsetSpec::LatestStable));
        assert_eq!(spec(-3, 6, false), Err(ErrorCode::UNSUPPORTED_VERSION));
        assert_eq!(spec(-3, 7, false), Ok(OffsetSpec::MaxTimestamp));
        assert_eq!(spec(-4, 8, false), Ok(OffsetSpec::EarliestLocal));
        assert_eq!(spec(-5, 9, false), Ok(OffsetSpec::LatestTiered));
        assert_eq!(spec(-6, 10, false), Err(ErrorCode::UNSUPPORTED_VERSION));
        assert_eq!(spec(-6, 11, false), Ok(OffsetSpec::EarliestPendingUpload));
        assert_eq!(spec(i64::MIN, 10, false), Err(ErrorCode::UNSUPPORTED_VERSION));
    }

    #[test]
    fn a_partition_named_twice_is_answered_once() {
        let topic = |name: &str, partitions: &[i32]| {
            let part = |index: &i32| ListOffsetsPartition::default().with_partition_index(*index);
            ListOffsetsTopic::default()
                .with_name(crate::kafka::words::topic_name(name))
                .with_partitions(partitions.iter().map(part).collect())
        };
        let asked = topics(vec![topic("a", &[0, 1]), topic("b", &[0]), topic("a", &[2, 1])]);
        let of = |topic: &AskedTopic| topic.partitions.iter().map(|part| part.partition_index).collect::<Vec<_>>();
        assert_eq!(asked.iter().map(of).collect::<Vec<_>>(), [vec![0, 1, 2], vec![0]]);
        assert_eq!((&asked[0].repeated, &asked[1].repeated), (&HashSet::from([1]), &HashSet::new()));
    }

    #[test]
    fn answers_can_be_written() {
        let found = ListedOffset {
            offset: Offset::new(7),
            timestamp: Some(TimestampMs(9)),
            leader_epoch: Some(LeaderEpoch(1)),
        };
        for version in 1..=11 {
            let partitions = [Ok(Some(found)), Ok(None), Err(ReadError::NotLeader(None))];
            let partitions = partitions.into_iter().map(|p| answer(version, 0, p)).collect();
            let topic = ListOffsetsTopicResponse::default().with_partitions(partitions);
            let response = ListOffsetsResponse::default().with_topics(vec![topic]);
            crate::kafka::wire::response::encode(ApiKey::ListOffsets, version, 1, &response).expect("writes");
        }
        encodes_in_every_version(ApiKey::ListOffsets, &ListOffsetsResponse::default());
    }
}
