//! Clusters that form, grow and take a broker in another's place; starts that are refused in words, with nothing
//! harmed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kafka_protocol::messages::MetadataRequest;
use tidewater::client::Client;

use super::clients::{create, read_all};
use super::run;
use super::support::broker::{Broker, Options, free_ports, free_ports_of, http_get};
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::wire::Wire;
use super::tools::{cli, produce, produce_of};

const PATIENCE: Duration = Duration::from_secs(60);

fn options(dir: &tempfile::TempDir) -> ClusterOptions {
    ClusterOptions {
        bucket: Some(format!("file://{}", dir.path().join("bucket").display())),
        expected: super::EXPECTED.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    }
}

#[test]
fn three_brokers_form_one_cluster_and_survive_the_loss_of_each() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::start(dir.path(), 3, &options(&dir));
    cluster.wait_healthy(PATIENCE);
    let ids: Vec<String> = (0..3)
        .map(|n| run(async { Client::connect(&cluster.broker(n).kafka).await?.cluster().await }).expect("answers"))
        .map(|info| {
            assert_eq!(info.brokers.iter().map(|broker| broker.id).collect::<Vec<_>>(), [1, 2, 3]);
            info.cluster_id
        })
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one cluster: {ids:?}");
    create(&cluster.bootstrap(), "orders", 6, &[]);
    cluster.wait_balanced("orders", PATIENCE);
    let topic = run(async { Client::connect(&cluster.bootstrap()).await?.topic("orders").await }).expect("answers");
    let mut leaders: Vec<i32> = topic.partitions.iter().map(|partition| partition.leader).collect();
    assert!(topic.partitions.iter().all(|partition| partition.replicas.len() == 3 && partition.in_sync.len() == 3));
    leaders.sort_unstable();
    leaders.dedup();
    assert_eq!(leaders, [1, 2, 3], "leaders are spread over the brokers");

    let mut written = 0;
    for n in 0..3 {
        written += produce(&cluster.bootstrap(), "orders", 6, 20);
        cluster.kill(n);
        written += produce(&cluster.bootstrap(), "orders", 6, 20);
        // Lanes whose partitions the records did not go to may be electing still.
        let begun = Instant::now();
        let health = loop {
            let health = cluster.get("/v1/cluster/health").expect("a broker answers");
            if health["status"] == "degraded" {
                break health;
            }
            assert!(begun.elapsed() < PATIENCE, "{health:#}");
            std::thread::sleep(Duration::from_millis(200));
        };
        let problems = health["problems"].as_array().expect("a list");
        assert!(problems.iter().any(|problem| problem["kind"] == "unreachable"), "{health:#}");
        cluster.restart(n);
        cluster.wait_ready();
        cluster.wait_healthy(PATIENCE);
    }
    let log = read_all(&cluster.bootstrap(), "orders", 6);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written);
}

