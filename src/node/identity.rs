//! The identity of a data directory (`node.json`), and the lock that keeps a second broker out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tidewater_tiering::restore::Attempt;
use uuid::Uuid;

use super::error::StartError;
use crate::controller::command::Founder;

/// The version of `node.json` that this build writes. It also reads version 2, of brokers that knew no other broker.
const FORMAT: u32 = 3;
/// The version that it writes while a restore is not complete: earlier versions would take the directory for a new one.
const FORMAT_RESTORING: u32 = 4;
pub(super) const FILE: &str = "node.json";
const LOCK: &str = "lock";
const PUT_BACK: &str = "put back a copy of it made after the last change of --shards (an older one is refused), \
                        or start with a fresh directory";
/// The highest `--shards`.
const SHARDS_MAX: u16 = 1024;
/// A restored cluster begins with incarnations of its lineage epoch times two to this power.
const RESTORED_INCARNATION_BITS: u32 = 20;
/// [`Identity::node`] of a broker that belongs to no cluster yet.
pub const UNASSIGNED: i32 = -1;

/// The content of `node.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    /// Random, made before anything else; tells this data directory from every other, also from one that stood at the
    /// same address before. Nil in files of version 2 until their first start by this version.
    #[serde(default)]
    pub birth: Uuid,
    /// Never changes once it is set; nil until the broker belongs to a cluster.
    pub cluster: Uuid,
    pub cluster_name: String,
    /// The lineage epoch: 1 for a new cluster, one more at each restore.
    pub epoch: u32,
    /// This broker's Kafka node id; [`UNASSIGNED`] until the broker belongs to a cluster.
    pub node: i32,
    /// The incarnation with which this data directory became the broker `node`: 0 for a founder, higher if it replaced
    /// a lost one. Replicas with a lower incarnation were on another disk.
    #[serde(default)]
    pub incarnation: u32,
    /// `--seed` of the start at which the broker was founded or joined; empty for a cluster of one.
    #[serde(default)]
    pub seeds: Vec<String>,
    /// The founders as they were then, by position in the seed list (node id less 1). Empty for a cluster of one and
    /// for a broker that joined.
    #[serde(default)]
    pub founders: Vec<Founder>,
    /// The brokers of the cluster when this one joined: how it is reached before its own copy of the controller's state
    /// says so. Empty for a founder.
    #[serde(default)]
    pub known: Vec<KnownBroker>,
    /// The founders have written the cluster's first entry.
    #[serde(default)]
    pub formed: bool,
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
    /// The restore that prepares this directory and is not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restoring: Option<Attempt>,
}

