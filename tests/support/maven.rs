//! Java peers by Maven: a folder of jars per `pom.xml` in `support/maven`, and the JDKs they want.

use std::path::PathBuf;
use std::process::Command;

use super::cache::{peer, root, run, source};

const INSTALL: &str = "apt-get install maven openjdk-17-jdk-headless";

/// The jars of `support/maven/<name>/pom.xml`.
pub fn jars(name: &str) -> PathBuf {
    let pom = source(&format!("support/maven/{name}/pom.xml"));
    let stamp = std::fs::read_to_string(&pom).expect("pom");
    peer(name, &stamp, |dir| {
        let mut mvn = Command::new("mvn");
        mvn.args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"]);
        mvn.arg(format!("-Dmaven.repo.local={}", root().join("m2").display()));
        mvn.arg(format!("-DoutputDirectory={}", dir.display()));
        mvn.arg("-f").arg(&pom);
        run(&mut mvn, INSTALL);
    })
}

/// A program of one source file below `tests/`, on Kafka's jars; its arguments follow.
pub fn kafka_program(path: &str) -> Command {
    let mut java = Command::new(java17().join("bin/java"));
    let logging = source("support/java/log4j2.properties");
    java.args(["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    java.args(["-cp", &format!("{}/*", jars("kafka").display())]);
    java.arg(format!("-Dlog4j2.configurationFile={}", logging.display())).arg(source(path));
    java
}

/// JDK 17, for Spark and Kafka: `JAVA17_HOME`, or found.
pub fn java17() -> PathBuf {
    java("JAVA17_HOME", "17", "apt-get install openjdk-17-jdk-headless")
}

/// JDK 25, for Trino: `JAVA25_HOME`, or found.
pub fn java25() -> PathBuf {
    java("JAVA25_HOME", "25", "install a JDK 25 and set JAVA25_HOME to it")
}

fn java(variable: &str, version: &str, install: &str) -> PathBuf {
    if let Some(home) = std::env::var_os(variable) {
        return PathBuf::from(home);
    }
    let installed = std::fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten().map(|entry| entry.path());
    let fits = |home: &PathBuf| {
        let release = std::fs::read_to_string(home.join("release")).unwrap_or_default();
        home.join("bin/java").exists() && release.lines().any(|l| l.starts_with(&format!("JAVA_VERSION=\"{version}")))
    };
    installed.into_iter().find(fits).unwrap_or_else(|| panic!("no JDK {version} found: {install}"))
}
