//! `DescribeProducers` (61, KIP-664): the idempotent producers that a partition remembers.

use futures::future::join_all;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};

use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::words::message;
use crate::partition::message::ActiveProducer;

/// Asks the shards of the partitions.
pub async fn handle(ctx: &RequestContext, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let image = ctx.image();
    let topics = request.topics.into_iter().map(|topic| {
        let name = TopicRef::Name(topic.name.as_str().to_owned());
        let image = &image;
        async move {
            let partitions = topic.partition_indexes.iter().map(|index| async {
                let found = match name.partition(image, *index) {
                    Ok((_, partition)) => {
                        let producers = ctx.broker.router.producers(partition.place()).await;
                        producers.ok_or(ErrorCode::NOT_LEADER_OR_FOLLOWER)
                    }
                    Err(error) => Err(error),
                };
                partition(*index, found)
            });
            let partitions = join_all(partitions).await;
            TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
        }
    });
    DescribeProducersResponse::default().with_topics(join_all(topics).await)
}

fn partition(index: i32, found: Result<Vec<ActiveProducer>, ErrorCode>) -> PartitionResponse {
    let answer = PartitionResponse::default().with_partition_index(index);
    match found {
        Ok(producers) => answer.with_active_producers(producers.iter().map(producer).collect()),
        Err(error) => answer.with_error_code(error.number()).with_error_message(message(&error.name())),
    }
}

/// Without transactions there is neither coordinator epoch nor open transaction.
fn producer(active: &ActiveProducer) -> ProducerState {
    ProducerState::default()
        .with_producer_id(active.id.0.into())
        .with_producer_epoch(active.epoch.0.into())
        .with_last_sequence(active.last_sequence)
        .with_last_timestamp(active.last_timestamp.0)
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(-1)
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use tidewater_storage::model::{ProducerEpoch, ProducerId, TimestampMs};

    use super::*;
    use crate::kafka::handlers::fixture::encodes_in_every_version;

    #[test]
    fn answers_can_be_written() {
        let one = ActiveProducer {
            id: ProducerId(7),
            epoch: ProducerEpoch(1),
            last_sequence: 41,
            last_timestamp: TimestampMs(5),
        };
        let partitions = vec![partition(0, Ok(vec![one])), partition(1, Err(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))];
        assert_eq!((partitions[0].active_producers[0].last_sequence, partitions[1].error_code), (41, 3));
        let topic = TopicResponse::default().with_partitions(partitions);
        encodes_in_every_version(
            ApiKey::DescribeProducers,
            &DescribeProducersResponse::default().with_topics(vec![topic]),
        );
    }
}
