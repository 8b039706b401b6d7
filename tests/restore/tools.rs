//! The command, and the cluster as our own client sees it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use tidewater::client::{Client, NewTopic};

use super::run;

/// `tidewater restore` with these words; `data` is the directory that it prepares.
pub fn restore(bucket: &str, data: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(super::support::broker::binary());
    command.env_remove("TIDEWATER_SEED");
    command.args(["restore", "--from", bucket, "--data-dir"]).arg(data).args(["--shards", "2"]).args(words);
    command.output().expect("the command runs")
}

/// The same, which must succeed: its JSON.
pub fn restored(bucket: &str, data: &Path, words: &[&str]) -> serde_json::Value {
    let output = restore(bucket, data, &[words, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The ends that a report names, by topic and partition.
pub fn ends_of(report: &serde_json::Value) -> BTreeMap<(String, i32), u64> {
    let topics = report["report"]["topics"].as_array().expect("topics");
    let partitions = |topic: &serde_json::Value| {
        let name = topic["name"].as_str().expect("a name").to_owned();
        let all = topic["partitions"].as_array().expect("partitions").clone();
        all.into_iter().map(move |found| {
            let partition = i32::try_from(found["partition"].as_i64().expect("a number")).expect("small");
            ((name.clone(), partition), found["end"].as_u64().expect("an offset"))
        })
    };
    topics.iter().flat_map(partitions).collect()
}

pub fn create(bootstrap: &str, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: name.to_owned(), partitions: Some(partitions), replication_factor: None, configs };
    run(async { Client::connect(bootstrap).await?.create_topic(&topic).await }).expect("is created");
}

/// Values of a topic by partition, from offset 0 on.
pub fn read_all(bootstrap: &str, topic: &str, partitions: i32) -> Vec<Vec<String>> {
    run(async {
        let mut client = Client::connect(bootstrap).await.expect("connects");
        let mut all = Vec::new();
        for partition in 0..partitions {
            let (mut at, mut found) = (0, Vec::new());
            loop {
                let fetched = client.fetch(topic, &[(partition, at)], 1000, 4 << 20).await.expect("fetch");
                let fetched = fetched.into_iter().next().expect("a partition");
                for record in fetched.records {
                    assert_eq!(record.offset.get(), found.len() as u64, "offsets of {partition} leave no gap");
                    found.push(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"));
                }
                at = fetched.next_offset;
                if at >= fetched.high_watermark {
                    break;
                }
            }
            all.push(found);
        }
        all
    })
}

/// Settings that users gave, by name.
pub fn settings(bootstrap: &str, topic: &str) -> BTreeMap<String, Option<String>> {
    let entries = run(async { Client::connect(bootstrap).await?.topic_configs(topic).await }).expect("settings");
    entries.into_iter().filter(|entry| entry.is_override).map(|entry| (entry.name, entry.value)).collect()
}

/// Keys and sizes of everything in a directory bucket, and the contents of small objects.
pub fn content(bucket: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![bucket.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("reads") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(path.display().to_string(), std::fs::read(&path).expect("reads"));
            }
        }
    }
    found
}
