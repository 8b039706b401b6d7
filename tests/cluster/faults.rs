//! Faults one after the other under load, and what everything looks like afterwards.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::EXPECTED;
use super::clients::{Clients, LOAD, PARTITIONS, TOPIC, create, read_all};
use super::disks::FULL;
use super::support::cluster::{Cluster, ClusterOptions};
use super::support::dice::{Dice, number, seed};
use super::support::disk::SlowDisk;
use super::support::python;

const SETTINGS: &[(&str, &str)] = &[
    ("segment.bytes", "131072"),
    ("local.retention.bytes", "65536"),
    ("archive.lag.ms", "500"),
    ("iceberg.mode", "key_value"),
    ("iceberg.target.lag.ms", "2000"),
];
/// How long a cluster may take to be whole again after a fault.
const HEAL: Duration = Duration::from_secs(60);
/// The broker (from 0) whose disk can be filled.
const SMALL: usize = 2;
const CATCH_UP: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// kill -9, and a start some time later.
    Kill,
    /// SIGSTOP, and SIGCONT some time later.
    Freeze,
    /// What the broker sends does not arrive.
    CutOutward,
    /// What is sent to the broker does not arrive.
    CutInward,
    CutBoth,
    /// The broker's connections have 40 ms more each way.
    Slow,
    /// SIGTERM, and a start.
    Stop,
    /// The broker that has a small disk has no free block for a while.
    FullDisk,
    /// The broker's disk takes a tenth of a second over each write.
    SlowDisk,
}

impl Fault {
    fn any(dice: &mut Dice) -> Self {
        match dice.below(12) {
            0..=2 => Self::Kill,
            3..=4 => Self::Freeze,
            5 => Self::CutOutward,
            6 => Self::CutInward,
            7 => Self::CutBoth,
            8 => Self::Slow,
            9 => Self::FullDisk,
            10 => Self::SlowDisk,
            _ => Self::Stop,
        }
    }

    /// The broker that it is made at, if `n` was drawn: only one has a small disk, and that is no real one.
    fn at(self, n: usize) -> usize {
        match self {
            Self::FullDisk => SMALL,
            Self::SlowDisk if n == SMALL => 0,
            _ => n,
        }
    }

    /// Makes the fault at broker `n`, waits, and takes it back.
    fn make(self, cluster: &mut Cluster, n: usize, lasts: Duration, dice: &mut Dice) {
        let network = |cluster: &Cluster, cut: &dyn Fn(&super::support::network::Network)| {
            cut(cluster.network.as_ref().expect("the cluster has a network"));
        };
        match self {
            Self::Kill => {
                cluster.kill(n);
                std::thread::sleep(lasts);
                cluster.restart(n);
                if dice.below(5) == 0 {
                    // Killed again before it has recovered.
                    std::thread::sleep(Duration::from_millis(dice.below(500)));
                    cluster.kill(n);
                    cluster.restart(n);
                }
            }
            Self::Stop => {
                cluster.stop(n);
                std::thread::sleep(lasts / 2);
                cluster.restart(n);
            }
            Self::Freeze => {
                cluster.signal(n, "STOP");
                std::thread::sleep(lasts);
                cluster.signal(n, "CONT");
            }
            Self::FullDisk => {
                let (_, disk) = cluster.small_disk.as_ref().expect("the cluster has a small disk");
                disk.fill();
                std::thread::sleep(lasts);
                disk.free();
            }
            Self::SlowDisk => {
                let slow = SlowDisk::of(cluster.broker(n).pid(), &cluster.options[n].data, 10);
                std::thread::sleep(lasts);
                drop(slow);
            }
            Self::CutOutward | Self::CutInward | Self::CutBoth | Self::Slow => {
                network(cluster, &|network| match self {
                    Self::CutOutward => network.cut_off(n, false, true),
                    Self::CutInward => network.cut_off(n, true, false),
                    Self::CutBoth => network.cut_off(n, true, true),
                    _ => network.slow(n),
                });
                std::thread::sleep(lasts);
                let reset = dice.below(2) == 0;
                network(cluster, &|network| network.heal(reset));
            }
        }
    }
}

