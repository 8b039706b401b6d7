//! A cluster goes back to a cut: a topic that was deleted and records that were written later are undone.

use std::path::Path;
use std::time::{Duration, Instant};

use tidewater::client::Client;

use super::run;
use super::support::broker::{Broker, Options, http_ask, http_get};
use super::tools::{content, create, ends_of, read_all, restore, restored};
use super::writer::Writer;

const PATIENCE: Duration = Duration::from_secs(60);
const QUICK: (&str, &str) = ("archive.lag.ms", "300");

fn json(answer: Option<(u16, String)>) -> serde_json::Value {
    let (status, body) = answer.expect("answers");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

fn archived(broker: &Broker, topic: &str) {
    broker.wait_topic(topic, "all is archived", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
}

fn command(words: &[&str]) -> String {
    let mut command = std::process::Command::new(super::support::broker::binary());
    let output = command.env_remove("TIDEWATER_SEED").args(words).output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// `tidewater verify` of a bucket with two cuts and a table: exit code and JSON.
fn verify(bucket: &str, words: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut command = std::process::Command::new(super::support::broker::binary());
    let output = command.args(["verify", "--from", bucket, "--json"]).args(words).output().expect("the command runs");
    let report = serde_json::from_slice(&output.stdout);
    (
        output.status.code(),
        report.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr))),
    )
}

/// What is taken away of cuts and tables is named, with the cuts or the table; put back, all is whole.
fn damage_is_named(dir: &Path, bucket: &str) {
    for words in [&[][..], &["--quick"][..]] {
        let (code, whole) = verify(bucket, words);
        assert_eq!((code, &whole["cuts"]["kept"], &whole["tables"]["checked"]), (Some(0), &2.into(), &true.into()));
        assert_eq!(whole["tables"]["tables"][0]["table"], "topics.tabled", "{whole:#}");
    }
    let files = content(dir);
    let named = |of: &str, part: &str, end: &str| {
        let found = files.keys().find(|path| path.contains(of) && path.contains(part) && path.ends_with(end));
        found.unwrap_or_else(|| panic!("no {of}…{part}…{end} in {:?}", files.keys())).clone()
    };
    for (path, cuts, table) in [
        (named("", "/cuts/", "00000000000000000001"), Some(1), None),
        (named("tabled", "/data/", ".parquet"), None, Some("topics.tabled")),
        (named("tabled", "/metadata/tidewater-snap-", ".avro"), None, Some("topics.tabled")),
    ] {
        std::fs::remove_file(&path).expect("removed");
        let (code, report) = verify(bucket, &["--quick"]);
        let damage = &report["damage"][0];
        assert_eq!((code, &damage["kind"]), (Some(3), &"missing".into()), "{report:#}");
        assert!(path.ends_with(damage["object"].as_str().expect("a key")), "{path}: {damage}");
        assert_eq!(damage["cuts"][0]["number"].as_u64(), cuts, "{damage}");
        assert_eq!(damage["table"].as_str(), table, "{damage}");
        std::fs::write(&path, &files[&path]).expect("written");
    }
    assert_eq!(verify(bucket, &[]).0, Some(0));
}

/// Rows of the topic's table, as an engine reads it from the catalog, once all that the topic holds is in it.
fn table_rows(broker: &Broker, topic: &str) -> u64 {
    broker.wait_topic(topic, "all is in the table", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
    });
    let table = json(http_get(&broker.catalog, &format!("/v1/namespaces/topics/tables/{topic}")));
    let metadata = &table["metadata"];
    let snapshots = metadata["snapshots"].as_array().expect("snapshots");
    let current = snapshots.iter().find(|snapshot| snapshot["snapshot-id"] == metadata["current-snapshot-id"]);
    let total = &current.expect("one is current")["summary"]["total-records"];
    total.as_str().and_then(|total| total.parse().ok()).unwrap_or_else(|| panic!("no number of rows: {table:#}"))
}

