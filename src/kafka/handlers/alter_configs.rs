//! `AlterConfigs` (33), the older form: replaces all settings of a topic by those listed.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::incremental_alter_configs::of_topics;
use crate::controller::client::{ConfigChange, ConfigOp, TopicError};
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::message;

/// Changes every resource of the request, all of its settings or none.
pub async fn handle(ctx: &RequestContext, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let image = ctx.image();
    let done = request.resources.iter().map(|resource| {
        let ops = ops(&image, resource);
        async move {
            let topic = resource.resource_name.as_str();
            let done = match ops {
                Ok(ops) => ctx.broker.controller.alter_configs(topic, ops, request.validate_only).await,
                Err(error) => Err(error),
            };
            answer(resource, done.err().as_ref())
        }
    });
    AlterConfigsResponse::default().with_responses(at_once(done).await)
}

/// What is listed is set; what the topic has and the list lacks goes back to its default.
fn ops(image: &ClusterImage, resource: &AlterConfigsResource) -> Result<Vec<ConfigOp>, TopicError> {
    of_topics(resource.resource_type)?;
    let name = resource.resource_name.as_str();
    let topic = image.topic(name).ok_or_else(|| TopicError::Unknown(name.to_owned()))?;
    let mut changes: BTreeMap<&str, ConfigChange> =
        topic.overrides.keys().map(|key| (key.as_str(), ConfigChange::Delete)).collect();
    for config in &resource.configs {
        let change = config.value.as_ref().map_or(ConfigChange::Delete, |v| ConfigChange::Set(v.as_str().to_owned()));
        changes.insert(config.name.as_str(), change);
    }
    Ok(changes.into_iter().map(|(key, change)| ConfigOp { key: key.to_owned(), change }).collect())
}

fn answer(resource: &AlterConfigsResource, error: Option<&TopicError>) -> AlterConfigsResourceResponse {
    AlterConfigsResourceResponse::default()
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone())
        .with_error_code(error.map_or(ErrorCode::NONE, ErrorCode::from).number())
        .with_error_message(error.and_then(message))
}
