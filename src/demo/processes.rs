//! Brokers of a demo as processes of this binary, with the directory and the ports of a run: started with one seed
//! list, killed, started again, ended with the demo. So are the commands that a demo runs as a user would.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::error::DemoError;
use crate::config::node::NodeConfig;
use crate::console::admin;

/// Between two looks at the cluster.
const PAUSE: Duration = Duration::from_millis(50);
/// Ports of a demo are below the range from which the system gives clients theirs, so that no client takes the port of
/// a broker that is killed.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// How long a command may run.
const COMMAND_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a command that runs.
const COMMAND_PAUSE: Duration = Duration::from_millis(5);
/// The cluster name that commands assume.
const DEFAULT_NAME: &str = "tidewater";
/// Settings of a broker that is not part of the demo.
const OTHERS: [&str; 6] = [
    "TIDEWATER_CONFIG",
    "TIDEWATER_SEED",
    "TIDEWATER_ADVERTISED_KAFKA_ADDR",
    "TIDEWATER_ADVERTISED_RPC_ADDR",
    "TIDEWATER_REPLACE",
    "TIDEWATER_SHARDS",
];

/// A run of a demo: its directory, beside the data directory and of this run alone, and its ports.
#[derive(Debug)]
pub(super) struct Run {
    dir: PathBuf,
    ports: FreePorts,
}

impl Run {
    /// `what` is a part of the directory's name. Makes nothing.
    pub(super) fn new(config: &NodeConfig, what: &str) -> Self {
        let mut dir = config.data_dir.clone().into_os_string();
        dir.push(format!("-{what}-{}", std::process::id()));
        Self { dir: dir.into(), ports: FreePorts::new() }
    }

    /// A directory of the run as a bucket that brokers share.
    pub(super) fn bucket(&self, name: &str) -> String {
        format!("file://{}", self.dir.join(name).display())
    }

    /// The end of a demo: removes the directory after one that succeeded or was stopped; after a failure it is kept,
    /// for the logs.
    pub(super) fn end(self, ended: Result<(), DemoError>) -> Result<(), DemoError> {
        let ended = match ended {
            Err(DemoError::Stopped) => Ok(()),
            Err(DemoError::Interrupted) => Err(DemoError::Ended),
            Err(error) => {
                if self.dir.exists() {
                    eprintln!("tidewater: the brokers' logs and data of this demo are kept in {}", self.dir.display());
                }
                return Err(error);
            }
            Ok(()) => Ok(()),
        };
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                eprintln!("tidewater: cannot remove {}: {error}", self.dir.display());
            }
            _ => {}
        }
        ended
    }
}

/// Addresses of one broker, `HOST:PORT` each.
struct Ports {
    kafka: String,
    admin: String,
    catalog: String,
    rpc: String,
}

struct Process {
    name: String,
    ports: Ports,
    dir: PathBuf,
    /// `None` while it does not run.
    child: Option<Child>,
}

/// The brokers of a cluster. Dropping it ends them.
pub(super) struct Processes {
    all: Vec<Process>,
    /// Of the run.
    dir: PathBuf,
    bucket: String,
    cluster_name: String,
}

