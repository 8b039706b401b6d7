//! An idempotent producer with several batches in flight, which follows the leaders of its partitions.
//!
//! A batch that was refused since its leader moved, or whose connection broke, is sent again with the same sequence
//! numbers, and so is every batch behind it, in order, over new connections: the broker answers a batch that it has
//! already with the offset of the first one.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError as E;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId};
use tokio::time::{Instant, sleep};

use super::admin::topic_name;
use super::cluster::{Client, PAUSE, moves_leader};
use super::connection::Sent;
use super::error::{ClientError, check};

/// The limit of idempotence (KIP-360): more batches in flight cannot be put in order again.
const IN_FLIGHT_MAX: usize = 5;
const TIMEOUT_MS: i32 = 30_000;
/// How long the oldest batch is sent again before its error is returned.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a new producer waits for a controller that gives it an id.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(15);

/// An idempotent producer with its own connections.
#[derive(Debug)]
pub struct Producer {
    client: Client,
    topic: String,
    compression: Compression,
    id: ProducerId,
    epoch: ProducerEpoch,
    sequences: HashMap<i32, i32>,
    /// In the order of the sequence numbers.
    flying: VecDeque<Flying>,
    /// Leaders are to be looked up again before the next batch is sent.
    stale: bool,
}

#[derive(Debug)]
struct Flying {
    partition: i32,
    bytes: Bytes,
    records: usize,
    since: Instant,
    /// The broker it was sent to; none if it is to be sent again.
    sent: Option<(String, Sent)>,
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
        let until = Instant::now() + CONTROLLER_PATIENCE;
        let answer = loop {
            let answer = client.ask(&request).await?;
            match check(|| "get a producer id".into(), answer.error_code, None) {
                Ok(()) => break answer,
                Err(error) if !is_of_controller(answer.error_code) || Instant::now() >= until => return Err(error),
                Err(_) => sleep(PAUSE).await,
            }
        };
        Ok(Self {
            client,
            topic: topic.to_owned(),
            compression,
            id: ProducerId(answer.producer_id.0),
            epoch: ProducerEpoch(answer.producer_epoch),
            sequences: HashMap::new(),
            flying: VecDeque::new(),
            stale: false,
        })
    }

    /// Sends a batch. If the limit was reached, waits first for the oldest batch in flight and returns it.
    ///
    /// # Errors
    /// An earlier batch was refused, or no leader could be reached for [`PATIENCE`].
    pub async fn send(&mut self, partition: i32, records: Vec<Record>) -> Result<Option<Produced>, ClientError> {
        let done = if self.flying.len() >= IN_FLIGHT_MAX { self.next().await? } else { None };
        let count = records.len();
        let bytes = self.batch(partition, records);
        self.flying.push_back(Flying { partition, bytes, records: count, since: Instant::now(), sent: None });
        // A batch that cannot be sent now is sent again by `next`.
        if let Err(error) = self.send_waiting().await {
            self.give_up_or_again(error).await?;
        }
        Ok(done)
    }

    /// Sends the batches that are not on their way, in order.
    async fn send_waiting(&mut self) -> Result<(), ClientError> {
        while let Some(at) = self.flying.iter().position(|flying| flying.sent.is_none()) {
            let Some(flying) = self.flying.get(at) else { break };
            let (partition, bytes) = (flying.partition, flying.bytes.clone());
            let again = std::mem::take(&mut self.stale);
            let found = self.client.leaders_of(&self.topic, &[partition], again).await;
            let Some((_, addr)) = found.inspect_err(|_| self.stale = true)?.pop() else {
                self.stale = true;
                let what = || format!("produce to {}/{partition}", self.topic);
                return check(what, E::LeaderNotAvailable.code(), None);
            };
            let data = PartitionProduceData::default().with_index(partition).with_records(Some(bytes));
            let data = TopicProduceData::default().with_name(topic_name(&self.topic)).with_partition_data(vec![data]);
            let request =
                ProduceRequest::default().with_acks(-1).with_timeout_ms(TIMEOUT_MS).with_topic_data(vec![data]);
            let sent = self.client.send_at(&addr, &request).await?;
            if let Some(flying) = self.flying.get_mut(at) {
                flying.sent = Some((addr, sent));
            }
        }
        Ok(())
    }

    /// After an error that may pass: all batches in flight are to be sent again. An error that will not pass, or lasts
    /// for too long, is returned.
    async fn give_up_or_again(&mut self, error: ClientError) -> Result<(), ClientError> {
        let code = error.code();
        let passes = error.is_of_connection() || code.is_some_and(|code| moves_leader(code) || may_pass(code));
        let waited = self.flying.front().map_or(Duration::ZERO, |oldest| oldest.since.elapsed());
        if !passes || waited > PATIENCE {
            return Err(error);
        }
        self.client.disconnect();
        self.flying.iter_mut().for_each(|flying| flying.sent = None);
        self.stale = true;
        sleep(PAUSE).await;
        Ok(())
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
    /// It was refused, or no leader could be reached for [`PATIENCE`].
    pub async fn next(&mut self) -> Result<Option<Produced>, ClientError> {
        loop {
            match self.oldest().await {
                Ok(done) => return Ok(done),
                Err(error) => self.give_up_or_again(error).await?,
            }
        }
    }

    async fn oldest(&mut self) -> Result<Option<Produced>, ClientError> {
        self.send_waiting().await?;
        let Some(Flying { partition, records, sent: Some((addr, sent)), .. }) = self.flying.front() else {
            return Ok(None);
        };
        let (partition, records) = (*partition, *records);
        let answer = self.client.receive_at::<ProduceRequest>(addr, *sent).await?;
        let part = answer.responses.into_iter().flat_map(|topic| topic.partition_responses).next();
        let what = || format!("produce to {}/{partition}", self.topic);
        let part = part.ok_or_else(|| ClientError::Missing(what()))?;
        check(what, part.error_code, part.error_message.as_deref())?;
        self.flying.pop_front();
        let base_offset = u64::try_from(part.base_offset).unwrap_or(0);
        Ok(Some(Produced { partition, base_offset, records }))
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

/// Errors of a batch, beside those of a leader that moved, that a later attempt may not meet.
fn may_pass(code: i16) -> bool {
    // A broker with a full disk hands its partitions to others.
    let passing = [E::RequestTimedOut, E::NotEnoughReplicas, E::NotEnoughReplicasAfterAppend, E::KafkaStorageError];
    passing.iter().any(|error| error.code() == code)
}

/// No broker leads the controller's lane at the moment.
fn is_of_controller(code: i16) -> bool {
    [E::CoordinatorNotAvailable, E::CoordinatorLoadInProgress, E::NotController].iter().any(|e| e.code() == code)
}
