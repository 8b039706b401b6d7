//! The handle to one lane: propose, query leadership, shut down.
//!
//! Owns: the group's start (recovery, first membership, first election), its watcher task, its end. What peers ask is
//! in [`answering`], who belongs to the lane in [`members`], whether this replica still leads in [`lease`], heartbeats
//! and election timers in [`beat`]. A lane that is dropped without [`Lane::shutdown`] runs on. Affinity: shard-local;
//! the handle is a cheap clone.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, IntoFuture as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use openraft::ServerState;
use openraft::errors::Fatal;
use openraft_rt::{Oneshot as _, WatchReceiver as _};
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::journal::{JournalError, LaneLog, Payload};
use tidewater_storage::model::{EntryId, LaneId, LogIndex, NodeId, ReplicaId, Term};

use super::Apply;
use super::codec::{self, CodecError};
use super::leadership::{Standing, View};
use super::log_store::{LogDevice, LogStore};
use super::network::{Network, PeerTransport};
use super::proposal::{Proposal, ProposeError};
use super::runtime::oneshot::{self, ShardOneshot};
use super::runtime::scope::scoped;
use super::runtime::watch;
use super::settings::{PROPOSALS_MAX, settings};
use super::state_machine::StateMachine;
use super::type_config::{CommittedLeader, Entry, Membership, Proposed, Types, log_id, replica_id};
use crate::config::node::CATCH_UP_BYTES;

pub(crate) mod answering;
mod beat;
mod gate;
mod lease;
pub(crate) mod members;
pub(crate) mod purging;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;

use gate::Gate;
use purging::PurgeWindow;

type Raft = openraft::Raft<Types, StateMachine>;
type RaftMetrics = openraft::RaftMetrics<Types>;

/// What a lane starts from.
pub struct LaneOptions {
    pub lane: LaneId,
    pub me: ReplicaId,
    /// The first voters of the lane, the same list on each of them; preferred leader first. Ignored when the lane has a
    /// past.
    pub voters: Vec<ReplicaId>,
    /// The caller vouches that this replica had no past on a disk that was lost: an empty log then means a new lane,
    /// and this replica, if it is one of `voters`, begins with them as members. Without it, it waits for a leader.
    pub may_initialise: bool,
    /// Its place in the order of preferred leaders: the first usually wins an election.
    pub rank: usize,
    /// The last entry whose effects the loaded checkpoint holds.
    pub applied: Option<EntryId>,
    /// The membership of the checkpoint: what [`Apply::membership`] gave last.
    pub membership: Option<Bytes>,
    /// The connection to the other replicas. None for a lane whose only replica stays here.
    pub transport: Option<Rc<dyn PeerTransport>>,
    /// Bytes of the shard's journal beyond which no entry is kept for a replica that lags.
    pub catch_up_bytes: u64,
}

impl LaneOptions {
    /// A lane whose only replica is here.
    #[must_use]
    pub fn single(lane: LaneId, node: NodeId) -> Self {
        Self::replica(lane, ReplicaId::first(node), vec![ReplicaId::first(node)])
    }

