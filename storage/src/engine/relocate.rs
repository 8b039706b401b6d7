//! Makes new shards from existing ones: another number of shards, the same lanes.
//!
//! Owns: reading the checkpoints of drained shards, and writing the same records as checkpoints of new shards, whose
//! journals hold each lane's vote and the end of its log. Does not own: draining (the layers above apply what the
//! journals hold and take a checkpoint), the switch to the new directories (the caller replaces one file atomically),
//! removing the old ones. Segment files are not touched: they lie beside the shards.
//!
//! **Crash behaviour.** The old shards are not changed; unfinished new ones are made again from nothing. So before the
//! switch the old shards are complete, and after it the new ones. Shard-local.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::error::OpenError;
use super::records::{LaneRecord, PartitionRecord, ShardRecord};
use crate::checkpoint::{CheckpointError, CheckpointStore, Key};
use crate::env::Env;
use crate::journal::{Journal, JournalConfig, JournalError};
use crate::log::shared::Doomed;
use crate::model::{EntryId, LaneId, PartitionId};

/// How many lanes and partitions were moved. A *message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocated {
    pub lanes: usize,
    pub partitions: usize,
}

/// Why the new shards cannot be made. The old ones are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RelocateError {
    /// A directory cannot be created or removed.
    #[error("{dir}: {source}")]
    Dir { dir: PathBuf, source: io::Error },
    /// An old shard is damaged, or a new one cannot be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A new checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A new journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal holds entries that its checkpoint does not cover.
    #[error("lane {lane} is applied up to {applied:?} in the checkpoint and its log ends at {last}: drain it first")]
    NotDrained { lane: LaneId, applied: Option<EntryId>, last: EntryId },
}

/// What a new shard is made from.
#[derive(Default)]
struct NewShard {
    records: BTreeMap<Key, Option<Bytes>>,
    doomed: Vec<Doomed>,
    lanes: BTreeMap<LaneId, LaneHistory>,
}

/// A lane's log without its entries.
#[derive(Default)]
struct LaneHistory {
    applied: Option<EntryId>,
    vote: Option<Bytes>,
    /// It has no state: `applied` is the last entry that its log had, whose entries count for nothing.
    rebuilding: bool,
}

const ONE_OF_THE_NEW: &str = "a lane is placed in one of the new shards";

/// Makes the shards in `to` from the drained shards in `from`. `place` returns the index in `to` for a lane.
///
/// # Errors
/// [`RelocateError`]; the directories in `to` must then not be used.
///
/// # Panics
/// If `place` returns an index beyond `to`: the lane would be lost.
pub async fn relocate(
    env: &Env,
    from: &[PathBuf],
    to: &[PathBuf],
    config: &JournalConfig,
    place: impl Fn(LaneId) -> usize,
) -> Result<Relocated, RelocateError> {
    let mut shards: Vec<NewShard> = to.iter().map(|_| NewShard::default()).collect();
    let mut moved = Relocated::default();
    for dir in from {
        let (records, doomed, lanes) = read(env, dir, config).await?;
        let mut homes: BTreeMap<PartitionId, usize> = BTreeMap::new();
        for (key, lane, record) in records {
            let home = place(lane);
            let shard = shards.get_mut(home).expect(ONE_OF_THE_NEW);
            if let Key::Partition(id) = key {
                homes.insert(id, home);
                moved.partitions += 1;
            }
            shard.records.insert(key, Some(record));
        }
        for one in doomed {
            // To the partition's shard: the partition may have a file of that name again. If the partition is gone, to
            // any shard.
            let (Doomed::Segment { partition, .. } | Doomed::Partition { partition, .. }) = one;
            let home = homes.get(&partition).copied().unwrap_or_default();
            shards.get_mut(home).expect(ONE_OF_THE_NEW).doomed.push(one);
        }
        moved.lanes += lanes.len();
        for (lane, past) in lanes {
            shards.get_mut(place(lane)).expect(ONE_OF_THE_NEW).lanes.insert(lane, past);
        }
    }
    for (dir, contents) in to.iter().zip(shards) {
        write(env, dir, config, contents).await?;
    }
    Ok(moved)
}

type Held = (Vec<(Key, LaneId, Bytes)>, Vec<Doomed>, BTreeMap<LaneId, LaneHistory>);

/// Everything a drained shard is: its records with the lane each belongs to, and its lanes' logs in short.
async fn read(env: &Env, dir: &Path, config: &JournalConfig) -> Result<Held, RelocateError> {
    let (store, records) = CheckpointStore::open(env.disk.clone(), dir).await.map_err(OpenError::from)?;
    store.hand_over()?;
    let (mut out, mut doomed, mut lanes) = (Vec::new(), Vec::new(), BTreeMap::<LaneId, LaneHistory>::new());
    for (key, blob) in records {
        match key {
            Key::Lane(lane) => {
                let record = LaneRecord::decode(&blob).map_err(|source| OpenError::Lane { lane, source })?;
                let history = lanes.entry(lane).or_default();
                (history.applied, history.rebuilding) = (record.applied, record.rebuilding);
                out.push((key, lane, blob));
            }
            Key::Partition(partition) => {
                let record = PartitionRecord::decode(&blob);
                let record = record.map_err(|source| OpenError::Partition { partition, source })?;
                out.push((key, record.lane, blob));
            }
            Key::Shard => doomed = ShardRecord::decode(&blob).map_err(OpenError::Shard)?.doomed,
        }
    }
    let journal = Journal::open(env.clone(), &dir.join("journal"), config.clone()).await.map_err(OpenError::from)?;
    let known = journal.lanes();
    journal.close().await?;
    for (lane, state) in known {
        let past = lanes.entry(lane).or_default();
        past.vote = state.vote;
        if past.rebuilding {
            continue;
        }
        let applied = past.applied;
        if let Some(purged) = state.purged.filter(|purged| applied.is_none_or(|applied| applied.index < purged.index)) {
            return Err(OpenError::Gap { lane, applied, purged }.into());
        }
        if let Some(last) = state.last.filter(|last| applied.is_none_or(|applied| applied.index < last.index)) {
            return Err(RelocateError::NotDrained { lane, applied, last });
        }
    }
    Ok((out, doomed, lanes))
}

/// Makes a shard from nothing, durable when this returns.
async fn write(env: &Env, dir: &Path, config: &JournalConfig, contents: NewShard) -> Result<(), RelocateError> {
    let failed = |source| RelocateError::Dir { dir: dir.to_path_buf(), source };
    if env.disk.exists(dir).await.map_err(failed)? {
        env.disk.remove_dir_all(dir).await.map_err(failed)?;
        env.disk.sync_dir(dir.parent().unwrap_or(dir)).await.map_err(failed)?;
    }
    env.disk.create_dir_all(dir).await.map_err(failed)?;
    let NewShard { mut records, doomed, lanes } = contents;
    records.insert(Key::Shard, Some(ShardRecord { journal_sequence: 0, doomed }.encode()));
    let (mut store, _) = CheckpointStore::open(env.disk.clone(), dir).await?;
    store.commit(records).await?;
    store.hand_over()?;
    let journal = Journal::open(env.clone(), &dir.join("journal"), config.clone()).await.map_err(OpenError::from)?;
    for (lane, LaneHistory { applied, vote, rebuilding }) in lanes {
        let log = journal.lane(lane);
        if let Some(vote) = vote {
            log.save_vote(vote).await?;
        }
        if let Some(applied) = applied.filter(|_| !rebuilding) {
            log.purge(applied);
        }
    }
    Ok(journal.close().await?)
}
