//! The Schema Registry of real brokers: its port and its commands, ids that stay over kill -9, failovers and restores.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, dead_code, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

mod asked;
mod cluster;
mod restored;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use support::broker::{Broker, Options, binary, free_ports_of, http_get};

/// Runs `tidewater schema …`; what it printed, or its error.
fn schema(registry: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(binary()).arg("schema").args(args).args(["--registry", registry]).output();
    let output = output.expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// What it printed as JSON. A registration whose schema is not in the bucket in time is repeated, as its error says: on
/// a busy machine that takes longer than the registry waits.
fn answer(registry: &str, args: &[&str]) -> Value {
    let ask = || schema(registry, &[args, &["--json"]].concat());
    let late = |answer: &Result<String, String>| answer.as_ref().is_err_and(|why| why.contains("Register it again"));
    let mut printed = ask();
    for _ in 0..6 {
        if late(&printed) {
            printed = ask();
        }
    }
    let printed = printed.unwrap_or_else(|why| panic!("{args:?}: {why}"));
    serde_json::from_str(&printed).unwrap_or_else(|why| panic!("{args:?}: {why}: {printed}"))
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("writable");
    path.display().to_string()
}

#[test]
fn ids_stay_over_kills() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = format!("127.0.0.1:{}", free_ports_of(1)[0]);
    let options = Options::new(&dir.path().join("data")).arg("--schema-addr", &registry);
    let one = file(dir.path(), "1.avsc", r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}"#);
    let two =
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":"string"},{"name":"b","type":"int","default":0}]}"#;
    let two = file(dir.path(), "2.avsc", two);
    let bad = file(dir.path(), "3.avsc", r#"{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}"#);
    let proto = file(dir.path(), "m.proto", "syntax = \"proto3\"; message M { string s = 1; }");

    let broker = Broker::start(&options);
    assert_eq!(answer(&registry, &["list"]), json!([]), "without the topic");
    assert_eq!(answer(&registry, &["register", "orders-value", &one])["id"], 1);
    assert_eq!(answer(&registry, &["register", "orders-value", &two])["id"], 2);
    assert_eq!(answer(&registry, &["register", "m-value", &proto, "--type", "protobuf"])["id"], 3);
    let refused = schema(&registry, &["register", "orders-value", &bad]).expect_err("it does not fit");
    assert!(refused.contains("TYPE_MISMATCH"), "{refused}");
    assert!(schema(&registry, &["check", "orders-value", &bad]).is_err());
    assert!(schema(&registry, &["check", "orders-value", &two]).is_ok());
    assert_eq!(answer(&registry, &["compatibility", "FULL", "--subject", "m-value"])["compatibility"], "FULL");
    let listed = answer(&registry, &["list"]);
    broker.kill();

    for _ in 0..3 {
        let broker = Broker::start(&options);
        assert_eq!(answer(&registry, &["list"]), listed);
        assert_eq!(answer(&registry, &["register", "orders-value", &one])["id"], 1, "registered again");
        let (status, body) = http_get(&registry, "/schemas/ids/3/schema").expect("it answers");
        assert_eq!((status, body.as_str()), (200, "syntax = \"proto3\";\n\nmessage M {\n  string s = 1;\n}\n"));
        assert_eq!(answer(&registry, &["compatibility", "--subject", "m-value"])["compatibilityLevel"], "FULL");
        broker.kill();
    }

    let broker = Broker::start(&options);
    assert_eq!(answer(&registry, &["delete", "orders-value"]), json!([1, 2]));
    assert_eq!(answer(&registry, &["delete", "orders-value", "--permanent"]), json!([1, 2]));
    broker.kill();
    let broker = Broker::start(&options);
    // The records of ids 1 and 2 are tombstones now, and id 3 is taken.
    assert_eq!(answer(&registry, &["register", "orders-value", &one])["id"], 4);
    broker.stop();
}
