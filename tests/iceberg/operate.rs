//! What operators do with tables, by the commands of the binary, on brokers that fill them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use iceberg::TableIdent;
use tidewater_iceberg::catalog::{Catalog, Loaded};
use tidewater_iceberg::commit::TableOwner;

use super::support::broker::{Broker, Options, binary};
use super::support::cluster::{Cluster, ClusterOptions};

pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Runs a command against an admin port; it may be refused.
fn ask(admin: &str, kafka: &str, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).args(["--admin", admin, "--bootstrap", kafka]);
    command.output().expect("the command runs")
}

pub(crate) fn refusal(broker: &Broker, args: &[&str]) -> String {
    let output = ask(&broker.admin, &broker.kafka, args);
    assert!(!output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn json(broker: &Broker, args: &[&str]) -> serde_json::Value {
    let text = broker.cli(&[args, &["--json"]].concat());
    serde_json::from_str(&text).expect("JSON")
}

pub(crate) fn produce(broker: &Broker, dir: &Path, topic: &str, lines: &str) {
    let path = dir.join("lines");
    std::fs::write(&path, lines).expect("written");
    broker.cli(&["topic", "produce", topic, "--file", &path.display().to_string()]);
}

pub(crate) fn all_in_table(broker: &Broker, topic: &str) {
    broker.wait_topic(topic, "all is in the table", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
    });
}

/// A table as it lies in the bucket.
fn load(bucket: &Path, table: &str) -> Loaded {
    let runtime = super::runtime();
    let catalog = super::catalog(&runtime, bucket, "tidewater/warehouse");
    let table = TableIdent::from_strs(["topics", table]).expect("a name");
    runtime.block_on(catalog.load(&table)).expect("loads")
}

/// Rows of a table's current snapshot, as its summary says.
fn rows(bucket: &Path, table: &str) -> u64 {
    let loaded = load(bucket, table);
    let summary = &loaded.metadata.current_snapshot().expect("a snapshot").summary().additional_properties;
    summary["total-records"].parse().expect("a number")
}

#[test]
fn a_table_that_was_given_up_stays_and_its_topic_goes_on_without_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = dir.path().join("bucket");
    let options = Options::new(&dir.path().join("data")).expect("a table is not brought up to date");
    let options = options.expect("records are dead letters");
    let broker = Broker::start(&Options { bucket: Some(format!("file://{}", bucket.display())), ..options });
    let settings = ["iceberg.mode=json", "iceberg.delete=true", "archive.lag.ms=300", "iceberg.target.lag.ms=500"];
    let create = |topic: &str| {
        let mut words = vec!["topic", "create", topic, "--partitions", "1"];
        settings.iter().for_each(|setting| words.extend(["--set", setting]));
        broker.cli(&words);
    };
    create("visits");
    produce(&broker, dir.path(), "visits", "{\"n\":1}\nno json\n{\"n\":2}\n");
    all_in_table(&broker, "visits");
    let given_up = json(&broker, &["iceberg", "detach", "visits"]);
    let wanted =
        serde_json::json!({ "topic": "visits", "table": "topics.visits", "dead_letters": "topics.visits~dlq" });
    assert_eq!(given_up, wanted);
    assert!(refusal(&broker, &["iceberg", "status", "visits"]).contains("has no table"));
    for table in ["visits", "visits~dlq"] {
        assert_eq!(TableOwner::of(&load(&bucket, table).metadata), None, "{table}");
    }
    // The mode again: the table is another's now.
    produce(&broker, dir.path(), "visits", "{\"n\":3}\n");
    broker.cli(&["topic", "alter", "visits", "--set", "iceberg.mode=json"]);
    let until = std::time::Instant::now() + PATIENCE;
    while broker.topic("visits")["table_held_by"] != serde_json::json!(["foreign"]) {
        assert!(std::time::Instant::now() < until, "not paused: {}", broker.topic("visits"));
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = broker.cli(&["iceberg", "status", "visits"]);
    assert!(status.contains("iceberg detach") && status.contains("iceberg.table"), "{status}");
    assert!(status.contains("mode          json\n"), "{status}");
    assert_eq!((rows(&bucket, "visits"), rows(&bucket, "visits~dlq")), (2, 1));
    // It may be given up twice, and its topic goes without it.
    assert_eq!(json(&broker, &["iceberg", "detach", "visits"]), wanted);
    broker.cli(&["topic", "delete", "visits"]);
    // Its owner drops it; the name is free again.
    create("visits");
    let runtime = super::runtime();
    let catalog = super::catalog(&runtime, &bucket, "tidewater/warehouse");
    for table in ["visits", "visits~dlq"] {
        assert!(rows(&bucket, table) > 0);
        let table = TableIdent::from_strs(["topics", table]).expect("a name");
        runtime.block_on(catalog.drop_table(&table, true)).expect("dropped");
    }
    produce(&broker, dir.path(), "visits", "{\"n\":4}\n");
    all_in_table(&broker, "visits");
    assert_eq!(rows(&bucket, "visits"), 1);
    broker.stop();
}

/// Of three brokers one commits to the table: the others say which, and that one does what is asked.
#[test]
fn any_broker_says_which_one_changes_a_table() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = dir.path().join("bucket");
    // Brokers that form a cluster meet others that are not there yet.
    let expected = ["tried again", "asked again", "connection with a broker", "connect to a broker"];
    let expected = expected.map(str::to_owned).into();
    let bucket_url = Some(format!("file://{}", bucket.display()));
    let options = ClusterOptions { bucket: bucket_url, expected, ..ClusterOptions::default() };
    let cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    let first = cluster.broker(0);
    let mut words = vec!["topic", "create", "orders", "--partitions", "1"];
    for setting in ["iceberg.mode=key_value", "archive.lag.ms=300", "iceberg.target.lag.ms=500"] {
        words.extend(["--set", setting]);
    }
    first.cli(&words);
    cluster.wait_settled(PATIENCE);
    produce(first, dir.path(), "orders", "a\nb\nc\n");
    let by = cluster.leader_of("orders", 0).expect("one leads");
    let committer = cluster.broker(by);
    all_in_table(committer, "orders");
    let id = cluster.get_of(by, "/v1/cluster").expect("answers")["broker"].clone();
    for n in cluster.running().into_iter().filter(|n| *n != by) {
        for words in [&["iceberg", "detach", "orders"][..], &["iceberg", "rewind", "orders", "--to", "0:1"]] {
            let why = refusal(cluster.broker(n), words);
            assert!(why.contains(&format!("broker {id} does")), "{why}");
        }
    }
    committer.cli(&["iceberg", "rewind", "orders", "--to", "0:1"]);
    all_in_table(committer, "orders");
    assert_eq!(rows(&bucket, "orders"), 3);
    json(committer, &["iceberg", "detach", "orders"]);
    assert_eq!(TableOwner::of(&load(&bucket, "orders").metadata), None);
    produce(first, dir.path(), "orders", "d\n");
    assert_eq!(rows(&bucket, "orders"), 3);
    cluster.check_logs();
}

