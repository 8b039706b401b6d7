//! The Iceberg REST Compatibility Kit: the tests by which Iceberg checks catalogs, run by its own Java client.
//!
//! `java/Kit.java` switches on nested namespaces and names with dots and slashes, which the kit leaves out by default.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::support::{cache, maven};

/// Tests of tables and views in an empty namespace, a name that the kit's own client refuses.
const ABORTED: u64 = 5;

/// Compiles the kit's subclasses into `dir` and runs them against the catalog, with `properties` of the client.
pub(crate) fn run(address: SocketAddr, dir: &Path, properties: &[(&str, &str)]) {
    let jars = format!("{}/*", maven::jars("rck").display());
    let home = maven::java17();
    let mut javac = Command::new(home.join("bin/javac"));
    javac.args(["-cp", &jars, "-d"]).arg(dir).arg(cache::source("iceberg/java/Kit.java"));
    cache::run(&mut javac, "apt-get install openjdk-17-jdk-headless");
    let mut java = Command::new(home.join("bin/java"));
    java.args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    java.args([
        "-Drck.local=false",
        "-Drck.requires-namespace-create=true",
        "-Dwarehouse=lake",
        &format!("-Duri=http://{address}"),
    ]);
    java.args(properties.iter().map(|(name, value)| format!("-D{name}={value}")));
    java.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error");
    java.args(["-cp", &format!("{}:{jars}", dir.display())]);
    java.args(["org.junit.platform.console.ConsoleLauncher", "execute", "--details=tree", "--disable-ansi-colors"]);
    for class in ["Tables", "Views"] {
        java.args(["--select-class", &format!("org.apache.iceberg.rest.Kit${class}")]);
    }
    let output = java.output().expect("java runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = counts(&text);
    let count = |what: &str| counts.get(what).copied().unwrap_or(u64::MAX);
    println!("{counts:?}");
    assert!(
        count("failed") == 0 && count("aborted") == ABORTED && count("successful") >= 150,
        "{counts:?}\n{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The lines `[ 12 tests failed ]` of the launcher's summary.
fn counts(text: &str) -> HashMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let inner = line.trim().strip_prefix('[')?.strip_suffix(']')?;
            let (count, what) = inner.trim().split_once(" tests ")?;
            Some((what.trim(), count.trim().parse().ok()?))
        })
        .collect()
}
