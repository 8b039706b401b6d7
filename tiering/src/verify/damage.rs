//! What is wrong with a bucket: [`Damage`], and the bounded list of it. *Messages*.
//!
//! The list is sorted, causes before what follows from them, and keeps the first: objects are looked at side by side,
//! and what is reported must not depend on which answer came first.

use std::cmp::Ordering;

use serde::Serialize;
use tidewater_storage::model::{OffsetRange, PartitionId, TimestampMs};

use crate::keys::ObjectName;

/// Findings kept; what is beyond is only counted.
const FINDINGS_MAX: usize = 10_000;
/// Ranges kept of one finding.
const RANGES_MAX: usize = 1_000;

/// What is wrong with an object, or between two. Findings are reported in this order.
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
    /// An object does not hold the offsets that a row says it does, or two objects say different things of a third.
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
    /// Cuts that reach it, by number: a restore to one of them meets the damage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<DamagedCut>,
    /// The table that it is of, `namespace.name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    pub reason: String,
}

/// A cut that cannot be gone back to as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DamagedCut {
    pub number: u64,
    /// The cut's time.
    pub at: TimestampMs,
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
        Self::at(kind, object.to_string(), reason)
    }

    /// Of an object whose key is no object's name, as the index of cuts.
    pub(super) fn at(kind: DamageKind, key: impl Into<String>, reason: impl Into<String>) -> Self {
        let (object, reason) = (key.into(), reason.into());
        Self { kind, object, ranges: Vec::new(), ranges_left_out: 0, cuts: Vec::new(), table: None, reason }
    }

    /// Of a file of a table.
    #[must_use]
    pub fn of_table(kind: DamageKind, table: &str, file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { table: Some(table.to_owned()), ..Self::at(kind, file, reason) }
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

    /// Adds damage; beyond the bound it is only counted.
    pub fn add(&mut self, damage: Damage) {
        self.damage_left_out += insert(&mut self.damage, damage, |a, b| {
            (a.kind, &a.object, &a.reason).cmp(&(b.kind, &b.object, &b.reason))
        });
    }

    /// Notes that cuts reach an object that was found damaged.
    pub(super) fn concerns(&mut self, object: &str, cuts: &[DamagedCut]) {
        for damage in self.damage.iter_mut().filter(|damage| damage.object == object) {
            damage.cuts = cuts.to_vec();
        }
    }

    /// Notes an object that the store did not give.
    pub fn unread(&mut self, object: String, reason: String) {
        let unread = Unread { object, reason };
        self.unread_left_out +=
            insert(&mut self.unread, unread, |a, b| (&a.object, &a.reason).cmp(&(&b.object, &b.reason)));
    }
}

/// Adds to a sorted list that keeps its first [`FINDINGS_MAX`]; the number of those that are left out because of it.
fn insert<T>(list: &mut Vec<T>, found: T, order: impl Fn(&T, &T) -> Ordering) -> u64 {
    let at = list.partition_point(|known| order(known, &found).is_le());
    if at >= FINDINGS_MAX {
        return 1;
    }
    let is_full = list.len() >= FINDINGS_MAX;
    list.truncate(FINDINGS_MAX - 1);
    list.insert(at, found);
    u64::from(is_full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_the_first_in_whichever_order_they_were_found() {
        let damage = |n: usize| Damage::at(DamageKind::Missing, format!("{n:06}"), "");
        let count = FINDINGS_MAX + 17;
        let (mut forth, mut back, mut mixed) = (Findings::default(), Findings::default(), Findings::default());
        for n in 0..count {
            forth.add(damage(n));
            back.add(damage(count - 1 - n));
            mixed.add(damage(n * 11 % count));
        }
        assert_eq!((forth.damage.len(), forth.damage_left_out), (FINDINGS_MAX, 17));
        assert_eq!(forth.damage[FINDINGS_MAX - 1], damage(FINDINGS_MAX - 1));
        assert_eq!(forth, back);
        assert_eq!(forth, mixed);
    }
}
