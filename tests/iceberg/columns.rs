//! Typed tables end to end: stock serializers and the broker's registry on one side, four engines on the other, before
//! and after compaction.

use std::path::Path;
use std::time::Duration;

use iceberg::TableIdent;
use tidewater_iceberg::catalog::Catalog;
use tidewater_iceberg::commit::{Bounds, TableOwner, identity};
use tidewater_iceberg::compact::Compactor;
use tidewater_iceberg::names::Names;
use tidewater_storage::model::TopicId;

use super::support::broker::{Broker, Options, free_ports_of, http_get};
use super::support::trino::Trino;
use super::support::{maven, python};

const PATIENCE: Duration = Duration::from_secs(90);
/// The topics of typed_produce.py, each with its mode, what its keys are and its partition spec.
const TOPICS: [(&str, &str, &str, &str); 6] = [
    ("orders", "value_schema_id_prefix", "binary", "(bucket(4, customer), month(at))"),
    ("people", "value_schema_id_prefix", "string", "(hour(tidewater.timestamp))"),
    ("readings", "value_schema_id_prefix", "binary", "(site)"),
    ("trips", "value_schema_id_prefix", "schema_id_prefix", "(hour(tidewater.timestamp))"),
    ("fares", "value_schema_latest", "binary", "(truncate(4, city))"),
    ("visits", "json", "binary", "(day(tidewater.timestamp))"),
];

/// What the broker does to the files of an hour that has been over for a while, at once and beside the broker.
fn compact(bucket: &Path, topic: &str) {
    let runtime = super::runtime();
    let catalog = super::catalog(&runtime, bucket, "tidewater/warehouse");
    let table = TableIdent::from_strs(["topics", topic]).expect("a name");
    runtime.block_on(async {
        let loaded = catalog.load(&table).await.expect("loads");
        let property = |name: &str| loaded.metadata.properties()[name].clone();
        let owner = TableOwner {
            cluster: property(identity::CLUSTER).parse().expect("an id"),
            topic: TopicId(property(identity::TOPIC).parse().expect("an id")),
            epoch: property(identity::EPOCH).parse().expect("a number"),
        };
        let bounds = Bounds { compact_quiet_ms: 0, ..Bounds::default() };
        let mut compactor = Compactor::new(catalog.clone(), table, owner, Names::random(), bounds);
        let run = compactor.run(tidewater_storage::env::clock::wall(), |_| {}).await.expect("runs");
        println!("{topic}: {} files became {}", run.files_in, run.files_out);
        assert!(run.files_out > 0 && run.files_in > run.files_out && run.left.is_empty(), "{run:?}");
    });
}

#[test]
fn columns_follow_the_schemas_of_stock_clients_and_garbage_is_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = format!("127.0.0.1:{}", free_ports_of(1)[0]);
    let bucket = dir.path().join("bucket");
    let options = Options::new(&dir.path().join("data")).arg("--schema-addr", &registry);
    let options = Options { bucket: Some(format!("file://{}", bucket.display())), ..options };
    let broker = Broker::start(&options.expect("records are dead letters"));
    for (topic, mode, keys, spec) in TOPICS {
        let mut words = vec!["topic", "create", topic, "--partitions", "2", "--set", "retention.ms=-1"];
        for setting in ["archive.lag.ms=300", "iceberg.target.lag.ms=500"] {
            words.extend(["--set", setting]);
        }
        let (mode, keys) = (format!("iceberg.mode={mode}"), format!("iceberg.key.mode={keys}"));
        let spec = format!("iceberg.partition.spec={spec}");
        words.extend(["--set", &mode, "--set", &keys, "--set", &spec]);
        broker.cli(&words);
    }
    let produced = dir.path().join("produced.json").display().to_string();
    let (registry, kafka) = (format!("http://{registry}"), broker.kafka.clone());
    let clients = python::schema_clients();
    print!("{}", python::script_in(&clients, "iceberg/typed_produce.py", &[&kafka, &registry, &produced], &[]));
    for (topic, ..) in TOPICS {
        broker.wait_topic(topic, "all is in the table", PATIENCE, |partitions| {
            partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
        });
    }
    let catalog = format!("http://{}", broker.catalog);
    let trino = Trino::start(dir.path(), &catalog, None);
    let read = || {
        print!("{}", python::script("iceberg/typed_read.py", &[&catalog, &produced], &[]));
        print!("{}", python::script("iceberg/typed_trino.py", &[&trino.port.to_string(), &produced], &[]));
    };
    read();
    for (topic, ..) in TOPICS {
        compact(&bucket, topic);
    }
    read();
    let (jars, java) = (maven::jars("spark").display().to_string(), maven::java17().display().to_string());
    let envs = [("JAVA_HOME", java.as_str()), ("SPARK_LOCAL_IP", "127.0.0.1")];
    print!("{}", python::script("iceberg/typed_spark.py", &[&catalog, &jars, &produced], &envs));
    broker.stop();
}

