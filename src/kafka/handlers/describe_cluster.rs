//! `DescribeCluster` (60).

use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};

use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;
use crate::kafka::RequestContext;
use crate::kafka::authorized;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::view::controller;
use crate::kafka::words::{message, text};

/// Kafka's endpoint type of a broker's listener.
const BROKERS: i8 = 1;
/// And of a controller's.
const CONTROLLERS: i8 = 2;

/// Answers from the image.
pub async fn handle(ctx: &RequestContext, request: DescribeClusterRequest) -> DescribeClusterResponse {
    let operations = authorized::if_asked(request.include_cluster_authorized_operations, authorized::ON_CLUSTER);
    answer(&ctx.image(), &ctx.leaders(), request.endpoint_type).with_cluster_authorized_operations(operations)
}

fn answer(image: &ClusterImage, leaders: &Leaders, endpoint_type: i8) -> DescribeClusterResponse {
    let refused = match endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some((ErrorCode::MISMATCHED_ENDPOINT_TYPE, "this is a broker's listener")),
        _ => Some((ErrorCode::UNSUPPORTED_ENDPOINT_TYPE, "there is no such kind of listener")),
    };
    if let Some((error, why)) = refused {
        return DescribeClusterResponse::default().with_error_code(error.number()).with_error_message(message(&why));
    }
    let brokers = image.brokers.values().map(|broker| {
        DescribeClusterBroker::default()
            .with_broker_id(broker.id.0.into())
            .with_host(text(&broker.kafka().host))
            .with_port(broker.kafka().port.into())
            .with_rack(broker.rack.as_deref().map(text))
    });
    DescribeClusterResponse::default()
        .with_cluster_id(text(&image.cluster_id))
        .with_controller_id(controller(image, leaders).0.into())
        .with_brokers(brokers.collect())
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;
    use crate::kafka::handlers::fixture::{cluster, encodes_in_every_version, leaders_of};

    #[test]
    fn only_brokers_are_here() {
        let (image, leaders) = (cluster(&[]), leaders_of(2, 5));
        let of = |kind| answer(&image, &leaders, kind);
        assert_eq!((of(1).brokers.len(), of(1).controller_id.0), (3, 2));
        assert_eq!((of(2).error_code, of(3).error_code), (114, 115));
        encodes_in_every_version(ApiKey::DescribeCluster, &of(1));
        encodes_in_every_version(ApiKey::DescribeCluster, &of(2));
    }
}
