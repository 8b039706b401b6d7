//! The messages between replicas of a lane, and openraft's network over a transport.
//!
//! Owns: the messages, in our types, so that the transport between brokers knows nothing of openraft; the deadline of
//! a call. Does not own: connections. A lane of a single voter has no transport. Requests to one replica are sent one
//! after the other; a transport over a real round trip needs a pipelined append.
//!
//! Affinity: messages are owned and `Send`; the transport is shard-local.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft_rt::AsyncRuntime as _;
use tidewater_storage::journal::JournalEntry;
use tidewater_storage::model::{EntryId, LaneId, NodeId, Term};

use super::codec::{self, CodecError};
use super::runtime::ShardRuntime;
use super::type_config::{CommittedLeader, LeaderId, Types, Vote, entry_id, log_id, node_id, raft_node};

pub mod in_process;

/// A vote: the candidate or leader of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerVote {
    pub term: Term,
    /// The candidate or leader.
    pub node: NodeId,
    /// Granted by a quorum?
    pub committed: bool,
}

/// A request to another replica of a lane.
#[derive(Clone, Debug)]
pub enum PeerRequest {
    /// Store these entries after `previous`; without entries, a heartbeat.
    Append {
        vote: PeerVote,
        /// What must be there before.
        previous: Option<EntryId>,
        /// In order, without holes.
        entries: Vec<JournalEntry>,
        /// What the leader knows committed.
        committed: Option<EntryId>,
    },
    Vote {
        vote: PeerVote,
        last: Option<EntryId>,
        /// The leader asked for this election: voters ignore its lease.
        transfer: bool,
    },
    /// Would you vote for me?
    PreVote { vote: PeerVote, last: Option<EntryId> },
    /// Take over this state.
    Snapshot {
        vote: PeerVote,
        /// The last entry it covers.
        at: EntryId,
        /// The membership as of then, in this layer's encoding.
        membership: Bytes,
        /// The layer above's state.
        state: Bytes,
    },
    /// Start an election now.
    Transfer {
        from: PeerVote,
        /// The replica that starts the election.
        to: NodeId,
        /// What it must have flushed.
        last: Option<EntryId>,
    },
}

/// The answer to an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendReply {
    Stored,
    /// Stored up to here only.
    StoredUpTo(Option<EntryId>),
    /// `previous` is not there.
    Conflict,
    /// A higher vote was seen.
    HigherVote(PeerVote),
}

/// The answer to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferReply {
    Accepted,
    /// Its vote is another.
    VoteChanged {
        actual: PeerVote,
    },
    /// It has not flushed that far.
    NotFlushed {
        /// What it has flushed.
        actual: Option<EntryId>,
    },
}

/// The answer to a [`PeerRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerReply {
    Append(AppendReply),
    /// To a vote or a pre-vote.
    Vote {
        vote: PeerVote,
        granted: bool,
        /// The voter's last entry.
        last: Option<EntryId>,
    },
    /// To a snapshot: installed, or a higher vote seen.
    Snapshot {
        vote: PeerVote,
    },
    Transfer(TransferReply),
}

/// Why a call to a replica gave no answer. Retried by openraft with a backoff.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No way there, or no answer in time.
    #[error("replica {node} of lane {lane} cannot be reached")]
    Unreachable { node: NodeId, lane: LaneId },
    /// The replica's group is not running.
    #[error("lane {lane} does not run on node {node}")]
    NotRunning { node: NodeId, lane: LaneId },
    /// It answered something else than was asked, or bytes that cannot be read.
    #[error("replica {node} of lane {lane} sent a reply that does not fit the request")]
    Nonsense { node: NodeId, lane: LaneId },
}

/// An answer under way.
pub type Calling = Pin<Box<dyn Future<Output = Result<PeerReply, PeerError>>>>;

