//! `tidewater verify` on the bucket of a real broker: whole after a stop and after a kill, and each damage by object.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::steady::{create, damage, files, produce};
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
    // Several bundles, on a fast machine, too.
    for _ in 0..4 {
        for n in 0..40 {
            produce(&broker, "whole", n % 2, &value);
        }
        broker.wait_topic("whole", "archived", PATIENCE, |partitions| {
            partitions.iter().all(|p| p["archived_end_offset"] == p["high_watermark"])
        });
    }
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

/// The report for a bucket, and the exit code.
fn report(bucket: &Path, args: &[&str]) -> (i32, Value) {
    let (code, out, err) = verify(bucket, &[args, &["--json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
}

/// The kinds of damage that are reported for an object.
fn kinds_of(report: &Value, object: &str) -> Vec<String> {
    let all = report["damage"].as_array().expect("a list");
    all.iter().filter(|one| one["object"] == object).map(|one| one["kind"].as_str().expect("text").to_owned()).collect()
}

/// An object that no published manifest names yet is no part of what a replica or a restore reads, and is not looked
/// at. What is looked at holds every record.
#[test]
fn damage_is_named_wherever_records_lie() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = archive(dir.path(), false);
    let key = |path: &Path| path.strip_prefix(&bucket).expect("inside").display().to_string();
    let data = ["/lanes/", "/parts/", "/segments/", "/gathered/"].map(|part| files(&bucket, part)).concat();
    let mut looked_at = Vec::new();
    for path in &data {
        let good = std::fs::read(path).expect("readable");
        // In each batch: they have 50,000 bytes and more. Some of the object may be replaced, and is not looked at.
        for at in (8..good.len() - 16).step_by(20_000) {
            damage(path, at);
        }
        let (code, report) = report(&bucket, &[]);
        assert!(code == 0 || !kinds_of(&report, &key(path)).is_empty(), "{path:?}, exit code {code}: {report:#}");
        std::fs::write(path, &good).expect("written");
        looked_at.extend((code == 3).then_some((path, good)));
    }
    let bytes: usize = looked_at.iter().map(|(_, good)| good.len()).sum();
    assert!(bytes >= 160 * 50_000, "damage in {bytes} bytes of {} objects is seen", looked_at.len());

    // Without its last bundle a lane ends earlier; nothing shows that there was one more.
    let is_last = |path: &Path| {
        let of_lane = |other: &&PathBuf| other.parent() == path.parent() && other.as_path() > path;
        key(path).contains("/lanes/") && !data.iter().any(|other| of_lane(&other))
    };
    let named = looked_at.iter().filter(|(path, _)| !is_last(path));
    let (path, good) = named.max_by_key(|(_, good)| good.len()).expect("records");
    // Its second half may be replaced, and is not looked at then.
    std::fs::write(path, &good[..16]).expect("written");
    let (code, cut) = report(&bucket, &["--quick"]);
    assert!(code == 3 && !kinds_of(&cut, &key(path)).is_empty(), "{cut:#}");
    std::fs::remove_file(path).expect("removed");
    for args in [&[][..], &["--quick"][..]] {
        let (code, missing) = report(&bucket, args);
        assert_eq!((code, kinds_of(&missing, &key(path))), (3, vec!["missing".to_owned()]), "{missing:#}");
    }
    std::fs::write(path, good).expect("written");
    assert_eq!(report(&bucket, &[]).0, 0, "it is whole again");

    for path in files(&bucket, "/manifests/") {
        damage(&path, 40);
        let (code, report) = report(&bucket, &["--quick"]);
        assert!(code == 3 && !kinds_of(&report, &key(&path)).is_empty(), "{report:#}");
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
