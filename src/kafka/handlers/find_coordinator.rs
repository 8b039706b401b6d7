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

/// Kafka's `key_type`s: a group and a transactional id; 2 is a share partition.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

/// First version that asks for several keys.
const SEVERAL_FROM: i16 = 4;

type Found = Result<(), (ErrorCode, String)>;

/// Answers with this broker for groups; transactions and share groups are not served.
pub async fn handle(ctx: &RequestContext, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let key_type = request.key_type;
    if ctx.version < SEVERAL_FROM {
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
        return Err(not_served(ctx.version, key_type));
    }
    ctx.broker.groups.find(key).await.map_err(|error| ((&error).into(), error.to_string()))
}

/// An answer on which clients give up at once. Of a transactional id librdkafka (up to version 2) repeats the request
/// forever unless it is not authorized, and shows the message; Java and kafka-python (version 6) show the message or the
/// name of any other error.
fn not_served(version: i16, key_type: i8) -> (ErrorCode, String) {
    let what = if key_type == TRANSACTION { "transactions" } else { "share groups" };
    let error = match key_type {
        TRANSACTION if version < SEVERAL_FROM => ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        _ => ErrorCode::INVALID_REQUEST,
    };
    (error, format!("{what} are not served by this broker"))
}

fn single(version: i16, broker: &BrokerImage, found: Found) -> FindCoordinatorResponse {
    match found {
        Ok(()) => FindCoordinatorResponse::default()
            .with_node_id(BrokerId(broker.id.0))
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_error_message((version >= 1).then(|| text(ErrorCode::NONE.name()))),
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
            .with_port(i32::from(broker.port)),
        Err((code, why)) => coordinator
            .with_error_code(code.number())
            .with_error_message(Some(text(&why)))
            .with_node_id(BrokerId(-1))
            .with_port(-1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_gives_up_a_transactional_id_at_once() {
        for (version, error) in [(2, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED), (6, ErrorCode::INVALID_REQUEST)]
        {
            let why = "transactions are not served by this broker".to_owned();
            assert_eq!(not_served(version, TRANSACTION), (error, why));
            assert_eq!(not_served(version, 2).0, ErrorCode::INVALID_REQUEST);
        }
    }
}
