//! The open formats of data objects: Kafka batches back to back, an index behind them, a fixed trailer at the end.
//!
//! Owns: what bundles, parts, segment objects and gathered objects hold ([`DataIndex`]) and its encoding: `FORMAT.md`,
//! §2 and §3. Does not own: manifests (`manifest/codec.rs`), keys, I/O. Everything is a *message*.

mod error;
mod index;
mod names;
mod object;
mod producers;
mod trailer;

pub use error::FormatError;
pub use index::{decode_index, encode_index};
pub use names::{DecodeNames, EncodeNames};
pub use object::{BuiltObject, ObjectBuilder};
pub use producers::{PRODUCER_BATCHES_MAX, PartitionProducers, ProducerBatch, ProducerState, follow_producers};
pub(crate) use producers::{put_producers, take_producers};
pub(crate) use trailer::body_only;
pub use trailer::{Body, IndexRef, TRAILER_LEN, Trailer, read_whole};

use std::ops::Range;

use tidewater_storage::model::{
    LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, ProducerId, RunSum, Term, TimestampMs, TopicName,
};

use crate::keys::{Home, LineageEpoch, ObjectName, Sequence};

/// Version of all formats of this crate: in every trailer.
pub const FORMAT_VERSION: u16 = 1;
/// Largest index or manifest body that is read, in bytes.
pub const INDEX_BYTES_MAX: u32 = 64 << 20;

/// The index of a data object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataIndex {
    pub kind: DataKind,
    pub home: Home,
    /// The lane that wrote it.
    pub lane: LaneId,
    /// Of a bundle its own, of a part its bundle's, of a gathered object its first bundle's, else 0.
    pub sequence: Sequence,
    /// The writer's term.
    pub term: Term,
    /// The last entry that the writer had applied.
    pub log_index: LogIndex,
    /// [`IndexRef::crc`] of the lane's previous bundle; 0 in the first bundle and in other kinds of object.
    pub previous: u32,
    /// By the writer's clock.
    pub written: TimestampMs,
    /// Sorted by id, each once.
    pub partitions: Vec<PartitionEntry>,
    /// The lane's events since the previous bundle, in order.
    pub events: Vec<LaneEvent>,
    /// Of a bundle: what its batches change in idempotent producers, sorted by partition; partitions without such
    /// batches are left out. `None`: its writer's version did not say, so that nothing is known of the producers of its
    /// partitions from its ranges on.
    pub producers: Option<Vec<PartitionProducers>>,
    /// Set on a seal: the lane's lineage ends here (R6).
    pub seal: Option<Seal>,
    /// Set on a bundle that closes a cut (R9).
    pub cut: Option<CutMark>,
}

/// Kinds of data object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// Or a seal.
    Bundle,
    /// Bytes of one partition that a bundle points to.
    Part,
    /// One partition's closed segment.
    Segment,
    /// Bundles sorted by partition.
    Gathered,
}

/// What an object says about one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionEntry {
    pub partition: PartitionId,
    /// Offsets of all extents, contiguous. Empty if the entry only reports the log start.
    pub offsets: OffsetRange,
    /// The partition's log start when this was written.
    pub log_start: Offset,
    /// Least timestamp of the covered batches (their first records'); -1 if none.
    pub min_timestamp: TimestampMs,
    /// Greatest timestamp of the covered batches; -1 if none.
    pub max_timestamp: TimestampMs,
    /// Leader epochs that begin in the range, and the one it begins in.
    pub epochs: Vec<EpochStart>,
    /// Aborted transactions that overlap the range.
    pub aborted: Vec<AbortedTransaction>,
    /// The bytes, by offset.
    pub extents: Vec<Extent>,
}

/// A leader epoch and its first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    /// First offset written under it (of the range, for the first).
    pub start: Offset,
}

/// An aborted transaction, as a fetch answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer: ProducerId,
    /// First offset of the transaction.
    pub first: Offset,
    /// Offset of the abort marker.
    pub last: Offset,
}

/// Bytes of one partition that lie together in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    pub object: ExtentObject,
    /// First byte in the object.
    pub position: u64,
    /// Runs of whole batches, back to back from `position`.
    pub runs: Vec<Run>,
}

/// Which object an extent is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentObject {
    /// The object this index is in.
    Here,
    Part(ObjectName),
}

/// A run (at most 1 MiB, cut at batch boundaries) and its greatest timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Offsets, bytes, checksum.
    pub sum: RunSum,
    /// Greatest timestamp inside.
    pub max_timestamp: TimestampMs,
}

/// An event of a lane, for readers that follow its bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    /// A partition was created.
    Created {
        partition: PartitionId,
        topic: TopicName,
        /// The topic's configs, as set.
        configs: Vec<(String, String)>,
        /// First offset.
        start: Offset,
        /// A leader epoch is this plus the lane's term.
        epoch_base: LeaderEpoch,
    },
    /// A partition's topic was deleted.
    Dropped { partition: PartitionId },
    /// Records below were deleted.
    LogStartMoved { partition: PartitionId, to: Offset },
    /// The partition moved to another lane (rule 5 of `DESIGN.md`).
    Departed {
        partition: PartitionId,
        to: LaneId,
        /// Its archived end, fixed.
        at: Offset,
    },
    /// The partition moved here from another lane.
    Arrived {
        partition: PartitionId,
        from: LaneId,
        /// Its archived end.
        at: Offset,
    },
}

/// The end of a lane's lineage (R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The epoch in which it goes on.
    pub next_epoch: LineageEpoch,
    /// The last bundle that counts.
    pub last: Sequence,
}

/// A bundle that closes a cut (R9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutMark {
    pub number: u64,
    /// A copy of the lane manifest as of this bundle that is never overwritten, if one was written.
    pub manifest: Option<ObjectName>,
}

impl PartitionEntry {
    /// May it follow a partition that a reader knows up to `end`? It may overlap what is known; it begins beyond it
    /// only where the log start passed what was not archived yet, and then at or below its own log start (R3).
    #[must_use]
    pub fn may_follow(&self, end: Offset) -> bool {
        self.offsets.start <= end.max(self.log_start)
    }

    /// Bytes of all extents.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(Extent::bytes).sum()
    }
}

impl Extent {
    /// Bytes of all runs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.sum.len)).sum()
    }

    /// Offsets of all runs; `None` without runs, which no decoded extent is.
    #[must_use]
    pub fn offsets(&self) -> Option<OffsetRange> {
        Some(OffsetRange::new(self.runs.first()?.sum.offsets.start, self.runs.last()?.sum.offsets.end))
    }

    /// The runs that overlap `offsets`, each with its byte range in the object.
    pub fn runs_in(&self, offsets: OffsetRange) -> impl Iterator<Item = (Range<u64>, &Run)> {
        let mut at = self.position;
        self.runs.iter().filter_map(move |run| {
            let bytes = at..at + u64::from(run.sum.len);
            at = bytes.end;
            (!run.sum.offsets.intersect(&offsets).is_empty()).then_some((bytes, run))
        })
    }
}

impl DataIndex {
    /// The entry of a partition.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionEntry> {
        let at = self.partitions.binary_search_by_key(&partition, |entry| entry.partition).ok()?;
        self.partitions.get(at)
    }

    /// What it changes in a partition's producers; `None` if its writer's version did not say.
    #[must_use]
    pub fn producers_of(&self, partition: PartitionId) -> Option<&[ProducerState]> {
        let all = self.producers.as_ref()?;
        let at = all.binary_search_by_key(&partition, |changes| changes.partition).ok();
        Some(at.and_then(|at| all.get(at)).map_or(&[], |changes| changes.producers.as_slice()))
    }
}
