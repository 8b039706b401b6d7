//! How an archiver is doing, and how one ends. *Messages*; each step notes its own counts.

use std::collections::BTreeMap;

use tidewater_storage::model::PartitionId;

use crate::keys::Sequence;

/// Counts begin at 0 with each archiver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveStatus {
    /// The next key was looked at in this term: local bytes below archived ends may go (R2).
    pub probed: bool,
    /// Why nothing is archived until an operator resumes the lane.
    pub stopped: Option<String>,
    /// The last failure of the store or bucket; `None` once a step succeeded again.
    pub failing: Option<String>,
    /// Partitions whose local log cannot be read now, and why: they wait, all others are archived.
    pub unread: BTreeMap<PartitionId, String>,
    /// Last bundle settled under this archiver.
    pub last_bundle: Option<Sequence>,
    /// Bundles put or adopted.
    pub bundles: u64,
    /// Bundles found at their key: lost answers, a dead predecessor's last.
    pub adopted: u64,
    /// Bytes of bundles put, without their parts.
    pub bundle_bytes: u64,
    /// Bytes of parts put.
    pub part_bytes: u64,
    /// Parts that got a row of their own.
    pub parts_adopted: u64,
    /// Segment objects put, and their bytes.
    pub segments: u64,
    pub segment_bytes: u64,
    /// Gathered objects put, and their bytes.
    pub gathered: u64,
    pub gathered_bytes: u64,
    /// Lane manifests published.
    pub published: u64,
    /// Objects deleted.
    pub deleted: u64,
    /// Objects removed because nothing named them.
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
