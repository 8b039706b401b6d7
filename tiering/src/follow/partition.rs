//! One followed partition: where its offsets lie, its ends, its leader epochs.
//!
//! Owns: what entries and events change in it. Does not own: whether a bundle counts (`bundle`). Pure.

use std::collections::BTreeMap;

use tidewater_storage::model::{LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, ProducerId};

use super::error::FollowError;
use super::lane::Purpose;
use super::tail::{TailBundle, TailEntry};
use crate::format::{EpochStart, ProducerState, follow_producers};
use crate::keys::{Home, Sequence};
use crate::manifest::{LEADER_EPOCHS_MAX, LogFacts, PartitionManifest, PublishedPartition};

/// A partition as of the last bundle that was taken. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedPartition {
    /// Where every offset below the archived end lies. Its log indexes are *sequences* of bundles.
    manifest: PartitionManifest,
    /// Leader epochs with their first offsets, ascending. Those before the first are not known.
    epochs: Vec<EpochStart>,
    producers: BTreeMap<ProducerId, ProducerState>,
    /// The greatest end that was answered in this home.
    shown: Offset,
    origin: Origin,
}

/// What made the partition known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A page of the base.
    Base,
    /// An event of this bundle.
    Created(Sequence),
}

impl FollowedPartition {
    /// As a page of a lane manifest has it, which covers all bundles before `follow_from`.
    pub(super) fn of_base(published: PublishedPartition, follow_from: Sequence, purpose: Purpose) -> Self {
        let PublishedPartition { manifest, facts: LogFacts { epochs, producers } } = published;
        let producers = producers.into_iter().filter(|_| purpose == Purpose::Restore);
        let producers = producers.map(|producer| (producer.id, producer)).collect();
        // Bundles are applied with their sequence as log index: the source's indexes are another count.
        let changed = Some(LogIndex(follow_from.0.saturating_sub(1)));
        let mut manifest = PartitionManifest { changed, ..manifest };
        if purpose == Purpose::Read {
            manifest.pending = Vec::new();
        }
        let shown = manifest.archived_end;
        Self { manifest, epochs, producers, shown, origin: Origin::Base }
    }

    pub(super) fn created(id: PartitionId, start: Offset, sequence: Sequence) -> Self {
        let before = LogIndex(sequence.0.saturating_sub(1));
        let manifest = PartitionManifest::new(id, start, before);
        let (epochs, producers) = (Vec::new(), BTreeMap::new());
        Self { manifest, epochs, producers, shown: start, origin: Origin::Created(sequence) }
    }

    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.manifest.id
    }

    /// Where its offsets lie.
    #[must_use]
    pub fn manifest(&self) -> &PartitionManifest {
        &self.manifest
    }

    /// First offset that clients see.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.manifest.log_start
    }

    /// The offset after the last record: high watermark and last stable offset of a replica cluster. It does not fall
    /// within a home. Offsets between the archived end and it (only after an object of a dead leader was taken for a
    /// bundle) are found when the next bundles come.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.shown
    }

    /// Leader epochs with their first offsets, ascending. Those before the first are not known.
    #[must_use]
    pub fn epochs(&self) -> &[EpochStart] {
        &self.epochs
    }

    /// The leader epoch of the last record, if it is known.
    #[must_use]
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.last().map(|last| last.epoch)
    }

    /// Idempotent producers as of the archived end, of a lane that is followed for a restore.
    #[must_use]
    pub fn producers(&self) -> &BTreeMap<ProducerId, ProducerState> {
        &self.producers
    }

    /// Was its topic deleted at the source? Its records stay readable while the source keeps them.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        self.manifest.dropped
    }

    /// As a page has it, with sequences as log indexes.
    pub(crate) fn into_published(self) -> PublishedPartition {
        let facts = LogFacts { epochs: self.epochs, producers: self.producers.into_values().collect() };
        PublishedPartition { manifest: self.manifest, facts }
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Does what was answered of `before` hold still?
    pub(super) fn keep_shown(&mut self, before: &Self) {
        self.shown = self.shown.max(before.shown);
        self.raise_log_start(before.manifest.log_start);
    }

    pub(super) fn drop_topic(&mut self) {
        self.manifest.dropped = true;
    }

    /// Moves the log start up: rows and spill pages wholly below it go. It may pass the archived end, which then is it.
    pub(super) fn raise_log_start(&mut self, to: Offset) {
        let manifest = &mut self.manifest;
        manifest.log_start = manifest.log_start.max(to);
        manifest.archived_end = manifest.archived_end.max(to);
        let to = manifest.log_start;
        manifest.spilled.drain(..manifest.spilled.partition_point(|page| page.offsets.end <= to));
        manifest.rows.drain(..manifest.rows.partition_point(|row| row.offsets.end <= to));
        manifest.quarantined.retain(|range| range.offsets.end > to);
        self.shown = self.shown.max(self.manifest.archived_end);
    }

    /// Does the entry leave a gap?
    ///
    /// # Errors
    /// [`FollowError::Gap`].
    pub(super) fn judge(&self, sequence: Sequence, entry: &TailEntry) -> Result<(), FollowError> {
        // It may begin beyond the end only where the log start passed what was not archived yet (R3).
        let (found, end) = (entry.end.offsets.start, self.manifest.archived_end.max(entry.log_start));
        let fits = self.manifest.dropped || entry.end.offsets.is_empty() || found <= end;
        let partition = self.id();
        if fits { Ok(()) } else { Err(FollowError::Gap { sequence, partition, found, end }) }
    }

    /// Takes what a bundle says of it. [`FollowedPartition::judge`] has passed it.
    pub(super) fn take(&mut self, home: Home, lane: LaneId, bundle: &TailBundle, entry: &TailEntry) {
        if self.manifest.dropped {
            return;
        }
        self.raise_log_start(entry.log_start);
        if entry.end.offsets.is_empty() {
            return;
        }
        let at = LogIndex(bundle.sequence.0);
        let applied = self.manifest.apply(home, lane, at, &bundle.command(vec![entry.end]));
        assert!(applied.is_ok(), "an entry of bundle {} that was judged is refused: {applied:?}", bundle.sequence);
        for start in &entry.epochs {
            if self.epochs.last().is_none_or(|last| last.epoch < start.epoch) {
                self.epochs.push(*start);
            }
        }
        self.epochs.drain(..self.epochs.len().saturating_sub(LEADER_EPOCHS_MAX));
        match &entry.producers {
            Some(changes) => follow_producers(&mut self.producers, changes),
            // What its batches changed is not known: any sequence may come next.
            None => self.producers.clear(),
        }
        self.shown = self.shown.max(self.manifest.archived_end);
    }

    /// The offsets that can be read.
    #[must_use]
    pub fn readable(&self) -> OffsetRange {
        OffsetRange::new(self.log_start(), self.high_watermark())
    }
}
