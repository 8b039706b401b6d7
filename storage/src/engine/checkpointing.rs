//! Takes a checkpoint: collect at one instant, make the segments durable, commit, then release. The order is that of
//! the header of `engine`; each step is a function here.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::StreamExt;

use super::error::EngineError;
use super::handle::Engine;
use super::records::{LaneRecord, PartitionRecord, ShardRecord};
use crate::checkpoint::Key;
use crate::disposition::Disposition;
use crate::log::shared::Doomed;
use crate::log::state::WriteBackTarget;
use crate::log::write_back::sync_all;
use crate::log::{PartitionLog, WriteBackError, persist};
use crate::model::{EntryId, LaneId, LogIndex, PartitionId};

/// Logs written and synced at one time.
const LOGS_AT_ONCE: usize = 8;
/// From this many changed logs on, the file system is synced once instead of each file.
const SYNC_ALL_FROM: usize = 64;
/// Attempts of one checkpoint, each after a log was trimmed or dropped during the one before.
const TRIES_MAX: u32 = 8;

/// All changes since the last checkpoint, as of one instant.
#[derive(Default)]
struct CheckpointChanges {
    lanes: BTreeSet<LaneId>,
    partitions: BTreeSet<PartitionId>,
    doomed: Vec<Doomed>,
    changes: BTreeMap<Key, Option<Bytes>>,
    applied: Vec<(LaneId, EntryId)>,
    /// The entries after which the records hold the state: they must be durable in the journal.
    as_of: BTreeSet<(LaneId, LogIndex)>,
    logs: Vec<LogToWrite>,
}

/// A log whose record may become durable once the log is written and synced up to its target.
struct LogToWrite {
    log: PartitionLog,
    target: Option<WriteBackTarget>,
    generation: u64,
}

impl Engine {
    /// Takes a checkpoint now. When it returns, everything applied before the call is durable without the journal.
    ///
    /// # Errors
    /// [`EngineError`]; after a fatal one the engine has ended.
    pub async fn checkpoint(&self) -> Result<(), EngineError> {
        let mut done = self.try_checkpoint().await;
        if let Err(EngineError::Checkpoint(error)) = &done
            && error.is_lost_page()
        {
            tracing::warn!(%error, "a page of the checkpoint is unreadable: writing all records again from memory");
            self.inner.rewrite.set(true);
            done = self.try_checkpoint().await;
        }
        if let Err(error) = &done
            && error.disposition() == Disposition::Fatal
            && !self.is_closing(error)
        {
            self.fail(error);
        }
        done
    }

    async fn try_checkpoint(&self) -> Result<(), EngineError> {
        if self.inner.ended.get() {
            return Err(EngineError::Ended);
        }
        let shared = &self.inner.shared;
        let mut store = self.inner.store.lock().await;
        let appended = shared.since_checkpoint.get();
        let whole = self.inner.rewrite.get();
        if whole {
            self.mark_all();
        }
        let mut collected = self.collect_and_write().await?;
        if collected.changes.is_empty() && collected.doomed.is_empty() && self.inner.leftover.borrow().is_empty() {
            return Ok(());
        }
        if let Some(lane) = self.laneless(&collected).filter(|_| whole) {
            self.put_back(collected);
            return Err(EngineError::Laneless(lane));
        }
        // E2: without this flush, a restart could find a lane that ends before its state. If everything is durable, the
        // journal is not waited for: on a full disk it may be waiting for the space that this checkpoint frees.
        let journal = &self.inner.journal;
        if !collected.as_of.iter().all(|(lane, index)| journal.is_durable(*lane, *index))
            && let Err(error) = journal.flush().await
        {
            self.put_back(collected);
            return Err(error.into());
        }
        let mut doomed: Vec<Doomed> = self.inner.leftover.borrow().iter().chain(&collected.doomed).copied().collect();
        doomed.extend(self.unfinished());
        let shard = ShardRecord { journal_sequence: journal.durable_sequence(), doomed };
        collected.changes.insert(Key::Shard, Some(shard.encode()));
        let changes = std::mem::take(&mut collected.changes);
        let committed = if whole {
            let records = changes.into_iter().filter_map(|(key, record)| Some((key, record?)));
            store.commit_whole(records.collect()).await
        } else {
            store.commit(changes).await
        };
        let committed = match committed {
            Ok(committed) => committed,
            Err(error) => {
                self.put_back(collected);
                return Err(error.into());
            }
        };
        // They are in the durable record now: this process removes them, also if this call is dropped.
        self.inner.leftover.borrow_mut().extend(collected.doomed.drain(..));
        self.inner.rewrite.set(false);
        drop(store);
        shared.counters.checkpoints.add(1);
        shared.counters.checkpoint_pages.add(committed.pages);
        shared.counters.checkpoint_bytes.add(committed.bytes);
        // One checkpoint at a time: only this one reduces the count.
        shared.since_checkpoint.set(shared.since_checkpoint.get() - appended);
        self.inner.last_checkpoint.set(shared.env.clock.now());
        self.release(collected).await;
        Ok(())
    }

