//! The engine's handle: logs and lanes by id, admission, usage. Shard-local; clones share it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use futures::lock::Mutex;

use super::config::EngineConfig;
use super::error::{EngineError, Refused};
use super::source::CheckpointSource;
use crate::budget::{Admission, DiskAccount, DiskUsage};
use crate::checkpoint::CheckpointStore;
use crate::env::Mono;
use crate::journal::{Journal, JournalError, LaneLog, Pressure};
use crate::log::shared::{Doomed, LogShared};
use crate::log::state::LogState;
use crate::log::{LogSettings, PartitionLog};
use crate::metrics::{EngineCounts, EngineTimingCounts};
use crate::model::{EntryId, LaneId, Offset, PartitionId};

/// One shard's storage. See the header of `engine`. Shard-local; clones share it.
#[derive(Clone)]
pub struct Engine {
    pub(super) inner: Rc<EngineInner>,
}

pub(super) struct EngineInner {
    pub(super) shared: Rc<LogShared>,
    pub(super) config: EngineConfig,
    pub(super) journal: Journal,
    pub(super) logs: RefCell<BTreeMap<PartitionId, PartitionLog>>,
    pub(super) source: RefCell<Option<Rc<dyn CheckpointSource>>>,
    /// Lanes that are being rebuilt, with the last entry that their log had.
    pub(super) rebuilding: RefCell<BTreeMap<LaneId, Option<EntryId>>>,
    /// One checkpoint at a time.
    pub(super) store: Mutex<CheckpointStore>,
    /// A page of the checkpoint is unreadable: the next checkpoint writes all records from memory.
    pub(super) rewrite: Cell<bool>,
    /// Files to remove: only the shard's durable record still names them.
    pub(super) leftover: RefCell<BTreeSet<Doomed>>,
    /// A call is removing them.
    pub(super) removing: Cell<bool>,
    pub(super) journal_disk: DiskAccount,
    pub(super) checkpoint_disk: DiskAccount,
    /// Bytes of journal and checkpoint as last reported to the two accounts.
    pub(super) accounted: Cell<(u64, u64)>,
    pub(super) last_checkpoint: Cell<Mono>,
    pub(super) started: Cell<bool>,
    pub(super) ending: Cell<bool>,
    pub(super) ended: Cell<bool>,
}

impl Engine {
    /// Sets the layer above, which a checkpoint asks for the state of lanes and partitions. Call it before
    /// [`Engine::start`].
    pub fn set_source(&self, source: Rc<dyn CheckpointSource>) {
        *self.inner.source.borrow_mut() = Some(source);
    }

    /// Starts write-back and checkpoints. A second call does nothing.
    pub fn start(&self) {
        if !self.inner.started.replace(true) {
            let engine = self.clone();
            drop(self.inner.shared.env.tasks.spawn("storage upkeep", async move { engine.upkeep().await }));
        }
    }

    /// A lane's log in the journal.
    #[must_use]
    pub fn lane(&self, lane: LaneId) -> LaneLog {
        self.inner.journal.lane(lane)
    }

    /// The shard's journal, for metrics and inspection.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    /// Makes a partition's log, empty and starting at offset 0, when entry `at` of `lane` is applied. If the log
    /// exists, because the entry is applied again after a crash, it is returned unchanged.
    pub fn create_partition(&self, id: PartitionId, lane: LaneId, at: EntryId, settings: LogSettings) -> PartitionLog {
        tracing::debug!(partition = %id, %lane, %at, "partition log created");
        let mut logs = self.inner.logs.borrow_mut();
        let shared = &self.inner.shared;
        let make = || PartitionLog::new(shared.clone(), lane, LogState::new(id, settings, Offset::ZERO));
        let log = logs.entry(id).or_insert_with(make).clone();
        drop(logs);
        shared.changed(id);
        shared.lane_changed(lane);
        log
    }

    /// A partition's log, if it is on this shard.
    #[must_use]
    pub fn partition(&self, id: PartitionId) -> Option<PartitionLog> {
        self.inner.logs.borrow().get(&id).cloned()
    }

