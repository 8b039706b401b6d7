//! The handle of one partition's log: append, trim, reset, and what can be asked of it. Shard-local; cheap to clone.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use futures::lock::Mutex;

use super::settings::LogSettings;
use super::shared::LogShared;
use super::state::{DroppedSegment, LogState, memory_of};
use crate::model::{Batch, EntryId, LaneId, LogIndex, Offset, PartitionId};
use crate::segment::{SegmentInfo, partition_dir};

/// Where a log begins and ends. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// First offset on this disk, in memory or in a file.
    pub start: Offset,
    pub end: Offset,
    /// Bytes of all batches on this disk, written to a file or not.
    pub bytes: u64,
}

/// One partition's log. See the header of `log`. Shard-local; clones share it.
#[derive(Clone)]
pub struct PartitionLog {
    pub(crate) inner: Rc<LogInner>,
}

pub(crate) struct LogInner {
    pub(crate) shared: Rc<LogShared>,
    pub(crate) id: PartitionId,
    pub(crate) lane: Cell<LaneId>,
    pub(crate) dir: PathBuf,
    pub(crate) state: RefCell<LogState>,
    /// One write-back or sync at a time, in order.
    pub(crate) io: Mutex<()>,
    pub(crate) dir_made: Cell<bool>,
    /// Number of files created in the directory.
    pub(crate) born: Cell<u64>,
    /// How many of them have a durable name: a sync of the directory began after them and has ended.
    pub(crate) born_synced: Cell<u64>,
    /// The number of the collection ([`LogShared::collected`]) for which partition and lane are already listed as
    /// changed.
    listed: Cell<u64>,
}

impl PartitionLog {
    pub(crate) fn new(shared: Rc<LogShared>, lane: LaneId, state: LogState) -> Self {
        let (id, dir) = (state.id, partition_dir(&shared.dir, state.id));
        // Each handle numbers its segments from 0: cached indexes and runs of an earlier handle do not belong to them.
        shared.indexes.forget(id);
        shared.runs.forget(id);
        let dir_made = Cell::new(state.segments.iter().any(|segment| segment.flushed > 0));
        Self {
            inner: Rc::new(LogInner {
                shared,
                id,
                lane: Cell::new(lane),
                dir,
                state: RefCell::new(state),
                io: Mutex::new(()),
                dir_made,
                born: Cell::new(0),
                born_synced: Cell::new(0),
                listed: Cell::new(u64::MAX),
            }),
        }
    }

