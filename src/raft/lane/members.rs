//! Who belongs to a lane: its voters and learners, how far each is, and how that changes.
//!
//! A change is an entry of the log. A learner gets the log and has no vote; [`Lane::change_voters`] makes a set of
//! replicas the voters by a joint configuration, in which majorities of both sets are needed. One change at a time; the
//! caller (the leader's reconciler) tries again. Affinity: shard-local.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft_rt::WatchReceiver as _;
use tidewater_storage::model::{EntryId, NodeId, ReplicaId};

use super::Lane;
use crate::raft::runtime::scope::scoped;
use crate::raft::type_config::{Membership, StoredMembership, Types, entry_id, log_id, replica_id};
use crate::raft::{codec, proposal};

/// A lane's replicas as of the newest membership in this replica's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneMembership {
    /// In a joint configuration, those of both sets. Ascending.
    pub voters: Vec<ReplicaId>,
    /// Ascending.
    pub learners: Vec<ReplicaId>,
    /// A change of voters is half done: majorities of two sets are needed.
    pub joint: bool,
    /// Its entry. `None` for a replica that has no membership yet.
    pub at: Option<EntryId>,
    /// Is that entry known to be committed?
    pub committed: bool,
}

impl LaneMembership {
    #[must_use]
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica)
    }

    #[must_use]
    pub fn is_learner(&self, replica: ReplicaId) -> bool {
        self.learners.contains(&replica)
    }
}

/// The membership of a lane that begins with a checkpoint as of `at` and one voter: see
/// [`LaneOptions::membership`](super::LaneOptions::membership).
#[must_use]
pub fn sole_voter(at: EntryId, voter: ReplicaId) -> Bytes {
    let voters = vec![BTreeSet::from([voter.to_u64()])];
    let membership = Membership::new_with_defaults(voters, BTreeSet::<u64>::new());
    codec::encode_stored(&StoredMembership::new(Some(log_id(at)), membership))
}

/// How far a replica is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaProgress {
    pub replica: ReplicaId,
    /// The last entry that it is known to hold durably.
    pub matched: Option<EntryId>,
    /// Milliseconds since the leader sent the last request that it answered; `None` if it has not answered this leader,
    /// 0 for the leader itself.
    pub last_answer_ms: Option<u64>,
}

/// Why a membership did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    #[error("this replica does not lead the lane; leader: {hint:?}")]
    NotLeader { hint: Option<NodeId> },
    /// No quorum has answered lately, or leadership changed during the change: it may yet take effect.
    #[error("leadership is not confirmed or changed; look at the membership and try again")]
    Unknown,
    /// An earlier change is not committed yet.
    #[error("another change of the lane's membership is under way; try again")]
    InProgress,
    /// The change is none that a lane can make.
    #[error("the lane's membership cannot change so: {0}")]
    Refused(String),
    #[error("the lane's group has ended")]
    Ended,
}

type Changed = Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>;

fn outcome(changed: Changed) -> Result<(), MembershipError> {
    let error = match changed {
        Ok(_) => return Ok(()),
        Err(RaftError::Fatal(_)) => return Err(MembershipError::Ended),
        Err(RaftError::APIError(error)) => error,
    };
    Err(match error {
        ClientWriteError::ForwardToLeader(forward)
            if forward.reason == openraft::errors::ForwardReason::LeaseExpired =>
        {
            MembershipError::Unknown
        }
        ClientWriteError::ForwardToLeader(forward) => MembershipError::NotLeader { hint: proposal::hint(&forward) },
        ClientWriteError::LogEntryDiscarded(_) | ClientWriteError::PreconditionFailed(_) => MembershipError::Unknown,
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)) => MembershipError::InProgress,
        ClientWriteError::ChangeMembershipError(error) => MembershipError::Refused(error.to_string()),
    })
}

impl Lane {
    /// The newest membership in this replica's log, committed or not: it counts from the moment it is there.
    #[must_use]
    pub fn membership(&self) -> LaneMembership {
        let metrics = self.inner.metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let voters: BTreeSet<ReplicaId> = stored.membership().voter_ids().map(replica_id).collect();
        let learners: BTreeSet<ReplicaId> = stored.membership().learner_ids().map(replica_id).collect();
        LaneMembership {
            voters: voters.into_iter().collect(),
            learners: learners.into_iter().collect(),
            joint: stored.membership().get_joint_config().len() > 1,
            at: stored.log_id().as_ref().map(entry_id),
            committed: metrics.committed_membership_config.log_id() == stored.log_id(),
        }
    }

    /// How far each replica is, learners included, ascending; empty if this replica does not lead.
    #[must_use]
    pub fn progress(&self) -> Vec<ReplicaProgress> {
        let metrics = self.inner.metrics.borrow_watched();
        let Some(matched) = &metrics.replication else { return Vec::new() };
        let now = self.inner.env.clock.now();
        let me = self.me();
        let progress = matched.iter().map(|(id, matched)| {
            let replica = replica_id(*id);
            let answered = metrics.heartbeat.as_ref().and_then(|answers| answers.get(id).copied().flatten());
            let ms = answered.map(|at| now.since(at.into_inner().mono()).as_millis());
            let last_answer_ms = ms.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX));
            ReplicaProgress {
                replica,
                matched: matched.as_ref().map(entry_id),
                last_answer_ms: if replica == me { Some(0) } else { last_answer_ms },
            }
        });
        progress.collect()
    }

    /// Makes a replica a learner: it gets the log, or is found to need a rebuild. Returns when the entry is committed.
    /// Does nothing for a replica that is a member.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn add_learner(&self, replica: ReplicaId) -> Result<(), MembershipError> {
        let held = self.membership();
        if held.is_voter(replica) || held.is_learner(replica) {
            return Ok(());
        }
        let add = self.inner.raft.add_learner(replica.to_u64(), (), false);
        outcome(scoped(self.inner.env.clone(), add).await)
    }

    /// Makes `voters` the voters, and forgets voters that are not in it. Each must be a member. Returns when the
    /// joint configuration is left again; completes a change that an earlier leader left half done.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn change_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), MembershipError> {
        if voters.is_empty() {
            return Err(MembershipError::Refused("a lane needs a voter".to_owned()));
        }
        let voters: BTreeSet<u64> = voters.into_iter().map(ReplicaId::to_u64).collect();
        let change = self.inner.raft.change_membership(voters, false);
        outcome(scoped(self.inner.env.clone(), change).await)
    }

    /// Removes a learner or a voter; the last voter stays.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove(&self, replica: ReplicaId) -> Result<(), MembershipError> {
        let held = self.membership();
        if held.is_voter(replica) {
            return self.change_voters(held.voters.into_iter().filter(|voter| *voter != replica).collect()).await;
        }
        if !held.is_learner(replica) {
            return Ok(());
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([replica.to_u64()]));
        let change = self.inner.raft.change_membership(change, false);
        outcome(scoped(self.inner.env.clone(), change).await)
    }

    /// The replicas that cannot catch up from the log. On the leader, those of the lane that said so; on another
    /// replica, itself if the leader found that. It stays until the replica holds what is purged at the leader.
    #[must_use]
    pub fn needs_rebuild(&self) -> BTreeSet<ReplicaId> {
        let held = self.membership();
        let mut needs = self.inner.standing.to_rebuild();
        needs.retain(|replica| *replica == self.me() || held.is_voter(*replica) || held.is_learner(*replica));
        needs
    }

    /// Waits until [`Lane::needs_rebuild`] changed since the last wait. For one task at a time.
    pub async fn rebuild_changed(&self) {
        self.inner.standing.rebuild_changed().await;
    }
}
