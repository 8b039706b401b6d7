//! The cache outside the clone: peers live there across runs.

use std::path::{Path, PathBuf};
use std::process::Command;

/// `${XDG_CACHE_HOME:-~/.cache}/tidewater-ci`.
pub fn root() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"));
    base.join("tidewater-ci")
}

/// A peer's directory, made by `make` into a fresh one and renamed when whole. A stamp of what it was made from makes a
/// changed list of versions fetch again; a lock lets several test binaries run at once.
pub fn peer(name: &str, stamp: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let dir = root().join("peers").join(name);
    std::fs::create_dir_all(root().join("peers")).expect("cache directory");
    let lock = std::fs::File::create(root().join("peers").join(format!("{name}.lock"))).expect("lock file");
    lock.lock().expect("lock");
    let mark = dir.join(".stamp");
    if std::fs::read_to_string(&mark).is_ok_and(|held| held == stamp) {
        return dir;
    }
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("peer directory");
    make(&dir);
    std::fs::write(mark, stamp).expect("stamp");
    dir
}

/// Runs a command to its end; a failure shows all it printed.
pub fn run(command: &mut Command, install: &str) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; install it: {install}"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A file of the test sources.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path)
}