    /// The partition this is the log of.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.inner.id
    }

    /// The lane whose entries it applies.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.inner.lane.get()
    }

    /// First offset, end and size.
    #[must_use]
    pub fn bounds(&self) -> LogBounds {
        let state = self.inner.state.borrow();
        LogBounds { start: state.start, end: state.end, bytes: state.bytes }
    }

    /// First offset after the log.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.inner.state.borrow().end
    }

    /// Appends the next committed batch; it is readable at once. `as_of` is the entry that carried it: a batch that the
    /// recovered checkpoint already covers is skipped, so entries may be applied again after a crash.
    ///
    /// # Panics
    /// If the batch does not begin at the log's end; the caller checks that.
    pub fn append(&self, batch: Batch, as_of: EntryId) {
        let shared = &self.inner.shared;
        let mut state = self.inner.state.borrow_mut();
        if state.is_repeat(&batch, as_of) {
            return;
        }
        let len = u64::from(batch.header.len);
        let mark = shared.memory.add(memory_of(&batch));
        state.append(batch, mark);
        shared.disk.add(len);
        let eager = state.unwritten() >= shared.eager_bytes;
        drop(state);
        let since = shared.since_checkpoint.get() + len;
        shared.since_checkpoint.set(since);
        if self.inner.listed.replace(shared.collected.get()) != shared.collected.get() {
            shared.changed(self.inner.id);
            shared.lane_changed(self.inner.lane.get());
        }
        if eager {
            shared.eager.borrow_mut().insert(self.inner.id);
        }
        if eager || since >= shared.checkpoint_bytes || shared.memory.is_over() {
            shared.wake.notify();
        }
    }

    /// Removes what lies wholly below `to`: whole segments, and the unwritten start of an open segment.
    /// `bounds().start` is the new start, at or below `to`. Files are removed after the next checkpoint.
    pub fn trim(&self, to: Offset) {
        let before = self.inner.state.borrow().bytes;
        let (dropped, freed) = self.inner.state.borrow_mut().trim(to);
        if !dropped.is_empty() {
            self.account_dropped(&dropped, freed, before - self.inner.state.borrow().bytes);
        }
    }

    /// Empties the log; the next batch begins at `at`. For snapshots and restore.
    pub fn reset(&self, at: Offset) {
        let before = self.inner.state.borrow().bytes;
        let (dropped, freed) = self.inner.state.borrow_mut().reset(at);
        self.account_dropped(&dropped, freed, before);
    }

    /// Accounts for dropped segments: unwritten bytes leave the disk budget now, written ones when the file is removed.
    fn account_dropped(&self, dropped: &[DroppedSegment], freed: u64, bytes: u64) {
        let shared = &self.inner.shared;
        let in_files: u64 = dropped.iter().map(|gone| gone.flushed).sum();
        assert!(in_files <= bytes, "files of {} hold no more than its segments", self.inner.id);
        shared.disk.remove(bytes - in_files);
        shared.memory.remove(freed);
        shared.runs.forget(self.inner.id);
        shared.doom(self.inner.id, dropped);
        shared.changed(self.inner.id);
    }

    /// Sets the topic's settings, which apply from the next batch on.
    pub fn set_settings(&self, settings: LogSettings) {
        self.inner.state.borrow_mut().settings = settings;
        self.inner.shared.changed(self.inner.id);
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> LogSettings {
        self.inner.state.borrow().settings
    }

    /// The segments in order; the last may be open.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.inner.state.borrow().segments.iter().map(|segment| segment.info()).collect()
    }

    /// Memory that recent batches take, including the overhead of each. Bytes.
    #[must_use]
    pub fn recent_bytes(&self) -> u64 {
        self.inner.state.borrow().recent_bytes
    }

    /// Bytes that write-back could write now.
    #[must_use]
    pub fn unwritten_bytes(&self) -> u64 {
        self.inner.state.borrow().unwritten()
    }

    /// Drops written batches older than the memory's cutoff from memory.
    pub(crate) fn evict(&self, cutoff: u64) {
        let freed = self.inner.state.borrow_mut().evict(cutoff);
        self.inner.shared.memory.remove(freed);
    }

    /// The next batch reports the partition as changed, as the first after a checkpoint does.
    pub(crate) fn report_again(&self) {
        self.inner.listed.set(u64::MAX);
    }

    /// Set after recovery: batches of entries up to `index` are in the log already.
    pub(crate) fn set_covered(&self, index: LogIndex) {
        self.inner.state.borrow_mut().covered = Some(index);
    }

    /// Removes it from the shard: nothing of it is written any more. Returns the bytes of its files, which are freed
    /// when its directory is removed.
    pub(crate) fn retire(&self) -> u64 {
        let before = self.inner.state.borrow().bytes;
        let (dropped, freed) = self.inner.state.borrow_mut().reset(Offset::ZERO);
        let in_files: u64 = dropped.iter().map(|gone| gone.flushed).sum();
        assert!(in_files <= before, "files of {} hold no more than its segments", self.inner.id);
        self.inner.shared.disk.remove(before - in_files);
        self.inner.shared.memory.remove(freed);
        self.inner.shared.runs.forget(self.inner.id);
        in_files
    }
}

impl fmt::Debug for PartitionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionLog").field("id", &self.inner.id).field("bounds", &self.bounds()).finish()
    }
}
