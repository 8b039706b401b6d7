//! `DescribeTopicPartitions` (75, KIP-966): topics a page at a time, for `kafka-topics --describe`.

use std::sync::Arc;

use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse};
use tidewater_storage::model::TopicName;

use crate::controller::image::{ClusterImage, TopicImage};
use crate::controller::leaders::Leaders;
use crate::kafka::RequestContext;
use crate::kafka::authorized;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::view::{PartitionView, ids};
use crate::kafka::words::topic_name;

/// Partitions in one answer (`max.request.partition.size.limit` of Kafka).
const PARTITIONS_MAX: usize = 2000;

/// Answers from the image.
pub async fn handle(ctx: &RequestContext, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    answer(&ctx.image(), &ctx.leaders(), &request)
}

fn answer(
    image: &ClusterImage,
    leaders: &Leaders,
    request: &DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    if !cursor_holds(request) {
        return refused(request);
    }
    let mut left = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
    let from = request.cursor.as_ref();
    let (first, index) = from.map_or(("", 0), |c| (c.topic_name.as_str(), c.partition_index));
    let mut answer = DescribeTopicPartitionsResponse::default();
    for name in names(image, request).into_iter().filter(|name| name.as_str() >= first) {
        let start = if name == first { usize::try_from(index).unwrap_or(0) } else { 0 };
        let Some(topic) = image.topic(&name) else {
            answer.topics.push(missing(&name));
            continue;
        };
        if left == 0 {
            return answer.with_next_cursor(Some(cursor(&name, start)));
        }
        let end = topic.partitions.len().min(start.saturating_add(left));
        left -= end.saturating_sub(start);
        answer.topics.push(found((image, leaders), topic, start, end));
        if end < topic.partitions.len() {
            return answer.with_next_cursor(Some(cursor(&name, end)));
        }
    }
    answer
}

/// A cursor names a partition, and a topic of the request unless that asks for all topics.
fn cursor_holds(request: &DescribeTopicPartitionsRequest) -> bool {
    request.cursor.as_ref().is_none_or(|cursor| {
        let listed = request.topics.is_empty() || request.topics.iter().any(|topic| topic.name == cursor.topic_name);
        listed && cursor.partition_index >= 0
    })
}

/// `INVALID_REQUEST` for every topic of the request: the answer has no other field for an error.
fn refused(request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let topics = request.topics.iter().map(|topic| {
        DescribeTopicPartitionsResponseTopic::default()
            .with_error_code(ErrorCode::INVALID_REQUEST.number())
            .with_name(Some(topic.name.clone()))
    });
    DescribeTopicPartitionsResponse::default().with_topics(topics.collect())
}

/// In order, each once; an empty request asks for all.
fn names(image: &ClusterImage, request: &DescribeTopicPartitionsRequest) -> Vec<String> {
    if request.topics.is_empty() {
        return image.topics.keys().map(|name| name.as_str().to_owned()).collect();
    }
    let mut names: Vec<String> = request.topics.iter().map(|t| t.name.as_str().to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn cursor(name: &str, partition: usize) -> Cursor {
    let index = i32::try_from(partition).unwrap_or(i32::MAX);
    Cursor::default().with_topic_name(topic_name(name)).with_partition_index(index)
}

fn missing(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let legal = TopicName::new(name).is_ok();
    let error = if legal { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION } else { ErrorCode::INVALID_TOPIC_EXCEPTION };
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.number())
        .with_name(Some(topic_name(name)))
        .with_topic_authorized_operations(authorized::ON_TOPIC)
}

fn found(
    (image, leaders): (&ClusterImage, &Leaders),
    topic: &Arc<TopicImage>,
    start: usize,
    end: usize,
) -> DescribeTopicPartitionsResponseTopic {
    let partitions = topic.partitions.get(start..end).unwrap_or_default().iter().map(|partition| {
        let view = PartitionView::of(image, leaders, partition);
        DescribeTopicPartitionsResponsePartition::default()
            .with_error_code(view.error().number())
            .with_partition_index(partition.id.index.0)
            .with_leader_id(view.leader_id().into())
            .with_leader_epoch(view.epoch.0)
            .with_replica_nodes(ids(&view.replicas))
            .with_isr_nodes(ids(&view.in_sync))
            .with_offline_replicas(ids(&view.offline))
            .with_eligible_leader_replicas(Some(Vec::new()))
            .with_last_known_elr(Some(Vec::new()))
    });
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(topic_name(topic.name.as_str())))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.name.is_internal())
        .with_topic_authorized_operations(authorized::ON_TOPIC)
        .with_partitions(partitions.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::describe_topic_partitions_request;

    use super::*;
    use crate::kafka::handlers::fixture::{encodes_in_every_version, image, leaders};

    #[test]
    fn a_cursor_that_is_not_in_the_list_is_refused() {
        let image = image(&[("a", 3), ("b", 5)]);
        let ask = |topics: &[&str], at: &str, index| {
            let topic =
                |name: &&str| describe_topic_partitions_request::TopicRequest::default().with_name(topic_name(name));
            let cursor = describe_topic_partitions_request::Cursor::default()
                .with_topic_name(topic_name(at))
                .with_partition_index(index);
            let request = DescribeTopicPartitionsRequest::default()
                .with_topics(topics.iter().map(topic).collect())
                .with_response_partition_limit(10)
                .with_cursor(Some(cursor));
            let page = answer(&image, &leaders(), &request);
            encodes_in_every_version(ApiKey::DescribeTopicPartitions, &page);
            page.topics.iter().map(|topic| (topic.error_code, topic.partitions.len())).collect::<Vec<_>>()
        };
        assert_eq!(ask(&["a", "b"], "zz", 0), [(42, 0), (42, 0)]);
        assert_eq!(ask(&["a"], "a", -1), [(42, 0)]);
        assert_eq!(ask(&["a"], "a", 9), [(0, 0)]);
        assert_eq!(ask(&["nope"], "nope", 0), [(3, 0)]);
        assert_eq!(ask(&[], "aa", 0), [(0, 5)]);
    }

    #[test]
    fn pages_join_to_everything() {
        let image = image(&[("a", 3), ("b", 5), ("c", 1)]);
        let mut request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(2);
        let mut seen = Vec::new();
        loop {
            let page = answer(&image, &leaders(), &request);
            encodes_in_every_version(ApiKey::DescribeTopicPartitions, &page);
            for topic in &page.topics {
                let name = topic.name.as_ref().expect("named").as_str().to_owned();
                seen.extend(topic.partitions.iter().map(|p| (name.clone(), p.partition_index)));
            }
            let Some(next) = page.next_cursor else { break };
            request = request.with_cursor(Some(
                describe_topic_partitions_request::Cursor::default()
                    .with_topic_name(next.topic_name)
                    .with_partition_index(next.partition_index),
            ));
        }
        let all: Vec<_> = [("a", 3), ("b", 5), ("c", 1)]
            .into_iter()
            .flat_map(|(name, n)| (0..n).map(move |i| (name.to_owned(), i)))
            .collect();
        assert_eq!(seen, all);
    }
}