    /// One of several replicas, the first of which are `voters`, preferred leader first.
    #[must_use]
    pub fn replica(lane: LaneId, me: ReplicaId, voters: Vec<ReplicaId>) -> Self {
        let rank = voters.iter().position(|voter| *voter == me).unwrap_or(voters.len());
        Self {
            lane,
            me,
            voters,
            may_initialise: true,
            rank,
            applied: None,
            membership: None,
            transport: None,
            catch_up_bytes: CATCH_UP_BYTES,
        }
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
    metrics: watch::Receiver<RaftMetrics>,
    standing: Rc<Standing>,
    /// Has the lane more than one voter?
    several: Cell<bool>,
    /// Voters and learners.
    replicas: Cell<usize>,
    /// When a request of the leader arrived last that was accepted.
    heard: Cell<Option<Mono>>,
    elections: Cell<beat::Elections>,
    /// Has the lane's beat begun?
    beats: Cell<bool>,
    gate: Gate,
    /// Resolves when the state machine is gone.
    state_machine_gone: Cell<Option<oneshot::Receiver<()>>>,
    /// The largest record that the log takes; a larger one would end the group.
    entry_bytes_max: u64,
    purge: PurgeWindow,
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
        let LaneOptions { lane, me, voters, may_initialise, rank, applied, membership, transport, catch_up_bytes } =
            options;
        let membership = membership.as_deref().map(codec::decode_stored).transpose();
        let membership = membership.map_err(|source| LaneError::Membership { lane, source })?.unwrap_or_default();
        let state = log.state();
        let empty = state.last.is_none() && state.purged.is_none() && applied.is_none();
        if let Some(applied) = applied.filter(|_| membership.voter_ids().next().is_none()) {
            return Err(LaneError::NoVoters { lane, applied });
        }
        let first = empty && may_initialise && voters.contains(&me);
        let alone = voters.len() == 1;
        if first && !alone {
            begin(&log, lane, &voters).await?;
        }
        let standing = Rc::new(Standing::new(lane, me, apply, applied, membership));
        let (alive, gone) = ShardOneshot::channel();
        let entry_bytes_max = log.entry_bytes_max();
        let log = Rc::new(log);
        let purged = {
            let log = log.clone();
            Rc::new(move || log.state().purged)
        };
        let raft = Raft::new(
            me.to_u64(),
            settings(lane, rank),
            Network::new(standing.clone(), transport),
            LogStore::shared(log.clone()),
            StateMachine::new(standing.clone(), purged, alive),
        );
        let raft = raft.await.map_err(|fatal| LaneError::Recovery { lane, reason: fatal.to_string() })?;
        let inner = Rc::new(Inner {
            env: env.clone(),
            metrics: raft.metrics(),
            raft,
            standing,
            several: Cell::new(false),
            replicas: Cell::new(0),
            heard: Cell::default(),
            elections: Cell::default(),
            beats: Cell::default(),
            gate: Gate::default(),
            state_machine_gone: Cell::new(Some(gone)),
            entry_bytes_max,
            purge: PurgeWindow::new(log, catch_up_bytes),
        });
        drop(env.tasks.spawn("raft-watch", scoped(env.clone(), watch(inner.clone()))));
        let started = Self { inner };
        if first && alone {
            started.initialise(lane, me).await?;
        } else if first && rank == 0 {
            // The others wait for an election timeout.
            started.inner.raft.trigger().elect(true).await.map_err(|fatal| failed(lane, &fatal))?;
        } else {
            started.elect_if_alone(lane, me).await?;
        }
        Ok(started)
    }

    async fn initialise(&self, lane: LaneId, me: ReplicaId) -> Result<(), LaneError> {
        let done = self.inner.raft.initialize(std::collections::BTreeSet::from([me.to_u64()])).await;
        done.map_err(|error| LaneError::Initialise { lane, reason: error.to_string() })
    }

    /// A single voter does not wait for an election timeout.
    async fn elect_if_alone(&self, lane: LaneId, me: ReplicaId) -> Result<(), LaneError> {
        let me = me.to_u64();
        let alone = self
            .inner
            .raft
            .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq(std::iter::once(me)));
        if alone.await.map_err(|fatal| failed(lane, &fatal))? {
            self.inner.raft.trigger().elect(false).await.map_err(|fatal| failed(lane, &fatal))?;
        }
        Ok(())
    }

    /// Stands for election now, unless this replica has heard a leader within the lease. Voters that have refuse it,
    /// before any term changes.
    pub async fn stand(&self) {
        // A group that has ended does not stand.
        let _ = scoped(self.inner.env.clone(), self.inner.raft.trigger().elect(true)).await;
    }

    /// Proposes an entry. The order of calls is the order in the log; any number up to [`PROPOSALS_MAX`] may be in
    /// flight. This call sends the proposal; dropping the returned future does not cancel it.
    ///
    /// It is proposed for the term of the last [`Apply::leading`] and refused in any other.
    /// [`ProposeError::disposition`] says what is certain after an error; after one whose outcome is unknown the
    /// proposer waits for everything in flight and continues from applied state. Nothing is retried here, so no retry
    /// passes a later entry.
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
        self.inner.admit(gate::Held { payload, term, responder });
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

    /// Time since a request of a leader was accepted here, in ms; `None` if there was none since the group started.
    #[must_use]
    pub fn heard_ms(&self) -> Option<u64> {
        self.inner.heard_ms()
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

    /// This replica.
    #[must_use]
    pub fn me(&self) -> ReplicaId {
        self.inner.standing.me()
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
        inner.gate.drop_all();
        // It can only fail if the core was cancelled, which is an end too.
        let _ = scoped(inner.env.clone(), inner.raft.shutdown()).await;
        if let Some(gone) = inner.state_machine_gone.take() {
            let _ = gone.await;
        }
    }
}

