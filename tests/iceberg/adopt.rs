//! A topic goes on in a table that PyIceberg made, and another has its system columns at the top level: two engines
//! read both.

use super::operate::{PATIENCE, all_in_table, json, produce, refusal};
use super::support::broker::{Broker, Options};
use super::support::python;

fn lines(ids: std::ops::Range<u32>) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"customer\":\"c{id}\",\"amount\":{}}}\n", id * 10)).collect()
}

#[test]
fn engines_read_a_table_that_was_adopted_and_one_that_is_flat() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = dir.path().join("bucket");
    let options = Options::new(&dir.path().join("data")).expect("a table is not brought up to date");
    let broker = Broker::start(&Options { bucket: Some(format!("file://{}", bucket.display())), ..options });
    let catalog = format!("http://{}", broker.catalog);
    python::script("iceberg/adopt.py", &["make", &catalog], &[]);
    for (topic, settings) in
        [("orders", ["iceberg.table=sales.orders", "iceberg.layout=struct"]), ("flat", ["iceberg.layout=flat"; 2])]
    {
        let mut words = vec!["topic", "create", topic, "--partitions", "1"];
        let common = ["iceberg.mode=json", "archive.lag.ms=300", "iceberg.target.lag.ms=500"];
        settings.iter().chain(&common).for_each(|setting| words.extend(["--set", setting]));
        broker.cli(&words);
    }
    produce(&broker, dir.path(), "flat", &lines(0..5));
    // The first two are in no table: the topic goes on from its end.
    produce(&broker, dir.path(), "orders", &lines(0..2));
    let until = std::time::Instant::now() + PATIENCE;
    while broker.topic("orders")["table_held_by"] != serde_json::json!(["foreign"]) {
        assert!(std::time::Instant::now() < until, "not paused: {}", broker.topic("orders"));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let adopt = ["iceberg", "adopt", "orders", "--table", "sales.orders"];
    let status = broker.cli(&["iceberg", "status", "orders"]);
    assert!(status.contains("tidewater iceberg adopt"), "{status}");
    assert_eq!(broker.cli(&["iceberg", "status", "sales.orders"]), status, "the table's name stands for its topic");
    let why = refusal(&broker, &["iceberg", "adopt", "orders", "--table", "sales.others"]);
    assert!(why.contains("iceberg.table=sales.others"), "{why}");
    assert!(refusal(&broker, &[&adopt[..], &["--from", "0:3"]].concat()).contains("ends at 2"));
    let plan = broker.cli(&[&adopt[..], &["--plan"]].concat());
    assert!(plan.contains("added         tidewater") && plan.contains("nothing was changed"), "{plan}");
    let done = json(&broker, &adopt);
    assert_eq!((&done["rows"], &done["offsets"]), (&serde_json::json!(3), &serde_json::json!({ "0": 2 })), "{done}");
    assert_eq!(done["columns"], serde_json::json!(["id", "Customer", "amount"]));
    assert!(broker.cli(&adopt).contains("already"));
    produce(&broker, dir.path(), "orders", &lines(2..5));
    all_in_table(&broker, "orders");
    all_in_table(&broker, "flat");
    let refused = refusal(&broker, &["topic", "alter", "flat", "--set", "iceberg.layout=struct"]);
    assert!(refused.contains("iceberg.layout cannot be changed"), "{refused}");
    print!("{}", python::script("iceberg/adopt.py", &["read", &catalog], &[]));
    json(&broker, &["iceberg", "detach", "orders"]);
    broker.stop();
}
