//! The engine on the real disk under a real executor, once through: append, write back, checkpoint, close, open, read;
//! and the locks that keep a start from files which another process still writes. Other faults are tested on the
//! simulated disk.
#![allow(clippy::disallowed_methods, reason = "the real disk and its time")]

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tidewater_storage::engine::{
    CheckpointSource, Engine, EngineConfig, LaneCheckpoint, PartitionCheckpoint, relocate,
};
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

/// With the segments in `segments`.
fn config(segments: &Path) -> EngineConfig {
    EngineConfig {
        journal: JournalConfig { file_bytes: 1 << 20, capacity_bytes: 8 << 20, ..JournalConfig::default() },
        recent_bytes: 1 << 20,
        checkpoint_bytes: 2 << 20,
        segments: Some(segments.to_path_buf()),
        ..EngineConfig::default()
    }
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

/// Fills a new shard `0` in `dir` and closes it. The handle stays.
async fn fill(env: Env, dir: &Path) -> Engine {
    let (engine, recovered) = Engine::open(env.clone(), dir.join("0"), config(dir)).await.expect("opens");
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
    engine
}

/// Opens shard `shard` in `dir` and reads what [`fill`] wrote.
async fn reopen(env: Env, dir: &Path, shard: &str) {
    let (engine, recovered) = Engine::open(env, dir.join(shard), config(dir)).await.expect("opens again");
    assert_eq!(recovered.lanes[0].applied, Some(entry(BATCHES - 1)));
    assert_eq!(recovered.partitions.len(), 4);
    check(&engine).await;
    engine.close().await;
}

#[test]
fn it_appends_writes_back_checkpoints_and_recovers() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
    drop(real::run(1, |env| fill(env, dir.path())).expect("executor"));
    real::run(2, |env| reopen(env, dir.path(), "0")).expect("executor");
}

/// The lock stands for a write that the kernel has not ended: both belong to an open file description.
#[test]
fn a_start_waits_for_each_file_that_a_killed_process_still_writes() {
    let held = Duration::from_millis(200);
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
    drop(real::run(1, |env| fill(env, dir.path())).expect("executor"));
    let shard = dir.path().join("0");
    let journal = std::fs::read_dir(shard.join("journal")).expect("lists").map(|entry| entry.expect("entry").path());
    let mut files: Vec<_> = journal.filter(|path| path.extension().is_some_and(|it| it == "journal")).collect();
    assert!(files.len() > 1, "a live file and a spare one: {files:?}");
    files.extend(["checkpoint.0", "checkpoint.1", "checkpoint.pages"].map(|name| shard.join(name)));
    let root = dir.path();
    real::run(2, |env| async move {
        for file in files {
            // An earlier start may have removed a spare file.
            let Ok(writing) = std::fs::File::options().write(true).open(&file) else { continue };
            writing.lock().expect("locks");
            let begun = Instant::now();
            let ending = std::thread::spawn(move || {
                std::thread::sleep(held);
                drop(writing);
            });
            reopen(env.clone(), root, "0").await;
            assert!(begun.elapsed() >= held, "{} was used while it was written to", file.display());
            ending.join().expect("ends");
        }
    })
    .expect("executor");
}

/// As in a change of the number of shards: what drained the old shard may still have handles, on an executor that has
/// ended.
#[test]
fn a_closed_shard_is_moved_at_once_while_handles_of_it_live() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("temporary directory");
    let old = real::run(1, |env| fill(env, dir.path())).expect("executor");
    let (begun, root) = (Instant::now(), dir.path());
    real::run(2, |env| async move {
        let (from, to) = ([root.join("0")], [root.join("1")]);
        let moved = relocate(&env, &from, &to, &config(root).journal, |_| 0).await.expect("moves");
        assert_eq!((moved.lanes, moved.partitions), (1, 4));
    })
    .expect("executor");
    real::run(3, |env| reopen(env, root, "1")).expect("executor");
    assert!(begun.elapsed() < Duration::from_secs(50), "it waited for its own handles: {:?}", begun.elapsed());
    drop(old);
}
