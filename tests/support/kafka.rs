//! A real Apache Kafka: broker and controller in one process on ports of its own, every factor 1; or several of them as
//! one cluster, every factor as many, at most 3.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cache::run;
use super::{broker, maven};

/// How long it may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running Kafka. Dropping it kills it.
pub struct Kafka {
    child: Child,
    pub addr: String,
    log: PathBuf,
}

impl Kafka {
    /// Formats `dir` and starts there, with that heap; waits until the port answers.
    pub fn start(dir: &Path, heap: &str) -> Self {
        Self::start_cluster(dir, heap, 1).pop().expect("one is started")
    }

    /// The same for `count` brokers that are one cluster.
    pub fn start_cluster(dir: &Path, heap: &str, count: usize) -> Vec<Self> {
        let ports = broker::free_ports_of(2 * count);
        let voters =
            (0..count).map(|n| format!("{}@127.0.0.1:{}", n + 1, ports[2 * n + 1])).collect::<Vec<_>>().join(",");
        let mut all: Vec<Self> = (0..count)
            .map(|n| {
                let dir = if count == 1 { dir.to_owned() } else { dir.join(format!("broker-{}", n + 1)) };
                Self::spawn(
                    &dir,
                    heap,
                    &settings(&dir, n + 1, (ports[2 * n], ports[2 * n + 1]), &voters, count.min(3)),
                    ports[2 * n],
                )
            })
            .collect();
        all.iter_mut().for_each(Self::wait);
        all
    }

    fn spawn(dir: &Path, heap: &str, settings: &str, port: u16) -> Self {
        std::fs::create_dir_all(dir).expect("a directory for Kafka");
        let properties = dir.join("server.properties");
        std::fs::write(&properties, settings).expect("server.properties");
        let java = maven::java17().join("bin/java");
        let classpath = format!("{}/*", maven::jars("kafka").display());
        let mut format = Command::new(&java);
        format.args(["-cp", &classpath, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c"]);
        run(format.arg(&properties), "apt-get install openjdk-17-jdk-headless");
        let log = dir.join("kafka.log");
        let out = File::create(&log).expect("Kafka's log");
        let mut kafka = Command::new(java);
        kafka.args([&format!("-Xms{heap}"), &format!("-Xmx{heap}"), "-cp", &classpath, "kafka.Kafka"]).arg(&properties);
        kafka.stdin(Stdio::null()).stdout(out.try_clone().expect("clone")).stderr(out);
        Self { child: kafka.spawn().expect("Kafka starts"), addr: format!("127.0.0.1:{port}"), log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait(&mut self) {
        let start = Instant::now();
        while TcpStream::connect(&self.addr).is_err() {
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(start.elapsed() < PATIENCE, "Kafka is not ready:\n{}", log());
            if let Some(status) = self.child.try_wait().expect("wait") {
                panic!("Kafka ended with {status}:\n{}", log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn settings(dir: &Path, id: usize, (port, controller): (u16, u16), voters: &str, factor: usize) -> String {
    let factors = [
        "offsets.topic.replication.factor",
        "transaction.state.log.replication.factor",
        "transaction.state.log.min.isr",
        "share.coordinator.state.topic.replication.factor",
        "share.coordinator.state.topic.min.isr",
    ]
    .map(|name| format!("{name}={factor}\n"))
    .concat();
    format!(
        "process.roles=broker,controller\nnode.id={id}\n\
         controller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         inter.broker.listener.name=PLAINTEXT\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
         log.dirs={}\ngroup.initial.rebalance.delay.ms=0\n{factors}",
        dir.join("logs").display()
    )
}
