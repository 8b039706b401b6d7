//! `FindCoordinator` (10): who coordinates a group. There is one broker, so the answer is always this one, once
//! `__consumer_offsets` exists.

use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;

use crate::controller::image::BrokerImage;
use crate::kafka::RequestContext;
use crate::kafka::at_once::at_once;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::words::text;

/// `key_type` of a group; 1 is a transactional id, 2 a share partition.
const GROUP: i8 = 0;

type Found = Result<(), (ErrorCode, String)>;

/// Answers with this broker for groups; transactions and share groups are not served.
pub async fn handle(ctx: &RequestContext, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let key_type = request.key_type;
    if ctx.version < 4 {
        let found = find(ctx, key_type, &request.key).await;
        return single(ctx.version, &ctx.image().broker, found);
    }
    let found = at_once(request.coordinator_keys.iter().map(|key| find(ctx, key_type, key))).await;
    let image = ctx.image();
    let coordinators =
        request.coordinator_keys.into_iter().zip(found).map(|(key, found)| one(&image.broker, key, found));
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

async fn find(ctx: &RequestContext, key_type: i8, key: &str) -> Found {
    if key_type != GROUP {
        let what = if key_type == 1 { "transactions are" } else { "share groups are" };
        return Err((ErrorCode::INVALID_REQUEST, format!("{what} not served by this broker")));
    }
    ctx.broker.groups.find(key).await.map_err(|error| ((&error).into(), error.to_string()))
}

fn single(version: i16, broker: &BrokerImage, found: Found) -> FindCoordinatorResponse {
    match found {
        Ok(()) => FindCoordinatorResponse::default()
            .with_node_id(BrokerId(broker.id.0))
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port)),
        Err((code, why)) => FindCoordinatorResponse::default()
            .with_error_code(code.number())
            .with_error_message((version >= 1).then(|| text(&why)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

fn one(broker: &BrokerImage, key: StrBytes, found: Found) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key);
    match found {
        Ok(()) => coordinator
            .with_node_id(BrokerId(broker.id.0))
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_error_message(None),
        Err((code, why)) => coordinator
            .with_error_code(code.number())
            .with_error_message(Some(text(&why)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}
