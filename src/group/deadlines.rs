//! The deadlines of all groups of a shard in one queue. *Shard-local.*
//!
//! Heartbeats move a deadline later many times for each time one lapses; so a later deadline is not queued at all: the
//! old one fires, finds nothing due and puts the group back with its real one.

use std::collections::BTreeSet;

use tidewater_storage::env::Mono;
use tidewater_storage::model::PartitionId;

use super::ids::GroupId;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    queue: BTreeSet<(Mono, PartitionId, GroupId)>,
}

impl Deadlines {
    /// Queues the group for `wanted`, unless it is queued for an earlier time; `queued` is the time it is queued for.
    /// True if the queue's first deadline became earlier.
    pub(super) fn set(
        &mut self,
        partition: PartitionId,
        group: &GroupId,
        queued: &mut Option<Mono>,
        wanted: Option<Mono>,
    ) -> bool {
        let Some(wanted) = wanted else { return false };
        if queued.is_some_and(|at| at <= wanted) {
            return false;
        }
        if let Some(old) = queued.replace(wanted) {
            self.queue.remove(&(old, partition, group.clone()));
        }
        let first = self.next();
        self.queue.insert((wanted, partition, group.clone()));
        first.is_none_or(|first| wanted < first)
    }

    /// Forgets the groups of a partition.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.queue.retain(|(_, queued, _)| *queued != partition);
    }

    pub(super) fn next(&self) -> Option<Mono> {
        self.queue.first().map(|(at, _, _)| *at)
    }

    /// Takes out one group whose deadline is not after `now`.
    pub(super) fn pop_due(&mut self, now: Mono) -> Option<(PartitionId, GroupId)> {
        if self.next()? > now {
            return None;
        }
        self.queue.pop_first().map(|(_, partition, group)| (partition, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nearer_deadlines_are_queued() {
        let at = Mono::from_nanos;
        let (mut queue, partition, group) = (Deadlines::default(), PartitionId::default(), GroupId::from("g"));
        let mut queued = None;
        assert!(queue.set(partition, &group, &mut queued, Some(at(10))));
        assert!(!queue.set(partition, &group, &mut queued, Some(at(20))));
        assert!(!queue.set(partition, &group, &mut queued, None));
        assert!(queue.set(partition, &group, &mut queued, Some(at(5))));
        assert_eq!((queue.next(), queued), (Some(at(5)), Some(at(5))));
        assert_eq!(queue.pop_due(at(4)), None);
        assert_eq!(queue.pop_due(at(5)), Some((partition, group.clone())));
        assert_eq!(queue.next(), None);
        let other = PartitionId { index: tidewater_storage::model::PartitionIndex(1), ..partition };
        for of in [partition, other] {
            assert!(queue.set(of, &group, &mut None, Some(at(30 - of.index.0 as u64))));
        }
        queue.forget(other);
        assert_eq!((queue.pop_due(at(90)), queue.next()), (Some((partition, group)), None));
    }
}
