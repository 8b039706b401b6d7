//! A registry whose brokers and disks are lost, restored from the bucket: ids that were answered stay, and none is
//! given again.

use std::process::Command;
use std::time::Duration;

use super::asked::{get, register};
use super::support::broker::{Broker, Options, binary, free_ports_of};

fn text(n: i32) -> String {
    format!(r#"{{"type":"record","name":"R{n}","fields":[{{"name":"a","type":"string"}}]}}"#)
}

#[test]
fn an_answered_id_is_in_the_bucket_and_a_restored_cluster_leaves_ids_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let addr = format!("127.0.0.1:{}", free_ports_of(1)[0]);
    let options = Options { bucket: Some(bucket.clone()), ..Options::new(&dir.path().join("data")) };
    let options = options.arg("--schema-addr", &addr);
    let broker = Broker::start(&options);
    let mut ids = Vec::new();
    for n in 0..5 {
        let answered = register(&addr, &format!("s{n}"), &text(n)).expect("answers");
        assert_eq!(answered.status, 200, "{}", answered.body);
        ids.push(answered.body["id"].as_i64().expect("an id"));
    }
    let in_context = register(&addr, ":.dev:s", &text(0)).expect("answers");
    assert_eq!(in_context.body["id"], 1, "{}", in_context.body);
    // The last answer is not older than a moment: nothing but the registration itself waited for the bucket.
    broker.kill();
    std::fs::remove_dir_all(&options.data).expect("the disk is gone");

    for lineage in 1..=2 {
        let mut restore = Command::new(binary());
        restore.args(["restore", "--from", &bucket, "--data-dir"]).arg(&options.data);
        let output = restore.args(["--shards", "2", "--exit"]).output().expect("the command runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let broker = Broker::start(&options);
        for (n, id) in (0..).zip(&ids) {
            let found = get(&addr, &format!("/schemas/ids/{id}")).expect("answers");
            assert_eq!((found.status, found.body["schema"].as_str()), (200, Some(&*text(n))), "{}", found.body);
        }
        let known = register(&addr, "s0", &text(0)).expect("answers");
        assert_eq!(known.body["id"], ids[0], "{}", known.body);
        let last = *ids.last().expect("some");
        let n = i32::try_from(ids.len()).expect("few");
        let next = register(&addr, &format!("s{n}"), &text(n)).expect("answers");
        assert_eq!(next.body["id"], last + 1001, "lineage {lineage}: {}", next.body);
        ids.push(last + 1001);
        let in_context = register(&addr, &format!(":.dev:s{n}"), &text(n)).expect("answers");
        assert_eq!(in_context.body["id"], 1 + 1001 * lineage, "{}", in_context.body);
        broker.stop();
        // Once for each restore: not at each start.
        let broker = Broker::start(&options);
        let n = i32::try_from(ids.len()).expect("few");
        let next = register(&addr, &format!("s{n}"), &text(n)).expect("answers");
        assert_eq!(next.body["id"], last + 1002, "{}", next.body);
        ids.push(last + 1002);
        broker.kill();
        std::fs::remove_dir_all(&options.data).expect("the disk is gone");
    }
}

#[test]
fn without_its_bucket_a_registry_gives_out_no_new_id_and_answers_all_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("bucket");
    let addr = format!("127.0.0.1:{}", free_ports_of(1)[0]);
    let bucket = format!("file://{}", place.display());
    let options = Options { bucket: Some(bucket), ..Options::new(&dir.path().join("data")) };
    let options = options.arg("--schema-addr", &addr).expect("archiving fails").expect("bucket");
    let options = options.expect("a request to the schema registry failed");
    let broker = Broker::start(&options);
    assert_eq!(register(&addr, "a", &text(0)).expect("answers").body["id"], 1);
    let away = dir.path().join("away");
    std::fs::rename(&place, &away).expect("the bucket is away");
    std::fs::write(&place, b"no directory").expect("in its place");
    let refused = register(&addr, "b", &text(1)).expect("answers");
    assert_eq!((refused.status, refused.body["error_code"].as_i64()), (500, Some(50002)), "{}", refused.body);
    assert!(refused.body["message"].as_str().is_some_and(|why| why.contains("not given out")), "{}", refused.body);
    assert_eq!(register(&addr, "a", &text(0)).expect("answers").body["id"], 1, "it was archived before");
    assert_eq!(get(&addr, "/schemas/ids/1").expect("answers").status, 200);
    std::fs::remove_file(&place).expect("away");
    std::fs::rename(&away, &place).expect("the bucket is back");
    let begun = std::time::Instant::now();
    let id = loop {
        let answered = register(&addr, "b", &text(1)).expect("answers");
        if answered.status == 200 {
            break answered.body["id"].as_i64();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", answered.body);
    };
    assert_eq!(id, Some(2), "the id that was not given out");
    broker.stop();
}
