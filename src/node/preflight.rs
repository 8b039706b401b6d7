//! The preflight: one check for each thing the machine must have, with what to do when it is missing.

use std::net::SocketAddr;
use std::path::Path;

use serde::Serialize;
use tidewater_storage::env::preflight::{self, Unfit};
use tidewater_tiering::store::{self, StoreOptions};

use crate::config::node::NodeConfig;
use crate::net::listen::Bound;

/// Below this limit of open files the start warns; segments, journal, bucket requests and tables take up to half of it.
const OPEN_FILES_LOW: u64 = 2048;

/// Segment files one shard keeps open: a thousand partitions are written to without opening one again.
const SEGMENT_FILES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub what: &'static str,
    /// False keeps the broker from starting.
    pub ok: bool,
    /// What was found and, if it is not ok, what to do.
    pub detail: String,
}

fn check(what: &'static str, result: Result<String, String>) -> Check {
    match result {
        Ok(detail) => Check { what, ok: true, detail },
        Err(detail) => Check { what, ok: false, detail },
    }
}

/// Whether a broker has used this data directory before.
fn is_used(data_dir: &Path) -> bool {
    data_dir.join(super::identity::FILE).exists()
}

/// Checks of the machine and the data directory; they leave nothing behind but the directory itself.
#[must_use]
pub fn machine(data_dir: &Path) -> Vec<Check> {
    let io_uring = preflight::io_uring().map(|()| "available".into()).map_err(|e| e.to_string());
    let memlock = preflight::memlock()
        .map(|limit| limit.map_or("unlimited".into(), |bytes| format!("{} KiB", bytes >> 10)))
        .map_err(|e| e.to_string());
    let made = std::fs::create_dir_all(data_dir).map_err(|e| format!("cannot make {}: {e}", data_dir.display()));
    let direct = made.and_then(|()| match preflight::direct_io(data_dir) {
        Ok(()) => Ok(format!("works in {}", data_dir.display())),
        // It worked when the broker first started here.
        Err(Unfit::NoRoom { .. }) if is_used(data_dir) => Ok("not tried: no block is free".into()),
        Err(error) => Err(error.to_string()),
    });
    let free = preflight::free_bytes(data_dir).map_err(|e| e.to_string()).and_then(|bytes| {
        let gib = format!("{:.1} GiB free", bytes as f64 / (1u64 << 30) as f64);
        if bytes < 1 << 30 && is_used(data_dir) {
            // The broker must start on a full disk: retention and trims free space only while it runs.
            Ok(format!("{gib}: little, but enough for a broker that has data here"))
        } else if bytes < 1 << 30 {
            Err(format!("{gib}: at least 1 GiB is needed; free some space or use --data-dir"))
        } else {
            Ok(gib)
        }
    });
    vec![
        check("io_uring", io_uring),
        check("locked memory", memlock),
        check("direct I/O", direct),
        check("disk space", free),
    ]
}

/// Raises the limit of open files as far as the system permits; warns about a low one, since every connection takes a
/// file.
pub fn open_files() {
    match preflight::raise_open_files() {
        Ok(limit) if limit < OPEN_FILES_LOW => tracing::warn!(
            limit,
            "few files may be open, and every connection takes one: raise the hard limit (ulimit -Hn, LimitNOFILE)"
        ),
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be asked or raised (ulimit -n)"),
    }
}

/// Segment files that each of `shards` shards may keep open: a quarter of the process's limit, two handles each.
#[must_use]
pub fn segment_files(shards: u16) -> usize {
    let files = preflight::raise_open_files().unwrap_or(0) / 8 / u64::from(shards.max(1));
    usize::try_from(files).unwrap_or(usize::MAX).clamp(16, SEGMENT_FILES_MAX)
}

/// Whether this is the URL of a bucket and its store has the variables it needs. The store is not contacted and no
/// directory is made.
fn bucket(url: &str) -> Result<String, String> {
    if url.starts_with("file:///") {
        return Ok(format!("{url}, a directory"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
    let opened = store::open(url, runtime.handle().clone(), &StoreOptions::default());
    opened.map(|_| format!("{url} (not contacted)")).map_err(|e| e.to_string())
}

/// The checks of the settings: ports, the bucket's URL, the lock of the data directory.
#[must_use]
pub fn settings(config: &NodeConfig) -> Vec<Check> {
    let port = |what, flag, addr: SocketAddr| {
        check(
            what,
            Bound::bind(flag, addr)
                .and_then(Bound::listen)
                .map(|_| format!("{addr} is free"))
                .map_err(|e| e.to_string()),
        )
    };
    let files = preflight::raise_open_files().map(|limit| format!("{limit} may be open")).map_err(|e| e.to_string());
    let lock = super::identity::DataDir::lock(&config.data_dir);
    vec![
        check(
            "data directory",
            lock.map(|_| format!("{} is not in use", config.data_dir.display())).map_err(|e| e.to_string()),
        ),
        check("bucket", bucket(&config.bucket)),
        check("file handles", files),
        port("kafka address", "--kafka-addr", config.kafka_addr),
        port("admin address", "--admin-addr", config.admin_addr),
        port("catalog address", "--catalog-addr", config.catalog_addr),
        port("schema address", "--schema-addr", config.schema_addr),
    ]
}

/// The failed checks, one a line.
#[must_use]
pub fn failures(checks: &[Check]) -> String {
    let bad = checks.iter().filter(|c| !c.ok);
    bad.map(|c| format!("  {}: {}", c.what, c.detail)).collect::<Vec<_>>().join("\n")
}

/// The default of `--disk-bytes`: nine tenths of the free space and the bytes in the data directory together.
///
/// # Errors
/// The file system does not report its free space.
pub fn disk_share(data_dir: &Path) -> Result<u64, super::StartError> {
    let free = preflight::free_bytes(data_dir).map_err(|e| super::StartError::Unfit(e.to_string()))?;
    Ok((free + held(data_dir)) / 10 * 9)
}

/// Bytes in a directory and those below it; unreadable entries count as 0.
pub(super) fn held(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => held(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}
