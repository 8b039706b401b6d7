//! A bucket that is damaged, that becomes unavailable, or that is unavailable from the start.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewater::client::Client;

use super::scrape::{scrape, sum};
use super::steady::{create, damage, fetch, files, produce, read_to_end, run, serves_on};
use super::support::broker::{Broker, Options, binary, http_get};

const CORRUPT_MESSAGE: i16 = 2;
const KAFKA_STORAGE_ERROR: i16 = 56;
/// While the bucket is away: a topic that has its first records, or changes, is in the catalogue later.
const CATALOGUE: &str = "a topic's change is not in the bucket's catalogue yet";
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker whose bucket is a directory beside its data. Of a bucket that is harmed no cut can be made.
fn options(dir: &tempfile::TempDir) -> (Options, PathBuf) {
    let bucket = dir.path().join("bucket");
    std::fs::create_dir_all(&bucket).expect("bucket");
    let url = format!("file://{}", bucket.display());
    let options = Options { bucket: Some(url), ..Options::new(&dir.path().join("data")) }.arg("--shards", "1");
    (options.expect("no cut is made now"), bucket)
}

const SMALL: &[(&str, &str)] =
    &[("segment.bytes", "1048576"), ("local.retention.bytes", "65536"), ("archive.lag.ms", "200")];

fn values(tag: &str) -> Vec<Bytes> {
    (0..80).map(|n| Bytes::from(format!("{tag} {n} {}", "y".repeat(50_000)))).collect()
}

fn write_and_trim(broker: &Broker, topic: &str) -> Vec<Bytes> {
    create(broker, topic, 1, SMALL);
    let values = values(topic);
    for (n, value) in values.iter().enumerate() {
        assert_eq!(produce(broker, topic, 0, value), n as u64);
    }
    broker.wait_topic(topic, "archived and trimmed", PATIENCE, |partitions| {
        partitions
            .iter()
            .all(|p| p["archived_end_offset"] == p["high_watermark"] && p["local_start_offset"].as_u64() > Some(30))
    });
    values
}

fn bucket_state(broker: &Broker) -> String {
    let (status, body) = http_get(&broker.admin, "/v1/cluster").expect("admin answers");
    assert_eq!(status, 200, "{body}");
    let state: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    state["bucket_state"].as_str().expect("bucket_state").to_owned()
}

/// Damages every object of a kind in its middle.
fn damage_all(bucket: &Path, kind: &str) -> usize {
    let found = files(bucket, kind);
    found.iter().for_each(|path| {
        let len = std::fs::metadata(path).expect("file").len() as usize;
        damage(path, len / 2);
    });
    found.len()
}

#[test]
fn damaged_objects_are_errors_not_wrong_data() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (options, bucket) = options(&dir);
    let options = options.expect("archived data cannot be read").expect("archived bytes do not match their checksum");
    let broker = Broker::start(&options.expect("chunk not kept"));
    let written = write_and_trim(&broker, "rotten");
    assert!(damage_all(&bucket, "/segments/") + damage_all(&bucket, "/lanes/") > 0);
    let mut refused = 0;
    for (n, value) in written.iter().enumerate() {
        match fetch(&broker, "rotten", 0, n as u64) {
            Ok(found) => assert!(found.records[0].value.as_ref() == Some(value), "wrong data at {n}"),
            Err(error) => {
                assert_eq!(error.code(), Some(CORRUPT_MESSAGE), "{error}\n{}", broker.log());
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the damage was not seen");
    assert!(refused < written.len(), "one damaged place costs everything");
    assert!(broker.log().contains("archived data cannot be read"), "{}", broker.log());
    serves_on(&broker);
    // New records of the same topic are archived and read back.
    produce(&broker, "rotten", 0, b"after");
    broker.wait_topic("rotten", "archived", PATIENCE, |p| p[0]["archived_end_offset"] == p[0]["high_watermark"]);
    broker.stop();
}

#[test]
fn objects_that_are_gone_are_errors() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (options, bucket) = options(&dir);
    let options = options.expect("archived data cannot be read");
    let broker = Broker::start(&options);
    write_and_trim(&broker, "gone");
    for path in files(&bucket, "/segments/").into_iter().chain(files(&bucket, "/lanes/")) {
        std::fs::remove_file(path).expect("removed");
    }
    let error = fetch(&broker, "gone", 0, 0).expect_err("nothing to read");
    assert!(error.code().is_some_and(|code| code != 0), "{error}");
    serves_on(&broker);
    broker.stop();
}

#[test]
fn damaged_manifests_stop_neither_broker_nor_archive() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (options, bucket) = options(&dir);
    let broker = Broker::start(&options);
    let mut written = write_and_trim(&broker, "listed");
    broker.stop();
    assert!(damage_all(&bucket, "/manifests/") > 0);
    damage_all(&bucket, "/pages/");
    let options = options.expect("manifest");
    let broker = Broker::start(&options);
    // The broker knows the bucket's content from its log, not from published manifests.
    assert_eq!(read_to_end(&broker, "listed", 0, 0), written);
    for value in values("more") {
        produce(&broker, "listed", 0, &value);
        written.push(value);
    }
    broker.wait_topic("listed", "archived", PATIENCE, |p| p[0]["archived_end_offset"] == p[0]["high_watermark"]);
    assert!(read_to_end(&broker, "listed", 0, 0) == written);
    serves_on(&broker);
    broker.stop();
}

