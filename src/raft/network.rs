//! The messages between replicas of a lane, and openraft's network over a transport.
//!
//! Owns: the messages, in our types, so that the transport between brokers knows nothing of openraft; the deadline of
//! a call; what is refused before openraft has it. Does not own: connections. A lane of a single replica needs no
//! transport. Requests to one replica are sent one after the other.
//!
//! openraft's snapshots are not used: no state travels in them. Where openraft would send one, because the entries that
//! a replica needs are purged, [`PeerRequest::Rebuild`] asks whether the replica holds everything up to the purged
//! entry. If it does, the log continues from there; if not, it has to be rebuilt, and both sides say so
//! ([`super::Lane::needs_rebuild`]).
//!
//! Affinity: messages are owned and `Send`; the transport is shard-local.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft_rt::AsyncRuntime as _;
use tidewater_storage::journal::JournalEntry;
use tidewater_storage::journal::format::entry_record_len;
use tidewater_storage::model::{EntryId, LaneId, ReplicaId, Term};

use super::codec::{self, CodecError};
use super::leadership::Standing;
use super::runtime::{ShardRuntime, time};
use super::settings::LEASE;
use super::type_config::{CommittedLeader, LeaderId, Types, Vote, entry_id, log_id, replica_id};

pub mod in_process;

/// A follower's disk may take long over entries.
const APPEND_ANSWER_IN: Duration = Duration::from_secs(3);
/// The answer to a heartbeat proves that the follower followed when it was sent: that is of use for as long as a lease.
/// openraft's own time for it is the interval of heartbeats; brokers that need longer for a round trip, because they
/// are far apart or busy, would never prove that they lead, while their followers hear them and elect no other.
const HEARTBEAT_ANSWER_IN: Duration = LEASE;
/// A vote is answered once it is on the voter's disk, which may have much to do. openraft's own time for it is the
/// shortest election timeout.
const VOTE_ANSWER_IN: Duration = Duration::from_secs(4);
/// Entries of one request: a leader sends at most [`super::PROPOSALS_MAX`].
const ENTRIES_MAX: usize = 4096;
/// An index that no log reaches; indexes beyond it could overflow.
const INDEX_MAX: u64 = 1 << 60;

/// A vote: the candidate or leader of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerVote {
    pub term: Term,
    /// The candidate or leader.
    pub replica: ReplicaId,
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
    /// Do you hold everything up to `at`, the last entry that the leader has purged? Answered like an append:
    /// `Conflict` means no, and that the replica has to be rebuilt.
    Rebuild { vote: PeerVote, at: EntryId },
    /// Start an election now.
    Transfer {
        from: PeerVote,
        /// The replica that starts the election.
        to: ReplicaId,
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
    /// To an append or a rebuild.
    Append(AppendReply),
    /// To a vote or a pre-vote.
    Vote {
        vote: PeerVote,
        granted: bool,
        /// The voter's last entry.
        last: Option<EntryId>,
    },
    Transfer(TransferReply),
}

/// Why a call to a replica gave no answer. Retried by openraft with a backoff.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No way there, or no answer in time.
    #[error("replica {replica} of lane {lane} cannot be reached")]
    Unreachable { replica: ReplicaId, lane: LaneId },
    /// The replica's group is not running.
    #[error("replica {replica} of lane {lane} does not run on its broker")]
    NotRunning { replica: ReplicaId, lane: LaneId },
    /// The request is for or from a replica of another incarnation: one that was replaced, or one that is not known
    /// yet.
    #[error("lane {lane} is asked for replica {asked}, and has replica {found} of that broker")]
    OtherIncarnation { lane: LaneId, asked: ReplicaId, found: ReplicaId },
    /// It answered something else than was asked, or a request was refused that no replica sends.
    #[error("replica {replica} of lane {lane} sent a request or a reply that cannot be one of this lane")]
    Nonsense { replica: ReplicaId, lane: LaneId },
}

/// An answer under way.
pub type Calling = Pin<Box<dyn Future<Output = Result<PeerReply, PeerError>>>>;

