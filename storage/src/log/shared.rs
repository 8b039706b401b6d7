//! What all logs of a shard share: environment, directory, open files, caches, memory, and the lists of work for the
//! engine. No log has a task, a timer or an open file of its own. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Weak;

use super::memory::RecentMemory;
use super::run_cache::RunCache;
use super::state::DroppedSegment;
use crate::budget::DiskAccount;
use crate::env::{Env, Notify};
use crate::metrics::EngineCounters;
use crate::model::{LaneId, Offset, PartitionId};
use crate::segment::Handles;
use crate::segment::index_cache::IndexCache;

/// One write of write-back, at most. Bytes.
pub(crate) const WRITE_BYTES: u64 = 1 << 20;

/// What to remove once a checkpoint that does not name it is durable. `bytes` leave the disk budget then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doomed {
    /// A segment's file and its index.
    Segment { partition: PartitionId, base: Offset, bytes: u64 },
    /// A partition's directory.
    Partition { partition: PartitionId, bytes: u64 },
}

/// See the file's header. Shard-local.
#[derive(Debug)]
pub(crate) struct LogShared {
    pub(crate) env: Env,
    /// The directory of segment files.
    pub(crate) dir: PathBuf,
    pub(crate) handles: Handles,
    pub(crate) indexes: IndexCache,
    pub(crate) runs: RunCache,
    pub(crate) memory: RecentMemory,
    /// Bytes of segment files.
    pub(crate) disk: DiskAccount,
    pub(crate) counters: EngineCounters,
    /// Unwritten bytes at which a log is written back before the next checkpoint.
    pub(crate) eager_bytes: u64,
    /// Logs that have reached `eager_bytes`.
    pub(crate) eager: RefCell<BTreeSet<PartitionId>>,
    /// Partitions that changed since the last checkpoint.
    pub(crate) changed_partitions: RefCell<BTreeSet<PartitionId>>,
    /// Lanes that changed since the last checkpoint.
    pub(crate) changed_lanes: RefCell<BTreeSet<LaneId>>,
    /// How many times a checkpoint has taken both lists.
    pub(crate) collected: Cell<u64>,
    pub(crate) doomed: RefCell<Vec<Doomed>>,
    /// Bytes appended at which a checkpoint is taken.
    pub(crate) checkpoint_bytes: u64,
    /// Bytes appended since the last checkpoint.
    pub(crate) since_checkpoint: Cell<u64>,
    pub(crate) wake: Notify,
    /// Readers of a lane's whole state, who collect what changes behind them.
    pub(crate) watches: RefCell<Vec<Weak<RefCell<BTreeSet<PartitionId>>>>>,
}

impl LogShared {
    pub(crate) fn changed(&self, partition: PartitionId) {
        for watch in self.watches.borrow().iter().filter_map(Weak::upgrade) {
            watch.borrow_mut().insert(partition);
        }
        let mut changed = self.changed_partitions.borrow_mut();
        if changed.is_empty() {
            self.wake.notify();
        }
        changed.insert(partition);
    }

    pub(crate) fn lane_changed(&self, lane: LaneId) {
        let mut changed = self.changed_lanes.borrow_mut();
        if changed.is_empty() {
            self.wake.notify();
        }
        changed.insert(lane);
    }

    pub(crate) fn has_changes(&self) -> bool {
        !(self.changed_partitions.borrow().is_empty() && self.changed_lanes.borrow().is_empty())
    }

    pub(crate) fn doom(&self, partition: PartitionId, dropped: &[DroppedSegment]) {
        let mut doomed = self.doomed.borrow_mut();
        doomed.extend(dropped.iter().map(|gone| Doomed::Segment { partition, base: gone.base, bytes: gone.flushed }));
    }
}
