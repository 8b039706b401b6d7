//! `tidewater demo --disaster`: a cluster under load loses every broker and every disk and comes back from its bucket,
//! while another cluster, a replica, reads the same bucket. Each claim is checked before it is printed.
//!
//! Owns: the order of the steps. Clients and what they were answered: `load`, `ledger`; comparing a log: `check`; the
//! text of the end: `report`.
//!
//! Brokers start → writers, and a group that commits → `tidewater replica create` → kill -9 of all brokers of the
//! source, their disks deleted → the replica is read → `tidewater restore` into an empty directory → records, offsets,
//! topic id and group are compared → writes go on → the replica has them, too.

mod check;
mod ledger;
mod load;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::Compression;
use tokio::time::{Instant, sleep};

use super::content::order;
use super::error::DemoError;
use super::processes::{Processes, Run};
use super::progress::Phase;
use super::write::Acknowledged;
use super::{TOPIC, bounds, output, seconds, serve_on, signalled};
use crate::client::{Client, NewTopic, Producer};
use crate::config::node::NodeConfig;
use crate::console::admin;
use check::{Expected, check};
use load::{Ledgers, Load};
use report::Shown;

const GROUP: &str = "billing";
const PARTITIONS: i32 = 4;
const BATCH_RECORDS: u64 = 100;
/// Batches of each partition after the restore.
const BATCHES_AFTER: u64 = 25;
/// How much an archive lags behind its cluster, and so what a disaster costs. The default is 10 s.
const LAG: (&str, &str) = ("archive.lag.ms", "1000");
/// The topic of committed offsets. It keeps the default lag, since its settings cannot be changed.
const OFFSETS: &str = "__consumer_offsets";
/// How long is written before the kill, once the replica follows and a commit is archived.
const LOAD: Duration = Duration::from_secs(4);
/// How long a step may take that takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a replica cluster may take to follow a restored one: it looks for a restore each minute.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(120);
/// How long a broker may take to open the bucket.
const BUCKET_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// The two clusters.
struct Clusters {
    /// Is lost and restored.
    source: Processes,
    replica: Processes,
}

/// Runs the demo with `brokers` brokers and one of the replica cluster; with `exit` it ends them and returns after it.
///
/// # Errors
/// A broker does not start, a step takes too long, or something is not as it was.
pub(super) fn run(config: &NodeConfig, brokers: u16, exit: bool) -> Result<(), DemoError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(DemoError::Runtime)?;
    let mut run = Run::new(config, "disaster");
    let bucket = bucket(config, &run);
    let ended = runtime.block_on(async {
        tokio::select! {
            // First, so that no broker is started that a signal would leave behind, or whose end by it is an error.
            biased;
            signal = signalled() => signal,
            ended = journey_and_serve(config, &mut run, &bucket, (brokers, exit)) => ended,
        }
    });
    drop(runtime);
    if !config.bucket_is_embedded {
        eprintln!("tidewater: the demo's objects stay in {bucket}; delete them if they are of no use");
    }
    run.end(ended)
}

/// The run's directory, or a prefix of this run in the bucket that was given.
fn bucket(config: &NodeConfig, run: &Run) -> String {
    match config.bucket_is_embedded {
        true => run.bucket("bucket"),
        false => format!("{}/demo-{}", config.bucket.trim_end_matches('/'), uuid::Uuid::new_v4().simple()),
    }
}

async fn journey_and_serve(
    config: &NodeConfig,
    run: &mut Run,
    bucket: &str,
    (brokers, exit): (u16, bool),
) -> Result<(), DemoError> {
    let phase = Phase::begin("starting a cluster, and a replica cluster", None);
    let own = run.bucket("replica-bucket");
    let mut clusters = Clusters {
        source: Processes::start(config, run, bucket, ("broker", brokers))?,
        replica: Processes::start(config, run, &own, ("replica", 1))?,
    };
    clusters.source.wait_healthy(PATIENCE).await?;
    clusters.replica.wait_healthy(PATIENCE).await?;
    wait_bucket(&mut clusters.source, bucket).await?;
    phase.done(&format!("a cluster of {} and a replica cluster run", report::brokers(clusters.source.len())));
    let shown = journey(&mut clusters).await?;
    report::summary(&shown).iter().try_for_each(|line| output::line(line))?;
    if exit {
        return Ok(());
    }
    serve_on(&report::next_steps(&clusters.source, &clusters.replica)).await
}