/// A client that has a connection waits for its answer until its own timeout, so a broker that cannot answer yet takes
/// none.
#[test]
fn a_start_that_waits_for_a_quorum_refuses_clients_until_it_can_answer() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::start(dir.path(), 3, &options(&dir));
    cluster.wait_healthy(PATIENCE);
    (0..3).for_each(|n| cluster.kill(n));
    cluster.restart(0);
    let begun = Instant::now();
    // A broker that knows from its own disk what is committed waits for no quorum, and answers.
    let waits = loop {
        let log = cluster.broker(0).log();
        match (log.contains("not serving yet"), log.matches("tidewater is ready").count()) {
            (true, _) => break true,
            (false, 2..) => break false,
            _ => assert!(begun.elapsed() < PATIENCE, "it neither waits nor serves:\n{}", cluster.logs()),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let kafka = cluster.broker(0).kafka.clone();
    if waits {
        let refused = std::net::TcpStream::connect(&kafka).expect_err("nothing would answer");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    }
    cluster.restart(1);
    let mut wire = loop {
        if let Ok(wire) = Wire::connect(&kafka) {
            break wire;
        }
        assert!(begun.elapsed() < PATIENCE, "no connection:\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(5));
    };
    let connected = Instant::now();
    wire.call(&MetadataRequest::default(), 9).expect("an answer");
    assert!(connected.elapsed() < Duration::from_secs(5), "answered after {:?}", connected.elapsed());
    cluster.restart(2);
    cluster.wait_ready();
    cluster.wait_healthy(PATIENCE);
}

#[test]
fn a_broker_that_lost_its_disk_is_replaced_by_an_empty_one() {
    let dir = tempfile::tempdir().expect("tempdir");
    // The least that it may be: what is written below goes beyond it.
    let args = ["--catch-up-bytes", "64MiB"].map(str::to_owned).to_vec();
    let mut cluster = Cluster::start(dir.path(), 3, &ClusterOptions { args, ..options(&dir) });
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), "orders", 6, &[("archive.lag.ms", "500")]);
    let written = produce(&cluster.bootstrap(), "orders", 6, 200);
    // Not in the bucket, so it is copied.
    create(&cluster.bootstrap(), "local", 3, &[("remote.storage.enable", "false")]);
    produce_of(&cluster.bootstrap(), "local", 3, 240, 900_000);
    cluster.wait_healthy(PATIENCE);
    let written = written + write_until_purged(&cluster);
    cluster.kill(2);
    cluster.wipe(2);
    // An empty directory alone does not make it broker 3 again: it would forget what it has voted and acknowledged.
    cluster.options[2].args.extend(["--replace".to_owned(), "3".to_owned()]);
    cluster.restart(2);
    cluster.wait_ready();
    let watched = cli(&cluster, 0, &["cluster", "health", "--watch", "--exit-when-healthy"]);
    assert!(watched.trim_end().contains("the cluster is healthy"), "{watched}");
    cluster.wait_healthy(PATIENCE);
    let rebuilt = |name: &str| metric(cluster.broker(2), &format!("tidewater_rebuild_{name}"));
    let (done, copied) = (rebuilt("replicas_done_total"), rebuilt("copied_bytes_total"));
    println!("{done} replicas were rebuilt, {copied} bytes copied");
    assert!(done > 0.0 && copied > 0.0, "{done} replicas were rebuilt, {copied} bytes copied\n{}", cluster.logs());
    assert_eq!((rebuilt("replicas_left"), rebuilt("left_bytes")), (0.0, 0.0), "nothing is left");
    // The rebuilt replicas carry the log alone with either of the others.
    cluster.kill(0);
    let more = produce(&cluster.bootstrap(), "orders", 6, 20);
    let log = read_all(&cluster.bootstrap(), "orders", 6);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written + more);
}

/// Checkpoints that each shard of each broker has taken, by broker and labels.
fn checkpoints(cluster: &Cluster) -> BTreeMap<(usize, String), u64> {
    let mut taken = BTreeMap::new();
    for n in cluster.running() {
        let (status, text) = http_get(&cluster.broker(n).admin, "/metrics").expect("the admin port answers");
        assert_eq!(status, 200, "{text}");
        let samples = text.lines().filter_map(|line| line.strip_prefix("tidewater_storage_checkpoints_total"));
        for (labels, count) in samples.filter_map(|sample| sample.rsplit_once(' ')) {
            taken.insert((n, labels.to_owned()), count.parse().expect("a count"));
        }
    }
    assert!(!taken.is_empty(), "no shard shows its checkpoints");
    taken
}

