//! What the archiver needs of the lane it archives: the seam that the broker implements over its Raft group and logs.
//!
//! Owns: the trait and its words. Does not own: any behaviour. Shard-local.
//!
//! **State**: [`LaneHost::with_lane`] and [`LaneHost::with_partition`] show *applied* replicated state of this replica; a
//! partition stays visible after its topic was deleted until [`LaneHost::partition_clean`] was called for it.
//! **Ordering**: [`LaneHost::propose`] returns when the command is applied here, so the state shown next has it.
//! **Unknown outcomes**: [`ProposeError::Unknown`] means it may be applied later; the archiver then ends and is started
//! again by the host once the lane has settled. **Cancellation**: any future may be dropped at any await; nothing is
//! held but what is in the bucket and in replicated state.

use bytes::Bytes;
use tidewater_storage::model::{LaneId, LogIndex, Offset, OffsetRange, PartitionId, RunSum, Term};

use super::plan::Pending;
use crate::bucket::CatalogueChange;
use crate::format::{AbortedTransaction, LaneEvent};
use crate::manifest::{CatalogueTopic, Command, LaneManifest, PartitionManifest};
use crate::retention::RetentionPolicy;

/// Batches of one partition as they lie in its local log. *Message*.
#[derive(Clone, Debug, Default)]
pub struct LocalRead {
    /// Whole batches, back to back in each piece.
    pub batches: Vec<Bytes>,
    /// Sums taken when the batches were applied, of any runs that begin and end in this read; each is checked. Runs
    /// that reach beyond it are left out.
    pub sums: Vec<RunSum>,
}

/// Why the local log did not give batches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalReadError {
    /// Bytes that do not match their sums: the range is quarantined.
    #[error("local log is corrupt at offsets {offsets}: {reason}")]
    Corrupt {
        /// Where.
        offsets: OffsetRange,
        /// What the log said.
        reason: String,
    },
    /// Already trimmed: nothing to upload from here.
    #[error("local log begins at {start}")]
    BelowStart {
        /// First offset there.
        start: Offset,
    },
    /// The disk failed or the partition is closing; later perhaps.
    #[error("local log is not readable now: {reason}")]
    Unavailable {
        /// What the log said.
        reason: String,
    },
}

/// A closed segment of the local log. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSegment {
    /// Its offsets.
    pub offsets: OffsetRange,
    /// Its bytes.
    pub bytes: u64,
}

/// What the tier must know of a topic. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// As the catalogue tells it: all its partitions with their lanes, and the settings that users set.
    pub catalogue: CatalogueTopic,
    /// How long its records are kept, locally and in the bucket together.
    pub retention: RetentionPolicy,
}

/// Why a proposal did not end in an applied command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Applied and refused by the state: it was planned from older state.
    #[error("the lane refused the command: {reason}")]
    Rejected {
        /// Which rule it broke.
        reason: String,
    },
    /// Not the leader (any more) and certainly not applied.
    #[error("this replica does not lead the lane")]
    NotLeader,
    /// It may or may not be applied.
    #[error("the outcome of the command is unknown: {reason}")]
    Unknown {
        /// Why.
        reason: String,
    },
}

/// Whether a partition exists, as far as this node knows the cluster. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// This lane carries it (or still has it to clean up).
    Here,
    /// Another lane does, or nobody knows: hands off.
    Elsewhere,
    /// It is gone from the cluster's state for good; whatever lies in the bucket of it is garbage.
    Nowhere,
}

/// The archiver's two loops, as far as they wait for a lane to stir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// Bundles of what is new.
    Bundles,
    /// Everything else.
    Housekeeping,
}

