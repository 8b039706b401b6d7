//! What the state machine of a lane keeps besides its own state: leadership, the last applied entry, the membership,
//! and the entry at which the lane stopped. The controller's lane and the data lanes share it.
//!
//! A lane stops at an entry that it cannot apply: one of a newer version, or a malformed one. To pass over the entry
//! would be made final by the next checkpoint, and its effect would be lost for the newer version too. Shard-local.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;

use bytes::Bytes;
use tidewater_storage::budget::DiskUsage;
use tidewater_storage::engine::Engine;
use tidewater_storage::env::Notify;
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LaneId, Term};

use super::{Answer, Lane, ProposeError};

/// An entry of a lane's log that this version cannot apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "lane {lane} stops at entry {entry}, which this version does not understand ({why}); nothing was changed: \
     start the newer version that wrote it"
)]
pub struct NotUnderstood {
    pub lane: LaneId,
    /// The first entry that is not applied.
    pub entry: EntryId,
    pub why: String,
}

/// The lane's Raft group, and after its end the next one. Ended groups stay, so that a reference to one stays good;
/// there is one for each rebuild of the lane since the start.
#[derive(Default)]
struct Group {
    raft: OnceCell<Lane>,
    next: OnceCell<Box<Self>>,
}

impl Group {
    fn last(&self) -> &Self {
        let mut group = self;
        while let Some(next) = group.next.get() {
            group = next;
        }
        group
    }
}

/// Leadership and progress of one lane on this broker.
pub struct LaneStatus {
    lane: LaneId,
    engine: Engine,
    group: Group,
    applied: Cell<Option<EntryId>>,
    /// Raft's membership as of `applied`.
    membership: RefCell<Bytes>,
    leading: Cell<Option<Term>>,
    /// The greatest term this replica ever led since its start.
    led: Cell<Term>,
    stopped: RefCell<Option<NotUnderstood>>,
    leadership: Notify,
}

impl fmt::Debug for LaneStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LaneStatus({}, leading {:?}, applied {:?})", self.lane, self.leading.get(), self.applied.get())
    }
}

impl LaneStatus {
    /// As a checkpoint holds it; nothing applied and an empty `membership` for a new lane.
    #[must_use]
    pub fn recovered(lane: LaneId, engine: Engine, applied: Option<EntryId>, membership: Bytes) -> Self {
        Self {
            lane,
            engine,
            group: Group::default(),
            applied: Cell::new(applied),
            membership: RefCell::new(membership),
            leading: Cell::new(None),
            led: Cell::default(),
            stopped: RefCell::default(),
            leadership: Notify::default(),
        }
    }

    /// The lane's group has ended, and its state is about to be replaced: nothing is applied, and no checkpoint has the
    /// lane, until [`LaneStatus::restore`].
    pub fn detach(&self) {
        assert!(self.group.last().next.set(Box::default()).is_ok(), "a last group has none after it");
        self.applied.set(None);
        self.membership.replace(Bytes::new());
        self.stopped.replace(None);
        self.set_following();
    }

    /// The lane's state was replaced by one as of `applied`.
    pub fn restore(&self, applied: EntryId, membership: Bytes) {
        assert!(self.raft().is_none() && self.applied.get().is_none(), "lane {} is in use", self.lane);
        self.applied.set(Some(applied));
        self.membership.replace(membership);
    }

    /// Gives the lane its Raft group; once, before anything is proposed. The next checkpoint purges what an earlier one
    /// covered while the group started.
    pub fn attach(&self, raft: Lane) {
        assert!(self.group.last().raft.set(raft).is_ok(), "lane {} was given a second Raft group", self.lane);
        if self.applied.get().is_some() {
            self.engine.touch_lane(self.lane);
        }
    }

    #[must_use]
    pub fn raft(&self) -> Option<&Lane> {
        self.group.last().raft.get()
    }

    /// The term in which this replica leads and serves; `None` while it does not.
    #[must_use]
    pub fn leading(&self) -> Option<Term> {
        self.leading.get()
    }

    /// Waits until this replica leads and has applied all that its log held.
    ///
    /// # Errors
    /// The log holds an entry that this version does not understand: the lane must not be served.
    pub async fn led(&self) -> Result<(), NotUnderstood> {
        while self.leading().is_none() {
            if let Some(why) = self.stopped.borrow().clone() {
                return Err(why);
            }
            self.leadership_changed().await;
        }
        Ok(())
    }

    /// Waits until leadership changed since the last wait. For one task at a time.
    pub async fn leadership_changed(&self) {
        self.leadership.notified().await;
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Option<EntryId> {
        self.applied.get()
    }

    /// Raft's membership as of [`LaneStatus::applied`], for the checkpoint.
    #[must_use]
    pub fn membership(&self) -> Bytes {
        self.membership.borrow().clone()
    }

    /// Proposes an entry at once; the future resolves when it is applied here. The order of calls is the order in the
    /// log.
    pub fn propose(&self, payload: Payload) -> impl Future<Output = Result<(EntryId, Answer), ProposeError>> + use<> {
        let proposal = self.raft().map(|raft| raft.propose(payload));
        async move { proposal.ok_or(ProposeError::Shutdown)?.await }
    }

    /// This broker's disk.
    #[must_use]
    pub fn disk(&self) -> DiskUsage {
        self.engine.usage()
    }

    /// May another proposal be in flight?
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.raft().is_none_or(Lane::has_room)
    }

    /// Runs `apply` for the entry `id`; the lane stops if it fails. `None`: the lane stopped at an earlier entry.
    pub fn apply<T, E: fmt::Display>(&self, id: EntryId, apply: impl FnOnce() -> Result<T, E>) -> Option<Result<T, E>> {
        if self.stopped.borrow().is_some() {
            return None;
        }
        let result = apply();
        match &result {
            Ok(_) => self.advance(id),
            Err(error) => self.stop(NotUnderstood { lane: self.lane, entry: id, why: error.to_string() }),
        }
        Some(result)
    }

    /// An entry without content was applied.
    pub fn applied_blank(&self, id: EntryId) {
        if self.stopped.borrow().is_none() {
            self.advance(id);
        }
    }

    /// The membership changes with the entry that is being applied.
    pub fn set_membership(&self, blob: Bytes) {
        self.membership.replace(blob);
    }

    /// This replica leads `term` and may serve, unless the lane has stopped.
    pub fn set_leading(&self, term: Term) {
        let before = self.led.replace(term);
        assert!(before <= term, "lane {} leads term {term:?} after term {before:?}", self.lane);
        self.leading.set(Some(term).filter(|_| self.stopped.borrow().is_none()));
        self.leadership.notify();
    }

    /// This replica leads no longer.
    pub fn set_following(&self) {
        self.leading.set(None);
        self.leadership.notify();
    }

    fn advance(&self, id: EntryId) {
        let before = self.applied.replace(Some(id));
        let continues = before.is_none_or(|before| before.index.next() == id.index && before.term <= id.term);
        assert!(continues, "lane {} applied entry {id} after {before:?}", self.lane);
        self.engine.touch_lane(self.lane);
    }

    fn stop(&self, why: NotUnderstood) {
        tracing::error!(error = %why, "a lane stops at an entry of a newer version");
        self.stopped.replace(Some(why));
        self.set_following();
    }
}
