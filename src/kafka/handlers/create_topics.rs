//! `CreateTopics` (19).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};

use super::describe_configs::{self, Described};
use crate::controller::ask::{TopicError, TopicSpec};
use crate::controller::image::{ClusterImage, TopicImage};
use crate::kafka::RequestContext;
use crate::kafka::answer_room::AnswerRoom;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::patience;
use crate::kafka::words::{message, text};

/// Makes every topic of the request; each stands or falls by itself. One named twice is refused, once.
pub async fn handle(ctx: &RequestContext, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for topic in &request.topics {
        *counts.entry(topic.name.as_str()).or_default() += 1;
    }
    let room = &AnswerRoom::new(&ctx.budget);
    let controller = &ctx.broker.controller.within(patience::of(request.timeout_ms));
    let mut named = HashSet::new();
    let once = request.topics.iter().filter(|topic| named.insert(topic.name.as_str())).collect::<Vec<_>>();
    let made = once.into_iter().map(|topic| {
        let twice = counts.get(topic.name.as_str()).is_some_and(|n| *n > 1);
        async move {
            let made = match spec(topic, twice, request.validate_only) {
                Ok(spec) => controller.create_topic(spec).await,
                Err(error) => Err(error),
            };
            answer(ctx.version, &ctx.image(), topic, made, room)
        }
    });
    CreateTopicsResponse::default().with_topics(at_once(made).await)
}

fn spec(topic: &CreatableTopic, twice: bool, validate_only: bool) -> Result<TopicSpec, TopicError> {
    if twice {
        return Err(TopicError::InvalidRequest(format!("topic {} is named more than once", topic.name.as_str())));
    }
    let placed = !topic.assignments.is_empty();
    if placed && (topic.num_partitions != -1 || topic.replication_factor != -1) {
        let why = "give either assignments, or numbers of partitions and replicas";
        return Err(TopicError::InvalidRequest(why.into()));
    }
    let partitions = match topic.num_partitions {
        -1 if placed => Some(i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX)),
        -1 => None,
        n => Some(n),
    };
    let assignments = topic.assignments.iter();
    let configs = topic.configs.iter();
    Ok(TopicSpec {
        name: topic.name.as_str().to_owned(),
        partitions,
        replication_factor: topic.replication_factor,
        assignments: assignments.map(|a| (a.partition_index, a.broker_ids.iter().map(|b| b.0).collect())).collect(),
        configs: configs
            .map(|c| (c.name.as_str().to_owned(), c.value.as_ref().map(|v| v.as_str().to_owned())))
            .collect(),
        validate_only,
        internal: false,
        copy: None,
    })
}

/// What became of one; its settings as well while there is room (KIP-525 lets them be absent): a topic that is only to
/// be validated takes ten bytes, its settings many KiB.
fn answer(
    version: i16,
    image: &ClusterImage,
    asked: &CreatableTopic,
    made: Result<Arc<TopicImage>, TopicError>,
    room: &AnswerRoom,
) -> CreatableTopicResult {
    let result = CreatableTopicResult::default().with_name(asked.name.clone()).with_error_message(None);
    let topic = match made {
        Ok(topic) => topic,
        Err(error) => {
            let result = result.with_error_code(ErrorCode::from(&error).number()).with_error_message(message(&error));
            return if version >= 5 { result.with_configs(Some(Vec::new())) } else { result };
        }
    };
    let result = if version >= 7 { result.with_topic_id(topic.id.0) } else { result };
    if version < 5 {
        return result;
    }
    let result = result
        .with_num_partitions(i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
        .with_replication_factor(factor(image, &topic));
    match configs(&topic, room) {
        Some(configs) => result.with_configs(Some(configs)),
        None => result.with_configs(None).with_topic_config_error_code(ErrorCode::INVALID_REQUEST.number()),
    }
}

/// Replicas of its partitions, which are all in lanes of one factor.
fn factor(image: &ClusterImage, topic: &TopicImage) -> i16 {
    let replicas = topic.partitions.first().map_or(1, |partition| image.replicas(partition.lane).len());
    i16::try_from(replicas).unwrap_or(i16::MAX)
}

fn configs(topic: &TopicImage, room: &AnswerRoom) -> Option<Vec<CreatableTopicConfigs>> {
    if room.is_full() {
        return None;
    }
    let configs = describe_configs::topic_configs(&topic.overrides).into_iter().map(config).collect::<Vec<_>>();
    let one = |config: &CreatableTopicConfigs| {
        size_of::<CreatableTopicConfigs>() + config.name.len() + config.value.as_ref().map_or(0, |value| value.len())
    };
    room.takes(configs.iter().map(one).sum()).then_some(configs)
}

fn config(described: Described) -> CreatableTopicConfigs {
    CreatableTopicConfigs::default()
        .with_name(text(described.name))
        .with_value(Some(text(&described.value)))
        .with_read_only(described.read_only)
        .with_config_source(described.source)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;

    use super::*;
    use crate::kafka::budget::Budget;
    use crate::kafka::handlers::fixture::image;
    use crate::kafka::limits::ANSWER_BYTES_MAX;
    use crate::kafka::wire::response;
    use crate::kafka::words::topic_name;

    fn asked() -> CreatableTopic {
        CreatableTopic::default().with_name(topic_name("orders")).with_num_partitions(-1).with_replication_factor(-1)
    }

    #[test]
    fn numbers_and_assignments() {
        assert_eq!(spec(&asked(), false, false).expect("holds").partitions, None);
        assert_eq!(spec(&asked().with_num_partitions(3), false, false).expect("holds").partitions, Some(3));
        let one =
            |index| CreatableReplicaAssignment::default().with_partition_index(index).with_broker_ids(vec![1.into()]);
        let placed = asked().with_assignments(vec![one(0), one(1)]);
        let held = spec(&placed, false, false).expect("holds");
        assert_eq!((held.partitions, held.assignments.len()), (Some(2), 2));
        assert!(spec(&placed.with_num_partitions(2), false, false).is_err());
        assert!(spec(&asked(), true, false).is_err());
    }

    #[test]
    fn answers_can_be_written() {
        let image = image(&[("orders", 2)]);
        let topic = Arc::clone(image.topic("orders").expect("there"));
        let budget = Budget::new(1 << 30);
        for version in 2..=7 {
            let topics = [Ok(Arc::clone(&topic)), Err(TopicError::Exists("orders".into()))];
            let room = AnswerRoom::new(&budget);
            let topics = topics.into_iter().map(|made| answer(version, &image, &asked(), made, &room)).collect();
            let answer = CreateTopicsResponse::default().with_topics(topics);
            response::encode(ApiKey::CreateTopics, version, 1, &answer).expect("writes");
        }
    }

    #[test]
    fn a_full_answer_leaves_settings_out() {
        let image = image(&[("orders", 2)]);
        let topic = image.topic("orders").expect("there");
        let budget = Budget::new(1 << 30);
        for version in 5..=7 {
            let room = AnswerRoom::new(&budget);
            let answered = answer(version, &image, &asked(), Ok(Arc::clone(topic)), &room);
            assert!(answered.configs.is_some_and(|configs| configs.len() > 10));
            assert!(!room.takes(ANSWER_BYTES_MAX));
            let answered = answer(version, &image, &asked(), Ok(Arc::clone(topic)), &room);
            assert_eq!((&answered.configs, answered.topic_config_error_code, answered.error_code), (&None, 42, 0));
            let answer = CreateTopicsResponse::default().with_topics(vec![answered]);
            response::encode(ApiKey::CreateTopics, version, 1, &answer).expect("writes");
        }
    }
}
