//! A shard's directory with one file replaced: recovery, every read and the walk of `inspect` over it. Every result
//! out, the batches that are read are batches that were written.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use tidewater_storage::engine::{CheckpointSource, Engine, EngineConfig, LaneCheckpoint, PartitionCheckpoint};
use tidewater_storage::env::Env;
use tidewater_storage::env::sim::World;
use tidewater_storage::journal::{JournalConfig, JournalEntry, Payload, inspect};
use tidewater_storage::log::LogSettings;
use tidewater_storage::model::batch::patch;
use tidewater_storage::model::{
    Batch, EntryId, LaneId, LeaderEpoch, LogIndex, Offset, PartitionId, PartitionIndex, Term,
};

use super::batches;
use super::target::Target;

const LANE: LaneId = LaneId(1);

pub(crate) fn targets() -> Vec<Target> {
    // A world with a disk: each file twice, live and durable, and the engine's own buffers.
    vec![Target::new("shard_directory", recover, seeds).extra(24 << 20)]
}

fn dir() -> PathBuf {
    PathBuf::from("/shard")
}

fn config() -> EngineConfig {
    EngineConfig {
        journal: JournalConfig { file_bytes: 64 << 10, capacity_bytes: 256 << 10, ..JournalConfig::default() },
        ..EngineConfig::default()
    }
}

fn partition(n: i32) -> PartitionId {
    PartitionId { index: PartitionIndex(n), ..PartitionId::default() }
}

struct Upper;

impl CheckpointSource for Upper {
    fn lane(&self, _: LaneId) -> Option<LaneCheckpoint> {
        Some(LaneCheckpoint { applied: entry_id(2), state: Bytes::from_static(b"lane") })
    }

    fn partition(&self, _: PartitionId) -> Option<PartitionCheckpoint> {
        Some(PartitionCheckpoint { as_of: (LANE, LogIndex(2)), state: Bytes::from_static(b"partition") })
    }

    fn checkpointed(&self, _: LaneId, _: EntryId) {}
}

fn entry_id(index: u64) -> EntryId {
    EntryId { term: Term(1), index: LogIndex(index) }
}

fn batch(base: u64) -> Batch {
    let all = batches::seeds();
    let mut bytes = all[usize::try_from(base).expect("small") % all.len()].clone();
    patch(&mut bytes, Offset::new(base), LeaderEpoch(1));
    Batch::split_from(&mut Bytes::from(bytes)).expect("sound")
}

/// A shard that has a checkpoint, segments, and a journal behind them.
async fn build(env: Env) {
    let (engine, _) = Engine::open(env.clone(), dir(), config()).await.expect("a fresh shard");
    engine.set_source(Rc::new(Upper));
    let lane = engine.lane(LANE);
    let settings = LogSettings { segment_bytes: 4_000, segment_ms: 1_000_000 };
    for n in 0..2 {
        let log = engine.create_partition(partition(n), LANE, entry_id(0), settings);
        for base in 0..12 {
            log.append(batch(base * 3), entry_id(2));
        }
    }
    for index in 0..4 {
        let payload =
            Payload { meta: Bytes::from_static(b"\x01meta"), blobs: vec![batch(index).bytes], verified: true };
        lane.append(vec![JournalEntry { id: entry_id(index), payload }], Box::new(|_| ()));
    }
    lane.save_vote(Bytes::from_static(b"vote")).await.expect("a calm disk");
    engine.checkpoint().await.expect("a calm disk");
    lane.purge(entry_id(1));
    lane.save_vote(Bytes::from_static(b"vote 2")).await.expect("a calm disk");
    engine.close().await;
}

/// The files, once for a thread.
fn built() -> Rc<Vec<(PathBuf, Vec<u8>)>> {
    thread_local!(static FILES: Rc<Vec<(PathBuf, Vec<u8>)>> = {
        let world = World::new(5);
        let env = world.env();
        world.block_on(build(env));
        Rc::new(world.disk().files().into_iter().collect())
    });
    FILES.with(Rc::clone)
}

/// First byte: which file; then what it holds instead.
fn recover(input: &[u8]) {
    let Some((which, content)) = input.split_first() else { return };
    let files = built();
    let world = World::new(9);
    let at = usize::from(*which) % files.len();
    for (n, (path, bytes)) in files.iter().enumerate() {
        world.disk().place(path, if n == at { content } else { bytes });
    }
    let env = world.env();
    world.block_on(async {
        let _ = inspect::walk(&env, &dir().join("journal"), |commit| drop(commit.records)).await;
        let Ok((engine, recovered)) = Engine::open(env.clone(), dir(), config()).await else { return };
        for partition in &recovered.partitions {
            read(&engine, partition.id).await;
        }
        let lane = engine.lane(LANE);
        let state = lane.state();
        if let Some(last) = state.last {
            let first = state.purged.map_or(LogIndex(0), |purged| LogIndex(purged.index.0.saturating_add(1)));
            let _ = lane.read(first..LogIndex(last.index.0.saturating_add(1)), 100_000).await;
        }
        engine.close().await;
    });
    world.kill();
}

async fn read(engine: &Engine, id: PartitionId) {
    let log = engine.partition(id).expect("recovered");
    let bounds = log.bounds();
    let known: BTreeSet<Bytes> = (0..12).map(|n| batch(n * 3).bytes).collect();
    let mut at = bounds.start;
    while at < bounds.end {
        let Ok(found) = log.read(at, bounds.end, 10_000).await else { return };
        for piece in &found.batches {
            for batch in Batch::split_all(piece.clone()).expect("whole batches") {
                assert!(
                    known.contains(&batch.bytes),
                    "{id}: a batch that was never written is read at {}",
                    batch.header.base_offset
                );
            }
        }
        if found.range.end <= at {
            return;
        }
        at = found.range.end;
    }
    let _ = log.max_timestamp().await;
}

/// Every file as it is.
fn seeds() -> Vec<Vec<u8>> {
    let files = built();
    let seed = |(n, (_, bytes)): (usize, &(PathBuf, Vec<u8>))| [&[u8::try_from(n).expect("few")][..], bytes].concat();
    files.iter().enumerate().map(seed).collect()
}
