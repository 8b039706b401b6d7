//! `DescribeProducers` (61, KIP-664): the idempotent producers that a partition remembers.

use std::pin::pin;

use futures::stream::{self, StreamExt};
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};

use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::limits::{PRODUCERS_ASKED_AT_ONCE, PRODUCERS_DESCRIBED_MAX};
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::words::message;
use crate::partition::message::ActiveProducer;

/// Bytes that a producer takes in the answer, about.
const PRODUCER_BYTES: usize = 120;

/// Asks the shards of the partitions, a few at a time, until the answer is full.
pub async fn handle(ctx: &RequestContext, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let image = &ctx.image();
    let names: Vec<TopicRef> = request.topics.iter().map(|t| TopicRef::Name(t.name.as_str().to_owned())).collect();
    let topics = names.iter().zip(&request.topics);
    let asked = topics.flat_map(|(name, topic)| topic.partition_indexes.iter().map(move |index| (name, *index)));
    let asked = asked.map(|(name, index)| async move {
        let found = match name.partition(image, index) {
            Ok((_, partition)) => {
                let producers = ctx.broker.router.producers(partition.address()).await;
                producers.map_err(|error| ErrorCode::from(&error))
            }
            Err(error) => Err(error),
        };
        (index, found)
    });
    let mut asked = pin!(stream::iter(asked).buffered(PRODUCERS_ASKED_AT_ONCE));
    let (mut answers, mut described, mut held) = (Vec::new(), 0, ctx.budget.empty());
    while let Some((index, found)) = asked.next().await {
        let found = fitting(found, &mut described);
        held.set(described * PRODUCER_BYTES);
        answers.push(partition(index, found));
    }
    let mut answers = answers.into_iter();
    let topics = request.topics.iter().map(|topic| {
        let partitions = answers.by_ref().take(topic.partition_indexes.len()).collect();
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

/// The producers, if the answer that holds `described` so far takes them too.
fn fitting(
    found: Result<Vec<ActiveProducer>, ErrorCode>,
    described: &mut usize,
) -> Result<Vec<ActiveProducer>, ErrorCode> {
    let found = found?;
    if *described > 0 && *described + found.len() > PRODUCERS_DESCRIBED_MAX {
        return Err(ErrorCode::INVALID_REQUEST);
    }
    *described += found.len();
    Ok(found)
}

fn partition(index: i32, found: Result<Vec<ActiveProducer>, ErrorCode>) -> PartitionResponse {
    let answer = PartitionResponse::default().with_partition_index(index);
    match found {
        Ok(producers) => answer.with_active_producers(producers.iter().map(producer).collect()),
        Err(error) => {
            let full = "the answer is full: ask for fewer partitions at a time";
            let why = if error == ErrorCode::INVALID_REQUEST { full.to_owned() } else { error.name().to_string() };
            answer.with_error_code(error.number()).with_error_message(message(&why))
        }
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
    fn an_answer_that_is_full_takes_no_more() {
        let one = ActiveProducer {
            id: ProducerId(7),
            epoch: ProducerEpoch(1),
            last_sequence: 41,
            last_timestamp: TimestampMs(5),
        };
        let mut described = 0;
        let found = |n: usize| Ok(vec![one; n]);
        assert!(fitting(found(PRODUCERS_DESCRIBED_MAX - 1), &mut described).is_ok());
        assert_eq!(fitting(found(2), &mut described).err(), Some(ErrorCode::INVALID_REQUEST));
        assert!(fitting(found(1), &mut described).is_ok(), "what fits is described");
        assert_eq!(described, PRODUCERS_DESCRIBED_MAX);
    }

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
