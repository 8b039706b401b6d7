//! Kafka's own `ProducerPerformance`: what a Java user sees. 1 KiB records, batches of 128 KiB, linger 5 ms, acks=all.

use std::process::Command;
use std::time::Duration;

use super::Run;
use super::contender::{Contender, Field, Work};
use super::rows::{head, partition_counts, row};
use super::support::maven;

const RECORDS: u64 = 250_000;

pub fn run(run: &Run, field: &Field) {
    if run.small {
        println!("needs a JVM: not tried");
        return;
    }
    head(field);
    for partitions in partition_counts(run) {
        let figures = field.measure(run, "java", partitions, perform);
        row(field, &format!("ProducerPerformance, {partitions} partitions"), &figures, (1.5, 3.0));
    }
}

fn perform(contender: &Contender, topic: &str) -> Work {
    let output = Command::new(maven::java17().join("bin/java"))
        .args(["-Xmx512m", "-cp", &format!("{}/*", maven::jars("kafka").display())])
        .args(["org.apache.kafka.tools.ProducerPerformance", "--topic", topic, "--num-records", &RECORDS.to_string()])
        .args(["--record-size", "1024", "--throughput", "-1", "--command-property"])
        .arg(format!("bootstrap.servers={}", contender.addr))
        .args(["acks=all", "batch.size=131072", "linger.ms=5"])
        .output()
        .expect("java runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    // "400000 records sent, 123456.7 records/sec (120.56 MB/sec), …"
    let last = printed.lines().rfind(|line| line.starts_with(&format!("{RECORDS} records sent")));
    let rate = last.and_then(|line| line.split(", ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    let rate = rate.unwrap_or_else(|| panic!("{printed}\n{}", String::from_utf8_lossy(&output.stderr)));
    Work { bytes: RECORDS * 1024, wall: Some(Duration::from_secs_f64(RECORDS as f64 / rate)), ..Work::default() }
}
