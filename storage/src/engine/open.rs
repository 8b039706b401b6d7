//! Opens a shard: reads the checkpoint's records, opens the journal, checks that the two belong together.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use futures::lock::Mutex;

use super::config::EngineConfig;
use super::error::OpenError;
use super::handle::{Engine, EngineInner};
use super::records::{LaneRecord, PartitionRecord, ShardRecord};
use crate::budget::DiskUse;
use crate::checkpoint::{CheckpointStore, Key};
use crate::env::{Env, Notify};
use crate::journal::Journal;
use crate::log::memory::RecentMemory;
use crate::log::shared::LogShared;
use crate::log::{PartitionLog, persist};
use crate::metrics::EngineCounters;
use crate::model::{EntryId, LaneId, LogIndex, PartitionId};
use crate::segment::Handles;
use crate::segment::index_cache::IndexCache;

/// What a shard's checkpoint held. A *message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Lanes with a record in the checkpoint. A lane that only the journal has starts from nothing.
    pub lanes: Vec<RecoveredLane>,
    /// Partitions; their logs are in the engine.
    pub partitions: Vec<RecoveredPartition>,
}

/// A lane as it was at the last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredLane {
    pub lane: LaneId,
    /// Last entry applied; apply again from the next on.
    pub applied: Option<EntryId>,
    /// The state as the layer above encoded it.
    pub state: Bytes,
    /// The lane was being rebuilt: it has no state and no partitions, must not vote or acknowledge, and is rebuilt from
    /// the start ([`Engine::begin_rebuild`]). `applied` is `None`.
    pub rebuilding: bool,
}

/// A partition as it was at the last checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredPartition {
    pub id: PartitionId,
    /// Entries of this lane up to this index are already applied to the partition: skip them.
    pub as_of: (LaneId, LogIndex),
    /// The state as the layer above encoded it.
    pub state: Bytes,
}

impl Engine {
    /// Opens the shard in `dir`, or makes it there.
    ///
    /// # Errors
    /// [`OpenError`]: damage, a checkpoint and a journal that do not belong together, or a failed call.
    pub async fn open(env: Env, dir: PathBuf, config: EngineConfig) -> Result<(Self, Recovered), OpenError> {
        let made = env.disk.create_dir_all(&dir).await;
        made.map_err(|source| OpenError::Dir { dir: dir.clone(), source })?;
        let (store, records) = CheckpointStore::open(env.disk.clone(), &dir).await?;
        let shared = Rc::new(share(env.clone(), dir.clone(), &config));
        let (mut recovered, mut logs, mut shard) = (Recovered::default(), BTreeMap::new(), ShardRecord::default());
        let mut rebuilding = BTreeMap::new();
        for (key, blob) in records {
            match key {
                Key::Lane(lane) => {
                    let record = LaneRecord::decode(&blob).map_err(|source| OpenError::Lane { lane, source })?;
                    let LaneRecord { applied, state, rebuilding: marked } = record;
                    if marked {
                        rebuilding.insert(lane, applied);
                    }
                    let applied = applied.filter(|_| !marked);
                    recovered.lanes.push(RecoveredLane { lane, applied, state, rebuilding: marked });
                }
                Key::Partition(id) => {
                    let (partition, log) = partition(&shared, id, blob)?;
                    recovered.partitions.push(partition);
                    logs.insert(id, log);
                }
                Key::Shard => shard = ShardRecord::decode(&blob).map_err(OpenError::Shard)?,
            }
        }
        let applied = recovered.lanes.iter().filter_map(|lane| Some((lane.lane, lane.applied?.index)));
        let covered: BTreeMap<LaneId, LogIndex> = applied.collect();
        let journal = Journal::open_behind(env, &dir.join("journal"), config.journal.clone(), Some(covered)).await?;
        check(&journal, &recovered, &shard)?;
        let now = shared.env.clock.now();
        let engine = Self {
            inner: Rc::new(EngineInner {
                journal_disk: config.budget.account(DiskUse::Journal),
                checkpoint_disk: config.budget.account(DiskUse::Checkpoint),
                accounted: Cell::new((0, 0)),
                shared,
                config,
                journal,
                logs: RefCell::new(logs),
                source: RefCell::new(None),
                store: Mutex::new(store),
                rebuilding: RefCell::new(rebuilding),
                rewrite: Cell::new(false),
                leftover: RefCell::new(shard.doomed.into_iter().collect()),
                removing: Cell::new(false),
                last_checkpoint: Cell::new(now),
                started: Cell::new(false),
                ending: Cell::new(false),
                ended: Cell::new(false),
            }),
        };
        // Files that the last process may not have removed, before a new file can get the same name.
        engine.remove_leftover().await;
        engine.account();
        Ok((engine, recovered))
    }
}

fn share(env: Env, dir: PathBuf, config: &EngineConfig) -> LogShared {
    let dir = config.segments.clone().unwrap_or(dir);
    LogShared {
        handles: Handles::new(env.disk.clone(), config.open_files),
        indexes: IndexCache::new(config.open_indexes),
        runs: Default::default(),
        memory: RecentMemory::new(config.recent_bytes),
        disk: config.budget.account(DiskUse::Segments),
        counters: EngineCounters::default(),
        eager_bytes: config.write_back_bytes,
        eager: RefCell::default(),
        changed_partitions: RefCell::default(),
        changed_lanes: RefCell::default(),
        collected: Cell::new(0),
        doomed: RefCell::default(),
        checkpoint_bytes: config.checkpoint_bytes,
        since_checkpoint: Cell::new(0),
        watches: RefCell::default(),
        wake: Notify::default(),
        env,
        dir,
    }
}

fn partition(
    shared: &Rc<LogShared>,
    id: PartitionId,
    blob: Bytes,
) -> Result<(RecoveredPartition, PartitionLog), OpenError> {
    let record = PartitionRecord::decode(&blob).map_err(|source| OpenError::Partition { partition: id, source })?;
    let state = persist::decode(id, record.log).map_err(|source| OpenError::Log { partition: id, source })?;
    shared.disk.add(state.bytes);
    let log = PartitionLog::new(shared.clone(), record.lane, state);
    log.set_covered(record.as_of);
    Ok((RecoveredPartition { id, as_of: (record.lane, record.as_of), state: record.state }, log))
}

/// The journal must reach from the checkpoint on: nothing is purged beyond the checkpoint, and the journal is not
/// older.
fn check(journal: &Journal, recovered: &Recovered, shard: &ShardRecord) -> Result<(), OpenError> {
    let found = journal.durable_sequence();
    if found < shard.journal_sequence {
        return Err(OpenError::JournalBehind { expected: shard.journal_sequence, found });
    }
    for (lane, state) in journal.lanes() {
        let recovered = recovered.lanes.iter().find(|recovered| recovered.lane == lane);
        if recovered.is_some_and(|lane| lane.rebuilding) {
            continue;
        }
        let applied = recovered.and_then(|lane| lane.applied);
        if let Some(purged) = state.purged.filter(|purged| applied.is_none_or(|applied| applied.index < purged.index)) {
            return Err(OpenError::Gap { lane, applied, purged });
        }
    }
    Ok(())
}
