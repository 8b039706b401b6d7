//! What cannot be done with a followed topic, and buckets that cannot be followed.

use std::process::Command;

use tidewater::client::{Client, ClientError, NewTopic};

use super::pair::{Pair, batch};
use super::run;
use super::support::wire::Wire;

const POLICY_VIOLATION: i16 = 44;
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// The code and text of an error.
fn refused<T: std::fmt::Debug>(done: Result<T, ClientError>) -> (i16, String) {
    let error = done.expect_err("is refused");
    (error.code().unwrap_or_default(), error.to_string())
}

#[test]
fn a_followed_topic_can_only_be_read() {
    let dir = tempfile::tempdir().expect("tempdir");
    let pair = Pair::start(dir.path(), false);
    pair.source().cli(&["topic", "create", "orders", "--partitions", "1", "--set", "archive.lag.ms=200"]);
    let mut wire = Wire::connect(&pair.source().kafka).expect("connects");
    assert_eq!(wire.produce("orders", 0, batch(b"first")).expect("an answer"), Ok(0));
    pair.follow("*");
    pair.wait_equal("orders");
    let mut wire = Wire::connect(&pair.replica().kafka).expect("connects");
    let (code, why) = wire.produce("orders", 0, batch(b"second")).expect("an answer").expect_err("is refused");
    assert!(code == POLICY_VIOLATION && why.contains("source tidewater"), "{code} {why}");
    run(async {
        let mut client = Client::connect(&pair.replica().kafka).await.expect("connects");
        for (code, text) in [
            refused(client.delete_topic("orders").await),
            refused(client.add_partitions("orders", 4).await),
            refused(client.alter_configs("orders", &[("retention.ms".to_owned(), Some("1".to_owned()))]).await),
            refused(client.delete_records("orders", &[(0, 1)]).await),
        ] {
            assert_eq!(code, POLICY_VIOLATION, "{text}");
        }
        let (_, text) = refused(client.delete_topic("orders").await);
        assert!(text.contains("followed from the source tidewater"), "{text}");
        let topic = NewTopic { name: "orders".to_owned(), ..NewTopic::default() };
        assert_eq!(refused(client.create_topic(&topic).await).0, TOPIC_ALREADY_EXISTS);
    });
    pair.wait_equal("orders");
    pair.stop();
}

#[test]
fn buckets_that_cannot_be_followed_change_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let pair = Pair::start(dir.path(), false);
    let create = |from: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewater"));
        command.args(["replica", "create", "--from", from, "--admin", &pair.replica().admin]).args(more);
        let output = command.output().expect("the command runs");
        assert_eq!(output.status.code(), Some(1), "{from} {more:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let nowhere = dir.path().join("nowhere");
    let text = create(&format!("file://{}", nowhere.display()), &[]);
    assert!(text.contains("nowhere") && !nowhere.exists(), "{text}");
    let text = create(&pair.bucket, &["--cluster-name", "other"]);
    assert!(text.contains("no cluster named other"), "{text}");
    let text = create("http://example.com", &[]);
    assert!(text.contains("is not one of"), "{text}");
    let text = create(&pair.bucket, &["--topics", "a b"]);
    assert!(text.contains("a b"), "{text}");
    let own = format!("file://{}", pair.options[1].data.join("bucket").display());
    let text = create(&own, &[]);
    assert!(text.contains("this cluster itself"), "{text}");

    let root = dir.path().join("bucket/tidewater/root");
    let good = std::fs::read_to_string(&root).expect("a root");
    std::fs::write(&root, good.replace("\"format\": 1", "\"format\": 999")).expect("written");
    let text = create(&pair.bucket, &[]);
    assert!(text.contains("999") && text.contains("update"), "{text}");
    std::fs::write(&root, "not a root").expect("written");
    let text = create(&pair.bucket, &[]);
    assert!(text.contains("damaged"), "{text}");
    std::fs::write(&root, good).expect("written");
    assert_eq!(pair.get("/v1/replicas"), Some(serde_json::json!([])));
    pair.follow("*");
    let text = create(&pair.bucket, &["--name", "again"]);
    assert!(text.contains("followed already, as source tidewater"), "{text}");
    pair.stop();
}
