//! The handle to one lane: propose, query leadership, purge, shut down.
//!
//! Owns: the group's start (recovery, first election), its watcher task, its end. A lane that is dropped without
//! [`Lane::shutdown`] runs on. Affinity: shard-local; the handle is a cheap clone.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, IntoFuture as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use openraft::ServerState;
use openraft::errors::{Fatal, RaftError};
use openraft_rt::{Oneshot as _, WatchReceiver as _};
use tidewater_storage::env::Env;
use tidewater_storage::journal::{LaneLog, Payload};
use tidewater_storage::model::{EntryId, LaneId, NodeId, Term};

use super::Apply;
use super::codec::{self, CodecError};
use super::leadership::{Standing, View};
use super::log_store::{LogDevice, LogStore};
use super::network::{self, Network, PeerError, PeerReply, PeerRequest, PeerTransport};
use super::proposal::{Proposal, ProposeError};
use super::runtime::oneshot::{self, ShardOneshot};
use super::runtime::scope::scoped;
use super::settings::{PROPOSALS_MAX, settings};
use super::state_machine::StateMachine;
use super::type_config::{CommittedLeader, Proposed, SnapshotMeta, Types, log_id, node_id, raft_node};

#[cfg(test)]
mod tests;

type Raft = openraft::Raft<Types, StateMachine>;

/// What a lane starts from.
pub struct LaneOptions {
    pub lane: LaneId,
    pub node: NodeId,
    /// The replicas that vote, if the lane is new; the one with the lowest id gives the group its first membership.
    /// Ignored when the lane has a past.
    pub voters: Vec<NodeId>,
    /// The last entry whose effects the loaded checkpoint holds.
    pub applied: Option<EntryId>,
    /// The membership of the checkpoint: what [`Apply::membership`] gave last.
    pub membership: Option<Bytes>,
    /// The connection to the other replicas. None for a single voter.
    pub transport: Option<Rc<dyn PeerTransport>>,
}

impl LaneOptions {
    /// A lane whose only replica is here.
    #[must_use]
    pub fn single(lane: LaneId, node: NodeId) -> Self {
        Self { lane, node, voters: vec![node], applied: None, membership: None, transport: None }
    }

    /// Starts from a checkpoint.
    #[must_use]
    pub fn from_checkpoint(mut self, applied: Option<EntryId>, membership: Option<Bytes>) -> Self {
        self.applied = applied;
        self.membership = membership;
        self
    }
}

/// A lane's leader as this replica knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The term this replica is in.
    pub term: Term,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// This replica leads and an entry of its own term is applied: it may serve.
    pub ready: bool,
}

/// A group died: the disk failed or its log is broken. The node must abort.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lane {lane} has died: {reason}; the node must stop and recover")]
pub struct LaneFatal {
    pub lane: LaneId,
    pub reason: String,
}

/// Why a lane did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// The checkpoint's membership cannot be read.
    #[error("lane {lane} cannot read its membership from the checkpoint: {source}")]
    Membership {
        lane: LaneId,
        /// What is wrong with it.
        source: CodecError,
    },
    /// The checkpoint has applied entries and no voter: the lane would never have a leader again.
    #[error(
        "lane {lane} has applied entries up to {applied} and its checkpoint names no voter; restore the shard's directory"
    )]
    NoVoters {
        lane: LaneId,
        /// What the checkpoint holds.
        applied: EntryId,
    },
    /// Log and checkpoint do not fit together, or reading them failed.
    #[error("lane {lane} cannot be recovered from its log: {reason}")]
    Recovery { lane: LaneId, reason: String },
    /// A new group could not be given its first membership.
    #[error("lane {lane} cannot be initialised with its first membership: {reason}")]
    Initialise { lane: LaneId, reason: String },
}

struct Inner {
    env: Rc<Env>,
    raft: Raft,
    standing: Rc<Standing>,
    /// Resolves when the state machine is gone.
    state_machine_gone: Cell<Option<oneshot::Receiver<()>>>,
    /// The largest record that the log takes; a larger one would end the group.
    entry_bytes_max: u64,
    purge_upto: Cell<Option<EntryId>>,
    purging: Cell<bool>,
}

