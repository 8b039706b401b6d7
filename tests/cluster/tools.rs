//! The cluster as tools see it: Kafka's own, unchanged, and ours.

use std::time::Duration;

use tidewater::client::{Client, Producer};
use tidewater_storage::model::Compression;
use tidewater_storage::model::record::Record;

use super::clients::create;
use super::run;
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::maven;

const PATIENCE: Duration = Duration::from_secs(60);

/// Writes records one by one, round the partitions; how many.
pub fn produce(bootstrap: &str, topic: &str, partitions: i32, count: usize) -> usize {
    produce_of(bootstrap, topic, partitions, count, 0)
}

/// The same with values of at least so many bytes.
pub fn produce_of(bootstrap: &str, topic: &str, partitions: i32, count: usize, bytes: usize) -> usize {
    run(async {
        let client = Client::connect(bootstrap).await.expect("connects");
        let mut producer = Producer::new(client, topic, Compression::None).await.expect("a producer id");
        // Older records would be deleted by their age.
        let now = super::now();
        for n in 0..count {
            let value = bytes::Bytes::from(format!("value {n} {}", "v".repeat(bytes)));
            let record = Record::new(now, None, Some(value));
            producer.send(n as i32 % partitions, vec![record]).await.expect("sent");
        }
        producer.flush().await.expect("acknowledged");
    });
    count
}

/// A command of our own, against one broker.
pub fn cli(cluster: &Cluster, n: usize, args: &[&str]) -> String {
    let broker = cluster.broker(n);
    broker.cli(args)
}

#[test]
fn stock_tools_and_ours_show_and_change_the_cluster() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = ClusterOptions {
        bucket: Some(format!("file://{}", dir.path().join("bucket").display())),
        expected: super::EXPECTED.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), "orders", 6, &[]);
    produce(&cluster.bootstrap(), "orders", 6, 60);

    ours(&cluster);
    let mut java = maven::kafka_program("support/java/Tools.java");
    java.args(["cluster", &cluster.bootstrap()]);
    let output = java.output().expect("java runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{}", said.trim());
    assert!(output.status.success(), "{said}\n{}\n{}", String::from_utf8_lossy(&output.stderr), cluster.logs());
}

/// `cluster …` with and without `--json`.
fn ours(cluster: &Cluster) {
    let health = cli(cluster, 1, &["cluster", "health"]);
    assert!(health.contains("cluster     healthy") && health.contains("3, 3 reachable"), "{health}");
    let brokers: serde_json::Value =
        serde_json::from_str(&cli(cluster, 2, &["cluster", "brokers", "--json"])).expect("JSON");
    let rows = brokers.as_array().expect("a list");
    assert_eq!(rows.iter().filter(|row| row["reachable"] == true).count(), 3, "{brokers:#}");
    assert_eq!(rows.iter().filter(|row| row["controller"] == true).count(), 1, "{brokers:#}");
    assert!(cli(cluster, 0, &["cluster", "brokers"]).contains("rack-2"));
    let partitions = cli(cluster, 0, &["cluster", "partitions", "orders"]);
    assert_eq!(partitions.lines().count(), 7, "{partitions}");

    let leader = cluster.leader_of("orders", 0).expect("a leader") + 1;
    let to = leader % 3 + 1;
    let moved = cli(cluster, 0, &["cluster", "transfer-leadership", "orders:0", &to.to_string()]);
    assert!(moved.contains(&format!("broker {to} leads lane")), "{moved}");
    assert_eq!(cluster.leader_of("orders", 0), Some(to - 1));
    produce(&cluster.bootstrap(), "orders", 6, 12);
}
