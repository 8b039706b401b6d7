//! The committed offsets of one group. Pure, *shard-local*.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewater_storage::model::{LeaderEpoch, Offset, TimestampMs, TopicId};

/// The number a client commits: usually the next offset to read. It may be negative, since kafkajs commits -1 and -2 to
/// reset a group; Kafka stores any number and returns it unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedOffset(pub i64);

impl CommittedOffset {
    /// The offset to read next; `None` for a negative number.
    #[must_use]
    pub const fn position(self) -> Option<Offset> {
        Offset::from_wire(self.0)
    }
}

impl From<Offset> for CommittedOffset {
    fn from(offset: Offset) -> Self {
        Self(offset.to_wire())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// What the client committed.
    pub offset: CommittedOffset,
    /// Leader epoch of the last record read, if the client sent it.
    pub leader_epoch: Option<LeaderEpoch>,
    pub metadata: Arc<str>,
    pub at: TimestampMs,
    /// When it lapses, if the client set a time (OffsetCommit v2 to v4).
    pub expires_at: Option<TimestampMs>,
    /// The topic's id: a topic that is deleted and created again has another. `None` until the coordinator has seen it,
    /// and in records without an id.
    pub topic: Option<TopicId>,
}

/// A commit and the offset of its record in `__consumer_offsets`: the later record wins, in any order of application;
/// records of one append share a place and are applied in their order.
#[derive(Clone, Debug)]
struct Placed {
    commit: Commit,
    place: Offset,
}

/// Offsets by topic and partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Offsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, Placed>>,
}

impl Offsets {
    /// A record at `place` says that this offset was committed.
    pub(super) fn set(&mut self, topic: &str, partition: i32, commit: Commit, place: Offset) {
        let partitions = match self.topics.get_mut(topic) {
            Some(partitions) => partitions,
            None => self.topics.entry(topic.into()).or_default(),
        };
        if partitions.get(&partition).is_none_or(|held| held.place <= place) {
            partitions.insert(partition, Placed { commit, place });
        }
    }

    /// A record at `place` says that this offset is gone.
    pub(super) fn remove(&mut self, topic: &str, partition: i32, place: Offset) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        if partitions.get(&partition).is_some_and(|held| held.place <= place) {
            partitions.remove(&partition);
        }
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
    }

    pub(super) fn get(&self, topic: &str, partition: i32) -> Option<&Commit> {
        self.topics.get(topic)?.get(&partition).map(|placed| &placed.commit)
    }

    /// Forgets a topic's offsets that are of another topic id than `now` (all of them if it was deleted), before the
    /// log says so; returns their partitions. Offsets without an id count as of this topic.
    pub(super) fn keep_life(&mut self, topic: &str, now: Option<TopicId>) -> Vec<i32> {
        let Some(partitions) = self.topics.get_mut(topic) else { return Vec::new() };
        let mut gone = Vec::new();
        partitions.retain(|partition, placed| {
            let keep = now.is_some_and(|now| *placed.commit.topic.get_or_insert(now) == now);
            if !keep {
                gone.push(*partition);
            }
            keep
        });
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
        gone
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &Commit)> {
        self.topics.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, placed)| (topic, *partition, &placed.commit))
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Offsets that have lapsed at `now`, given how long one is kept after its commit (or after the group was last
    /// known to have members, if that is later).
    pub(super) fn lapsed(&self, now: TimestampMs, keep_ms: i64, in_use_until: TimestampMs) -> Vec<(Arc<str>, i32)> {
        let gone = |commit: &Commit| match commit.expires_at {
            Some(at) => at <= now,
            None => commit.at.max(in_use_until).plus_ms(keep_ms) <= now,
        };
        self.iter()
            .filter(|(_, _, commit)| gone(commit))
            .map(|(topic, partition, _)| (Arc::clone(topic), partition))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(offset: u64, at: i64) -> Commit {
        Commit {
            offset: Offset::new(offset).into(),
            leader_epoch: None,
            metadata: "".into(),
            at: TimestampMs(at),
            expires_at: None,
            topic: None,
        }
    }

    #[test]
    fn the_later_record_wins_in_any_order() {
        let mut offsets = Offsets::default();
        offsets.set("t", 0, commit(20, 0), Offset::new(2));
        offsets.set("t", 0, commit(10, 0), Offset::new(1));
        assert_eq!(offsets.get("t", 0).map(|c| c.offset), Some(Offset::new(20).into()));
        offsets.remove("t", 0, Offset::new(1));
        assert!(!offsets.is_empty());
        offsets.remove("t", 0, Offset::new(3));
        assert!(offsets.is_empty());
    }

    #[test]
    fn offsets_of_another_life_of_the_topic_are_forgotten() {
        let life = |n| TopicId(uuid::Uuid::from_u128(n));
        let mut offsets = Offsets::default();
        offsets.set("t", 0, Commit { topic: Some(life(1)), ..commit(1, 0) }, Offset::new(0));
        offsets.set("t", 1, Commit { topic: Some(life(2)), ..commit(1, 0) }, Offset::new(1));
        offsets.set("t", 2, commit(1, 0), Offset::new(2));
        assert_eq!(offsets.keep_life("t", Some(life(2))), [0]);
        // One that did not say is of the life it was first seen in.
        assert_eq!(offsets.keep_life("t", Some(life(3))), [1, 2]);
        assert!(offsets.is_empty());
        offsets.set("t", 0, commit(1, 0), Offset::new(3));
        assert_eq!(offsets.keep_life("t", None), [0]);
    }

    #[test]
    fn offsets_lapse_after_their_time() {
        let mut offsets = Offsets::default();
        offsets.set("t", 0, commit(1, 1000), Offset::new(0));
        offsets.set("t", 1, commit(1, 5000), Offset::new(1));
        assert_eq!(offsets.lapsed(TimestampMs(3000), 1500, TimestampMs::NONE), [("t".into(), 0)]);
        assert!(offsets.lapsed(TimestampMs(3000), 1500, TimestampMs(2900)).is_empty());
    }
}
