//! The bundles from a lane manifest's `follow_from` on: does each follow the one before it, and continue its
//! partitions?
//!
//! [`Tail`] judges one index after the other and is pure; the walk that reads them is [`Run::follow`]. An offset that a
//! partition's log start has passed may be missing or come twice: a trim may run ahead of the archive.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use futures::StreamExt as _;
use futures::stream;
use tidewater_storage::model::{LaneId, Offset, OffsetRange, PartitionId, TimestampMs};

use super::Run;
use super::damage::{Damage, DamageKind};
use super::lanes::Lane;
use super::named::{At, Named};
use super::object::is_settled;
use crate::fetch::indexes::{FoundIndex, IndexError, find_index};
use crate::format::{DataIndex, DataKind, ExtentObject, LaneEvent, PartitionEntry};
use crate::keys::{Home, LineageEpoch, ObjectKey, ObjectKind, ObjectName, Sequence};
use crate::manifest::PublishedLane;
use crate::store::StoreError;

/// Bundles whose indexes are read at once, as long as all of them are there.
const BUNDLES_AHEAD: usize = 8;

/// How far a partition is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArchivedTo {
    pub(super) end: Offset,
    pub(super) log_start: Offset,
    pub(super) dropped: bool,
}

/// A fault between a bundle and what came before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: DamageKind,
    pub(super) range: Option<(PartitionId, OffsetRange)>,
    pub(super) reason: String,
}

/// A lane's state as its manifest and the bundles so far say.
pub(super) struct Tail {
    home: Home,
    lane: LaneId,
    next: Sequence,
    /// Checksum of the index before; `None` if that could not be read.
    last_crc: Option<u32>,
    ends: BTreeMap<PartitionId, ArchivedTo>,
}

impl Tail {
    pub(super) fn new(
        home: Home,
        lane: LaneId,
        base: Option<&PublishedLane>,
        ends: BTreeMap<PartitionId, ArchivedTo>,
    ) -> Self {
        let next = base.map_or(Sequence::NONE.next(), |base| base.follow_from);
        Self { home, lane, next, last_crc: Some(base.map_or(0, |base| base.last_crc)), ends }
    }

    fn bundle(&self) -> ObjectName {
        self.home.bundle(self.lane, self.next)
    }

    /// Passes over a bundle that cannot be read.
    fn skip(&mut self) {
        self.next = self.next.next();
        self.last_crc = None;
    }

    /// Takes the bundle that lies at the next key, with the checksum of its index.
    pub(super) fn take(&mut self, index: &DataIndex, crc: u32) -> Vec<Fault> {
        let mut faults = Vec::new();
        let fault = |kind, reason| Fault { kind, range: None, reason };
        let DataIndex { kind, home, lane, sequence, .. } = *index;
        if (kind, home, lane, sequence) != (DataKind::Bundle, self.home, self.lane, self.next) {
            let reason = format!(
                "it says it is {kind:?} {sequence} of lane {lane}, cluster {}, epoch {}",
                home.cluster, home.epoch
            );
            faults.push(fault(DamageKind::Foreign, reason));
            self.skip();
            return faults;
        }
        if self.last_crc.is_some_and(|last| last != index.previous) {
            let (found, expected) = (index.previous, self.last_crc.unwrap_or_default());
            let reason =
                format!("it names a predecessor with checksum {found:#010x}, the bundle before has {expected:#010x}");
            faults.push(fault(DamageKind::Chain, reason));
        }
        (self.next, self.last_crc) = (self.next.next(), Some(crc));
        index.events.iter().for_each(|event| self.event(event));
        faults.extend(index.partitions.iter().filter_map(|entry| self.entry(entry)));
        faults
    }