impl Processes {
    /// Starts `count` brokers, whose directories are named `name` and a number; does not wait for them.
    pub(super) fn start(
        config: &NodeConfig,
        run: &mut Run,
        bucket: &str,
        (name, count): (&str, u16),
    ) -> Result<Self, DemoError> {
        let mut all = Vec::new();
        for n in 1..=count {
            all.push(Process {
                name: format!("{name} {n}"),
                ports: run.ports.of_broker()?,
                dir: run.dir.join(format!("{name}-{n}")),
                child: None,
            });
        }
        let (dir, cluster_name) = (run.dir.clone(), config.cluster_name.clone());
        let mut processes = Self { all, dir, bucket: bucket.to_owned(), cluster_name };
        processes.start_all()?;
        Ok(processes)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Starts those that do not run.
    pub(super) fn start_all(&mut self) -> Result<(), DemoError> {
        (0..self.all.len()).try_for_each(|n| self.spawn(n))
    }

    /// Starts the first one alone.
    pub(super) fn start_first(&mut self) -> Result<(), DemoError> {
        self.spawn(0)
    }

    fn spawn(&mut self, n: usize) -> Result<(), DemoError> {
        let Some(process) = self.all.get(n).filter(|process| process.child.is_none()) else { return Ok(()) };
        let no_dir = |source| DemoError::Directory { path: process.dir.clone(), source };
        std::fs::create_dir_all(&process.dir).map_err(no_dir)?;
        let log = process.dir.with_extension("log");
        let no_log = |source| DemoError::Directory { path: log.clone(), source };
        let log = File::options().create(true).append(true).open(&log).map_err(no_log)?;
        let mut command = program()?;
        command.arg("serve").args(self.arguments(n)).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        if let Some(process) = self.all.get_mut(n) {
            process.child = Some(child);
        }
        Ok(())
    }

    /// What broker `n` is started with, and what a restore of its directory needs.
    fn arguments(&self, n: usize) -> Vec<String> {
        let Some(Process { ports: Ports { kafka, admin, catalog, rpc }, dir, .. }) = self.all.get(n) else {
            return Vec::new();
        };
        let dir = dir.display().to_string();
        let mut words = vec!["--data-dir", &dir, "--kafka-addr", kafka, "--admin-addr", admin];
        words.extend(["--catalog-addr", catalog, "--rpc-addr", rpc, "--shards", "1"]);
        words.extend(["--schema-addr", "127.0.0.1:0", "--cluster-name", &self.cluster_name, "--bucket", &self.bucket]);
        let seeds = self.all.iter().map(|process| process.ports.rpc.as_str()).collect::<Vec<_>>().join(",");
        if self.all.len() > 1 {
            words.extend(["--seed", &seeds]);
        }
        words.into_iter().map(ToOwned::to_owned).collect()
    }

    /// `tidewater restore` of the bucket into the directory of the first broker, with the settings that it is started
    /// with afterwards; the report.
    pub(super) async fn restore_first(&self) -> Result<Value, DemoError> {
        let words = ["restore", "--from", &self.bucket, "--exit"].map(ToOwned::to_owned);
        self.ask(words.into_iter().chain(self.arguments(0)).collect()).await
    }

    /// `tidewater replica create` at the first broker, of the topic in another cluster's bucket.
    pub(super) async fn follow(&self, source: &Self, topic: &str) -> Result<Value, DemoError> {
        let words = ["replica", "create", "--from", &source.bucket, "--topics", topic];
        let rest = ["--cluster-name", &source.cluster_name, "--admin", self.admin()];
        self.ask(words.into_iter().chain(rest).map(ToOwned::to_owned).collect()).await
    }

    /// `tidewater cluster grow`: every partition gets replicas on all brokers, at most 3.
    pub(super) async fn grow(&self) -> Result<(), DemoError> {
        let factor = self.all.len().min(3).to_string();
        let words = ["cluster", "grow", "--replication-factor", &factor, "--admin", self.admin()];
        self.command(words.map(ToOwned::to_owned).into()).await.map(drop)
    }

    /// Runs a command of this binary to its end; what it printed with `--json`.
    async fn ask(&self, mut words: Vec<String>) -> Result<Value, DemoError> {
        words.push("--json".to_owned());
        let command = words.join(" ");
        let printed = self.command(words).await?;
        let no_json = |error| DemoError::Command { command, why: format!("what it printed is not JSON: {error}") };
        serde_json::from_slice(&printed).map_err(no_json)
    }

    /// Runs a command of this binary to its end; what it printed. It writes to files beside the brokers' logs.
    async fn command(&self, words: Vec<String>) -> Result<Vec<u8>, DemoError> {
        let name = words.first().map_or("", String::as_str);
        let [out, log] = ["out", "log"].map(|of| self.dir.join(format!("{name}.{of}")));
        let file =
            |path: &Path| File::create(path).map_err(|source| DemoError::Directory { path: path.to_owned(), source });
        let mut command = program()?;
        command.args(&words).stdin(Stdio::null()).stdout(file(&out)?).stderr(file(&log)?);
        let mut running = Running(command.spawn()?);
        let begun = Instant::now();
        let ended = loop {
            if let Some(status) = running.0.try_wait()? {
                break Some(status);
            }
            if begun.elapsed() > COMMAND_PATIENCE {
                break None;
            }
            sleep(COMMAND_PAUSE).await;
        };
        if ended.is_some_and(|status| status.success()) {
            return Ok(std::fs::read(&out)?);
        }
        let said = std::fs::read(&log).unwrap_or_default();
        let why = why_not(ended, &String::from_utf8_lossy(&said));
        Err(DemoError::Command { command: words.join(" "), why })
    }

    /// All Kafka addresses.
    pub(super) fn bootstrap(&self) -> String {
        self.all.iter().map(|process| process.ports.kafka.as_str()).collect::<Vec<_>>().join(",")
    }

    /// The admin address of the first broker.
    pub(super) fn admin(&self) -> &str {
        self.all.first().map_or("", |process| &process.ports.admin)
    }

    /// The data directory of the first broker.
    pub(super) fn first_dir(&self) -> &Path {
        self.all.first().map_or(Path::new(""), |process| &process.dir)
    }

    /// What names the cluster in its bucket, as words of a command.
    pub(super) fn from(&self) -> String {
        match self.cluster_name == DEFAULT_NAME {
            true => format!("--from {}", self.bucket),
            false => format!("--from {} --cluster-name {}", self.bucket, self.cluster_name),
        }
    }

    /// Waits until the cluster reports that every replica is in sync on all brokers that run; the time it took.
    pub(super) async fn wait_healthy(&mut self, patience: Duration) -> Result<Duration, DemoError> {
        let begun = Instant::now();
        let running = self.all.iter().filter(|process| process.child.is_some()).count();
        loop {
            self.check_running()?;
            let mut last = "no broker answers".to_owned();
            for process in self.all.iter().filter(|process| process.child.is_some()) {
                match admin::get(&process.ports.admin, "/v1/cluster/health").await {
                    Ok(Some(health)) if is_whole(&health, running) => return Ok(begun.elapsed()),
                    Ok(health) => last = health.unwrap_or_default().to_string(),
                    Err(_) => {}
                }
            }
            if begun.elapsed() > patience {
                return Err(DemoError::Stalled { step: "waiting for the cluster", after: patience, why: last });
            }
            sleep(PAUSE).await;
        }
    }

    /// A broker that was started and has ended by itself is an error.
    pub(super) fn check_running(&mut self) -> Result<(), DemoError> {
        for process in &mut self.all {
            if let Some(status) = process.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                let log = process.dir.with_extension("log");
                let said = std::fs::read(&log).unwrap_or_default();
                let said = String::from_utf8_lossy(&said);
                let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("its log is empty").to_owned();
                return Err(DemoError::Broker { broker: process.name.clone(), status: status.to_string(), last, log });
            }
        }
        Ok(())
    }

