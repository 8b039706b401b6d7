//! Three brokers beside three of Apache Kafka on this machine: factor 3, `min.insync.replicas` 2, acks=all.
//!
//! Load is Kafka's `ProducerPerformance`, which follows leaders: at full speed for megabytes per processor second, all
//! brokers added up, and paced for the latency that a producer sees.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tidewater::client::{Client, NewTopic};

use super::Run;
use super::machine::cpu_of;
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::kafka::Kafka;
use super::support::maven;

const PARTITIONS: i32 = 16;
/// Of the rows at full speed and of the paced row.
const RECORDS: u64 = 200_000;
const PACED_RECORDS: u64 = 20_000;
/// Records a second of the paced row.
const PACE: u64 = 1000;

/// A column: a cluster with the settings of its topics.
struct Column<'a> {
    name: &'static str,
    bootstrap: &'a str,
    pids: &'a [u32],
    configs: &'static [(&'static str, &'static str)],
}

/// One run.
#[derive(Clone, Copy, Default)]
struct Figure {
    per_cpu: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

pub fn run(run: &Run, dir: &Path) {
    if run.small {
        println!("needs a JVM: not tried");
        return;
    }
    let options = ClusterOptions {
        bucket: Some(format!("file://{}", dir.join("bucket").display())),
        ..ClusterOptions::default()
    };
    let ours = Cluster::start(&dir.join("ours"), 3, &options);
    ours.wait_healthy(Duration::from_secs(60));
    let theirs = Kafka::start_cluster(&dir.join("kafka"), "512m", 3);
    let our_pids: Vec<u32> = (0..3).map(|n| ours.broker(n).pid()).collect();
    let their_pids: Vec<u32> = theirs.iter().map(Kafka::pid).collect();
    let their_bootstrap = theirs.iter().map(|kafka| kafka.addr.as_str()).collect::<Vec<_>>().join(",");
    let our_bootstrap = ours.bootstrap();
    let (mine, other) = ((our_bootstrap.as_str(), &our_pids[..]), (their_bootstrap.as_str(), &their_pids[..]));
    let column = |name, (bootstrap, pids), configs| Column { name, bootstrap, pids, configs };
    let columns = [
        column("Kafka", other, &[("min.insync.replicas", "2")]),
        column("ours", mine, &[("min.insync.replicas", "2"), ("remote.storage.enable", "false")]),
        column("Kafka flushed", other, &[("min.insync.replicas", "2"), ("flush.messages", "1")]),
        column("ours, tiered", mine, &[("min.insync.replicas", "2")]),
    ];
    println!(
        "MB per second of the brokers' processor time (MB/s of wall time); paced: p50 / p99 of {PACE} records a second\n"
    );
    println!("| work | {} |", columns.iter().map(|column| column.name).collect::<Vec<_>>().join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    let fast = measure(run, &columns, "fast", RECORDS, None);
    let cells: Vec<String> =
        fast.iter().map(|f| format!("{:.1} ({:.1})", f.per_cpu / 1e6, f.per_second / 1e6)).collect();
    println!("| ProducerPerformance, {PARTITIONS} partitions | {} |", cells.join(" | "));
    let paced = measure(run, &columns, "paced", PACED_RECORDS, Some(PACE));
    let cells: Vec<String> = paced.iter().map(|f| format!("{:.0} / {:.0} ms", f.p50_ms, f.p99_ms)).collect();
    println!("| paced, {PARTITIONS} partitions | {} |", cells.join(" | "));
    let of = |n: usize, other: usize| fast[n].per_cpu / fast[other].per_cpu;
    println!("\nours ÷ Kafka {:.2}, ours ÷ Kafka flushed {:.2} (goals 2 and 3)", of(1, 0), of(1, 2));
}

/// Medians by processor time, or by p99 if paced, after a round of warm-up; columns in turn.
fn measure(run: &Run, columns: &[Column<'_>], what: &str, records: u64, pace: Option<u64>) -> Vec<Figure> {
    let mut taken: Vec<Vec<Figure>> = columns.iter().map(|_| Vec::new()).collect();
    for round in 0..=run.rounds {
        for (n, column) in columns.iter().enumerate() {
            let topic = format!("{what}-{n}-{round}");
            let figure = one(column, &topic, records, pace);
            if round > 0 {
                taken[n].push(figure);
            }
        }
    }
    let median = |mut figures: Vec<Figure>| {
        figures.sort_by(|a, b| match pace {
            Some(_) => a.p99_ms.total_cmp(&b.p99_ms),
            None => a.per_cpu.total_cmp(&b.per_cpu),
        });
        figures[figures.len() / 2]
    };
    taken.into_iter().map(median).collect()
}

fn one(column: &Column<'_>, topic: &str, records: u64, pace: Option<u64>) -> Figure {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let configs = column.configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let new = NewTopic { name: topic.to_owned(), partitions: Some(PARTITIONS), replication_factor: Some(3), configs };
    runtime.block_on(async {
        let mut client = Client::connect(column.bootstrap).await.expect("connects");
        client.create_topic(&new).await.expect("the topic is made");
    });
    // Leaders are spread by then, and what the last run left is done.
    std::thread::sleep(Duration::from_secs(2));
    let cpu = || column.pids.iter().map(|pid| cpu_of(*pid)).sum::<Duration>();
    let (before, begun) = (cpu(), Instant::now());
    let output = Command::new(maven::java17().join("bin/java"))
        .args(["-Xmx512m", "-cp", &format!("{}/*", maven::jars("kafka").display())])
        .args(["org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", &records.to_string()])
        .args(["--record-size", "1024", "--throughput", &pace.map_or("-1".to_owned(), |pace| pace.to_string())])
        .arg("--command-property")
        .arg(format!("bootstrap.servers={}", column.bootstrap))
        .args(["acks=all", "batch.size=131072", "linger.ms=5"])
        .output()
        .expect("java runs");
    let (wall, used) = (begun.elapsed(), cpu().saturating_sub(before));
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    // "200000 records sent, 31234.5 records/sec (30.50 MB/sec), 12.3 ms avg latency, 301.00 ms max latency, 8 ms 50th,
    // …"
    let last = printed.lines().rfind(|line| line.starts_with(&format!("{records} records sent")));
    let last = last.unwrap_or_else(|| panic!("{printed}\n{}", String::from_utf8_lossy(&output.stderr)));
    let number = |suffix: &str| {
        let part = last.split(", ").find(|part| part.trim_end_matches('.').ends_with(suffix));
        part.and_then(|part| part.split(' ').next()?.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let rate = last.split(", ").nth(1).and_then(|part| part.split(' ').next()?.parse::<f64>().ok());
    let seconds = rate.map_or(wall.as_secs_f64(), |rate| records as f64 / rate);
    runtime.block_on(async {
        let mut client = Client::connect(column.bootstrap).await.expect("connects");
        client.delete_topic(topic).await.expect("the topic is deleted");
    });
    let bytes = (records * 1024) as f64;
    Figure {
        per_cpu: bytes / used.as_secs_f64().max(0.01),
        per_second: bytes / seconds,
        p50_ms: number("50th"),
        p99_ms: number("99th"),
    }
}