/// A foreign object at the key of the lane's next bundle is neither overwritten nor skipped.
#[test]
fn a_stopped_lane_goes_on_once_an_operator_says_so() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (options, bucket) = options(&dir);
    let options = options.expect("a reason to stop the lane").expect("archiving of the lane stopped");
    let broker = Broker::start(&options);
    let mut written = write_and_trim(&broker, "sealed");
    let last = files(&bucket, "/lanes/").into_iter().max().expect("a bundle");
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok()).expect("a number");
    let lane = number(last.parent().expect("the lane's directory"));
    let next = last.with_file_name(format!("{:020}", number(&last) + 1));
    std::fs::write(&next, b"a foreign object").expect("written");
    written.push(Bytes::from_static(b"kept here meanwhile"));
    produce(&broker, "sealed", 0, b"kept here meanwhile");

    let listed = || -> serde_json::Value {
        let lanes = broker.cli(&["lane", "list", "--json"]);
        let lanes: Vec<serde_json::Value> = serde_json::from_str(&lanes).expect("JSON");
        lanes.into_iter().find(|row| row["lane"] == lane).expect("the lane is listed")
    };
    let start = Instant::now();
    while listed()["state"] != "stopped" {
        assert!(start.elapsed() < PATIENCE, "{}\n{}", listed(), broker.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(broker.cli(&["lane", "list"]).contains("stopped"));
    serves_on(&broker);
    assert_eq!(std::fs::read(&next).expect("there"), b"a foreign object");

    std::fs::remove_file(&next).expect("removed");
    let told = broker.cli(&["lane", "resume", &lane.to_string()]);
    assert!(told.contains("archives again; it had stopped"), "{told}");
    broker.wait_topic("sealed", "archived", PATIENCE, |p| p[0]["archived_end_offset"] == p[0]["high_watermark"]);
    assert!(read_to_end(&broker, "sealed", 0, 0) == written);
    assert!(broker.cli(&["lane", "resume", &lane.to_string()]).contains("was not stopped"));
    broker.stop();
}

/// The catalogue has the names for readers of the bucket without this broker; the broker itself knows all of it.
#[test]
fn a_damaged_catalogue_is_written_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (options, bucket) = options(&dir);
    let broker = Broker::start(&options);
    let written = write_and_trim(&broker, "named");
    create(&broker, "quiet", 3, SMALL);
    produce(&broker, "quiet", 2, b"once");
    broker.wait_topic("quiet", "archived", PATIENCE, |p| p[2]["archived_end_offset"] == 1);
    broker.stop();
    let names = || {
        let path = files(&bucket, "/catalogue").pop().expect("a catalogue");
        let held: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        let topics = held["topics"].as_array()?.iter().filter_map(|topic| topic["name"].as_str().map(str::to_owned));
        let mut names: Vec<String> = topics.collect();
        names.sort();
        Some((names, held["lanes"].clone(), held["revision"].as_u64()))
    };
    let before = names().expect("a good catalogue");
    assert_eq!(damage_all(&bucket, "/catalogue"), 1);
    assert!(names().is_none(), "the damage shows");
    let options = options.expect("the damaged catalogue is written again");
    let broker = Broker::start(&options);
    produce(&broker, "named", 0, b"more");
    broker.wait_topic("named", "archived", PATIENCE, |p| p[0]["archived_end_offset"] == p[0]["high_watermark"]);
    let after = names().expect("a good catalogue again");
    assert_eq!((&after.0, &after.1), (&before.0, &before.1), "every topic and lane is back");
    assert!(after.2 > before.2, "readers see that it is newer: {after:?}");
    assert!(read_to_end(&broker, "named", 0, 0)[..80] == written);
    serves_on(&broker);
    broker.stop();
}

