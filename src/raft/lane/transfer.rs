//! Hands leadership to another voter.
//!
//! openraft's transfer is final: from its start the leader refuses every write and sends no heartbeat, until another
//! replica is elected. So it starts only when the next leader has everything: new proposals are held back, those in
//! flight are waited for, and the next leader must have the whole log. What was held back is refused with the next
//! leader's name, or proposed here if the transfer is given up before it starts. Affinity: shard-local.

use std::time::Duration;

use openraft_rt::WatchReceiver as _;
use tidewater_storage::env::Mono;
use tidewater_storage::model::{LaneId, NodeId, ReplicaId, Term};

use super::{Inner, Lane};
use crate::raft::runtime::scope::scoped;
use crate::raft::type_config::entry_id;

/// Proposals in flight and the next leader's log are waited for this long; held back proposals wait as long.
const DRAIN: Duration = Duration::from_millis(1500);
/// The next leader's election is waited for this long; after it, any replica is elected by itself.
const TAKE_OVER: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Why leadership was not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("this replica does not lead lane {lane}; leader: {hint:?}")]
    NotLeader { lane: LaneId, hint: Option<NodeId> },
    #[error("replica {to} is no voter of lane {lane}")]
    NotVoter { lane: LaneId, to: ReplicaId },
    #[error("leadership of lane {lane} is being handed over already")]
    UnderWay { lane: LaneId },
    /// Nothing changed.
    #[error(
        "replica {to} of lane {lane} does not have the whole log yet, or entries in flight did not settle; try again"
    )]
    Behind { lane: LaneId, to: ReplicaId },
    /// The transfer started and another replica, or none yet, took over.
    #[error("replica {to} did not take over lane {lane}; another replica is elected instead")]
    NotTaken { lane: LaneId, to: ReplicaId },
}

impl Lane {
    /// Hands leadership to `to`, and returns when it leads as far as this replica knows. Hands nothing over if `to`
    /// does not catch up within 1.5 s. Does nothing if `to` is this replica and leads.
    ///
    /// # Errors
    /// [`TransferError`]; after `NotTaken` the lane elects a leader within its election timeout.
    pub async fn transfer_leadership(&self, to: ReplicaId) -> Result<(), TransferError> {
        let inner = &self.inner;
        let lane = inner.standing.lane();
        let Ok(term) = inner.standing.serving() else {
            return Err(TransferError::NotLeader { lane, hint: inner.standing.leadership().leader });
        };
        if to == self.me() {
            return Ok(());
        }
        if !self.membership().is_voter(to) {
            return Err(TransferError::NotVoter { lane, to });
        }
        if !inner.gate.begin_transfer(term) {
            return Err(TransferError::UnderWay { lane });
        }
        // If this call is dropped before the transfer has started, the gate opens again.
        let reopen = Reopen { lane: self, armed: true };
        if !inner.drained(term, to).await {
            drop(reopen);
            return Err(TransferError::Behind { lane, to });
        }
        reopen.keep_closed();
        // An error means the group has ended, which the watcher reports.
        let _ = scoped(inner.env.clone(), inner.raft.trigger().transfer_leader(to.to_u64())).await;
        let deadline = inner.env.clock.now() + TAKE_OVER;
        loop {
            let seen = inner.standing.leadership();
            if seen.term > term && seen.leader == Some(to.node) {
                return Ok(());
            }
            if seen.term > term && seen.leader.is_some() || is_over(inner, deadline) {
                return Err(TransferError::NotTaken { lane, to });
            }
            inner.env.tasks.sleep(LOOK_AGAIN).await;
        }
    }
}

fn is_over(inner: &Inner, deadline: Mono) -> bool {
    inner.env.clock.now() >= deadline || !inner.standing.is_running()
}

/// Opens the gate when dropped.
struct Reopen<'a> {
    lane: &'a Lane,
    armed: bool,
}

impl Reopen<'_> {
    fn keep_closed(mut self) {
        self.armed = false;
    }
}

impl Drop for Reopen<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.lane.inner.end_transfer();
        }
    }
}

impl Inner {
    /// Waits until nothing is in flight but what is held back, and `to` has the whole log; false if that takes too long
    /// or this replica leads no longer.
    async fn drained(&self, term: Term, to: ReplicaId) -> bool {
        let deadline = self.env.clock.now() + DRAIN;
        loop {
            if self.standing.serving() != Ok(term) || is_over(self, deadline) {
                return false;
            }
            let settled = self.standing.in_flight().get() == self.gate.len();
            let level = {
                let metrics = self.metrics.borrow_watched();
                let matched = metrics.replication.as_ref().and_then(|all| all.get(&to.to_u64()).copied().flatten());
                let matched = matched.as_ref().map(entry_id);
                matched.is_some_and(|matched| {
                    Some(matched.index.0) == metrics.last_log_index && Some(matched) == self.standing.applied()
                })
            };
            if settled && level {
                return true;
            }
            self.env.tasks.sleep(LOOK_AGAIN).await;
        }
    }
}
