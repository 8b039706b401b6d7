//! The load of a soak: for each share of the partitions a producer and the consumers of two groups; beside them topics
//! that are created and deleted.
//!
//! A producer owns its partitions: record `n` of a partition carries `n`, so a consumer knows what every offset must
//! hold. Batches that a restart left unacknowledged are sent again with the same sequence numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidewater::client::{Client, ClientError, NewTopic, OffsetQuery};
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId, TimestampMs};

use super::support::wire::{PRODUCE_VERSION, Wire, produce_request, produced};

pub const TOPIC: &str = "soak";
pub const PARTITIONS: i32 = 12;
const SHARES: i32 = 3;
/// Records of a batch, and how many batches a second each producer makes: about 2 MB/s together.
const BATCH: u64 = 100;
const BATCHES_PER_SECOND: u32 = 35;
const VALUE: usize = 200;
/// How often the slow group starts again from the first offset.
const REWIND: Duration = Duration::from_secs(30);
/// Without progress for this long the broker counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);
const SETTINGS: &[(&str, &str)] = &[
    ("segment.bytes", "4194304"),
    ("local.retention.bytes", "8388608"),
    ("retention.bytes", "67108864"),
    ("archive.lag.ms", "1000"),
    ("iceberg.mode", "key_value"),
    ("iceberg.target.lag.ms", "5000"),
];

/// Counts since the start.
#[derive(Default)]
pub struct Counts {
    pub produced: AtomicU64,
    pub consumed: AtomicU64,
    pub topics: AtomicU64,
}

/// The running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Fails when a part of the load has failed.
    pub fn check(&self) {
        assert!(!self.threads.iter().any(JoinHandle::is_finished), "a part of the load gave up; see above");
    }

    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("the load ends well"));
    }
}

pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

pub fn create(addr: &str) {
    let configs = SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: TOPIC.to_owned(), partitions: Some(PARTITIONS), configs, ..NewTopic::default() };
    run(async { Client::connect(addr).await?.create_topic(&topic).await }).expect("the topic is made");
}

pub fn start(addr: &str, counts: &Arc<Counts>) -> Load {
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let mut spawn = |work: Box<dyn FnOnce(&str, &AtomicBool, &Counts) + Send>| {
        let (addr, stop, counts) = (addr.to_owned(), Arc::clone(&stop), Arc::clone(counts));
        threads.push(std::thread::spawn(move || work(&addr, &stop, &counts)));
    };
    for share in 0..SHARES {
        spawn(Box::new(move |addr, stop, counts| Producer::new(share).run(addr, stop, counts)));
    }
    for group in ["fast", "slow"] {
        spawn(Box::new(move |addr, stop, counts| patiently(stop, || run(consume(addr, group, stop, counts)))));
    }
    spawn(Box::new(|addr, stop, counts| patiently(stop, || run(come_and_go(addr, stop, counts)))));
    Load { stop, threads }
}

