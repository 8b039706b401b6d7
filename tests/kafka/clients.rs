//! The clients of the card: how each is run against a broker of its own, through a wiretap.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidewater::kafka::api::APIS;

use super::card::Column;
use super::connect;
use super::support::broker::{Broker, Options, free_ports_of};
use super::support::cache::source;
use super::support::tap::{Request, Tap};
use super::support::{golang, kcat, maven, node, python};

/// How long one client may take: each has deadlines of its own that are shorter.
const PATIENCE: Duration = Duration::from_secs(300);

/// A client: column, package, and what runs it against a bootstrap address with a directory of its own.
pub struct Client {
    name: &'static str,
    version: &'static str,
    drive: fn(&str, &Path) -> Result<Vec<String>, String>,
}

/// All of them, in the order of the card.
pub const CLIENTS: [Client; 10] = [
    Client { name: "Java", version: "kafka-clients 4.3.1", drive: |boot, _| script(java("Clients.java").arg(boot)) },
    Client {
        name: "Java tools",
        version: "kafka-tools 4.3.1, unchanged",
        drive: |boot, dir| script(maven::kafka_program("support/java/Tools.java").args(["broker", boot]).arg(dir)),
    },
    Client { name: "Connect", version: "connect-runtime and connect-file 4.3.1", drive: connect::drive },
    Client { name: "librdkafka", version: "confluent-kafka 2.16.1", drive: |boot, _| snake("confluent.py", boot) },
    Client { name: "kafka-python", version: "3.0.12", drive: |boot, _| snake("kafka_python.py", boot) },
    Client { name: "aiokafka", version: "0.14.0", drive: |boot, _| snake("aio.py", boot) },
    Client { name: "franz-go", version: "1.22.2, kadm 1.19.0", drive: |boot, _| gopher("franz", boot) },
    Client { name: "sarama", version: "1.61.1", drive: |boot, _| gopher("sarama", boot) },
    Client { name: "kafkajs", version: "2.2.4", drive: |boot, _| kafkajs(boot) },
    Client { name: "kcat", version: "1.7.1", drive: kcat_drive },
];

/// Runs one client from start to end.
pub fn run(client: &Client) -> Column {
    let start = std::time::Instant::now();
    let dir = tempfile::tempdir().expect("tempdir");
    let port = free_ports_of(1)[0];
    let advertised = format!("127.0.0.1:{port}");
    let mut options = Options::new(&dir.path().join("data")).arg("--advertised-kafka-addr", &advertised);
    // Each change of a group: generation, members, state.
    options.envs.push(("TIDEWATER_LOG".to_owned(), "info,tidewater::group=debug".to_owned()));
    let broker = Broker::start(&options);
    let tap = Tap::start(port, broker.kafka.clone());
    let outcome = (client.drive)(&advertised, dir.path());
    let seen = tap.take();
    println!("{}: {:.1} s", client.name, start.elapsed().as_secs_f64());
    let (checks, failure) = match outcome {
        Ok(checks) => (checks, None),
        Err(why) => {
            let (last, log) = (last_requests(&tap), broker.log());
            (Vec::new(), Some(format!("{why}\nthe last requests:\n{last}\nthe broker's log:\n{log}")))
        }
    };
    if failure.is_none() {
        broker.stop();
    }
    Column { name: client.name, version: client.version, seen, checks, failure }
}

/// The last requests that passed the tap, one line each.
fn last_requests(tap: &Tap) -> String {
    let line = |request: Request| {
        let name = APIS.iter().find(|api| api.key as i16 == request.key).map(|api| format!("{:?}", api.key));
        let name = name.unwrap_or_else(|| request.key.to_string());
        format!("{:9.3} s  client port {}  {name} v{}", request.at.as_secs_f64(), request.client, request.version)
    };
    tap.last().into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Pairs of members that join a group at once through the tap, each time on a new broker: two minutes of it, or
/// `TIDEWATER_SECONDS`.
pub fn join_again_and_again() {
    let seconds = std::env::var("TIDEWATER_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(120);
    let pair = Client { name: "pairs", version: "kafka-python 3.0.12", drive: |boot, _| snake("joins.py", boot) };
    let (start, mut runs) = (std::time::Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        runs += 1;
        let failure = run(&pair).failure;
        assert!(failure.is_none(), "run {runs}: {}", failure.unwrap_or_default());
    }
    println!("{runs} runs");
}

/// A program of `java/` on Kafka's jars; arguments follow.
pub fn java(program: &str) -> Command {
    maven::kafka_program(&format!("kafka/java/{program}"))
}

fn snake(script_name: &str, boot: &str) -> Result<Vec<String>, String> {
    script(Command::new(python::kafka_clients()).arg(source("kafka/clients").join(script_name)).arg(boot))
}

fn gopher(client: &str, boot: &str) -> Result<Vec<String>, String> {
    script(Command::new(golang::clients()).args([client, boot]))
}

fn kafkajs(boot: &str) -> Result<Vec<String>, String> {
    script(Command::new("node").env("NODE_PATH", node::modules()).arg(source("kafka/clients/kafkajs.js")).arg(boot))
}

/// Runs a script that prints `ok …` for each check; these lines, or all it printed.
fn script(command: &mut Command) -> Result<Vec<String>, String> {
    let printed = output(command)?;
    Ok(printed.lines().filter_map(|line| line.strip_prefix("ok ")).map(ToOwned::to_owned).collect())
}

/// Standard output of a command that has to end well, and in time.
pub fn output(command: &mut Command) -> Result<String, String> {
    let seconds = PATIENCE.as_secs().to_string();
    let mut limited = Command::new("timeout");
    limited.arg(seconds).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().map_err(|e| format!("{command:?}: {e}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?} failed: {}\n{stdout}\n{stderr}", output.status));
    }
    Ok(stdout)
}

/// kcat produces from a file, reads back with each codec, asks for an offset by time and joins a group.
fn kcat_drive(boot: &str, dir: &Path) -> Result<Vec<String>, String> {
    let lines: Vec<String> = (0..100).map(|n| format!("key{n}:value {n}")).collect();
    let input = dir.join("input");
    std::fs::write(&input, lines.join("\n") + "\n").expect("writable");
    let run = |args: &[&str]| output(kcat::kcat().args(["-b", boot]).args(args));
    let file = input.display().to_string();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        run(&["-P", "-t", "kcat", "-p", "0", "-K", ":", "-z", codec, "-X", "acks=all", "-l", &file])?;
    }
    let mut checks = vec!["every codec produced from a file".to_owned()];
    let read = run(&["-C", "-t", "kcat", "-p", "0", "-o", "beginning", "-e", "-q", "-K", ":"])?;
    let wanted = (lines.join("\n") + "\n").repeat(5);
    if read != wanted {
        return Err(format!("kcat read back {} bytes of {}", read.len(), wanted.len()));
    }
    checks.push("read back to the end, as it was".to_owned());
    let listed = run(&["-L", "-t", "kcat"])?;
    let found = run(&["-Q", "-t", "kcat:0:1"])?;
    if !listed.contains("topic \"kcat\" with 1 partitions") || !found.contains("offset 0") {
        return Err(format!("{listed}\n{found}"));
    }
    checks.push("metadata listed, offset for a time".to_owned());
    let read = run(&["-G", "cats", "-c", "500", "-q", "-K", ":", "-X", "auto.offset.reset=earliest", "kcat"])?;
    if read != wanted {
        return Err(format!("kcat's group read {} bytes of {}", read.len(), wanted.len()));
    }
    checks.push("read in a group".to_owned());
    Ok(checks)
}
