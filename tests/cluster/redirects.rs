//! Leaders that move under the idempotent producers of franz-go, sarama and kafkajs: by a transfer, and by a kill.
//! Nothing is lost or doubled, and each goes on soon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::clients::{Clients, Program, Role, TOPIC, create, read_all};
use super::support::cluster::{Cluster, ClusterOptions};
use super::tools::cli;

const PATIENCE: Duration = Duration::from_secs(60);
/// A producer waits for no longer than this between two acknowledgements of a partition. franz-go asks for metadata
/// every five seconds at most.
const STANDS_STILL_MAX: Duration = Duration::from_secs(10);
const TRANSFER_MAX: Duration = Duration::from_secs(4);
const PARTITIONS: i32 = 3;
const PRODUCERS: &[Role] =
    &[("franz", Program::FranzGo, false), ("sarama", Program::Sarama, false), ("kafkajs", Program::Kafkajs, false)];

/// Waits until each producer has been acknowledged `more` records of each partition; the longest time that each waited
/// for one more of some partition.
fn watch(clients: &mut Clients, more: usize, cluster: &Cluster) -> BTreeMap<&'static str, Duration> {
    let all = PRODUCERS.iter().flat_map(|(name, _, _)| (0..PARTITIONS).map(|partition| (*name, partition)));
    let from = clients.by_partition();
    let at = |counts: &BTreeMap<_, usize>, of| counts.get(&of).copied().unwrap_or(0);
    let mut seen: BTreeMap<_, _> = all.map(|of| (of, (at(&from, of), Instant::now()))).collect();
    let mut longest: BTreeMap<_, _> = PRODUCERS.iter().map(|(name, _, _)| (*name, Duration::ZERO)).collect();
    while seen.iter().any(|(of, (count, _))| *count < at(&from, *of) + more) {
        std::thread::sleep(Duration::from_millis(20));
        clients.check_running();
        let now = clients.by_partition();
        for (of, (before, since)) in &mut seen {
            let waited = since.elapsed();
            longest.entry(of.0).and_modify(|most| *most = waited.max(*most));
            assert!(waited < PATIENCE, "{of:?} does not go on\n{}\n{}", clients.log(of.0), cluster.logs());
            if at(&now, *of) > *before {
                (*before, *since) = (at(&now, *of), Instant::now());
            }
        }
    }
    longest
}

#[test]
fn other_clients_follow_leaders_that_move() {
    let dir = tempfile::tempdir().expect("tempdir");
    let options = ClusterOptions {
        bucket: Some(format!("file://{}", dir.path().join("bucket").display())),
        expected: super::EXPECTED.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(PATIENCE);
    create(&cluster.bootstrap(), TOPIC, PARTITIONS, &[]);
    let mut clients = Clients::start(&cluster.bootstrap(), &dir.path().join("clients"), PRODUCERS, PARTITIONS);
    println!("begins: {:?}", watch(&mut clients, 50, &cluster));
    for partition in 0..PARTITIONS {
        let leader = cluster.leader_of(TOPIC, partition).expect("a leader");
        let to = ((leader + 1) % 3 + 1).to_string();
        cli(&cluster, leader, &["cluster", "transfer-leadership", &format!("{TOPIC}:{partition}"), &to]);
        let still = watch(&mut clients, 50, &cluster);
        println!("transfer of partition {partition}: {still:?}");
        // The former leader names the next one, so that a client need not ask for metadata.
        assert!(still.values().all(|still| *still < TRANSFER_MAX), "{still:?}");
    }
    for kill in 0..2 {
        let leader = cluster.leader_of(TOPIC, kill).expect("a leader");
        cluster.kill(leader);
        let still = watch(&mut clients, 50, &cluster);
        println!("kill of the leader of partition {kill}: {still:?}");
        assert!(still.values().all(|still| *still < STANDS_STILL_MAX), "{still:?}");
        cluster.restart(leader);
        cluster.wait_ready();
        cluster.wait_healthy(PATIENCE);
    }
    let history = clients.stop();
    println!("{} records acknowledged, {} given up", history.acknowledged(), history.given_up());
    history.check(&read_all(&cluster.bootstrap(), TOPIC, PARTITIONS), 0);
    cluster.check_logs();
}
