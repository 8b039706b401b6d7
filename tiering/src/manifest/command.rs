//! What may change a manifest: commands proposed in the lane by the archiver and retention of its leader.
//!
//! Owns: the commands and their encoding (an entry's payload in the lane's log). Does not own: their effect
//! (`apply.rs`). One proposer per lane, one command in flight. All are *messages*.

mod codec;

use tidewater_storage::model::{LogIndex, Offset, OffsetRange, PartitionId, TimestampMs};

use super::objects::ObjectPageRef;
use super::page::PageRef;
use super::spill::{SpillPage, SpillRow};
use crate::format::IndexRef;
use crate::keys::{ObjectName, Sequence};

/// One change of a lane's manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A bundle is in the bucket: what it covers is archived (R1).
    Bundled(Bundled),
    /// Objects are in the bucket that replace ranges of rows: segment uploaded, merged, gathered.
    Replaced(Replaced),
    /// The log start moved (retention, DeleteRecords): rows below go.
    Trimmed(Trimmed),
    /// The oldest resident rows (or pages) are in a spill page.
    Spilled(Spilled),
    /// A spill page is opened again: its content takes its place.
    Unfolded(Unfolded),
    /// A range failed a check and is left alone until repaired (R11).
    Quarantined(Quarantine),
    /// A quarantined range is good again.
    Repaired(Quarantine),
    /// Live objects of the lane (bundles, gathered) that no row names any more: intent to delete (R4).
    Forgotten { objects: Vec<ObjectName> },
    /// A lane manifest was published.
    Published(Published),
    /// Objects are gone from the bucket.
    Deleted(Deleted),
    /// A partition's topic was deleted: everything it has goes, page by page.
    Dropped { partition: PartitionId },
    /// Archiving of this lane stops for this reason, or goes on because an operator resumed it (`None`) (R2, R6).
    Stopped { reason: Option<String> },
}

/// See [`Command::Bundled`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundled {
    /// Which bundle; applies only as the last plus one.
    pub sequence: Sequence,
    /// Bytes of the object.
    pub size: u64,
    /// Where its index is; the crc is what the next bundle names as `previous`.
    pub index: IndexRef,
    /// What it covers, sorted by partition. The rows themselves stay in the index.
    pub ends: Vec<BundledEnd>,
    pub parts: Vec<ObjectName>,
    /// The bundle carries the lane's events up to this log index: no replica need keep them. `None` in entries of
    /// versions that did not say.
    pub events: Option<LogIndex>,
}

/// What a bundle covers of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundledEnd {
    pub partition: PartitionId,
    /// Offsets; start at or below the archived end.
    pub offsets: OffsetRange,
    /// Bytes.
    pub bytes: u64,
    pub max_timestamp: TimestampMs,
}

/// See [`Command::Replaced`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub objects: Vec<NewObject>,
    /// Their rows, by partition and offset.
    pub rows: Vec<NewRow>,
}

/// An object that replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// A segment, part or gathered object.
    pub object: ObjectName,
    pub size: u64,
    /// Where its index is.
    pub index: IndexRef,
}

/// A row to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewRow {
    pub partition: PartitionId,
    pub offsets: OffsetRange,
    /// Which of [`Replaced::objects`].
    pub object: u32,
    /// First byte in it.
    pub start: u64,
    /// Bytes in it.
    pub len: u64,
    pub max_timestamp: TimestampMs,
}

/// See [`Command::Trimmed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    pub partition: PartitionId,
    /// The new log start. A spill page above level 0 that lies wholly below it must be unfolded first.
    pub log_start: Offset,
    /// Spill pages (level 0) wholly below the new log start, with the objects each names, each once.
    pub pages: Vec<(ObjectName, Vec<ObjectName>)>,
}

/// See [`Command::Spilled`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spilled {
    pub partition: PartitionId,
    /// The page, holding the oldest rows (level 0) or the oldest pages of one level (above).
    pub page: SpillRow,
    /// Bundles and gathered objects that the page names (level 0), each once.
    pub shared: Vec<ObjectName>,
}

/// See [`Command::Unfolded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfolded {
    pub partition: PartitionId,
    /// The page that goes.
    pub page: ObjectName,
    /// What it held, exactly.
    pub content: SpillPage,
}

/// See [`Command::Quarantined`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    pub partition: PartitionId,
    pub offsets: OffsetRange,
    /// Why, for people; empty on repair.
    pub reason: String,
}

/// See [`Command::Published`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The state published is as of this log index.
    pub as_of: LogIndex,
    /// The bundle sequence of that state; `follow_from` is the next.
    pub sequence: Sequence,
    /// The lane manifest's new version.
    pub etag: String,
    /// All its pages, sorted by first partition.
    pub pages: Vec<PageRef>,
    /// All its pages of objects; `None` in entries of versions that did not write them.
    pub objects: Option<Vec<ObjectPageRef>>,
    /// When, by the proposer's clock.
    pub at: TimestampMs,
}

/// See [`Command::Deleted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Pending objects of the lane (bundles with parts, gathered, pages) that are gone.
    pub lane: Vec<ObjectName>,
    /// Pending objects of partitions (segments, spill pages) that are gone.
    pub partitions: Vec<(PartitionId, Vec<ObjectName>)>,
}

impl Command {
    /// Partitions whose manifest this may change.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        let mut ids: Vec<PartitionId> = match self {
            Self::Bundled(bundled) => bundled.ends.iter().map(|end| end.partition).collect(),
            Self::Replaced(replaced) => replaced.rows.iter().map(|row| row.partition).collect(),
            Self::Trimmed(trimmed) => vec![trimmed.partition],
            Self::Spilled(spilled) => vec![spilled.partition],
            Self::Unfolded(unfolded) => vec![unfolded.partition],
            Self::Quarantined(range) | Self::Repaired(range) => vec![range.partition],
            Self::Dropped { partition } => vec![*partition],
            Self::Deleted(deleted) => deleted.partitions.iter().map(|(id, _)| *id).collect(),
            Self::Forgotten { .. } | Self::Published(_) | Self::Stopped { .. } => Vec::new(),
        };
        ids.dedup();
        ids
    }
}
