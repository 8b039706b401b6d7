//! What is asked of the controller and what it answers, within a broker and between brokers.
//!
//! Owns: the words of a topic's creation and change, the requests and the reasons why one is refused. Does not own: who
//! answers. Every type is a *message*; those that brokers exchange go as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{
    LogIndex, NodeId, ProducerId, ReplicaIncarnation, ShardId, Term, TimestampMs, TopicId, TopicName,
};

use super::brokers::Registration;
use super::copies::TopicCopy;
use super::leaders::{LaneReport, LeaderReport};
use super::sources::{SourceId, SourceSpec};
use super::state::TopicRecord;
use crate::shard::mesh::Reply;

/// A topic to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    pub name: String,
    /// Partitions; `None` is `num.partitions`.
    pub partitions: Option<i32>,
    /// Replicas; -1 is the cluster's default: three, or as many as there are brokers.
    pub replication_factor: i16,
    /// Brokers per partition, if the client places them itself.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Settings; a `None` value asks for the default.
    pub configs: Vec<(String, Option<String>)>,
    pub validate_only: bool,
    /// Made by the broker for itself.
    pub internal: bool,
    /// It is made as a copy of an archived topic, with this base of its leader epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<(Box<TopicCopy>, i32)>,
}

/// One change of a topic's settings (KIP-339).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigOp {
    pub key: String,
    /// What to do with it.
    pub change: ConfigChange,
}

/// What to do with a setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigChange {
    Set(String),
    /// Back to the default.
    Delete,
    /// Add to a list.
    Append(String),
    /// Take from a list.
    Subtract(String),
}

/// Why a topic was not made, changed or deleted, or a broker not registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TopicError {
    /// There is one of that name.
    #[error("topic {0} already exists")]
    Exists(String),
    /// There is none of that name.
    #[error("topic {0} does not exist")]
    Unknown(String),
    /// There is none of that id.
    #[error("no topic has the id {0}")]
    UnknownId(TopicId),
    /// Not a legal name, or taken by the broker.
    #[error("{0}")]
    InvalidName(String),
    /// A number of partitions that cannot be.
    #[error("{0}")]
    InvalidPartitions(String),
    /// The cluster cannot give so many replicas.
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// A placement that no lane has.
    #[error("{0}")]
    InvalidAssignment(String),
    /// A setting that is unknown, malformed or refused.
    #[error("{0}")]
    InvalidConfig(String),
    /// A request that makes no sense.
    #[error("{0}")]
    InvalidRequest(String),
    /// It is a topic of another cluster, which this one only reads.
    #[error(
        "topic {topic} is followed from the source {source_name} and can only be read here; change it at its own cluster"
    )]
    Followed { topic: String, source_name: String },
    /// No answer came in time. The change may have been made, or be made later.
    #[error("the controller did not answer in time; the change may have been made, or be made later")]
    TimedOut,
    /// The controller is starting, stopping or cannot write: nothing was changed. Retry.
    #[error("the controller is not available")]
    Unavailable,
}

/// A request to the controller. A message; between brokers as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    Create {
        spec: TopicSpec,
        /// The id that the topic gets; chosen by the broker that was asked, so that a repeated request is recognised.
        id: Option<TopicId>,
    },
    Delete {
        name: TopicName,
        /// Delete only the topic with this id; `None`: the topic of that name.
        id: Option<TopicId>,
    },
    /// Raise the number of partitions.
    Partitions {
        topic: String,
        /// Partitions it shall have.
        total: i32,
        /// Brokers of each new partition, if the client places them itself; else empty.
        assignments: Vec<Vec<i32>>,
        validate_only: bool,
    },
    Configs {
        topic: String,
        /// Changes, all or none.
        ops: Vec<ConfigOp>,
        validate_only: bool,
    },
    /// A block of producer ids.
    ProducerIds,
    /// Term and end of the controller's log.
    Quorum,
    /// A broker joins, or is reached in another way.
    Register(Registration),
    /// Raise the replication factor of every lane that has a lower one.
    Widen { factor: u16 },
    /// Follow another cluster's bucket.
    Follow { id: SourceId, spec: SourceSpec },
    /// Follow a source no longer.
    Unfollow { id: SourceId },
    /// End the hold of retention after a restore.
    EndHold,
    /// A partition of a copy is complete.
    Copied { id: TopicId, partition: i32, at: TimestampMs },
}

/// The answer to an [`Ask`]. A message; between brokers as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answered {
    /// The change is in the state since this revision.
    Done {
        revision: u64,
    },
    /// The topic as it was made, or as it would be.
    Topic {
        record: TopicRecord,
        revision: u64,
    },
    ProducerIds {
        first: ProducerId,
        count: u32,
    },
    Quorum(Quorum),
    Registered(Registered),
    /// So many lanes get more replicas.
    Widening {
        lanes: usize,
        revision: u64,
    },
}

/// A broker is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub node: NodeId,
    pub incarnation: ReplicaIncarnation,
    pub revision: u64,
}

/// Why the controller's broker did not answer a request. Between brokers as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskError {
    /// It does not lead the controller's lane, or led it no longer when the change was written: ask again, there if it
    /// knows the leader.
    NotLeader(Option<NodeId>),
    /// It is not known whether the change was written: ask again.
    Unknown,
    /// The answer is final.
    Final(TopicError),
}

/// What crosses the mesh to the controller of this broker.
#[derive(Debug)]
pub enum ControllerRequest {
    /// Have it answered by the leader of the controller's lane, within this time.
    Ask { ask: Ask, patience: Duration, reply: Reply<Result<Answered, TopicError>> },
    /// Answer it here or not at all. `again`: an earlier try may have been carried out.
    Serve { ask: Ask, again: bool, reply: Reply<Result<Answered, AskError>> },
    /// The lanes of a shard of this broker; no answer.
    Lanes(ShardId, Vec<LaneReport>),
    /// The lanes of another broker; no answer.
    Leaders(LeaderReport),
    /// Answer when every shard of this broker shows an image of this revision, or is late.
    See { revision: u64, reply: Reply<()> },
}

/// Term and end of the controller's log. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quorum {
    /// The term of its leader.
    pub term: Term,
    /// The index after the last entry applied.
    pub end: LogIndex,
    /// The revision of the state there.
    pub revision: u64,
}

/// A request as it goes to another broker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PeerAsk {
    pub(super) ask: Ask,
    /// An earlier try may have been carried out.
    pub(super) again: bool,
}