/// Runs a piece of work again after each restart. An error counts only if it outlasts the restart.
fn patiently(stop: &AtomicBool, mut work: impl FnMut() -> Result<(), ClientError>) {
    let mut failing = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let failed = work().err();
        if begun.elapsed() > Duration::from_secs(1) {
            failing = Instant::now();
        }
        assert!(failing.elapsed() < PATIENCE, "for {PATIENCE:?}: {failed:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Producer {
    share: i32,
    identity: Option<(ProducerId, ProducerEpoch)>,
    /// Records acknowledged, per partition of the share.
    next: Vec<u64>,
    turn: usize,
}

impl Producer {
    fn new(share: i32) -> Self {
        let held = (0..PARTITIONS).filter(|partition| partition % SHARES == share).count();
        Self { share, identity: None, next: vec![0; held], turn: 0 }
    }

    fn run(mut self, addr: &str, stop: &AtomicBool, counts: &Counts) {
        let mut heard = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            let before = self.next.iter().sum::<u64>();
            let failed = self.connection(addr, stop, counts).err();
            if self.next.iter().sum::<u64>() > before {
                heard = Instant::now();
            }
            assert!(heard.elapsed() < PATIENCE, "producer {} for {PATIENCE:?}: {failed:?}", self.share);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn connection(&mut self, addr: &str, stop: &AtomicBool, counts: &Counts) -> std::io::Result<()> {
        let mut wire = Wire::connect(addr)?;
        let (id, epoch) = match self.identity {
            Some(identity) => identity,
            None => *self.identity.insert(wire.producer()?),
        };
        let pause = Duration::from_secs(1) / BATCHES_PER_SECOND;
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let slot = self.turn % self.next.len();
            let partition = self.share + SHARES * i32::try_from(slot).expect("few partitions");
            let first = self.next[slot];
            let sequence = i32::try_from(first & 0x7fff_ffff).expect("31 bits");
            let batch = batch(first, BatchBuilder::new(Compression::Lz4).producer(id, epoch, sequence));
            let answer = wire.call(&produce_request(TOPIC, partition, batch), PRODUCE_VERSION)?;
            match produced(&answer)? {
                Ok(base) => assert_eq!(base, first, "partition {partition}: the offset of record {first}"),
                Err((code, message)) => return Err(std::io::Error::other(format!("{code} {message}"))),
            }
            self.next[slot] += BATCH;
            self.turn += 1;
            counts.produced.fetch_add(BATCH, Ordering::Relaxed);
            std::thread::sleep(pause.saturating_sub(begun.elapsed()));
        }
        Ok(())
    }
}

/// The value of record `n`: the number `n`, padded to the record size.
fn batch(first: u64, mut builder: BatchBuilder) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
    let now = TimestampMs(i64::try_from(now).expect("a date"));
    for n in first..first + BATCH {
        let mut value = n.to_be_bytes().to_vec();
        value.resize_with(VALUE, rand::random::<u8>);
        builder.push(Record::new(now, Some(Bytes::from(format!("key-{}", n % 1000))), Some(Bytes::from(value))));
    }
    builder.build()
}

/// Reads from the group's committed offsets and commits; the group "slow" returns to the start at intervals and reads
/// from the bucket.
async fn consume(addr: &str, group: &str, stop: &AtomicBool, counts: &Counts) -> Result<(), ClientError> {
    let mut client = Client::connect(addr).await?;
    let mut at = vec![0_u64; PARTITIONS as usize];
    for held in client.group_offsets(group).await? {
        at[usize::try_from(held.partition).expect("a partition")] = held.offset;
    }
    let mut begun = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let mut read = 0;
        for partition in 0..PARTITIONS {
            let slot = usize::try_from(partition).expect("a partition");
            let fetched = client.fetch(TOPIC, &[(partition, at[slot])], 10, 1 << 20).await;
            let fetched = match fetched {
                // OFFSET_OUT_OF_RANGE: retention deleted the records at this offset.
                Err(error) if error.code() == Some(1) => {
                    at[slot] = start_of(&mut client, partition).await?;
                    continue;
                }
                other => other?,
            };
            let Some(fetched) = fetched.into_iter().next() else { continue };
            for record in &fetched.records {
                let value = record.value.as_deref().and_then(|value| value.first_chunk::<8>());
                let said = value.map(|bytes| u64::from_be_bytes(*bytes));
                assert_eq!(
                    said,
                    Some(record.offset.get()),
                    "partition {partition}: what offset {:?} holds",
                    record.offset
                );
            }
            read += fetched.records.len() as u64;
            at[slot] = fetched.next_offset.max(at[slot]);
        }
        counts.consumed.fetch_add(read, Ordering::Relaxed);
        let offsets: Vec<(i32, u64)> = (0..PARTITIONS).zip(at.iter().copied()).collect();
        client.commit(group, TOPIC, &offsets).await?;
        if group == "slow" && begun.elapsed() > REWIND {
            begun = Instant::now();
            for partition in 0..PARTITIONS {
                at[usize::try_from(partition).expect("a partition")] = start_of(&mut client, partition).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(if group == "slow" { 100 } else { 20 })).await;
    }
    Ok(())
}

async fn start_of(client: &mut Client, partition: i32) -> Result<u64, ClientError> {
    let listed = client.list_offsets(TOPIC, &[partition], OffsetQuery::Earliest).await?;
    Ok(listed.first().and_then(|(_, offset)| *offset).unwrap_or(0))
}

/// Creates and deletes a topic in a loop.
async fn come_and_go(addr: &str, stop: &AtomicBool, counts: &Counts) -> Result<(), ClientError> {
    let mut client = Client::connect(addr).await?;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("passing-{}", rand::random::<u32>());
        client.create_topic(&NewTopic { name: name.clone(), partitions: Some(4), ..NewTopic::default() }).await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        client.delete_topic(&name).await?;
        counts.topics.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    Ok(())
}
