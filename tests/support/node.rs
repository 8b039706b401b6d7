//! Node peers: kafkajs, from the lock file in `support/node`.

use std::path::PathBuf;
use std::process::Command;

use super::cache::{peer, run, source};

const INSTALL: &str = "apt-get install nodejs npm";

/// The folder of modules for `NODE_PATH`.
pub fn modules() -> PathBuf {
    let from = source("support/node");
    let lock = std::fs::read_to_string(from.join("package-lock.json")).expect("lock file");
    let dir = peer("node", &lock, |dir| {
        for name in ["package.json", "package-lock.json"] {
            std::fs::copy(from.join(name), dir.join(name)).expect("copied");
        }
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(dir), INSTALL);
    });
    dir.join("node_modules")
}
