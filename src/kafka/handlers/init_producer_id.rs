//! `InitProducerId` (22): a number for an idempotent producer. Transactions are not served and say so.

use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use tidewater_storage::model::ProducerId;

use crate::controller::ask::TopicError;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;

/// A new id each time, epoch 0, as Kafka does for a producer without transactional id, also when it asks for a higher
/// epoch: a fresh id fences as well.
pub async fn handle(ctx: &RequestContext, request: InitProducerIdRequest) -> InitProducerIdResponse {
    if request.transactional_id.is_some() {
        // Java, librdkafka and kafka-python give up at once on this error; librdkafka repeats UNSUPPORTED_VERSION.
        return failed(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
    }
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return failed(ErrorCode::INVALID_REQUEST);
    }
    answer(ctx.broker.controller.producer_id().await)
}

fn answer(given: Result<ProducerId, TopicError>) -> InitProducerIdResponse {
    match given {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(id.0.into()).with_producer_epoch(0),
        // Retried as it is. At COORDINATOR_NOT_AVAILABLE the Java producer would look for the coordinator of its
        // transactional id, and it has none.
        Err(TopicError::Unavailable | TopicError::TimedOut) => failed(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS),
        Err(error) => failed(ErrorCode::from(&error)),
    }
}

fn failed(error: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(error.number())
        .with_producer_id((-1).into())
        .with_producer_epoch(-1)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;

    use super::*;
    use crate::kafka::handlers::fixture::encodes_in_every_version;

    #[test]
    fn answers_can_be_written() {
        encodes_in_every_version(ApiKey::InitProducerId, &answer(Ok(ProducerId(4000))));
        let unavailable = answer(Err(TopicError::Unavailable));
        assert_eq!((unavailable.error_code, unavailable.producer_id.0), (14, -1));
        encodes_in_every_version(ApiKey::InitProducerId, &unavailable);
    }
}