    /// Collects the changes and makes their segments durable; again if a log was trimmed or dropped meanwhile.
    async fn collect_and_write(&self) -> Result<CheckpointChanges, EngineError> {
        for _ in 0..TRIES_MAX {
            let collected = self.collect()?;
            if let Err(error) = make_durable(&collected.logs).await {
                self.put_back(collected);
                return Err(error.into());
            }
            let moved = |pending: &LogToWrite| pending.log.inner.state.borrow().generation != pending.generation;
            if !collected.logs.iter().any(moved) {
                return Ok(collected);
            }
            self.put_back(collected);
        }
        Err(EngineError::Unsettled(TRIES_MAX))
    }

    /// Encodes all changed records at this instant: no await.
    fn collect(&self) -> Result<CheckpointChanges, EngineError> {
        let source = self.inner.source.borrow().clone().ok_or(EngineError::NoSource)?;
        let shared = &self.inner.shared;
        shared.collected.set(shared.collected.get() + 1);
        let mut out = CheckpointChanges {
            lanes: std::mem::take(&mut *shared.changed_lanes.borrow_mut()),
            partitions: std::mem::take(&mut *shared.changed_partitions.borrow_mut()),
            doomed: std::mem::take(&mut *shared.doomed.borrow_mut()),
            ..CheckpointChanges::default()
        };
        for lane in &out.lanes {
            if let Some(last) = self.inner.rebuilding.borrow().get(lane) {
                let record = LaneRecord { applied: *last, state: Bytes::new(), rebuilding: true };
                out.changes.insert(Key::Lane(*lane), Some(record.encode()));
                continue;
            }
            if let Some(point) = source.lane(*lane) {
                let record = LaneRecord { applied: Some(point.applied), state: point.state, rebuilding: false };
                out.changes.insert(Key::Lane(*lane), Some(record.encode()));
                out.applied.push((*lane, point.applied));
                out.as_of.insert((*lane, point.applied.index));
            }
        }
        for id in out.partitions.clone() {
            let log = self.partition(id).filter(|log| !self.is_rebuilding(log.lane()));
            let Some(log) = log else {
                // Of a lane that is being rebuilt nothing is kept over a restart.
                out.changes.insert(Key::Partition(id), None);
                continue;
            };
            let Some(point) = source.partition(id) else {
                self.put_back(out);
                return Err(EngineError::Stateless(id));
            };
            let (record, target, generation) = {
                let state = log.inner.state.borrow();
                let (record, target) = persist::encode(&state);
                (record, target, state.generation)
            };
            log.inner.lane.set(point.as_of.0);
            let (lane, as_of) = point.as_of;
            out.as_of.insert((lane, as_of));
            let record = PartitionRecord { lane, as_of, state: point.state, log: record.into() };
            out.changes.insert(Key::Partition(id), Some(record.encode()));
            out.logs.push(LogToWrite { log, target, generation });
        }
        Ok(out)
    }

    /// Marks every lane and partition as changed.
    fn mark_all(&self) {
        let (inner, shared) = (&self.inner, &self.inner.shared);
        // A lane that has applied an entry is in the journal.
        shared.changed_lanes.borrow_mut().extend(inner.journal.lanes().into_iter().map(|(lane, _)| lane));
        shared.changed_partitions.borrow_mut().extend(inner.logs.borrow().keys().copied());
    }

    /// A lane whose log was purged and that could not be opened from these records alone.
    fn laneless(&self, collected: &CheckpointChanges) -> Option<LaneId> {
        let applied: BTreeMap<LaneId, EntryId> = collected.applied.iter().copied().collect();
        let held = |lane, purged: EntryId| {
            self.is_rebuilding(lane) || applied.get(&lane).is_some_and(|applied| applied.index >= purged.index)
        };
        let lanes = self.inner.journal.lanes().into_iter();
        lanes
            .filter_map(|(lane, state)| Some((lane, state.purged?)))
            .find(|(lane, purged)| !held(*lane, *purged))
            .map(|one| one.0)
    }

    /// Returns the collected changes to the lists, for the next attempt.
    fn put_back(&self, collected: CheckpointChanges) {
        let shared = &self.inner.shared;
        shared.changed_lanes.borrow_mut().extend(collected.lanes);
        shared.changed_partitions.borrow_mut().extend(collected.partitions);
        shared.doomed.borrow_mut().extend(collected.doomed);
    }

    /// After the checkpoint is durable: reports what may be purged, removes files that no record names.
    async fn release(&self, collected: CheckpointChanges) {
        let source = self.inner.source.borrow().clone();
        if let Some(source) = source {
            for (lane, applied) in collected.applied {
                source.checkpointed(lane, applied);
            }
        }
        self.remove_leftover().await;
        self.account();
    }
}

/// Writes and syncs what the records name. With many logs, the file system is synced once instead of file by file.
async fn make_durable(logs: &[LogToWrite]) -> Result<(), WriteBackError> {
    if logs.len() >= SYNC_ALL_FROM {
        let written =
            logs.iter().filter_map(|pending| pending.target.map(|target| pending.log.write_back(Some(target))));
        let mut running = futures::stream::iter(written).buffer_unordered(LOGS_AT_ONCE);
        while let Some(done) = running.next().await {
            done?;
        }
        let logs: Vec<&PartitionLog> = logs.iter().map(|pending| &pending.log).collect();
        sync_all(&logs).await?;
    }
    let pending = logs.iter().filter_map(|pending| pending.target.map(|target| pending.log.make_durable(target)));
    let mut running = futures::stream::iter(pending).buffer_unordered(LOGS_AT_ONCE);
    while let Some(done) = running.next().await {
        done?;
    }
    Ok(())
}
