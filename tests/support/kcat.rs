//! kcat: the installed one, or Debian's package unpacked into the cache, which needs no root.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cache::{peer, run};

const INSTALL: &str = "apt-get install kcat";
const PACKAGES: [&str; 3] = ["kcat", "librdkafka1", "libyajl2"];

/// A command that runs kcat.
pub fn kcat() -> Command {
    if let Some(installed) = installed() {
        return Command::new(installed);
    }
    let dir = peer("kcat", &PACKAGES.concat(), unpack);
    let mut kcat = Command::new(dir.join("usr/bin/kcat"));
    let libraries = std::fs::read_dir(dir.join("usr/lib")).expect("libraries").flatten().map(|entry| entry.path());
    kcat.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).expect("paths"));
    kcat
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("kcat")).find(|file| file.exists())
}

fn unpack(dir: &Path) {
    run(Command::new("apt-get").arg("download").args(PACKAGES).current_dir(dir), INSTALL);
    for entry in std::fs::read_dir(dir).expect("downloads").flatten() {
        if entry.path().extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg").arg("-x").arg(entry.path()).arg(dir), INSTALL);
        }
    }
}