/// One lane's group on this shard.
#[derive(Clone)]
pub struct Lane {
    inner: Rc<Inner>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("leadership", &self.leadership()).field("applied", &self.applied()).finish()
    }
}

impl Lane {
    /// Recovers a lane and starts its group.
    ///
    /// Applies what is known committed after the checkpoint, then returns; a single voter leads some milliseconds
    /// later, always in a term higher than any before, and [`Apply::leading`] says so. A lane without a past is given
    /// its first membership.
    ///
    /// # Errors
    /// [`LaneError`]: the lane must not be served, and the node should say so and stop.
    pub async fn start(env: &Env, log: LaneLog, apply: Rc<dyn Apply>, options: LaneOptions) -> Result<Self, LaneError> {
        Self::start_on(env, log, apply, options).await
    }

    pub(crate) async fn start_on<L: LogDevice>(
        env: &Env,
        log: L,
        apply: Rc<dyn Apply>,
        options: LaneOptions,
    ) -> Result<Self, LaneError> {
        let env = Rc::new(env.clone());
        scoped(env.clone(), Self::start_in_scope(env, log, apply, options)).await
    }

    async fn start_in_scope<L: LogDevice>(
        env: Rc<Env>,
        log: L,
        apply: Rc<dyn Apply>,
        options: LaneOptions,
    ) -> Result<Self, LaneError> {
        let LaneOptions { lane, node, voters, applied, membership, transport } = options;
        let membership = membership.as_deref().map(codec::decode_stored).transpose();
        let membership = membership.map_err(|source| LaneError::Membership { lane, source })?.unwrap_or_default();
        let state = log.state();
        let new = state.last.is_none() && state.purged.is_none() && state.vote.is_none() && applied.is_none();
        if let Some(applied) = applied.filter(|_| membership.voter_ids().next().is_none()) {
            return Err(LaneError::NoVoters { lane, applied });
        }
        let standing = Rc::new(Standing::new(lane, apply, applied, membership));
        let (alive, gone) = ShardOneshot::channel();
        let entry_bytes_max = log.entry_bytes_max();
        let raft = Raft::new(
            raft_node(node),
            settings(lane),
            Network::new(lane, transport),
            LogStore::new(log),
            StateMachine::new(standing.clone(), alive),
        );
        let raft = raft.await.map_err(|fatal| LaneError::Recovery { lane, reason: fatal.to_string() })?;
        let inner = Rc::new(Inner {
            env: env.clone(),
            raft,
            standing,
            state_machine_gone: Cell::new(Some(gone)),
            entry_bytes_max,
            purge_upto: Cell::new(None),
            purging: Cell::new(false),
        });
        drop(env.tasks.spawn("raft-watch", scoped(env.clone(), watch(inner.clone()))));
        let started = Self { inner };
        if new {
            started.initialise(lane, node, voters).await?;
        } else {
            started.elect_if_alone(lane, node).await?;
        }
        Ok(started)
    }

    async fn initialise(&self, lane: LaneId, node: NodeId, voters: Vec<NodeId>) -> Result<(), LaneError> {
        if voters.iter().min() != Some(&node) {
            return Ok(());
        }
        let members: std::collections::BTreeSet<u64> = voters.into_iter().map(raft_node).collect();
        let done = self.inner.raft.initialize(members).await;
        done.map_err(|error| LaneError::Initialise { lane, reason: error.to_string() })
    }

