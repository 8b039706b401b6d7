//! A lane's whole state, given to another broker or taken from one.
//!
//! The giving side reads while the lane goes on: it takes each partition as of one instant, and [`ChangeWatch`]
//! collects what changed behind it. The taking side marks the lane first: until the copy is complete nothing of it
//! counts, also over a crash. Owns: the mark, which is durable in the lane's record; what of the lane is dropped then.
//! Does not own: what is copied, and in which order.
//!
//! **Crash behaviour.** A start finds the lane marked, without partitions, its vote in the journal; the files of an
//! unfinished copy are removed. Between the mark's removal and the next checkpoint it is still marked. Shard-local.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::error::EngineError;
use super::handle::Engine;
use super::source::{LaneCheckpoint, PartitionCheckpoint};
use crate::disposition::Disposition;
use crate::log::shared::{Doomed, LogShared};
use crate::log::{LogSettings, PartitionLog};
use crate::model::{EntryId, LaneId, Offset, PartitionId};

const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Collects the partitions of a shard that change, for one reader of a lane's state. Shard-local.
pub struct ChangeWatch {
    changed: Rc<RefCell<BTreeSet<PartitionId>>>,
    shared: Rc<LogShared>,
}

impl fmt::Debug for ChangeWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeWatch({} changed)", self.changed.borrow().len())
    }
}

impl ChangeWatch {
    /// The partitions that changed since they were last taken, dropped ones included.
    #[must_use]
    pub fn take(&self) -> BTreeSet<PartitionId> {
        self.changed.take()
    }

    /// How many partitions have changed, dropped ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changed.borrow().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.borrow().is_empty()
    }
}

impl Drop for ChangeWatch {
    fn drop(&mut self) {
        let mut watches = self.shared.watches.borrow_mut();
        watches.retain(|watch| watch.strong_count() > 0 && !std::ptr::eq(watch.as_ptr(), Rc::as_ptr(&self.changed)));
    }
}

/// A partition as of one instant.
#[derive(Debug)]
pub struct PartitionCopy {
    pub point: PartitionCheckpoint,
    pub settings: LogSettings,
    /// At that instant. Its bytes may be trimmed before they are read.
    pub log: PartitionLog,
    pub end: Offset,
}

impl Engine {
    /// Collects from now on which partitions of the shard change.
    #[must_use]
    pub fn watch_changes(&self) -> ChangeWatch {
        let (shared, changed) = (self.inner.shared.clone(), Rc::<RefCell<BTreeSet<PartitionId>>>::default());
        shared.watches.borrow_mut().push(Rc::downgrade(&changed));
        // A log reports its first batch after a collection only.
        shared.collected.set(shared.collected.get() + 1);
        ChangeWatch { changed, shared }
    }

    /// The lane's state now; `None` if it has applied no entry, or is not on this shard.
    #[must_use]
    pub fn lane_now(&self, lane: LaneId) -> Option<LaneCheckpoint> {
        let source = self.inner.source.borrow().clone()?;
        source.lane(lane).filter(|_| !self.is_rebuilding(lane))
    }

    /// The lane's partitions now.
    #[must_use]
    pub fn partitions_of(&self, lane: LaneId) -> Vec<PartitionId> {
        self.inner.logs.borrow().iter().filter(|(_, log)| log.lane() == lane).map(|(id, _)| *id).collect()
    }

    /// A partition of the lane now; what changes in it from now on is new to `watch`. `None` if it was dropped.
    #[must_use]
    pub fn partition_now(&self, lane: LaneId, id: PartitionId, watch: &ChangeWatch) -> Option<PartitionCopy> {
        let source = self.inner.source.borrow().clone()?;
        let log = self.partition(id).filter(|log| log.lane() == lane)?;
        let point = source.partition(id)?;
        watch.changed.borrow_mut().remove(&id);
        log.report_again();
        Some(PartitionCopy { point, settings: log.settings(), end: log.end(), log })
    }

    /// Is the lane marked as being rebuilt?
    #[must_use]
    pub fn is_rebuilding(&self, lane: LaneId) -> bool {
        self.inner.rebuilding.borrow().contains_key(&lane)
    }

    /// The last entry that the lane's log is known to have had: this replica may have acknowledged everything up to it.
    #[must_use]
    pub fn last_ever(&self, lane: LaneId) -> Option<EntryId> {
        let marked = self.inner.rebuilding.borrow().get(&lane).copied().flatten();
        marked.max(self.inner.journal.lane(lane).state().last)
    }

    /// Marks the lane as being rebuilt and drops its partitions; its vote stays. The lane's Raft group has ended; the
    /// layer above stops to answer for the lane together with this call, so that no checkpoint lies between. Durable
    /// with the next checkpoint.
    pub fn mark_rebuild(&self, lane: LaneId) {
        let last = self.last_ever(lane);
        self.inner.rebuilding.borrow_mut().insert(lane, last);
        for id in self.partitions_of(lane) {
            self.drop_partition(id, last.unwrap_or_default());
        }
        self.touch_lane(lane);
    }

    /// As [`Engine::mark_rebuild`], durable when it returns. Begins again what was begun before.
    ///
    /// # Errors
    /// As [`Engine::checkpoint_until_taken`]; the lane is marked in memory and must not run.
    pub async fn begin_rebuild(&self, lane: LaneId) -> Result<(), EngineError> {
        self.mark_rebuild(lane);
        self.checkpoint_until_taken().await
    }

    /// Takes a checkpoint, also if the disk is full or logs change meanwhile: then it is tried again until it succeeds.
    ///
    /// # Errors
    /// [`EngineError`], fatal: the engine has ended.
    pub async fn checkpoint_until_taken(&self) -> Result<(), EngineError> {
        loop {
            match self.checkpoint().await {
                Err(error) if error.disposition() != Disposition::Fatal => {
                    tracing::warn!(%error, "a checkpoint that a rebuild needs is tried again");
                    self.inner.shared.env.tasks.sleep(TRY_AGAIN).await;
                }
                done => return done,
            }
        }
    }

    /// The copy is complete: the layer above answers for the lane and its partitions from now on. Durable with the next
    /// checkpoint, until which the lane stays marked on disk.
    pub fn end_rebuild(&self, lane: LaneId) {
        if self.inner.rebuilding.borrow_mut().remove(&lane).is_some() {
            self.touch_lane(lane);
            self.partitions_of(lane).into_iter().for_each(|id| self.touch_partition(id));
        }
    }

    /// Directories of copies that are not complete: after a crash nothing else names them.
    pub(super) fn unfinished(&self) -> Vec<Doomed> {
        let lanes: Vec<LaneId> = self.inner.rebuilding.borrow().keys().copied().collect();
        let partitions = lanes.into_iter().flat_map(|lane| self.partitions_of(lane));
        partitions.map(|partition| Doomed::Partition { partition, bytes: 0 }).collect()
    }
}