/// The names of a table's columns, as the catalog has them.
fn columns(broker: &Broker, topic: &str) -> Vec<String> {
    let (status, body) =
        http_get(&broker.catalog, &format!("/v1/namespaces/topics/tables/{topic}")).expect("the catalog answers");
    assert_eq!(status, 200, "{body}");
    let loaded: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let (schemas, current) = (&loaded["metadata"]["schemas"], &loaded["metadata"]["current-schema-id"]);
    let schema = schemas.as_array().into_iter().flatten().find(|schema| schema["schema-id"] == *current);
    let fields = schema.and_then(|schema| schema["fields"].as_array()).expect("a schema");
    fields.iter().filter_map(|field| Some(field["name"].as_str()?.to_owned())).collect()
}

#[test]
fn json_needs_no_schema_and_a_setting_says_what_becomes_of_one_that_does_not_fit() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options::new(&dir.path().join("data")).expect("a table is not brought up to date");
    let broker = Broker::start(&options.expect("records are dead letters"));
    let schema = |kind: &str| format!(r#"iceberg.json.schema={{"properties":{{"n":{{"type":"{kind}"}}}}}}"#);
    let common = ["iceberg.mode=json", "archive.lag.ms=300", "iceberg.target.lag.ms=500", "--partitions", "1"];
    let [mode, archive, lag, flag, one] = common;
    broker.cli(&["topic", "create", "visits", flag, one, "--set", mode, "--set", archive, "--set", lag]);
    let words = ["topic", "create", "points", flag, one, "--set", mode, "--set", archive, "--set", lag];
    broker.cli(&[&words[..], &["--set", &schema("integer")]].concat());
    let produce = |topic: &str, lines: &str| {
        let path = dir.path().join("lines");
        std::fs::write(&path, lines).expect("written");
        broker.cli(&["topic", "produce", topic, "--file", &path.display().to_string()]);
    };
    let all_in_table = |topic: &str| {
        broker.wait_topic(topic, "all is in the table", PATIENCE, |partitions| {
            partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
        });
    };
    produce("visits", "{\"page\":\"/\",\"ms\":3,\"by\":{\"id\":7}}\nno json\n");
    all_in_table("visits");
    assert_eq!(columns(&broker, "visits"), ["tidewater", "by", "ms", "page", "rest"]);
    assert_eq!(broker.topic("visits")["dead_letters"]["rows"], 1);
    produce("points", "{\"n\":1}\n");
    all_in_table("points");
    broker.cli(&["topic", "alter", "points", "--set", &schema("string")]);
    produce("points", "{\"n\":\"two\"}\n");
    let until = std::time::Instant::now() + PATIENCE;
    while broker.topic("points")["table_held_by"] != serde_json::json!(["unfit"]) {
        assert!(std::time::Instant::now() < until, "not paused: {}", broker.topic("points"));
        std::thread::sleep(Duration::from_millis(100));
    }
    broker.cli(&["topic", "alter", "points", "--set", "iceberg.evolution.conflict=column"]);
    all_in_table("points");
    assert_eq!(columns(&broker, "points"), ["tidewater", "n", "n__string"]);
    broker.stop();
}
