//! Writes with one idempotent producer for each partition, each on its own connection, with pipelined batches.

use std::collections::BTreeMap;

use tidewater_storage::env::clock::wall;
use tidewater_storage::model::Compression;
use tokio::task::JoinSet;

use super::broker::DemoBroker;
use super::content::{Checksum, order};
use super::error::DemoError;
use super::progress::Phase;
use super::{Bounds, output};
use crate::client::{Client, Produced, Producer};

/// About 200 KiB.
const BATCH_RECORDS: u64 = 2000;

/// The acknowledged records of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) start: u64,
    /// Exclusive.
    pub(super) end: u64,
    pub(super) sum: Checksum,
}

/// Writes `records` to the ends of the partitions, in equal shares.
pub(super) async fn run(
    broker: &DemoBroker,
    topic: &'static str,
    before: &Bounds,
    records: u64,
) -> Result<BTreeMap<i32, Written>, DemoError> {
    let phase = Phase::begin("writing over the Kafka protocol", Some(records));
    let share = records / before.len().max(1) as u64;
    let mut left = records - share * before.len() as u64;
    let mut tasks = JoinSet::new();
    for (partition, (_, end)) in before {
        let extra = u64::from(left > 0);
        left -= extra;
        let client = Client::connect(&broker.kafka).await?;
        let producer = Producer::new(client, topic, Compression::None).await?;
        tasks.spawn(write(producer, *partition, *end, share + extra, phase.clone()));
    }
    let mut written = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (partition, done) = done??;
        written.insert(partition, done);
    }
    let rate = output::count((records as f64 / phase.seconds().max(0.001)) as u64);
    phase.done(&format!("{} records written and acknowledged, {rate} a second", output::count(records)));
    Ok(written)
}

async fn write(
    mut producer: Producer,
    partition: i32,
    start: u64,
    records: u64,
    phase: Phase,
) -> Result<(i32, Written), DemoError> {
    let mut acknowledged = Acknowledged { partition, next: start, phase };
    let (mut sum, mut at) = (Checksum::default(), start);
    while at < start + records {
        let end = (at + BATCH_RECORDS).min(start + records);
        let now = wall();
        let batch: Vec<_> = (at..end).map(|offset| order(partition, offset, now)).collect();
        batch.iter().zip(at..).for_each(|(record, offset)| sum.take_record(offset, record));
        if let Some(done) = producer.send(partition, batch).await? {
            acknowledged.take(done)?;
        }
        at = end;
    }
    for done in producer.flush().await? {
        acknowledged.take(done)?;
    }
    Ok((partition, Written { start, end: acknowledged.next, sum }))
}

/// Acknowledgements. Each batch must follow the one before, the first the old end of the log.
pub(super) struct Acknowledged {
    pub(super) partition: i32,
    pub(super) next: u64,
    pub(super) phase: Phase,
}

impl Acknowledged {
    pub(super) fn take(&mut self, done: Produced) -> Result<(), DemoError> {
        if done.base_offset != self.next {
            let (partition, expected, found) = (self.partition, self.next, done.base_offset);
            return Err(DemoError::Elsewhere { partition, expected, found });
        }
        self.next += done.records as u64;
        self.phase.add(done.records as u64);
        Ok(())
    }
}
