//! Reads every partition from its log start to its end over the Kafka protocol, each on its own connection.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::broker::DemoBroker;
use super::content::Checksum;
use super::error::DemoError;
use super::progress::Phase;
use super::write::Written;
use super::{Bounds, count, output};
use crate::client::Client;

const MAX_WAIT_MS: i32 = 500;
const MAX_BYTES: i32 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// The records of one partition that were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Of all runs of the demo.
    pub(super) records: u64,
    /// Records whose offset is not the one after the record before.
    pub(super) holes: u64,
    /// Over the records of this run.
    pub(super) sum: Checksum,
}

/// Reads all of `log`; the checksum is over the records in `written`.
pub(super) async fn run(
    broker: &DemoBroker,
    topic: &'static str,
    log: &Bounds,
    written: &BTreeMap<i32, Written>,
) -> Result<BTreeMap<i32, Read>, DemoError> {
    let phase = Phase::begin("reading back from the bucket", Some(count(log)));
    let mut tasks = JoinSet::new();
    for (partition, bounds) in log {
        let client = Client::connect(&broker.kafka).await?;
        let own = written.get(partition).copied().unwrap_or_default();
        tasks.spawn(read(client, topic, *partition, *bounds, own, phase.clone()));
    }
    let mut found = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let (partition, read) = done??;
        found.insert(partition, read);
    }
    let records: u64 = found.values().map(|read| read.records).sum();
    let rate = output::count((records as f64 / phase.seconds().max(0.001)) as u64);
    let from = if log.values().all(|(start, _)| *start == 0) { "offset 0" } else { "the start of the log" };
    phase.done(&format!("{} records read back from {from}, {rate} a second", output::count(records)));
    Ok(found)
}

/// Reads one partition.
pub(super) async fn read(
    mut client: Client,
    topic: &'static str,
    partition: i32,
    (start, end): (u64, u64),
    own: Written,
    phase: Phase,
) -> Result<(i32, Read), DemoError> {
    let (mut read, mut at, mut moved) = (Read::default(), start, Instant::now());
    let mut expected = start;
    while at < end {
        for found in client.fetch(topic, &[(partition, at)], MAX_WAIT_MS, MAX_BYTES).await? {
            let new = found.records.iter().take_while(|record| record.offset.get() < end);
            let before = read.records;
            for record in new {
                let offset = record.offset.get();
                read.records += 1;
                read.holes += u64::from(offset != expected);
                expected = offset + 1;
                if (own.start..own.end).contains(&offset) {
                    read.sum.take_record(offset, record);
                }
            }
            phase.add(read.records - before);
            if found.next_offset > at {
                (at, moved) = (found.next_offset, Instant::now());
            }
        }
        if moved.elapsed() > PATIENCE {
            let why = format!("partition {partition} returns nothing at offset {at}, its log ends at {end}");
            return Err(DemoError::Stalled { step: "reading back", after: PATIENCE, why });
        }
    }
    Ok((partition, read))
}