    /// All partitions on this shard.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionId> {
        self.inner.logs.borrow().keys().copied().collect()
    }

    /// Drops a partition's log when entry `at` of its lane is applied. Its files are removed after the next checkpoint.
    pub fn drop_partition(&self, id: PartitionId, at: EntryId) {
        let Some(log) = self.inner.logs.borrow_mut().remove(&id) else { return };
        tracing::debug!(partition = %id, %at, "partition log dropped");
        let shared = &self.inner.shared;
        let bytes = log.retire();
        shared.doomed.borrow_mut().push(Doomed::Partition { partition: id, bytes });
        shared.changed(id);
        shared.lane_changed(log.lane());
    }

    /// Reports that the partition's state in the layer above changed: the next checkpoint asks for it.
    pub fn touch_partition(&self, id: PartitionId) {
        self.inner.shared.changed(id);
    }

    /// Reports that the lane has applied an entry, or that its state in the layer above changed.
    pub fn touch_lane(&self, lane: LaneId) {
        self.inner.shared.lane_changed(lane);
    }

    /// Reserves room for a write of `bytes` in journal and segments. Hold the admission until the write is applied or
    /// has failed. Votes, commands that free space, and checkpoints need none: the reserve is for them.
    ///
    /// # Errors
    /// [`Refused`], which names what is short.
    pub fn admit(&self, bytes: u64) -> Result<Admission, Refused> {
        let (inner, shared) = (&self.inner, &self.inner.shared);
        let pressure = inner.journal.pressure();
        if pressure != Pressure::None || shared.memory.is_over() {
            shared.wake.notify();
        }
        if pressure == Pressure::Refuse {
            shared.counters.refused_pressure.add(1);
            let usage = inner.journal.usage();
            return Err(Refused::Journal { used: usage.used_bytes, capacity: usage.capacity_bytes });
        }
        if shared.memory.is_full() {
            shared.counters.refused_pressure.add(1);
            return Err(Refused::Memory { resident: shared.memory.resident(), cap: shared.memory.cap() });
        }
        self.account();
        inner.config.budget.admit(bytes).map_err(|full| {
            shared.counters.refused_disk.add(1);
            inner.journal.give_up_spares();
            full.into()
        })
    }

    /// The broker's disk usage, by kind.
    #[must_use]
    pub fn usage(&self) -> DiskUsage {
        self.account();
        self.inner.config.budget.usage()
    }

    /// Counters since the shard was opened.
    #[must_use]
    pub fn counts(&self) -> EngineCounts {
        self.inner.shared.counters.counts()
    }

    /// Durations of disk calls for segments since the shard was opened.
    #[must_use]
    pub fn timings(&self) -> EngineTimingCounts {
        self.inner.shared.counters.timings.counts()
    }

    /// Memory that recent batches take. Bytes.
    #[must_use]
    pub fn recent_bytes(&self) -> u64 {
        self.inner.shared.memory.resident()
    }

    /// Has the engine ended after an error?
    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        self.inner.ended.get()
    }

    /// Takes a last checkpoint, then ends upkeep and journal and closes all files. What the checkpoint does not have,
    /// the journal has. Once it returns, the shard may be opened again, also while clones of this handle exist.
    pub async fn close(&self) {
        self.inner.ending.set(true);
        self.inner.shared.wake.notify();
        if !self.inner.ended.get()
            && self.inner.source.borrow().is_some()
            && let Err(error) = self.checkpoint().await
        {
            tracing::warn!(%error, "no checkpoint was taken at shutdown; the next start reads more of the journal");
        }
        if let Err(error) = self.inner.journal.close().await {
            tracing::warn!(%error, "the journal did not close cleanly; the next start recovers from what is durable");
        }
        // No checkpoint begins from here on, and the lock waits for one that is under way.
        *self.inner.source.borrow_mut() = None;
        if let Err(error) = self.inner.store.lock().await.hand_over() {
            tracing::warn!(%error, "the checkpoint did not close cleanly; it is complete, the next start reads it");
        }
        self.inner.shared.handles.close_all().await;
    }

    /// Reports to the budget what journal and checkpoint take now.
    pub(super) fn account(&self) {
        let inner = &self.inner;
        let (journal, checkpoint) = inner.accounted.get();
        let journal_now = inner.journal.usage().disk_bytes;
        let checkpoint_now = inner.store.try_lock().map_or(checkpoint, |store| store.disk_bytes());
        inner.journal_disk.change(journal, journal_now);
        inner.checkpoint_disk.change(checkpoint, checkpoint_now);
        inner.accounted.set((journal_now, checkpoint_now));
    }

    /// Does the error only mean that [`Engine::close`], still running, has closed the journal?
    pub(super) fn is_closing(&self, error: &EngineError) -> bool {
        self.inner.ending.get() && matches!(error, EngineError::Journal(JournalError::Closed))
    }

    /// Ends the engine after a fatal error.
    pub(super) fn fail(&self, error: &EngineError) {
        if !self.inner.ended.replace(true) {
            let source = self.inner.source.borrow().clone();
            match source {
                Some(source) => source.failed(error),
                None => tracing::error!(%error, "storage engine ended"),
            }
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("dir", &self.inner.shared.dir).field("usage", &self.usage()).finish()
    }
}