#[test]
fn faults_under_load_lose_nothing() {
    let seed = seed();
    let faults = number("TIDEWATER_FAULTS").unwrap_or(40);
    println!("seed {seed}, {faults} faults");
    let mut dice = Dice::new(seed);
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let options = ClusterOptions {
        bucket: Some(bucket),
        expected: EXPECTED.iter().chain(&FULL).map(ToString::to_string).collect(),
        with_network: true,
        small_disk: Some((SMALL, "1400m".to_owned())),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(HEAL);
    create(&cluster.bootstrap(), TOPIC, PARTITIONS, SETTINGS);
    let mut clients = Clients::start(&cluster.bootstrap(), &dir.path().join("clients"), LOAD, PARTITIONS);
    wait_for_load(&mut clients, &cluster);

    for fault in 0..faults {
        let mut n = dice.below(3) as usize;
        let most = if dice.below(6) == 0 { 6000 } else { 1800 };
        let lasts = Duration::from_millis(200 + dice.below(most));
        let (before, begun) = (clients.acknowledged(), Instant::now());
        let wipes = fault % 20 == 10;
        let kind = if wipes {
            wipe(&mut cluster, n);
            "Wipe".to_owned()
        } else {
            let kind = Fault::any(&mut dice);
            n = kind.at(n);
            kind.make(&mut cluster, n, lasts, &mut dice);
            format!("{kind:?}")
        };
        // One in five faults follows while the last is not healed.
        if wipes || dice.below(5) > 0 {
            cluster.wait_healthy(HEAL);
        }
        clients.check_running();
        println!(
            "fault {fault}: {kind} of broker {} for {lasts:?}, whole after {:?}, {} acknowledged meanwhile",
            n + 1,
            begun.elapsed(),
            clients.acknowledged() - before
        );
    }
    cluster.wait_healthy(HEAL);
    let (acknowledged, read) = (clients.acknowledged(), clients.read());
    std::thread::sleep(Duration::from_secs(3));
    assert!(clients.acknowledged() > acknowledged, "producers are acknowledged again");
    assert!(clients.read() > read, "members of the group read again");
    let history = clients.stop();
    println!("{} records acknowledged, {} read by the group", history.acknowledged(), history.read());
    assert!(history.acknowledged() as u64 > faults * 50, "too few records were written for a meaningful run");

    let log = read_all(&cluster.bootstrap(), TOPIC, PARTITIONS);
    history.check(&log, seed);
    caught_up(&cluster);
    let cold = read_all(&cluster.bootstrap(), TOPIC, PARTITIONS);
    assert!(cold == log, "what the bucket gives back is not what the log gave, seed {seed}");
    table_is_log(&cluster, dir.path(), &log);
    cluster.check_logs();
}

/// Until every client has done something.
fn wait_for_load(clients: &mut Clients, cluster: &Cluster) {
    let begun = Instant::now();
    while clients.acknowledged() < 500 || clients.read() < 100 {
        clients.check_running();
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "{} acknowledged, {} read: the load does not begin\n{}",
            clients.acknowledged(),
            clients.read(),
            cluster.logs()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The broker's disk is lost for good; an empty one takes its place.
fn wipe(cluster: &mut Cluster, n: usize) {
    cluster.kill(n);
    cluster.wipe(n);
    let before = cluster.options[n].args.clone();
    cluster.options[n].args.extend(["--replace".to_owned(), (n + 1).to_string()]);
    cluster.restart(n);
    cluster.wait_healthy(HEAL);
    cluster.options[n].args = before;
}

/// Every partition archived, trimmed and in its table, as its leader says.
fn caught_up(cluster: &Cluster) {
    let begun = Instant::now();
    loop {
        let rows: Vec<serde_json::Value> = cluster
            .running()
            .into_iter()
            .filter_map(|n| cluster.get_of(n, &format!("/v1/topics/{TOPIC}")))
            .flat_map(|status| status["partitions"].as_array().cloned().unwrap_or_default())
            .collect();
        let done = |partition: i32| {
            rows.iter().filter(|row| row["partition"] == partition).any(|row| {
                row["archived_end_offset"] == row["high_watermark"]
                    && row["local_start_offset"].as_u64() > Some(0)
                    && row["quarantined"].as_array().is_some_and(Vec::is_empty)
            })
        };
        if (0..PARTITIONS).all(done) {
            return;
        }
        assert!(begun.elapsed() < CATCH_UP, "the archive does not catch up: {rows:#?}\n{}", cluster.logs());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Every row of the table against every record of the log, with PyIceberg, from the broker whose catalog has it.
fn table_is_log(cluster: &Cluster, dir: &Path, log: &[Vec<String>]) {
    let mut lines = String::new();
    for (partition, records) in log.iter().enumerate() {
        for (offset, value) in records.iter().enumerate() {
            let key = value.split(':').next().unwrap_or_default();
            writeln!(lines, "{partition}\t{offset}\t{key}\t{value}").expect("text");
        }
    }
    let path = dir.join("log.tsv");
    std::fs::write(&path, lines).expect("file");
    // The last records become a commit of the table within its lag.
    std::thread::sleep(Duration::from_secs(15));
    let catalog = format!("http://{}", cluster.broker(0).catalog);
    let said = python::script("crash/table.py", &[&catalog, TOPIC, &path.display().to_string()], &[]);
    println!("{}", said.trim());
}

/// The leader of a partition killed again and again: the time until a write to it is acknowledged.
#[test]
fn a_killed_leader_is_followed_soon() {
    use tidewater::client::{Client, Producer};
    use tidewater_storage::model::Compression;
    use tidewater_storage::model::record::Record;

    let kills = number("TIDEWATER_FAULTS").unwrap_or(20).min(50);
    let dir = tempfile::tempdir().expect("tempdir");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let options = ClusterOptions {
        bucket: Some(bucket),
        expected: EXPECTED.iter().map(ToString::to_string).collect(),
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(dir.path(), 3, &options);
    cluster.wait_healthy(HEAL);
    create(&cluster.bootstrap(), TOPIC, 1, &[]);
    let mut waits = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let client = Client::connect(&cluster.bootstrap()).await.expect("connects");
        let mut producer = Producer::new(client, TOPIC, Compression::None).await.expect("a producer id");
        let one = || vec![Record::new(super::now(), None, Some(bytes::Bytes::from_static(b"drop")))];
        let mut next = 0;
        for _ in 0..kills {
            producer.send(0, one()).await.expect("sent");
            let leader = cluster.leader_of(TOPIC, 0).expect("a leader");
            for done in producer.flush().await.expect("acknowledged") {
                assert_eq!(done.base_offset, next);
                next += 1;
            }
            cluster.kill(leader);
            let begun = Instant::now();
            producer.send(0, one()).await.expect("sent");
            for done in producer.flush().await.expect("acknowledged") {
                assert_eq!(done.base_offset, next, "nothing lost, nothing doubled");
                next += 1;
            }
            waits.push(begun.elapsed());
            cluster.restart(leader);
            cluster.wait_healthy(HEAL);
        }
    });
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    println!(
        "first acknowledged write after a kill, {} kills: p50 {:?}, p90 {:?}, max {:?}",
        waits.len(),
        at(0.5),
        at(0.9),
        at(1.0)
    );
    // A single one may take long on a busy machine; `benches/cluster` measures on a quiet one.
    assert!(at(0.5) < Duration::from_secs(5), "an election takes a second: {waits:?}");
}
