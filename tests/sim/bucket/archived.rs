//! What the bundles in the bucket say, read for itself as they come: what a replica that has followed a lane up to a
//! bundle must show.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidewater_storage::model::{LaneId, Offset, OffsetRange, PartitionId};
use tidewater_tiering::format::{Body, decode_index, read_whole};
use tidewater_tiering::keys::{Home, LineageEpoch, ObjectKey, ObjectKind, ObjectName, Sequence};

type Ends = BTreeMap<PartitionId, Offset>;

#[derive(Debug, Default)]
pub(crate) struct Archived {
    seen: RefCell<BTreeSet<String>>,
    bundles: RefCell<BTreeMap<(LineageEpoch, LaneId, Sequence), Ends>>,
    /// The offsets of each partition that bundles hold, as they came.
    held: RefCell<BTreeMap<PartitionId, Vec<OffsetRange>>>,
    /// What each restored epoch began with.
    seeds: RefCell<BTreeMap<LineageEpoch, Ends>>,
}

impl Archived {
    /// Reads the bundles that are new.
    pub(crate) fn look(&self, objects: &BTreeMap<String, Bytes>) {
        for (key, body) in objects {
            if !key.contains("/lanes/") || !self.seen.borrow_mut().insert(key.clone()) {
                continue;
            }
            let name = ObjectKey::new(key).ok().and_then(|key| ObjectName::parse(&key)).expect("a bundle's key");
            let ObjectKind::Bundle { lane, sequence } = name.kind else { continue };
            let (index, _) = read_whole(body, Body::Index).expect("is whole");
            let index = decode_index(&index).expect("decodes");
            assert_eq!((index.home, index.lane, index.sequence), (name.home, lane, sequence), "{key} is of another");
            let mut ends = Ends::new();
            let is_over = self.seeds.borrow().last_key_value().is_some_and(|(epoch, _)| *epoch > name.home.epoch);
            for entry in index.partitions.iter().filter(|entry| !entry.offsets.is_empty()) {
                if !is_over {
                    self.held.borrow_mut().entry(entry.partition).or_default().push(entry.offsets);
                }
                ends.insert(entry.partition, entry.offsets.end);
            }
            self.bundles.borrow_mut().insert((name.home.epoch, lane, sequence), ends);
        }
    }

    /// An epoch begins with these ends: what lay beyond them is not archived any more.
    pub(crate) fn restored(&self, epoch: LineageEpoch, ends: Ends) {
        for (partition, held) in &mut *self.held.borrow_mut() {
            let end = ends.get(partition).copied().unwrap_or_default();
            held.iter_mut().for_each(|range| range.end = range.end.min(end));
            held.retain(|range| range.start < range.end);
        }
        self.seeds.borrow_mut().insert(epoch, ends);
    }

    /// Did any bundle hold this offset? Not so where records were deleted before they were archived.
    pub(crate) fn holds(&self, partition: PartitionId, offset: Offset) -> bool {
        self.held.borrow().get(&partition).is_some_and(|held| held.iter().any(|range| range.contains(offset)))
    }

    /// Where a partition ends after a bundle of its lane; `None`: it is not known what the epoch began with.
    pub(crate) fn end(&self, home: Home, lane: LaneId, upto: Sequence, partition: PartitionId) -> Option<Offset> {
        let begun = match home.epoch {
            LineageEpoch::FIRST => Offset::ZERO,
            epoch => self.seeds.borrow().get(&epoch)?.get(&partition).copied().unwrap_or_default(),
        };
        let bundles = self.bundles.borrow();
        let mut of_lane = bundles.range((home.epoch, lane, Sequence(0))..=(home.epoch, lane, upto)).rev();
        Some(of_lane.find_map(|(_, ends)| ends.get(&partition).copied()).unwrap_or(begun))
    }
}
