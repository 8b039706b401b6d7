//! The load before the disaster: paced writers, one for each partition, and a group that reads and commits. All of it
//! is written down in ledgers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewater_storage::env::clock::wall;
use tidewater_storage::model::Compression;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::super::content::{Checksum, order};
use super::super::error::DemoError;
use super::super::progress::Phase;
use super::super::write::Acknowledged;
use super::ledger::{GroupLedger, PartitionLedger};
use super::{BATCH_RECORDS, GROUP, PARTITIONS, TOPIC};
use crate::client::{Client, Producer};

/// Between two batches of a partition.
const PACE: Duration = Duration::from_millis(20);
/// Between two commits of the group.
const COMMIT_EVERY: Duration = Duration::from_millis(250);
const FETCH_WAIT_MS: i32 = 100;
const FETCH_BYTES: i32 = 1 << 20;

/// What clients were answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledgers {
    pub(super) partitions: BTreeMap<i32, PartitionLedger>,
    pub(super) group: GroupLedger,
}

impl Ledgers {
    /// Records that were acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.partitions.values().map(PartitionLedger::end).sum()
    }
}

/// Clients at work. Dropping it ends them.
pub(super) struct Load {
    ledgers: Arc<Mutex<Ledgers>>,
    clients: JoinSet<Result<(), DemoError>>,
}

impl Load {
    /// Starts the clients.
    pub(super) async fn start(bootstrap: &str, phase: &Phase) -> Result<Self, DemoError> {
        let ledgers = Arc::<Mutex<Ledgers>>::default();
        let mut clients = JoinSet::new();
        for partition in 0..PARTITIONS {
            let producer = Producer::new(Client::connect(bootstrap).await?, TOPIC, Compression::None).await?;
            clients.spawn(write(producer, partition, Arc::clone(&ledgers), phase.clone()));
        }
        clients.spawn(consume(Client::connect(bootstrap).await?, Arc::clone(&ledgers)));
        Ok(Self { ledgers, clients })
    }

    /// Lets the clients work; an error of one of them ends it.
    pub(super) async fn work(&mut self, time: Duration) -> Result<(), DemoError> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            ended = self.clients.join_next() => match ended {
                Some(ended) => ended?,
                None => Ok(()),
            },
        }
    }

    /// What the clients were answered up to now.
    pub(super) fn ledgers(&self) -> Ledgers {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the clients wherever they are; what they were answered.
    pub(super) async fn end(mut self) -> Ledgers {
        self.clients.shutdown().await;
        self.ledgers()
    }
}

/// Writes until it is ended; every batch must follow the one before.
async fn write(
    mut producer: Producer,
    partition: i32,
    ledgers: Arc<Mutex<Ledgers>>,
    phase: Phase,
) -> Result<(), DemoError> {
    let noted = |note: &dyn Fn(&mut PartitionLedger)| {
        note(ledgers.lock().unwrap_or_else(PoisonError::into_inner).partitions.entry(partition).or_default());
    };
    let mut acknowledged = Acknowledged { partition, next: 0, phase };
    let (mut sum, mut at, mut due) = (Checksum::default(), 0, Instant::now());
    loop {
        let now = wall();
        let batch: Vec<_> = (at..at + BATCH_RECORDS).map(|offset| order(partition, offset, now)).collect();
        batch.iter().zip(at..).for_each(|(record, offset)| sum.take_record(offset, record));
        at += BATCH_RECORDS;
        noted(&|ledger| ledger.send(at, sum));
        producer.send(partition, batch).await?;
        for done in producer.flush().await? {
            acknowledged.take(done)?;
            noted(&|ledger| ledger.acknowledge(Instant::now()));
        }
        // Time lost to a slow disk is not made up for.
        due = (due + PACE).max(Instant::now());
        sleep_until(due).await;
    }
}

/// Reads all partitions and commits what was read, until it is ended.
async fn consume(mut client: Client, ledgers: Arc<Mutex<Ledgers>>) -> Result<(), DemoError> {
    let mut offsets: BTreeMap<i32, u64> = (0..PARTITIONS).map(|partition| (partition, 0)).collect();
    let mut committed = Instant::now();
    loop {
        let from: Vec<(i32, u64)> = offsets.iter().map(|(partition, offset)| (*partition, *offset)).collect();
        for found in client.fetch(TOPIC, &from, FETCH_WAIT_MS, FETCH_BYTES).await? {
            offsets.insert(found.partition, found.next_offset);
        }
        if committed.elapsed() < COMMIT_EVERY {
            continue;
        }
        committed = Instant::now();
        let noted = |note: &dyn Fn(&mut GroupLedger)| {
            note(&mut ledgers.lock().unwrap_or_else(PoisonError::into_inner).group);
        };
        noted(&|group| group.send(offsets.clone()));
        let commit: Vec<(i32, u64)> = offsets.iter().map(|(partition, offset)| (*partition, *offset)).collect();
        client.commit(GROUP, TOPIC, &commit).await?;
        noted(&|group| group.acknowledge(Instant::now()));
    }
}
