//! The clients under load, each a process with a history file, and the log as our own client reads it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tidewater::client::{Client, NewTopic};

use super::history::History;
use super::run;
use super::support::cache::source;
use super::support::{golang, maven, node, python};

pub const TOPIC: &str = "orders";
pub const PARTITIONS: i32 = 8;
const GROUP: &str = "readers";
/// How long clients may take to end: what is in flight at the stop is waited for.
const PATIENCE: Duration = Duration::from_secs(150);

/// What a client is written in.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    Confluent,
    Java,
    FranzGo,
    Sarama,
    Kafkajs,
}

/// A client: its name, and whether it is a member of the group instead of a producer.
pub type Role = (&'static str, Program, bool);

/// Two producers and two members of confluent-kafka, one of each in Java.
pub const LOAD: &[Role] = &[
    ("p1", Program::Confluent, false),
    ("p2", Program::Confluent, false),
    ("j1", Program::Java, false),
    ("c1", Program::Confluent, true),
    ("c2", Program::Confluent, true),
    ("jc", Program::Java, true),
];

/// The clients of a cluster.
pub struct Clients {
    dir: PathBuf,
    children: Vec<(Role, Child)>,
}

impl Program {
    fn command(self) -> Command {
        match self {
            Self::Java => maven::kafka_program("cluster/Load.java"),
            Self::Confluent => {
                let mut command = Command::new(python::kafka_clients());
                command.arg(source("cluster/load.py"));
                command
            }
            Self::FranzGo | Self::Sarama => {
                let mut command = Command::new(golang::clients());
                command.arg(if matches!(self, Self::Sarama) { "sarama-load" } else { "franz-load" });
                command
            }
            Self::Kafkajs => {
                let mut command = Command::new("node");
                command.env("NODE_PATH", node::modules()).arg(source("cluster/load.js"));
                command
            }
        }
    }
}

impl Clients {
    pub fn start(bootstrap: &str, dir: &Path, who: &[Role], partitions: i32) -> Self {
        let mut clients = Self { dir: dir.to_owned(), children: Vec::new() };
        std::fs::create_dir_all(dir).expect("a directory for histories");
        for (name, program, reads) in who {
            let mut command = program.command();
            command.args([bootstrap, TOPIC, &partitions.to_string(), GROUP, name]);
            command.arg(clients.stop_file()).arg(clients.history(name));
            command.arg(if *reads { "consume" } else { "produce" });
            let log = File::create(dir.join(format!("{name}.log"))).expect("the client's log");
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("clone")).stderr(log);
            clients.children.push(((*name, *program, *reads), command.spawn().expect("the client starts")));
        }
        clients
    }

    fn stop_file(&self) -> PathBuf {
        self.dir.join("stop")
    }

    fn history(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.history"))
    }

    /// The end of what a client has printed.
    pub fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Fails if a client has ended.
    pub fn check_running(&mut self) {
        let mut ended = None;
        for ((name, _, _), child) in &mut self.children {
            if let Some(status) = child.try_wait().expect("wait") {
                ended = Some((*name, status));
            }
        }
        if let Some((name, status)) = ended {
            panic!("client {name} ended with {status}:\n{}", self.log(name));
        }
    }

    /// Acknowledged records so far, by producer and partition.
    pub fn by_partition(&self) -> BTreeMap<(&'static str, i32), usize> {
        let mut counts = BTreeMap::new();
        for ((name, _, reads), _) in &self.children {
            let text = std::fs::read_to_string(self.history(name)).unwrap_or_default();
            let acknowledged = text.lines().filter(|line| !reads && line.starts_with("A "));
            for partition in acknowledged.filter_map(|line| line.split(' ').nth(2)?.parse().ok()) {
                *counts.entry((*name, partition)).or_default() += 1;
            }
        }
        counts
    }

    /// Acknowledged records so far.
    pub fn acknowledged(&self) -> usize {
        self.by_partition().values().sum()
    }

    /// Records that members have read so far.
    pub fn read(&self) -> usize {
        let lines = |name: &str| {
            let text = std::fs::read_to_string(self.history(name)).unwrap_or_default();
            text.lines().filter(|line| line.starts_with("R ")).count()
        };
        self.children.iter().filter(|((_, _, reads), _)| *reads).map(|((name, _, _), _)| lines(name)).sum()
    }

    /// Stops the clients, waits until nothing is in flight, and reads what they wrote down.
    pub fn stop(mut self) -> History {
        File::create(self.stop_file()).expect("the stop file");
        let begun = Instant::now();
        let mut history = History::default();
        for ((name, _, _), mut child) in std::mem::take(&mut self.children) {
            let status = loop {
                if let Some(status) = child.try_wait().expect("wait") {
                    break status;
                }
                if begun.elapsed() > PATIENCE {
                    let _ = child.kill();
                    panic!("client {name} does not end:\n{}", self.log(name));
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            assert!(status.success(), "client {name} ended with {status}:\n{}", self.log(name));
            history.add(name, &self.history(name));
        }
        history
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes a topic with replicas on three brokers.
pub fn create(bootstrap: &str, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: topic.to_owned(), partitions: Some(partitions), replication_factor: Some(3), configs };
    run(async { Client::connect(bootstrap).await?.create_topic(&topic).await }).expect("topic is made");
}

/// The values of every partition from offset 0.
pub fn read_all(bootstrap: &str, topic: &str, partitions: i32) -> Vec<Vec<String>> {
    run(async {
        let mut client = Client::connect(bootstrap).await.expect("connects");
        let mut all = Vec::new();
        for partition in 0..partitions {
            let (mut at, mut found) = (0, Vec::new());
            loop {
                let fetched = client.fetch(topic, &[(partition, at)], 1000, 4 << 20).await.expect("fetch");
                let fetched = fetched.into_iter().next().expect("a partition");
                assert_eq!(fetched.log_start, 0);
                for record in fetched.records {
                    assert_eq!(record.offset.get(), found.len() as u64, "offsets of {partition} leave no gap");
                    let value = record.value.expect("a value");
                    found.push(String::from_utf8(value.to_vec()).expect("text"));
                }
                at = fetched.next_offset;
                if at >= fetched.high_watermark {
                    break;
                }
            }
            all.push(found);
        }
        all
    })
}
