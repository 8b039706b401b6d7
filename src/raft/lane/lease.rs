//! Does this replica still lead? From what its followers answered lately, or by asking them now.
//!
//! openraft does not step down when a quorum is lost, so a leader that is cut off believes that it leads until it hears
//! of another. Within a lease after a quorum's last answer no other leader can have been elected, unless leadership was
//! handed over: followers count the lease from when they heard the leader, which is later than when it was sent.
//! Affinity: shard-local.

use std::rc::Rc;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::linearizable_read::LinearizerOption;
use openraft_rt::WatchReceiver as _;

use super::{Inner, Lane};
use crate::raft::proposal::{self, ProposeError};
use crate::raft::runtime::scope::scoped;
use crate::raft::settings::LEASE_MS;

/// A lease that is used up but for this much is not relied on: what was decided under it takes effect later.
/// Milliseconds.
const LEASE_MARGIN_MS: u64 = 100;
/// A quorum's answer to a confirmation is waited for this long.
const CONFIRM: Duration = Duration::from_millis(2 * LEASE_MS);

impl Lane {
    /// Does an entry need another replica to be committed?
    #[must_use]
    pub fn has_several_voters(&self) -> bool {
        self.inner.several.get()
    }

    /// How long ago a quorum answered this leader, by the time when it was asked. `None` if this replica does not lead.
    /// Milliseconds.
    #[must_use]
    pub fn last_quorum_ms(&self) -> Option<u64> {
        self.inner.last_quorum_ms()
    }

    /// Does this replica lead, serve, and can no other replica have been elected meanwhile? Then what it answers to a
    /// reader is not older than what another leader acknowledged. Always so for a single voter.
    #[must_use]
    pub fn holds_lease(&self) -> bool {
        let inner = &self.inner;
        let ready = inner.standing.leadership().ready;
        ready && (!inner.several.get() || !inner.gate.is_transferring() && inner.is_confirmed_lately())
    }

    /// Asks a quorum whether this replica still leads: on success it did after the call began, and served all the time
    /// in one term.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`]; [`ProposeError::Unconfirmed`] if no quorum answered within a second.
    pub async fn confirm(&self) -> Result<(), ProposeError> {
        let inner = &self.inner;
        let term = inner.standing.serving()?;
        if !inner.several.get() {
            return Ok(());
        }
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(CONFIRM);
        match scoped(inner.env.clone(), inner.raft.get_read_linearizer(option)).await {
            Ok(_) if inner.standing.serving() == Ok(term) => Ok(()),
            Ok(_) => Err(ProposeError::NotLeader { hint: inner.standing.leadership().leader }),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { hint: proposal::hint(&forward) })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ProposeError::Unconfirmed),
            Err(RaftError::Fatal(_)) => Err(inner.standing.abandoned()),
        }
    }
}

impl Inner {
    fn last_quorum_ms(&self) -> Option<u64> {
        if !self.several.get() {
            return self.standing.leadership().ready.then_some(0);
        }
        let acked = self.metrics.borrow_watched().last_quorum_acked?.into_inner();
        let since = self.env.clock.now().since(acked.mono());
        Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_confirmed_lately(self: &Rc<Self>) -> bool {
        self.last_quorum_ms().is_some_and(|ms| ms + LEASE_MARGIN_MS <= LEASE_MS)
    }
}