    fn event(&mut self, event: &LaneEvent) {
        match *event {
            LaneEvent::Created { partition, start, .. } => {
                self.ends.entry(partition).or_insert(ArchivedTo { end: start, log_start: start, dropped: false });
            }
            LaneEvent::Dropped { partition } | LaneEvent::Departed { partition, .. } => {
                if let Some(known) = self.ends.get_mut(&partition) {
                    known.dropped = true;
                }
            }
            LaneEvent::LogStartMoved { partition, to } => {
                if let Some(known) = self.ends.get_mut(&partition) {
                    known.log_start = known.log_start.max(to);
                }
            }
            LaneEvent::Arrived { partition, at, .. } => {
                self.ends.insert(partition, ArchivedTo { end: at, log_start: Offset::ZERO, dropped: false });
            }
        }
    }

    fn entry(&mut self, entry: &PartitionEntry) -> Option<Fault> {
        let PartitionEntry { partition, offsets, log_start, .. } = *entry;
        let fresh = ArchivedTo { end: log_start, log_start, dropped: false };
        let known = self.ends.entry(partition).or_insert(fresh);
        known.log_start = known.log_start.max(log_start);
        if offsets.is_empty() || known.dropped {
            return None;
        }
        let (end, live_from) = (known.end, known.log_start);
        known.end = end.max(offsets.end);
        let gap = OffsetRange::new(end.max(live_from), offsets.start);
        if !gap.is_empty() {
            let reason =
                format!("it begins at offset {} of {partition}, what is before it ends at {end}", offsets.start);
            return Some(Fault { kind: DamageKind::Gap, range: Some((partition, gap)), reason });
        }
        let twice = OffsetRange::new(offsets.start.max(live_from), end.min(offsets.end));
        if !twice.is_empty() {
            let reason = format!("it holds {twice} of {partition}, which is archived before it");
            return Some(Fault { kind: DamageKind::Overlap, range: Some((partition, twice)), reason });
        }
        None
    }

    /// Is what it holds of the partition of use to a reader?
    fn is_wanted(&self, entry: &PartitionEntry) -> bool {
        !entry.offsets.is_empty() && self.ends.get(&entry.partition).is_some_and(|known| !known.dropped)
    }
}

/// Where following a lane ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    pub(super) last: Sequence,
    pub(super) written: Option<TimestampMs>,
    pub(super) sealed_for: Option<LineageEpoch>,
    /// Entries of all bundles.
    pub(super) entries: u64,
}

