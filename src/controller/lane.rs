//! The controller's lane: its state machine over Raft. Shard-local, on shard 0 alone.

use std::cell::{Ref, RefCell};
use std::fmt;

use bytes::Bytes;
use tidewater_storage::codec::CodecError;
use tidewater_storage::engine::{Engine, LaneCheckpoint};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LaneId, Term};

use super::command::{Command, CommandError};
use super::state::{ControllerState, Verdict};
use crate::partition::state::codec::{LaneBlob, MEMBERSHIP, lane_blob, open_lane_blob};
use crate::raft::{Answer, Apply, LaneStatus, ProposeError};

/// State machine and Raft group of lane 0.
pub struct ControllerLane {
    pub status: LaneStatus,
    state: RefCell<ControllerState>,
}

impl fmt::Debug for ControllerLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControllerLane(revision {})", self.state.borrow().revision)
    }
}

const STATE: u64 = 2;
const WHAT: &str = "controller checkpoint";

/// The controller's checkpoint cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct BadControllerBlob(#[from] CodecError);

impl ControllerLane {
    /// As the checkpoint held it; an empty blob is a new cluster. Also returns Raft's membership blob.
    ///
    /// # Errors
    /// The blob is malformed.
    pub fn recover(
        engine: Engine,
        applied: Option<EntryId>,
        blob: &Bytes,
    ) -> Result<(Self, Option<Bytes>), BadControllerBlob> {
        let (state, membership) =
            if blob.is_empty() { (ControllerState::default(), Bytes::new()) } else { decode(blob)? };
        let status = LaneStatus::recovered(LaneId::CONTROLLER, engine, applied, membership.clone());
        let lane = Self { status, state: RefCell::new(state) };
        Ok((lane, Some(membership).filter(|membership| !membership.is_empty())))
    }

    #[must_use]
    pub fn state(&self) -> Ref<'_, ControllerState> {
        self.state.borrow()
    }

    /// Proposes a command and waits until it is applied.
    ///
    /// # Errors
    /// It was not committed, or it is not known whether it was.
    pub async fn propose(&self, command: &Command) -> Result<Verdict, ProposeError> {
        let (id, answer) = self.status.propose(command.encode()).await?;
        match answer.take::<Verdict>() {
            Ok(verdict) => Ok(verdict),
            Err(_) => unreachable!("the controller's lane applied entry {id} and answered no verdict"),
        }
    }

    #[must_use]
    pub fn checkpoint(&self) -> Option<LaneCheckpoint> {
        Some(LaneCheckpoint { applied: self.status.applied()?, state: self.encode() })
    }

    fn encode(&self) -> Bytes {
        encode(&self.status.membership(), &self.state.borrow())
    }
}

fn encode(membership: &[u8], state: &ControllerState) -> Bytes {
    lane_blob(membership, |out| out.section(STATE, true, |out| out.raw(&state.encode())))
}

/// State and Raft's membership.
fn decode(blob: &Bytes) -> Result<(ControllerState, Bytes), CodecError> {
    match open_lane_blob(WHAT, blob)? {
        LaneBlob::Sections(mut sections) => {
            let (mut membership, mut state) = (None, None);
            while let Some((tag, mut body)) = sections.next(&[MEMBERSHIP, STATE])? {
                match tag {
                    MEMBERSHIP => membership = Some(Bytes::copy_from_slice(body.rest())),
                    _ => state = Some(ControllerState::decode(body.rest()).ok_or_else(|| body.bad("state"))?),
                }
            }
            Ok((sections.required(STATE, state)?, sections.required(MEMBERSHIP, membership)?))
        }
        LaneBlob::Positional(membership, mut from) => {
            let state = ControllerState::decode(from.blob()?).ok_or_else(|| from.bad("state"))?;
            from.end()?;
            Ok((state, membership))
        }
    }
}

impl Apply for ControllerLane {
    fn apply(&self, id: EntryId, payload: &Payload) -> Answer {
        let applied = self.status.apply(id, || {
            let command = Command::decode(payload)?;
            Ok::<_, CommandError>(self.state.borrow_mut().apply(command))
        });
        // A stopped lane changes nothing.
        Answer::of(applied.and_then(Result::ok).unwrap_or(Verdict::Stale))
    }

    fn applied_blank(&self, id: EntryId) {
        self.status.applied_blank(id);
    }

    fn membership(&self, blob: Bytes) {
        self.status.set_membership(blob);
    }

    fn leading(&self, term: Term, _ready_at: EntryId) {
        self.status.set_leading(term);
    }

    fn following(&self, _term: Term) {
        self.status.set_following();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use tidewater_storage::engine::EngineConfig;
    use tidewater_storage::env::sim::World;
    use tidewater_storage::journal::JournalConfig;
    use tidewater_storage::model::{LogIndex, TopicId, TopicName};

    use super::*;
    use crate::partition::state::golden;

    #[test]
    fn every_version_of_the_checkpoint_is_read() {
        let mut state = ControllerState::default();
        state.apply(crate::controller::plan::genesis(uuid::Uuid::from_u128(9)));
        let (name, id) = (TopicName::new("orders").expect("legal"), TopicId(uuid::Uuid::from_u128(7)));
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        state.apply(Command::CreateTopic { name: name.clone(), id, lanes: vec![LaneId(1), LaneId(2)], overrides });
        golden::frozen("controller-v2", &encode(b"voters", &state));
        let read = |name| decode(&golden::kept(name)).expect("is read");
        assert_eq!(read("controller-v2"), (state.clone(), Bytes::from_static(b"voters")));
        // Version 1 did not keep the revision of a topic's last change.
        state.topics.get_mut(&name).expect("is there").changed = 0;
        assert_eq!(read("controller-v1"), (state, Bytes::from_static(b"voters")));
    }

    #[test]
    fn a_checkpoint_of_a_newer_version_is_refused_with_what_to_do() {
        let mut blob = encode(b"voters", &ControllerState::default()).to_vec();
        blob.extend_from_slice(&[100, 1, 0]);
        let refused = decode(&blob.into()).expect_err("a section must be known");
        assert!(refused.is_newer() && refused.to_string().contains("start the newer"), "{refused}");
        let state = br#"{"cluster":"00000000-0000-0000-0000-000000000000","topics":{},"next_producer_id":0,"revision":0,"users":[]}"#;
        assert_eq!(ControllerState::decode(state), None, "a field that is not known would be lost");
    }

    #[test]
    fn a_checkpoint_taken_before_the_group_stands_holds_who_votes() {
        let world = World::new(1);
        let env = world.env();
        world.block_on(async {
            let journal =
                JournalConfig { first_file_bytes: 32 << 10, file_bytes: 64 << 10, ..JournalConfig::default() };
            let config = EngineConfig { journal, ..EngineConfig::default() };
            let (engine, _) = Engine::open(env.clone(), PathBuf::from("/shard"), config).await.expect("opens");
            let blob = encode(b"voters", &ControllerState::default());
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
