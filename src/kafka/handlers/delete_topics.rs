//! `DeleteTopics` (20): by name, or from version 6 by name or id.

use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};
use tidewater_storage::model::TopicId;
use uuid::Uuid;

use crate::controller::client::TopicError;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::{message, topic_name};

/// Deletes every topic of the request; each stands or falls by itself.
pub async fn handle(ctx: &RequestContext, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let named = request.topic_names.into_iter().map(|name| DeleteTopicState::default().with_name(Some(name)));
    let asked: Vec<_> = request.topics.into_iter().chain(named).collect();
    let image = ctx.image();
    let image = &image;
    let deleted = asked.into_iter().map(|topic| async move {
        let done = match &topic.name {
            Some(name) if !topic.topic_id.is_nil() => {
                let name = name.as_str();
                Err(TopicError::InvalidRequest(format!("topic {name} is given by name and id; give one of them")))
            }
            Some(name) => {
                let id = image.topic(name.as_str()).map(|topic| topic.id.0);
                let done = ctx.broker.controller.delete_topic(name.as_str()).await;
                done.map(|()| Deleted { name: name.as_str().to_owned(), id: id.unwrap_or_default() })
            }
            None => {
                let done = ctx.broker.controller.delete_topic_by_id(TopicId(topic.topic_id)).await;
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
    use crate::kafka::wire::response;

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
