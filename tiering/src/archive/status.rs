//! What people and metrics see of an archiver, and how one ends.
//!
//! Owns: those two types. Does not own: what is noted in them (each step does that). *Messages*.

use std::collections::BTreeMap;

use tidewater_storage::model::PartitionId;

use crate::keys::Sequence;

/// How archiving of a lane is doing; for metrics and people. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// The next key was looked at in this term: local bytes below archived ends may go (R2).
    pub probed: bool,
    /// Why nothing is archived until an operator looks.
    pub stopped: Option<String>,
    /// The last failure of the store or bucket that is not overcome yet.
    pub failing: Option<String>,
    /// Partitions whose local log cannot be read now, and why: they wait, all others are archived.
    pub unread: BTreeMap<PartitionId, String>,
    /// Last bundle settled under this archiver.
    pub last_bundle: Option<Sequence>,
    /// Bundles put or adopted by this archiver.
    pub bundles: u64,
    /// Those of them that were found at their key: lost answers, a dead predecessor's last.
    pub adopted: u64,
    /// Bytes of those that this archiver put.
    pub bundle_bytes: u64,
    /// Segment objects put.
    pub segments: u64,
    /// Gathered objects put.
    pub gathered: u64,
    /// Lane manifests published.
    pub published: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// Objects removed because nobody named them.
    pub swept: u64,
}

/// Why an archiver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The replica does not lead (any more).
    Deposed,
    /// The outcome of a command is unknown; start a new one once the lane has settled.
    Unsettled(String),
}
