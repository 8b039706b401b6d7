//! `ListConfigResources` (74, KIP-1142): what `DescribeConfigs` can be asked about.

use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::describe_configs::{BROKER, TOPIC};
use crate::controller::image::ClusterImage;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::text;

/// Kafka's other types of resources; none of them is here.
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

/// Answers from the image.
pub async fn handle(ctx: &RequestContext, request: ListConfigResourcesRequest) -> ListConfigResourcesResponse {
    answer(ctx.version, &ctx.image(), &request.resource_types)
}

/// Version 0 asks for client metrics alone; no type named is all.
fn answer(version: i16, image: &ClusterImage, types: &[i8]) -> ListConfigResourcesResponse {
    let known = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
    if version == 0 {
        return ListConfigResourcesResponse::default();
    }
    if types.iter().any(|kind| !known.contains(kind)) {
        return ListConfigResourcesResponse::default().with_error_code(ErrorCode::UNSUPPORTED_VERSION.number());
    }
    let wanted = |kind| types.is_empty() || types.contains(&kind);
    let one = |kind, name: &str| ConfigResource::default().with_resource_type(kind).with_resource_name(text(name));
    let topics = image.topics.keys().filter(|_| wanted(TOPIC)).map(|name| one(TOPIC, name.as_str()));
    let brokers = image.brokers.keys().filter(|_| wanted(BROKER)).map(|id| one(BROKER, &id.to_string()));
    ListConfigResourcesResponse::default().with_config_resources(topics.chain(brokers).collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;
    use crate::kafka::handlers::fixture::{encodes_in_every_version, image};

    #[test]
    fn resources_by_type() {
        let image = image(&[("a", 1), ("b", 1)]);
        let count = |version, types: &[i8]| answer(version, &image, types).config_resources.len();
        assert_eq!((count(1, &[]), count(1, &[TOPIC]), count(1, &[BROKER]), count(1, &[GROUP])), (3, 2, 1, 0));
        assert_eq!(count(0, &[]), 0);
        assert_eq!(answer(1, &image, &[77]).error_code, 35);
        encodes_in_every_version(ApiKey::ListConfigResources, &answer(1, &image, &[]));
    }
}
