//! What is wrong with a bucket: [`Damage`], and the bounded list of it. *Messages*.

use serde::Serialize;
use tidewater_storage::model::{OffsetRange, PartitionId};

use crate::keys::ObjectName;

/// Findings kept; what is beyond is only counted.
const FINDINGS_MAX: usize = 10_000;
/// Ranges kept of one finding.
const RANGES_MAX: usize = 1_000;

/// What is wrong with an object, or between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DamageKind {
    /// An object that is named is not there.
    Missing,
    /// It has not the bytes that what names it says.
    Size,
    /// Bytes are not those that were written.
    Checksum,
    /// It does not decode.
    Unreadable,
    /// It is of another cluster, epoch, lane or partition than its key says.
    Foreign,
    /// A bundle does not follow the one before it.
    Chain,
    /// Offsets lie in no object.
    Gap,
    /// Offsets lie in two objects.
    Overlap,
    /// An object does not hold the offsets that a row says it does.
    Contradiction,
    /// The catalogue does not have a topic that has records in the bucket.
    Unlisted,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    pub kind: DamageKind,
    /// The object's key.
    pub object: String,
    /// What cannot be read because of it; empty if that is not known, as of a page.
    pub ranges: Vec<DamagedRange>,
    /// Further ranges.
    pub ranges_left_out: u64,
    pub reason: String,
}

/// Offsets of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DamagedRange {
    pub partition: PartitionId,
    pub offsets: OffsetRange,
}

/// An object that the store did not give: nothing is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// The key of the object in the bucket.
    pub object: String,
    pub reason: String,
}

/// All findings, within a bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    pub damage: Vec<Damage>,
    /// Further damage.
    pub damage_left_out: u64,
    pub unread: Vec<Unread>,
    /// Further objects that could not be read.
    pub unread_left_out: u64,
}

impl Damage {
    pub(super) fn new(kind: DamageKind, object: &ObjectName, reason: impl Into<String>) -> Self {
        Self { kind, object: object.to_string(), ranges: Vec::new(), ranges_left_out: 0, reason: reason.into() }
    }

    /// The same, with what cannot be read because of it.
    pub(super) fn of(mut self, ranges: impl IntoIterator<Item = (PartitionId, OffsetRange)>) -> Self {
        for (partition, offsets) in ranges {
            let has_room = self.ranges.len() < RANGES_MAX;
            match self.ranges.last_mut() {
                Some(last) if last.partition == partition && last.offsets.end == offsets.start => {
                    last.offsets.end = offsets.end;
                }
                _ if has_room => self.ranges.push(DamagedRange { partition, offsets }),
                _ => self.ranges_left_out += 1,
            }
        }
        self
    }
}

impl Findings {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.damage.is_empty() && self.unread.is_empty()
    }

    pub(super) fn add(&mut self, damage: Damage) {
        if self.damage.len() < FINDINGS_MAX {
            self.damage.push(damage);
        } else {
            self.damage_left_out += 1;
        }
    }

    pub(super) fn unread(&mut self, object: String, reason: String) {
        if self.unread.len() < FINDINGS_MAX {
            self.unread.push(Unread { object, reason });
        } else {
            self.unread_left_out += 1;
        }
    }
}
