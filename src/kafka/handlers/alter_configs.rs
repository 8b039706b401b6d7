//! `AlterConfigs` (33), the older form: replaces all settings of a topic by those listed.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::incremental_alter_configs::{keys_once, of_topics, once};
use crate::controller::ask::{ConfigChange, ConfigOp, TopicError};
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::repeated;
use crate::kafka::words::message;

/// Changes every resource of the request, all of its settings or none. A resource named more than once is refused each
/// time.
pub async fn handle(ctx: &RequestContext, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let image = ctx.image();
    let repeated = &repeated(request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str())));
    let done = request.resources.iter().map(|resource| {
        let ops = once(repeated, resource.resource_type, &resource.resource_name).and_then(|()| ops(&image, resource));
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
    keys_once(resource.configs.iter().map(|config| config.name.as_str()))?;
    let name = resource.resource_name.as_str();
    let topic = image.topic(name).ok_or_else(|| TopicError::Unknown(name.to_owned()))?;
    let mut changes: BTreeMap<&str, ConfigChange> =
        topic.overrides.keys().map(|key| (key.as_str(), ConfigChange::Delete)).collect();
    for config in &resource.configs {
        let key = config.name.as_str();
        let value = config.value.as_ref().ok_or_else(|| TopicError::InvalidRequest(format!("{key} has no value")))?;
        changes.insert(key, ConfigChange::Set(value.as_str().to_owned()));
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

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::alter_configs_request::AlterableConfig;

    use super::*;
    use crate::kafka::handlers::describe_configs::TOPIC;
    use crate::kafka::handlers::fixture::image;
    use crate::kafka::words::text;

    #[test]
    fn a_setting_named_twice_or_without_a_value_is_refused() {
        let image = image(&[("orders", 1)]);
        let ask = |configs: &[(&str, Option<&str>)]| {
            let config = |(name, value): &(&str, Option<&str>)| {
                AlterableConfig::default().with_name(text(name)).with_value(value.map(text))
            };
            let resource = AlterConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text("orders"));
            ops(&image, &resource.with_configs(configs.iter().map(config).collect()))
        };
        assert_eq!(ask(&[("retention.ms", Some("1"))]).expect("good").len(), 1);
        let twice = ask(&[("retention.ms", Some("1")), ("retention.ms", Some("2"))]);
        assert!(matches!(twice, Err(TopicError::InvalidRequest(_))));
        assert!(matches!(ask(&[("retention.ms", None)]), Err(TopicError::InvalidRequest(_))));
    }
}