/// Another broker, as a broker that joins gets to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownBroker {
    pub node: i32,
    pub birth: Uuid,
    pub incarnation: u32,
    /// Host and port for other brokers.
    pub rpc: (String, u16),
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

    #[must_use]
    pub fn now(&self) -> Identity {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
pub(super) fn write(dir: &Path, identity: &Identity) -> std::io::Result<()> {
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
            FORMAT | FORMAT_RESTORING | 2 => {}
            1 => {
                return Err(format!(
                    "{FILE} has format 1, from before the first release: start with a fresh directory"
                ));
            }
            newer => return Err(format!("{FILE} has format {newer}, this version knows {FORMAT}: upgrade")),
        }
        let mut identity: Self = serde_json::from_str(text).map_err(damaged)?;
        if format == 2 {
            identity.format = FORMAT;
            identity.formed = true;
        }
        if identity.cluster.is_nil() != (identity.node == UNASSIGNED) {
            let (cluster, node) = (identity.cluster, identity.node);
            return Err(format!("{FILE} is damaged: it says cluster {cluster} and node {node}; {PUT_BACK}"));
        }
        if !(1..=SHARDS_MAX).contains(&identity.shards) || identity.lanes < identity.shards.into() {
            let (shards, lanes) = (identity.shards, identity.lanes);
            return Err(format!("{FILE} is damaged: it says {shards} shards and {lanes} lanes; {PUT_BACK}"));
        }
        Ok(identity)
    }

    /// A new data directory, which belongs to no cluster yet.
    #[must_use]
    pub fn unassigned(birth: Uuid, cluster_name: &str, shards: u16) -> Self {
        Self {
            format: FORMAT,
            birth,
            cluster: Uuid::nil(),
            cluster_name: cluster_name.into(),
            epoch: 1,
            node: UNASSIGNED,
            incarnation: 0,
            seeds: Vec::new(),
            founders: Vec::new(),
            known: Vec::new(),
            formed: false,
            shards,
            lanes: shards.into(),
            layout: 0,
            rooted: false,
            begun: false,
            restoring: None,
        }
    }

    /// The first broker of a cluster that is restored.
    #[must_use]
    pub fn restoring(attempt: Attempt, birth: Uuid, cluster_name: &str, shards: u16) -> Self {
        Self {
            format: FORMAT_RESTORING,
            epoch: attempt.epoch.0,
            // Replicas of the lost cluster had lower incarnations: what they send is refused.
            incarnation: attempt.epoch.0 << RESTORED_INCARNATION_BITS,
            restoring: Some(attempt),
            birth,
            ..Self::newborn(attempt.source.cluster.0, cluster_name, shards)
        }
    }

    /// The restore is complete: the shards of `layout` hold what it brought back, `lanes` data lanes among it.
    #[must_use]
    pub fn restored(self, layout: u32, lanes: u32) -> Self {
        Self { format: FORMAT, restoring: None, rooted: true, begun: true, layout, lanes, ..self }
    }

    /// The only broker of a new cluster. Its birth id is derived from the cluster's.
    #[must_use]
    pub fn newborn(cluster: Uuid, cluster_name: &str, shards: u16) -> Self {
        let birth = Uuid::from_u128(!cluster.as_u128());
        Self { cluster, node: 1, formed: true, ..Self::unassigned(birth, cluster_name, shards) }
    }

    /// Whether the broker began as a cluster of its own.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.is_member() && self.seeds.is_empty() && self.founders.is_empty()
    }

    /// Whether the broker belongs to a cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.node != UNASSIGNED
    }
}

#[cfg(test)]
mod tests {
    use tidewater_tiering::keys::{ClusterId, Home, LineageEpoch};

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
        let half = Identity { node: UNASSIGNED, ..identity.clone() };
        for damaged in [
            "{".to_owned(),
            serde_json::to_string(&half).expect("plain"),
            serde_json::to_string(&Identity { shards: 0, ..identity }).expect("plain"),
        ] {
            fs::write(dir.path().join(FILE), damaged).expect("writes");
            assert!(matches!(data.identity(), Err(StartError::DataDir { .. })));
        }
    }

    #[test]
    fn a_file_of_version_2_is_read_as_a_founder_of_a_formed_cluster_of_one() {
        let old = r#"{"format":2,"cluster":"00000000-0000-0000-0000-000000000007","cluster_name":"tidewater","epoch":1,
            "node":1,"shards":2,"lanes":3,"layout":1,"rooted":true,"begun":true}"#;
        let read = Identity::parse(old).expect("is read");
        let new = Identity::newborn(Uuid::from_u128(7), "tidewater", 2);
        let expected =
            Identity { birth: Uuid::nil(), lanes: 3, layout: 1, rooted: true, begun: true, formed: true, ..new };
        assert_eq!(read, expected);
        assert!(read.is_member());
    }

    #[test]
    fn a_restore_is_noted_until_it_is_complete() {
        let cluster = ClusterId(Uuid::from_u128(7));
        let source = Home { cluster, epoch: LineageEpoch(1) };
        let attempt = Attempt { id: Uuid::from_u128(5), source, epoch: LineageEpoch(2), over: None, cut: None };
        let noted = Identity::restoring(attempt, Uuid::from_u128(6), "tidewater", 2);
        let text = serde_json::to_string(&noted).expect("plain");
        assert_eq!(Identity::parse(&text), Ok(noted.clone()));
        assert!(text.contains(r#""format":4"#), "earlier versions refuse it: {text}");
        assert_eq!((noted.cluster, noted.epoch, noted.is_alone()), (cluster.0, 2, true));
        let done = noted.restored(1, 9);
        assert_eq!((done.format, done.restoring, done.lanes, done.layout), (FORMAT, None, 9, 1));
    }

    #[test]
    fn a_directory_without_a_cluster_round_trips() {
        let fresh = Identity::unassigned(Uuid::from_u128(5), "tidewater", 2);
        let text = serde_json::to_string(&fresh).expect("plain");
        assert_eq!(Identity::parse(&text), Ok(fresh.clone()));
        assert!(!fresh.is_member());
    }
}
