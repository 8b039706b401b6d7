//! `tidewater demo` in its forms, as README says them: what they print, what they leave behind, how they fail.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test binary")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn binary() -> PathBuf {
    std::env::var_os("TIDEWATER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_tidewater").into(), PathBuf::from)
}

fn command(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("demo").args(words).arg("--data-dir").arg(dir.join("data")).stdin(Stdio::null());
    command
}

/// Runs a demo; what it printed, and what it said on standard error.
fn demo(dir: &Path, words: &[&str]) -> (Output, String, String) {
    let output = command(dir, words).output().expect("the command runs");
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    println!("{out}{err}");
    (output, out, err)
}

fn left(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("is read");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// The demo of a disaster succeeds, says this in the end, and leaves nothing behind.
fn disaster(brokers: &str, parts: &[&str]) {
    let dir = tempfile::tempdir().expect("tempdir");
    let (output, out, err) = demo(dir.path(), &["--disaster", "--exit", "--brokers", brokers]);
    assert!(output.status.success(), "{err}");
    let (steps, end) = out.split_once("What was shown:").expect("the end");
    for command in ["tidewater restore --from file:", "tidewater replica create --from file:"] {
        assert!(steps.contains(command), "{command}: {steps}");
    }
    let common = ["killed ", "restored ", "lost ", "goes on ", "replica ", "into epoch 2"];
    common.iter().chain(parts).for_each(|part| assert!(end.contains(part), "{part}: {end}"));
    assert_eq!(left(dir.path()), Vec::<String>::new(), "nothing is left behind");
}

#[test]
fn a_cluster_of_one_is_lost_and_comes_back() {
    disaster("1", &["1 broker, with kill -9"]);
}

#[test]
fn a_cluster_of_three_is_lost_and_comes_back() {
    disaster("3", &["3 brokers, with kill -9", "grown ", "to 3 brokers again"]);
}

#[test]
fn log_bucket_and_table_have_the_same_records() {
    let dir = tempfile::tempdir().expect("tempdir");
    let ports = ["--kafka-addr", "--admin-addr", "--catalog-addr", "--schema-addr"];
    let ports: Vec<&str> = ports.into_iter().flat_map(|port| [port, "127.0.0.1:0"]).collect();
    let (output, out, err) = demo(dir.path(), &[&["--records", "20000", "--exit"], &ports[..]].concat());
    assert!(output.status.success(), "{err}");
    assert!(out.contains("log, bucket and table hold the same 20,000 records"), "{out}");
    assert!(out.contains("2,000 rows in topics.demo_orders: order_id long, item string, quantity int"), "{out}");
    assert!(out.contains("coupon string; 1 in topics.demo_orders~dlq"), "{out}");
}

#[test]
fn one_of_three_is_killed_and_nothing_is_missing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (output, out, err) = demo(dir.path(), &["--brokers", "3", "--exit"]);
    assert!(output.status.success(), "{err}");
    assert!(out.contains("none lost, none doubled") && out.contains("was killed"), "{out}");
    assert_eq!(left(dir.path()), Vec::<String>::new(), "nothing is left behind");
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::write(dir.path().join("file"), "no directory").expect("is written");
    // The broker ends, and its log is kept.
    let bucket = format!("file://{}", dir.path().join("file").display());
    let (output, _, err) = demo(dir.path(), &["--disaster", "--bucket", &bucket]);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("broker 1 ended with") && err.contains("its log: ") && err.contains("are kept in"), "{err}");
    // No directory can be made below a file.
    let (output, _, err) = demo(&dir.path().join("file"), &["--disaster"]);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("cannot write ") && err.contains("--data-dir"), "{err}");
    let (output, _, err) = demo(dir.path(), &["--disaster", "--records", "5"]);
    assert_eq!(output.status.code(), Some(2), "{err}");
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut child = command(dir.path(), &["--disaster"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let begun = Instant::now();
    while left(dir.path()).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "no broker is started");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(killed.success());
    let status = child.wait().expect("it ends");
    let output = child.wait_with_output().expect("its output");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    assert_eq!(left(dir.path()), Vec::<String>::new(), "nothing is left behind");
}
