//! `tidewater verify` on the bucket of a real broker: whole after a stop and after a kill.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::steady::{create, produce};
use super::support::broker::{Broker, Options};

const PATIENCE: Duration = Duration::from_secs(60);
const SMALL: &[(&str, &str)] =
    &[("segment.bytes", "1048576"), ("local.retention.bytes", "65536"), ("archive.lag.ms", "200")];

/// A bucket with a topic in bundles, parts and segment objects; the broker is stopped, or killed.
fn archive(dir: &Path, is_killed: bool) -> PathBuf {
    let bucket = dir.join("bucket");
    std::fs::create_dir_all(&bucket).expect("bucket");
    let options = Options { bucket: Some(url(&bucket)), ..Options::new(&dir.join("data")) }.arg("--shards", "1");
    let broker = Broker::start(&options);
    create(&broker, "whole", 2, SMALL);
    let value = Bytes::from("y".repeat(50_000));
    for n in 0..160 {
        produce(&broker, "whole", n % 2, &value);
    }
    broker.wait_topic("whole", "archived", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
    });
    if is_killed {
        broker.kill();
    } else {
        broker.stop();
    }
    bucket
}

fn url(bucket: &Path) -> String {
    format!("file://{}", bucket.display())
}

/// Exit code, standard output and standard error.
fn verify(bucket: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidewater"));
    let output = command.args(["verify", "--from", &url(bucket)]).args(args).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_bucket_is_whole_after_a_stop_and_after_a_kill() {
    for is_killed in [false, true] {
        let dir = tempfile::tempdir().expect("tempdir");
        let bucket = archive(dir.path(), is_killed);
        for args in [&[][..], &["--quick"][..]] {
            let (code, out, err) = verify(&bucket, args);
            assert_eq!(code, 0, "{out}{err}");
            assert!(out.contains("objects"), "{out}");
        }
        let (code, out, _) = verify(&bucket, &["--json"]);
        let report: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(code, 0);
        assert!(report["bytes"].as_u64() >= Some(160 * 50_000), "every record is read: {report}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_no_damage() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (code, _, err) = verify(&dir.path().join("not there"), &[]);
    assert_eq!(code, 1, "{err}");
    assert!(!dir.path().join("not there").exists(), "it makes no directory");
    let (code, _, err) = verify(dir.path(), &["--cluster-name", "east"]);
    assert!(code == 1 && err.contains("no cluster named east"), "{err}");
    let (code, _, err) = verify(dir.path(), &["--cluster-name", "No Name"]);
    assert!(code == 2, "{err}");
}
