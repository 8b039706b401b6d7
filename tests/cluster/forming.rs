//! Clusters that form, grow and take a broker in another's place; starts that are refused in words, with nothing harmed.

use std::time::{Duration, Instant};

use tidewater::client::Client;

use super::clients::{create, read_all};
use super::run;
use super::support::broker::{Broker, Options};
use super::support::cluster::{Cluster, ClusterOptions};
use super::tools::{cli, produce};

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

#[test]
fn a_broker_that_lost_its_disk_is_replaced_by_an_empty_one() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut cluster = Cluster::start(dir.path(), 3, &options(&dir));
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), "orders", 6, &[("archive.lag.ms", "500")]);
    let written = produce(&cluster.bootstrap(), "orders", 6, 200);
    cluster.kill(2);
    cluster.wipe(2);
    // An empty directory alone does not make it broker 3 again: it would forget what it has voted and acknowledged.
    cluster.options[2].args.extend(["--replace".to_owned(), "3".to_owned()]);
    cluster.restart(2);
    cluster.wait_ready();
    cluster.wait_healthy(PATIENCE);
    // The rebuilt replicas carry the log alone with either of the others.
    cluster.kill(0);
    let more = produce(&cluster.bootstrap(), "orders", 6, 20);
    let log = read_all(&cluster.bootstrap(), "orders", 6);
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
