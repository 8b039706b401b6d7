//! The controller's lane: its state machine over Raft. Shard-local, on shard 0 alone.

use std::cell::{Ref, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::engine::{Engine, LaneCheckpoint};
use tidewater_storage::journal::Payload;
use tidewater_storage::model::{EntryId, LaneId, Term};
use tokio::sync::Notify;

use super::command::{Command, CommandError};
use super::lane_table::LaneTable;
use super::state::{ControllerState, Verdict};
use crate::partition::state::codec::{LaneBlob, MEMBERSHIP, lane_blob, open_lane_blob};
use crate::raft::{Answer, Apply, LaneStatus, ProposeError};

/// State machine and Raft group of lane 0.
pub struct ControllerLane {
    pub status: LaneStatus,
    /// Notified when a command was applied.
    pub(super) changed: Notify,
    /// Notified when leadership begins or ends.
    pub(super) leadership: Notify,
    state: RefCell<ControllerState>,
}

impl fmt::Debug for ControllerLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ControllerLane(revision {})", self.state.borrow().revision)
    }
}

const STATE: u64 = 2;
const FEATURES: u64 = 3;
const LANES: u64 = 4;
const BROKERS: u64 = 11;
const SOURCES: u64 = 12;
const LINEAGE: u64 = 10;
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
        let (changed, leadership) = (Notify::default(), Notify::default());
        let lane = Self { status, changed, leadership, state: RefCell::new(state) };
        Ok((lane, Some(membership).filter(|membership| !membership.is_empty())))
    }

    /// The lane is to be rebuilt, and its group has ended. What it has applied is shown until
    /// [`ControllerLane::restore`].
    pub fn clear(&self) {
        self.status.detach();
    }

    /// Takes over a state as of `applied`, as [`ControllerLane::recover`] does; returns Raft's membership blob.
    ///
    /// # Errors
    /// The blob is malformed; nothing was changed.
    pub fn restore(&self, applied: EntryId, blob: &Bytes) -> Result<Bytes, BadControllerBlob> {
        let (state, membership) = decode(blob)?;
        self.status.restore(applied, membership.clone());
        self.state.replace(state);
        self.changed.notify_waiters();
        Ok(membership)
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

/// The checkpoint blob of a controller's lane that begins with this state.
#[must_use]
pub fn begun_with(membership: &[u8], state: &ControllerState) -> Bytes {
    encode(membership, state)
}

fn encode(membership: &[u8], state: &ControllerState) -> Bytes {
    lane_blob(membership, |out| {
        out.section(STATE, true, |out| out.raw(&state.encode()));
        // Absent as long as the cluster's level does not allow them: what is written then, the version before reads.
        section(out, FEATURES, &state.features, state.features.is_empty());
        section(out, LANES, &state.lanes, state.lanes == LaneTable::default());
        section(out, LINEAGE, &state.lineage.as_deref(), state.lineage.is_none());
        section(out, BROKERS, &state.brokers, state.brokers.is_empty());
        section(out, SOURCES, &state.sources, state.sources.is_empty());
    })
}

fn section(out: &mut Encoder, tag: u64, value: &impl Serialize, absent: bool) {
    if !absent {
        let json = serde_json::to_vec(value).expect("maps, numbers and strings serialise into memory");
        out.section(tag, true, |out| out.raw(&json));
    }
}

fn from_json<T: DeserializeOwned>(body: &mut Decoder<'_>, what: &'static str) -> Result<T, CodecError> {
    serde_json::from_slice(body.rest()).map_err(|_| body.bad(what))
}

/// State and Raft's membership.
fn decode(blob: &Bytes) -> Result<(ControllerState, Bytes), CodecError> {
    match open_lane_blob(WHAT, blob)? {
        LaneBlob::Sections(mut sections) => {
            let (mut membership, mut state) = (None, None);
            let (mut features, mut lanes) = (BTreeMap::new(), LaneTable::default());
            let (mut brokers, mut sources) = (BTreeMap::new(), BTreeMap::new());
            let mut lineage = None;
            let known = [MEMBERSHIP, STATE, FEATURES, LANES, BROKERS, SOURCES, LINEAGE];
            while let Some((tag, mut body)) = sections.next(&known)? {
                match tag {
                    MEMBERSHIP => membership = Some(Bytes::copy_from_slice(body.rest())),
                    FEATURES => features = from_json(&mut body, "feature levels")?,
                    LANES => lanes = from_json(&mut body, "lane table")?,
                    BROKERS => brokers = from_json(&mut body, "brokers")?,
                    LINEAGE => lineage = Some(from_json(&mut body, "lineage")?),
                    SOURCES => sources = from_json(&mut body, "sources")?,
                    _ => state = Some(ControllerState::decode(body.rest()).ok_or_else(|| body.bad("state"))?),
                }
            }
            let mut state: ControllerState = sections.required(STATE, state)?;
            (state.features, state.lanes) = (features, lanes);
            (state.brokers, state.sources) = (brokers, sources);
            state.lineage = lineage.map(Arc::new);
            Ok((state, sections.required(MEMBERSHIP, membership)?))
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
        self.changed.notify_waiters();
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
        self.leadership.notify_waiters();
    }

    fn following(&self, _term: Term) {
        self.status.set_following();
        self.leadership.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tidewater_storage::engine::EngineConfig;
    use tidewater_storage::env::sim::World;
    use tidewater_storage::journal::JournalConfig;
    use tidewater_storage::model::{LogIndex, NodeId, ReplicaId, TimestampMs, TopicId, TopicName};

    use super::*;
    use crate::controller::brokers;
    use crate::controller::command::Founder;
    use crate::controller::copies;
    use crate::controller::lane_table::{LaneRecord, Pool};
    use crate::controller::sources::{self, SourceId};
    use crate::partition::state::golden;

    #[test]
    fn every_version_of_the_checkpoint_is_read() {
        let mut state = ControllerState::default();
        state.apply(crate::controller::plan::genesis(uuid::Uuid::from_u128(9)));
        let (name, id) = (TopicName::new("orders").expect("legal"), TopicId(uuid::Uuid::from_u128(7)));
        let overrides = BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]);
        let lanes = vec![LaneId(1), LaneId(2)];
        state.apply(Command::CreateTopic { name: name.clone(), id, lanes, overrides, epoch_base: 0, copy: None });
        golden::frozen("controller-v2", &encode(b"voters", &state));
        let read = |name| decode(&golden::kept(name)).expect("is read");
        assert_eq!(read("controller-v2"), (state.clone(), Bytes::from_static(b"voters")));
        // Version 1 did not keep the revision of a topic's last change.
        state.topics.get_mut(&name).expect("is there").changed = 0;
        assert_eq!(read("controller-v1"), (state, Bytes::from_static(b"voters")));
    }

    #[test]
    fn brokers_lanes_and_levels_have_sections_of_their_own() {
        let mut state = ControllerState::default();
        let founders = [1, 2, 3].map(|node| {
            let address = brokers::tests::address(node, Some("a"), 1);
            Founder { node: NodeId(node), birth: uuid::Uuid::from_u128(node as u128), address }
        });
        let voters: Vec<_> = founders.iter().map(|founder| ReplicaId::first(founder.node)).collect();
        let cluster = uuid::Uuid::from_u128(9);
        state.apply(Command::Genesis { cluster, founders: founders.into(), voters: voters.clone(), level: 1 });
        let lane = LaneRecord::new(Pool::Shared, voters);
        state.apply(Command::AddLanes { lanes: [(LaneId(1), lane)].into() });
        let (birth, address) = (uuid::Uuid::from_u128(7), brokers::tests::address(2, None, 2));
        state.apply(Command::Register { node: NodeId(2), birth, address, replaces: true });
        assert_eq!(state.lanes.lanes[&LaneId(1)].replicas[1].incarnation.0, 1, "its replicas there are lost");
        assert_eq!(state.lanes.lanes[&LaneId(1)].initial[1].incarnation.0, 0);
        golden::frozen("controller-v2-cluster", &encode(b"voters", &state));
        let kept = golden::kept("controller-v2-cluster");
        assert_eq!(decode(&kept).expect("is read"), (state, Bytes::from_static(b"voters")));
    }

    #[test]
    fn a_topic_that_is_a_copy_is_frozen() {
        let mut state = ControllerState::default();
        state.apply(crate::controller::plan::genesis(uuid::Uuid::from_u128(9)));
        let (name, id) = (TopicName::new("orders").expect("legal"), TopicId(uuid::Uuid::from_u128(4)));
        let copy = Some(Box::new(copies::tests::copy(&[(40, 90), (0, 0)])));
        let (lanes, overrides) = (vec![LaneId(1), LaneId(2)], BTreeMap::new());
        state.apply(Command::CreateTopic { name, id, lanes, overrides, epoch_base: 1 << 20, copy });
        state.apply(Command::Copied { id, partition: 1, at: TimestampMs(50) });
        golden::frozen("controller-v2-copies", &encode(b"voters", &state));
        let kept = golden::kept("controller-v2-copies");
        assert_eq!(decode(&kept).expect("is read"), (state, Bytes::from_static(b"voters")));
    }

    #[test]
    fn sources_have_a_section_of_their_own() {
        let mut state = ControllerState::default();
        state.apply(crate::controller::plan::genesis(uuid::Uuid::from_u128(9)));
        let (id, spec) = (SourceId(uuid::Uuid::from_u128(3)), sources::tests::spec("east", 5));
        state.apply(Command::Follow { id, spec });
        golden::frozen("controller-v2-sources", &encode(b"voters", &state));
        let kept = golden::kept("controller-v2-sources");
        assert_eq!(decode(&kept).expect("is read"), (state, Bytes::from_static(b"voters")));
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