    /// A single voter does not wait for an election timeout.
    async fn elect_if_alone(&self, lane: LaneId, node: NodeId) -> Result<(), LaneError> {
        let me = raft_node(node);
        let alone = self
            .inner
            .raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq(std::iter::once(me)));
        let failed = |fatal: Fatal<Types>| LaneError::Recovery { lane, reason: fatal.to_string() };
        if alone.await.map_err(failed)? {
            self.inner.raft.trigger().elect(false).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Proposes an entry. The order of calls is the order in the log; any number up to [`PROPOSALS_MAX`] may be in
    /// flight. This call sends the proposal; dropping the returned future does not cancel it.
    ///
    /// It is proposed for the term of the last [`Apply::leading`] and refused in any other. [`ProposeError::disposition`] says
    /// what is certain after an error; after one whose outcome is unknown the proposer waits for everything in flight and
    /// continues from applied state. Nothing is retried here, so no retry passes a later entry.
    pub fn propose(&self, payload: Payload) -> Proposal {
        let standing = &self.inner.standing;
        let term = match standing.serving() {
            Ok(term) => term,
            Err(error) => return Proposal::refused(error),
        };
        if standing.in_flight().get() >= PROPOSALS_MAX {
            return Proposal::refused(ProposeError::Full { cap: PROPOSALS_MAX });
        }
        let bytes = codec::entry_bytes(&payload);
        if bytes > self.inner.entry_bytes_max {
            return Proposal::refused(ProposeError::TooLarge { bytes, max: self.inner.entry_bytes_max });
        }
        let (proposal, responder) = Proposal::new(standing.clone());
        let inner = self.inner.clone();
        let mut send = Box::pin(async move {
            let write = inner.raft.write(Proposed(payload)).with_leader(CommittedLeader::new(term.0));
            // A group that is gone drops the responder, and the proposal says what is known.
            drop(write.responder(responder).into_future().await);
        });
        // The queue is larger than what may be in flight, so it is sent at once unless the group is ending.
        if Pin::as_mut(&mut send).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            drop(self.inner.env.tasks.spawn("raft-propose", scoped(self.inner.env.clone(), send)));
        }
        proposal
    }

    /// Who leads, and whether this replica may serve.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.inner.standing.leadership()
    }

    /// The last entry applied here.
    #[must_use]
    pub fn applied(&self) -> Option<EntryId> {
        self.inner.standing.applied()
    }

    /// Proposals that have no answer yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.standing.in_flight().get()
    }

    /// May another proposal be in flight?
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.in_flight() < PROPOSALS_MAX
    }

    /// Purges the log up to `upto`, once a durable checkpoint covers it. Returns at once; the purge is done in
    /// the background. What is not applied yet is never purged.
    pub fn purge(&self, upto: EntryId) {
        let inner = &self.inner;
        if inner.purge_upto.get().is_none_or(|before| before.index < upto.index) {
            inner.purge_upto.set(Some(upto));
        }
        if !inner.purging.replace(true) {
            let (env, inner) = (inner.env.clone(), inner.clone());
            drop(env.clone().tasks.spawn("raft-purge", scoped(env, purge(inner))));
        }
    }

    /// Transfers leadership to another voter, which catches up and starts an election. Returns before it has.
    pub async fn transfer_leadership(&self, to: NodeId) {
        // An error means the group has ended, which the watcher reports.
        let _ = scoped(self.inner.env.clone(), self.inner.raft.trigger().transfer_leader(raft_node(to))).await;
    }

    /// Answers a request of another replica.
    ///
    /// # Errors
    /// [`PeerError::NotRunning`] when the group has ended, [`PeerError::Nonsense`] for bytes that cannot be read.
    pub async fn handle(&self, node: NodeId, request: PeerRequest) -> Result<PeerReply, PeerError> {
        let lane = self.inner.standing.lane();
        scoped(self.inner.env.clone(), answer(&self.inner.raft, request)).await.map_err(|refused| match refused {
            Refused::Ended => PeerError::NotRunning { node, lane },
            Refused::Unreadable => PeerError::Nonsense { node, lane },
        })
    }

    /// Has the group died, and why?
    #[must_use]
    pub fn died(&self) -> Option<LaneFatal> {
        self.inner.standing.died()
    }

    /// Resolves when the group dies; never after an orderly shutdown.
    pub async fn fatal(&self) -> LaneFatal {
        self.inner.standing.death().await
    }

    /// Ends the group. When it returns nothing is applied any more, and every proposal in flight has its answer or
    /// [`ProposeError::Shutdown`].
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.standing.shut_down();
        // It can only fail if the core was cancelled, which is an end too.
        let _ = scoped(inner.env.clone(), inner.raft.shutdown()).await;
        if let Some(gone) = inner.state_machine_gone.take() {
            let _ = gone.await;
        }
    }
}

enum Refused {
    Ended,
    Unreadable,
}

