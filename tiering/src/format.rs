//! The open formats of data objects: Kafka batches back to back, an index behind them, a fixed trailer at the end.
//!
//! Owns: what bundles, parts, segment objects and gathered objects hold ([`DataIndex`]) and its encoding. Does not
//! own: manifests (`manifest/codec.rs`), keys, I/O. Byte boxes: `FORMAT.md`. Everything is a *message*. Bytes come
//! from outside: every length is checked against what remains before anything is allocated, nothing panics.

mod error;
mod index;
mod names;
mod object;
mod trailer;

pub use error::FormatError;
pub use names::{DecodeNames, EncodeNames};
pub use index::{decode_index, encode_index};
pub use object::{ObjectBuilder, Placed};
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

/// What is behind the data of an object: its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataIndex {
    /// Which kind of object.
    pub kind: DataKind,
    /// Whose.
    pub home: Home,
    /// The lane that wrote it.
    pub lane: LaneId,
    /// The bundle's sequence; of a part, its bundle's; else the first gathered, or 0.
    pub sequence: Sequence,
    /// The writer's term.
    pub term: Term,
    /// What the writer had applied of its lane.
    pub log_index: LogIndex,
    /// [`IndexRef::crc`] of the lane's previous bundle; 0 for the first and for what is no bundle.
    pub previous: u32,
    /// When, by the writer's clock.
    pub written: TimestampMs,
    /// Sorted by id, each once.
    pub partitions: Vec<PartitionEntry>,
    /// What happened to the lane since the previous bundle, in order.
    pub events: Vec<LaneEvent>,
    /// Set on a seal: the lane's lineage ends here (R6).
    pub seal: Option<Seal>,
    /// Set on a bundle that closes a cut (R9).
    pub cut: Option<CutMark>,
}

/// Kinds of data object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// Or seal.
    Bundle,
    /// Bytes a bundle points to.
    Part,
    /// One partition's closed segment.
    Segment,
    /// Bundles sorted by partition.
    Gathered,
}

/// What an object says about one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionEntry {
    /// Who.
    pub partition: PartitionId,
    /// Offsets covered: the extents' together, contiguous. Empty when only the log start is told.
    pub offsets: OffsetRange,
    /// The partition's log start when this was written.
    pub log_start: Offset,
    /// Least timestamp of the covered batches (their first records'); -1 if none.
    pub min_timestamp: TimestampMs,
    /// Greatest timestamp of the covered batches; -1 if none.
    pub max_timestamp: TimestampMs,
    /// Leader epochs that begin in the range, and the one it begins in.
    pub epochs: Vec<EpochStart>,
    /// Aborted transactions whose marker lies in the range.
    pub aborted: Vec<AbortedTransaction>,
    /// Where the bytes are, by offset.
    pub extents: Vec<Extent>,
}

/// A leader epoch and its first offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// First offset written under it (of the range, for the first).
    pub start: Offset,
}

/// An aborted transaction, as a fetch answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer: ProducerId,
    /// First offset of the transaction.
    pub first: Offset,
    /// Offset of the abort marker.
    pub last: Offset,
}

/// Bytes of one partition that lie together in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// In which object.
    pub place: Place,
    /// First byte there.
    pub position: u64,
    /// Runs of whole batches, back to back from `position`.
    pub runs: Vec<Run>,
}

/// Which object an extent is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The object this index is in.
    Here,
    /// A part.
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

/// Something that happened to a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    /// A partition came to be.
    Created {
        /// Who.
        partition: PartitionId,
        /// Its topic's name.
        topic: TopicName,
        /// The topic's configs, as set.
        configs: Vec<(String, String)>,
        /// First offset.
        start: Offset,
        /// The partition's leader-epoch base.
        epoch_base: LeaderEpoch,
    },
    /// A partition's topic was deleted.
    Dropped {
        /// Who.
        partition: PartitionId,
    },
    /// Records below were deleted.
    LogStartMoved {
        /// Who.
        partition: PartitionId,
        /// New log start.
        to: Offset,
    },
    /// The partition went to another lane (R5).
    Departed {
        /// Who.
        partition: PartitionId,
        /// Where to.
        to: LaneId,
        /// Its archived end, fixed.
        at: Offset,
    },
    /// The partition came from another lane (R5).
    Arrived {
        /// Who.
        partition: PartitionId,
        /// Where from.
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
    /// The cut's number.
    pub number: u64,
    /// The lane manifest's page that is immutable and as of this bundle, if one was written.
    pub manifest: Option<ObjectName>,
}

impl PartitionEntry {
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

    /// Offsets of all runs; `None` without runs (the decoder refuses that).
    #[must_use]
    pub fn offsets(&self) -> Option<OffsetRange> {
        Some(OffsetRange::new(self.runs.first()?.sum.offsets.start, self.runs.last()?.sum.offsets.end))
    }

    /// The runs that hold anything of `offsets`, each with its byte range in the object.
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
}
