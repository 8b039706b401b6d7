//! A lane's leader, what is applied, and when the state machine above is notified.
//!
//! Owns: one lane's standing, shared by its state machine (applies entries), its watcher (follows openraft's view) and
//! its handle (answers queries). The decision is pure ([`decide`]): a replica serves only once it leads *and* an entry
//! of its own term is applied; it stops when openraft says so or when an entry of a later term is applied, whichever
//! comes first. Affinity: shard-local; nothing is borrowed while the state machine above is called.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use openraft_rt::{Watch as _, WatchReceiver as _, WatchSender as _};
use tidewater_storage::env::Notify;
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LaneId, NodeId, ReplicaId, Term};

use super::codec;
use super::proposal::{Answer, ProposeError};
use super::runtime::watch::{self, ShardWatch};
use super::type_config::{Membership, StoredMembership, log_id};
use super::{Apply, LaneFatal, Leadership};

/// openraft's view of this replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The term it is in.
    pub(crate) term: Term,
    /// Who leads, as far as it knows.
    pub(crate) leader: Option<NodeId>,
    /// Does it lead itself?
    pub(crate) leads: bool,
}

/// The last notification to the state machine above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notified {
    Following,
    /// Leading in this term.
    Leading(Term),
}

/// The next notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    None,
    /// It leads and may serve.
    Leading(Term),
    /// It leads no longer; the term it is in.
    Following(Term),
}

/// The next notification, given the last one, openraft's view and the last applied entry.
pub(crate) fn decide(notified: Notified, view: View, applied: Option<EntryId>) -> News {
    let applied_term = applied.map_or(Term(0), |id| id.term);
    match notified {
        Notified::Leading(term) if !view.leads || view.term != term || applied_term > term => {
            News::Following(view.term.max(applied_term))
        }
        Notified::Leading(_) => News::None,
        Notified::Following if view.leads && applied_term == view.term => News::Leading(view.term),
        Notified::Following => News::None,
    }
}

/// How a lane ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Running,
    Shutdown,
    Died(LaneFatal),
}

pub(crate) struct Standing {
    lane: LaneId,
    me: ReplicaId,
    apply: Rc<dyn Apply>,
    applied: Cell<Option<EntryId>>,
    first_of_term: Cell<Option<EntryId>>,
    membership: RefCell<StoredMembership>,
    view: Cell<View>,
    notified: Cell<Notified>,
    in_flight: Rc<Cell<usize>>,
    /// Replicas that cannot catch up from the leader's log: on the leader, those that said so; elsewhere, this one.
    to_rebuild: RefCell<BTreeSet<ReplicaId>>,
    rebuild_changed: Notify,
    end: watch::Sender<End>,
    ends: watch::Receiver<End>,
}

impl Standing {
    pub(crate) fn new(
        lane: LaneId,
        me: ReplicaId,
        apply: Rc<dyn Apply>,
        applied: Option<EntryId>,
        membership: StoredMembership,
    ) -> Self {
        let (end, ends) = ShardWatch::channel(End::Running);
        Self {
            lane,
            me,
            apply,
            applied: Cell::new(applied),
            first_of_term: Cell::new(applied),
            membership: RefCell::new(membership),
            view: Cell::default(),
            notified: Cell::new(Notified::Following),
            in_flight: Rc::default(),
            to_rebuild: RefCell::default(),
            rebuild_changed: Notify::default(),
            end,
            ends,
        }
    }

    pub(crate) fn lane(&self) -> LaneId {
        self.lane
    }

    pub(crate) fn me(&self) -> ReplicaId {
        self.me
    }

    /// The replica lacks entries that are purged.
    pub(crate) fn must_rebuild(&self, replica: ReplicaId) {
        if self.to_rebuild.borrow_mut().insert(replica) {
            tracing::info!(lane = %self.lane, %replica, "a replica has to be rebuilt: the entries that it lacks are purged");
            self.rebuild_changed.notify();
        }
    }

    /// The replica holds what is purged.
    pub(crate) fn rebuilt(&self, replica: ReplicaId) {
        if self.to_rebuild.borrow_mut().remove(&replica) {
            self.rebuild_changed.notify();
        }
    }

    pub(crate) fn to_rebuild(&self) -> BTreeSet<ReplicaId> {
        self.to_rebuild.borrow().clone()
    }

    pub(crate) async fn rebuild_changed(&self) {
        self.rebuild_changed.notified().await;
    }

    pub(crate) fn applied(&self) -> Option<EntryId> {
        self.applied.get()
    }

    pub(crate) fn membership(&self) -> StoredMembership {
        self.membership.borrow().clone()
    }

    pub(crate) fn in_flight(&self) -> &Rc<Cell<usize>> {
        &self.in_flight
    }

    /// openraft's view, as last seen.
    pub(crate) fn view(&self) -> View {
        self.view.get()
    }

    pub(crate) fn leadership(&self) -> Leadership {
        let view = self.view.get();
        let ready = self.notified.get() == Notified::Leading(view.term);
        Leadership { term: view.term, leader: view.leader, ready }
    }

    /// The term to propose in, or why not.
    pub(crate) fn serving(&self) -> Result<Term, ProposeError> {
        if !self.is_running() {
            return Err(self.abandoned());
        }
        match self.notified.get() {
            Notified::Leading(term) => Ok(term),
            Notified::Following => Err(ProposeError::NotLeader { hint: self.view.get().leader }),
        }
    }