/// Carries requests to other replicas. Shard-local; the other side calls [`super::Lane::handle`].
pub trait PeerTransport {
    /// Sends a request and gives its answer. May be dropped at any time.
    fn call(&self, lane: LaneId, to: NodeId, request: PeerRequest) -> Calling;
}

impl PeerRequest {
    /// Rejects what would end this replica's group once openraft has it: a term that no vote can be saved with, entries
    /// that leave a hole in the log.
    pub(crate) fn check(&self) -> Result<(), CodecError> {
        let vote = match self {
            Self::Append { vote, .. } | Self::Vote { vote, .. } | Self::PreVote { vote, .. } => vote,
            Self::Snapshot { vote, .. } | Self::Transfer { from: vote, .. } => vote,
        };
        if vote.term.0 > codec::TERM_MAX {
            return Err(CodecError::Term(vote.term.0));
        }
        if let Self::Append { previous, entries, .. } = self {
            let mut before = *previous;
            for entry in entries {
                let continues = match before {
                    Some(before) => before.index.next() == entry.id.index && before.term <= entry.id.term,
                    None => entry.id.index.0 == 0,
                };
                if !continues || entry.id.term > vote.term {
                    return Err(CodecError::Hole { before, found: entry.id });
                }
                before = Some(entry.id);
            }
        }
        Ok(())
    }
}

pub(crate) fn vote_out(vote: &Vote) -> PeerVote {
    PeerVote { term: Term(vote.leader_id.term), node: node_id(vote.leader_id.voted_for), committed: vote.committed }
}

pub(crate) fn vote_in(vote: PeerVote) -> Vote {
    let leader_id = LeaderId { term: vote.term.0, voted_for: raft_node(vote.node) };
    Vote { leader_id, committed: vote.committed }
}

pub(crate) fn append_in(
    vote: PeerVote,
    previous: Option<EntryId>,
    entries: Vec<JournalEntry>,
    committed: Option<EntryId>,
) -> Result<AppendEntriesRequest<Types>, CodecError> {
    Ok(AppendEntriesRequest {
        vote: vote_in(vote),
        prev_log_id: previous.map(log_id),
        entries: entries.into_iter().map(codec::from_lane_entry).collect::<Result<_, _>>()?,
        leader_commit: committed.map(log_id),
    })
}

pub(crate) fn append_out(reply: AppendEntriesResponse<Types>) -> PeerReply {
    PeerReply::Append(match reply {
        AppendEntriesResponse::Success => AppendReply::Stored,
        AppendEntriesResponse::PartialSuccess(upto) => AppendReply::StoredUpTo(upto.as_ref().map(entry_id)),
        AppendEntriesResponse::Conflict => AppendReply::Conflict,
        AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote(vote_out(&vote)),
    })
}

pub(crate) fn vote_reply_out(reply: &VoteResponse<Types>) -> PeerReply {
    PeerReply::Vote {
        vote: vote_out(&reply.vote),
        granted: reply.vote_granted,
        last: reply.last_log_id.as_ref().map(entry_id),
    }
}

pub(crate) fn transfer_out(reply: TransferLeaderResponse<Types>) -> PeerReply {
    PeerReply::Transfer(match reply {
        Ok(()) => TransferReply::Accepted,
        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
            TransferReply::VoteChanged { actual: vote_out(&actual) }
        }
        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
            TransferReply::NotFlushed { actual: actual.as_ref().map(entry_id) }
        }
    })
}

/// Connects to each replica.
pub(crate) struct Network {
    lane: LaneId,
    transport: Option<Rc<dyn PeerTransport>>,
}

impl Network {
    pub(crate) fn new(lane: LaneId, transport: Option<Rc<dyn PeerTransport>>) -> Self {
        Self { lane, transport }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, (): &()) -> Peer {
        Peer { lane: self.lane, node: node_id(target), transport: self.transport.clone() }
    }
}

/// The connection to one replica.
pub(crate) struct Peer {
    lane: LaneId,
    node: NodeId,
    transport: Option<Rc<dyn PeerTransport>>,
}

