//! The clients under load, each a process with a history file, and the log as our own client reads it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tidewater::client::{Client, NewTopic};

use super::history::History;
use super::run;
use super::support::cache::source;
use super::support::{maven, python};

pub const TOPIC: &str = "orders";
pub const PARTITIONS: i32 = 8;
const GROUP: &str = "readers";
/// How long clients may take to end: what is in flight at the stop is waited for.
const PATIENCE: Duration = Duration::from_secs(150);

/// The clients of a cluster.
pub struct Clients {
    dir: PathBuf,
    children: Vec<(String, Child)>,
}

impl Clients {
    /// Two producers and two members of confluent-kafka, one of each in Java.
    pub fn start(bootstrap: &str, dir: &Path) -> Self {
        let mut clients = Self { dir: dir.to_owned(), children: Vec::new() };
        std::fs::create_dir_all(dir).expect("a directory for histories");
        let jars = format!("{}/*", maven::jars("kafka").display());
        let source_of_java = source("cluster/Load.java");
        let log4j = format!("-Dlog4j2.configurationFile={}", source("kafka/java/log4j2.properties").display());
        for (name, java, role) in [
            ("p1", false, "produce"),
            ("p2", false, "produce"),
            ("j1", true, "produce"),
            ("c1", false, "consume"),
            ("c2", false, "consume"),
            ("jc", true, "consume"),
        ] {
            let mut command = if java {
                let mut command = Command::new(maven::java17().join("bin/java"));
                command.args(["-Xmx192m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", &log4j, "-cp", &jars]);
                command.arg(&source_of_java);
                command
            } else {
                let mut command = Command::new(python::kafka_clients());
                command.arg(source("cluster/load.py"));
                command
            };
            command.args([bootstrap, TOPIC, &PARTITIONS.to_string(), GROUP, name]);
            command.arg(clients.stop_file()).arg(clients.history(name)).arg(role);
            let log = File::create(dir.join(format!("{name}.log"))).expect("the client's log");
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("clone")).stderr(log);
            clients.children.push((name.to_owned(), command.spawn().expect("the client starts")));
        }
        clients
    }

    fn stop_file(&self) -> PathBuf {
        self.dir.join("stop")
    }

    fn history(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.history"))
    }

    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Fails if a client has ended.
    pub fn check_running(&mut self) {
        let mut ended = None;
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait().expect("wait") {
                ended = Some((name.clone(), status));
            }
        }
        if let Some((name, status)) = ended {
            panic!("client {name} ended with {status}:\n{}", self.log(&name));
        }
    }

    /// Acknowledged records so far.
    pub fn acknowledged(&self) -> usize {
        let of = |name: &str| {
            let text = std::fs::read_to_string(self.history(name)).unwrap_or_default();
            text.lines().filter(|line| line.starts_with("A ")).count()
        };
        ["p1", "p2", "j1"].map(of).iter().sum()
    }

    /// Records that members have read so far.
    pub fn read(&self) -> usize {
        let of = |name: &str| {
            let text = std::fs::read_to_string(self.history(name)).unwrap_or_default();
            text.lines().filter(|line| line.starts_with("R ")).count()
        };
        ["c1", "c2", "jc"].map(of).iter().sum()
    }

    /// Stops the clients, waits until nothing is in flight, and reads what they wrote down.
    pub fn stop(mut self) -> History {
        File::create(self.stop_file()).expect("the stop file");
        let begun = Instant::now();
        let mut history = History::default();
        for (name, mut child) in std::mem::take(&mut self.children) {
            let status = loop {
                if let Some(status) = child.try_wait().expect("wait") {
                    break status;
                }
                if begun.elapsed() > PATIENCE {
                    let _ = child.kill();
                    panic!("client {name} does not end:\n{}", self.log(&name));
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            assert!(status.success(), "client {name} ended with {status}:\n{}", self.log(&name));
            history.add(&name, &self.history(&name));
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
