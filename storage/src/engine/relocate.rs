//! Shards made out of other shards: another number of them, the same lanes.
//!
//! Owns: reading the checkpoints of drained shards, and writing the same records as checkpoints of new shards with journals
//! of their own that know each lane's vote and where its log ends. Does not own: draining (the layers above apply what the
//! journals hold and take a checkpoint), the switch from the old directories to the new (one atomically replaced file,
//! written by whoever owns it), removing either. Segment files are not touched: they lie beside the shards.
//!
//! **Crash behaviour.** The old shards stay as they are; new ones that were begun are begun again from nothing. So up to the
//! switch the old are whole, and after it the new. Shard-local.

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

/// What was moved. A *message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relocated {
    pub lanes: usize,
    pub partitions: usize,
}

/// Why shards cannot be made out of others. The others are as they were.
#[derive(Debug, thiserror::Error)]
pub enum RelocateError {
    /// A directory cannot be made or removed.
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
    /// A journal holds entries that its checkpoint lacks.
    #[error("lane {lane} is applied up to {applied:?} in the checkpoint and its log ends at {last}: drain it first")]
    NotDrained { lane: LaneId, applied: Option<EntryId>, last: EntryId },
}

/// What a new shard begins with.
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
}

/// Makes the shards in `to` out of the drained shards in `from`. `place` says into which of `to` a lane goes.
///
/// # Errors
/// [`RelocateError`]; what is in `to` is then worth nothing.
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
            let Some(shard) = shards.get_mut(home) else { continue };
            if let Key::Partition(id) = key {
                homes.insert(id, home);
                moved.partitions += 1;
            }
            shard.records.insert(key, Some(record));
        }
        for one in doomed {
            // With the partition, which may have a file of that name again; of one that is gone any shard takes it.
            let (Doomed::Segment { partition, .. } | Doomed::Partition { partition, .. }) = one;
            let home = homes.get(&partition).copied().unwrap_or_default();
            shards.get_mut(home).into_iter().for_each(|shard| shard.doomed.push(one));
        }
        moved.lanes += lanes.len();
        for (lane, past) in lanes {
            shards.get_mut(place(lane)).and_then(|shard| shard.lanes.insert(lane, past));
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
    let (_, records) = CheckpointStore::open(env.disk.clone(), dir).await.map_err(OpenError::from)?;
    let (mut out, mut doomed, mut lanes) = (Vec::new(), Vec::new(), BTreeMap::<LaneId, LaneHistory>::new());
    for (key, blob) in records {
        match key {
            Key::Lane(lane) => {
                let record = LaneRecord::decode(&blob).map_err(|source| OpenError::Lane { lane, source })?;
                lanes.entry(lane).or_default().applied = record.applied;
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

/// Makes a shard from nothing; durable when it returns.
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
    let journal = Journal::open(env.clone(), &dir.join("journal"), config.clone()).await.map_err(OpenError::from)?;
    for (lane, LaneHistory { applied, vote }) in lanes {
        let log = journal.lane(lane);
        if let Some(vote) = vote {
            log.save_vote(vote).await?;
        }
        if let Some(applied) = applied {
            log.purge(applied);
        }
    }
    Ok(journal.close().await?)
}
