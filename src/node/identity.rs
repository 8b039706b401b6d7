//! The identity of a data directory (`node.json`), and the lock that keeps a second broker out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::StartError;

/// The version of `node.json` that this build writes and reads.
const FORMAT: u32 = 2;
pub(super) const FILE: &str = "node.json";
const LOCK: &str = "lock";
const PUT_BACK: &str = "put back a copy of it made after the last change of --shards (an older one is refused), \
                        or start with a fresh directory";
/// The highest `--shards`.
const SHARDS_MAX: u16 = 1024;

/// The content of `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    /// Never changes.
    pub cluster: Uuid,
    pub cluster_name: String,
    /// The lineage epoch: 1 for a new cluster, one more at each restore or takeover.
    pub epoch: u32,
    /// This broker's Kafka node id.
    pub node: i32,
    /// Shards whose journals are in this directory.
    pub shards: u16,
    /// Data lanes: the highest number of shards there has been. A lane outlives its shard and runs on another.
    pub lanes: u32,
    /// The layout whose shard directories are in use; each change of the number of shards adds one. Others are not
    /// read.
    pub layout: u32,
    /// The cluster's root has been seen or made in its bucket.
    pub rooted: bool,
    /// All shards have been opened once, so none of them may be empty. Absent in files of older versions.
    #[serde(default)]
    pub begun: bool,
}

/// `node.json` while the broker runs; several tasks change it. Node-wide.
#[derive(Debug)]
pub struct Notes {
    dir: PathBuf,
    now: Mutex<Identity>,
}

impl Notes {
    /// For a directory that this process has locked, whose `node.json` holds `now`.
    #[must_use]
    pub fn new(data: &DataDir, now: Identity) -> Self {
        Self { dir: data.path.clone(), now: Mutex::new(now) }
    }

    /// Makes a change durable; writes nothing if `change` changes nothing.
    ///
    /// # Errors
    /// The disk refuses; the next call writes it.
    pub fn note(&self, change: impl FnOnce(&mut Identity)) -> std::io::Result<()> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = now.clone();
        change(&mut next);
        if next != *now {
            write(&self.dir, &next)?;
            *now = next;
        }
        Ok(())
    }
}

/// The field that every version of `node.json` has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// A locked data directory. Dropping it unlocks it.
#[derive(Debug)]
pub struct DataDir {
    pub path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another broker has locked it.
    pub fn lock(path: &Path) -> Result<Self, StartError> {
        let bad = |e: std::io::Error| StartError::DataDir { path: path.to_owned(), why: e.to_string() };
        fs::create_dir_all(path).map_err(bad)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK)).map_err(bad)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StartError::Locked(path.to_owned())),
            Err(TryLockError::Error(e)) => Err(bad(e)),
        }
    }

    /// Reads `node.json`; `None` in a fresh directory.
    ///
    /// # Errors
    /// The file is there but cannot be read.
    pub fn identity(&self) -> Result<Option<Identity>, StartError> {
        let path = self.path.join(FILE);
        let bad = |why: String| StartError::DataDir { path: self.path.clone(), why };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(bad(format!("{FILE}: {e}"))),
        };
        Identity::parse(&text).map(Some).map_err(bad)
    }

    /// Writes `node.json`: a new file, synced, then renamed over the old one.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, identity: &Identity) -> Result<(), StartError> {
        write(&self.path, identity)
            .map_err(|e| StartError::DataDir { path: self.path.clone(), why: format!("cannot write {FILE}: {e}") })
    }
}

/// Writes `node.json` into a directory that this process has locked.
fn write(dir: &Path, identity: &Identity) -> std::io::Result<()> {
    let fresh = dir.join(format!("{FILE}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(identity)?)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

impl Identity {
    /// Parses `node.json`.
    ///
    /// # Errors
    /// It is damaged or of another version; the text says what to do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let damaged = |e: serde_json::Error| format!("{FILE} is damaged: {e}; {PUT_BACK}");
        let Versioned { format } = serde_json::from_str(text).map_err(damaged)?;
        match format {
            FORMAT => {}
            1 => {
                return Err(format!(
                    "{FILE} has format 1, from before the first release: start with a fresh directory"
                ));
            }
            newer => return Err(format!("{FILE} has format {newer}, this version knows {FORMAT}: upgrade")),
        }
        let identity: Self = serde_json::from_str(text).map_err(damaged)?;
        if !(1..=SHARDS_MAX).contains(&identity.shards) || identity.lanes < identity.shards.into() {
            let (shards, lanes) = (identity.shards, identity.lanes);
            return Err(format!("{FILE} is damaged: it says {shards} shards and {lanes} lanes; {PUT_BACK}"));
        }
        Ok(identity)
    }

    /// The identity of a new cluster.
    #[must_use]
    pub fn newborn(cluster: Uuid, cluster_name: &str, shards: u16) -> Self {
        let cluster_name = cluster_name.into();
        let lanes = shards.into();
        let (layout, rooted, begun) = (0, false, false);
        Self { format: FORMAT, cluster, cluster_name, epoch: 1, node: 1, shards, lanes, layout, rooted, begun }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_broker_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let held = DataDir::lock(dir.path()).expect("locks");
        assert!(matches!(DataDir::lock(dir.path()), Err(StartError::Locked(_))));
        drop(held);
        DataDir::lock(dir.path()).expect("locks again");
    }

    #[test]
    fn identity_round_trips_and_damage_is_reported() {
        let dir = tempfile::tempdir().expect("tempdir");
        let data = DataDir::lock(dir.path()).expect("locks");
        assert_eq!(data.identity().expect("reads"), None);
        let identity = Identity::newborn(Uuid::from_u128(7), "tidewater", 2);
        data.write(&identity).expect("writes");
        assert_eq!(data.identity().expect("reads"), Some(identity.clone()));
        let notes = Notes::new(&data, identity.clone());
        notes.note(|identity| identity.rooted = true).expect("writes");
        notes.note(|identity| identity.begun = true).expect("writes");
        let noted = Some(Identity { rooted: true, begun: true, ..identity.clone() });
        assert_eq!(data.identity().expect("reads"), noted);
        for damaged in ["{".to_owned(), serde_json::to_string(&Identity { shards: 0, ..identity }).expect("plain")] {
            fs::write(dir.path().join(FILE), damaged).expect("writes");
            assert!(matches!(data.identity(), Err(StartError::DataDir { .. })));
        }
    }
}
