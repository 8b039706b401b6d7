//! Go peers: franz-go and sarama, with the program that drives them, built once per version of either.

use std::path::PathBuf;
use std::process::Command;

use super::cache::{peer, root, run, source};

const INSTALL: &str = "a Go of at least the version in tests/kafka/go/go.mod, https://go.dev/dl";

/// The program of `tests/kafka/go`.
pub fn clients() -> PathBuf {
    let from = source("kafka/go");
    let files = ["go.mod", "go.sum", "main.go", "franz.go", "sarama.go", "load.go"];
    let stamp: String = files.map(|name| std::fs::read_to_string(from.join(name)).expect("a Go source")).concat();
    let dir = peer("go", &stamp, |dir| {
        let mut go = Command::new("go");
        go.args(["build", "-o"]).arg(dir.join("clients")).arg(".").current_dir(&from);
        go.env("GOMODCACHE", root().join("gomod")).env("GOCACHE", root().join("gobuild"));
        run(&mut go, INSTALL);
    });
    dir.join("clients")
}