#[test]
fn a_deleted_topic_and_its_records_come_back_from_a_cut() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let options = Options { bucket: Some(bucket.clone()), ..Options::new(&dir.path().join("data")) };
    let by_hand = options.clone().arg("--cut-interval-ms", "0");
    let broker = Broker::start(&by_hand);
    let (addr, admin) = (broker.kafka.clone(), broker.admin.clone());
    let make = || json(http_ask(&admin, "POST", "/v1/cuts", &[("Host", &admin)]));
    create(&addr, "orders", 2, &[QUICK]);
    let mut tables = ["tabled", "undone"].map(|topic| {
        create(&addr, topic, 1, &[QUICK, ("iceberg.mode", "key_value"), ("iceberg.target.lag.ms", "500")]);
        Writer::new(&addr, topic, 1)
    });
    tables.iter_mut().for_each(|table| table.write(&addr, 20));
    assert_eq!((table_rows(&broker, "tabled"), table_rows(&broker, "undone")), (20, 20));
    create(&addr, "gone", 1, &[QUICK]);
    let mut orders = Writer::new(&addr, "orders", 2);
    let mut gone = Writer::new(&addr, "gone", 1);
    orders.write(&addr, 100);
    gone.write(&addr, 30);
    run(async { Client::connect(&addr).await?.commit("billing", "orders", &[(0, 20), (1, 30)]).await })
        .expect("commits");
    ["orders", "gone", "__consumer_offsets"].iter().for_each(|topic| archived(&broker, topic));
    let first = make();
    assert_eq!((&first["made"], &first["cut"]["number"]), (&true.into(), &1.into()), "{first}");
    let again = make();
    assert_eq!((&again["made"], &again["cut"]["number"]), (&false.into(), &1.into()), "nothing has changed: {again}");

    // What is to be undone.
    tables[1].write(&addr, 7);
    assert_eq!(table_rows(&broker, "undone"), 27);
    orders.write(&addr, 50);
    run(async { Client::connect(&addr).await?.commit("billing", "orders", &[(0, 60), (1, 60)]).await })
        .expect("commits");
    run(async { Client::connect(&addr).await?.delete_topic("gone").await }).expect("is deleted");
    archived(&broker, "orders");
    let begun = Instant::now();
    while make()["made"] != true {
        assert!(begun.elapsed() < PATIENCE, "the change makes a second cut");
        std::thread::sleep(Duration::from_millis(200));
    }
    let listed = json(http_get(&admin, "/v1/cuts"));
    let listed = listed.as_array().expect("a list");
    assert_eq!(listed.len(), 2, "{listed:?}");
    broker.kill();
    damage_is_named(&dir.path().join("bucket"), &bucket);

    let listing = command(&["restore", "cuts", "--from", &bucket, "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&listing).expect("JSON").as_array(), Some(listed));
    assert!(command(&["restore", "cuts", "--from", &bucket]).contains("AGO"));
    let at = listed[1]["at_ms"].as_i64().expect("a time");
    let rfc = |ms: i64| jiff::Timestamp::from_millisecond(ms).expect("a time").to_string();
    let early = restore(&bucket, &dir.path().join("none"), &["--at", &rfc(at - 1), "--plan"]);
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(!early.status.success() && said.contains("no cut"), "{said}");

    std::fs::remove_dir_all(&options.data).expect("the disk is gone");
    let words = ["--at", &rfc(at)];
    let planned = restored(&bucket, &options.data, &[&words[..], &["--plan"]].concat());
    assert!(!options.data.exists(), "a plan makes no directory");
    assert_eq!(planned["report"]["cut"]["number"], 1);
    let whole = restored(&bucket, &options.data, &["--plan"]);
    assert!(!ends_of(&whole).contains_key(&("gone".to_owned(), 0)), "without a cut it stays deleted");
    let done = restored(&bucket, &options.data, &[&words[..], &["--exit"]].concat());
    assert_eq!(ends_of(&planned), ends_of(&done), "the plan came true");

    let broker = Broker::start(&by_hand);
    let lengths =
        |topic: &str, partitions| -> Vec<usize> { read_all(&addr, topic, partitions).iter().map(Vec::len).collect() };
    assert_eq!((lengths("gone", 1), lengths("orders", 2).iter().sum::<usize>()), (vec![30], 100));
    let held = run(async { Client::connect(&addr).await?.group_offsets("billing").await }).expect("answers");
    let mut held: Vec<(i32, u64)> = held.into_iter().map(|found| (found.partition, found.offset)).collect();
    held.sort_unstable();
    assert_eq!(held, [(0, 20), (1, 30)], "as they were, not ahead of the records");
    // A table that is ahead of its topic goes back by itself, and on with what is written from now on.
    assert_eq!(table_rows(&broker, "undone"), 20);
    ["tabled", "undone"].iter().for_each(|topic| Writer::new(&addr, topic, 1).write(&addr, 3));
    assert_eq!((table_rows(&broker, "tabled"), table_rows(&broker, "undone")), (23, 23));
    let mut next = Writer::new(&addr, "orders", 2);
    next.write(&addr, 10);
    archived(&broker, "orders");
    // The restored cluster makes cuts of its own.
    let second = json(http_ask(&broker.admin, "POST", "/v1/cuts", &[("Host", &broker.admin)]));
    assert_eq!(second["cut"]["number"], 1, "{second}");
    broker.stop();
}

#[test]
fn cuts_are_made_by_themselves_and_an_idle_cluster_writes_none() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let options = Options { bucket: Some(bucket), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options.arg("--cut-interval-ms", "1000"));
    create(&broker.kafka, "orders", 2, &[QUICK]);
    let mut orders = Writer::new(&broker.kafka, "orders", 2);
    orders.write(&broker.kafka, 20);
    archived(&broker, "orders");
    let newest = || {
        let listed = json(http_get(&broker.admin, "/v1/cuts"));
        listed.as_array().and_then(|all| all.first().cloned())
    };
    let begun = Instant::now();
    // Until the groups' topic and settings have come to rest.
    let mut last = None;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_secs(15) || last.is_none() {
        assert!(begun.elapsed() < PATIENCE * 2, "an idle cluster goes on making cuts: {last:?}");
        let now = newest();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let number = last.expect("one")["number"].as_u64().expect("a number");
    orders.write(&broker.kafka, 20);
    archived(&broker, "orders");
    let begun = Instant::now();
    while newest().expect("one")["number"].as_u64() == Some(number) {
        assert!(begun.elapsed() < PATIENCE, "new records make a new cut");
        std::thread::sleep(Duration::from_millis(200));
    }
    broker.stop();
}
