//! The engine on the real disk under a real executor, once through: append, write back, checkpoint, close, open, read.
//! A smoke test: faults are tested on the simulated disk.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use tidewater_storage::engine::{CheckpointSource, Engine, EngineConfig, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::env::{Env, real};
use tidewater_storage::journal::{JournalConfig, JournalEntry, Payload};
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{
    Batch, Compression, EntryId, Incarnation, LaneId, LeaderEpoch, LogIndex, Offset, PartitionId, PartitionIndex, Term,
    TimestampMs, TopicId, batch,
};

const LANE: LaneId = LaneId(1);
const BATCHES: u64 = 400;

fn partition(n: u64) -> PartitionId {
    PartitionId { topic: TopicId::default(), index: PartitionIndex(n as i32), incarnation: Incarnation(1) }
}

fn sample(base: u64) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    let value = vec![base as u8; 20_000];
    builder.push(Record::new(TimestampMs(base as i64), None, Some(Bytes::from(value))));
    let mut bytes = BytesMut::from(&builder.build()[..]);
    batch::patch(&mut bytes, Offset::new(base), LeaderEpoch(1));
    Batch::split_from(&mut bytes.freeze()).expect("a batch")
}

fn entry(index: u64) -> EntryId {
    EntryId { term: Term(1), index: LogIndex(index) }
}

/// A layer above that has applied everything appended.
struct Above {
    engine: RefCell<Option<Engine>>,
    applied: Cell<Option<EntryId>>,
}

impl CheckpointSource for Above {
    fn lane(&self, _: LaneId) -> Option<LaneCheckpoint> {
        self.applied.get().map(|applied| LaneCheckpoint { applied, state: Bytes::from_static(b"lane") })
    }

    fn partition(&self, _: PartitionId) -> Option<PartitionCheckpoint> {
        let applied = self.applied.get()?;
        Some(PartitionCheckpoint { as_of: (LANE, applied.index), state: Bytes::from_static(b"state") })
    }

    fn checkpointed(&self, lane: LaneId, applied: EntryId) {
        if let Some(engine) = &*self.engine.borrow() {
            engine.lane(lane).purge(applied);
        }
    }
}

fn config() -> EngineConfig {
    let journal = JournalConfig { file_bytes: 1 << 20, capacity_bytes: 8 << 20, ..JournalConfig::default() };
    EngineConfig { journal, recent_bytes: 1 << 20, checkpoint_bytes: 2 << 20, ..EngineConfig::default() }
}

async fn check(engine: &Engine) {
    for n in 0..4 {
        let log = engine.partition(partition(n)).expect("is there");
        assert_eq!(log.bounds().end, Offset::new(BATCHES / 4));
        let (mut next, mut all) = (Offset::ZERO, Vec::new());
        while next < log.bounds().end {
            let read = log.read(next, log.bounds().end, 300_000).await.expect("reads");
            read.batches.iter().for_each(|bytes| all.extend_from_slice(bytes));
            next = read.range.end;
        }
        let want: Vec<u8> = (0..BATCHES / 4).flat_map(|base| sample(base).bytes.to_vec()).collect();
        assert!(all == want, "partition {n} is not what was appended");
        let found =
            log.find_time(TimestampMs(50), tidewater_storage::model::OffsetRange::new(Offset::ZERO, next)).await;
        assert_eq!(found.expect("reads").map(|found| found.offset), Some(Offset::new(50)));
    }
}

async fn fill(env: Env, dir: std::path::PathBuf) {
    let (engine, recovered) = Engine::open(env.clone(), dir, config()).await.expect("opens");
    assert!(recovered.partitions.is_empty());
    let above = Rc::new(Above { engine: RefCell::new(Some(engine.clone())), applied: Cell::new(None) });
    engine.set_source(above.clone());
    engine.start();
    let settings = LogSettings { segment_bytes: 500_000, ..LogSettings::default() };
    let logs: Vec<_> = (0..4).map(|n| engine.create_partition(partition(n), LANE, entry(0), settings)).collect();
    for index in 0..BATCHES {
        let (at, batch) = (entry(index), sample(index / 4));
        let payload =
            Payload { meta: Bytes::from_static(b"append"), blobs: vec![batch.bytes.clone()], verified: false };
        let room = engine.admit(batch.bytes.len() as u64);
        let (log, above) = (logs[index as usize % 4].clone(), above.clone());
        let done = Box::new(move |done: Result<(), _>| {
            done.expect("durable");
            log.append(batch, at);
            above.applied.set(Some(at));
            drop(room);
        });
        engine.lane(LANE).append(vec![JournalEntry { id: at, payload }], done);
        if index % 20 == 0 {
            engine.journal().flush().await.expect("flushes");
        }
    }
    engine.journal().flush().await.expect("flushes");
    check(&engine).await;
    engine.close().await;
    let counts = engine.counts();
    assert!(counts.checkpoints > 0 && counts.segments_closed > 10 && counts.run_reads > 0, "{counts:?}");
    *above.engine.borrow_mut() = None;
}

#[test]
fn it_appends_writes_back_checkpoints_and_recovers() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
    let path = dir.path().join("0");
    let again = path.clone();
    real::run(1, |env| fill(env, path)).expect("executor");
    real::run(2, |env| async move {
        let (engine, recovered) = Engine::open(env, again, config()).await.expect("opens again");
        assert_eq!(recovered.lanes[0].applied, Some(entry(BATCHES - 1)));
        assert_eq!(recovered.partitions.len(), 4);
        check(&engine).await;
        engine.close().await;
    })
    .expect("executor");
}
