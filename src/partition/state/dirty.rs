//! Partitions of a lane that changed, listed for each task that looks after partitions: an idle partition is in no list
//! and costs nothing.
//!
//! Owns: one list and one notifier per task, the marks that keep a partition from being listed twice. A task that takes
//! its list has to look at all of it. Shard-local.

use std::cell::{Cell, RefCell};

use tidewater_storage::env::Notify;
use tidewater_storage::model::PartitionId;

/// The list of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyList {
    /// Makes bundles of what is not in the bucket.
    Bundles,
    /// Everything else of the archive.
    Housekeeping,
    Retention,
}

const LISTS: usize = 3;
const ALL: u8 = (1 << LISTS) - 1;

impl DirtyList {
    fn bit(self) -> u8 {
        1 << self as usize
    }
}

/// The lists that hold a partition; kept by the partition itself.
#[derive(Debug, Default)]
pub struct Marks(Cell<u8>);

#[derive(Debug, Default)]
struct List {
    partitions: RefCell<Vec<PartitionId>>,
    notify: Notify,
}

/// The lists of a lane.
#[derive(Debug, Default)]
pub struct DirtyPartitions {
    lists: [List; LISTS],
}

impl DirtyPartitions {
    /// A partition changed: it goes into every list.
    pub fn mark(&self, id: PartitionId, marks: &Marks) {
        let before = marks.0.replace(ALL);
        if before == ALL {
            return;
        }
        for (_, list) in self.lists.iter().enumerate().filter(|(n, _)| before & (1 << n) == 0) {
            list.partitions.borrow_mut().push(id);
            list.notify.notify();
        }
    }

    /// Forgets every partition, whose marks are to be of no use any more: the lane's partitions are replaced.
    pub fn clear(&self) {
        self.lists.iter().for_each(|list| list.partitions.borrow_mut().clear());
    }

    /// The lane as a whole changed.
    pub fn notify(&self) {
        self.lists.iter().for_each(|list| list.notify.notify());
    }

    fn list(&self, list: DirtyList) -> &List {
        &self.lists[list as usize]
    }

    /// Goes through a task's list; `keep` decides whether a partition stays listed. A partition without `marks` is
    /// gone.
    pub fn retain<M: std::ops::Deref<Target = Marks>>(
        &self,
        list: DirtyList,
        marks: impl Fn(PartitionId) -> Option<M>,
        mut keep: impl FnMut(PartitionId) -> bool,
    ) {
        let mut listed = std::mem::take(&mut *self.list(list).partitions.borrow_mut());
        listed.retain(|id| {
            let Some(marks) = marks(*id) else { return false };
            // Unmarked first, so that a change made by `keep` lists it again.
            marks.0.set(marks.0.get() & !list.bit());
            let stays = keep(*id);
            if stays {
                marks.0.set(marks.0.get() | list.bit());
            }
            stays
        });
        self.list(list).partitions.borrow_mut().extend(listed);
    }

    /// Waits until the lane or a partition that is not listed yet changed since the last wait.
    pub async fn changed(&self, list: DirtyList) {
        self.list(list).notify.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures::FutureExt;
    use tidewater_storage::model::{Incarnation, PartitionIndex, TopicId};

    use super::*;

    fn id(index: i32) -> PartitionId {
        PartitionId { topic: TopicId::default(), index: PartitionIndex(index), incarnation: Incarnation(0) }
    }

    #[test]
    fn each_list_holds_a_partition_once_until_its_task_looks() {
        let dirty = DirtyPartitions::default();
        let marks = [Rc::new(Marks::default()), Rc::new(Marks::default())];
        let of = |id: PartitionId| marks.get(id.index.0 as usize).cloned();
        (0..3).for_each(|_| dirty.mark(id(0), &marks[0]));
        dirty.mark(id(1), &marks[1]);
        dirty.mark(id(7), &Marks::default());
        let mut seen = Vec::new();
        let mut look = |list, keep: bool| {
            seen.clear();
            dirty.retain(list, of, |id| {
                seen.push(id.index.0);
                keep
            });
            seen.clone()
        };
        assert_eq!(look(DirtyList::Bundles, true), [0, 1], "a partition that is gone is not shown");
        assert_eq!(look(DirtyList::Bundles, false), [0, 1], "a partition that was kept is shown again");
        assert!(look(DirtyList::Bundles, false).is_empty());
        assert_eq!(look(DirtyList::Retention, false), [0, 1]);
        dirty.mark(id(0), &marks[0]);
        assert_eq!(look(DirtyList::Bundles, false), [0]);
    }

    #[test]
    fn a_partition_that_was_replaced_is_listed_once() {
        let dirty = DirtyPartitions::default();
        dirty.mark(id(0), &Marks::default());
        dirty.clear();
        let marks = Rc::new(Marks::default());
        dirty.mark(id(0), &marks);
        let mut seen = 0;
        dirty.retain(
            DirtyList::Bundles,
            |_| Some(Rc::clone(&marks)),
            |_| {
                seen += 1;
                false
            },
        );
        assert_eq!(seen, 1);
    }

    #[test]
    fn a_wait_ends_for_a_partition_that_was_not_listed() {
        let (dirty, marks) = (DirtyPartitions::default(), Marks::default());
        dirty.mark(id(0), &marks);
        assert!(dirty.changed(DirtyList::Bundles).now_or_never().is_some());
        dirty.mark(id(0), &marks);
        assert!(dirty.changed(DirtyList::Bundles).now_or_never().is_none(), "still listed");
        dirty.notify();
        assert!(dirty.changed(DirtyList::Bundles).now_or_never().is_some());
    }
}
