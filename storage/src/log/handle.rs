//! The handle of one partition's log: the synchronous operations and the views. Shard-local; clone freely.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use futures::lock::Mutex;

use super::settings::LogSettings;
use super::shared::LogShared;
use super::state::{DroppedSegment, LogState, held};
use crate::model::{Batch, EntryId, LaneId, LogIndex, Offset, PartitionId};
use crate::segment::{SegmentInfo, partition_dir};

/// Where a log begins and ends. A *message*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// First offset on this disk (in memory or files).
    pub start: Offset,
    pub end: Offset,
    /// Bytes held, written or not.
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
    /// Files born in it, and how many of them a sync of it has begun and ended after: whoever syncs may be cut short.
    pub(crate) born: Cell<u64>,
    pub(crate) born_synced: Cell<u64>,
    /// It and its lane are in the lists of what changed as they have been since this many were collected.
    listed: Cell<u64>,
}

impl PartitionLog {
    pub(crate) fn new(shared: Rc<LogShared>, lane: LaneId, state: LogState) -> Self {
        let (id, dir) = (state.id, partition_dir(&shared.dir, state.id));
        // Segments are numbered anew by each handle: nothing of one before may answer for them.
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

    /// Whose log it is.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.inner.id
    }

    /// The lane whose entries it applies.
    #[must_use]
    pub fn lane(&self) -> LaneId {
        self.inner.lane.get()
    }

    /// Where it begins and ends.
    #[must_use]
    pub fn bounds(&self) -> LogBounds {
        let state = self.inner.state.borrow();
        LogBounds { start: state.start, end: state.end, bytes: state.bytes }
    }

    /// The next offset.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.inner.state.borrow().end
    }

    /// Appends the committed batch that follows; readable at once. `as_of` is the entry that carried it: a batch that a
    /// recovered checkpoint already covers is passed over, so entries may be applied again after a crash.
    ///
    /// # Panics
    /// If the batch does not continue the partition: the caller checks that.
    pub fn append(&self, batch: Batch, as_of: EntryId) {
        let shared = &self.inner.shared;
        let mut state = self.inner.state.borrow_mut();
        if state.is_repeat(&batch, as_of) {
            return;
        }
        let len = u64::from(batch.header.len);
        let mark = shared.memory.add(held(&batch));
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

    /// Forgets what lies wholly below `to`: whole segments, and of a segment not yet written what is gone before it ever
    /// is. `bounds().start` says what is left. Files go after the next checkpoint.
    pub fn trim(&self, to: Offset) {
        let before = self.inner.state.borrow().bytes;
        let (dropped, freed) = self.inner.state.borrow_mut().trim(to);
        if !dropped.is_empty() {
            self.gone(&dropped, freed, before - self.inner.state.borrow().bytes);
        }
    }

    /// Empties the log and begins it again at `at` (after a snapshot was installed, or by restore).
    pub fn reset(&self, at: Offset) {
        let before = self.inner.state.borrow().bytes;
        let (dropped, freed) = self.inner.state.borrow_mut().reset(at);
        self.gone(&dropped, freed, before);
    }

    /// What is not in a file gives its room back now, the rest when the file goes.
    fn gone(&self, dropped: &[DroppedSegment], freed: u64, bytes: u64) {
        let shared = &self.inner.shared;
        let in_files: u64 = dropped.iter().map(|gone| gone.flushed).sum();
        shared.disk.remove(bytes.saturating_sub(in_files));
        shared.memory.remove(freed);
        shared.runs.forget(self.inner.id);
        shared.doom(self.inner.id, dropped);
        shared.changed(self.inner.id);
    }

    /// Takes over the topic's settings; they hold from the next batch on.
    pub fn set_settings(&self, settings: LogSettings) {
        self.inner.state.borrow_mut().settings = settings;
        self.inner.shared.changed(self.inner.id);
    }

    /// The settings it goes by.
    #[must_use]
    pub fn settings(&self) -> LogSettings {
        self.inner.state.borrow().settings
    }

    /// Its segments, in order; the last may be open.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.inner.state.borrow().segments.iter().map(|segment| segment.info()).collect()
    }

    /// Bytes held in memory, what each batch costs beside its own included.
    #[must_use]
    pub fn recent_bytes(&self) -> u64 {
        self.inner.state.borrow().recent_bytes
    }

    /// Bytes write-back could write now.
    #[must_use]
    pub fn unwritten_bytes(&self) -> u64 {
        self.inner.state.borrow().unwritten()
    }

    /// Lets go of written batches older than the memory's cutoff.
    pub(crate) fn evict(&self, cutoff: u64) {
        let freed = self.inner.state.borrow_mut().evict(cutoff);
        self.inner.shared.memory.remove(freed);
    }

    /// Entries up to `index` repeat what is here: set after recovery.
    pub(crate) fn set_covered(&self, index: LogIndex) {
        self.inner.state.borrow_mut().covered = Some(index);
    }

    /// Takes it out of the shard: nothing of it is written any more. Returns the bytes of its files, which are freed
    /// when its directory goes.
    pub(crate) fn retire(&self) -> u64 {
        let before = self.inner.state.borrow().bytes;
        let (dropped, freed) = self.inner.state.borrow_mut().reset(Offset::ZERO);
        let in_files = dropped.iter().map(|gone| gone.flushed).sum();
        self.inner.shared.disk.remove(before.saturating_sub(in_files));
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
