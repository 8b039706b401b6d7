//! What a restore refuses, in words, and with nothing changed.

use std::time::Duration;

use super::support::broker::{Broker, Options};
use super::tools::{content, create, restore};
use super::writer::Writer;

fn refused(bucket: &str, data: &std::path::Path, words: &[&str], expected: &str) {
    let output = restore(bucket, data, words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(expected), "{said}");
}

#[test]
fn what_cannot_be_restored_is_refused_and_stays_as_it_was() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket_dir = dir.path().join("bucket");
    let bucket = format!("file://{}", bucket_dir.display());
    let options = Options { bucket: Some(bucket.clone()), ..Options::new(&dir.path().join("data")) };
    let broker = Broker::start(&options);
    create(&broker.kafka, "orders", 1, &[("archive.lag.ms", "200")]);
    let mut writer = Writer::new(&broker.kafka, "orders", 1);
    for _ in 0..3 {
        writer.write(&broker.kafka, 20);
        broker.wait_topic("orders", "all is archived", Duration::from_secs(60), |partitions| {
            partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
        });
    }
    broker.kill();
    let before = content(&bucket_dir);
    let fresh = dir.path().join("fresh");

    refused(&bucket, &fresh, &["--cluster-name", "prod", "--exit"], "holds no cluster named prod; it holds tidewater");
    let other = dir.path().join("other-bucket");
    std::fs::create_dir(&other).expect("a directory");
    let nothing = format!("file://{}", other.display());
    refused(&nothing, &fresh, &["--exit"], "holds no cluster named tidewater and none of another name");
    refused(&bucket, &options.data, &["--exit"], "a restore needs an empty directory, and it holds broker 1");
    let stranger = dir.path().join("stranger");
    std::fs::create_dir_all(stranger.join("p")).expect("a directory");
    refused(&bucket, &stranger, &["--exit"], "there is data here (p)");
    assert!(!fresh.exists() && content(&bucket_dir) == before, "nothing was changed");

    // A root of a newer version.
    let root = bucket_dir.join("tidewater/root");
    let as_it_was = std::fs::read(&root).expect("reads");
    let newer = String::from_utf8(as_it_was.clone()).expect("text").replace("\"format\": 1", "\"format\": 9");
    std::fs::write(&root, newer).expect("writes");
    refused(&bucket, &fresh, &["--exit"], "has format 9; this version reads up to 1: update this one");
    std::fs::write(&root, as_it_was).expect("writes");

    // A bundle that is missing while later ones exist, and one that is damaged.
    let bundles: Vec<&String> = before.keys().filter(|key| key.contains("/lanes/")).collect();
    let same_lane =
        |pair: &&[&String]| pair[0].rsplit_once('/').map(|at| at.0) == pair[1].rsplit_once('/').map(|at| at.0);
    let first = bundles.windows(2).find(same_lane).expect("two bundles of a lane")[0];
    std::fs::remove_file(first).expect("removes");
    refused(&bucket, &fresh, &["--exit"], "the archive is damaged");
    refused(&bucket, &fresh, &["--plan"], "the archive is damaged");
    std::fs::write(first, b"damaged").expect("writes");
    refused(&bucket, &fresh, &["--exit"], "the archive is damaged");
    std::fs::write(first, &before[first]).expect("writes");
    assert!(!fresh.exists() && content(&bucket_dir) == before, "nothing was changed");
    let words = restore(&bucket, &fresh, &["--json"]);
    assert_eq!(words.status.code(), Some(2), "wrong usage");
}