    pub(crate) fn see(&self, view: View) {
        let before = self.view.replace(view);
        if before.leads && !view.leads {
            // The next leader finds out by itself which replicas lack what.
            self.to_rebuild.borrow_mut().clear();
        }
        self.notify();
    }

    /// Applies a proposed entry.
    pub(crate) fn apply(&self, id: EntryId, payload: &Payload) -> Answer {
        self.before(id);
        let answer = self.apply.apply(id, payload);
        self.after(id);
        answer
    }

    /// Applies an entry without content for the layer above.
    pub(crate) fn apply_blank(&self, id: EntryId, membership: Option<Membership>) {
        self.before(id);
        if let Some(membership) = membership {
            self.member(StoredMembership::new(Some(log_id(id)), membership));
        }
        self.apply.applied_blank(id);
        self.after(id);
    }

    fn member(&self, membership: StoredMembership) {
        self.apply.membership(codec::encode_stored(&membership));
        self.membership.replace(membership);
    }

    /// As after a snapshot, for openraft's suite.
    #[cfg(test)]
    pub(crate) fn take_over(&self, meta: &super::type_config::SnapshotMeta) {
        self.membership.replace(meta.last_membership.clone());
        self.applied.set(meta.last_log_id.as_ref().map(super::type_config::entry_id));
    }

    /// An entry of a later term ends leadership before it is applied, also if openraft has not said so yet.
    fn before(&self, id: EntryId) {
        if let Notified::Leading(term) = self.notified.get()
            && id.term > term
        {
            self.notified.set(Notified::Following);
            self.apply.following(id.term);
        }
    }

    fn after(&self, id: EntryId) {
        if self.applied.get().is_none_or(|before| before.term != id.term) {
            self.first_of_term.set(Some(id));
        }
        self.applied.set(Some(id));
        self.notify();
    }

    /// Notifies until there is nothing new: a view may skip a term this replica led before.
    fn notify(&self) {
        loop {
            match decide(self.notified.get(), self.view.get(), self.applied.get()) {
                News::None => return,
                News::Leading(term) => {
                    self.notified.set(Notified::Leading(term));
                    if let Some(ready_at) = self.first_of_term.get() {
                        self.apply.leading(term, ready_at);
                    }
                }
                News::Following(term) => {
                    self.notified.set(Notified::Following);
                    self.apply.following(term);
                }
            }
        }
    }

    /// An orderly end begins.
    pub(crate) fn shut_down(&self) {
        self.end.send_if_modified(|end| {
            let running = *end == End::Running;
            if running {
                *end = End::Shutdown;
            }
            running
        });
    }

    /// The group ended by itself.
    pub(crate) fn die(&self, reason: String) {
        let lane = self.lane;
        let died = self.end.send_if_modified(|end| {
            let running = *end == End::Running;
            if running {
                *end = End::Died(LaneFatal { lane, reason });
            }
            running
        });
        if died && let Notified::Leading(term) = self.notified.replace(Notified::Following) {
            self.apply.following(term);
        }
    }

    /// Why a proposal that openraft dropped has no answer.
    pub(crate) fn abandoned(&self) -> ProposeError {
        match &*self.ends.borrow_watched() {
            End::Shutdown => ProposeError::Shutdown,
            // openraft drops a proposal only when its core is gone; the watcher may not have seen it yet.
            End::Running | End::Died(_) => ProposeError::Fatal,
        }
    }

    /// Neither shut down nor dead.
    pub(crate) fn is_running(&self) -> bool {
        *self.ends.borrow_watched() == End::Running
    }

    pub(crate) fn died(&self) -> Option<LaneFatal> {
        match &*self.ends.borrow_watched() {
            End::Died(fatal) => Some(fatal.clone()),
            End::Running | End::Shutdown => None,
        }
    }

    /// Resolves when the group dies; never after an orderly shutdown.
    pub(crate) async fn death(&self) -> LaneFatal {
        let mut ends = self.ends.clone();
        loop {
            if let Some(fatal) = self.died() {
                return fatal;
            }
            if ends.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::LogIndex;

    use super::*;

    fn at(term: u64) -> Option<EntryId> {
        Some(EntryId { term: Term(term), index: LogIndex(9) })
    }

    fn view(term: u64, leads: bool) -> View {
        View { term: Term(term), leader: None, leads }
    }

    #[test]
    fn a_leader_serves_only_after_an_entry_of_its_own_term() {
        assert_eq!(decide(Notified::Following, view(3, true), at(2)), News::None);
        assert_eq!(decide(Notified::Following, view(3, true), None), News::None);
        assert_eq!(decide(Notified::Following, view(3, true), at(3)), News::Leading(Term(3)));
        assert_eq!(decide(Notified::Following, view(3, false), at(3)), News::None);
        assert_eq!(decide(Notified::Leading(Term(3)), view(3, true), at(3)), News::None);
    }

    #[test]
    fn a_later_term_ends_it_however_it_is_seen() {
        assert_eq!(decide(Notified::Leading(Term(3)), view(3, false), at(3)), News::Following(Term(3)));
        assert_eq!(decide(Notified::Leading(Term(3)), view(4, false), at(3)), News::Following(Term(4)));
        assert_eq!(decide(Notified::Leading(Term(3)), view(3, true), at(4)), News::Following(Term(4)));
        // A view that lags behind does not bring it back.
        assert_eq!(decide(Notified::Following, view(3, true), at(4)), News::None);
    }
}
