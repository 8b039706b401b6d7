//! A proposal on its way through the group, and what comes back.
//!
//! Owns: the slot a proposal waits on (one allocation), the count of proposals in flight, the errors and what each
//! says about the log. Affinity: shard-local.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use tidewater_storage::disposition::Disposition;
use tidewater_storage::model::{EntryId, NodeId};

use super::leadership::Standing;
use super::type_config::{Types, WriteResult, entry_id, replica_id};

/// What [`super::Apply::apply`] returned for an entry; only the local proposer gets it.
pub struct Answer(pub Box<dyn Any>);

impl Answer {
    /// An answer without content.
    #[must_use]
    pub fn none() -> Self {
        // A box of a zero-sized type does not allocate.
        Self(Box::new(()))
    }

    /// An answer that carries a value.
    #[must_use]
    pub fn of<T: 'static>(value: T) -> Self {
        Self(Box::new(value))
    }

    /// The value, if it is a `T`.
    ///
    /// # Errors
    /// The answer itself, when it is something else.
    pub fn take<T: 'static>(self) -> Result<T, Self> {
        self.0.downcast().map(|value| *value).map_err(Self)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

/// Why a proposal did not come back with an answer.
///
/// After an error whose outcome is not known ([`Disposition::outcome_is_known`]) a proposer proposes nothing until
/// everything it has in flight is settled, then continues from applied state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead, or does not yet serve in its term. Nothing was written.
    #[error("this replica does not lead the lane; leader: {hint:?}")]
    NotLeader {
        /// Who does, if known.
        hint: Option<NodeId>,
    },
    /// It leads, but no quorum has answered for a while. Nothing was written; propose again once one has.
    #[error("this leader has had no answer from a quorum lately; nothing was written, propose again")]
    Unconfirmed,
    /// Too many proposals in flight. Nothing was written.
    #[error("{cap} proposals are in flight on this lane, the most there may be; wait for one")]
    Full { cap: usize },
    /// The journal would refuse the entry, which would end the group. Nothing was written.
    #[error(
        "the entry takes {bytes} bytes of the journal, more than the {max} that fit in one of its files; ask for less at a time"
    )]
    TooLarge { bytes: u64, max: u64 },
    /// Leadership changed while it was in flight: the entry may or may not be in the log.
    #[error("leadership changed while the proposal was in flight, its outcome is unknown; leader: {hint:?}")]
    Unknown {
        /// Who leads, if known.
        hint: Option<NodeId>,
    },
    /// The lane was shut down with the proposal in flight, or before.
    #[error("the lane is shut down; the proposal's outcome is unknown until it starts again")]
    Shutdown,
    /// The group died. The node must abort; recovery decides what became of the entry.
    #[error("the lane's group has died; the proposal's outcome is unknown until recovery")]
    Fatal,
}

impl ProposeError {
    /// [`Disposition::Unknown`] and [`Disposition::Fatal`]: the entry may or may not be in the log. After all others
    /// nothing was written.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NotLeader { .. } => Disposition::Conflict,
            Self::Unconfirmed | Self::Full { .. } => Disposition::Retry,
            Self::TooLarge { .. } => Disposition::Refused,
            Self::Unknown { .. } => Disposition::Unknown,
            Self::Shutdown | Self::Fatal => Disposition::Fatal,
        }
    }
}

pub(super) fn hint(forward: &ForwardToLeader<Types>) -> Option<NodeId> {
    forward.leader_id.map(|id| replica_id(id).node)
}

/// The proposer's result for openraft's answer.
fn outcome(result: WriteResult) -> Result<(EntryId, Answer), ProposeError> {
    match result {
        Ok(done) => Ok((entry_id(&done.log_id), done.data)),
        Err(ClientWriteError::ForwardToLeader(forward)) => match forward.reason {
            ForwardReason::LeaseExpired => Err(ProposeError::Unconfirmed),
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                Err(ProposeError::NotLeader { hint: hint(&forward) })
            }
        },
        Err(ClientWriteError::LogEntryDiscarded(forward)) => Err(ProposeError::Unknown { hint: hint(&forward) }),
        // Refused before it reached the log: the term the proposal was formed in is over.
        Err(ClientWriteError::PreconditionFailed(_) | ClientWriteError::ChangeMembershipError(_)) => {
            Err(ProposeError::NotLeader { hint: None })
        }
    }
}

struct ProposalState<T> {
    value: RefCell<Option<T>>,
    abandoned: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
    in_flight: Rc<Cell<usize>>,
}

/// openraft's side of a proposal: completes it, or abandons it when dropped.
pub(crate) struct Responder<T> {
    slot: Rc<ProposalState<T>>,
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        let slot = &self.slot;
        slot.in_flight.set(slot.in_flight.get() - 1);
        slot.abandoned.set(true);
        if let Some(waiter) = slot.waiter.take() {
            waiter.wake();
        }
    }
}

impl<T: 'static> openraft::raft::responder::Responder<Types, T> for Responder<T> {
    fn on_complete(self, result: T) {
        self.slot.value.replace(Some(result));
    }
}

/// A proposal in flight. Dropping it does not cancel the entry.
pub struct Proposal {
    stage: Stage,
}

enum Stage {
    Refused(ProposeError),
    Waiting { slot: Rc<ProposalState<WriteResult>>, standing: Rc<Standing> },
}

impl Proposal {
    /// A proposal that was never sent.
    pub(crate) fn refused(error: ProposeError) -> Self {
        Self { stage: Stage::Refused(error) }
    }

    /// Both sides of a proposal, counted as in flight.
    pub(crate) fn new(standing: Rc<Standing>) -> (Self, Responder<WriteResult>) {
        let in_flight = standing.in_flight().clone();
        in_flight.set(in_flight.get() + 1);
        let slot = Rc::new(ProposalState {
            value: RefCell::new(None),
            abandoned: Cell::new(false),
            waiter: RefCell::new(None),
            in_flight,
        });
        (Self { stage: Stage::Waiting { slot: slot.clone(), standing } }, Responder { slot })
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stage {
            Stage::Refused(error) => f.debug_tuple("Proposal").field(error).finish(),
            Stage::Waiting { .. } => f.write_str("Proposal(in flight)"),
        }
    }
}

impl Future for Proposal {
    type Output = Result<(EntryId, Answer), ProposeError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &self.stage {
            Stage::Refused(error) => Poll::Ready(Err(error.clone())),
            Stage::Waiting { slot, standing } => {
                if let Some(result) = slot.value.take() {
                    return Poll::Ready(outcome(result));
                }
                if slot.abandoned.get() {
                    return Poll::Ready(Err(standing.abandoned()));
                }
                slot.waiter.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_give_back_what_they_carry() {
        assert_eq!(Answer::of(7u64).take::<u64>().expect("a u64"), 7);
        assert!(Answer::of(7u64).take::<String>().is_err());
    }

    #[test]
    fn only_refusals_have_a_known_outcome() {
        assert!(ProposeError::NotLeader { hint: None }.disposition().outcome_is_known());
        assert!(ProposeError::Unconfirmed.disposition().outcome_is_known());
        assert!(ProposeError::Full { cap: 1 }.disposition().outcome_is_known());
        assert!(ProposeError::TooLarge { bytes: 2, max: 1 }.disposition().outcome_is_known());
        assert!(!ProposeError::Unknown { hint: None }.disposition().outcome_is_known());
        assert!(!ProposeError::Shutdown.disposition().outcome_is_known());
        assert!(!ProposeError::Fatal.disposition().outcome_is_known());
    }
}