impl Run<'_> {
    /// Follows a lane to its end, or through bundle `upto`; every entry of a bundle is noted in `named`.
    pub(super) async fn follow(
        &self,
        lane: &Lane,
        ends: BTreeMap<PartitionId, ArchivedTo>,
        named: &RefCell<Named>,
        upto: Option<Sequence>,
        is_first: bool,
    ) -> Followed {
        let mut tail = Tail::new(lane.home, lane.lane, lane.published.as_ref(), ends);
        let mut out = Followed { last: Sequence(tail.next.0.saturating_sub(1)), ..Followed::default() };
        let find = |damage: Damage| {
            if is_first {
                self.find(damage)
            }
        };
        let mut ahead: VecDeque<(Sequence, Result<FoundIndex, IndexError>)> = VecDeque::new();
        let mut width = 1;
        while upto.is_none_or(|upto| tail.next <= upto) {
            let bundle = tail.bundle();
            if ahead.front().is_none_or(|(sequence, _)| *sequence != tail.next) {
                let sequences = (tail.next.0..).take(width).map(Sequence);
                let reads = stream::iter(sequences.filter(|next| upto.is_none_or(|upto| *next <= upto)));
                let read = async |sequence| (sequence, self.index_at(lane.home.bundle(lane.lane, sequence)).await);
                ahead = reads.map(read).buffered(BUNDLES_AHEAD).collect().await;
                width = (width * 2).min(BUNDLES_AHEAD);
            }
            let Some((_, answer)) = ahead.pop_front() else { return out };
            let found = match answer {
                Ok(found) => found,
                Err(IndexError::Store(StoreError::NotFound { .. })) => {
                    // The end, unless there is a bundle beyond.
                    ahead.clear();
                    match self.bundle_beyond(lane, tail.next, is_first).await {
                        Some(next) => {
                            while tail.next < next {
                                tail.skip();
                            }
                            continue;
                        }
                        None => return out,
                    }
                }
                Err(IndexError::Format(error)) => {
                    find(Damage::new(DamageKind::Unreadable, &bundle, error.to_string()));
                    out.last = tail.next;
                    tail.skip();
                    continue;
                }
                Err(IndexError::Store(error)) => {
                    if is_first {
                        self.unread(&bundle, &error);
                    }
                    return out;
                }
            };
            if let Some(seal) = found.index.seal {
                out.sealed_for = Some(seal.next_epoch);
                if is_first && seal.last.next() != tail.next {
                    let reason =
                        format!("the seal says that bundle {} is the last, it lies at {}", seal.last, tail.next);
                    find(Damage::new(DamageKind::Chain, &bundle, reason));
                }
                return out;
            }
            (out.last, out.written) = (tail.next, Some(found.index.written));
            for fault in tail.take(&found.index, found.at.crc) {
                find(Damage::new(fault.kind, &bundle, fault.reason).of(fault.range));
            }
            let entries = self.name_entries(lane.lane, bundle, &found, &tail, named);
            if is_first {
                out.entries += entries.0;
                self.advance(|progress| progress.bytes_total += entries.1);
            }
        }
        out
    }

    /// The number of entries that a reader needs, and their bytes.
    fn name_entries(
        &self,
        lane: LaneId,
        bundle: ObjectName,
        found: &FoundIndex,
        tail: &Tail,
        named: &RefCell<Named>,
    ) -> (u64, u64) {
        let (mut entries, mut bytes) = (0, 0);
        for entry in found.index.partitions.iter().filter(|entry| tail.is_wanted(entry)) {
            (entries, bytes) = (entries + 1, bytes + entry.bytes());
            named.borrow_mut().add(lane, bundle, At::Bundle, Some((entry.partition, entry.offsets)));
            if self.quick {
                for extent in &entry.extents {
                    if let ExtentObject::Part(part) = extent.object {
                        let offsets = extent.offsets().map(|offsets| (entry.partition, offsets));
                        named.borrow_mut().add(lane, part, At::Part, offsets);
                    }
                }
            }
        }
        (entries, bytes)
    }

    /// The index at a key; a verdict on its bytes only after several reads.
    pub(super) async fn index_at(&self, bundle: ObjectName) -> Result<FoundIndex, IndexError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let found = find_index(&*self.store, bundle).await;
            if is_settled(&found, tries) {
                return found;
            }
        }
    }

    /// Bundle `missing` was not there: the first one beyond it, which shows that it should be. Reports it then.
    async fn bundle_beyond(&self, lane: &Lane, missing: Sequence, is_first: bool) -> Option<Sequence> {
        let object = lane.home.bundle(lane.lane, missing);
        let key = object.key();
        let folder = key.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        let listed = match self.store.list(&format!("{folder}/"), Some(key.as_str()), 1).await {
            Ok(listed) => listed,
            Err(error) => {
                if is_first {
                    self.unread(&object, &error);
                }
                return None;
            }
        };
        let next = listed.first().and_then(|listed| sequence_of(&listed.key))?;
        // It may have been written between the two requests, or the lane gathered and deleted it.
        if self.store.head(&key).await.is_ok() {
            return Some(missing);
        }
        if self.has_moved_past(lane, missing).await {
            return Some(next);
        }
        if is_first {
            self.find(Damage::new(DamageKind::Missing, &object, format!("bundle {next} of the lane is there")));
        }
        Some(next)
    }

    /// Does the lane's manifest say by now that followers need not read that bundle?
    async fn has_moved_past(&self, lane: &Lane, sequence: Sequence) -> bool {
        let again = self.lane(lane.home, lane.lane, false).await;
        again.and_then(|again| again.published).is_some_and(|published| published.follow_from > sequence)
    }
}

fn sequence_of(key: &ObjectKey) -> Option<Sequence> {
    match ObjectName::parse(key)?.kind {
        ObjectKind::Bundle { sequence, .. } => Some(sequence),
        _ => None,
    }
}
