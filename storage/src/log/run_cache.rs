//! Recently read and checked runs, so that a consumer with small fetches does not read a run from disk for each of
//! them. A few MiB a shard. Shard-local.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::Shared;

use crate::model::{Offset, PartitionId};
use crate::segment::state::SegmentKey;

/// Runs cached.
const RUNS_MAX: usize = 8;
/// Larger runs are not cached: a run is at most 1 MiB, or one larger batch. Bytes.
const RUN_BYTES_MAX: usize = 2 << 20;

/// Runs that tasks read at one time. A reader beyond them reads without a task, so that readers which give up cannot
/// fill the memory.
const UNDER_WAY_MAX: usize = 64;

type Key = (PartitionId, SegmentKey, Offset, usize);

#[derive(Debug, Default)]
pub(crate) struct RunCache {
    runs: RefCell<VecDeque<(Key, Bytes)>>,
    /// Runs that a task is reading, each with a future that resolves at the end of the read.
    under_way: RefCell<Vec<(Key, Ended)>>,
}

/// Resolves when a read has ended, also if it failed.
pub(crate) type Ended = Shared<oneshot::Receiver<()>>;

impl RunCache {
    pub(crate) fn get(&self, key: Key) -> Option<Bytes> {
        let mut runs = self.runs.borrow_mut();
        let at = runs.iter().rposition(|(k, _)| *k == key)?;
        let entry = runs.remove(at)?;
        let bytes = entry.1.clone();
        runs.push_back(entry);
        Some(bytes)
    }

    pub(crate) fn put(&self, key: Key, bytes: Bytes) {
        assert_eq!(bytes.len(), key.3, "a run is as long as its sum says");
        if bytes.len() > RUN_BYTES_MAX {
            return;
        }
        let mut runs = self.runs.borrow_mut();
        runs.push_back((key, bytes));
        if runs.len() > RUNS_MAX {
            runs.pop_front();
        }
    }

    /// The end of the read of this run, if a task is reading it.
    pub(crate) fn under_way(&self, key: Key) -> Option<Ended> {
        self.under_way.borrow().iter().find(|(k, _)| *k == key).map(|(_, ended)| ended.clone())
    }

    /// Registers a read of a run, for [`RunCache::end`]; `None` if too many reads are registered.
    pub(crate) fn begin(&self, key: Key) -> Option<oneshot::Sender<()>> {
        let mut under_way = self.under_way.borrow_mut();
        if under_way.len() >= UNDER_WAY_MAX {
            return None;
        }
        let (sender, ended) = oneshot::channel();
        under_way.push((key, ended.shared()));
        Some(sender)
    }

    /// Ends the read that `begin` registered.
    pub(crate) fn end(&self, key: Key, begun: oneshot::Sender<()>) {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(at) = under_way.iter().position(|(k, _)| *k == key) {
            drop(under_way.remove(at));
        }
        drop(under_way);
        drop(begun);
    }

    /// Removes all runs of a partition.
    pub(crate) fn forget(&self, id: PartitionId) {
        self.runs.borrow_mut().retain(|(key, _)| key.0 != id);
    }
}
