//! Who this data directory is: one small file, written once, and the lock that keeps a second broker out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::StartError;

/// The version of `node.json`.
const FORMAT: u32 = 1;
pub(super) const FILE: &str = "node.json";
const LOCK: &str = "lock";

/// What `node.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Version of this file.
    pub format: u32,
    /// The cluster's id, for ever.
    pub cluster: Uuid,
    /// The cluster's name in its bucket.
    pub cluster_name: String,
    /// The lineage epoch: 1 for a new cluster, one more at each restore or takeover.
    pub epoch: u32,
    /// This broker's Kafka node id.
    pub node: i32,
    /// Shards whose journals lie here.
    pub shards: u16,
    /// Has the cluster's root been seen or made in its bucket?
    pub rooted: bool,
}

/// A locked data directory. Dropping it lets another broker in.
#[derive(Debug)]
pub struct DataDir {
    /// Where.
    pub path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed and locks it.
    ///
    /// # Errors
    /// It cannot be made, or another broker has it.
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

    /// The directory of one shard.
    #[must_use]
    pub fn shard(&self, shard: u16) -> PathBuf {
        self.path.join(format!("shard-{shard}"))
    }

    /// Reads who this is; `None` in a fresh directory.
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
        let identity: Identity = serde_json::from_str(&text).map_err(|e| bad(format!("{FILE} is damaged: {e}")))?;
        if identity.format != FORMAT {
            return Err(bad(format!("{FILE} has format {}, this version knows {FORMAT}: upgrade", identity.format)));
        }
        Ok(Some(identity))
    }

    /// Writes who this is: a new file, synced, then renamed over the old.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, identity: &Identity) -> Result<(), StartError> {
        write(&self.path, identity)
            .map_err(|e| StartError::DataDir { path: self.path.clone(), why: format!("cannot write {FILE}: {e}") })
    }
}

/// Writes `node.json` into a directory that this process has locked.
///
/// # Errors
/// The disk refuses.
pub fn write(dir: &Path, identity: &Identity) -> std::io::Result<()> {
    let fresh = dir.join(format!("{FILE}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec_pretty(identity)?)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

impl Identity {
    /// A newborn cluster.
    #[must_use]
    pub fn newborn(cluster: Uuid, cluster_name: &str, shards: u16) -> Self {
        Self { format: FORMAT, cluster, cluster_name: cluster_name.into(), epoch: 1, node: 1, shards, rooted: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_broker_is_kept_out() {
        let dir = tempfile::tempdir().expect("tempdir");
        let held = DataDir::lock(dir.path()).expect("locks");
        assert!(matches!(DataDir::lock(dir.path()), Err(StartError::Locked(_))));
        drop(held);
        DataDir::lock(dir.path()).expect("locks again");
    }

    #[test]
    fn identity_round_trips_and_damage_is_told() {
        let dir = tempfile::tempdir().expect("tempdir");
        let data = DataDir::lock(dir.path()).expect("locks");
        assert_eq!(data.identity().expect("reads"), None);
        let identity = Identity::newborn(Uuid::from_u128(7), "tidewater", 2);
        data.write(&identity).expect("writes");
        assert_eq!(data.identity().expect("reads"), Some(identity));
        fs::write(dir.path().join(FILE), "{").expect("writes");
        assert!(matches!(data.identity(), Err(StartError::DataDir { .. })));
    }
}
