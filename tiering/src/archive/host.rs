//! What the archiver needs of the lane it archives: the seam that the broker implements over its Raft group and logs.
//!
//! Owns: three traits and their words: the lane's replicated state and what the node knows of its topics
//! ([`LaneState`]), its local logs ([`LocalLog`]), proposing ([`Propose`]). Does not own: any behaviour. Shard-local.
//!
//! **State**: [`LaneState::with_lane`] and [`LaneState::with_partition`] show *applied* replicated state of this
//! replica; a partition stays visible after its topic was deleted until [`Propose::partition_clean`] was called for it.
//! **Ordering**: [`Propose::propose`] returns when the command is applied here, so the state shown next has it.
//! **Unknown outcomes**: [`ProposeError::Unknown`] means it may be applied later; the archiver then ends and is started
//! again by the host once the lane has settled. **Cancellation**: any future may be dropped at any await; all that
//! counts is in the bucket and in replicated state.

use bytes::Bytes;
use tidewater_storage::model::{LaneId, LogIndex, Offset, OffsetRange, PartitionId, RunSum, Term};

use super::plan::Unarchived;
use crate::bucket::CatalogueChange;
use crate::format::{AbortedTransaction, LaneEvent};
use crate::keys::LineageEpoch;
use crate::manifest::{CatalogueTopic, Command, LaneManifest, LogFacts, PartitionManifest};
use crate::retention::RetentionPolicy;

/// Batches of one partition as they lie in its local log. *Message*.
#[derive(Clone, Debug, Default)]
pub struct LocalRead {
    /// Whole batches, back to back in each piece.
    pub batches: Vec<Bytes>,
    /// Sums taken when the batches were applied, of runs that begin and end in this read; each is checked.
    pub sums: Vec<RunSum>,
}

/// Why the local log did not give batches.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocalReadError {
    /// Bytes that do not match their sums: the range is quarantined.
    #[error("local log is corrupt at offsets {offsets}: {reason}")]
    Corrupt { offsets: OffsetRange, reason: String },
    /// Already trimmed.
    #[error("local log begins at {start}")]
    BelowStart { start: Offset },
    /// The disk failed or the partition is closing; the read may work later.
    #[error("local log is not readable now: {reason}")]
    Unavailable { reason: String },
}

/// A closed segment of the local log. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSegment {
    pub offsets: OffsetRange,
    pub bytes: u64,
}

/// What the tier must know of a topic. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// Its entry in the catalogue: all its partitions with their lanes, and the settings that users set.
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
    Unknown { reason: String },
}

/// Which lane carries a partition, as far as this node knows the cluster. *Message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// This lane carries it (or still has it to clean up).
    Here,
    /// Another lane does, or this node does not know: hands off.
    Elsewhere,
    /// It is gone from the cluster's state for good; all objects of it in the bucket are garbage.
    Nowhere,
}

/// The archiver's two loops: each waits for changes of the lane by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    Bundles,
    Housekeeping,
}

/// A lane as the archiver sees it. Implemented by the broker on the shard that owns the lane. *Shard-local*.
pub trait LaneHost: LaneState + LocalLog + Propose + 'static {}

impl<T: LaneState + LocalLog + Propose + 'static> LaneHost for T {}

/// The lane's applied state, and what the node knows of its topics.
#[allow(async_fn_in_trait, reason = "shard-local: the futures need not be Send")]
pub trait LaneState {
    fn lane(&self) -> LaneId;

    /// The term in which this replica leads *and* has applied an entry; `None` otherwise.
    fn leading(&self) -> Option<Term>;

    /// The last log index applied here.
    fn applied(&self) -> LogIndex;

    /// Shows the lane's manifest.
    fn with_lane<R>(&self, look: impl FnOnce(&LaneManifest) -> R) -> R;

    /// Shows a partition's manifest; `None` if the lane does not carry it.
    fn with_partition<R>(&self, partition: PartitionId, look: impl FnOnce(&PartitionManifest) -> R) -> Option<R>;

    /// Shows the lane's manifest with all of [`LaneState::partitions`], sorted by id, as of one log index.
    fn with_manifests<R>(&self, look: impl FnOnce(&LaneManifest, &[&PartitionManifest]) -> R) -> R;

    /// All partitions of the lane that are archived, dropped ones that are not clean yet included.
    fn partitions(&self) -> Vec<PartitionId>;