/// A schema that was wrong made dead letters; it is mended, and their records are read again.
#[test]
fn records_of_a_mistake_are_written_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = dir.path().join("bucket");
    let options = Options::new(&dir.path().join("data")).expect("records are dead letters");
    let broker = Broker::start(&Options { bucket: Some(format!("file://{}", bucket.display())), ..options });
    let schema = |kind: &str| format!(r#"iceberg.json.schema={{"properties":{{"n":{{"type":"{kind}"}}}}}}"#);
    let wrong = schema("integer");
    let settings = ["iceberg.mode=json", &wrong, "archive.lag.ms=300", "iceberg.target.lag.ms=500"];
    let mut words = vec!["topic", "create", "points", "--partitions", "1"];
    settings.iter().for_each(|setting| words.extend(["--set", setting]));
    broker.cli(&words);
    produce(&broker, dir.path(), "points", "{\"n\":1}\n");
    all_in_table(&broker, "points");
    std::thread::sleep(Duration::from_millis(50));
    let then = jiff::Timestamp::now().to_string();
    for n in ["two", "three"] {
        produce(&broker, dir.path(), "points", &format!("{{\"n\":\"{n}\"}}\n"));
        all_in_table(&broker, "points");
    }
    assert_eq!((rows(&bucket, "points"), rows(&bucket, "points~dlq")), (1, 2));
    broker.cli(&["topic", "alter", "points", "--set", &schema("string"), "--set", "iceberg.evolution.conflict=column"]);
    let at = ["iceberg", "rewind", "points", "--at", &then];
    let plan = broker.cli(&[&at[..], &["--plan"]].concat());
    assert!(plan.contains("2 rows would leave topics.points~dlq") && plan.contains("nothing was changed"), "{plan}");
    assert_eq!(rows(&bucket, "points~dlq"), 2);
    assert!(refusal(&broker, &["iceberg", "rewind", "points", "--to", "5:0"]).contains("partition 5"));
    assert!(refusal(&broker, &["iceberg", "rewind", "points", "--at", "2020-01-01T00:00:00Z"]).contains("--to"));
    let done = json(&broker, &at);
    assert_eq!(done["partitions"], serde_json::json!([{ "partition": 0, "from": 3, "to": 1, "lost": 0 }]));
    assert_eq!(done["dead_letters_leaving"]["rows"], 2);
    all_in_table(&broker, "points");
    assert_eq!((rows(&bucket, "points"), rows(&bucket, "points~dlq")), (3, 0));
    let fields = load(&bucket, "points").metadata.current_schema().as_struct().fields().to_vec();
    assert_eq!(fields.iter().map(|field| &*field.name).collect::<Vec<_>>(), ["tidewater", "n", "n__string"]);
    // From the very first record on: with this schema, it is the dead letter.
    broker.cli(&["iceberg", "rewind", "points", "--to", "0:0"]);
    all_in_table(&broker, "points");
    assert_eq!((rows(&bucket, "points"), rows(&bucket, "points~dlq")), (2, 1));
    broker.stop();
}