/// Until the journals of all brokers hold only what is written here: a follower keeps what was applied since the
/// checkpoint before the last. A shard without changes takes none, so both topics are written to. How many records of
/// topic `orders`.
fn write_until_purged(cluster: &Cluster) -> usize {
    let (begun, before, mut written) = (Instant::now(), checkpoints(cluster), 0);
    loop {
        written += produce(&cluster.bootstrap(), "orders", 6, 6);
        produce_of(&cluster.bootstrap(), "local", 3, 3, 10);
        let taken = checkpoints(cluster);
        if before.iter().all(|(shard, count)| taken.get(shard).is_some_and(|taken| *taken >= count + 2)) {
            return written;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "not two checkpoints more: {taken:?}, before {before:?}\n{}",
            cluster.logs()
        );
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A metric without labels.
fn metric(broker: &Broker, name: &str) -> f64 {
    let (status, text) = http_get(&broker.admin, "/metrics").expect("the admin port answers");
    assert_eq!(status, 200, "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in\n{text}"))
}

#[test]
fn a_broker_that_waits_says_for_what_on_its_admin_port() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::prepare(dir.path(), 3, &options(&dir));
    cluster.spawn(0);
    let admin = cluster.broker(0).admin.clone();
    let answer = |path: &str| http_get(&admin, path);
    let until = |what: &str, path: &str, is: &dyn Fn(u16, &str) -> bool| {
        let begun = Instant::now();
        loop {
            let got = answer(path);
            if got.as_ref().is_some_and(|(status, body)| is(*status, body)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} is not {what}: {got:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let two_away = "starting: waiting for 2 of 3 seeds: ";
    until("waiting", "/health/ready", &|status, body| status == 503 && body.starts_with(two_away));
    assert_eq!(answer("/health/live"), Some((200, "live\n".to_owned())));
    let (status, body) = answer("/v1/cluster/health").expect("answers");
    assert!(status == 503 && body.contains("does not answer (Connection refused"), "{status} {body}");
    assert_eq!(metric(cluster.broker(0), "tidewater_serving"), 0.0);

    for n in 1..3 {
        cluster.spawn(n);
    }
    cluster.wait_ready();
    assert_eq!(metric(cluster.broker(0), "tidewater_serving"), 1.0);
    cluster.wait_healthy(PATIENCE);
    // Alone after a restart: it knows the cluster.
    for n in 0..3 {
        cluster.stop(n);
    }
    cluster.spawn(0);
    until("cut off", "/health/ready", &|status, body| {
        let said = ["reaches 1 of 3 brokers: broker 2 at 127.0.0.1:", "broker 3 at 127.0.0.1:", "has not answered for"];
        status == 503 && said.iter().all(|part| body.contains(part))
    });
    let log = cluster.broker(0).log();
    assert!(log.contains("a broker does not answer"), "{log}");
    for n in 1..3 {
        cluster.spawn(n);
    }
    cluster.wait_ready();
    cluster.wait_healthy(PATIENCE);
    let log = cluster.broker(0).log();
    let (_, log) = log.rsplit_once("stopping").expect("it was stopped once");
    for (words, least) in [("a broker does not answer", 2), ("a broker answers again", 2)] {
        assert_eq!(log.matches(words).count(), least, "once for each: {log}");
    }
}

#[test]
fn brokers_that_all_moved_find_each_other() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::start(dir.path(), 3, &options(&dir));
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), "orders", 3, &[]);
    let written = produce(&cluster.bootstrap(), "orders", 3, 20);
    for n in 0..3 {
        cluster.stop(n);
    }
    let rpc: Vec<String> = free_ports_of(3).iter().map(|port| format!("127.0.0.1:{port}")).collect();
    for (options, own) in cluster.options.iter_mut().zip(&rpc) {
        options.ports = free_ports();
        options.rpc = Some(own.clone());
        options.args.clear();
        options.args.extend(["--seed".to_owned(), rpc.join(",")]);
    }
    for n in 0..3 {
        cluster.spawn(n);
    }
    cluster.wait_ready();
    cluster.wait_healthy(PATIENCE);
    let begun = Instant::now();
    loop {
        let brokers = cluster.get("/v1/cluster/brokers").expect("answers");
        let known: Vec<_> = brokers.as_array().expect("a list").iter().filter_map(|row| row["rpc"].as_str()).collect();
        if known == rpc {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "each registers its new address: {known:?}, not {rpc:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let more = produce(&cluster.bootstrap(), "orders", 3, 20);
    let log = read_all(&cluster.bootstrap(), "orders", 3);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written + more);
}

#[test]
fn a_cluster_of_one_grows_to_three() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::prepare(dir.path(), 1, &options(&dir));
    // The first broker is a cluster of one: it needs no seed list.
    cluster.options[0].args.clear();
    let seed = cluster.options[0].rpc.clone().expect("an address");
    cluster.seeds.clone_from(&seed);
    cluster.spawn(0);
    cluster.wait_ready();
    run(async {
        let mut client = Client::connect(&cluster.bootstrap()).await.expect("connects");
        let topic = tidewater::client::NewTopic { name: "orders".into(), partitions: Some(2), ..Default::default() };
        client.create_topic(&topic).await.expect("made");
    });
    let written = produce(&cluster.bootstrap(), "orders", 2, 100);
    for _ in 0..2 {
        let n = cluster.add(&[]);
        cluster.spawn(n);
    }
    cluster.wait_ready();
    let grown = cli(&cluster, 0, &["cluster", "grow"]);
    assert!(grown.contains("every lane has 3 replicas"), "{grown}");
    cluster.wait_healthy(PATIENCE);
    cluster.kill(0);
    let more = produce(&cluster.bootstrap(), "orders", 2, 20);
    let log = read_all(&cluster.bootstrap(), "orders", 2);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written + more);
}

