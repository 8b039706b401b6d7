//! Objects that were not there, or listed with another size, while the cluster may have replaced and deleted them.
//!
//! Owns: the verdict. Such an object is damage only if the lane's manifest and bundles, read again, name it still.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tidewater_storage::model::{LaneId, OffsetRange, PartitionId};

use super::damage::{Damage, DamageKind};
use super::named::{Named, Wanted};
use super::rows::Walk;
use super::{NAMED_MAX, Run};
use crate::keys::{Home, ObjectName};

/// See the header.
pub(super) struct Doubt {
    object: ObjectName,
    /// The object by whose name manifests know it: itself, or the bundle of a part.
    named: ObjectName,
    wanted: Wanted,
    kind: DamageKind,
    reason: String,
}

impl Doubt {
    /// The object is not there.
    pub(super) fn missing(object: ObjectName, named: ObjectName, wanted: Wanted) -> Self {
        let (kind, reason) = (DamageKind::Missing, "a manifest or a bundle names it".to_owned());
        Self { object, named, wanted, kind, reason }
    }

    /// The object has another size than it should.
    pub(super) fn size(object: ObjectName, wanted: Wanted, reason: String) -> Self {
        Self { object, named: object, wanted, kind: DamageKind::Size, reason }
    }

    /// Of an object that cuts reach.
    pub(super) fn damage_of_cut(self) -> Damage {
        let reason = if self.kind == DamageKind::Missing { "cuts reach it".to_owned() } else { self.reason };
        Damage::new(self.kind, &self.object, reason)
    }

    /// `ranges`: what the lane says that the object holds, if that was not noted.
    fn damage(self, ranges: &[(PartitionId, OffsetRange)]) -> Damage {
        let own = self.wanted.ranges;
        let ranges = if own.is_empty() { ranges.to_vec() } else { own };
        Damage::new(self.kind, &self.object, self.reason).of(ranges)
    }
}

impl Run<'_> {
    /// Reports those that are damage; the number of the others.
    pub(super) async fn settle(&self, home: Home, doubts: Vec<Doubt>) -> u64 {
        let mut by_lane: BTreeMap<LaneId, Vec<Doubt>> = BTreeMap::new();
        for doubt in doubts {
            by_lane.entry(doubt.wanted.lane).or_default().push(doubt);
        }
        let mut replaced = 0;
        for (lane, doubts) in by_lane {
            replaced += self.settle_lane(home, lane, doubts).await;
        }
        replaced
    }

    async fn settle_lane(&self, home: Home, lane: LaneId, doubts: Vec<Doubt>) -> u64 {
        let Some(read) = self.lane(home, lane, false).await else {
            // What cannot be read does not speak for them.
            doubts.into_iter().for_each(|doubt| self.find(doubt.damage(&[])));
            return 0;
        };
        let mut left: BTreeMap<ObjectName, Vec<Doubt>> = BTreeMap::new();
        for doubt in doubts {
            left.entry(doubt.named).or_default().push(doubt);
        }
        let mut from = left.keys().next().copied();
        while from.is_some() {
            let named = RefCell::new(Named::only(left.keys().copied().collect(), from, NAMED_MAX));
            let walked = self.rows_of(&read, Walk::of_lane(&named, false)).await;
            self.follow(&read, walked.ends, &named, None, false).await;
            let named = named.into_inner();
            from = named.left_from();
            for (object, wanted) in named.into_objects() {
                let still = left.remove(&object).into_iter().flatten();
                still.for_each(|doubt| self.find(doubt.damage(&wanted.ranges)));
            }
        }
        left.values().map(|replaced| replaced.len() as u64).sum()
    }
}