impl<E: std::error::Error> From<RaftError<Types, E>> for Refused {
    fn from(_: RaftError<Types, E>) -> Self {
        Self::Ended
    }
}

impl From<Fatal<Types>> for Refused {
    fn from(_: Fatal<Types>) -> Self {
        Self::Ended
    }
}

impl From<CodecError> for Refused {
    fn from(_: CodecError) -> Self {
        Self::Unreadable
    }
}

async fn answer(raft: &Raft, request: PeerRequest) -> Result<PeerReply, Refused> {
    use openraft::raft::{TransferLeaderRequest, VoteRequest};
    request.check()?;
    match request {
        PeerRequest::Append { vote, previous, entries, committed } => {
            let request = network::append_in(vote, previous, entries, committed)?;
            Ok(network::append_out(raft.append_entries(request).await?))
        }
        PeerRequest::Vote { vote, last, transfer } => {
            let mut request = VoteRequest::new(network::vote_in(vote), last.map(log_id));
            request.leadership_transfer = transfer;
            Ok(network::vote_reply_out(&raft.vote(request).await?))
        }
        PeerRequest::PreVote { vote, last } => {
            let request = VoteRequest::new(network::vote_in(vote), last.map(log_id));
            Ok(network::vote_reply_out(&raft.pre_vote(request).await?))
        }
        PeerRequest::Snapshot { vote, at, membership, state } => {
            let meta =
                SnapshotMeta { last_log_id: Some(log_id(at)), last_membership: codec::decode_stored(&membership)? };
            let snapshot = openraft::storage::Snapshot { meta, snapshot: state };
            let done = raft.install_full_snapshot(network::vote_in(vote), snapshot).await?;
            Ok(PeerReply::Snapshot { vote: network::vote_out(&done.vote) })
        }
        PeerRequest::Transfer { from, to, last } => {
            let request = TransferLeaderRequest::new(network::vote_in(from), raft_node(to), last.map(log_id));
            Ok(network::transfer_out(raft.handle_transfer_leader(request).await?))
        }
    }
}

/// Follows openraft's view until the group ends: leadership for the layer above, ticks only for several voters.
async fn watch(inner: Rc<Inner>) {
    let mut server = inner.raft.server_metrics();
    loop {
        let (view, voters) = {
            let seen = server.borrow_and_update();
            let leader = seen.current_leader.map(node_id);
            let leads = seen.state == ServerState::Leader && seen.current_leader == Some(seen.id);
            let term = Term(seen.vote.leader_id.term);
            (View { term, leader, leads }, seen.membership_config.voter_ids().count())
        };
        inner.raft.runtime_config().tick(voters > 1);
        inner.standing.see(view);
        if server.changed().await.is_err() {
            break;
        }
    }
    let reason = match &inner.raft.metrics().borrow_watched().running_state {
        Ok(()) => "its core has ended".to_owned(),
        Err(fatal) => fatal.to_string(),
    };
    inner.standing.die(reason);
}

/// Purges up to the index of the last request: openraft needs a snapshot marker at or after it first.
async fn purge(inner: Rc<Inner>) {
    let mut data = inner.raft.data_metrics();
    while let Some(upto) = inner.purge_upto.take() {
        let Some(applied) = inner.standing.applied() else { continue };
        let upto = upto.index.min(applied.index).0;
        while data.borrow_and_update().snapshot.is_none_or(|at| at.index < upto) {
            if inner.raft.trigger().snapshot().await.is_err() || data.changed().await.is_err() {
                return;
            }
        }
        if inner.raft.trigger().purge_log(upto).await.is_err() {
            return;
        }
    }
    inner.purging.set(false);
}

/// Used by the in-process transport: the answer is worked out by a task of the answering node, so that killing either
/// side does what it does between processes.
impl Lane {
    pub(crate) async fn handle_apart(&self, request: PeerRequest) -> Result<PeerReply, PeerError> {
        let (lane, node) = (self.inner.standing.lane(), node_id(*self.inner.raft.node_id()));
        let this = self.clone();
        let task = self.inner.env.tasks.spawn("raft-answer", async move { this.handle(node, request).await });
        task.await.unwrap_or(Err(PeerError::Unreachable { node, lane }))
    }
}
