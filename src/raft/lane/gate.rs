//! Where proposals wait, in the order of calls, while leadership is confirmed or handed over.
//!
//! openraft refuses a write once no quorum has answered for as long as a lease, and all writes once leadership is
//! handed over. Such a proposal would come back as refused and another, proposed later, might pass it. So it waits
//! here: for one confirmation, after which it is proposed or refused; during a hand-over until that succeeds (then it
//! is refused with the next leader's name) or is given up. A lane of a single voter never uses the gate. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader};
use openraft::raft::responder::Responder as _;
use tidewater_storage::journal::Payload;
use tidewater_storage::model::Term;

use super::{Inner, Lane};
use crate::raft::leadership::View;
use crate::raft::proposal::{ProposeError, Responder};
use crate::raft::runtime::scope::scoped;
use crate::raft::type_config::WriteResult;

/// A proposal on its way to openraft.
pub(super) struct Held {
    pub(super) payload: Payload,
    pub(super) term: Term,
    pub(super) responder: Responder<WriteResult>,
}

#[derive(Default)]
pub(super) struct Gate {
    waiting: RefCell<VecDeque<Held>>,
    /// A confirmation is under way.
    confirming: Cell<bool>,
    /// The term in which leadership is being handed over.
    transferring: Cell<Option<Term>>,
}

impl Gate {
    pub(super) fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub(super) fn is_transferring(&self) -> bool {
        self.transferring.get().is_some()
    }

    /// Holds all proposals from now on; false if they are held already.
    pub(super) fn begin_transfer(&self, term: Term) -> bool {
        if self.is_transferring() {
            return false;
        }
        self.transferring.set(Some(term));
        true
    }

    /// The group is ending: what waits has no answer.
    pub(super) fn drop_all(&self) {
        drop(self.waiting.take());
    }
}

impl Inner {
    /// Proposes at once, or lets the proposal wait.
    pub(super) fn admit(self: &Rc<Self>, held: Held) {
        let gate = &self.gate;
        let open = !self.several.get()
            || !gate.is_transferring() && gate.waiting.borrow().is_empty() && self.is_confirmed_lately();
        if open {
            return self.send(held);
        }
        gate.waiting.borrow_mut().push_back(held);
        if !gate.is_transferring() {
            self.open_after_confirmation();
        }
    }

    fn open_after_confirmation(self: &Rc<Self>) {
        if self.gate.confirming.replace(true) {
            return;
        }
        let inner = self.clone();
        drop(self.env.tasks.spawn(
            "raft-confirm",
            scoped(self.env.clone(), async move {
                let confirmed = Lane { inner: inner.clone() }.confirm().await;
                inner.gate.confirming.set(false);
                match confirmed {
                    // During a hand-over they wait for its end.
                    _ if inner.gate.is_transferring() => {}
                    Err(ProposeError::Unconfirmed) => inner.refuse_all(),
                    // openraft itself refuses what is proposed for a term that is over.
                    Ok(()) | Err(_) => inner.send_all(),
                }
            }),
        ));
    }

    /// Proposals may pass again: after a hand-over that was given up.
    pub(super) fn end_transfer(self: &Rc<Self>) {
        self.gate.transferring.set(None);
        if self.gate.len() > 0 {
            self.open_after_confirmation();
        }
    }

    /// Follows a change of leadership: what waited for the end of this replica's own is refused by openraft.
    pub(super) fn gate_after(self: &Rc<Self>, view: View) {
        let over = self.gate.transferring.get().is_some_and(|term| !view.leads || view.term != term);
        if over {
            self.gate.transferring.set(None);
        }
        if !view.leads && !self.gate.confirming.get() {
            self.send_all();
        }
    }

    fn send_all(self: &Rc<Self>) {
        while let Some(held) = { self.gate.waiting.borrow_mut().pop_front() } {
            self.send(held);
        }
    }

    fn refuse_all(&self) {
        let waiting = self.gate.waiting.take();
        for held in waiting {
            let refusal = ForwardToLeader::empty().with_reason(ForwardReason::LeaseExpired);
            held.responder.on_complete(Err(ClientWriteError::ForwardToLeader(refusal)));
        }
    }
}