#[test]
fn a_damaged_root_is_not_overwritten() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (options, bucket) = options(&dir);
    let broker = Broker::start(&options);
    serves_on(&broker);
    broker.stop();
    let root = bucket.join("tidewater/root");
    let len = std::fs::metadata(&root).expect("root").len() as usize;
    damage(&root, len / 2);
    let held = std::fs::read(&root).expect("root");
    let mut broker = Broker::spawn(&options);
    let start = Instant::now();
    while broker.ended().is_none() && !broker.is_ready() {
        assert!(start.elapsed() < Duration::from_secs(30), "neither up nor down:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = broker.log();
    assert!(log.contains("root"), "no word of the root:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(std::fs::read(&root).expect("root"), held, "it was overwritten");
}

#[test]
fn a_bucket_that_goes_away_and_comes_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (options, bucket) = options(&dir);
    let options = options.expect("archiving").expect("housekeeping of the bucket fails").expect(CATALOGUE);
    let broker = Broker::start(&options);
    let written = write_and_trim(&broker, "away");
    let aside = dir.path().join("aside");
    std::fs::rename(&bucket, &aside).expect("renamed");
    // A file instead of the directory: nothing can be created there.
    std::fs::write(&bucket, b"not a directory").expect("file");
    let before = broker.topic("away")["partitions"][0]["archived_end_offset"].as_u64().expect("offset");
    let more = values("meanwhile");
    (80..).zip(&more).for_each(|(n, value)| assert_eq!(produce(&broker, "away", 0, value), n));
    let away_until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < away_until {
        serves_on(&broker);
        std::thread::sleep(Duration::from_millis(500));
    }
    let status = broker.topic("away");
    let partition = &status["partitions"][0];
    assert_eq!(partition["archived_end_offset"].as_u64(), Some(before), "archived into a bucket that is away");
    assert!(partition["local_start_offset"].as_u64() <= Some(before), "local data went before it was archived");
    assert!(broker.log().contains("archiving"), "the log says nothing of it:\n{}", broker.log());
    let error = fetch(&broker, "away", 0, 0).expect_err("the bucket has it, and is away");
    assert_eq!(error.code(), Some(KAFKA_STORAGE_ERROR), "consumers give up on anything else: {error}");
    assert_eq!(read_to_end(&broker, "away", 0, before).len(), more.len(), "what is local is served");
    std::fs::remove_file(&bucket).expect("file");
    std::fs::rename(&aside, &bucket).expect("renamed");
    broker.wait_topic("away", "archived again", PATIENCE, |p| p[0]["archived_end_offset"] == p[0]["high_watermark"]);
    let all: Vec<Bytes> = written.into_iter().chain(more).collect();
    assert!(read_to_end(&broker, "away", 0, 0) == all);
    serves_on(&broker);
    broker.stop();
}

/// Moves all objects of one directory bucket into another; what the store keeps for itself stays.
fn move_objects(from: &Path, to: &Path) {
    let own = from.join(".tidewater");
    for path in files(from, "").into_iter().filter(|path| !path.starts_with(&own)) {
        let new = to.join(path.strip_prefix(from).expect("below it"));
        std::fs::create_dir_all(new.parent().expect("a directory")).expect("made");
        std::fs::rename(path, new).expect("moved");
    }
}

/// Exit code and output of `tidewater cluster health`.
fn health(broker: &Broker) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(["cluster", "health", "--admin", &broker.admin]).output().expect("runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bucket answers and has no object any more.
#[test]
#[ignore = "at_length.rs runs it beside others that wait"]
pub(super) fn an_emptied_bucket_is_named_and_no_local_record_goes_until_its_objects_are_back() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (mut options, bucket) = options(&dir);
    // The last ones are of the minute in which the broker does not know it yet.
    for line in ["the bucket was emptied", "archiving fails", "housekeeping of the bucket fails", CATALOGUE] {
        options = options.expect(line);
    }
    let broker = Broker::start(&options);
    serves_on(&broker);
    create(&broker, "emptied", 1, &[("segment.bytes", "1048576"), ("archive.lag.ms", "200")]);
    let mut written = values("before");
    for (value, n) in written.iter().zip(0..) {
        assert_eq!(produce(&broker, "emptied", 0, value), n);
    }
    let archived = |p: &[serde_json::Value]| p[0]["archived_end_offset"] == p[0]["high_watermark"];
    for topic in ["emptied", "steady"] {
        broker.wait_topic(topic, "archived", PATIENCE, archived);
    }
    let aside = dir.path().join("aside");
    move_objects(&bucket, &aside);
    let start = Instant::now();
    while !bucket_state(&broker).starts_with("gone: ") {
        assert!(start.elapsed() < Duration::from_secs(90), "{}\n{}", bucket_state(&broker), broker.log());
        std::thread::sleep(Duration::from_millis(500));
    }
    println!("noticed after {:?}: {}", start.elapsed(), bucket_state(&broker));
    let (code, said) = health(&broker);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("broker 1 archives nothing") && said.contains("put the bucket's objects back"), "{said}");
    assert_eq!(sum(&scrape(&broker), "tidewater_bucket_root_gone", &[]), 1.0);
    assert!(broker.log().contains("the bucket was emptied"), "{}", broker.log());

    // The disk shall keep little, and most of the topic was archived: its copies are gone, so it stays.
    let little = [("local.retention.bytes".to_owned(), Some("65536".to_owned()))];
    run(async { Client::connect(&broker.kafka).await?.alter_configs("emptied", &little).await }).expect("altered");
    for value in values("meanwhile") {
        assert_eq!(produce(&broker, "emptied", 0, &value), written.len() as u64);
        written.push(value);
    }
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        serves_on(&broker);
        std::thread::sleep(Duration::from_millis(500));
    }
    let status = broker.topic("emptied");
    let partition = &status["partitions"][0];
    assert_eq!(partition["archived_end_offset"], 80, "archived beside the loss: {partition:#}");
    assert_eq!(partition["local_start_offset"], 0, "local records went, whose copies are gone: {partition:#}");
    assert!(partition["archive_stopped"].as_str().is_some_and(|why| why.contains("is gone")), "{partition:#}");
    assert!(read_to_end(&broker, "emptied", 0, 0) == written, "what is local is served");

    move_objects(&aside, &bucket);
    broker.wait_topic("emptied", "archived again and trimmed", PATIENCE, |p| {
        archived(p) && p[0]["local_start_offset"].as_u64() > Some(80)
    });
    assert_eq!(bucket_state(&broker), "open");
    assert_eq!(health(&broker).0, Some(0), "{}", health(&broker).1);
    assert!(read_to_end(&broker, "emptied", 0, 0) == written, "from the bucket");
    serves_on(&broker);
    broker.stop();
}

