//! The next bundle of a lane: whether it counts, and what it changes.
//!
//! Owns: the order within a bundle: partitions that come, then ranges, then log starts and partitions that go. All of
//! it is judged before any of it is taken. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::model::{LaneId, PartitionId};

use super::error::FollowError;
use super::lane::{Changes, FollowedLane, Purpose, Stage};
use super::partition::FollowedPartition;
use super::tail::TailBundle;
use crate::format::{DataIndex, DataKind, IndexRef, LaneEvent};
use crate::keys::Home;

impl FollowedLane {
    /// Takes the bundle that [`super::Next::Bundle`] asked for: its index, where that lies, the object's size.
    ///
    /// # Errors
    /// Why it does not count; nothing has changed then, and the lane manifest is to be read next: it may be ahead of
    /// it.
    pub fn on_bundle(&mut self, found: &DataIndex, at: IndexRef, size: u64) -> Result<Changes, FollowError> {
        let taken = self.take_bundle(found, at, size);
        if taken.is_err() {
            self.stage = Stage::Manifest;
        }
        taken
    }

    fn take_bundle(&mut self, found: &DataIndex, at: IndexRef, size: u64) -> Result<Changes, FollowError> {
        let (sequence, object) = (self.last.next(), self.next_bundle());
        let foreign = || FollowError::Foreign { object, home: found.home, lane: found.lane };
        if let Some(seal) = found.seal {
            if (found.home.cluster, found.lane) != (self.home.cluster, self.lane) || seal.next_epoch <= self.home.epoch
            {
                return Err(foreign());
            }
            self.stage = Stage::Sealed(seal);
            return Ok(Changes::default());
        }
        if (found.kind, found.home, found.lane, found.sequence) != (DataKind::Bundle, self.home, self.lane, sequence) {
            return Err(foreign());
        }
        if found.previous != self.last_crc {
            return Err(FollowError::Chain { sequence, found: found.previous, expected: self.last_crc });
        }
        let bundle = TailBundle::new(found, at, size, self.purpose == Purpose::Restore);
        self.room_for(&bundle)?;
        judge(&self.partitions, &bundle, |_| true)?;
        let changed = take(&mut self.partitions, self.home, self.lane, &bundle, |_| true);
        self.apply_to_state(&bundle);
        self.last = sequence;
        self.last_crc = at.crc;
        self.last_written = found.written;
        self.push_tail(bundle);
        Ok(Changes { partitions: changed })
    }
}

/// May all of the bundle be taken, as far as it concerns partitions that `concerned` picks?
///
/// # Errors
/// The first reason why not.
pub(super) fn judge(
    partitions: &BTreeMap<PartitionId, FollowedPartition>,
    bundle: &TailBundle,
    concerned: impl Fn(PartitionId) -> bool,
) -> Result<(), FollowError> {
    let sequence = bundle.sequence;
    let mut created = BTreeMap::new();
    for event in &bundle.events {
        match event {
            LaneEvent::Departed { partition, .. } | LaneEvent::Arrived { partition, .. } => {
                return Err(FollowError::Moves { sequence, partition: *partition });
            }
            LaneEvent::Created { partition, start, .. } => {
                created.insert(*partition, FollowedPartition::created(*partition, *start, sequence));
            }
            LaneEvent::Dropped { .. } | LaneEvent::LogStartMoved { .. } => {}
        }
    }
    for entry in bundle.entries.iter().filter(|entry| concerned(entry.end.partition)) {
        let partition = entry.end.partition;
        let known = partitions.get(&partition).or_else(|| created.get(&partition));
        known.ok_or(FollowError::Unknown { sequence, partition })?.judge(sequence, entry)?;
    }
    Ok(())
}

/// Takes what the bundle says of partitions that `concerned` picks; [`judge`] has passed it. Answers which may have
/// changed.
pub(super) fn take(
    partitions: &mut BTreeMap<PartitionId, FollowedPartition>,
    home: Home,
    lane: LaneId,
    bundle: &TailBundle,
    concerned: impl Fn(PartitionId) -> bool,
) -> BTreeSet<PartitionId> {
    for event in &bundle.events {
        if let LaneEvent::Created { partition, start, .. } = event
            && concerned(*partition)
        {
            // Known already: the base is as of a later moment than its last bundle, or the event comes twice.
            partitions
                .entry(*partition)
                .or_insert_with(|| FollowedPartition::created(*partition, *start, bundle.sequence));
        }
    }
    for entry in bundle.entries.iter().filter(|entry| concerned(entry.end.partition)) {
        let partition = partitions.get_mut(&entry.end.partition).expect("the bundle was judged");
        partition.take(home, lane, bundle, entry);
    }
    for event in &bundle.events {
        // A partition that is not known any more was dropped and cleaned before the base.
        match event {
            LaneEvent::LogStartMoved { partition, to } if concerned(*partition) => {
                partitions.entry(*partition).and_modify(|followed| followed.raise_log_start(*to));
            }
            LaneEvent::Dropped { partition } if concerned(*partition) => {
                partitions.entry(*partition).and_modify(FollowedPartition::drop_topic);
            }
            _ => {}
        }
    }
    bundle.touched().filter(|partition| concerned(*partition)).collect()
}
