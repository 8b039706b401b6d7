//! `rebuild`: a broker loses its disk and is started empty: what is copied, how long that takes, what producers
//! see.
//!
//! The measured partitions are led by the two others all the time, so that their latency shows the rebuild and not the
//! election that the loss itself costs.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewater::client::{Client, Producer};
use tidewater_storage::model::Compression;
use tidewater_storage::model::record::Record;

use crate::paced::{Latencies, Paced, now, print, run as run_client};
use crate::support::broker::{Broker, http_get};
use crate::support::cluster::Cluster;
use crate::{BROKERS, Line, PATIENCE, Run, leaders, ms, topics, wire};

const MIB: f64 = (1u64 << 20) as f64;
const ARCHIVED: &str = "archived";
const LOCAL: &str = "local";
const PACED: &str = "paced";
/// Twice the lanes of three brokers with one shard each, so that each lane has records in the bucket.
const PARTITIONS: i32 = 24;
const PACED_PARTITIONS: i32 = 16;
/// A record of a batch of nearly 1 MiB.
const RECORD: usize = (1 << 20) - 1024;
/// Longer than the interval of checkpoints, after which the journal is released.
const SETTLE: u64 = 15;
/// How long archiving and the rebuild may take.
const LONG_PATIENCE: Duration = Duration::from_secs(900);

/// Local segments go soon after they are in the bucket.
const ARCHIVED_SETTINGS: [(&str, &str); 3] =
    [("segment.bytes", "16777216"), ("local.retention.bytes", "33554432"), ("archive.lag.ms", "1000")];

pub fn run(run: &Run) -> Vec<Line> {
    let (archived_mib, local_mib) = (run.number("--gib", 1, 0) << 10, if run.small { 4 } else { 100 });
    let archived_mib = archived_mib.max(24);
    let rate = run.number("--rate", 1000, 200);
    let window = run.seconds("--seconds", 20, 1);
    let dir = run.dir("cluster-rebuild");
    let mut cluster = run.cluster(dir.path());
    let produced = fill_all(run, &cluster, archived_mib, local_mib).as_secs_f64();

    let lost = leaders::not_controller(&cluster);
    let partitions = leaders::led_by_others(&cluster, PACED, lost);
    let load = Paced::start(&leaders::bootstrap_without(&cluster, lost), PACED, &partitions, rate);
    std::thread::sleep(window / 4);
    let begun = Instant::now();
    std::thread::sleep(window);
    let killed = Instant::now();
    cluster.kill(lost);
    cluster.wipe(lost);
    wait_degraded(&cluster);
    std::thread::sleep(window.saturating_sub(killed.elapsed()));
    // An empty directory alone does not make it the same broker again: it would forget what it has acknowledged.
    cluster.options[lost].args.extend(["--replace".to_owned(), (lost + 1).to_string()]);
    let started = Instant::now();
    cluster.restart(lost);
    cluster.wait_ready();
    let ready = started.elapsed();
    cluster.wait_healthy(LONG_PATIENCE);
    let rebuilt = Instant::now();
    let broker = cluster.broker(lost);
    let copied = sum(broker, "tidewater_rebuild_copied_bytes_total");
    let replicas = sum(broker, "tidewater_rebuild_replicas_done_total");
    // Answers to its own requests are copies; requests of others are entries of the log.
    let entries = sum(broker, "tidewater_rpc_received_bytes_total");
    std::thread::sleep(window);
    let over = Instant::now();
    load.check();
    let samples = load.stop();

    let part = |from, to| Latencies::between(&samples, from, to);
    let (before, away, during, after) =
        (part(begun, killed), part(killed, started), part(started, rebuilt), part(rebuilt, over));
    println!(
        "{archived_mib} MiB in the bucket, {local_mib} MiB not; {rate} records a second over {} partitions that broker \
         {} does not lead\n",
        partitions.len(),
        lost + 1
    );
    print(&[("before", before), ("broker killed", away), ("while it is rebuilt", during), ("after", after)]);
    let seconds = (rebuilt - started).as_secs_f64();
    println!(
        "\nready after {:.1} s, healthy after {seconds:.1} s; {replicas:.0} replicas rebuilt, {:.1} MiB of batches \
         copied, {:.1} MiB received as requests of peers",
        ready.as_secs_f64(),
        copied / MIB,
        entries / MIB
    );
    if replicas == 0.0 {
        println!("No replica was copied: the others still had all entries in their logs, and sent these.");
    }
    let all = (archived_mib + local_mib) as f64;
    println!(
        "In words: of {all:.0} MiB the empty broker copied {:.0} MiB from its peers in {seconds:.1} s; meanwhile p99 \
         was {} instead of {}, {:.2} times.",
        copied / MIB,
        ms(during.p99),
        ms(before.p99),
        during.p99_over(&before)
    );
    vec![
        Line {
            what: format!("a wiped broker, {archived_mib} MiB in the bucket, {local_mib} MiB not: bytes copied"),
            figure: format!("{:.1} MiB", copied / MIB),
            beside: format!("all records: {all:.0} MiB"),
            ratio: format!("{:.2}", copied / MIB / all),
        },
        Line {
            what: "the same: start to healthy".to_owned(),
            figure: format!("{seconds:.1} s"),
            beside: format!("producing all of it: {produced:.1} s"),
            ratio: format!("{:.2}", seconds / produced),
        },
        Line {
            what: "the same: produce p99 meanwhile".to_owned(),
            figure: ms(during.p99),
            beside: format!("before: {}", ms(before.p99)),
            ratio: format!("{:.2}", during.p99_over(&before)),
        },
        Line {
            what: "the same: produce p99 with two brokers, before the start".to_owned(),
            figure: ms(away.p99),
            beside: format!("before: {}", ms(before.p99)),
            ratio: format!("{:.2}", away.p99_over(&before)),
        },
    ]
}