/// A lane as the archiver sees it. Implemented by the broker on the shard that owns the lane. *Shard-local*.
#[allow(async_fn_in_trait, reason = "shard-local: nobody needs the futures to be Send")]
pub trait LaneHost: 'static {
    /// Which lane.
    fn lane(&self) -> LaneId;

    /// The term in which this replica leads *and* has applied an entry; `None` otherwise.
    fn leading(&self) -> Option<Term>;

    /// The last log index applied here.
    fn applied(&self) -> LogIndex;

    /// Shows the lane's manifest.
    fn with_lane<R>(&self, look: impl FnOnce(&LaneManifest) -> R) -> R;

    /// Shows a partition's manifest; `None` if the lane does not carry it.
    fn with_partition<R>(&self, partition: PartitionId, look: impl FnOnce(&PartitionManifest) -> R) -> Option<R>;

    /// Shows the lane's manifest with all of [`LaneHost::partitions`], sorted by id, at one moment.
    fn with_manifests<R>(&self, look: impl FnOnce(&LaneManifest, &[&PartitionManifest]) -> R) -> R;

    /// All partitions of the lane that are archived, dropped ones that are not clean yet included.
    fn partitions(&self) -> Vec<PartitionId>;

    /// Partitions that hold something new: from their archived end to the lower of high watermark and last stable
    /// offset. Partitions whose topics are not archived are left out.
    fn pending(&self) -> Vec<Pending>;

    /// What happened to the lane's partitions after log index `after` (created, dropped), oldest first, and nothing
    /// beyond what is applied. Readers take events twice without harm.
    fn events(&self, after: LogIndex) -> Vec<LaneEvent>;

    /// Does [`LaneHost::events`] have any?
    fn has_events(&self, after: LogIndex) -> bool {
        !self.events(after).is_empty()
    }

    /// Bundles have told all events up to `upto`: they need not be kept for another.
    fn told(&self, _upto: LogIndex) {}

    /// Partitions to which something happened since this was asked last: batches, commands, settings, a closed segment.
    /// `None`: the host does not know, all are looked at. Partitions whose topics are not archived may be among them.
    fn touched(&self) -> Option<Vec<PartitionId>> {
        None
    }

    /// Will [`LaneHost::stirred`] ever return? If not, the archiver looks again after its ticks.
    fn stirs(&self) -> bool {
        false
    }

    /// Waits until something happened to the lane that this loop was not told of yet. Cheap to drop.
    async fn stirred(&self, _who: Loop) {
        std::future::pending().await
    }

    /// Dropped partitions that are not clean yet.
    fn gone(&self) -> Vec<PartitionId> {
        self.partitions().into_iter().filter(|partition| self.dropped(*partition)).collect()
    }

    /// How long the partition's records are kept; `None` once the topic is deleted.
    fn retention(&self, partition: PartitionId) -> Option<RetentionPolicy> {
        self.topic(partition).map(|facts| facts.retention)
    }

    /// Facts of the partition's topic; `None` once the topic is deleted.
    fn topic(&self, partition: PartitionId) -> Option<TopicFacts>;

    /// Everything the catalogue must say, by a host that knows all topics and lanes of the cluster; `None` by one that
    /// does not. A catalogue that is damaged is written anew from it.
    fn catalogue(&self) -> Option<CatalogueChange> {
        None
    }

    /// Is the bucket on this node's own disk, and that disk nearly full? Then what is forgotten goes sooner.
    fn is_pressed(&self) -> bool {
        false
    }

    /// Has the partition's topic been deleted?
    fn dropped(&self, partition: PartitionId) -> bool {
        self.topic(partition).is_none()
    }

    /// Where a partition that a bucket key names is.
    fn whereabouts(&self, partition: PartitionId) -> Whereabouts {
        match self.with_partition(partition, |_| ()) {
            Some(()) => Whereabouts::Here,
            None => Whereabouts::Elsewhere,
        }
    }

    /// A log start that was asked for by other means than retention (DeleteRecords); the manifest follows it.
    fn wanted_log_start(&self, _partition: PartitionId) -> Option<Offset> {
        None
    }

    /// Closed segments of the local log, ascending.
    fn closed_segments(&self, partition: PartitionId) -> Vec<LocalSegment>;

    /// Bytes of the partition from `from` on that are on this machine, for `retention.bytes`.
    fn bytes_after(&self, partition: PartitionId, from: Offset) -> u64;

    /// Reads whole batches from the one that holds `offsets.start` on, at least one and about `bytes_max`, none that
    /// begins at or beyond `offsets.end`. Nothing at the log's end.
    async fn read(
        &self,
        partition: PartitionId,
        offsets: OffsetRange,
        bytes_max: u64,
    ) -> Result<LocalRead, LocalReadError>;

    /// Aborted transactions whose marker lies in `offsets`.
    fn aborted(&self, _partition: PartitionId, _offsets: OffsetRange) -> Vec<AbortedTransaction> {
        Vec::new()
    }

    /// Proposes a command and waits until it is applied here.
    async fn propose(&self, command: Command) -> Result<(), ProposeError>;

    /// The dropped partition has nothing left in the bucket: its manifest may go from the lane's state.
    async fn partition_clean(&self, partition: PartitionId) -> Result<(), ProposeError>;
}
