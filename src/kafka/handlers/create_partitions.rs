//! `CreatePartitions` (37).

use std::collections::HashSet;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use crate::controller::ask::TopicError;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::repeated;
use crate::kafka::patience;
use crate::kafka::words::message;

/// Raises the number of partitions of every topic named. A topic named more than once is refused, in one answer.
pub async fn handle(ctx: &RequestContext, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let repeated = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let mut answered = HashSet::new();
    let controller = &ctx.broker.controller.within(patience::of(request.timeout_ms));
    let topics = request.topics.iter().filter(|topic| answered.insert(topic.name.as_str()));
    let done = topics.map(|topic| {
        let checked = match repeated.contains(topic.name.as_str()) {
            true => Err(TopicError::InvalidRequest("Duplicate topic name.".to_owned())),
            false => assignments(topic),
        };
        async move {
            let done = match checked {
                Ok(assignments) => {
                    let name = topic.name.as_str();
                    controller.create_partitions_on(name, topic.count, assignments, request.validate_only).await
                }
                Err(error) => Err(error),
            };
            answer(topic, done.err().as_ref())
        }
    });
    CreatePartitionsResponse::default().with_results(at_once(done).await)
}

/// Brokers of each new partition, if the client places them itself.
fn assignments(asked: &CreatePartitionsTopic) -> Result<Vec<Vec<i32>>, TopicError> {
    let Some(assignments) = &asked.assignments else { return Ok(Vec::new()) };
    if assignments.is_empty() {
        return Err(TopicError::InvalidAssignment(
            "an empty list of assignments is given for new partitions".to_owned(),
        ));
    }
    Ok(assignments.iter().map(|a| a.broker_ids.iter().map(|broker| broker.0).collect()).collect())
}

fn answer(topic: &CreatePartitionsTopic, error: Option<&TopicError>) -> CreatePartitionsTopicResult {
    CreatePartitionsTopicResult::default()
        .with_name(topic.name.clone())
        .with_error_code(error.map_or(ErrorCode::NONE, ErrorCode::from).number())
        .with_error_message(error.and_then(message))
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::create_partitions_request::CreatePartitionsAssignment;

    use super::*;
    use crate::kafka::handlers::fixture::encodes_in_every_version;
    use crate::kafka::words::topic_name;

    #[test]
    fn placements() {
        let ask = |brokers: &[&[i32]]| {
            let one = |nodes: &&[i32]| {
                let ids = nodes.iter().map(|node| (*node).into()).collect();
                CreatePartitionsAssignment::default().with_broker_ids(ids)
            };
            let topic = CreatePartitionsTopic::default().with_name(topic_name("orders")).with_count(4);
            assignments(&topic.with_assignments(Some(brokers.iter().map(one).collect())))
        };
        assert_eq!(ask(&[&[1, 2], &[2]]), Ok(vec![vec![1, 2], vec![2]]));
        assert!(matches!(ask(&[]), Err(TopicError::InvalidAssignment(_))));
        assert_eq!(assignments(&CreatePartitionsTopic::default().with_assignments(None)), Ok(Vec::new()));
    }

    #[test]
    fn answers_can_be_written() {
        let topic = CreatePartitionsTopic::default().with_name(topic_name("orders"));
        let results = vec![answer(&topic, None), answer(&topic, Some(&TopicError::Unavailable))];
        encodes_in_every_version(ApiKey::CreatePartitions, &CreatePartitionsResponse::default().with_results(results));
    }
}
