//! Recently used indexes of closed segments, bounded in number. Shard-local.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::index::SegmentIndex;
use super::state::SegmentKey;
use crate::model::PartitionId;

type Entry = (PartitionId, SegmentKey, Rc<SegmentIndex>);

#[derive(Debug)]
pub(crate) struct IndexCache {
    max: usize,
    /// Least recently used first.
    entries: RefCell<VecDeque<Entry>>,
}

impl IndexCache {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), entries: RefCell::default() }
    }

    pub(crate) fn get(&self, id: PartitionId, key: SegmentKey) -> Option<Rc<SegmentIndex>> {
        let mut entries = self.entries.borrow_mut();
        let at = entries.iter().rposition(|entry| (entry.0, entry.1) == (id, key))?;
        let entry = entries.remove(at)?;
        let index = entry.2.clone();
        entries.push_back(entry);
        Some(index)
    }

    pub(crate) fn put(&self, id: PartitionId, key: SegmentKey, index: Rc<SegmentIndex>) {
        let mut entries = self.entries.borrow_mut();
        entries.retain(|entry| (entry.0, entry.1) != (id, key));
        entries.push_back((id, key, index));
        if entries.len() > self.max {
            entries.pop_front();
        }
    }

    /// Removes all indexes of a partition.
    pub(crate) fn forget(&self, id: PartitionId) {
        self.entries.borrow_mut().retain(|entry| entry.0 != id);
    }
}