/// Makes the topics and their records; returns when the bucket has what belongs there and the journals are released.
/// Gives the time that producing took.
fn fill_all(run: &Run, cluster: &Cluster, archived_mib: u64, local_mib: u64) -> Duration {
    let mut wire = wire(cluster);
    topics::one(&mut wire, LOCAL, PARTITIONS, &[("remote.storage.enable", "false")]);
    topics::one(&mut wire, ARCHIVED, PARTITIONS, &ARCHIVED_SETTINGS);
    topics::one(&mut wire, PACED, PACED_PARTITIONS, &[]);
    let begun = Instant::now();
    // First, so that later records push them out of the journals: they are to be copied, not sent as entries.
    fill(&cluster.bootstrap(), LOCAL, local_mib);
    fill(&cluster.bootstrap(), ARCHIVED, archived_mib);
    let produced = begun.elapsed();
    wait_archived(cluster, archived_mib);
    println!(
        "{} MiB produced in {:.1} s, in the bucket after {:.1} s",
        archived_mib + local_mib,
        produced.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    std::thread::sleep(Duration::from_secs(if run.small { 1 } else { SETTLE }));
    cluster.wait_healthy(PATIENCE);
    cluster.wait_balanced(PACED, PATIENCE);
    produced
}

/// Batches of one record each, to the partitions in turn.
fn fill(bootstrap: &str, topic: &str, mib: u64) {
    let noise: Vec<u8> = (0..RECORD).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let value = Bytes::from(noise);
    run_client(async {
        let client = Client::connect(bootstrap).await.expect("connects");
        let mut producer = Producer::new(client, topic, Compression::None).await.expect("a producer id");
        for n in 0..mib {
            let partition = i32::try_from(n % u64::from(PARTITIONS.unsigned_abs())).expect("small");
            let record = Record::new(now(), None, Some(value.clone()));
            producer.send(partition, vec![record]).await.expect("sent");
        }
        producer.flush().await.expect("acknowledged");
    });
}

/// Waits until the bucket has every record of [`ARCHIVED`].
fn wait_archived(cluster: &Cluster, records: u64) {
    let begun = Instant::now();
    loop {
        let rows: Vec<serde_json::Value> = (0..BROKERS)
            .filter_map(|n| cluster.get_of(n, &format!("/v1/topics/{ARCHIVED}")))
            .flat_map(|topic| topic["partitions"].as_array().cloned().expect("a list of partitions"))
            .collect();
        let partitions = u64::from(PARTITIONS.unsigned_abs());
        let is_done = |partition: u64| {
            let written = records / partitions + u64::from(partition < records % partitions);
            let of = rows.iter().filter(|row| row["partition"] == partition);
            of.into_iter().any(|row| row["archived_end_offset"].as_u64() == Some(written))
        };
        if (0..partitions).all(is_done) {
            return;
        }
        assert!(begun.elapsed() < LONG_PATIENCE, "the bucket lags behind: {rows:#?}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Waits until the cluster reports that it lacks a broker.
fn wait_degraded(cluster: &Cluster) {
    let begun = Instant::now();
    while cluster.get("/v1/cluster/health").is_none_or(|health| health["status"] == "healthy") {
        assert!(begun.elapsed() < PATIENCE, "a broker was killed and the cluster is healthy\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A metric, summed over its labels.
fn sum(broker: &Broker, name: &str) -> f64 {
    let (_, text) = http_get(&broker.admin, "/metrics").expect("metrics");
    let samples = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
    let values = samples.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).expect("a number"));
    let values: Vec<f64> = values.collect();
    assert!(!values.is_empty(), "the broker shows no {name}");
    values.into_iter().sum()
}
