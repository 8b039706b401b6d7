//! An idempotent producer with several batches in flight.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId};

use super::admin::topic_name;
use super::connection::{Client, Sent};
use super::error::{ClientError, check};

/// The limit of idempotence (KIP-360): more batches in flight cannot be put in order again.
const IN_FLIGHT_MAX: usize = 5;
const TIMEOUT_MS: i32 = 30_000;

/// An idempotent producer with its own connection.
#[derive(Debug)]
pub struct Producer {
    client: Client,
    topic: String,
    compression: Compression,
    id: ProducerId,
    epoch: ProducerEpoch,
    sequences: HashMap<i32, i32>,
    flying: VecDeque<Flying>,
}

#[derive(Debug)]
struct Flying {
    sent: Sent,
    partition: i32,
    records: usize,
}

/// An acknowledged batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub partition: i32,
    pub base_offset: u64,
    pub records: usize,
}

impl Producer {
    /// A producer to `topic` over `client`.
    ///
    /// # Errors
    /// The broker gives no producer id.
    pub async fn new(mut client: Client, topic: &str, compression: Compression) -> Result<Self, ClientError> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(TIMEOUT_MS)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let answer = client.call(&request).await?;
        check(|| "get a producer id".into(), answer.error_code, None)?;
        Ok(Self {
            client,
            topic: topic.to_owned(),
            compression,
            id: ProducerId(answer.producer_id.0),
            epoch: ProducerEpoch(answer.producer_epoch),
            sequences: HashMap::new(),
            flying: VecDeque::new(),
        })
    }

    /// Sends a batch. If the limit was reached, waits first for the oldest batch in flight and returns it.
    ///
    /// # Errors
    /// An earlier batch was refused, or the connection broke.
    pub async fn send(&mut self, partition: i32, records: Vec<Record>) -> Result<Option<Produced>, ClientError> {
        let done = if self.flying.len() >= IN_FLIGHT_MAX { self.next().await? } else { None };
        let count = records.len();
        let bytes = self.batch(partition, records);
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(bytes));
        let data = TopicProduceData::default().with_name(topic_name(&self.topic)).with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(TIMEOUT_MS).with_topic_data(vec![data]);
        let sent = self.client.send(&request).await?;
        self.flying.push_back(Flying { sent, partition, records: count });
        Ok(done)
    }

    fn batch(&mut self, partition: i32, records: Vec<Record>) -> Bytes {
        let sequence = self.sequences.entry(partition).or_insert(0);
        let mut builder = BatchBuilder::new(self.compression).producer(self.id, self.epoch, *sequence);
        let count = records.len();
        records.into_iter().for_each(|record| builder.push(record));
        let next = (i64::from(*sequence) + count as i64) % (i64::from(i32::MAX) + 1);
        *sequence = i32::try_from(next).unwrap_or(0);
        builder.build()
    }

    /// Waits for the oldest batch in flight; `None` when there is none.
    ///
    /// # Errors
    /// It was refused, or the connection broke.
    pub async fn next(&mut self) -> Result<Option<Produced>, ClientError> {
        let Some(flying) = self.flying.pop_front() else { return Ok(None) };
        let answer = self.client.receive::<ProduceRequest>(flying.sent).await?;
        let part = answer.responses.into_iter().flat_map(|topic| topic.partition_responses).next();
        let what = || format!("produce to {}/{}", self.topic, flying.partition);
        let part = part.ok_or_else(|| ClientError::Missing(what()))?;
        check(what, part.error_code, part.error_message.as_deref())?;
        let base_offset = u64::try_from(part.base_offset).unwrap_or(0);
        Ok(Some(Produced { partition: flying.partition, base_offset, records: flying.records }))
    }

    /// Waits for all batches in flight.
    ///
    /// # Errors
    /// One was refused, or the connection broke.
    pub async fn flush(&mut self) -> Result<Vec<Produced>, ClientError> {
        let mut done = Vec::new();
        while let Some(produced) = self.next().await? {
            done.push(produced);
        }
        Ok(done)
    }
}