impl Peer {
    fn unreachable(&self) -> PeerError {
        PeerError::Unreachable { node: self.node, lane: self.lane }
    }

    fn nonsense(&self) -> RPCError<Types> {
        RPCError::Unreachable(Unreachable::new(&PeerError::Nonsense { node: self.node, lane: self.lane }))
    }

    async fn call(&self, request: PeerRequest, option: &RPCOption) -> Result<PeerReply, RPCError<Types>> {
        let reply = match &self.transport {
            None => Err(self.unreachable()),
            Some(transport) => {
                let calling = transport.call(self.lane, self.node, request);
                match ShardRuntime::timeout(option.hard_ttl(), calling).await {
                    Ok(reply) => reply,
                    Err(_) => Err(self.unreachable()),
                }
            }
        };
        reply.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    async fn ask_vote(&self, request: PeerRequest, option: &RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(request, option).await? {
            PeerReply::Vote { vote, granted, last } => {
                Ok(VoteResponse { vote: vote_in(vote), vote_granted: granted, last_log_id: last.map(log_id) })
            }
            _ => Err(self.nonsense()),
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let request = PeerRequest::Append {
            vote: vote_out(&rpc.vote),
            previous: rpc.prev_log_id.as_ref().map(entry_id),
            entries: rpc.entries.into_iter().map(codec::to_lane_entry).collect(),
            committed: rpc.leader_commit.as_ref().map(entry_id),
        };
        match self.call(request, &option).await? {
            PeerReply::Append(reply) => Ok(match reply {
                AppendReply::Stored => AppendEntriesResponse::Success,
                AppendReply::StoredUpTo(upto) => AppendEntriesResponse::PartialSuccess(upto.map(log_id)),
                AppendReply::Conflict => AppendEntriesResponse::Conflict,
                AppendReply::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_in(vote)),
            }),
            _ => Err(self.nonsense()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let last = rpc.last_log_id.as_ref().map(entry_id);
        let request = PeerRequest::Vote { vote: vote_out(&rpc.vote), last, transfer: rpc.leadership_transfer };
        self.ask_vote(request, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let last = rpc.last_log_id.as_ref().map(entry_id);
        self.ask_vote(PeerRequest::PreVote { vote: vote_out(&rpc.vote), last }, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeader, u64, (), Bytes>,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Some(at) = snapshot.meta.last_log_id.as_ref().map(entry_id) else {
            return Err(StreamingError::from(self.nonsense()));
        };
        let request = PeerRequest::Snapshot {
            vote: vote_out(&vote),
            at,
            membership: codec::encode_stored(&snapshot.meta.last_membership),
            state: snapshot.snapshot,
        };
        let (call, cancel) = (std::pin::pin!(self.call(request, &option)), std::pin::pin!(cancel));
        match futures::future::select(call, cancel).await {
            futures::future::Either::Left((Ok(PeerReply::Snapshot { vote }), _)) => {
                Ok(SnapshotResponse::new(vote_in(vote)))
            }
            futures::future::Either::Left((Ok(_), _)) => Err(StreamingError::from(self.nonsense())),
            futures::future::Either::Left((Err(error), _)) => Err(StreamingError::from(error)),
            futures::future::Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let last = req.last_log_id().map(entry_id);
        let from = vote_out(req.from_leader());
        let request = PeerRequest::Transfer { from, to: node_id(*req.to_node_id()), last };
        match self.call(request, &option).await? {
            PeerReply::Transfer(TransferReply::Accepted) => Ok(Ok(())),
            PeerReply::Transfer(TransferReply::VoteChanged { actual }) => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: *req.from_leader(), actual: vote_in(actual) }))
            }
            PeerReply::Transfer(TransferReply::NotFlushed { actual }) => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: last.map(log_id), actual: actual.map(log_id) }))
            }
            _ => Err(self.nonsense()),
        }
    }
}
