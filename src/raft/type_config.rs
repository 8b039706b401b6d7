//! openraft's types as this broker fills them, and the way between them and ours.
//!
//! Owns: the one implementation of `RaftTypeConfig` and the aliases; no other file outside this folder names them.
//! The leader id is the standard one, at most one leader per term, because the term is what Kafka sees as leader epoch.
//! A node id is [`ReplicaId::to_u64`]; a node carries no data, its address is the cluster's business.

use std::fmt;

use openraft::RaftTypeConfig;
use openraft::impls::{BoxedErrorSource, InlineBatch, leader_id_std};
use openraft::vote::RaftLeaderId;
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LogIndex, ReplicaId, Term};

use super::proposal::{Answer, Responder};
use super::runtime::ShardRuntime;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = Proposed;
    type R = Answer;
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Proposed, u64, ()>;
    type Entry = openraft::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = ShardRuntime;
    type Responder<T>
        = Responder<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

pub(crate) type LeaderId = <Types as RaftTypeConfig>::LeaderId;
pub(crate) type CommittedLeader = <LeaderId as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<CommittedLeader>;
pub(crate) type Vote = <Types as RaftTypeConfig>::Vote;
pub(crate) type Entry = <Types as RaftTypeConfig>::Entry;
pub(crate) type EntryPayload = <Types as RaftTypeConfig>::Payload;
pub(crate) type Membership = openraft::Membership<u64, ()>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeader, u64, ()>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, u64, ()>;
pub(crate) type WriteResult = openraft::raft::ClientWriteResult<Types>;

/// What a layer above proposes: its payload, untouched. Prints a summary, never the bytes.
#[derive(Clone)]
pub(crate) struct Proposed(pub(crate) Payload);

impl fmt::Display for Proposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of meta, {} blobs", self.0.meta.len(), self.0.blobs.len())
    }
}

impl fmt::Debug for Proposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Our entry id as openraft's.
pub(crate) fn log_id(id: EntryId) -> LogId {
    LogId::new(CommittedLeader::new(id.term.0), id.index.0)
}

/// openraft's log id as ours.
pub(crate) fn entry_id(id: &LogId) -> EntryId {
    EntryId { term: Term(id.leader_id.term), index: LogIndex(id.index) }
}

/// openraft's node id as ours. Ids come from our own log and from requests that were checked.
pub(crate) fn replica_id(node: u64) -> ReplicaId {
    ReplicaId::from_u64(node).expect("ids of replicas are checked where they are decoded")
}
