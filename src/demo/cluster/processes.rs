//! The demo's brokers as processes of this binary: started with one seed list, killed, started again, ended with the
//! demo.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::super::error::DemoError;
use crate::config::node::NodeConfig;
use crate::console::admin;

/// Between two looks at the cluster.
const PAUSE: Duration = Duration::from_millis(50);

/// Addresses of one broker, `HOST:PORT` each.
struct Ports {
    kafka: String,
    admin: String,
    catalog: String,
    rpc: String,
}

struct Process {
    ports: Ports,
    dir: PathBuf,
    /// `None` while it is killed.
    child: Option<Child>,
}

/// The brokers of a run. Dropping it ends them.
pub(super) struct Processes {
    all: Vec<Process>,
    /// Of this run alone.
    dir: PathBuf,
    bucket: String,
}

impl Processes {
    /// Starts `count` brokers; does not wait for them.
    pub(super) fn start(config: &NodeConfig, count: u16) -> Result<Self, DemoError> {
        let mut dir = config.data_dir.clone().into_os_string();
        dir.push(format!("-cluster-{}", std::process::id()));
        let dir = PathBuf::from(dir);
        let bucket = match config.bucket_is_embedded {
            // A directory that all of them share.
            true => format!("file://{}", dir.join("bucket").display()),
            false => config.bucket.clone(),
        };
        let mut all = Vec::new();
        for n in 1..=count {
            let [kafka, admin, catalog, rpc] = free_ports()?;
            all.push(Process {
                ports: Ports { kafka, admin, catalog, rpc },
                dir: dir.join(format!("broker-{n}")),
                child: None,
            });
        }
        let mut processes = Self { all, dir, bucket };
        for n in 0..processes.all.len() {
            processes.spawn(n)?;
        }
        Ok(processes)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    fn spawn(&mut self, n: usize) -> Result<(), DemoError> {
        let seeds = self.all.iter().map(|process| process.ports.rpc.as_str()).collect::<Vec<_>>().join(",");
        let Some(process) = self.all.get_mut(n) else { return Ok(()) };
        std::fs::create_dir_all(&process.dir)?;
        let log = File::options().create(true).append(true).open(process.dir.with_extension("log"))?;
        let Ports { kafka, admin, catalog, rpc } = &process.ports;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--data-dir").arg(&process.dir).args(["--bucket", &self.bucket]);
        command.args(["--kafka-addr", kafka, "--admin-addr", admin, "--catalog-addr", catalog]);
        command.args(["--rpc-addr", rpc, "--seed", &seeds, "--shards", "1"]);
        // Settings of a broker that is not part of the demo.
        for name in [
            "TIDEWATER_CONFIG",
            "TIDEWATER_ADVERTISED_KAFKA_ADDR",
            "TIDEWATER_ADVERTISED_RPC_ADDR",
            "TIDEWATER_REPLACE",
        ] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        process.child = Some(command.spawn()?);
        Ok(())
    }

    /// All Kafka addresses.
    pub(super) fn bootstrap(&self) -> String {
        self.all.iter().map(|process| process.ports.kafka.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Waits until the cluster reports that every replica is in sync; the time it took.
    pub(super) async fn wait_healthy(&mut self, patience: Duration) -> Result<Duration, DemoError> {
        let begun = Instant::now();
        loop {
            let mut last = "no broker answers".to_owned();
            for n in 0..self.all.len() {
                let Some(process) = self.all.get_mut(n) else { continue };
                if let Some(status) = process.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                    let log = process.dir.with_extension("log");
                    return Err(DemoError::Broker { broker: n + 1, status: status.to_string(), log });
                }
                if process.child.is_none() {
                    continue;
                }
                match admin::get(&process.ports.admin, "/v1/cluster/health").await {
                    Ok(Some(health)) if is_whole(&health, self.all.len()) => return Ok(begun.elapsed()),
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

    /// kill -9 of the broker with this node id, which is its place in the seed list.
    pub(super) fn kill(&mut self, node: i32) -> Result<(), DemoError> {
        let n = usize::try_from(node - 1).unwrap_or(0);
        if let Some(mut child) = self.all.get_mut(n).and_then(|process| process.child.take()) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(super) fn restart_killed(&mut self) -> Result<(), DemoError> {
        for n in 0..self.all.len() {
            if self.all.get(n).is_some_and(|process| process.child.is_none()) {
                self.spawn(n)?;
            }
        }
        Ok(())
    }

    /// Commands to try.
    pub(super) fn next_steps(&self) -> Vec<String> {
        let admin = self.all.first().map_or("", |process| process.ports.admin.as_str());
        let kafka = self.bootstrap();
        vec![
            String::new(),
            format!("The brokers serve on (Ctrl-C ends them and removes {}). Try:", self.dir.display()),
            format!("  tidewater cluster health --admin {admin}"),
            format!("  tidewater cluster partitions --admin {admin}"),
            format!("  tidewater cluster transfer-leadership {}:0 2 --admin {admin}", super::TOPIC),
            format!("  kcat -b {kafka} -L"),
        ]
    }

    /// Ends the brokers and removes the run's directory.
    pub(super) fn remove(self) {
        let dir = self.dir.clone();
        drop(self);
        if let Err(error) = std::fs::remove_dir_all(&dir) {
            eprintln!("tidewater: cannot remove {}: {error}", dir.display());
        }
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

/// Healthy, and all brokers have registered.
fn is_whole(health: &Value, brokers: usize) -> bool {
    let registered = health.get("brokers").and_then(Value::as_u64);
    health.get("status").and_then(Value::as_str) == Some("healthy") && registered == Some(brokers as u64)
}

/// Free ports of loopback. Another process may take one before the broker binds it; the broker's error says so.
fn free_ports() -> Result<[String; 4], DemoError> {
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(TcpListener::bind(("127.0.0.1", 0))?);
    }
    let mut addrs = [const { String::new() }; 4];
    for (addr, socket) in addrs.iter_mut().zip(&held) {
        *addr = socket.local_addr()?.to_string();
    }
    Ok(addrs)
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
}
