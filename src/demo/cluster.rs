//! `tidewater demo --brokers 3`: several brokers on this machine as one cluster; one is killed under load. Shown, and
//! checked before it is printed: that every acknowledged record is there once, and how long clients waited.
//!
//! Brokers are processes of this binary with free ports (`processes`), in a directory of this run, which is removed at
//! the end. Brokers start → topic with three replicas → paced writers, one for each partition → the
//! leader of most partitions is killed → the log is read from the others and compared → the broker is started again.

use std::collections::BTreeMap;
use std::time::Duration;

use tidewater_storage::env::clock::wall;
use tidewater_storage::model::Compression;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::content::{Checksum, order};
use super::error::DemoError;
use super::processes::{Processes, Run};
use super::progress::Phase;
use super::write::{Acknowledged, Written};
use super::{TOPIC, output, read, seconds, serve_on, signalled};
use crate::client::{Client, NewTopic, Producer};
use crate::config::node::NodeConfig;

const PARTITIONS: i32 = 6;
/// Records of a batch, and the time between two batches of a partition.
const BATCH_RECORDS: u64 = 100;
const PACE: Duration = Duration::from_millis(20);
/// How long is written before the kill, and after it.
const BEFORE: Duration = Duration::from_secs(5);
const AFTER: Duration = Duration::from_secs(10);
/// How long the cluster may take to form, and to be whole again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo with `brokers` brokers; with `exit` it ends them and returns after it.
///
/// # Errors
/// The cluster does not form, a client waits for too long, or a record is missing.
pub(super) fn run(config: &NodeConfig, brokers: u16, exit: bool) -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(DemoError::Runtime)?;
    let mut run = Run::new(config, "cluster");
    let bucket = if config.bucket_is_embedded { run.bucket("bucket") } else { config.bucket.clone() };
    let ended = runtime.block_on(async {
        tokio::select! {
            // First, so that no broker is started that a signal would leave behind, or whose end by it is an error.
            biased;
            signal = signalled() => signal,
            ended = start_and_journey(config, &mut run, &bucket, (brokers, exit)) => ended,
        }
    });
    drop(runtime);
    run.end(ended)
}

async fn start_and_journey(
    config: &NodeConfig,
    run: &mut Run,
    bucket: &str,
    (brokers, exit): (u16, bool),
) -> Result<(), DemoError> {
    let phase = Phase::begin(&format!("starting {brokers} brokers"), None);
    let mut processes = Processes::start(config, run, bucket, ("broker", brokers))?;
    journey(&mut processes, phase, exit).await
}

async fn journey(processes: &mut Processes, phase: Phase, exit: bool) -> Result<(), DemoError> {
    let took = processes.wait_healthy(PATIENCE).await?;
    phase.done(&format!("{} brokers form a cluster, after {}", processes.len(), seconds(took)));
    let mut client = Client::connect(&processes.bootstrap()).await?;
    let topic = NewTopic {
        name: TOPIC.into(),
        partitions: Some(PARTITIONS),
        replication_factor: Some(3),
        ..NewTopic::default()
    };
    client.create_topic(&topic).await?;
    let written = write_and_kill(processes, &mut client).await?;
    let records: u64 = written.values().map(|partition| partition.written.end).sum();
    compare(processes, &written).await?;

    let phase = Phase::begin("starting the killed broker again", None);
    processes.start_all()?;
    let took = processes.wait_healthy(PATIENCE).await?;
    phase.done(&format!("it has caught up: every replica in sync again, after {}", seconds(took)));
    output::line(&format!("\n{} records acknowledged, none lost, none doubled.", output::count(records)))?;
    if exit {
        return Ok(());
    }
    serve_on(&next_steps(processes)).await
}

/// Commands to try with the brokers that serve on.
fn next_steps(processes: &Processes) -> Vec<String> {
    let (kafka, admin) = (processes.bootstrap(), processes.admin());
    vec![
        String::new(),
        "The brokers serve on (Ctrl-C ends them and removes their data). Try:".to_owned(),
        format!("  tidewater cluster health --admin {admin}"),
        format!("  tidewater cluster partitions --admin {admin}"),
        format!("  tidewater cluster transfer-leadership {TOPIC}:0 2 --admin {admin}"),
        format!("  kcat -b {kafka} -L"),
    ]
}

/// What one writer was answered.
#[derive(Clone, Copy, Debug, Default)]
struct Answered {
    written: Written,
    /// The longest time from sending a batch to its acknowledgement.
    longest: Duration,
    /// The usual one: the mean before the kill.
    usual: Duration,
}

