//! openraft's log-store suite, and what it does not ask: clamping, reading in pieces, holes.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use openraft::StorageError;
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft_rt::Oneshot as _;
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::World;
use tidewater_storage::journal::{Journal, JournalConfig, Payload};
use tidewater_storage::model::{LaneId, NodeId, ReplicaId, Term};

use super::*;
use crate::raft::leadership::Standing;
use crate::raft::memory_log::{MemoryDisk, MemoryLog};
use crate::raft::runtime::oneshot::ShardOneshot;
use crate::raft::runtime::scope::{current, scoped};
use crate::raft::snapshot::{Marker, meta_of};
use crate::raft::state_machine::StateMachine;
use crate::raft::type_config::{CommittedLeader, Proposed, SnapshotMeta, StoredMembership};
use crate::raft::{Answer, Apply};

/// A layer above that keeps nothing.
struct Nothing;

impl Apply for Nothing {
    fn apply(&self, _: EntryId, _: &Payload) -> Answer {
        Answer::none()
    }
    fn applied_blank(&self, _: EntryId) {}
    fn membership(&self, _: Bytes) {}
    fn leading(&self, _: Term, _: EntryId) {}
    fn following(&self, _: Term) {}
}

/// A lane's state machine that also takes a snapshot over, which openraft's suite asks for and no lane does.
struct TakesOver {
    inner: StateMachine,
    standing: Rc<Standing>,
    current: Option<SnapshotMeta>,
}

impl RaftStateMachine<Types> for TakesOver {
    type SnapshotData = ();
    type SnapshotBuilder = Marker;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.inner.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin,
    {
        self.inner.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Marker {
        self.current = Some(meta_of(&self.standing));
        self.inner.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> Result<(), io::Error> {
        assert!(self.inner.install_snapshot(meta, ()).await.is_err(), "a lane takes no snapshot over");
        self.standing.take_over(meta);
        self.current = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<CommittedLeader, u64, (), ()>>, io::Error> {
        Ok(self.current.clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

fn state_machine() -> TakesOver {
    let me = ReplicaId::first(NodeId(1));
    let standing = Rc::new(Standing::new(LaneId(1), me, Rc::new(Nothing), None, StoredMembership::default()));
    let inner = StateMachine::new(standing.clone(), Rc::new(|| None), ShardOneshot::channel().0);
    TakesOver { inner, standing, current: None }
}

struct Memories;

impl StoreBuilder<Types, LogStore<MemoryLog>, TakesOver, ()> for Memories {
    async fn build(&self) -> Result<((), LogStore<MemoryLog>, TakesOver), StorageError<Types>> {
        let log = MemoryLog::open(&current(), &MemoryDisk::default(), Some(Duration::from_micros(100)));
        Ok(((), LogStore::new(log), state_machine()))
    }
}

/// A new journal per case, on the simulated disk.
#[derive(Default)]
struct Journals(std::sync::atomic::AtomicU32);

impl StoreBuilder<Types, LogStore<LaneLog>, TakesOver, ()> for Journals {
    async fn build(&self) -> Result<((), LogStore<LaneLog>, TakesOver), StorageError<Types>> {
        let case = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::path::PathBuf::from(format!("/journal-{case}"));
        let config = JournalConfig { file_bytes: 64 << 10, capacity_bytes: 512 << 10, ..JournalConfig::default() };
        let journal = Journal::open(Env::clone(&current()), &dir, config).await.expect("opens");
        Ok(((), LogStore::new(journal.lane(LaneId(1))), state_machine()))
    }
}

fn in_a_world<T>(test: impl AsyncFnOnce() -> T) -> T {
    let world = World::new(7);
    world.block_on(scoped(Rc::new(world.env()), test()))
}

#[test]
fn openrafts_suite_passes_over_memory() {
    in_a_world(async || Suite::test_all(Memories).await).expect("every case passes");
}

#[test]
fn openrafts_suite_passes_over_the_journal() {
    in_a_world(async || Suite::test_all(Journals::default()).await).expect("every case passes");
}

fn id(term: u64, index: u64) -> EntryId {
    EntryId { term: Term(term), index: LogIndex(index) }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload = Payload { meta: Bytes::new(), blobs: vec![Bytes::from(vec![0; bytes])], verified: false };
    Entry { log_id: log_id(id(term, index)), payload: openraft::EntryPayload::Normal(Proposed(payload)) }
}

#[test]
fn committed_never_passes_the_log() {
    assert_eq!(clamped(Some(id(2, 9)), Some(id(1, 4))), Some(id(1, 4)));
    assert_eq!(clamped(Some(id(1, 3)), Some(id(1, 4))), Some(id(1, 3)));
    assert_eq!(clamped(Some(id(1, 3)), None), None);
    assert_eq!(clamped(None, Some(id(1, 3))), None);
}

#[test]
fn a_log_purged_past_its_end_is_empty_and_ends_there() {
    let state = LaneLogState { last: Some(id(1, 4)), purged: Some(id(3, 9)), ..LaneLogState::default() };
    assert_eq!(last_of(&state), Some(id(3, 9)));
}

#[test]
fn applying_reads_in_pieces_and_misses_nothing() {
    in_a_world(async || {
        let log = MemoryLog::open(&current(), &MemoryDisk::default(), None);
        let mut store = LogStore::new(log);
        let entries = (0..40).map(|index| entry(1, index, 512 << 10));
        store.append(entries, IOFlushed::noop()).await.expect("appends");
        let pieces = store.limited_get_log_entries(3, 40).await.expect("reads");
        assert_eq!(pieces.len(), 2, "about a megabyte");
        let all: Vec<_> =
            store.entries_stream(3..40).await.map(|entry| entry.expect("reads").log_id.index).collect().await;
        assert_eq!(all, (3..40).collect::<Vec<_>>());
        assert_eq!(store.try_get_log_entries(..).await.expect("reads").len(), 40);
    });
}

#[test]
fn a_hole_is_an_error() {
    in_a_world(async || {
        let log = MemoryLog::open(&current(), &MemoryDisk::default(), None);
        let mut store = LogStore::new(log);
        store.append([entry(1, 5, 1), entry(1, 6, 1)], IOFlushed::noop()).await.expect("appends");
        let read: Vec<_> = store.entries_stream(3..7).await.collect().await;
        assert!(read.iter().any(Result::is_err));
    });
}