/// Carries requests to other replicas. Shard-local; the other side calls [`super::Lane::handle`].
pub trait PeerTransport {
    /// Sends a request of the replica `from`, which runs here, and gives its answer. May be dropped at any time.
    fn call(&self, lane: LaneId, to: ReplicaId, from: ReplicaId, request: PeerRequest) -> Calling;
}

/// What a replica knows about itself when a request arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Receiver {
    pub(crate) committed: Option<EntryId>,
    /// The largest record of an entry that its journal takes. Bytes.
    pub(crate) entry_bytes_max: u64,
}

impl PeerRequest {
    fn vote(&self) -> PeerVote {
        match self {
            Self::Append { vote, .. }
            | Self::Vote { vote, .. }
            | Self::PreVote { vote, .. }
            | Self::Rebuild { vote, .. }
            | Self::Transfer { from: vote, .. } => *vote,
        }
    }

    /// Bytes of batches and archive commands that it brings; 0 for a heartbeat, a vote, and entries that only change or
    /// free something.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        let Self::Append { entries, .. } = self else { return 0 };
        entries.iter().flat_map(|entry| &entry.payload.blobs).map(|blob| blob.len() as u64).sum()
    }

    /// Rejects what no replica sends, and what would end this replica's group once openraft has it: a term that no vote
    /// can be saved with, entries that leave a hole, contradict what is committed here or do not fit in the journal.
    pub(crate) fn check(&self, from: ReplicaId, here: Receiver) -> Result<(), CodecError> {
        let vote = self.vote();
        if vote.term.0 > codec::TERM_MAX {
            return Err(CodecError::Term(vote.term.0));
        }
        if vote.replica != from {
            return Err(CodecError::Peer("it is in another replica's name"));
        }
        let asks_for_a_vote = matches!(self, Self::Vote { .. } | Self::PreVote { .. });
        if vote.committed == asks_for_a_vote {
            return Err(CodecError::Peer("it is not from a leader, or a candidate claims to lead"));
        }
        let plausible = |id: &EntryId| id.term <= vote.term && id.index.0 <= INDEX_MAX;
        // An entry at or before the last committed one has at most its term.
        let agrees = |id: &EntryId| here.committed.is_none_or(|own| id.index > own.index || id.term <= own.term);
        let named = match self {
            Self::Append { previous, committed, .. } => [*previous, *committed],
            Self::Vote { last, .. } | Self::PreVote { last, .. } | Self::Transfer { last, .. } => [*last, None],
            Self::Rebuild { at, .. } => [Some(*at), None],
        };
        if !named.iter().flatten().all(plausible) {
            return Err(CodecError::Peer("it names an entry that cannot be in its sender's log"));
        }
        match self {
            Self::Append { previous, entries, .. } => {
                if !previous.iter().all(agrees) {
                    return Err(CodecError::Peer("it contradicts a committed entry"));
                }
                check_entries(*previous, entries, vote.term, here.entry_bytes_max)?;
                if !entries.iter().all(|entry| agrees(&entry.id)) {
                    return Err(CodecError::Peer("it contradicts a committed entry"));
                }
            }
            Self::Rebuild { at, .. } if !agrees(at) => {
                return Err(CodecError::Peer("it contradicts a committed entry"));
            }
            // Every voter hears of a transfer: those that are not to lead only forget the leader's lease.
            Self::Rebuild { .. } | Self::Transfer { .. } | Self::Vote { .. } | Self::PreVote { .. } => {}
        }
        Ok(())
    }
}

fn check_entries(
    previous: Option<EntryId>,
    entries: &[JournalEntry],
    term: Term,
    entry_bytes_max: u64,
) -> Result<(), CodecError> {
    if entries.len() > ENTRIES_MAX {
        return Err(CodecError::Peer("it has more entries than a leader sends"));
    }
    let mut before = previous;
    for entry in entries {
        let continues = match before {
            Some(before) => before.index.next() == entry.id.index && before.term <= entry.id.term,
            None => entry.id.index.0 == 0,
        };
        if !continues || entry.id.term > term {
            return Err(CodecError::Hole { before, found: entry.id });
        }
        if entry_record_len(&entry.payload) as u64 > entry_bytes_max {
            return Err(CodecError::Peer("an entry is larger than this journal takes"));
        }
        before = Some(entry.id);
    }
    Ok(())
}