async fn write_and_kill(processes: &mut Processes, client: &mut Client) -> Result<BTreeMap<i32, Answered>, DemoError> {
    let phase = Phase::begin("writing, while the leader of most partitions is killed", None);
    let begun = Instant::now();
    let mut writers = JoinSet::new();
    for partition in 0..PARTITIONS {
        let producer = Producer::new(Client::connect(&processes.bootstrap()).await?, TOPIC, Compression::None).await?;
        writers.spawn(write(producer, partition, begun, phase.clone()));
    }
    sleep(BEFORE).await;
    let mut led: BTreeMap<i32, usize> = BTreeMap::new();
    for partition in client.topic(TOPIC).await?.partitions {
        *led.entry(partition.leader).or_default() += 1;
    }
    let (victim, leads) = led.into_iter().max_by_key(|(_, leads)| *leads).unwrap_or((1, 0));
    processes.kill(victim)?;
    let mut answered = BTreeMap::new();
    while let Some(done) = writers.join_next().await {
        let (partition, done) = done??;
        answered.insert(partition, done);
    }
    let of = |read: fn(&Answered) -> Duration| answered.values().map(read).max().unwrap_or_default();
    let records: u64 = answered.values().map(|partition| partition.written.end).sum();
    phase.done(&format!(
        "broker {victim}, the leader of {leads} of {PARTITIONS} partitions, was killed; {} records were acknowledged all the same",
        output::count(records)
    ));
    output::line(&format!(
        "    a batch waited {} at most; without the kill about {}",
        seconds(of(|partition| partition.longest)),
        seconds(of(|partition| partition.usual))
    ))?;
    Ok(answered)
}

/// Writes paced batches until the time is over; every batch must follow the one before.
async fn write(
    mut producer: Producer,
    partition: i32,
    begun: Instant,
    phase: Phase,
) -> Result<(i32, Answered), DemoError> {
    let mut acknowledged = Acknowledged { partition, next: 0, phase };
    let (mut sum, mut at, mut answered) = (Checksum::default(), 0, Answered::default());
    let (mut before, mut count) = (Duration::ZERO, 0);
    let mut due = Instant::now();
    while begun.elapsed() < BEFORE + AFTER {
        let now = wall();
        let batch: Vec<_> = (at..at + BATCH_RECORDS).map(|offset| order(partition, offset, now)).collect();
        batch.iter().zip(at..).for_each(|(record, offset)| sum.take_record(offset, record));
        at += BATCH_RECORDS;
        let sent = Instant::now();
        producer.send(partition, batch).await?;
        for done in producer.flush().await? {
            acknowledged.take(done)?;
        }
        let waited = sent.elapsed();
        answered.longest = answered.longest.max(waited);
        if begun.elapsed() < BEFORE {
            (before, count) = (before + waited, count + 1);
        }
        // Time lost to an election is not made up for.
        due = (due + PACE).max(Instant::now());
        tokio::time::sleep_until(due).await;
    }
    answered.usual = before / count.max(1);
    answered.written = Written { start: 0, end: acknowledged.next, sum };
    Ok((partition, answered))
}

/// Reads the log from the brokers that are left and compares it with what was acknowledged.
async fn compare(processes: &Processes, written: &BTreeMap<i32, Answered>) -> Result<(), DemoError> {
    let records = written.values().map(|partition| partition.written.end).sum();
    let phase = Phase::begin("reading from the other brokers", Some(records));
    let mut readers = JoinSet::new();
    for (partition, of) in written {
        let client = Client::connect(&processes.bootstrap()).await?;
        let bounds = (0, of.written.end);
        readers.spawn(read::read(client, TOPIC, *partition, bounds, of.written, phase.clone()));
    }
    let mut differences = Vec::new();
    while let Some(done) = readers.join_next().await {
        let (partition, found) = done??;
        let expected = written.get(&partition).map(|of| of.written).unwrap_or_default();
        if found.records != expected.end || found.holes > 0 || found.sum != expected.sum {
            differences.push(format!(
                "partition {partition}: {} records were acknowledged, {} are there, {} at an unexpected offset",
                expected.end, found.records, found.holes
            ));
        }
    }
    if !differences.is_empty() {
        return Err(DemoError::Differs(differences.join("; ")));
    }
    phase.done(&format!("{} records read from the other brokers: all that were acknowledged", output::count(records)));
    Ok(())
}
