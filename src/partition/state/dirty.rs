//! Which partitions of a lane something happened to, for the tasks that look after them: an idle partition is in no list
//! and costs nothing.
//!
//! Owns: one list and one bell per looker, the marks that keep a partition from being listed twice. Does not own: what a
//! looker does. A looker that takes its list has to look at all of it. Shard-local.

use std::cell::{Cell, RefCell};

use tidewater_storage::model::PartitionId;

use super::event::Bell;

/// Who looks after partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looker {
    /// Makes bundles of what is not in the bucket.
    Bundles,
    /// Everything else of the archive.
    Housekeeping,
    /// Local retention.
    Retention,
}

const LOOKERS: usize = 3;
const ALL: u8 = (1 << LOOKERS) - 1;

impl Looker {
    fn bit(self) -> u8 {
        1 << self as usize
    }
}

/// In which lists a partition stands; kept by the partition itself.
#[derive(Debug, Default)]
pub struct Marks(Cell<u8>);

#[derive(Debug, Default)]
struct List {
    partitions: RefCell<Vec<PartitionId>>,
    bell: Bell,
}

/// The lists of a lane.
#[derive(Debug, Default)]
pub struct Touched {
    lists: [List; LOOKERS],
}

impl Touched {
    /// Something happened to a partition: everybody looks.
    pub fn touch(&self, id: PartitionId, marks: &Marks) {
        let before = marks.0.replace(ALL);
        if before == ALL {
            return;
        }
        for (_, list) in self.lists.iter().enumerate().filter(|(n, _)| before & (1 << n) == 0) {
            list.partitions.borrow_mut().push(id);
            list.bell.ring();
        }
    }

    /// Something happened to the lane as a whole.
    pub fn ring(&self) {
        self.lists.iter().for_each(|list| list.bell.ring());
    }

    fn list(&self, who: Looker) -> &List {
        &self.lists[who as usize]
    }

    /// Everything in a looker's list; `keep` says of each whether it stays listed. `None` from `marks`: it is gone.
    pub fn retain<M: std::ops::Deref<Target = Marks>>(
        &self,
        who: Looker,
        marks: impl Fn(PartitionId) -> Option<M>,
        mut keep: impl FnMut(PartitionId) -> bool,
    ) {
        let mut listed = std::mem::take(&mut *self.list(who).partitions.borrow_mut());
        listed.retain(|id| {
            let Some(marks) = marks(*id) else { return false };
            // Unmarked first: what happens while it is looked at counts again.
            marks.0.set(marks.0.get() & !who.bit());
            let stays = keep(*id);
            if stays {
                marks.0.set(marks.0.get() | who.bit());
            }
            stays
        });
        self.list(who).partitions.borrow_mut().extend(listed);
    }

    /// Waits until the lane or a partition that is not listed yet was touched since the last wait.
    pub async fn stirred(&self, who: Looker) {
        self.list(who).bell.heard().await;
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
    fn each_looker_is_told_once_until_it_looks() {
        let touched = Touched::default();
        let marks = [Rc::new(Marks::default()), Rc::new(Marks::default())];
        let of = |id: PartitionId| marks.get(id.index.0 as usize).cloned();
        (0..3).for_each(|_| touched.touch(id(0), &marks[0]));
        touched.touch(id(1), &marks[1]);
        touched.touch(id(7), &Marks::default());
        let mut seen = Vec::new();
        let mut look = |who, keep: bool| {
            seen.clear();
            touched.retain(who, of, |id| {
                seen.push(id.index.0);
                keep
            });
            seen.clone()
        };
        assert_eq!(look(Looker::Bundles, true), [0, 1], "a partition that is gone is not shown");
        assert_eq!(look(Looker::Bundles, false), [0, 1], "what was kept is shown again");
        assert!(look(Looker::Bundles, false).is_empty());
        assert_eq!(look(Looker::Retention, false), [0, 1]);
        touched.touch(id(0), &marks[0]);
        assert_eq!(look(Looker::Bundles, false), [0]);
    }

    #[test]
    fn the_bell_is_rung_for_what_was_not_listed() {
        let (touched, marks) = (Touched::default(), Marks::default());
        touched.touch(id(0), &marks);
        assert!(touched.stirred(Looker::Bundles).now_or_never().is_some());
        touched.touch(id(0), &marks);
        assert!(touched.stirred(Looker::Bundles).now_or_never().is_none(), "still listed: its looker knows");
        touched.ring();
        assert!(touched.stirred(Looker::Bundles).now_or_never().is_some());
    }
}
