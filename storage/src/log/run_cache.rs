//! Runs read and checked lately, so that a consumer with small fetches does not read a run once per fetch.
//! A few MiB a shard. Shard-local.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;

use crate::model::{Offset, PartitionId};
use crate::segment::state::SegmentKey;

/// Runs kept; a run is at most 1 MiB unless a single batch is larger.
const RUNS_MAX: usize = 8;
/// Larger runs are not kept. Bytes.
const RUN_BYTES_MAX: usize = 2 << 20;

type Key = (PartitionId, SegmentKey, Offset, usize);

#[derive(Debug, Default)]
pub(crate) struct RunCache {
    runs: RefCell<VecDeque<(Key, Bytes)>>,
}

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
        if bytes.len() > RUN_BYTES_MAX {
            return;
        }
        let mut runs = self.runs.borrow_mut();
        runs.push_back((key, bytes));
        if runs.len() > RUNS_MAX {
            runs.pop_front();
        }
    }

    /// Forgets a partition.
    pub(crate) fn forget(&self, id: PartitionId) {
        self.runs.borrow_mut().retain(|(key, _)| key.0 != id);
    }
}
