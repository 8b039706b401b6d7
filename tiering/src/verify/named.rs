//! What each data object must hold, as rows and bundles say, ordered by object: [`Named`].
//!
//! Owns: the bound on what a pass holds. Does not own: where rows come from (`rows`, `tail`). Pure.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, OffsetRange, PartitionId};

use crate::format::IndexRef;
use crate::keys::ObjectName;

/// What is known of an object before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// A bundle: its index is found by its trailer.
    Bundle,
    /// Its index lies here, and the trailer behind it.
    Index(IndexRef),
    /// A part whose bundle says what it holds: only its existence is of interest.
    Part,
    /// A page, which is read by itself.
    Page,
}

/// What an object must hold.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) lane: LaneId,
    pub(super) at: At,
    /// Neighbouring ranges of a partition are joined. Empty if ranges are not kept.
    pub(super) ranges: Vec<(PartitionId, OffsetRange)>,
}

/// Objects by name, from one name on, as many as a pass may hold.
pub(super) struct Named {
    from: Option<ObjectName>,
    /// First name that is left for the next pass.
    to: Option<ObjectName>,
    /// Only these are noted, if it is not `None`.
    only: Option<BTreeSet<ObjectName>>,
    keeps_ranges: bool,
    objects: BTreeMap<ObjectName, Wanted>,
    held: usize,
    held_max: usize,
}

impl Named {
    pub(super) fn new(from: Option<ObjectName>, held_max: usize, keeps_ranges: bool) -> Self {
        Self { from, to: None, only: None, keeps_ranges, objects: BTreeMap::new(), held: 0, held_max }
    }

    /// For these objects alone, with their ranges.
    pub(super) fn only(objects: BTreeSet<ObjectName>, from: Option<ObjectName>, held_max: usize) -> Self {
        Self { only: Some(objects), ..Self::new(from, held_max, true) }
    }

    /// Notes that `object` must hold `ranges`, if it is of this pass.
    pub(super) fn add(&mut self, lane: LaneId, object: ObjectName, at: At, range: Option<(PartitionId, OffsetRange)>) {
        if self.from.is_some_and(|from| object < from) || self.to.is_some_and(|to| object >= to) {
            return;
        }
        if self.only.as_ref().is_some_and(|only| !only.contains(&object)) {
            return;
        }
        let wanted = self.objects.entry(object).or_insert_with(|| {
            self.held += 1;
            Wanted { lane, at, ranges: Vec::new() }
        });
        // Lanes are walked side by side: what is noted must not depend on which of them comes first.
        wanted.lane = wanted.lane.min(lane);
        if wanted.at == At::Part {
            // A row says more than the bundle that the part was written for.
            wanted.at = at;
        }
        match (wanted.ranges.last_mut(), range.filter(|_| self.keeps_ranges)) {
            (Some((partition, offsets)), Some((of, more))) if *partition == of && offsets.end == more.start => {
                offsets.end = more.end;
            }
            (_, Some(range)) => {
                wanted.ranges.push(range);
                self.held += 1;
            }
            (_, None) => {}
        }
        self.shrink();
    }

    /// Leaves the greatest names for the next pass. One object stays, however many rows name it.
    fn shrink(&mut self) {
        while self.held > self.held_max && self.objects.len() > 1 {
            let Some((object, wanted)) = self.objects.pop_last() else { return };
            self.held -= 1 + wanted.ranges.len();
            self.to = Some(object);
        }
    }

    /// Where the next pass begins; `None` if this is the last.
    pub(super) fn left_from(&self) -> Option<ObjectName> {
        self.to
    }

    /// The ranges of each object by partition and offset, in whichever order they were noted.
    pub(super) fn into_objects(self) -> BTreeMap<ObjectName, Wanted> {
        let mut objects = self.objects;
        for wanted in objects.values_mut() {
            wanted.ranges.sort_unstable_by_key(|(partition, offsets)| (*partition, offsets.start, offsets.end));
            wanted.ranges.dedup_by(|(of, more), (partition, offsets)| {
                let continues = of == partition && more.start == offsets.end;
                if continues {
                    offsets.end = more.end;
                }
                continues
            });
        }
        objects
    }
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::Offset;

    use super::*;
    use crate::keys::{ClusterId, Home, LineageEpoch, Sequence};

    #[test]
    fn passes_together_hold_every_object_once() {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        let partition = PartitionId::default();
        let range = |n: u64| (partition, OffsetRange::new(Offset::new(n), Offset::new(n + 1)));
        // Each object is named by two rows that are no neighbours, in an order that is not theirs.
        let rows: Vec<(u64, u64)> = (0..100).map(|n| ((n * 37) % 50, n)).collect();
        let (mut from, mut seen, mut passes) = (None, Vec::new(), 0);
        loop {
            let mut named = Named::new(from, 20, true);
            for (sequence, row) in &rows {
                named.add(LaneId(1), home.bundle(LaneId(1), Sequence(*sequence)), At::Bundle, Some(range(row * 2)));
            }
            from = named.left_from();
            for (object, wanted) in named.into_objects() {
                assert_eq!(wanted.ranges.len(), 2, "{object}");
                seen.push(object);
            }
            passes += 1;
            if from.is_none() {
                break;
            }
        }
        let all: Vec<_> = (0..50).map(|n| home.bundle(LaneId(1), Sequence(n))).collect();
        assert_eq!(seen, all);
        assert!(passes > 5, "{passes}");
    }

    #[test]
    fn without_ranges_an_object_counts_once_however_many_rows_name_it() {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        let range = |n: u64| (PartitionId::default(), OffsetRange::new(Offset::new(n * 2), Offset::new(n * 2 + 1)));
        let mut named = Named::new(None, 20, false);
        for n in 0..1_000 {
            named.add(LaneId(1), home.bundle(LaneId(1), Sequence(n % 20)), At::Bundle, Some(range(n)));
        }
        assert_eq!(named.left_from(), None, "20 objects are held");
        let objects = named.into_objects();
        assert!(objects.len() == 20 && objects.values().all(|wanted| wanted.ranges.is_empty()));
    }

    #[test]
    fn only_what_is_asked_for_is_noted_with_all_its_ranges() {
        let home = Home { cluster: ClusterId::default(), epoch: LineageEpoch::FIRST };
        let range = |n: u64| (PartitionId::default(), OffsetRange::new(Offset::new(n * 2), Offset::new(n * 2 + 1)));
        let asked = home.bundle(LaneId(1), Sequence(7));
        let mut named = Named::only(BTreeSet::from([asked]), None, 2);
        for n in 0..100 {
            named.add(LaneId(1), home.bundle(LaneId(1), Sequence(n % 20)), At::Bundle, Some(range(n)));
        }
        assert_eq!(named.left_from(), None);
        let ranges = named.into_objects().remove(&asked).map(|wanted| wanted.ranges.len());
        assert_eq!(ranges, Some(5));
    }
}
