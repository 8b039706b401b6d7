//! What is published of a partition beside its manifest: leader epochs and idempotent producers at its archived end.
//!
//! Owns: the cut at the archived end, the encoding (`FORMAT.md` §5, tags 7 and 8). Does not own: the broker's tables of
//! both, from which a publication takes them. The checkpoint holds those tables themselves and not these sections.
//! Pure.

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::model::{LeaderEpoch, Offset, OffsetRange, TimestampMs};

use super::partition::PartitionManifest;
use crate::format::{EpochStart, ProducerState, put_producers, take_producers};

/// Leader epochs published of a partition; of more than these the oldest are left out.
pub const LEADER_EPOCHS_MAX: usize = 256;

/// Pending objects published of a partition; of more than these the last intended are left out. Without a bound, a busy
/// partition whose objects cuts hold for a week would make a record that no reader takes, and write all of it again at
/// each publication. A restore does not learn of those left out, so they stay in the bucket.
pub const PENDING_PUBLISHED_MAX: usize = 1024;

const EPOCHS: u64 = 7;
const PRODUCERS: u64 = 8;
/// Least bytes of an encoded epoch.
const EPOCH_MIN: usize = 2;

/// What a partition's log says of those who wrote it. *Message*.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// Leader epochs and their first offsets, ascending.
    pub epochs: Vec<EpochStart>,
    /// Idempotent producers, by id.
    pub producers: Vec<ProducerState>,
}

/// A partition manifest as it lies in a page, with what a restored partition and a follower need beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPartition {
    pub manifest: PartitionManifest,
    /// As of the archived end. Empty in pages of lane manifests whose [`super::PublishedLane::objects`] is `None`: a
    /// version wrote them that did not publish it.
    pub facts: LogFacts,
}

impl LogFacts {
    /// As they were when the log ended at `end`. A producer of which no batch is left is forgotten: its next batch may
    /// have any sequence.
    #[must_use]
    pub fn cut(mut self, end: Offset) -> Self {
        self.epochs.retain(|epoch| epoch.start < end);
        let surplus = self.epochs.len().saturating_sub(LEADER_EPOCHS_MAX);
        self.epochs.drain(..surplus);
        self.producers = self.producers.into_iter().filter_map(|producer| producer.cut(end)).collect();
        self
    }

    /// Reads a section that follows those of the manifest.
    fn take(&mut self, manifest: &PartitionManifest, tag: u64, body: &mut Decoder<'_>) -> Result<(), CodecError> {
        let end = manifest.archived_end;
        if tag == EPOCHS {
            self.epochs = take_epochs(body, end)?;
        } else {
            let within = OffsetRange::new(Offset::ZERO, end);
            self.producers = take_producers(body, end, within, TimestampMs::default())?;
        }
        Ok(())
    }
}

impl PublishedPartition {
    /// The record; it has no more than [`PENDING_PUBLISHED_MAX`] pending objects.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        put(&mut out, &self.manifest, &self.facts);
        out.finish()
    }

    /// Reads the record of a page.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut facts = LogFacts::default();
        let read = |manifest: &PartitionManifest, tag, body: &mut Decoder<'_>| facts.take(manifest, tag, body);
        let manifest = PartitionManifest::take(bytes, &[EPOCHS, PRODUCERS], read)?;
        Ok(Self { manifest, facts })
    }

    /// As [`PublishedPartition::decode`]; whether rows leave a gap is for the caller to check.
    pub(super) fn decode_unchecked(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut facts = LogFacts::default();
        let read = |manifest: &PartitionManifest, tag, body: &mut Decoder<'_>| facts.take(manifest, tag, body);
        let manifest = PartitionManifest::take_unchecked(bytes, &[EPOCHS, PRODUCERS], read)?;
        Ok(Self { manifest, facts })
    }
}

/// The record of a page; `facts` are cut to the archived end already.
pub(super) fn put(out: &mut Encoder, manifest: &PartitionManifest, facts: &LogFacts) {
    let end = manifest.archived_end;
    assert!(facts.epochs.iter().all(|epoch| epoch.start < end), "{}: epochs end at {end}", manifest.id);
    assert!(are_ascending(&facts.epochs), "{}: leader epochs {:?}", manifest.id, facts.epochs);
    manifest.put_with(out, manifest.pending.get(..PENDING_PUBLISHED_MAX).unwrap_or(&manifest.pending));
    if !facts.epochs.is_empty() {
        out.section(EPOCHS, false, |out| {
            out.list(facts.epochs.iter(), |out, epoch| {
                out.signed(epoch.epoch.0.into());
                out.offset(epoch.start);
            });
        });
    }
    if !facts.producers.is_empty() {
        out.section(PRODUCERS, false, |out| put_producers(out, &facts.producers, end, TimestampMs::default()));
    }
}

fn take_epochs(body: &mut Decoder<'_>, end: Offset) -> Result<Vec<EpochStart>, CodecError> {
    let take = |body: &mut Decoder<'_>| Ok(EpochStart { epoch: LeaderEpoch(body.signed32()?), start: body.offset()? });
    let epochs = body.list(EPOCH_MIN, take)?;
    let within = epochs.len() <= LEADER_EPOCHS_MAX && epochs.iter().all(|epoch| epoch.start < end);
    if within && are_ascending(&epochs) { Ok(epochs) } else { Err(body.bad("leader epochs")) }
}

fn are_ascending(epochs: &[EpochStart]) -> bool {
    epochs.is_sorted_by(|a, b| a.epoch < b.epoch && a.start <= b.start)
}
