//! A part of the data directory is missing or an old copy: `node.json`, a shard's directory. The broker does not start,
//! and nothing that is left is removed or created again.

use std::path::Path;
use std::time::{Duration, Instant};

use super::steady::{create, produce, read_to_end, serves_on};
use super::support::broker::{Broker, Options};

fn sharded(options: &Options, shards: &str) -> Options {
    options.clone().arg("--shards", shards)
}

/// Starts a broker that must refuse to start; its error message.
fn refused(options: &Options) -> String {
    let mut broker = Broker::spawn(options);
    let start = Instant::now();
    let status = loop {
        if let Some(status) = broker.ended() {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it runs:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    let log = broker.log();
    assert_eq!(status.code(), Some(1), "an error, not a crash:\n{log}");
    log.lines().last().unwrap_or_default().to_owned()
}

/// The shard directories in the data directory.
fn shards(data: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data).expect("lists").map(|entry| entry.expect("entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("plain")).collect();
    names.retain(|name| name.contains("shard-"));
    names.sort();
    names
}

#[test]
fn a_lost_or_an_old_node_json_costs_no_shard() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = Options::new(&dir.path().join("data"));
    let broker = Broker::start(&sharded(&options, "2"));
    create(&broker, "kept", 2, &[]);
    let values: Vec<String> = (0..20).map(|n| format!("record {n}")).collect();
    for (n, value) in values.iter().enumerate() {
        assert_eq!(produce(&broker, "kept", 0, value.as_bytes()), n as u64);
    }
    broker.stop();
    let node_json = options.data.join("node.json");
    let old = std::fs::read(&node_json).expect("node.json");
    let broker = Broker::start(&sharded(&options, "1"));
    assert_eq!(read_to_end(&broker, "kept", 0, 0), values);
    broker.kill();
    assert_eq!(shards(&options.data), ["shard-0.1"]);
    let new = std::fs::read(&node_json).expect("node.json");
    std::fs::remove_file(&node_json).expect("removes");
    for how in [None, Some("1"), Some("2")] {
        let asked = how.map_or(options.clone(), |how| sharded(&options, how));
        let word = refused(&asked);
        assert!(word.contains("node.json is missing") && word.contains("shard-0.1"), "{word}");
        std::fs::write(&node_json, &old).expect("writes");
        let word = refused(&asked);
        assert!(word.contains("shard-0, shard-1 is missing") && word.contains("old copy"), "{word}");
        assert_eq!(shards(&options.data), ["shard-0.1"]);
        std::fs::remove_file(&node_json).expect("removes");
    }
    std::fs::write(&node_json, &new).expect("writes");
    let broker = Broker::start(&sharded(&options, "1"));
    assert_eq!(read_to_end(&broker, "kept", 0, 0), values);
    serves_on(&broker);
    broker.stop();
}

#[test]
fn a_lost_shard_is_not_begun_anew() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = Options::new(&dir.path().join("data")).arg("--shards", "2");
    let broker = Broker::start(&options);
    create(&broker, "kept", 4, &[]);
    (0..4).for_each(|partition| assert_eq!(produce(&broker, "kept", partition, b"there"), 0));
    broker.stop();
    let (shard, away) = (options.data.join("shard-1"), dir.path().join("away"));
    std::fs::rename(&shard, &away).expect("moves");
    let word = refused(&options);
    assert!(word.contains("shard-1 is missing (there: shard-0)"), "{word}");
    // As if a file system were no longer mounted there.
    std::fs::create_dir(&shard).expect("made");
    let word = refused(&options);
    assert!(word.contains("shard-1 has lost"), "{word}");
    assert_eq!(std::fs::read_dir(&shard).expect("lists").count(), 0);
    std::fs::remove_dir(&shard).expect("removes");
    std::fs::rename(&away, &shard).expect("moves back");
    let broker = Broker::start(&options);
    (0..4).for_each(|partition| assert_eq!(read_to_end(&broker, "kept", partition, 0), ["there"]));
    serves_on(&broker);
    broker.stop();
}
