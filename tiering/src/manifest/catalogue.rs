//! The catalogue: topics with ids and configs, and the lanes, of one epoch. JSON, moved by put-if-match; written
//! before a lane's first bundle and before a topic's first row.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{
    Incarnation, LaneId, LeaderEpoch, PartitionId, PartitionIndex, TimestampMs, TopicId, TopicName,
};

use super::copied::CatalogueCopy;
use super::root::{PointerError, from_json, to_json};
use crate::format::FORMAT_VERSION;
use crate::keys::Home;

/// What lies at `<cluster>/<epoch>/catalogue`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Version of all formats.
    pub format: u16,
    pub home: Home,
    /// One more with each write; a writer refuses to go back.
    pub revision: u64,
    /// When it was written.
    pub written: TimestampMs,
    /// Lanes that have, or are about to have, bundles.
    pub lanes: Vec<LaneId>,
    /// Topics that have, or are about to have, rows.
    pub topics: Vec<CatalogueTopic>,
    /// Topics of which nothing is in the bucket; `None`: no writer said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unarchived: Option<UnarchivedTopics>,
}

/// Topics that are not archived, or have no records so far: a restore makes them again, empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnarchivedTopics {
    /// The controller's revision that the list follows; a writer with a lower one changes nothing.
    pub revision: u64,
    /// Sorted by id.
    pub topics: Vec<UnarchivedTopic>,
}

/// A topic of which nothing is in the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnarchivedTopic {
    pub id: TopicId,
    pub name: TopicName,
    /// How many partitions it has.
    pub partitions: u32,
    /// Configs as set by users; defaults are not written.
    pub configs: BTreeMap<String, String>,
    /// Where its records are being copied from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Box<CatalogueCopy>>,
}

/// A topic in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueTopic {
    pub id: TopicId,
    pub name: TopicName,
    /// Configs as set by users; defaults are not written.
    pub configs: BTreeMap<String, String>,
    /// Its partitions, by index.
    pub partitions: Vec<CataloguePartition>,
    /// The controller's revision at the topic's last change; a writer with a lower one changes nothing. 0: written by a
    /// version that did not know revisions.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub revision: u64,
    /// Where its first records are being copied from, while that is not complete: a restore goes on with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<Box<CatalogueCopy>>,
}

/// A partition in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CataloguePartition {
    pub incarnation: Incarnation,
    /// The lane that carries it.
    pub lane: LaneId,
    /// Leader-epoch base, the greatest that any writer knew; 0 if none did. Only the partition's lane knows it.
    pub epoch_base: LeaderEpoch,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(revision: &u64) -> bool {
    *revision == 0
}

impl CatalogueTopic {
    /// Its partitions, by index.
    pub fn partition_ids(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.partitions.iter().enumerate().map(|(n, found)| PartitionId {
            topic: self.id,
            index: PartitionIndex(i32::try_from(n).unwrap_or(i32::MAX)),
            incarnation: found.incarnation,
        })
    }

    /// Does this state say all that `other` does: is it newer, or the same with leader-epoch bases at least as high?
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self == &Self::newer(self, other)
    }

    /// The newer of two states of a topic, by revision (`b` where they are equal), with the greater leader-epoch base
    /// of each partition: lanes that know different bases come to the same, in any order.
    #[must_use]
    pub fn newer(a: &Self, b: &Self) -> Self {
        debug_assert_eq!(a.id, b.id, "states of one topic");
        let (mut topic, other) = if a.revision > b.revision { (a.clone(), b) } else { (b.clone(), a) };
        for (partition, known) in topic.partitions.iter_mut().zip(&other.partitions) {
            if partition.incarnation == known.incarnation {
                partition.epoch_base = partition.epoch_base.max(known.epoch_base);
            }
        }
        topic
    }
}

impl Catalogue {
    /// Empty.
    #[must_use]
    pub fn new(home: Home, now: TimestampMs) -> Self {
        let (lanes, topics) = (Vec::new(), Vec::new());
        Self { format: FORMAT_VERSION, home, revision: 0, written: now, lanes, topics, unarchived: None }
    }

    #[must_use]
    pub fn encode(&self) -> Bytes {
        assert!(self.topics.is_sorted_by(|a, b| a.id < b.id), "topics are searched by id");
        to_json(self)
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`PointerError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, PointerError> {
        from_json("catalogue", bytes)
    }
}
