//! `tidewater demo`: a record's way from producer to bucket and table in one process; each claim is checked before it
//! is printed.
//!
//! Broker starts → topic → records written over the Kafka protocol (`write`) → archived and trimmed from the local disk
//! (`wait`) → read back from the bucket and compared (`read`) → counted in the table (`table`) → Avro values as columns
//! (`typed`) → printed (`report`).
//! Owns: the order, the topic and its settings. No logic of the broker is here: the demo is a client of its own
//! process, over the Kafka, admin and catalog ports. Runs on its own tokio runtime, never on a shard.

#[cfg(feature = "lakehouse")]
mod audit;
mod broker;
mod cluster;
mod content;
mod disaster;
mod error;
mod processes;
mod progress;
mod read;
mod report;
mod table;
mod typed;
mod wait;
mod write;

use std::collections::BTreeMap;
use std::time::Duration;

pub use error::DemoError;

use crate::client::{Client, ClientError, NewTopic, OffsetQuery};
use crate::config::node::NodeConfig;
use crate::console::output;
use crate::node;
use broker::DemoBroker;
use progress::Phase;

const TOPIC: &str = "demo";
const PARTITIONS: i32 = 4;
/// Segments close and are archived soon, and archived bytes are trimmed from the local disk soon.
const SETTINGS: [(&str, &str); 6] = [
    ("segment.bytes", "4194304"),
    ("local.retention.bytes", "1048576"),
    ("local.retention.ms", "1000"),
    ("archive.lag.ms", "1000"),
    ("iceberg.mode", "key_value"),
    ("iceberg.target.lag.ms", "1000"),
];
/// Threads for the clients.
const WORKERS: usize = 2;

/// Offsets `[start, end)` of each partition.
type Bounds = BTreeMap<i32, (u64, u64)>;

/// Starts several brokers as one cluster and kills one of them under load: see [`cluster`].
///
/// # Errors
/// The cluster does not form, or a record is missing.
pub fn run_cluster(config: &NodeConfig, brokers: u16, exit: bool) -> Result<(), DemoError> {
    cluster::run(config, brokers, exit)
}

/// Starts a cluster, kills all its brokers, deletes their disks and restores it from its bucket: see [`disaster`].
///
/// # Errors
/// A broker does not start, or something does not come back.
pub fn run_disaster(config: &NodeConfig, brokers: u16, exit: bool) -> Result<(), DemoError> {
    disaster::run(config, brokers, exit)
}

/// Starts a broker, runs the demo with `records` records and serves on until SIGINT or SIGTERM; with `exit` it returns
/// after the demo.
///
/// # Errors
/// The broker does not start, a step makes no progress, or log, bucket and table differ.
pub fn run(config: NodeConfig, records: u64, exit: bool) -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let runtime = runtime.map_err(DemoError::Runtime)?;
    let phase = Phase::begin("starting a broker", None);
    let (bucket, name, data_dir) = (config.bucket.clone(), config.cluster_name.clone(), config.data_dir.clone());
    let running = node::start(config)?;
    let broker = DemoBroker::new(&running, bucket, name, data_dir);
    phase.done(&format!("broker serving Kafka on {}, data in {}", broker.kafka, broker.data_dir.display()));
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = journey_and_serve(&broker, records, exit) => ended,
            signal = signalled() => signal,
        }
    });
    drop(runtime);
    running.stop();
    match ended {
        Err(DemoError::Stopped) => Ok(()),
        ended => ended,
    }
}

async fn journey_and_serve(broker: &DemoBroker, records: u64, exit: bool) -> Result<(), DemoError> {
    journey(broker, records).await?;
    if exit {
        return Ok(());
    }
    serve_on(&report::next_steps(broker, TOPIC)).await
}

/// Prints commands to try, and waits for the signal that ends the demo.
async fn serve_on(next_steps: &[String]) -> Result<(), DemoError> {
    next_steps.iter().try_for_each(|line| output::line(line))?;
    signalled().await.map_err(|interrupted| match interrupted {
        DemoError::Interrupted => DemoError::Stopped,
        other => other,
    })
}

/// `49 ms`, `1.2 s`.
fn seconds(duration: Duration) -> String {
    match duration.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

async fn signalled() -> Result<(), DemoError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(DemoError::Runtime)?;
    let mut int = signal(SignalKind::interrupt()).map_err(DemoError::Runtime)?;
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    Err(DemoError::Interrupted)
}

async fn journey(broker: &DemoBroker, records: u64) -> Result<(), DemoError> {
    let mut client = Client::connect(&broker.kafka).await?;
    let partitions = ensure_topic(&mut client, TOPIC, PARTITIONS, &SETTINGS).await?;
    let before = bounds(&mut client, TOPIC, &partitions).await?;
    let written = write::run(broker, TOPIC, &before, records).await?;
    let log = bounds(&mut client, TOPIC, &partitions).await?;
    wait::archived(broker, TOPIC, &log).await?;
    wait::trimmed(broker, TOPIC, &log).await?;
    let read = read::run(broker, TOPIC, &log, &written).await?;
    let table = table::run(broker, TOPIC, &log, &written).await?;
    typed::run(broker).await?;
    let outcome = report::Outcome { before, written, log, read, table };
    report::print(&outcome)?;
    let differences = outcome.differences();
    if differences.is_empty() { Ok(()) } else { Err(DemoError::Differs(differences.join("; "))) }
}

/// Creates the topic, or checks that an existing one has the demo's settings. Returns its partitions.
async fn ensure_topic(
    client: &mut Client,
    topic: &'static str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> Result<Vec<i32>, DemoError> {
    let found = match client.topic(topic).await {
        Ok(found) => {
            for entry in client.topic_configs(topic).await? {
                let wanted = settings.iter().find(|(name, _)| *name == entry.name).map(|(_, value)| *value);
                let value = entry.value.unwrap_or_default();
                if wanted.is_some_and(|wanted| wanted != value) {
                    return Err(DemoError::NotOurs { topic, setting: entry.name, value });
                }
            }
            found
        }
        Err(ClientError::UnknownTopic(_)) => {
            let configs = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            client
                .create_topic(&NewTopic {
                    name: topic.into(),
                    partitions: Some(partitions),
                    configs,
                    ..NewTopic::default()
                })
                .await?;
            client.topic(topic).await?
        }
        Err(other) => return Err(other.into()),
    };
    Ok(found.partitions.iter().map(|partition| partition.partition).collect())
}

/// Log start and end of each partition, by Kafka's ListOffsets.
async fn bounds(client: &mut Client, topic: &str, partitions: &[i32]) -> Result<Bounds, DemoError> {
    let starts = client.list_offsets(topic, partitions, OffsetQuery::Earliest).await?;
    let ends: BTreeMap<_, _> = client.list_offsets(topic, partitions, OffsetQuery::Latest).await?.into_iter().collect();
    let bound = |(n, start): (i32, Option<u64>)| {
        let start = start.unwrap_or(0);
        (n, (start, ends.get(&n).copied().flatten().unwrap_or(start)))
    };
    Ok(starts.into_iter().map(bound).collect())
}

/// Records in `bounds`.
fn count(bounds: &Bounds) -> u64 {
    bounds.values().map(|(start, end)| end.saturating_sub(*start)).sum()
}
