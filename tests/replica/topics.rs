//! Topics of a source come and go at the cluster that follows it.

use std::time::{Duration, Instant};

use tidewater::client::Client;

use super::pair::{Pair, Side};
use super::run;
use super::support::wire::Wire;

/// A source's catalogue is read at least once a minute.
const SEEN: Duration = Duration::from_secs(90);

fn names(pair: &Pair) -> Vec<String> {
    let topics = run(async { Client::connect(&pair.replica().kafka).await?.topics().await }).expect("topics");
    topics.into_iter().map(|topic| topic.name).filter(|name| !name.starts_with("__")).collect()
}

fn wait_names(pair: &Pair, expected: &[&str]) {
    let begun = Instant::now();
    while names(pair) != expected {
        assert!(begun.elapsed() < SEEN, "{:?} is not {expected:?}\n{}", names(pair), pair.replica().log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn create(pair: &Pair, topic: &str) {
    pair.source().cli(&["topic", "create", topic, "--partitions", "2", "--set", "archive.lag.ms=200"]);
    produce(pair, topic, 0, b"first");
}

fn produce(pair: &Pair, topic: &str, partition: i32, value: &[u8]) -> u64 {
    let mut wire = Wire::connect(&pair.source().kafka).expect("connects");
    wire.produce(topic, partition, super::pair::batch(value)).expect("an answer").expect("appended")
}

fn values(pair: &Pair, topic: &str) -> Vec<Vec<u8>> {
    let fetched = run(async {
        let mut client = Client::connect(&pair.replica().kafka).await?;
        client.fetch(topic, &[(0, 0)], 1000, 1 << 20).await
    });
    let records = fetched.expect("fetch").into_iter().next().expect("a partition").records;
    records.into_iter().map(|record| record.value.expect("a value").to_vec()).collect()
}

#[test]
fn topics_come_and_go_and_own_ones_win() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut pair = Pair::start(dir.path(), false);
    for topic in ["orders", "orders-eu", "users"] {
        create(&pair, topic);
    }
    pair.replica().cli(&["topic", "create", "orders-own"]);
    let source = |topic: &str| pair.source().topic(topic)["id"].clone();
    let (orders, eu) = (source("orders"), source("orders-eu"));
    pair.source().wait_topic("orders", "archived", SEEN, |p| p[0]["archived_end_offset"] == p[0]["high_watermark"]);
    pair.follow("orders*");
    wait_names(&pair, &["orders", "orders-eu", "orders-own"]);
    pair.wait_equal("orders");
    pair.wait_equal("orders-eu");
    assert_eq!(pair.get("/v1/topics/orders").expect("is there")["id"], orders);
    assert_eq!(pair.get("/v1/topics/orders-eu").expect("is there")["id"], eu);
    assert_eq!(values(&pair, "orders"), [b"first".to_vec()]);

    // A topic that is made at the source, one of a name that this cluster has, and one that is deleted.
    create(&pair, "orders-us");
    create(&pair, "orders-own");
    wait_names(&pair, &["orders", "orders-eu", "orders-own", "orders-us"]);
    pair.wait_equal("orders-us");
    let described = pair.get("/v1/replicas/tidewater").expect("is followed");
    let rows = described["topics"].as_array().expect("topics");
    let own = rows.iter().find(|row| row["name"] == "orders-own").expect("is described");
    assert!(own["note"].as_str().is_some_and(|note| note.contains("of this cluster")), "{own}");
    pair.source().cli(&["topic", "delete", "orders-us"]);
    wait_names(&pair, &["orders", "orders-eu", "orders-own"]);

    // More topics, then none: what is not followed any more is gone.
    pair.follow("orders*,users");
    wait_names(&pair, &["orders", "orders-eu", "orders-own", "users"]);
    // A restart keeps what is followed, and the source is not needed.
    pair.kill(Side::Source);
    pair.kill(Side::Replica);
    pair.start_again(Side::Replica);
    wait_names(&pair, &["orders", "orders-eu", "orders-own", "users"]);
    let begun = Instant::now();
    while pair.get("/v1/topics/users").expect("is there")["partitions"][0]["high_watermark"] != 1 {
        assert!(begun.elapsed() < SEEN, "{}", pair.replica().log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(values(&pair, "users"), [b"first".to_vec()]);
    pair.replica().cli(&["replica", "delete", "tidewater"]);
    wait_names(&pair, &["orders-own"]);
    pair.stop();
}
