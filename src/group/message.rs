//! Requests to a group coordinator and its answers. All are *messages*: owned, `Send`.

use std::sync::Arc;

use bytes::Bytes;
use tidewater_storage::model::{Offset, TimestampMs};

use super::error::GroupError;
use super::ids::{GroupId, InstanceId, MemberId};
use super::state::{Join, Joined, Leave, StateName, Sync, Synced};
use crate::partition::message::PartitionAddress;
use crate::shard::mesh::Reply;

pub use super::offsets::{Commit, CommittedOffset};

/// A question to the coordinator of one partition of `__consumer_offsets`.
#[derive(Debug)]
pub struct GroupRequest {
    pub partition: PartitionAddress,
    pub ask: Ask,
}

/// Takes an answer that may be an error.
pub type Answer<T> = Reply<Result<T, GroupError>>;

#[derive(Debug)]
pub enum Ask {
    Join(GroupId, Box<Join>, Answer<Joined>),
    /// Sync with a group.
    Sync(GroupId, Box<Sync>, Answer<Synced>),
    Heartbeat(GroupId, Heartbeat, Answer<()>),
    /// Leave a group; one answer for each member.
    Leave(GroupId, Vec<Leave>, Answer<Vec<Result<(), GroupError>>>),
    /// Commit offsets; one answer for each, in order.
    Commit(GroupId, Box<CommitAsk>, Answer<Vec<Result<(), GroupError>>>),
    Fetch(GroupId, FetchAsk, Answer<Vec<FetchedOffset>>),
    /// All groups of this partition.
    List(Answer<Vec<ListedGroup>>),
    /// All groups of this partition with what they have committed.
    Progress(Answer<Vec<GroupProgress>>),
    /// One group in full.
    Describe(GroupId, Answer<DescribedGroup>),
    /// Delete a group without members.
    Delete(GroupId, Answer<()>),
    /// Delete offsets; one answer for each, in order.
    DeleteOffsets(GroupId, Vec<(String, i32)>, Answer<Vec<Result<(), GroupError>>>),
}

/// A sign of life.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub member: MemberId,
    pub instance: Option<InstanceId>,
    pub generation: i32,
}

#[derive(Clone, Debug)]
pub struct CommitAsk {
    /// `None` for an admin or a consumer that assigns partitions by itself.
    pub member: Option<MemberId>,
    pub instance: Option<InstanceId>,
    /// Of which generation; below 0 for none.
    pub generation: i32,
    /// How long to keep them, in ms; `None` is the broker's `offsets.retention.minutes`.
    pub retention_ms: Option<i64>,
    /// Topic, partition, what to commit (its time is set by the coordinator).
    pub offsets: Vec<(Arc<str>, i32, Commit)>,
}

impl Commit {
    /// An offset to be committed, without a time and a topic id yet.
    #[must_use]
    pub fn new(
        offset: impl Into<CommittedOffset>,
        leader_epoch: Option<tidewater_storage::model::LeaderEpoch>,
        metadata: &str,
    ) -> Self {
        let (offset, metadata) = (offset.into(), metadata.into());
        Self { offset, leader_epoch, metadata, at: TimestampMs::NONE, expires_at: None, topic: None }
    }
}

/// Which offsets; `None` is all there are.
pub type FetchAsk = Option<Vec<(String, Vec<i32>)>>;

/// A committed offset, or that there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    pub topic: Arc<str>,
    pub partition: i32,
    pub commit: Option<Commit>,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    pub id: GroupId,
    /// Its protocol type; empty for one that only stores offsets.
    pub protocol_type: String,
    pub state: StateName,
}

/// A group and its committed offsets, for metrics and the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupProgress {
    pub id: GroupId,
    pub state: StateName,
    pub members: usize,
    /// Topic, partition and the next offset to read, in order; negative commits are left out.
    pub offsets: Vec<(Arc<str>, i32, Offset)>,
}

/// A group in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedGroup {
    pub state: StateName,
    /// Its protocol type; empty for one that only stores offsets.
    pub protocol_type: String,
    /// The protocol chosen; empty unless stable.
    pub protocol: String,
    pub members: Vec<DescribedMember>,
}

/// A member in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    pub id: MemberId,
    pub instance: Option<InstanceId>,
    /// As its client names itself.
    pub client_id: String,
    /// Where it connects from.
    pub client_host: String,
    /// Metadata for the protocol; empty unless stable.
    pub metadata: Bytes,
    /// Its share; empty unless stable.
    pub assignment: Bytes,
}

impl Ask {
    /// The group of the request; `None` for a list.
    pub(super) fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Join(group, ..)
            | Self::Sync(group, ..)
            | Self::Heartbeat(group, ..)
            | Self::Leave(group, ..)
            | Self::Commit(group, ..)
            | Self::Fetch(group, ..)
            | Self::Describe(group, ..)
            | Self::Delete(group, ..)
            | Self::DeleteOffsets(group, ..) => Some(group),
            Self::List(_) | Self::Progress(_) => None,
        }
    }

    /// Answers any request with an error.
    pub(super) fn refuse(self, error: GroupError) {
        match self {
            Self::Join(_, _, reply) => reply.send(Err(error)),
            Self::Sync(_, _, reply) => reply.send(Err(error)),
            Self::Heartbeat(_, _, reply) | Self::Delete(_, reply) => reply.send(Err(error)),
            Self::Leave(_, _, reply) | Self::Commit(_, _, reply) | Self::DeleteOffsets(_, _, reply) => {
                reply.send(Err(error));
            }
            Self::Fetch(_, _, reply) => reply.send(Err(error)),
            Self::List(reply) => reply.send(Err(error)),
            Self::Progress(reply) => reply.send(Err(error)),
            Self::Describe(_, reply) => reply.send(Err(error)),
        }
    }
}
