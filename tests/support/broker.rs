//! A real broker process on ports of its own, in a data directory that outlives it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::logs;

/// How long a broker may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running broker. Dropping it kills it.
pub struct Broker {
    child: Child,
    pub data: PathBuf,
    pub kafka: String,
    pub admin: String,
    pub catalog: String,
    log: PathBuf,
    expected: Vec<String>,
}

/// What a broker is started with.
#[derive(Clone)]
pub struct Options {
    pub data: PathBuf,
    pub bucket: Option<String>,
    pub ports: [u16; 3],
    /// For other brokers; a port of the system's choice if it is not given.
    pub rpc: Option<String>,
    pub envs: Vec<(String, String)>,
    pub args: Vec<String>,
    /// Parts of WARN and ERROR lines that are no failure.
    pub expected: Vec<String>,
    /// A command that runs the broker as its last words, and becomes it.
    pub wrapper: Vec<String>,
}

/// The broker of this build, or the one that `TIDEWATER_BIN` names: to measure a build beside another.
pub fn binary() -> PathBuf {
    std::env::var_os("TIDEWATER_BIN").map_or_else(|| env!("CARGO_BIN_EXE_tidewater").into(), PathBuf::from)
}

/// Three free ports of loopback.
pub fn free_ports() -> [u16; 3] {
    let ports = free_ports_of(3);
    [ports[0], ports[1], ports[2]]
}

/// Free ports below the range from which the system gives clients theirs: a client that knocks at a broker that was
/// killed would otherwise take the broker's port for its own, and even connect to itself.
pub fn free_ports_of(count: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut held = Vec::new();
    while held.len() < count {
        let place = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = u16::try_from(12_000 + place).expect("below 32,000");
        held.extend(TcpListener::bind(("127.0.0.1", port)));
    }
    held.iter().map(|socket| socket.local_addr().expect("bound").port()).collect()
}

impl Options {
    pub fn new(data: &Path) -> Self {
        Self {
            data: data.to_owned(),
            bucket: None,
            ports: free_ports(),
            rpc: None,
            envs: Vec::new(),
            args: Vec::new(),
            expected: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    pub fn expect(mut self, line: &str) -> Self {
        self.expected.push(line.to_owned());
        self
    }
}

impl Broker {
    /// Starts a broker and waits until it is ready.
    pub fn start(options: &Options) -> Self {
        let mut broker = Self::spawn(options);
        let start = Instant::now();
        while !broker.is_ready() {
            if let Some(status) = broker.child.try_wait().expect("wait") {
                panic!("the broker ended with {status}:\n{}", broker.log());
            }
            assert!(start.elapsed() < PATIENCE, "the broker is not ready:\n{}", broker.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        broker
    }

    /// Starts a broker and does not wait.
    pub fn spawn(options: &Options) -> Self {
        std::fs::create_dir_all(&options.data).expect("data directory");
        let log = options.data.with_extension("log");
        let file = File::options().create(true).append(true).open(&log).expect("log file");
        let [kafka, admin, catalog] = options.ports.map(|port| format!("127.0.0.1:{port}"));
        let words = options.wrapper.iter().map(PathBuf::from).chain([binary()]).collect::<Vec<_>>();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("serve").arg("--data-dir").arg(&options.data);
        // In a run of tests it is the seed of random choices; to a broker it is its seed list.
        command.env_remove("TIDEWATER_SEED");
        command.args(["--kafka-addr", &kafka, "--admin-addr", &admin, "--catalog-addr", &catalog]);
        if let Some(bucket) = &options.bucket {
            command.args(["--bucket", bucket]);
        }
        if !std::env::args().any(|arg| arg == "--bench") {
            // A machine with two cores gets one shard by default; tests want messages between shards. A flag goes
            // first.
            command.env("TIDEWATER_SHARDS", "2");
        }
        // Not a flag: binaries of older versions, which some tests start, do not have it.
        command.env("TIDEWATER_RPC_ADDR", options.rpc.as_deref().unwrap_or("127.0.0.1:0"));
        command.env("TIDEWATER_SCHEMA_ADDR", "127.0.0.1:0");
        command.args(&options.args).envs(options.envs.iter().cloned());
        command.env("TIDEWATER_GROUP_INITIAL_REBALANCE_DELAY_MS", "0");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("clone")).stderr(file);
        let child = command.spawn().expect("the broker starts");
        Self { child, data: options.data.clone(), kafka, admin, catalog, log, expected: options.expected.clone() }
    }

    pub fn is_ready(&self) -> bool {
        http_get(&self.admin, "/health/ready").is_some_and(|(status, _)| status == 200)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("wait")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
        std::mem::forget(self);
    }

    /// SIGTERM; waits for the end and looks over the log.
    pub fn stop(mut self) {
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
        assert!(told.success());
        let start = Instant::now();
        loop {
            match self.child.try_wait().expect("wait") {
                Some(status) => {
                    assert!(status.success(), "the broker ended with {status}:\n{}", self.log());
                    break;
                }
                None if start.elapsed() > Duration::from_secs(30) => {
                    panic!("the broker does not stop:\n{}", self.log())
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        self.check_log();
    }

    /// Fails on any WARN or ERROR that was not expected.
    pub fn check_log(&self) {
        let expected: Vec<&str> = self.expected.iter().map(String::as_str).collect();
        let bad = logs::unexpected(&self.log(), &expected);
        assert!(bad.is_empty(), "unexpected lines in the broker's log:\n{}", bad.join("\n"));
    }

    /// `GET /v1/topics/{topic}`.
    pub fn topic(&self, topic: &str) -> serde_json::Value {
        let (status, body) = http_get(&self.admin, &format!("/v1/topics/{topic}")).expect("admin answers");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// Waits until `done` says so of the topic's partitions.
    pub fn wait_topic(&self, topic: &str, what: &str, patience: Duration, done: impl Fn(&[serde_json::Value]) -> bool) {
        let start = Instant::now();
        loop {
            let status = self.topic(topic);
            let partitions = status["partitions"].as_array().expect("partitions").clone();
            if done(&partitions) {
                return;
            }
            assert!(start.elapsed() < patience, "{what}: {status:#}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a client command of the same binary; gives what it printed.
    pub fn cli(&self, args: &[&str]) -> String {
        let output = Command::new(binary())
            .args(args)
            .env("TIDEWATER_BOOTSTRAP", &self.kafka)
            .args(["--bootstrap", &self.kafka, "--admin", &self.admin])
            .output()
            .expect("the command runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A GET over HTTP/1.1; status and body, `None` when nothing answers.
pub fn http_get(addr: &str, path: &str) -> Option<(u16, String)> {
    http_ask(addr, "GET", path, &[("Host", addr)])
}

/// An HTTP/1.1 request with these headers and no body; status and body of the answer, `None` when nothing answers.
pub fn http_ask(addr: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n").ok()?;
    headers.iter().try_for_each(|(name, value)| write!(stream, "{name}: {value}\r\n")).ok()?;
    stream.write_all(b"\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}
