//! Tables in an external catalog: Iceberg's reference server, which is Java, on a directory; and the probe of catalogs.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::broker::{Broker, Options, binary, free_ports, http_get};
use super::support::{cache, maven, python};

const PATIENCE: Duration = Duration::from_secs(90);

/// The reference server. Dropping it kills it.
struct Reference {
    child: Child,
    address: String,
}

impl Reference {
    /// Its state is a file in `dir`.
    fn start(dir: &Path) -> Self {
        let jars = format!("{}/*", maven::jars("rck").display());
        let home = maven::java17();
        let mut javac = Command::new(home.join("bin/javac"));
        javac.args(["-cp", &jars, "-d"]).arg(dir).arg(cache::source("iceberg/java/Reference.java"));
        cache::run(&mut javac, "apt-get install openjdk-17-jdk-headless");
        let address = format!("127.0.0.1:{}", free_ports()[0]);
        let port = address.rsplit(':').next().expect("a port");
        let mut java = Command::new(home.join("bin/java"));
        java.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
        java.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=off");
        java.args(["-cp", &format!("{}:{jars}", dir.display()), "org.apache.iceberg.rest.Reference", port]);
        java.arg(dir.join("reference.sqlite")).arg(format!("file://{}", dir.join("chosen").display()));
        let child = java.spawn().expect("java starts");
        let reference = Self { child, address };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(&reference.address).is_err() {
            assert!(Instant::now() < until, "the reference server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        reference
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn check_catalog(args: &[&str]) -> Output {
    Command::new(binary()).args(["iceberg", "check-catalog"]).args(args).output().expect("the command runs")
}

/// All steps are ok; returns how many.
fn all_ok(output: &Output) -> usize {
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let steps = report["steps"].as_array().expect("steps");
    assert!(output.status.success() && report["usable"] == true, "{report:#}");
    assert!(steps.iter().all(|step| step["outcome"] == "ok"), "{report:#}");
    steps.len()
}

fn produce(broker: &Broker, dir: &Path, records: std::ops::Range<u32>) {
    let path = dir.join("lines");
    // Each tenth is no JSON: a dead letter.
    let line = |n| if n % 10 == 0 { format!("dead {n}\n") } else { format!("{{\"n\":{n}}}\n") };
    std::fs::write(&path, records.map(line).collect::<String>()).expect("written");
    broker.cli(&["topic", "produce", "orders", "--file", &path.display().to_string()]);
}

/// A broker that is killed again and again while it commits to the reference server: engines read each record once from
/// there, as a row or as a dead letter.
#[test]
fn a_broker_keeps_its_tables_in_an_external_catalog() {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = format!("file://{}", dir.path().join("bucket").display());
    let reference = Reference::start(dir.path());
    let below = format!("{bucket}/tidewater/warehouse/check");
    let checked = check_catalog(&["--uri", &reference.url(), "--location", &below, "--json"]);
    assert!(all_ok(&checked) >= 10, "the reference server has all");
    let mut options = Options::new(&dir.path().join("data")).arg("--iceberg-catalog-uri", &reference.url());
    options = options.expect("records are dead letters").expect("tried again");
    options.bucket = Some(bucket);
    let mut broker = Broker::start(&options);
    let mut words = vec!["topic", "create", "orders", "--partitions", "2"];
    for setting in ["iceberg.mode=json", "archive.lag.ms=100", "iceberg.target.lag.ms=200"] {
        words.extend(["--set", setting]);
    }
    broker.cli(&words);
    for (round, pause) in [400, 900].into_iter().enumerate() {
        let from = u32::try_from(round).expect("small") * 750;
        produce(&broker, dir.path(), from..from + 750);
        std::thread::sleep(Duration::from_millis(pause));
        broker.kill();
        broker = Broker::start(&options);
    }
    broker.wait_topic("orders", "all is in the table", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
    });
    let read = python::script("iceberg/external_read.py", &[&reference.url(), "1500"], &[]);
    println!("{read}");
    let (status, body) = http_get(&broker.catalog, "/v1/config").expect("answers");
    assert!(status == 501 && body.contains(&reference.url()), "{status} {body}");
    broker.cli(&["iceberg", "rewind", "orders", "--to", "0:0"]);
    broker.wait_topic("orders", "filled again", PATIENCE, |partitions| {
        partitions.iter().all(|p| p["table_offset"] == p["high_watermark"])
    });
    python::script("iceberg/external_read.py", &[&reference.url(), "1500", "pyiceberg"], &[]);
    broker.stop();
}

/// The built-in catalog is one of the kind; and what is none is refused with words.
#[test]
fn the_probe_passes_the_built_in_catalog_and_refuses_what_is_none() {
    let (runtime, folder) = (super::runtime(), tempfile::tempdir().expect("a directory"));
    let catalog = super::catalog(&runtime, folder.path(), "iceberg");
    let address = super::serve(&runtime, catalog.clone(), None);
    let uri = format!("http://{address}");
    assert!(all_ok(&check_catalog(&["--uri", &uri, "--json"])) >= 10);
    assert!(runtime.block_on(catalog.list_namespaces(None)).expect("lists").is_empty(), "nothing is left");
    let text = check_catalog(&["--uri", &uri]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("conflict") && text.contains("Tidewater can keep tables"), "{text}");
    for (args, code, words) in [
        (&["--uri", &*format!("{uri}/other")][..], 1, "config"),
        (&["--uri", "http://me:secret@catalog"], 2, "file for secrets"),
        (&["--uri", &uri, "--token-file", "a", "--oauth2-credential-file", "b"], 2, "not both"),
        (&["--uri", &uri, "--token-file", "/nowhere/token"], 1, "/nowhere/token"),
        (&["--uri", &uri, "--namespace", "nowhere"], 1, "nowhere is not there"),
    ] {
        let output = check_catalog(args);
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        // A table wraps its lines.
        let flat: String =
            text.split(|c: char| c.is_whitespace() || c == '│').filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
        assert!(flat.contains(words) && !flat.contains("secret@"), "{args:?}: {text}");
    }
}