    /// Dropped partitions that are not clean yet.
    fn dropped_partitions(&self) -> Vec<PartitionId> {
        self.partitions().into_iter().filter(|partition| self.dropped(*partition)).collect()
    }

    /// Has the partition's topic been deleted?
    fn dropped(&self, partition: PartitionId) -> bool;

    /// Partitions to which something happened since the last call: batches, commands, settings, a closed segment.
    /// `None`: the host does not know, all are looked at. Partitions whose topics are not archived may be among them.
    fn changed_partitions(&self) -> Option<Vec<PartitionId>> {
        None
    }

    /// Does [`LaneState::changed`] ever return? If not, the archiver looks again after its ticks.
    fn notifies(&self) -> bool {
        false
    }

    /// Waits until something happened to the lane since this loop's last wait. Cheap to drop.
    async fn changed(&self, _who: Loop) {
        std::future::pending().await
    }

    /// What happened to the lane's partitions after log index `after`, oldest first, up to the applied index. Readers
    /// take an event twice without harm.
    fn events(&self, after: LogIndex) -> Vec<LaneEvent>;

    /// Does [`LaneState::events`] have any?
    fn has_events(&self, after: LogIndex) -> bool {
        !self.events(after).is_empty()
    }

    /// The partition's leader epochs and idempotent producers as applied, for a publication; empty once the topic is
    /// deleted.
    fn log_facts(&self, partition: PartitionId) -> LogFacts;

    /// Facts of the partition's topic; `None` once the topic is deleted, and as long as this node does not know it.
    fn topic(&self, partition: PartitionId) -> Option<TopicFacts>;

    /// How long the partition's records are kept; `None` once the topic is deleted.
    fn retention(&self, partition: PartitionId) -> Option<RetentionPolicy> {
        self.topic(partition).map(|facts| facts.retention)
    }

    /// A log start that was asked for by other means than retention (DeleteRecords); the manifest follows it.
    fn wanted_log_start(&self, _partition: PartitionId) -> Option<Offset> {
        None
    }

    /// Everything the catalogue must say, by a host that knows all topics and lanes of the cluster; `None` by one that
    /// does not. A catalogue that is damaged is written again from it.
    fn catalogue(&self) -> Option<CatalogueChange> {
        None
    }

    /// Which lane carries a partition that a bucket key names.
    fn whereabouts(&self, partition: PartitionId) -> Whereabouts {
        match self.with_partition(partition, |_| ()) {
            Some(()) => Whereabouts::Here,
            None => Whereabouts::Elsewhere,
        }
    }

    /// A seal or a closed lane manifest shows that the lane goes on in a later epoch (R6): what this node acknowledges
    /// from now on is in no cluster that lives on.
    fn superseded(&self, _next: LineageEpoch) {}

    /// Is the local disk filling up? Then bundles are made as soon as there is enough for one: local bytes go only when
    /// they are archived.
    fn is_disk_filling(&self) -> bool {
        false
    }

    /// Is the bucket on this node's own disk, and that disk nearly full? Then forgotten objects are deleted sooner.
    fn is_short_of_space(&self) -> bool {
        false
    }
}

/// The local logs of the lane's partitions.
#[allow(async_fn_in_trait, reason = "shard-local: the futures need not be Send")]
pub trait LocalLog {
    /// Partitions that hold something new: from their archived end to the lower of high watermark and last stable
    /// offset. Partitions whose topics are not archived are left out.
    fn unarchived(&self) -> Vec<Unarchived>;

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
}

/// Changing the lane's state.
#[allow(async_fn_in_trait, reason = "shard-local: the futures need not be Send")]
pub trait Propose {
    /// Proposes a command and waits until it is applied here.
    async fn propose(&self, command: Command) -> Result<(), ProposeError>;

    /// Returns once it is certain that this replica led the lane after the call began, and that it has applied all that
    /// was committed then. A leader that was cut off from its peers waits here, or learns that it leads no more.
    /// Without another way it commits an entry that changes nothing.
    async fn confirm(&self) -> Result<(), ProposeError> {
        self.propose(Command::Forgotten { objects: Vec::new() }).await
    }

    /// Returns once this node knows every topic that the cluster had when the call began. Objects of partitions that it
    /// takes for [`Whereabouts::Nowhere`] are deleted only after that.
    async fn confirm_topics(&self) -> Result<(), ProposeError> {
        Ok(())
    }

    /// The dropped partition has nothing left in the bucket: its manifest may go from the lane's state.
    async fn partition_clean(&self, partition: PartitionId) -> Result<(), ProposeError>;
}
