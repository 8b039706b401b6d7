//! Tables of followed topics in the replica cluster's catalog: read by PyIceberg and DuckDB, changed by neither.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::pair::{Pair, Side, batch};
use super::support::broker::http_get;
use super::support::python;
use super::support::wire::Wire;

/// How long the source may take to commit, and the replica cluster to see a topic come or go.
const SEEN: Duration = Duration::from_secs(90);
const SETTINGS: &[&str] =
    &["archive.lag.ms=200", "iceberg.mode=key_value", "iceberg.target.lag.ms=1000", "iceberg.delete=true"];

fn create(pair: &Pair, topic: &str) {
    let mut create = vec!["topic", "create", topic, "--partitions", "2"];
    SETTINGS.iter().for_each(|setting| create.extend(["--set", setting]));
    pair.source().cli(&create);
}

/// Appends records to both partitions, and waits until the source's table has them.
fn fill(pair: &Pair, topic: &str, each: usize) {
    let mut wire = Wire::connect(&pair.source().kafka).expect("connects");
    for partition in [0, 1] {
        for n in 0..each {
            let value = format!("{topic} {partition} {n}");
            wire.produce(topic, partition, batch(value.as_bytes())).expect("an answer").expect("appended");
        }
    }
    pair.source().wait_topic(topic, "the table holds everything", SEEN, |partitions| {
        partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
    });
}

/// `GET path` of the replica's catalog: status and JSON.
fn ask(pair: &Pair, path: &str) -> (u16, Value) {
    let (status, body) = http_get(&pair.replica().catalog, path).expect("the catalog answers");
    (status, serde_json::from_str(&body).expect("JSON"))
}

fn tables(pair: &Pair) -> Vec<String> {
    let (status, list) = ask(pair, "/v1/namespaces/topics/tables");
    assert_eq!(status, 200, "{list}");
    let tables = list["identifiers"].as_array().expect("a list");
    tables.iter().map(|table| table["name"].as_str().expect("a name").to_owned()).collect()
}

fn wait_tables(pair: &Pair, expected: &[&str]) {
    let begun = Instant::now();
    while tables(pair) != expected {
        assert!(begun.elapsed() < SEEN, "{:?} is not {expected:?}\n{}", tables(pair), pair.replica().log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Rows of a table by the metadata that the replica's catalog answers.
fn rows(pair: &Pair, table: &str) -> u64 {
    let (status, loaded) = ask(pair, &format!("/v1/namespaces/topics/tables/{table}"));
    assert_eq!(status, 200, "{loaded}");
    let metadata = &loaded["metadata"];
    let snapshots = metadata["snapshots"].as_array().expect("snapshots");
    let current = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == metadata["current-snapshot-id"]);
    let total = current.expect("a snapshot")["summary"]["total-records"].as_str().expect("a count").to_owned();
    total.parse().expect("a number")
}

/// Size and time of every file.
fn files(dir: &Path, out: &mut BTreeMap<PathBuf, (u64, std::time::SystemTime)>) {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        let (path, data) = (entry.path(), entry.metadata().expect("is there"));
        if data.is_dir() {
            files(&path, out);
        } else {
            out.insert(path, (data.len(), data.modified().expect("a time")));
        }
    }
}

fn bucket(dir: &Path) -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
    let mut all = BTreeMap::new();
    files(&dir.join("bucket/tidewater/warehouse"), &mut all);
    all
}

/// Engines read the table through the replica's catalog and cannot change it.
fn engines(pair: &Pair, table: &str, rows: usize, s3: &[&str]) {
    let [here, there] = [pair.replica(), pair.source()].map(|broker| format!("http://{}", broker.catalog));
    let rows = rows.to_string();
    let args: Vec<&str> = [&here, &there, table, &rows].into_iter().chain(s3.iter().copied()).collect();
    print!("{}", python::script("replica/tables.py", &args, &[]));
}

#[test]
fn tables_of_followed_topics_are_read_and_never_written() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut pair = Pair::start(dir.path(), false);
    create(&pair, "orders");
    fill(&pair, "orders", 20);
    pair.follow("ord*");
    pair.wait_equal("orders");
    wait_tables(&pair, &["orders"]);
    let before = bucket(dir.path());
    engines(&pair, "orders", 40, &[]);
    assert_eq!(bucket(dir.path()), before, "nothing is written below the source's warehouse");

    // Each load is fresh; tables come with their topics, and go with them.
    fill(&pair, "orders", 5);
    assert_eq!(rows(&pair, "orders"), 50);
    create(&pair, "ordinary");
    fill(&pair, "ordinary", 1);
    create(&pair, "users");
    fill(&pair, "users", 1);
    wait_tables(&pair, &["orders", "ordinary"]);
    assert_eq!(ask(&pair, "/v1/namespaces/topics/tables/users").0, 404, "it is not followed");
    pair.source().cli(&["topic", "delete", "ordinary"]);
    wait_tables(&pair, &["orders"]);
    // Its table is gone at once, the topic within a minute: until then a bucket that is away would have it listed.
    let begun = Instant::now();
    while pair.get("/v1/topics/ordinary").is_some() {
        assert!(begun.elapsed() < SEEN, "the topic was deleted at the source");
        std::thread::sleep(Duration::from_millis(200));
    }

    // The source's brokers are not needed; its bucket is.
    pair.kill(Side::Source);
    assert_eq!(rows(&pair, "orders"), 50);
    std::fs::rename(dir.path().join("bucket"), dir.path().join("away")).expect("renamed");
    let (status, error) = ask(&pair, "/v1/namespaces/topics/tables/orders");
    assert_eq!((status, &error["error"]["type"]), (503, &"ServiceUnavailableException".into()), "{error}");
    assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("source tidewater")), "{error}");
    assert_eq!(tables(&pair), ["orders"]);
    // Nor is it known after a start what it has.
    pair.kill(Side::Replica);
    pair.start_again(Side::Replica);
    let (status, error) = ask(&pair, "/v1/namespaces/topics/tables/orders");
    assert_eq!(status, 503, "{error}");
    std::fs::rename(dir.path().join("away"), dir.path().join("bucket")).expect("renamed");
    wait_tables(&pair, &["orders"]);
    assert_eq!(rows(&pair, "orders"), 50);
    pair.replica().cli(&["replica", "delete", "tidewater"]);
    let begun = Instant::now();
    while ask(&pair, "/v1/namespaces/topics/tables/orders").0 != 404 {
        assert!(begun.elapsed() < SEEN, "the source is followed no longer");
        std::thread::sleep(Duration::from_millis(100));
    }
    pair.stop();
}

#[test]
fn tables_in_a_bucket_on_s3_are_read_with_the_engines_own_credentials() {
    let dir = tempfile::tempdir().expect("tempdir");
    let pair = Pair::start(dir.path(), true);
    create(&pair, "orders");
    fill(&pair, "orders", 20);
    pair.follow("*");
    wait_tables(&pair, &["orders"]);
    let (_, loaded) = ask(&pair, "/v1/namespaces/topics/tables/orders");
    assert_eq!(loaded["config"], serde_json::json!({}), "nothing is handed out with a table");
    let of = |name: &str| pair.options[0].envs.iter().find(|(env, _)| env == name).expect("on S3").1.clone();
    let s3 = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(of);
    engines(&pair, "orders", 40, &[&s3[0], &s3[1], &s3[2]]);
    pair.stop();
}
