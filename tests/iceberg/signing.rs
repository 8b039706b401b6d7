//! Engines without keys of the bucket: PyIceberg and Spark read a topic's table on a real S3 server and write tables of
//! their own by the signatures of the catalog; an attacker with the same rights gets nothing else.

use std::time::Duration;

use super::support::broker::{Broker, Options, http_get};
use super::support::s3::S3;
use super::support::{maven, python};

const PATIENCE: Duration = Duration::from_secs(90);

/// Neither keys nor the places where clients look for some.
const NO_KEYS: [(&str, &str); 5] = [
    ("AWS_ACCESS_KEY_ID", ""),
    ("AWS_SECRET_ACCESS_KEY", ""),
    ("AWS_CONFIG_FILE", "/dev/null"),
    ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

fn start(dir: &std::path::Path) -> (S3, Broker) {
    let s3 = S3::start(dir, "signed");
    let options = Options { bucket: Some(s3.url()), envs: s3.envs(), ..Options::new(&dir.join("data")) };
    let broker = Broker::start(&options);
    let words = ["topic", "create", "orders", "--partitions", "1", "--set", "retention.ms=-1"];
    let fast = ["--set", "iceberg.mode=key_value", "--set", "archive.lag.ms=300", "--set", "iceberg.target.lag.ms=500"];
    broker.cli(&[&words[..], &fast].concat());
    let lines = dir.join("lines");
    std::fs::write(&lines, (0..100).map(|n| format!("value {n}\n")).collect::<String>()).expect("written");
    broker.cli(&["topic", "produce", "orders", "--file", &lines.display().to_string()]);
    broker.wait_topic("orders", "all is in the table", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
    });
    (s3, broker)
}

fn counted(broker: &Broker, outcome: &str) -> u64 {
    let (_, text) = http_get(&broker.admin, "/metrics").expect("the admin port answers");
    let series = format!("tidewater_catalog_sign_requests_total{{outcome=\"{outcome}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&series)).expect("is there");
    value.parse().expect("a number")
}

#[test]
fn engines_read_and_write_without_keys_and_nothing_beside_their_tables() {
    let dir = tempfile::tempdir().expect("a directory");
    let (s3, broker) = start(dir.path());
    let catalog = format!("http://{}", broker.catalog);
    let python = python::signing_clients();
    print!("{}", python::script_in(&python, "iceberg/signing_pyiceberg.py", &[&catalog], &NO_KEYS));
    assert!(counted(&broker, "signed") > 10 && counted(&broker, "refused") == 0);
    let args = [catalog.as_str(), &s3.endpoint, &s3.bucket];
    print!("{}", python::script_in(&python, "iceberg/signing_attacks.py", &args, &NO_KEYS));
    assert!(counted(&broker, "refused") > 10 && counted(&broker, "failed") == 0);
    let (jars, java) = (maven::jars("spark").display().to_string(), maven::java17().display().to_string());
    let envs = [&NO_KEYS[2..], &[("JAVA_HOME", &*java), ("SPARK_LOCAL_IP", "127.0.0.1")]].concat();
    print!("{}", python::script("iceberg/signing_spark.py", &[&catalog, &jars], &envs));
    broker.stop();
}
