//! The end of a hold of retention: partitions from which nothing was deleted are due for retention again.
//!
//! Owns: noticing it, on every shard. Does not own: what a hold is (`controller::lineage`, `controller::copies`), the
//! policy while there is one (`host`).

use std::collections::BTreeSet;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::select;
use tidewater_storage::model::{TimestampMs, TopicId};

use super::run::ShardArchivers;
use crate::controller::image::ClusterImage;

/// The topics of which retention deletes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Holds {
    /// All of them, after a restore.
    all: bool,
    /// Those that are copies.
    topics: BTreeSet<TopicId>,
}

impl Holds {
    /// The holds at `now`, and when the next of them ends by itself.
    fn at(image: &ClusterImage, now: TimestampMs) -> (Self, Option<TimestampMs>) {
        let (mut holds, mut next) = (Self::default(), None::<TimestampMs>);
        let mut ends = |at: Option<TimestampMs>| next = next.into_iter().chain(at).min();
        if let Some(lineage) = image.lineage.as_ref().filter(|lineage| lineage.holds(now)) {
            holds.all = true;
            ends(lineage.hold_until);
        }
        for topic in image.topics.values() {
            if let Some(copy) = topic.copy.as_ref().filter(|copy| copy.holds(now)) {
                holds.topics.insert(topic.id);
                ends(copy.hold_until());
            }
        }
        (holds, next)
    }

    /// Is the topic held here, and not in `later`?
    fn ended(&self, later: &Self, topic: TopicId) -> bool {
        let holds = |held: &Self| held.all || held.topics.contains(&topic);
        holds(self) && !holds(later)
    }
}

impl ShardArchivers {
    /// Once a hold has ended, its partitions are due for retention.
    pub(super) async fn end_holds(self: Rc<Self>) {
        let mut held = Holds::default();
        loop {
            let (image, now) = (self.controller.image(), self.env.clock.wall());
            let (holds, next) = Holds::at(&image, now);
            if held != holds {
                for lane in self.shard.lanes() {
                    let replicas = lane.replicas();
                    let due = replicas.iter().filter(|replica| held.ended(&holds, replica.id.topic));
                    due.for_each(|replica| lane.dirty.mark(replica.id, &replica.marks));
                }
                held = holds;
            }
            let changed = self.controller.image_after(image.revision);
            match next {
                Some(until) => {
                    // At least a little: the wall clock may be set meanwhile.
                    let left = Duration::from_millis(until.since_ms(now).unsigned_abs().max(1));
                    select(pin!(self.env.tasks.sleep(left)), pin!(changed)).await;
                }
                None => {
                    changed.await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::controller::copies::{self, TopicCopy};
    use crate::controller::image::TopicImage;
    use crate::controller::lineage::{HOLD_MS, Lineage};
    use crate::kafka::handlers::fixture::image;

    #[test]
    fn a_hold_ends_for_the_topics_that_no_other_holds() {
        let finished = Some(TimestampMs(1_000));
        let copy = TopicCopy { finished, ..copies::tests::copy(&[(0, 5)]) };
        let until = TimestampMs(1_000 + HOLD_MS);
        let mut now = image(&[("copy", 1), ("other", 1)]);
        let topic = TopicImage { copy: Some(Arc::new(copy)), ..TopicImage::clone(&now.topics["copy"]) };
        let (id, other) = (topic.id, now.topics["other"].id);
        now.topics.insert(topic.name.clone(), Arc::new(topic));
        let (held, next) = Holds::at(&now, TimestampMs(2_000));
        assert_eq!((held.all, next), (false, Some(until)));
        let (later, none) = Holds::at(&now, until);
        assert_eq!((held.ended(&later, id), held.ended(&later, other), none), (true, false, None));
        let restored = TimestampMs(1_500);
        let hold_until = Some(TimestampMs(1_500 + HOLD_MS));
        let lineage = Lineage { epoch: 2, source: 1, restored, hold_until, epoch_base: 0, ends: BTreeMap::new() };
        now.lineage = Some(Arc::new(lineage));
        let (held, next) = Holds::at(&now, TimestampMs(2_000));
        assert_eq!(next, Some(until), "the first of both");
        let (later, _) = Holds::at(&now, until);
        assert!(!held.ended(&later, id) && !held.ended(&later, other), "the restore holds all");
        let (last, _) = Holds::at(&now, TimestampMs(1_500 + HOLD_MS));
        assert!(later.ended(&last, id) && later.ended(&last, other));
    }
}