/// Waits until the bucket can be used. A broker serves without it, too.
async fn wait_bucket(source: &mut Processes, bucket: &str) -> Result<(), DemoError> {
    let begun = Instant::now();
    loop {
        source.check_running()?;
        let state = match admin::get(source.admin(), "/v1/cluster").await {
            Ok(Some(status)) => status.get("bucket_state").and_then(Value::as_str).unwrap_or("not shown").to_owned(),
            Ok(None) => "not shown".to_owned(),
            Err(error) => format!("not shown: {error}"),
        };
        if state == "open" {
            return Ok(());
        }
        if begun.elapsed() > BUCKET_PATIENCE {
            let why = format!("the bucket {bucket}: {state}");
            return Err(DemoError::Stalled { step: "opening the bucket", after: BUCKET_PATIENCE, why });
        }
        sleep(LOOK).await;
    }
}

async fn journey(clusters: &mut Clusters) -> Result<Shown, DemoError> {
    let mut client = Client::connect(&clusters.source.bootstrap()).await?;
    let factor = i16::try_from(clusters.source.len()).unwrap_or(1).min(3);
    client.create_topic(&new_topic(factor)).await?;
    let id = client.topic(TOPIC).await?.id;
    drop(client);
    let (load, phase) = write_and_follow(clusters).await?;
    let killed = Instant::now();
    clusters.source.kill_all()?;
    let ledgers = load.end().await;
    let acknowledged = ledgers.acknowledged();
    phase.done(&format!(
        "{} records written, {} commits of group {GROUP}; a replica cluster followed the bucket meanwhile",
        output::count(acknowledged),
        ledgers.group.acknowledged()
    ));
    output::line(&format!("    tidewater replica create {} --topics {TOPIC}", clusters.source.from()))?;
    let phase = Phase::begin("deleting the disks of the killed brokers", None);
    let deleted_bytes = clusters.source.delete_disks()?;
    phase.done(&format!(
        "{} killed under that load with kill -9, {} on disk deleted",
        report::brokers(clusters.source.len()),
        output::bytes(deleted_bytes)
    ));
    let replica_alone = read_replica(clusters, &ledgers).await?;

    let begun = Instant::now();
    let (ends, epoch) = restore(clusters).await?;
    let restore = begun.elapsed();
    let (mut expected, restored) = serve_restored(clusters, &ledgers, &ends, &id).await?;
    let read_again = begun.elapsed();
    let group = compare_group(clusters, &ledgers, &ends).await?;
    let since_kill = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| killed.saturating_duration_since(at));
    let lost = || ends.iter().filter_map(|(n, end)| Some(ledgers.partitions.get(n)?.lost(*end)));
    let shown = Shown {
        brokers: clusters.source.len(),
        deleted_bytes,
        acknowledged,
        restored,
        lost: lost().map(|lost| lost.records).sum(),
        rpo: lost().map(|lost| since_kill(lost.since)).max().unwrap_or_default(),
        group_rpo: since_kill(ledgers.group.lost_since(group)),
        restore,
        read_again,
        grown: grow(clusters).await?,
        replica_alone,
        more: write_on(clusters, &mut expected).await?,
        replica_lag: Duration::ZERO,
        epoch,
    };
    let replica_lag = follow_on(clusters, &expected, &id).await?;
    Ok(Shown { replica_lag, ..shown })
}

fn new_topic(replication_factor: i16) -> NewTopic {
    NewTopic {
        name: TOPIC.into(),
        partitions: Some(PARTITIONS),
        replication_factor: Some(replication_factor),
        configs: vec![(LAG.0.to_owned(), LAG.1.to_owned())],
    }
}

/// Starts the load and the replica; returns once both have run side by side for a while. The load goes on.
async fn write_and_follow(clusters: &mut Clusters) -> Result<(Load, Phase), DemoError> {
    let phase = Phase::begin("writing, with a group that commits, and archiving", None);
    let mut load = Load::start(&clusters.source.bootstrap(), &phase).await?;
    let begun = Instant::now();
    while load.ledgers().group.acknowledged() == 0 {
        work(clusters, &mut load).await?;
        within(begun, "the group's first commit", || "no commit was acknowledged".to_owned())?;
    }
    wait_offsets(clusters, &mut load, Wait { of: Side::Source, topic: TOPIC, key: "archived_end_offset" }).await?;
    clusters.replica.follow(&clusters.source, TOPIC).await?;
    wait_offsets(clusters, &mut load, Wait { of: Side::Replica, topic: TOPIC, key: "high_watermark" }).await?;
    wait_offsets(clusters, &mut load, Wait { of: Side::Source, topic: OFFSETS, key: "archived_end_offset" }).await?;
    let until = Instant::now() + LOAD;
    while Instant::now() < until {
        work(clusters, &mut load).await?;
    }
    Ok((load, phase))
}