    /// kill -9 of the broker with this node id, which is its position in the seed list, from 1.
    pub(super) fn kill(&mut self, node: i32) -> Result<(), DemoError> {
        let n = usize::try_from(node - 1).unwrap_or(0);
        if let Some(mut child) = self.all.get_mut(n).and_then(|process| process.child.take()) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// kill -9 of all brokers: each gets the signal before the end of the first is waited for.
    pub(super) fn kill_all(&mut self) -> Result<(), DemoError> {
        self.all.iter_mut().filter_map(|process| process.child.as_mut()).try_for_each(Child::kill)?;
        for process in &mut self.all {
            if let Some(mut child) = process.child.take() {
                child.wait()?;
            }
        }
        Ok(())
    }

    /// Deletes the data directories of brokers that do not run; the bytes that were in them.
    pub(super) fn delete_disks(&mut self) -> Result<u64, DemoError> {
        let mut bytes = 0;
        for process in self.all.iter().filter(|process| process.child.is_none()) {
            let failed = |source| DemoError::Directory { path: process.dir.clone(), source };
            bytes += size(&process.dir).map_err(failed)?;
            std::fs::remove_dir_all(&process.dir).map_err(failed)?;
        }
        Ok(bytes)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in self.all.iter_mut().filter_map(|process| process.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// This binary, without the settings of a broker that is not part of the demo.
fn program() -> Result<Command, DemoError> {
    let mut command = Command::new(std::env::current_exe()?);
    for name in OTHERS {
        command.env_remove(name);
    }
    Ok(command)
}

/// A command that runs. Dropping it ends it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Why a command failed: its last error, or how it ended. `None`: it did not end in time.
fn why_not(ended: Option<ExitStatus>, said: &str) -> String {
    const ERROR: &str = "tidewater: ";
    let error = said.rfind(ERROR).and_then(|at| said.get(at + ERROR.len()..)).unwrap_or(said).trim();
    match ended {
        None => format!("it did not end within {} s; {error}", COMMAND_PATIENCE.as_secs()),
        Some(status) if error.is_empty() => format!("it ended with {status} and gave no reason"),
        Some(_) => error.to_owned(),
    }
}

/// Bytes of all files below `dir`.
fn size(dir: &Path) -> std::io::Result<u64> {
    let (mut bytes, mut open) = (0, vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => open.push(entry.path()),
                false => bytes += entry.metadata()?.len(),
            }
        }
    }
    Ok(bytes)
}

/// Healthy, and all brokers have registered.
fn is_whole(health: &Value, brokers: usize) -> bool {
    let registered = health.get("brokers").and_then(Value::as_u64);
    health.get("status").and_then(Value::as_str) == Some("healthy") && registered == Some(brokers as u64)
}

/// Free ports of loopback, none twice. Another process may take one before the broker binds it; the broker's error says
/// so.
#[derive(Debug)]
struct FreePorts {
    /// Where this run begins in [`PORTS`].
    first: u16,
    /// How many were tried.
    tried: u16,
}

impl FreePorts {
    fn new() -> Self {
        let random = uuid::Uuid::new_v4().as_u128() % u128::from(PORTS.end - PORTS.start);
        Self { first: u16::try_from(random).unwrap_or_default(), tried: 0 }
    }

    fn of_broker(&mut self) -> Result<Ports, DemoError> {
        Ok(Ports { kafka: self.take()?, admin: self.take()?, catalog: self.take()?, rpc: self.take()? })
    }

    /// `127.0.0.1:PORT`.
    fn take(&mut self) -> Result<String, DemoError> {
        let count = PORTS.end - PORTS.start;
        while self.tried < count {
            let port = PORTS.start + (self.first + self.tried) % count;
            self.tried += 1;
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(_) => return Ok(format!("127.0.0.1:{port}")),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(DemoError::Ports { first: PORTS.start, last: PORTS.end - 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_whole_when_it_is_healthy_and_has_all_its_brokers() {
        let health = |status: &str, brokers: u64| serde_json::json!({ "status": status, "brokers": brokers });
        assert!(is_whole(&health("healthy", 3), 3));
        assert!(!is_whole(&health("healthy", 2), 3) && !is_whole(&health("degraded", 3), 3));
    }

    #[test]
    fn ports_of_a_run_differ() {
        let mut free = FreePorts::new();
        let mut ports: Vec<String> = (0..24).map(|_| free.take().expect("there are free ports")).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 24, "{ports:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_passed_over() {
        let mut free = FreePorts { first: PORTS.end - PORTS.start - 1, tried: 0 };
        let first = free.take().expect("there are free ports");
        let _held = TcpListener::bind(&first).expect("it is free");
        let mut again = FreePorts { first: PORTS.end - PORTS.start - 1, tried: 0 };
        assert_ne!(again.take().expect("there are free ports"), first);
    }

    #[test]
    fn a_command_that_fails_is_quoted_with_its_last_error() {
        use std::os::unix::process::ExitStatusExt;
        let failed = Some(ExitStatus::from_raw(1 << 8));
        assert_eq!(why_not(failed, "INFO started\ntidewater: no such bucket\n"), "no such bucket");
        assert!(why_not(failed, "").contains("exit status: 1"));
        assert!(why_not(None, "INFO started\n").contains("within 120 s; INFO started"));
    }
}
