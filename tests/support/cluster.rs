//! Several brokers as one cluster: real processes with the same seed list, each with its data directory and its ports
//! and, if asked for, a network between them that the test can cut ([`Network`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::broker::{Broker, Options, free_ports_of, http_get};
use super::disk::SmallDisk;
use super::network::Network;

/// How long a cluster may take until all its brokers are ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a cluster is started with.
#[derive(Clone, Default)]
pub struct ClusterOptions {
    pub bucket: Option<String>,
    /// For every broker.
    pub args: Vec<String>,
    /// Parts of WARN and ERROR lines that are no failure.
    pub expected: Vec<String>,
    /// Brokers reach each other over [`Cluster::network`].
    pub with_network: bool,
    /// The data directory of this broker (from 0) is a file system of its own, of mount's size.
    pub small_disk: Option<(usize, String)>,
}

/// The brokers. Dropping it kills them.
pub struct Cluster {
    pub options: Vec<Options>,
    /// `None` while a broker is down.
    pub brokers: Vec<Option<Broker>>,
    pub network: Option<Network>,
    /// The seed list.
    pub seeds: String,
    /// [`ClusterOptions::small_disk`].
    pub small_disk: Option<(usize, SmallDisk)>,
    dir: PathBuf,
}

impl Cluster {
    /// Starts `count` brokers in directories below `dir` and waits until all are ready and see each other.
    pub fn start(dir: &Path, count: usize, options: &ClusterOptions) -> Self {
        let mut cluster = Self::prepare(dir, count, options);
        for n in 0..count {
            cluster.spawn(n);
        }
        cluster.wait_ready();
        cluster
    }

    /// Chooses ports and starts nothing.
    pub fn prepare(dir: &Path, count: usize, options: &ClusterOptions) -> Self {
        let rpc: Vec<String> = free_ports_of(count).iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let network = options.with_network.then(|| Network::start(&rpc));
        let advertised = network.as_ref().map_or_else(|| rpc.clone(), |network| network.addrs.clone());
        let seeds = advertised.join(",");
        let all = (0..count).map(|n| {
            let mut of = Options::new(&dir.join(format!("broker-{}", n + 1)));
            of.bucket.clone_from(&options.bucket);
            of.expected.clone_from(&options.expected);
            of.args = options.args.clone();
            of.rpc = Some(rpc[n].clone());
            let rack = format!("rack-{}", n + 1);
            of.arg("--seed", &seeds).arg("--advertised-rpc-addr", &advertised[n]).arg("--rack", &rack)
        });
        let mut all: Vec<Options> = all.collect();
        let small_disk = options.small_disk.as_ref().map(|(n, size)| {
            let disk = SmallDisk::mount(all[*n].data.clone(), size);
            all[*n].wrapper = disk.wrapper();
            (*n, disk)
        });
        let brokers = all.iter().map(|_| None).collect();
        Self { brokers, options: all, network, seeds, small_disk, dir: dir.to_owned() }
    }

    /// One more broker, which joins: its options, to be started by [`Self::spawn`].
    pub fn add(&mut self, more: &[(&str, &str)]) -> usize {
        let n = self.options.len();
        let mut of = self.options[0].clone();
        let rpc = format!("127.0.0.1:{}", free_ports_of(1)[0]);
        of.data = self.dir.join(format!("broker-{}", n + 1));
        of.ports = super::broker::free_ports();
        of.args.clear();
        of.wrapper.clear();
        of = of.arg("--seed", &self.seeds).arg("--advertised-rpc-addr", &rpc);
        of.rpc = Some(rpc);
        for (flag, value) in more {
            of = of.arg(flag, value);
        }
        self.options.push(of);
        self.brokers.push(None);
        n
    }

    pub fn spawn(&mut self, n: usize) {
        assert!(self.brokers[n].is_none(), "broker {} runs", n + 1);
        let broker = Broker::spawn(&self.options[n]);
        if let Some(network) = self.network.as_ref().filter(|network| n < network.addrs.len()) {
            network.is_process(n, broker.pid());
        }
        self.brokers[n] = Some(broker);
    }

