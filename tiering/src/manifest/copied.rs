//! What a topic that is being copied from an archived topic goes on from, in the catalogue and in the controller's
//! state.
//!
//! Owns: the shape, and which offsets can be a copy's. Does not own: copying (the broker's package). Every type is a
//! *message*.

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, Offset, TimestampMs, TopicId, TopicName};
use uuid::Uuid;

use crate::keys::{ClusterId, ClusterName, Home, LineageEpoch};

/// A copy that is not complete, in the catalogue. How far each partition is follows from its archived end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueCopy {
    pub origin: CopyOrigin,
    /// By number.
    pub partitions: Vec<CopyPartition>,
    pub began: TimestampMs,
}

/// The archived topic that is copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOrigin {
    /// The bucket's URL; `None`: the own bucket of the cluster that makes the copy.
    pub url: Option<String>,
    pub cluster_name: ClusterName,
    pub cluster: Uuid,
    /// The lineage epoch that it was found in.
    pub epoch: u32,
    pub topic: TopicName,
    pub topic_id: TopicId,
    /// The cut that it is taken from; `None`: what was archived at `at`.
    pub cut: Option<u64>,
    /// Of the cut, or when the topic was looked at.
    pub at: TimestampMs,
}

/// One partition of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedPartition")]
pub struct CopyPartition {
    /// The origin's lane.
    pub lane: LaneId,
    /// First offset that readers see once the partition is complete; within the first batch.
    pub log_start: Offset,
    /// First offset of the first batch.
    pub start: Offset,
    /// After the last batch.
    pub end: Offset,
}

/// As it was written, by this program or another.
#[derive(Deserialize)]
struct UncheckedPartition {
    lane: LaneId,
    log_start: Offset,
    start: Offset,
    end: Offset,
}

impl TryFrom<UncheckedPartition> for CopyPartition {
    type Error = String;

    fn try_from(found: UncheckedPartition) -> Result<Self, String> {
        let UncheckedPartition { lane, log_start, start, end } = found;
        let partition = Self { lane, log_start, start, end };
        if partition.is_sound() {
            Ok(partition)
        } else {
            Err(format!("a copied partition from offset {start}, log start {log_start}, to {end}"))
        }
    }
}

impl CopyPartition {
    /// Can a partition have these offsets?
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.start <= self.log_start
            && self.log_start <= self.end
            && (self.start < self.end || self.start == self.log_start)
    }
}

impl CopyOrigin {
    /// The origin after a restore into `home` of the cluster that makes the copy. A topic of its own bucket goes on in
    /// the new home, which names the objects that are there; a cut stays where it was made.
    #[must_use]
    pub fn restored_into(&self, home: Home) -> Self {
        let moves = self.url.is_none() && self.cut.is_none() && self.cluster == home.cluster.0;
        Self { epoch: if moves { home.epoch.0 } else { self.epoch }, ..self.clone() }
    }

    /// The cut that it is taken from, if that is a cut of this home.
    #[must_use]
    pub fn cut_in(&self, home: Home) -> Option<u64> {
        let of = Home { cluster: ClusterId(self.cluster), epoch: LineageEpoch(self.epoch) };
        self.cut.filter(|_| of == home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_no_partition_can_have_are_refused() {
        let read = |offsets: [u64; 3]| {
            let [start, log_start, end] = offsets;
            let json = serde_json::json!({ "lane": 1, "start": start, "log_start": log_start, "end": end });
            serde_json::from_value::<CopyPartition>(json)
        };
        for sound in [[0, 0, 0], [3, 3, 3], [3, 5, 9], [3, 9, 9]] {
            assert!(read(sound).is_ok(), "{sound:?}");
        }
        for bad in [[5, 3, 9], [3, 10, 9], [3, 4, 3], [9, 9, 5]] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_topic_of_the_own_bucket_is_found_in_the_new_home() {
        let home = Home { cluster: ClusterId(Uuid::from_u128(9)), epoch: LineageEpoch(4) };
        let origin = CopyOrigin {
            url: None,
            cluster_name: ClusterName::new("tidewater").expect("legal"),
            cluster: home.cluster.0,
            epoch: 3,
            topic: TopicName::new("orders").expect("legal"),
            topic_id: TopicId(Uuid::from_u128(1)),
            cut: None,
            at: TimestampMs(5),
        };
        assert_eq!(origin.restored_into(home).epoch, 4);
        assert_eq!(CopyOrigin { cut: Some(7), ..origin.clone() }.restored_into(home).epoch, 3);
        assert_eq!(CopyOrigin { url: Some("s3://b".into()), ..origin.clone() }.restored_into(home).epoch, 3);
        assert_eq!(CopyOrigin { cluster: Uuid::from_u128(8), ..origin }.restored_into(home).epoch, 3);
    }
}