/// Lets the clients work for a moment. If a broker has ended, that is the error, and not what its clients met.
async fn work(clusters: &mut Clusters, load: &mut Load) -> Result<(), DemoError> {
    let worked = load.work(LOOK).await;
    clusters.source.check_running()?;
    clusters.replica.check_running()?;
    worked
}

/// An error once a step has taken longer than [`PATIENCE`]; `seen` says how far it came.
fn within(begun: Instant, step: &'static str, seen: impl FnOnce() -> String) -> Result<(), DemoError> {
    match begun.elapsed() > PATIENCE {
        true => Err(DemoError::Stalled { step, after: PATIENCE, why: seen() }),
        false => Ok(()),
    }
}

#[derive(Clone, Copy, Debug)]
enum Side {
    Source,
    Replica,
}

/// An offset that is to be above 0: in each partition of the demo's topic, in one of the topic of committed offsets,
/// since the group has one.
#[derive(Clone, Copy, Debug)]
struct Wait {
    of: Side,
    topic: &'static str,
    key: &'static str,
}

/// Waits, under load, until the admin port shows what is waited for.
async fn wait_offsets(clusters: &mut Clusters, load: &mut Load, wait: Wait) -> Result<(), DemoError> {
    let (begun, wanted) = (Instant::now(), if wait.topic == TOPIC { PARTITIONS as usize } else { 1 });
    let step = match wait.of {
        Side::Source => "archiving",
        Side::Replica => "the replica cluster",
    };
    loop {
        let processes = match wait.of {
            Side::Source => &clusters.source,
            Side::Replica => &clusters.replica,
        };
        let found = admin::get(processes.admin(), &format!("/v1/topics/{}", wait.topic)).await?.unwrap_or_default();
        let partitions = found.get("partitions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let offsets: Vec<u64> = partitions.iter().filter_map(|found| found.get(wait.key)?.as_u64()).collect();
        if offsets.iter().filter(|offset| **offset > 0).count() >= wanted {
            return Ok(());
        }
        within(begun, step, || format!("{} of the partitions of topic {}: {offsets:?}", wait.key, wait.topic))?;
        work(clusters, load).await?;
    }
}

/// Reads what the replica cluster has, while no broker of the source runs; how many records.
async fn read_replica(clusters: &Clusters, ledgers: &Ledgers) -> Result<u64, DemoError> {
    let phase = Phase::begin("reading from the replica cluster alone", None);
    let bootstrap = clusters.replica.bootstrap();
    let ends = ends(&bootstrap).await?;
    let expected = expected("the replica cluster", ledgers, &ends)?;
    let records = check("the replica cluster", &bootstrap, &expected, &phase).await?;
    phase.done(&format!(
        "{} records read from the replica cluster, while no broker of the source runs",
        output::count(records)
    ));
    Ok(records)
}

/// The end of each partition, as Kafka's ListOffsets says.
async fn ends(bootstrap: &str) -> Result<BTreeMap<i32, u64>, DemoError> {
    let mut client = Client::connect(bootstrap).await?;
    let partitions: Vec<i32> = (0..PARTITIONS).collect();
    Ok(bounds(&mut client, TOPIC, &partitions)
        .await?
        .into_iter()
        .map(|(partition, (_, end))| (partition, end))
        .collect())
}

/// The logs that end at `ends`, as they were written.
fn expected(whose: &str, ledgers: &Ledgers, ends: &BTreeMap<i32, u64>) -> Result<Expected, DemoError> {
    let of = |(partition, end): (&i32, &u64)| {
        let sum = ledgers.partitions.get(partition).and_then(|ledger| ledger.sum(*end));
        let never = || format!("{whose}: partition {partition} ends at {end}, where no batch ended");
        Ok((*partition, (*end, sum.ok_or_else(|| DemoError::NotRestored(never()))?)))
    };
    ends.iter().map(of).collect()
}

/// The ends that the restore reports, and the new epoch.
async fn restore(clusters: &Clusters) -> Result<(BTreeMap<i32, u64>, u64), DemoError> {
    let phase = Phase::begin("tidewater restore", None);
    let printed = clusters.source.restore_first().await?;
    let silent = |what: String| DemoError::Silent { of: "tidewater restore --json", what };
    let ends = restored_ends(&printed);
    let ends = ends.ok_or_else(|| silent(format!("the ends of the partitions of topic {TOPIC}")))?;
    let epoch = printed.get("epoch").and_then(Value::as_u64).ok_or_else(|| silent("the epoch".to_owned()))?;
    phase.done(&format!("the cluster is restored into epoch {epoch}"));
    let (from, dir) = (clusters.source.from(), clusters.source.first_dir().display());
    output::line(&format!("    tidewater restore {from} --data-dir {dir}"))?;
    Ok((ends, epoch))
}

/// From the JSON of a restore; `None` if it does not name each partition.
fn restored_ends(printed: &Value) -> Option<BTreeMap<i32, u64>> {
    let topics = printed.get("report")?.get("topics")?.as_array()?;
    let topic = topics.iter().find(|topic| topic.get("name").and_then(Value::as_str) == Some(TOPIC))?;
    let of = |partition: &Value| {
        Some((i32::try_from(partition.get("partition")?.as_i64()?).ok()?, partition.get("end")?.as_u64()?))
    };
    let ends = topic.get("partitions")?.as_array()?.iter().map(of).collect::<Option<BTreeMap<_, _>>>()?;
    (0..PARTITIONS).all(|partition| ends.contains_key(&partition)).then_some(ends)
}

/// Starts the restored broker and compares topic and records.
async fn serve_restored(
    clusters: &mut Clusters,
    ledgers: &Ledgers,
    ends: &BTreeMap<i32, u64>,
    id: &str,
) -> Result<(Expected, u64), DemoError> {
    let phase = Phase::begin("starting the restored broker, reading everything", Some(ends.values().sum()));
    clusters.source.start_first()?;
    clusters.source.wait_healthy(PATIENCE).await?;
    let bootstrap = clusters.source.bootstrap();
    same_id("the restored cluster", &bootstrap, id).await?;
    let expected = expected("the restored cluster", ledgers, ends)?;
    let records = check("the restored cluster", &bootstrap, &expected, &phase).await?;
    let found = self::ends(&bootstrap).await?;
    if found != *ends {
        return Err(DemoError::NotRestored(format!(
            "the restore reported the ends {ends:?}, the logs end at {found:?}"
        )));
    }
    phase.done(&format!("{} records read from the restored cluster, each at its offset", output::count(records)));
    Ok((expected, records))
}

async fn same_id(whose: &str, bootstrap: &str, id: &str) -> Result<(), DemoError> {
    let found = Client::connect(bootstrap).await?.topic(TOPIC).await?.id;
    if found == id {
        Ok(())
    } else {
        Err(DemoError::NotRestored(format!("{whose}: topic {TOPIC} had id {id}, and has {found}")))
    }
}

/// Which of its commits the group came back with.
async fn compare_group(clusters: &Clusters, ledgers: &Ledgers, ends: &BTreeMap<i32, u64>) -> Result<usize, DemoError> {
    let restored = committed(&clusters.source.bootstrap()).await?;
    let which = ledgers.group.which(&restored, ends);
    which.ok_or_else(|| DemoError::NotRestored(format!("group {GROUP} never committed {restored:?}")))
}

/// The group's offsets by partition.
async fn committed(bootstrap: &str) -> Result<BTreeMap<i32, u64>, DemoError> {
    let offsets = Client::connect(bootstrap).await?.group_offsets(GROUP).await?;
    Ok(offsets.into_iter().filter(|found| found.topic == TOPIC).map(|found| (found.partition, found.offset)).collect())
}

/// The other brokers join with empty disks and get replicas of everything; how long that took.
async fn grow(clusters: &mut Clusters) -> Result<Option<Duration>, DemoError> {
    let brokers = clusters.source.len();
    if brokers == 1 {
        return Ok(None);
    }
    let phase = Phase::begin("starting the other brokers on empty disks", None);
    let begun = Instant::now();
    clusters.source.start_all()?;
    clusters.source.wait_healthy(PATIENCE).await?;
    clusters.source.grow().await?;
    clusters.source.wait_healthy(PATIENCE).await?;
    phase.done(&format!("{brokers} brokers again: tidewater cluster grow gave every partition its replicas"));
    Ok(Some(begun.elapsed()))
}

/// Writes to each partition, and commits; how many records.
async fn write_on(clusters: &Clusters, expected: &mut Expected) -> Result<u64, DemoError> {
    let more = BATCHES_AFTER * BATCH_RECORDS * PARTITIONS as u64;
    let phase = Phase::begin("writing to the restored cluster", Some(more));
    let bootstrap = clusters.source.bootstrap();
    let mut producer = Producer::new(Client::connect(&bootstrap).await?, TOPIC, Compression::None).await?;
    for (partition, (end, sum)) in expected.iter_mut() {
        // Each batch must follow the one before, the first the restored end.
        let mut acknowledged = Acknowledged { partition: *partition, next: *end, phase: phase.clone() };
        for _ in 0..BATCHES_AFTER {
            let (from, now) = (*end, wall());
            *end += BATCH_RECORDS;
            let batch: Vec<_> = (from..*end).map(|offset| order(*partition, offset, now)).collect();
            batch.iter().zip(from..).for_each(|(record, offset)| sum.take_record(offset, record));
            producer.send(*partition, batch).await?;
            for done in producer.flush().await? {
                acknowledged.take(done)?;
            }
        }
    }
    let offsets: BTreeMap<i32, u64> = expected.iter().map(|(partition, (end, _))| (*partition, *end)).collect();
    let commit: Vec<(i32, u64)> = offsets.clone().into_iter().collect();
    Client::connect(&bootstrap).await?.commit(GROUP, TOPIC, &commit).await?;
    let found = committed(&bootstrap).await?;
    if found != offsets {
        return Err(DemoError::NotRestored(format!("group {GROUP} committed {offsets:?} and has {found:?}")));
    }
    phase.done(&format!("{} records written after them; group {GROUP} commits", output::count(more)));
    Ok(more)
}

/// Waits until the replica has what was written after the restore, and compares both clusters; how long it took.
async fn follow_on(clusters: &mut Clusters, expected: &Expected, id: &str) -> Result<Duration, DemoError> {
    let phase = Phase::begin("the replica cluster follows the restored one", None);
    let begun = Instant::now();
    let bootstrap = clusters.replica.bootstrap();
    let wanted: BTreeMap<i32, u64> = expected.iter().map(|(partition, (end, _))| (*partition, *end)).collect();
    loop {
        let found = ends(&bootstrap).await;
        if found.as_ref().is_ok_and(|found| *found == wanted) {
            break;
        }
        clusters.replica.check_running()?;
        clusters.source.check_running()?;
        if begun.elapsed() > FOLLOW_PATIENCE {
            let found = found?;
            let why = format!("its logs end at {found:?}, those of the restored cluster at {wanted:?}");
            return Err(DemoError::Stalled { step: "the replica cluster", after: FOLLOW_PATIENCE, why });
        }
        sleep(LOOK).await;
    }
    let took = begun.elapsed();
    same_id("the replica cluster", &bootstrap, id).await?;
    let records = check("the replica cluster", &bootstrap, expected, &phase).await?;
    check("the restored cluster", &clusters.source.bootstrap(), expected, &phase).await?;
    phase.done(&format!(
        "the replica cluster follows the restored one and has the same {} records, after {}",
        output::count(records),
        seconds(took)
    ));
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::super::content::Checksum;
    use super::*;

    #[test]
    fn ends_are_those_of_the_topic_with_each_of_its_partitions() {
        let partition = |n: i32| serde_json::json!({ "partition": n, "end": n * 10 });
        let printed = |name: &str, partitions: i32| {
            let partitions = (0..partitions).map(partition).collect::<Vec<_>>();
            serde_json::json!({ "report": { "topics": [
                { "name": "other", "partitions": [] }, { "name": name, "partitions": partitions },
            ] } })
        };
        let ends = BTreeMap::from([(0, 0), (1, 10), (2, 20), (3, 30)]);
        assert_eq!(restored_ends(&printed(TOPIC, PARTITIONS)), Some(ends));
        assert_eq!(restored_ends(&printed(TOPIC, PARTITIONS - 1)), None);
        assert_eq!(restored_ends(&printed("orders", PARTITIONS)), None);
        assert_eq!(restored_ends(&serde_json::json!({ "report": null })), None);
    }

    #[test]
    fn an_end_that_no_batch_had_is_an_error() {
        let mut ledgers = Ledgers::default();
        ledgers.partitions.entry(0).or_default().send(100, Checksum(3));
        let ends = |end| BTreeMap::from([(0, end)]);
        assert_eq!(
            expected("it", &ledgers, &ends(100)).expect("was written"),
            Expected::from([(0, (100, Checksum(3)))])
        );
        let error = expected("it", &ledgers, &ends(99)).expect_err("within a batch").to_string();
        assert!(error.contains("partition 0 ends at 99"), "{error}");
    }
}
