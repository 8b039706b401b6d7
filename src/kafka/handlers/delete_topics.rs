//! `DeleteTopics` (20): by name, or from version 6 by name or id.

use std::collections::HashSet;

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use tidewater_storage::model::TopicId;
use uuid::Uuid;

use crate::controller::ask::TopicError;
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::repeated;
use crate::kafka::patience;
use crate::kafka::words::{message, topic_name};

/// Deletes the topics of the request, each independently. A topic named more than once, by name or by id, is not
/// deleted and gets one answer.
pub async fn handle(ctx: &RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let named = request.topic_names.into_iter().map(|name| DeleteTopicState::default().with_name(Some(name)));
    let asked: Vec<_> = request.topics.into_iter().chain(named).collect();
    let image = ctx.image();
    let image = &image;
    let controller = &ctx.broker.controller.within(patience::of(request.timeout_ms));
    let deleted = checked(image, asked).into_iter().map(|(topic, refused)| async move {
        let done = match (refused, &topic.name) {
            (Some(error), _) => Err(error),
            (None, Some(name)) => {
                let id = image.topic(name.as_str()).map(|topic| topic.id.0);
                let done = controller.delete_topic(name.as_str()).await;
                done.map(|()| Deleted { name: name.as_str().to_owned(), id: id.unwrap_or_default() })
            }
            (None, None) => {
                let done = controller.delete_topic_by_id(TopicId(topic.topic_id)).await;
                done.map(|name| Deleted { name: name.as_str().to_owned(), id: topic.topic_id })
            }
        };
        match done {
            Ok(deleted) => {
                let topic = topic.with_name(Some(topic_name(&deleted.name))).with_topic_id(deleted.id);
                answer(ctx.version, topic, None)
            }
            Err(error) => answer(ctx.version, topic, Some(&error)),
        }
    });
    DeleteTopicsResponse::default().with_responses(at_once(deleted).await)
}

/// The topics to answer for, each once, with the reason to refuse it, as `ControllerApis.deleteTopics` of Kafka does.
fn checked(image: &ClusterImage, asked: Vec<DeleteTopicState>) -> Vec<(DeleteTopicState, Option<TopicError>)> {
    let names = || asked.iter().filter(|topic| topic.topic_id.is_nil()).filter_map(|topic| topic.name.as_ref());
    let ids = || asked.iter().filter(|topic| topic.name.is_none()).map(|topic| topic.topic_id);
    let (names_twice, ids_twice) = (repeated(names()), repeated(ids()));
    let ids_named: HashSet<Uuid> =
        names().filter_map(|name| image.topic(name.as_str())).map(|topic| topic.id.0).collect();
    let ids_given: HashSet<Uuid> = ids().filter(|id| ids_named.contains(id)).collect();
    let refuse = |why: &str| Some(TopicError::InvalidRequest(why.to_owned()));
    let mut seen = HashSet::new();
    let mut out = Vec::with_capacity(asked.len());
    for topic in &asked {
        let refused = match &topic.name {
            Some(_) if !topic.topic_id.is_nil() => refuse("You may not specify both topic name and topic id."),
            None if topic.topic_id.is_nil() => refuse("Neither topic name nor id were specified."),
            _ if !seen.insert((&topic.name, topic.topic_id)) => continue,
            Some(name) if names_twice.contains(name) => refuse("Duplicate topic name."),
            None if ids_twice.contains(&topic.topic_id) => refuse("Duplicate topic id."),
            // Answered with its name.
            None if ids_given.contains(&topic.topic_id) => continue,
            Some(name) => match image.topic(name.as_str()).filter(|found| ids_given.contains(&found.id.0)) {
                Some(found) => {
                    let why = "The provided topic name maps to an ID that was already supplied.";
                    out.push((topic.clone().with_topic_id(found.id.0), refuse(why)));
                    continue;
                }
                None => None,
            },
            None => None,
        };
        out.push((topic.clone(), refused));
    }
    out
}

/// A topic that is gone, by name and id.
struct Deleted {
    name: String,
    id: Uuid,
}

fn answer(version: i16, topic: DeleteTopicState, error: Option<&TopicError>) -> DeletableTopicResult {
    let code = error.map_or(ErrorCode::NONE, ErrorCode::from);
    let result = DeletableTopicResult::default().with_name(topic.name).with_error_code(code.number());
    let result = if version >= 6 { result.with_topic_id(topic.topic_id) } else { result };
    if version >= 5 { result.with_error_message(error.and_then(message)) } else { result }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;
    use crate::kafka::handlers::fixture::image;
    use crate::kafka::wire::response;

    fn by_name(name: &str) -> DeleteTopicState {
        DeleteTopicState::default().with_name(Some(topic_name(name)))
    }

    fn by_id(id: u128) -> DeleteTopicState {
        DeleteTopicState::default().with_topic_id(Uuid::from_u128(id))
    }

    /// For each answer the topic's name and id, and whether the deletion is refused.
    fn outcome(asked: Vec<DeleteTopicState>) -> Vec<(String, u128, bool)> {
        let named = |topic: &DeleteTopicState| topic.name.as_ref().map_or("", |name| name.as_str()).to_owned();
        checked(&image(&[("a", 1), ("b", 1)]), asked)
            .iter()
            .map(|(topic, refused)| (named(topic), topic.topic_id.as_u128(), refused.is_some()))
            .collect()
    }

    #[test]
    fn a_topic_named_twice_is_refused_once() {
        let asked = vec![by_name("a"), by_name("b"), by_name("a"), by_name("nope"), by_name("nope")];
        assert_eq!(outcome(asked), [("a".into(), 0, true), ("b".into(), 0, false), ("nope".into(), 0, true)]);
        assert_eq!(outcome(vec![by_id(1), by_id(2), by_id(1)]), [("".into(), 1, true), ("".into(), 2, false)]);
    }

    #[test]
    fn a_topic_given_by_name_and_by_id_is_refused_once() {
        let refused = [("a".to_owned(), 1, true)];
        assert_eq!(outcome(vec![by_name("a"), by_id(1)]), refused);
        assert_eq!(outcome(vec![by_id(1), by_name("a")]), refused);
        assert_eq!(outcome(vec![by_name("a").with_topic_id(Uuid::from_u128(1))]), refused);
        assert_eq!(outcome(vec![DeleteTopicState::default(), by_id(2)]), [("".into(), 0, true), ("".into(), 2, false)]);
    }

    #[test]
    fn answers_can_be_written() {
        for version in 1..=6 {
            let topic = DeleteTopicState::default()
                .with_name(Some(topic_name("orders")))
                .with_topic_id(Uuid::from_u128(u128::from(version >= 6)));
            let unknown = TopicError::Unknown("orders".into());
            let results = vec![answer(version, topic.clone(), None), answer(version, topic, Some(&unknown))];
            let answer = DeleteTopicsResponse::default().with_responses(results);
            response::encode(ApiKey::DeleteTopics, version, 1, &answer).expect("writes");
        }
    }
}