fn failed(lane: LaneId, fatal: &Fatal<Types>) -> LaneError {
    LaneError::Recovery { lane, reason: fatal.to_string() }
}

/// Writes the first entry of a lane of several voters, its first membership: the same on each of them, so it does not
/// matter who of them is elected, and any majority of them can begin. openraft's own `initialize` is refused to a
/// replica that has voted before.
async fn begin<L: LogDevice>(log: &L, lane: LaneId, voters: &[ReplicaId]) -> Result<(), LaneError> {
    let members = voters.iter().map(|voter| voter.to_u64()).collect();
    let membership = Membership::new_with_defaults(vec![members], []);
    let id = EntryId { term: Term(0), index: LogIndex(0) };
    let entry = Entry { log_id: log_id(id), payload: openraft::EntryPayload::Membership(membership) };
    let (done, written) = futures::channel::oneshot::channel();
    log.append(vec![codec::to_lane_entry(entry)], Box::new(move |result| drop(done.send(result))));
    let written = written.await.unwrap_or(Err(JournalError::Closed));
    written.map_err(|error| LaneError::Initialise { lane, reason: error.to_string() })
}

impl Inner {
    /// Hands a proposal to openraft. The queue is larger than what may be in flight, so it is sent at once unless the
    /// group is ending.
    fn send(self: &Rc<Self>, held: gate::Held) {
        let inner = self.clone();
        let mut send = Box::pin(async move {
            let gate::Held { payload, term, responder } = held;
            let write = inner.raft.write(Proposed(payload)).with_leader(CommittedLeader::new(term.0));
            // A group that is gone drops the responder, and the proposal says what is known.
            drop(write.responder(responder).into_future().await);
        });
        if Pin::as_mut(&mut send).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            drop(self.env.tasks.spawn("raft-propose", scoped(self.env.clone(), send)));
        }
    }
}

/// Follows openraft's view until the group ends: leadership for the layer above, the beat for several replicas.
async fn watch(inner: Rc<Inner>) {
    let mut server = inner.raft.server_metrics();
    loop {
        let (view, voters, replicas) = {
            let seen = server.borrow_and_update();
            let leader = seen.current_leader.map(|leader| replica_id(leader).node);
            let leads = seen.state == ServerState::Leader && seen.current_leader == Some(seen.id);
            let term = Term(seen.vote.leader_id.term);
            let members = seen.membership_config.membership();
            (View { term, leader, leads }, members.voter_ids().count(), members.nodes().count())
        };
        inner.several.set(voters > 1);
        inner.replicas.set(replicas);
        inner.standing.see(view);
        inner.saw_term(view.term, view.leader.is_some());
        inner.gate_after(view);
        if server.changed().await.is_err() {
            break;
        }
    }
    let reason = match &inner.raft.metrics().borrow_watched().running_state {
        Ok(()) => "its core has ended".to_owned(),
        Err(fatal) => fatal.to_string(),
    };
    inner.standing.die(reason);
    inner.gate.drop_all();
}
