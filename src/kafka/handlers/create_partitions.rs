//! `CreatePartitions` (37).

use std::collections::HashSet;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use crate::controller::client::TopicError;
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::repeated;
use crate::kafka::words::message;

/// Raises the number of partitions of every topic named. A topic named more than once is refused, in one answer.
pub async fn handle(ctx: &RequestContext, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let image = ctx.image();
    let repeated = repeated(request.topics.iter().map(|topic| topic.name.as_str()));
    let mut answered = HashSet::new();
    let topics = request.topics.iter().filter(|topic| answered.insert(topic.name.as_str()));
    let done = topics.map(|topic| {
        let checked = match repeated.contains(topic.name.as_str()) {
            true => Err(TopicError::InvalidRequest("Duplicate topic name.".to_owned())),
            false => check(&image, topic),
        };
        async move {
            let controller = &ctx.broker.controller;
            let done = match checked {
                Ok(()) => controller.create_partitions(topic.name.as_str(), topic.count, request.validate_only).await,
                Err(error) => Err(error),
            };
            answer(topic, done.err().as_ref())
        }
    });
    CreatePartitionsResponse::default().with_results(at_once(done).await)
}

/// Are the placements, if any, ones that can be followed? In a cluster the controller places partitions on lanes.
fn check(image: &ClusterImage, asked: &CreatePartitionsTopic) -> Result<(), TopicError> {
    let Some(assignments) = &asked.assignments else { return Ok(()) };
    let Some(topic) = image.topic(asked.name.as_str()) else {
        return Err(TopicError::Unknown(asked.name.as_str().to_owned()));
    };
    let wanted = usize::try_from(asked.count).unwrap_or(0).saturating_sub(topic.partitions.len());
    if assignments.len() != wanted {
        let why = format!("{} assignments are given for {wanted} new partitions", assignments.len());
        return Err(TopicError::InvalidAssignment(why));
    }
    if image.brokers.len() > 1 {
        let why =
            "new partitions are placed by the controller, on lanes with the topic's replicas; leave assignments out";
        return Err(TopicError::InvalidAssignment(why.to_owned()));
    }
    let here = image.here.0;
    if assignments.iter().any(|a| a.broker_ids.len() != 1 || a.broker_ids.iter().any(|b| b.0 != here)) {
        let why = format!("a partition can only be placed on broker {here}, the only one");
        return Err(TopicError::InvalidAssignment(why));
    }
    Ok(())
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
    use crate::kafka::handlers::fixture::{encodes_in_every_version, image};
    use crate::kafka::words::topic_name;

    #[test]
    fn placements() {
        let image = image(&[("orders", 2)]);
        let ask = |brokers: &[i32]| {
            let assignments =
                brokers.iter().map(|b| CreatePartitionsAssignment::default().with_broker_ids(vec![(*b).into()]));
            let topic = CreatePartitionsTopic::default().with_name(topic_name("orders")).with_count(4);
            check(&image, &topic.with_assignments(Some(assignments.collect())))
        };
        assert_eq!(ask(&[1, 1]), Ok(()));
        assert!(matches!(ask(&[1]), Err(TopicError::InvalidAssignment(_))));
        assert!(matches!(ask(&[1, 2]), Err(TopicError::InvalidAssignment(_))));
    }

    #[test]
    fn answers_can_be_written() {
        let topic = CreatePartitionsTopic::default().with_name(topic_name("orders"));
        let results = vec![answer(&topic, None), answer(&topic, Some(&TopicError::Unavailable))];
        encodes_in_every_version(ApiKey::CreatePartitions, &CreatePartitionsResponse::default().with_results(results));
    }
}
