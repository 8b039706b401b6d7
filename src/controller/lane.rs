//! The controller's lane: its state machine over Raft. Shard-local, on shard 0 alone.

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::engine::{Engine, LaneCheckpoint};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LaneId, Term};

use super::command::Command;
use super::state::{ControllerState, Verdict};
use crate::partition::state::codec::{begin_lane_blob, open_lane_blob};
use crate::partition::state::event::Bell;
use crate::partition::state::not_understood::{NotUnderstood, Stopped};
use crate::raft::{Answer, Apply, Lane, ProposeError};

/// State machine and Raft group of lane 0.
pub struct ControllerLane {
    engine: Engine,
    state: RefCell<ControllerState>,
    applied: Cell<Option<EntryId>>,
    /// Who votes, as of `applied`: Raft's, for the checkpoint.
    membership: RefCell<Bytes>,
    leading: Cell<Option<Term>>,
    stopped: Stopped,
    raft: OnceCell<Lane>,
    /// Rung when leadership changes.
    pub leadership_bell: Rc<Bell>,
}

impl fmt::Debug for ControllerLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControllerLane(revision {})", self.state.borrow().revision)
    }
}

/// The controller's checkpoint cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller's checkpoint is malformed or of a newer version")]
pub struct BadControllerBlob;

impl ControllerLane {
    /// As the checkpoint held it; an empty blob is a new cluster. Also gives Raft's membership blob.
    ///
    /// # Errors
    /// The blob is malformed.
    pub fn recover(
        engine: Engine,
        applied: Option<EntryId>,
        blob: &Bytes,
    ) -> Result<(Self, Option<Bytes>), BadControllerBlob> {
        let (state, membership) = if blob.is_empty() {
            (ControllerState::default(), Bytes::new())
        } else {
            let (membership, mut from) = open_lane_blob(blob).ok_or(BadControllerBlob)?;
            let state = from.blob().and_then(ControllerState::decode).ok_or(BadControllerBlob)?;
            (state, membership)
        };
        let lane = Self {
            engine,
            state: RefCell::new(state),
            applied: Cell::new(applied),
            membership: RefCell::new(membership.clone()),
            leading: Cell::new(None),
            stopped: Stopped::default(),
            raft: OnceCell::new(),
            leadership_bell: Rc::default(),
        };
        Ok((lane, Some(membership).filter(|membership| !membership.is_empty())))
    }

    /// Gives the lane its Raft group; once, before anything is proposed. What a checkpoint covered while the group started
    /// is let go of after the next one.
    pub fn attach(&self, raft: Lane) {
        let _ = self.raft.set(raft);
        if self.applied.get().is_some() {
            self.engine.touch_lane(LaneId::CONTROLLER);
        }
    }

    /// Its Raft group.
    #[must_use]
    pub fn raft(&self) -> Option<&Lane> {
        self.raft.get()
    }

    /// The applied state.
    #[must_use]
    pub fn state(&self) -> Ref<'_, ControllerState> {
        self.state.borrow()
    }

    /// Does this replica lead and serve?
    #[must_use]
    pub fn leading(&self) -> Option<Term> {
        self.leading.get()
    }

    /// Waits until this replica leads and has applied all that its log held.
    ///
    /// # Errors
    /// An entry was met that this version does not understand: the lane must not be served.
    pub async fn led(&self) -> Result<(), NotUnderstood> {
        while self.leading().is_none() {
            if let Some(why) = self.stopped.why() {
                return Err(why);
            }
            self.leadership_bell.heard().await;
        }
        Ok(())
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Option<EntryId> {
        self.applied.get()
    }

    /// Proposes a command and waits until it is applied.
    ///
    /// # Errors
    /// It was not committed, or it is not known whether it was.
    pub async fn propose(&self, command: &Command) -> Result<Verdict, ProposeError> {
        let raft = self.raft.get().ok_or(ProposeError::Shutdown)?;
        let (_, answer) = raft.propose(command.encode()).await?;
        Ok(answer.take::<Verdict>().unwrap_or(Verdict::Stale))
    }

    /// For the checkpoint.
    #[must_use]
    pub fn checkpoint(&self) -> Option<LaneCheckpoint> {
        Some(LaneCheckpoint { applied: self.applied.get()?, state: self.encode() })
    }

    fn encode(&self) -> Bytes {
        let mut out = begin_lane_blob(&self.membership.borrow());
        out.blob(&self.state.borrow().encode());
        out.finish()
    }
}

impl Apply for ControllerLane {
    fn apply(&self, id: EntryId, payload: &Payload) -> Answer {
        if self.stopped.is_set() {
            return Answer::of(Verdict::Stale);
        }
        let Some(command) = Command::decode(payload) else {
            let why = "an unknown command".to_owned();
            self.stopped.set(NotUnderstood { lane: LaneId::CONTROLLER, entry: id, why });
            self.leading.set(None);
            self.leadership_bell.ring();
            return Answer::of(Verdict::Stale);
        };
        let verdict = self.state.borrow_mut().apply(command);
        self.applied.set(Some(id));
        self.engine.touch_lane(LaneId::CONTROLLER);
        Answer::of(verdict)
    }

    fn applied_blank(&self, id: EntryId) {
        if !self.stopped.is_set() {
            self.applied.set(Some(id));
            self.engine.touch_lane(LaneId::CONTROLLER);
        }
    }

    fn membership(&self, blob: Bytes) {
        self.membership.replace(blob);
    }

    fn leading(&self, term: Term, _ready_at: EntryId) {
        self.leading.set(Some(term).filter(|_| !self.stopped.is_set()));
        self.leadership_bell.ring();
    }

    fn following(&self, _term: Term) {
        self.leading.set(None);
        self.leadership_bell.ring();
    }

    fn snapshot(&self) -> Bytes {
        self.encode()
    }

    fn install(&self, _at: EntryId, _state: Bytes) {
        // One voter never installs: there is nobody to send it a snapshot.
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tidewater_storage::engine::EngineConfig;
    use tidewater_storage::env::sim::World;
    use tidewater_storage::journal::JournalConfig;
    use tidewater_storage::model::LogIndex;

    use super::*;

    #[test]
    fn a_checkpoint_taken_before_the_group_stands_holds_who_votes() {
        let world = World::new(1);
        let env = world.env();
        world.block_on(async {
            let journal =
                JournalConfig { first_file_bytes: 32 << 10, file_bytes: 64 << 10, ..JournalConfig::default() };
            let config = EngineConfig { journal, ..EngineConfig::default() };
            let (engine, _) = Engine::open(env.clone(), PathBuf::from("/shard"), config).await.expect("opens");
            let mut blob = begin_lane_blob(b"voters");
            blob.blob(&ControllerState::default().encode());
            let blob = blob.finish();
            let applied = Some(EntryId { term: Term(1), index: LogIndex(5) });
            let recovered = ControllerLane::recover(engine.clone(), applied, &blob);
            let (lane, membership) = recovered.expect("is well formed");
            assert_eq!(membership.as_deref(), Some(&b"voters"[..]));
            assert_eq!(lane.checkpoint().expect("has applied").state, blob);
            lane.membership(Bytes::from_static(b"others"));
            let later = lane.checkpoint().expect("has applied").state;
            let (_, membership) = ControllerLane::recover(engine, applied, &later).expect("is well formed");
            assert_eq!(membership.as_deref(), Some(&b"others"[..]));
        });
    }
}