/// Starts a broker that must end by itself; its log.
fn refused(options: &Options) -> String {
    let mut broker = Broker::spawn(options);
    let begun = Instant::now();
    while broker.ended().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(40), "the broker was not refused:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    broker.log()
}

/// Starts a broker that must log `words` and not become ready; the line. It is killed then.
fn says(options: &Options, words: &str) -> String {
    let mut broker = Broker::spawn(options);
    let begun = Instant::now();
    loop {
        let log = broker.log();
        if let Some(line) = log.lines().find(|line| line.contains(words)) {
            assert!(!broker.is_ready(), "it serves:\n{log}");
            return line.to_owned();
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "no {words:?} in the log:\n{log}");
        assert!(broker.ended().is_none() || broker.log().contains(words), "it ended:\n{}", broker.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_wrong_start_is_refused_in_words_and_harms_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::start(dir.path(), 3, &options(&dir));
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), "orders", 3, &[]);
    let written = produce(&cluster.bootstrap(), "orders", 3, 20);

    // Another cluster's data.
    let other = Options::new(&dir.path().join("other"));
    Broker::start(&other).kill();
    let n = cluster.add(&[]);
    cluster.options[n].data.clone_from(&other.data);
    let log = refused(&cluster.options[n]);
    assert!(log.contains("its data directory belongs to cluster") && log.contains("--data-dir"), "{log}");

    // The same broker a second time: a copy of a data directory whose broker runs.
    let copy = dir.path().join("copy");
    let status = std::process::Command::new("cp").arg("-r").arg(&cluster.options[1].data).arg(&copy).status();
    assert!(status.expect("cp").success());
    let _ = std::fs::remove_file(copy.join("lock"));
    cluster.options[n].data.clone_from(&copy);
    let log = refused(&cluster.options[n]);
    assert!(log.contains("runs on a copy of this data directory") && log.contains("stop one of them"), "{log}");

    // A seed list that leads nowhere.
    cluster.options[n].data = dir.path().join("empty");
    let seeds = cluster.options[n].args.iter().position(|arg| arg == "--seed").expect("a seed list") + 1;
    cluster.options[n].args[seeds] = "127.0.0.1:1".to_owned();
    says(&cluster.options[n], "127.0.0.1:1");

    // Another secret: the brokers of the cluster have none.
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret of thirty-two characters").expect("a file");
    let seed = cluster.options[0].rpc.clone().expect("an address");
    cluster.options[n].data = dir.path().join("secret-broker");
    cluster.options[n].args[seeds] = seed;
    let with_secret = cluster.options[n].clone().arg("--cluster-secret-file", &secret.display().to_string());
    says(&with_secret, "secret");

    cluster.wait_healthy(PATIENCE);
    let more = produce(&cluster.bootstrap(), "orders", 3, 20);
    let log = read_all(&cluster.bootstrap(), "orders", 3);
    assert_eq!(log.iter().map(Vec::len).sum::<usize>(), written + more, "nothing was harmed");
}