/// A topic that has records already gets a table: it begins at the start of the log.
#[test]
fn a_table_of_an_old_topic_is_waited_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = dir.path().join("bucket");
    let options = Options::new(&dir.path().join("data"));
    let broker = Broker::start(&Options { bucket: Some(format!("file://{}", bucket.display())), ..options });
    let lag = ["archive.lag.ms=300", "iceberg.target.lag.ms=600000", "segment.bytes=65536"];
    let mut words = vec!["topic", "create", "old", "--partitions", "2"];
    lag.iter().for_each(|setting| words.extend(["--set", setting]));
    broker.cli(&words);
    let lines: String = (0..5_000).map(|n| format!("{n:0>50}\n")).collect();
    produce(&broker, dir.path(), "old", &lines);
    assert!(refusal(&broker, &["iceberg", "backfill", "old"]).contains("set iceberg.mode"));
    broker.cli(&["topic", "alter", "old", "--set", "iceberg.mode=key_value"]);
    let done = json(&broker, &["iceberg", "backfill", "old"]);
    assert_eq!((&done["records"], &done["left"]), (&serde_json::json!(5_000), &serde_json::json!(0)));
    assert_eq!(rows(&bucket, "old"), 5_000);
    // The target lag is ten minutes: without the command these would wait.
    produce(&broker, dir.path(), "old", "a\nb\nc\n");
    let now = json(&broker, &["iceberg", "backfill", "old", "--no-wait"]);
    assert_eq!(now["records"], 5_003);
    let done = broker.cli(&["iceberg", "backfill", "old"]);
    assert!(done.contains("has all 5,003 records"), "{done}");
    assert_eq!(rows(&bucket, "old"), 5_003);
    assert!(broker.cli(&["iceberg", "backfill", "old", "--no-wait"]).contains("0 of 5,003 records left"));
    broker.stop();
}
