//! Typed tables end to end: stock serializers and the broker's registry on one side, engines on the other.

use std::time::Duration;

use super::support::broker::{Broker, Options, free_ports_of};
use super::support::python;

const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn columns_follow_the_schemas_of_stock_clients_and_garbage_is_set_aside() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = format!("127.0.0.1:{}", free_ports_of(1)[0]);
    let options = Options::new(&dir.path().join("data")).arg("--schema-addr", &registry);
    let broker = Broker::start(&options.expect("records are dead letters"));
    for topic in ["orders", "people", "readings"] {
        let mut words = vec!["topic", "create", topic, "--partitions", "2"];
        for setting in ["iceberg.mode=value_schema_id_prefix", "archive.lag.ms=300", "iceberg.target.lag.ms=500"] {
            words.extend(["--set", setting]);
        }
        broker.cli(&words);
    }
    let produced = dir.path().join("produced.json").display().to_string();
    let (registry, kafka) = (format!("http://{registry}"), broker.kafka.clone());
    let clients = python::schema_clients();
    print!("{}", python::script_in(&clients, "iceberg/typed_produce.py", &[&kafka, &registry, &produced], &[]));
    for topic in ["orders", "people", "readings"] {
        broker.wait_topic(topic, "all is in the table", PATIENCE, |partitions| {
            partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
        });
    }
    let catalog = format!("http://{}", broker.catalog);
    print!("{}", python::script("iceberg/typed_read.py", &[&catalog, &produced], &[]));
    broker.stop();
}