pub(crate) fn vote_out(vote: &Vote) -> PeerVote {
    PeerVote {
        term: Term(vote.leader_id.term),
        replica: replica_id(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

pub(crate) fn vote_in(vote: PeerVote) -> Vote {
    let leader_id = LeaderId { term: vote.term.0, voted_for: vote.replica.to_u64() };
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
        entries: entries.into_iter().map(codec::from_peer).collect::<Result<_, _>>()?,
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
    standing: Rc<Standing>,
    transport: Option<Rc<dyn PeerTransport>>,
}

impl Network {
    pub(crate) fn new(standing: Rc<Standing>, transport: Option<Rc<dyn PeerTransport>>) -> Self {
        Self { standing, transport }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, (): &()) -> Peer {
        Peer {
            standing: self.standing.clone(),
            replica: replica_id(target),
            transport: self.transport.clone(),
            stored: None,
            forgot: false,
        }
    }
}

/// The connection to one replica.
pub(crate) struct Peer {
    standing: Rc<Standing>,
    replica: ReplicaId,
    transport: Option<Rc<dyn PeerTransport>>,
    /// What it acknowledged over this connection.
    stored: Option<EntryId>,
    /// It denied what it had acknowledged, which was logged.
    forgot: bool,
}

impl Peer {
    /// The answer to an append for openraft, which takes it on trust: it would end this broker over a follower that
    /// acknowledges what it was not sent, or denies what it acknowledged.
    fn appended(
        &mut self,
        previous: Option<EntryId>,
        last: Option<EntryId>,
        reply: AppendReply,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let heartbeat = last == previous;
        match reply {
            AppendReply::Stored => {
                self.stored = self.stored.max(last);
                Ok(AppendEntriesResponse::Success)
            }
            AppendReply::StoredUpTo(upto) if upto < previous || upto > last => Err(self.nonsense()),
            AppendReply::StoredUpTo(upto) => {
                self.stored = self.stored.max(upto);
                Ok(AppendEntriesResponse::PartialSuccess(upto.map(log_id)))
            }
            // A heartbeat names an entry that the follower has acknowledged to this leader.
            AppendReply::Conflict if heartbeat || previous <= self.stored => {
                if !std::mem::replace(&mut self.forgot, true) {
                    let (lane, replica) = (self.standing.lane(), self.replica);
                    tracing::error!(%lane, %replica, ?previous, "a replica denies an entry that it acknowledged: it runs on an old or foreign data directory; empty it and start the broker with --replace");
                }
                Err(self.nonsense())
            }
            AppendReply::Conflict => Ok(AppendEntriesResponse::Conflict),
            AppendReply::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote_in(vote))),
        }
    }

    fn unreachable(&self) -> PeerError {
        PeerError::Unreachable { replica: self.replica, lane: self.standing.lane() }
    }

    fn nonsense(&self) -> RPCError<Types> {
        let error = PeerError::Nonsense { replica: self.replica, lane: self.standing.lane() };
        RPCError::Unreachable(Unreachable::new(&error))
    }

    async fn call(&self, request: PeerRequest, within: Duration) -> Result<PeerReply, RPCError<Types>> {
        let reply = match &self.transport {
            None => Err(self.unreachable()),
            Some(transport) => {
                let calling = transport.call(self.standing.lane(), self.replica, self.standing.me(), request);
                match ShardRuntime::timeout(within, calling).await {
                    Ok(reply) => reply,
                    Err(_) => Err(self.unreachable()),
                }
            }
        };
        // Ids of replicas in a reply are typed; its terms and indexes go on to openraft, which compares them.
        let reply = reply.and_then(|reply| if reply.is_plausible() { Ok(reply) } else { Err(self.unreachable()) });
        reply.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    async fn ask_vote(&self, request: PeerRequest, within: Duration) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(request, within).await? {
            PeerReply::Vote { vote, granted, last } => {
                Ok(VoteResponse { vote: vote_in(vote), vote_granted: granted, last_log_id: last.map(log_id) })
            }
            _ => Err(self.nonsense()),
        }
    }

    /// Does the replica hold everything up to `at`? If it answers no, it has to be rebuilt.
    async fn ask_rebuild(
        &self,
        vote: Vote,
        at: EntryId,
        option: &RPCOption,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let request = PeerRequest::Rebuild { vote: vote_out(&vote), at };
        match self.call(request, option.hard_ttl()).await? {
            PeerReply::Append(AppendReply::Stored) => {
                self.standing.rebuilt(self.replica);
                Ok(SnapshotResponse::new(vote))
            }
            PeerReply::Append(AppendReply::HigherVote(higher)) => Ok(SnapshotResponse::new(vote_in(higher))),
            PeerReply::Append(AppendReply::Conflict) => {
                self.standing.must_rebuild(self.replica);
                let why = NeedsRebuild { replica: self.replica, lane: self.standing.lane(), at };
                Err(RPCError::Unreachable(Unreachable::new(&why)))
            }
            _ => Err(self.nonsense()),
        }
    }
}

/// A replica that cannot catch up from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replica {replica} of lane {lane} lacks entries up to {at}, which are purged; it has to be rebuilt")]
struct NeedsRebuild {
    replica: ReplicaId,
    lane: LaneId,
    at: EntryId,
}

impl PeerReply {
    /// Are its term and indexes ones that openraft can take?
    fn is_plausible(&self) -> bool {
        let vote_fits = |vote: &PeerVote| vote.term.0 <= codec::TERM_MAX;
        let entry_fits = |id: &EntryId| id.term.0 <= codec::TERM_MAX && id.index.0 <= INDEX_MAX;
        match self {
            Self::Append(AppendReply::Stored | AppendReply::Conflict) | Self::Transfer(TransferReply::Accepted) => true,
            Self::Append(AppendReply::StoredUpTo(upto)) => upto.iter().all(entry_fits),
            Self::Append(AppendReply::HigherVote(vote))
            | Self::Transfer(TransferReply::VoteChanged { actual: vote }) => vote_fits(vote),
            Self::Transfer(TransferReply::NotFlushed { actual }) => actual.iter().all(entry_fits),
            Self::Vote { vote, last, .. } => vote_fits(vote) && last.iter().all(entry_fits),
        }
    }
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let within = if rpc.entries.is_empty() {
            time::hold_timeout(HEARTBEAT_ANSWER_IN);
            HEARTBEAT_ANSWER_IN
        } else {
            APPEND_ANSWER_IN
        };
        let previous = rpc.prev_log_id.as_ref().map(entry_id);
        let last = rpc.entries.last().map(|entry| entry_id(&entry.log_id)).or(previous);
        let request = PeerRequest::Append {
            vote: vote_out(&rpc.vote),
            previous,
            entries: rpc.entries.into_iter().map(codec::to_lane_entry).collect(),
            committed: rpc.leader_commit.as_ref().map(entry_id),
        };
        match self.call(request, within).await? {
            PeerReply::Append(reply) => self.appended(previous, last, reply),
            _ => Err(self.nonsense()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let last = rpc.last_log_id.as_ref().map(entry_id);
        let request = PeerRequest::Vote { vote: vote_out(&rpc.vote), last, transfer: rpc.leadership_transfer };
        time::hold_timeout(VOTE_ANSWER_IN);
        self.ask_vote(request, VOTE_ANSWER_IN).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let last = rpc.last_log_id.as_ref().map(entry_id);
        self.ask_vote(PeerRequest::PreVote { vote: vote_out(&rpc.vote), last }, option.hard_ttl()).await
    }

    /// On success openraft takes the last entry of the leader's own meta, which is the last purged one, as held by the
    /// replica: so that is what the replica is asked for.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeader, u64, (), ()>,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Some(at) = snapshot.meta.last_log_id.as_ref().map(entry_id) else {
            return Err(StreamingError::from(self.nonsense()));
        };
        let (call, cancel) = (std::pin::pin!(self.ask_rebuild(vote, at, &option)), std::pin::pin!(cancel));
        match futures::future::select(call, cancel).await {
            futures::future::Either::Left((answer, _)) => answer.map_err(StreamingError::from),
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
        let request = PeerRequest::Transfer { from, to: replica_id(*req.to_node_id()), last };
        match self.call(request, option.hard_ttl()).await? {
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
