//! Three brokers with one registry: each answers all requests, also when the one that leads `_schemas` dies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::asked::{Answered, get, register};
use super::support::broker::free_ports_of;
use super::support::cluster::{Cluster, ClusterOptions};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a failover and its clients may log.
const EXPECTED: [&str; 10] = [
    "broker",
    "tried again",
    "tries again",
    "try again",
    "looking again",
    "replica",
    "Raft",
    "raft",
    "a request to the schema registry failed",
    "leader",
];

struct Registries {
    cluster: Cluster,
    addrs: Vec<String>,
    /// What was answered: id by subject.
    ids: BTreeMap<String, i64>,
}

fn text(n: usize) -> String {
    format!(r#"{{"type":"record","name":"R{n}","fields":[{{"name":"a","type":"string"}}]}}"#)
}

impl Registries {
    fn start(dir: &std::path::Path, bucket: String) -> Self {
        let expected = EXPECTED.iter().map(ToString::to_string).collect();
        let options = ClusterOptions { bucket: Some(bucket), expected, ..ClusterOptions::default() };
        let mut cluster = Cluster::prepare(dir, 3, &options);
        let addrs: Vec<String> = free_ports_of(3).iter().map(|port| format!("127.0.0.1:{port}")).collect();
        for (of, addr) in cluster.options.iter_mut().zip(&addrs) {
            of.args.extend(["--schema-addr".to_owned(), addr.clone()]);
        }
        (0..3).for_each(|n| cluster.spawn(n));
        cluster.wait_ready();
        cluster.wait_healthy(PATIENCE);
        Self { cluster, addrs, ids: BTreeMap::new() }
    }

    /// Registers schema `n` at a broker until an id comes.
    fn register(&mut self, broker: usize, n: usize) -> i64 {
        let (subject, begun) = (format!("s{n}"), Instant::now());
        let id = loop {
            match register(&self.addrs[broker], &subject, &text(n)) {
                Some(Answered { status: 200, body }) => break body["id"].as_i64().expect("an id"),
                Some(Answered { status, body }) if status < 500 => panic!("{status}: {body}"),
                answered => assert!(begun.elapsed() < PATIENCE, "{answered:?}\n{}", self.cluster.logs()),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let before = self.ids.insert(subject.clone(), id);
        assert!(before.is_none_or(|before| before == id), "{subject} had id {before:?} and has {id}");
        let holders: Vec<&String> = self.ids.iter().filter(|(_, held)| **held == id).map(|(name, _)| name).collect();
        assert_eq!(holders.len(), 1, "id {id} is given twice: {holders:?}");
        id
    }

    /// Every broker that runs has every id that was answered, at once.
    fn check(&self) {
        for broker in self.cluster.running() {
            for (subject, id) in &self.ids {
                let n = subject.trim_start_matches('s').parse().expect("a number");
                let found = get(&self.addrs[broker], &format!("/schemas/ids/{id}")).expect("answers");
                assert_eq!((found.status, found.body["schema"].as_str()), (200, Some(&*text(n))), "broker {broker}");
                let latest = get(&self.addrs[broker], &format!("/subjects/{subject}/versions/latest"));
                assert_eq!(latest.expect("answers").body["id"], *id, "broker {broker}");
            }
        }
    }
}

#[test]
fn every_broker_answers_and_no_id_is_given_twice_over_failovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let mut all = Registries::start(dir.path(), bucket);
    for broker in 0..3 {
        assert_eq!(get(&all.addrs[broker], "/subjects").expect("answers").body, serde_json::json!([]));
        assert_eq!(get(&all.addrs[broker], "/schemas/ids/1").expect("answers").status, 404);
    }
    let mut next = 0;
    let mut some = |all: &mut Registries, broker: usize| {
        (0..3).for_each(|_| {
            all.register(broker, next);
            next += 1;
        });
        // The one before last again: it has its id.
        all.register(broker, next - 2);
    };
    for broker in 0..3 {
        some(&mut all, broker);
        all.check();
    }
    for _ in 0..3 {
        let leader = all.cluster.leader_of("_schemas", 0).expect("a leader");
        all.cluster.kill(leader);
        // An id that was ever answered is read without a leader, at any broker that has read it.
        for broker in all.cluster.running() {
            let (subject, id) = all.ids.iter().next().expect("one");
            let found = get(&all.addrs[broker], &format!("/schemas/ids/{id}")).expect("answers");
            assert_eq!(found.status, 200, "{subject}: {}", found.body);
        }
        for broker in all.cluster.running() {
            some(&mut all, broker);
        }
        all.check();
        all.cluster.restart(leader);
        all.cluster.wait_ready();
        all.cluster.wait_healthy(PATIENCE);
        some(&mut all, leader);
        all.check();
    }
    all.cluster.check_logs();
}
