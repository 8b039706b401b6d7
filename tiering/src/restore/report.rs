//! What a restore brings back, for people and programs.

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, Offset, PartitionId, TimestampMs, TopicId, TopicName};

use super::freeze::LaneEnd;
use super::read::LaneRead;
use crate::follow::FollowedPartition;
use crate::keys::Sequence;

/// See the header. A *message*; as JSON, offsets and counts are numbers and times milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Topics that come back with their archived records, by id.
    pub topics: Vec<TopicReport>,
    /// Topics that come back empty: not archived, or without records.
    pub unarchived: Vec<TopicName>,
    /// Topics of the source's catalogue that had been deleted, or replaced by a newer one of the same name.
    pub deleted: Vec<TopicName>,
    /// Topics of the two lists above that were being copied from other topics: the restored cluster goes on with that,
    /// and they take records once it is complete.
    pub copies: Vec<TopicName>,
    pub lanes: Vec<LaneReport>,
    /// Partitions of topics that the catalogue does not name: it is older than what lies beside it.
    pub strays: Vec<String>,
    /// A lane ends before a damaged or missing bundle, or there are strays: more is lost than what was not archived.
    pub damaged: bool,
    /// The cut that it goes back to; `None`: all that was archived comes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutReport>,
}

/// The cut that a restore goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutReport {
    pub number: u64,
    /// What was archived before this time is in it.
    pub at: TimestampMs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicReport {
    pub id: TopicId,
    pub name: TopicName,
    /// By number.
    pub partitions: Vec<PartitionReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    pub partition: i32,
    /// The lane that holds it; `None` if nothing of it was archived.
    pub lane: Option<LaneId>,
    pub log_start: Offset,
    /// The offset after the last record that is there.
    pub end: Offset,
    /// Bytes in the bucket.
    pub bytes: u64,
    /// The greatest timestamp of its records; -1 if there is none.
    pub max_timestamp: TimestampMs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReport {
    pub lane: LaneId,
    /// The last bundle that counts; 0 if there is none.
    pub last_bundle: Sequence,
    /// When it was written, by its broker's clock: records acknowledged later are lost. -1 if there is none.
    pub written: TimestampMs,
    /// Why the lane ends there, if it is not its end: a bundle that is damaged or missing.
    pub damage: Option<String>,
}

impl Report {
    /// What is damaged, one line each.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        let lanes = self.lanes.iter().filter_map(|lane| Some(format!("lane {}: {}", lane.lane, lane.damage.as_ref()?)));
        let strays = self.strays.iter().map(|id| format!("partition {id}: the catalogue does not name its topic"));
        lanes.chain(strays).collect()
    }
}

impl PartitionReport {
    pub(super) fn of(id: PartitionId, found: Option<(&FollowedPartition, LaneId)>) -> Self {
        let manifest = found.map(|(found, _)| found.manifest());
        Self {
            partition: id.index.0,
            lane: found.map(|(_, lane)| lane),
            log_start: manifest.map_or(Offset::ZERO, |manifest| manifest.log_start),
            end: manifest.map_or(Offset::ZERO, |manifest| manifest.archived_end),
            bytes: manifest.map_or(0, crate::manifest::PartitionManifest::bytes),
            max_timestamp: manifest.map_or(TimestampMs::NONE, crate::manifest::PartitionManifest::max_timestamp),
        }
    }
}

impl LaneReport {
    pub(super) fn of(read: &LaneRead) -> Self {
        let damage = match &read.end {
            LaneEnd::Damaged { at, reason } => Some(format!("bundle {at}: {reason}")),
            LaneEnd::Open | LaneEnd::Sealed => None,
        };
        Self {
            lane: read.followed.lane(),
            last_bundle: read.followed.last(),
            written: read.followed.last_written(),
            damage,
        }
    }
}
