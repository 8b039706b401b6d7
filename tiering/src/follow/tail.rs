//! The tail: what the bundles after the base say, kept until a later base says it.
//!
//! Owns: the reduced form of a bundle's index (without runs). Does not own: what it changes (`bundle`, `partition`).

use tidewater_storage::model::{Offset, PartitionId, TimestampMs};

use crate::format::{DataIndex, EpochStart, ExtentObject, IndexRef, LaneEvent, PartitionEntry, ProducerState};
use crate::keys::{ObjectName, Sequence};
use crate::manifest::{Bundled, BundledEnd, Command};

/// A bundle of the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TailBundle {
    pub(super) sequence: Sequence,
    /// Where its index lies; the crc is what the next bundle names.
    pub(super) index: IndexRef,
    /// Bytes of the object.
    pub(super) size: u64,
    pub(super) written: TimestampMs,
    /// Sorted.
    pub(super) parts: Vec<ObjectName>,
    /// Sorted by partition.
    pub(super) entries: Vec<TailEntry>,
    pub(super) events: Vec<LaneEvent>,
}

/// What a bundle says of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TailEntry {
    /// Its offsets may be empty: then only the log start is meant.
    pub(super) end: BundledEnd,
    pub(super) log_start: Offset,
    pub(super) epochs: Vec<EpochStart>,
    /// What it changes in the partition's producers; `None` if its writer did not say.
    pub(super) producers: Option<Vec<ProducerState>>,
}

impl TailBundle {
    /// Of a bundle's index; with its changes in producers if `producers` says so.
    pub(super) fn new(found: &DataIndex, index: IndexRef, size: u64, producers: bool) -> Self {
        let producers_of = |entry: &PartitionEntry| match producers {
            true => found.producers_of(entry.partition).map(<[_]>::to_vec),
            false => Some(Vec::new()),
        };
        let entry = |entry: &PartitionEntry| TailEntry {
            end: BundledEnd {
                partition: entry.partition,
                offsets: entry.offsets,
                bytes: entry.bytes(),
                max_timestamp: entry.max_timestamp,
            },
            log_start: entry.log_start,
            epochs: entry.epochs.clone(),
            producers: producers_of(entry),
        };
        let extents = found.partitions.iter().flat_map(|entry| &entry.extents);
        let part = |object: &ExtentObject| match object {
            ExtentObject::Here => None,
            ExtentObject::Part(part) => Some(*part),
        };
        let mut parts: Vec<ObjectName> = extents.filter_map(|extent| part(&extent.object)).collect();
        parts.sort_unstable();
        parts.dedup();
        Self {
            sequence: found.sequence,
            index,
            size,
            written: found.written,
            parts,
            entries: found.partitions.iter().map(entry).collect(),
            events: found.events.clone(),
        }
    }

    /// What counts towards the bound of the tail.
    pub(super) fn weight(&self) -> usize {
        self.entries.len() + self.events.len() + 1
    }

    /// The partitions whose state it may change.
    pub(super) fn touched(&self) -> impl Iterator<Item = PartitionId> {
        let events = self.events.iter().map(|event| match event {
            LaneEvent::Created { partition, .. }
            | LaneEvent::Dropped { partition }
            | LaneEvent::LogStartMoved { partition, .. }
            | LaneEvent::Departed { partition, .. }
            | LaneEvent::Arrived { partition, .. } => *partition,
        });
        self.entries.iter().map(|entry| entry.end.partition).chain(events)
    }

    /// The ends of all its ranges.
    pub(super) fn ends(&self) -> Vec<BundledEnd> {
        self.entries.iter().map(|entry| entry.end).filter(|end| !end.offsets.is_empty()).collect()
    }

    /// The command that the source's lane applied for it, with these ends.
    pub(super) fn command(&self, ends: Vec<BundledEnd>) -> Command {
        let (sequence, size, index, parts) = (self.sequence, self.size, self.index, self.parts.clone());
        Command::Bundled(Bundled { sequence, size, index, ends, parts, events: None })
    }
}
