//! A full file system (ENOSPC from the kernel) below the broker's own budget: it becomes smaller and larger while the
//! broker runs.

use std::time::{Duration, Instant};

use tidewater::client::Client;

use super::steady::{batch, create, fetch, read_to_end, run, serves_on};
use super::support::broker::{Broker, Options};
use super::support::disk::SmallDisk;
use super::support::wire::Wire;

const ROOMY: &str = "2400m";

#[test]
fn a_file_system_without_room_loses_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let disk = SmallDisk::mount(dir.path().join("disk"), ROOMY);
    let options = Options { wrapper: disk.wrapper(), ..Options::new(&disk.at().join("data")) }.arg("--shards", "1");
    let mut options = options;
    for line in ["the disk is full", "disk full", "storage upkeep", "no space left for", "registering buffers"] {
        options = options.expect(line);
    }
    let mut broker = Broker::start(&options);
    create(&broker, "fat", 1, &[("remote.storage.enable", "false"), ("segment.bytes", "16777216")]);
    disk.resize("420m");
    let block = vec![b'f'; 900_000];
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    let mut acknowledged = 0;
    // Up to the first refusal or missing answer; that record may be in the log or not.
    let end = loop {
        match wire.produce("fat", 0, batch(&[&block])) {
            Ok(Ok(offset)) => {
                assert_eq!(offset, acknowledged);
                acknowledged += 1;
            }
            Ok(Err(refused)) => break format!("{refused:?}"),
            Err(silence) => break silence.to_string(),
        }
        assert!(acknowledged < 1000, "900 MB went into 420 MB");
    };
    eprintln!("{acknowledged} batches acknowledged, then: {end}");
    assert!(acknowledged > 20, "full after {acknowledged} batches\n{}", broker.log());
    std::thread::sleep(Duration::from_secs(2));
    assert!(broker.ended().is_none(), "it ended:\n{}", broker.log());
    assert!(!fetch(&broker, "fat", 0, 0).expect("reads go on").records.is_empty());
    disk.resize(ROOMY);
    let start = Instant::now();
    loop {
        let mut wire = Wire::connect(&broker.kafka).expect("connects");
        if wire.produce("fat", 0, batch(&[b"there is room"])).is_ok_and(|told| told.is_ok()) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "still no room:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    serves_on(&broker);
    let found = read_to_end(&broker, "fat", 0, 0).len() as u64;
    assert!(found > acknowledged, "{found} of {acknowledged} and one");
    broker.kill();
    let broker = Broker::start(&options);
    assert_eq!(read_to_end(&broker, "fat", 0, 0).len() as u64, found, "after kill -9");
    serves_on(&broker);
    broker.stop();
}

/// A broker that was killed on a full disk starts again without a free block, and reads and commands work.
#[test]
fn a_file_system_without_a_free_block_is_started_on() {
    let dir = tempfile::tempdir().expect("tempdir");
    let disk = SmallDisk::mount(dir.path().join("disk"), ROOMY);
    let mut options = Options { wrapper: disk.wrapper(), ..Options::new(&disk.at().join("data")) }.arg("--shards", "1");
    for line in
        ["the disk is full", "disk full", "storage upkeep", "no space left for", "registering buffers", "No space left"]
    {
        options = options.expect(line);
    }
    let broker = Broker::start(&options);
    create(&broker, "fat", 1, &[("remote.storage.enable", "false"), ("segment.bytes", "16777216")]);
    create(&broker, "thin", 1, &[("remote.storage.enable", "false")]);
    let block = vec![b'f'; 900_000];
    let mut wire = Wire::connect(&broker.kafka).expect("connects");
    (0..80).for_each(|n| assert_eq!(wire.produce("fat", 0, batch(&[&block])).expect("an answer"), Ok(n)));
    assert_eq!(wire.produce("thin", 0, batch(&[b"before"])).expect("an answer"), Ok(0));
    broker.kill();
    disk.fill();
    let broker = Broker::start(&options);
    assert_eq!(read_to_end(&broker, "fat", 0, 0).len(), 80, "{}", broker.log());
    assert_eq!(read_to_end(&broker, "thin", 0, 0), ["before"]);
    run(async { Client::connect(&broker.kafka).await?.delete_topic("fat").await }).expect("deleted");
    // The next checkpoint deletes its files, and needs some blocks itself.
    disk.free();
    let start = Instant::now();
    loop {
        let mut wire = Wire::connect(&broker.kafka).expect("connects");
        if wire.produce("thin", 0, batch(&[&block])).is_ok_and(|told| told.is_ok()) {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "still no room:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    serves_on(&broker);
    broker.kill();
    let broker = Broker::start(&options);
    assert!(read_to_end(&broker, "thin", 0, 0).len() >= 2);
    broker.stop();
}
