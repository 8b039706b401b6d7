//! `IncrementalAlterConfigs` (44, KIP-339): changes single settings of topics.

use std::collections::HashSet;

use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::describe_configs::{BROKER, TOPIC};
use crate::controller::ask::{ConfigChange, ConfigOp, TopicError};
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::named_twice::repeated;
use crate::kafka::words::message;

/// Changes every resource of the request, all of its settings or none. A resource named more than once is refused each
/// time.
pub async fn handle(ctx: &RequestContext, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
    let repeated = &repeated(request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str())));
    let done = request.resources.iter().map(|resource| async move {
        let done = match once(repeated, resource.resource_type, &resource.resource_name).and_then(|()| ops(resource)) {
            Ok(ops) => {
                let topic = resource.resource_name.as_str();
                ctx.broker.controller.alter_configs(topic, ops, request.validate_only).await
            }
            Err(error) => Err(error),
        };
        answer(resource, done.err().as_ref())
    });
    IncrementalAlterConfigsResponse::default().with_responses(at_once(done).await)
}

/// Is the resource named once only?
pub(super) fn once(repeated: &HashSet<(i8, &str)>, resource_type: i8, name: &str) -> Result<(), TopicError> {
    match repeated.contains(&(resource_type, name)) {
        true => Err(TopicError::InvalidRequest("Each resource must appear at most once.".to_owned())),
        false => Ok(()),
    }
}

fn ops(resource: &AlterConfigsResource) -> Result<Vec<ConfigOp>, TopicError> {
    of_topics(resource.resource_type)?;
    keys_once(resource.configs.iter().map(|config| config.name.as_str()))?;
    resource.configs.iter().map(op).collect()
}

/// Is every setting named once only?
pub(super) fn keys_once<'a>(keys: impl Iterator<Item = &'a str>) -> Result<(), TopicError> {
    let mut twice: Vec<&str> = repeated(keys).into_iter().collect();
    twice.sort_unstable();
    match twice.as_slice() {
        [] => Ok(()),
        twice => Err(TopicError::InvalidRequest(format!("{} is changed more than once", twice.join(", ")))),
    }
}

/// Only topics have settings that can be changed.
pub(super) fn of_topics(resource_type: i8) -> Result<(), TopicError> {
    match resource_type {
        TOPIC => Ok(()),
        BROKER => {
            let why =
                "broker settings come from the command line, the environment or the config file; restart with others";
            Err(TopicError::InvalidConfig(why.into()))
        }
        other => Err(TopicError::InvalidRequest(format!("resource type {other} has no settings here"))),
    }
}

fn op(config: &AlterableConfig) -> Result<ConfigOp, TopicError> {
    let key = config.name.as_str().to_owned();
    let value = config.value.as_ref().map(|v| v.as_str().to_owned());
    let change = match (config.config_operation, value) {
        (1, _) => ConfigChange::Delete,
        (0, Some(value)) => ConfigChange::Set(value),
        (2, Some(value)) => ConfigChange::Append(value),
        (3, Some(value)) => ConfigChange::Subtract(value),
        (0 | 2 | 3, None) => return Err(TopicError::InvalidRequest(format!("{key} is given no value"))),
        (other, _) => return Err(TopicError::InvalidRequest(format!("{key}: unknown operation {other}"))),
    };
    Ok(ConfigOp { key, change })
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
    use super::*;
    use crate::kafka::words::text;

    fn change(name: &str, operation: i8, value: Option<&str>) -> AlterableConfig {
        AlterableConfig::default().with_name(text(name)).with_config_operation(operation).with_value(value.map(text))
    }

    fn topic(configs: Vec<AlterableConfig>) -> AlterConfigsResource {
        AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("orders"))
            .with_configs(configs)
    }

    #[test]
    fn operations() {
        let good = topic(vec![change("a", 0, Some("1")), change("b", 1, None), change("c", 2, Some("x"))]);
        assert_eq!(ops(&good).expect("holds").len(), 3);
        assert!(ops(&topic(vec![change("a", 0, None)])).is_err());
        assert!(ops(&topic(vec![change("a", 9, Some("1"))])).is_err());
        assert!(ops(&topic(vec![change("a", 0, Some("1")), change("a", 1, None)])).is_err());
    }

    #[test]
    fn only_topics_can_be_changed() {
        let broker = topic(Vec::new()).with_resource_type(BROKER);
        assert!(matches!(ops(&broker), Err(TopicError::InvalidConfig(_))));
        assert!(matches!(ops(&broker.with_resource_type(8)), Err(TopicError::InvalidRequest(_))));
    }
}