#[test]
fn a_bucket_that_is_down_from_the_start() {
    let dir = tempfile::tempdir().expect("tempdir");
    // A port without a listener.
    let [port, ..] = super::support::broker::free_ports();
    let envs = [
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ];
    let options = Options {
        bucket: Some("s3://nowhere/lake".to_owned()),
        envs: envs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        ..Options::new(&dir.path().join("data"))
    };
    let options = options.expect("the bucket cannot be opened now").expect("table could not be brought up to date");
    let broker = Broker::start(&options);
    serves_on(&broker);
    let state = bucket_state(&broker);
    assert!(state.contains("cannot be opened now") || state.contains("being opened"), "{state}");
    create(&broker, "waiting", 1, &[("archive.lag.ms", "100"), ("iceberg.mode", "key_value")]);
    produce(&broker, "waiting", 0, b"kept here");
    std::thread::sleep(Duration::from_secs(8));
    assert!(bucket_state(&broker).contains("cannot be opened now"), "{}", bucket_state(&broker));
    assert!(broker.log().contains("the bucket cannot be opened now"), "{}", broker.log());
    assert_eq!(broker.topic("waiting")["partitions"][0]["archived_end_offset"], 0);
    assert_eq!(read_to_end(&broker, "waiting", 0, 0), [Bytes::from_static(b"kept here")]);
    serves_on(&broker);
    broker.stop();
}