    /// Waits until every broker that runs is ready.
    pub fn wait_ready(&mut self) {
        let begun = Instant::now();
        for n in 0..self.brokers.len() {
            let Some(broker) = &mut self.brokers[n] else { continue };
            while !broker.is_ready() {
                if let Some(status) = broker.ended() {
                    panic!("broker {} ended with {status}:\n{}", n + 1, broker.log());
                }
                assert!(begun.elapsed() < PATIENCE, "broker {} is not ready:\n{}", n + 1, self.logs());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    pub fn broker(&self, n: usize) -> &Broker {
        self.brokers[n].as_ref().expect("the broker runs")
    }

    /// Numbers of brokers that run, from 0.
    pub fn running(&self) -> Vec<usize> {
        (0..self.brokers.len()).filter(|n| self.brokers[*n].is_some()).collect()
    }

    /// All Kafka addresses, those of brokers that are down too.
    pub fn bootstrap(&self) -> String {
        self.options.iter().map(|of| format!("127.0.0.1:{}", of.ports[0])).collect::<Vec<_>>().join(",")
    }

    /// kill -9.
    pub fn kill(&mut self, n: usize) {
        self.brokers[n].take().expect("the broker runs").kill();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self, n: usize) {
        self.brokers[n].take().expect("the broker runs").stop();
    }

    /// Starts a broker again and does not wait.
    pub fn restart(&mut self, n: usize) {
        self.spawn(n);
    }

    /// SIGSTOP or SIGCONT.
    pub fn signal(&self, n: usize, name: &str) {
        let status = Command::new("kill").args([format!("-{name}"), self.broker(n).pid().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Removes the data directory of a broker that is down.
    pub fn wipe(&mut self, n: usize) {
        assert!(self.brokers[n].is_none(), "broker {} runs", n + 1);
        match &self.small_disk {
            Some((small, disk)) if *small == n => disk.wipe(),
            _ => std::fs::remove_dir_all(&self.options[n].data).expect("the directory is there"),
        }
    }

    /// `GET path` of the first broker that answers with a document.
    pub fn get(&self, path: &str) -> Option<serde_json::Value> {
        self.running().into_iter().find_map(|n| self.get_of(n, path))
    }

    pub fn get_of(&self, n: usize, path: &str) -> Option<serde_json::Value> {
        let (status, body) = http_get(&self.broker(n).admin, path)?;
        if status == 200 { serde_json::from_str(&body).ok() } else { None }
    }

    /// Waits until the cluster reports that it is healthy.
    pub fn wait_healthy(&self, patience: Duration) {
        let begun = Instant::now();
        loop {
            let health = self.get("/v1/cluster/health");
            if health.as_ref().is_some_and(|health| health["status"] == "healthy") {
                return;
            }
            if begun.elapsed() > patience {
                let facts: String = self.running().into_iter().map(|n| self.facts_of(n)).collect();
                panic!("the cluster is not healthy: {health:#?}\n{facts}{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a broker says of its lanes, and of its connections with others.
    fn facts_of(&self, n: usize) -> String {
        let lanes = self.get_of(n, "/v1/cluster/lanes");
        let metrics = http_get(&self.broker(n).admin, "/metrics").map_or_else(String::new, |(_, text)| text);
        let of_rpc = |line: &&str| line.starts_with("tidewater_rpc");
        let rpc: Vec<&str> = metrics.lines().filter(of_rpc).collect();
        format!("lanes of broker {}: {lanes:?}\nits connections: {rpc:#?}\n", n + 1)
    }

    /// Waits until every lane is led by its preferred leader: from then on no lane changes its leader by itself.
    pub fn wait_settled(&self, patience: Duration) {
        let begun = Instant::now();
        loop {
            let lanes = self.get("/v1/cluster/lanes").map(rows).unwrap_or_default();
            let settled =
                |lane: &serde_json::Value| lane["leader"].is_number() && lane["leader"] == lane["replicas"][0];
            if !lanes.is_empty() && lanes.iter().all(settled) {
                return;
            }
            assert!(begun.elapsed() < patience, "lanes are led elsewhere: {lanes:#?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until each partition of a topic is led by its preferred replica and has all replicas in sync.
    pub fn wait_balanced(&self, topic: &str, patience: Duration) {
        let begun = Instant::now();
        loop {
            let rows = self.get(&format!("/v1/cluster/partitions?topic={topic}")).unwrap_or_default();
            let healthy = |row: &serde_json::Value| row["state"] == "healthy";
            if rows.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(healthy)) {
                return;
            }
            assert!(begun.elapsed() < patience, "leaders are not where they shall be: {rows:#?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The broker (from 0) that leads a partition, by the first that answers.
    pub fn leader_of(&self, topic: &str, partition: i32) -> Option<usize> {
        let rows = self.get(&format!("/v1/cluster/partitions?topic={topic}"))?;
        let row = rows.as_array()?.iter().find(|row| row["partition"] == partition)?.clone();
        usize::try_from(row["leader"].as_i64()? - 1).ok()
    }

    /// The highest term that any broker has seen of each lane. A term more is an election more.
    pub fn terms(&self) -> BTreeMap<u64, u64> {
        let mut terms = BTreeMap::new();
        for row in self.running().into_iter().filter_map(|n| self.get_of(n, "/v1/cluster/lanes")).flat_map(rows) {
            let (lane, term) = (row["lane"].as_u64().expect("a lane"), row["term"].as_u64().unwrap_or(0));
            let most = terms.entry(lane).or_insert(term);
            *most = term.max(*most);
        }
        terms
    }

    /// The ends of all brokers' logs.
    pub fn logs(&self) -> String {
        let log = |n: usize| {
            let text = std::fs::read_to_string(self.options[n].data.with_extension("log")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(30);
            format!("--- broker {}\n{}\n", n + 1, lines[from..].join("\n"))
        };
        (0..self.options.len()).map(log).collect()
    }

    /// Fails on any WARN or ERROR that was not expected.
    pub fn check_logs(&self) {
        self.running().into_iter().for_each(|n| self.broker(n).check_log());
    }
}

fn rows(list: serde_json::Value) -> Vec<serde_json::Value> {
    list.as_array().cloned().unwrap_or_default()
}
