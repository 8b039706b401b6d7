//! One partition: the state that its lane's applied entries have made.
//!
//! Owns: the log, the producer table, leader epochs, the log start, the partition's share of the archive, and the
//! readers that wait at its end. Changed only by `lane.rs` in the order of the lane's log. Shard-local.

use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewater_storage::codec::{CodecError, Decoder, Encoder, Sections};
use tidewater_storage::env::Mono;
use tidewater_storage::log::PartitionLog;
use tidewater_storage::model::{
    Batch, EntryId, LaneId, LeaderEpoch, LogIndex, Offset, OffsetRange, PartitionId, Term, TimestampMs, TopicName,
};
use tidewater_tiering::manifest::{PartitionManifest, PublishedPartition};

use super::codec::LittleEndian;
use super::command::{CopiedRange, PlacedBatch};
use super::dirty::Marks;
use crate::config::topic::TopicConfig;
use crate::partition::message::{ProduceDone, ProduceError};
use crate::partition::produce::in_flight::InFlight;
use crate::partition::produce::producers::ProducerTable;
use crate::partition::read::watch::Waiters;

/// A partition on this shard.
pub struct Replica {
    pub id: PartitionId,
    pub lane: LaneId,
    pub log: PartitionLog,
    /// Readers at its end.
    pub waiters: Waiters,
    /// What its lane's proposer has in flight.
    pub in_flight: RefCell<InFlight>,
    birth: Birth,
    /// Offsets that are copied from another topic's archive before anything else is written.
    copied: Option<CopiedRange>,
    /// Log index of the command that created it; `None` if a version wrote its checkpoint that did not keep it.
    created: Option<LogIndex>,
    settings: RefCell<Settings>,
    producers: RefCell<ProducerTable>,
    epochs: RefCell<Vec<(LeaderEpoch, Offset)>>,
    log_start: Cell<Offset>,
    /// The controller's revision of the newest command about it; 0 if none had one.
    revision: Cell<u64>,
    manifest: RefCell<PartitionManifest>,
    /// The log's time of the newest batch.
    last_append: Cell<TimestampMs>,
    unarchived: RefCell<Unarchived>,
    /// First offsets of damage that was logged; `None` for a disk that cannot be read.
    damage_logged: RefCell<BTreeSet<Option<Offset>>>,
    /// The lists of dirty partitions that hold it.
    pub marks: Marks,
}

/// How much is not in the bucket yet, and since when. Derived; counted from zero after a restart.
#[derive(Debug, Default)]
struct Unarchived {
    /// Ends of batches, when they were applied and the bytes appended until then; one mark per [`MARK_INTERVAL`].
    marks: VecDeque<(Offset, Mono, u64)>,
    appended: u64,
    archived: u64,
}

/// Version of a partition's checkpoint blob. 1 and 2, which are read, are positional; 1 has no timestamps of producers'
/// batches.
const BLOB_VERSION: u8 = 3;
/// Sections of the blob: `DESIGN.md`, "Formats of this package", also for the tags that are reserved.
const BIRTH: u64 = 1;
const BOUNDS: u64 = 2;
const EPOCHS: u64 = 3;
const MANIFEST: u64 = 4;
const PRODUCERS: u64 = 5;
const REVISION: u64 = 10;
const COPIED: u64 = 12;
const WHAT: &str = "partition checkpoint";
/// Marks of unarchived data are at least this far apart.
const MARK_INTERVAL: Duration = Duration::from_millis(100);
/// Damaged ranges of a partition that are logged one by one.
const DAMAGE_LOGGED_MAX: usize = 16;
/// Marks kept; beyond, the newest are merged.
const MARKS_MAX: usize = 4096;

/// What a partition is born with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Birth {
    pub topic: TopicName,
    /// What its leader epochs are counted from.
    pub epoch_base: i32,
}

struct Settings {
    overrides: BTreeMap<String, String>,
    config: Rc<TopicConfig>,
}

/// The first field of a positional blob.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OldHead {
    birth: Birth,
    overrides: BTreeMap<String, String>,
}

/// What a blob holds of a partition.
struct Decoded {
    birth: Birth,
    copied: Option<CopiedRange>,
    created: Option<LogIndex>,
    overrides: BTreeMap<String, String>,
    log_start: Offset,
    revision: u64,
    last_append: TimestampMs,
    epochs: Vec<(LeaderEpoch, Offset)>,
    manifest: PartitionManifest,
    producers: ProducerTable,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replica({} of {})", self.id, self.birth.topic)
    }
}

impl Replica {
    /// A newborn partition over an empty log.
    #[must_use]
    pub fn born(
        id: PartitionId,
        lane: LaneId,
        at: LogIndex,
        birth: Birth,
        overrides: BTreeMap<String, String>,
        log: PartitionLog,
    ) -> Self {
        let config = Rc::new(TopicConfig::resolve(&overrides));
        Self {
            id,
            lane,
            log,
            waiters: Waiters::default(),
            in_flight: RefCell::default(),
            birth,
            copied: None,
            created: Some(at),
            settings: RefCell::new(Settings { overrides, config }),
            producers: RefCell::default(),
            epochs: RefCell::default(),
            log_start: Cell::new(Offset::ZERO),
            revision: Cell::new(0),
            manifest: RefCell::new(PartitionManifest::new(id, Offset::ZERO, at)),
            last_append: Cell::new(TimestampMs::NONE),
            unarchived: RefCell::default(),
            damage_logged: RefCell::default(),
            marks: Marks::default(),
        }
    }

    /// A newborn partition that begins at the start of what is copied into it.
    #[must_use]
    pub fn born_as_copy(self, copied: CopiedRange, at: LogIndex) -> Self {
        // A log that an entry applied twice finds with batches stays as it is.
        if self.log.end() == Offset::ZERO && copied.start > Offset::ZERO {
            self.log.reset(copied.start);
        }
        self.log_start.set(copied.start);
        self.manifest.replace(PartitionManifest::new(self.id, copied.start, at));
        Self { copied: Some(copied), ..self }
    }

    /// A partition as the bucket has it, over a log that is empty from the archived end on. Its state is as of `at`.
    ///
    /// # Panics
    /// The log begins elsewhere.
    #[must_use]
    pub fn restored(
        published: PublishedPartition,
        (lane, at): (LaneId, LogIndex),
        birth: Birth,
        overrides: BTreeMap<String, String>,
        log: PartitionLog,
    ) -> Self {
        let PublishedPartition { manifest, facts } = published;
        let bounds = log.bounds();
        assert_eq!((bounds.start, bounds.end), (manifest.archived_end, manifest.archived_end), "{}", manifest.id);
        let replica = Self::born(manifest.id, lane, at, birth, overrides, log);
        replica.log_start.set(manifest.log_start);
        replica.last_append.set(manifest.max_timestamp());
        replica.epochs.replace(facts.epochs.into_iter().map(|epoch| (epoch.epoch, epoch.start)).collect());
        replica.producers.replace(ProducerTable::published(facts.producers));
        replica.manifest.replace(manifest);
        replica
    }

    /// The same partition with what is copied into it: it goes on where its log ends.
    #[must_use]
    pub fn copying(self, copied: Option<CopiedRange>) -> Self {
        Self { copied, ..self }
    }

    /// Where the copy of another topic's records ends that is under way; `None` if there is none, or if it is complete.
    #[must_use]
    pub fn copying_until(&self) -> Option<Offset> {
        self.copied.map(|copied| copied.end).filter(|end| self.high_watermark() < *end)
    }

    #[must_use]
    pub fn topic(&self) -> &TopicName {
        &self.birth.topic
    }

    /// May the entry at `index` have created it? Certain, but for a checkpoint of an older version.
    #[must_use]
    pub fn may_be_created_at(&self, index: LogIndex) -> bool {
        self.created.is_none_or(|created| created == index)
    }

    #[must_use]
    pub fn config(&self) -> Rc<TopicConfig> {
        Rc::clone(&self.settings.borrow().config)
    }

    /// What was set on its topic.
    #[must_use]
    pub fn overrides(&self) -> BTreeMap<String, String> {
        self.settings.borrow().overrides.clone()
    }

    pub fn configure(&self, overrides: BTreeMap<String, String>) {
        let config = Rc::new(TopicConfig::resolve(&overrides));
        *self.settings.borrow_mut() = Settings { overrides, config };
    }

    /// The controller's revision of the newest command about it; 0 if no command had one.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.get()
    }

    pub(super) fn set_revision(&self, revision: u64) {
        self.revision.set(self.revision.get().max(revision));
    }

    /// First offset a consumer may read, here or in the bucket.
    #[must_use]
    pub fn log_start(&self) -> Offset {
        self.log_start.get()
    }

    /// First offset after the last record that is applied here. All that is applied is committed. A follower's lies at
    /// or below the leader's.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.log.end()
    }

    /// First offset that `read_committed` does not see. Without transactions, the high watermark.
    #[must_use]
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark()
    }

    /// The offsets a consumer may read.
    #[must_use]
    pub fn readable(&self) -> OffsetRange {
        OffsetRange::new(self.log_start(), self.high_watermark())
    }

    /// The epoch with which a leader of `term` appends.
    #[must_use]
    pub fn leader_epoch(&self, term: Term) -> LeaderEpoch {
        let epoch = i32::try_from(term.0).ok().and_then(|term| self.birth.epoch_base.checked_add(term));
        // An epoch that stands still would let two leaders append as one.
        assert!(epoch.is_some(), "{self:?}: epoch base {} and term {term} leave no epoch", self.birth.epoch_base);
        LeaderEpoch(epoch.unwrap_or(i32::MAX))
    }

    /// What its leader epochs are counted from.
    #[must_use]
    pub fn epoch_base(&self) -> i32 {
        self.birth.epoch_base
    }

    #[must_use]
    pub fn producers(&self) -> Ref<'_, ProducerTable> {
        self.producers.borrow()
    }

    /// Where each leader epoch began, ascending.
    #[must_use]
    pub fn epochs(&self) -> Ref<'_, Vec<(LeaderEpoch, Offset)>> {
        self.epochs.borrow()
    }

    /// Its manifest: where its archived offsets are.
    #[must_use]
    pub fn manifest(&self) -> Ref<'_, PartitionManifest> {
        self.manifest.borrow()
    }

    /// Was damage that begins there not logged yet? Logged once per process, for at most [`DAMAGE_LOGGED_MAX`] ranges.
    pub(in crate::partition) fn is_new_damage(&self, begins: Option<Offset>) -> bool {
        let mut logged = self.damage_logged.borrow_mut();
        logged.len() < DAMAGE_LOGGED_MAX && logged.insert(begins)
    }

    /// Changes its manifest, then moves the log start to the manifest's, which trims the local log ([`Self::trim`]).
    /// Only the lane's apply calls it.
    pub fn with_manifest<T>(&self, change: impl FnOnce(&mut PartitionManifest) -> T) -> T {
        let out = change(&mut self.manifest.borrow_mut());
        let (start, archived_end) = {
            let manifest = self.manifest.borrow();
            (manifest.log_start, manifest.archived_end)
        };
        self.trim(start);
        let mut unarchived = self.unarchived.borrow_mut();
        while let Some((end, _, appended)) = unarchived.marks.front().copied().filter(|(end, ..)| *end <= archived_end)
        {
            unarchived.archived = appended;
            unarchived.marks.pop_front();
            debug_assert!(end <= archived_end);
        }
        out
    }

    fn mark(&self, end: Offset, bytes: u64, now: Mono) {
        let mut unarchived = self.unarchived.borrow_mut();
        unarchived.appended += bytes;
        let appended = unarchived.appended;
        let full = unarchived.marks.len() >= MARKS_MAX;
        match unarchived.marks.back_mut() {
            Some((last, at, sum)) if full || now.since(*at) < MARK_INTERVAL => (*last, *sum) = (end, appended),
            _ => unarchived.marks.push_back((end, now, appended)),
        }
    }

    /// Bytes that are not in the bucket (an estimate after a restart) and since when; `None` when all is.
    #[must_use]
    pub fn unarchived(&self) -> Option<(u64, Mono)> {
        let end = self.manifest.borrow().archived_end;
        if end >= self.last_stable_offset() {
            return None;
        }
        let unarchived = self.unarchived.borrow();
        let since = unarchived.marks.front().map_or(Mono::ZERO, |(_, at, _)| *at);
        Some((unarchived.appended.saturating_sub(unarchived.archived).max(1), since))
    }

    /// When a batch was last appended, in the log's time.
    #[must_use]
    pub fn last_append(&self) -> TimestampMs {
        self.last_append.get()
    }

    /// Appends a committed batch and forgets idempotent producers silent for `producers_after_ms`. Refuses a batch that
    /// does not continue the partition, the same on every replica.
    ///
    /// # Errors
    /// `NotLeader`, which a producer retries.
    pub fn append(
        &self,
        placed: PlacedBatch,
        id: EntryId,
        at: TimestampMs,
        now: Mono,
        producers_after_ms: i64,
    ) -> Result<ProduceDone, ProduceError> {
        let bytes = placed.bytes;
        let batch = tidewater_storage::model::BatchHeader::parse(&bytes)
            .map(|header| Batch { header, bytes })
            .map_err(|_| ProduceError::Invalid("the batch in the lane's log is malformed"))?;
        let header = batch.header;
        if header.base_offset != self.log.end() || placed.base_offset != header.base_offset {
            return Err(ProduceError::NotLeader(None));
        }
        self.producers.borrow_mut().note(&header, header.base_offset, at, producers_after_ms);
        self.note_epoch(placed.epoch, header.base_offset);
        self.last_append.set(at);
        self.mark(header.next_offset(), u64::from(header.len), now);
        self.log.append(batch, id);
        self.waiters.reached(header.next_offset());
        Ok(ProduceDone { base_offset: header.base_offset, log_append_time: None, log_start: self.log_start() })
    }

    fn note_epoch(&self, epoch: LeaderEpoch, at: Offset) {
        let mut epochs = self.epochs.borrow_mut();
        if epochs.last().is_none_or(|(last, _)| *last < epoch) {
            epochs.push((epoch, at));
        }
    }

    /// Moves the log start forward; never back, never past the end. While the topic is archived, local bytes stay until
    /// the archived end has passed them, by a bundle or by the archiver's `trimmed`: archived ranges are contiguous, so
    /// without these bytes no bundle could continue them.
    pub fn trim(&self, to: Offset) {
        let to = to.min(self.high_watermark());
        if to > self.log_start.get() {
            self.log_start.set(to);
            let free = if self.config().archived { to.min(self.manifest.borrow().archived_end) } else { to };
            self.log.trim(free);
            let mut epochs = self.epochs.borrow_mut();
            let keep = epochs.partition_point(|(_, start)| *start <= to).saturating_sub(1);
            epochs.drain(..keep);
            drop(epochs);
            self.waiters.all();
        }
    }

    /// For the checkpoint: everything but the log itself.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (settings, epochs) = (self.settings.borrow(), self.epochs.borrow());
        assert!(self.log_start() <= self.log.end(), "{self:?} starts behind its end");
        assert!(are_ascending(&epochs), "{self:?} has leader epochs {epochs:?}");
        let mut out = Encoder::new();
        out.u8(BLOB_VERSION);
        out.section(BIRTH, true, |out| {
            out.text(self.birth.topic.as_str());
            out.signed(self.birth.epoch_base.into());
            out.option(self.created, Encoder::index);
            out.list(settings.overrides.iter(), |out, (key, value)| {
                out.text(key);
                out.text(value);
            });
        });
        out.section(BOUNDS, true, |out| {
            out.offset(self.log_start());
            out.time(self.last_append());
        });
        out.section(EPOCHS, true, |out| {
            out.list(epochs.iter(), |out, (epoch, start)| {
                out.signed(epoch.0.into());
                out.offset(*start);
            });
        });
        out.section(MANIFEST, true, |out| out.raw(&self.manifest.borrow().encode()));
        out.section(PRODUCERS, true, |out| self.producers.borrow().encode(out));
        if self.revision() > 0 {
            out.section(REVISION, true, |out| out.var(self.revision()));
        }
        if let Some(copied) = self.copied {
            out.section(COPIED, true, |out| {
                out.offset(copied.start);
                out.offset(copied.end);
            });
        }
        out.finish()
    }

    /// The inverse of [`Replica::encode`], over the recovered log; reads what older versions wrote too.
    ///
    /// # Errors
    /// What is wrong with the blob.
    pub fn decode(id: PartitionId, lane: LaneId, blob: &Bytes, log: PartitionLog) -> Result<Self, CodecError> {
        let mut from = Decoder::new(WHAT, blob);
        let read = match from.version(1, BLOB_VERSION)? {
            BLOB_VERSION => Decoded::take(from.rest())?,
            version => Decoded::take_positional(LittleEndian::new(from), version > 1)?,
        };
        if !are_ascending(&read.epochs) {
            return Err(CodecError::Field { what: WHAT, field: "order of leader epochs", at: 0 });
        }
        if read.log_start > log.end() {
            return Err(CodecError::Field { what: WHAT, field: "log start, which lies behind the log's end", at: 0 });
        }
        let mut replica = Self::born(id, lane, LogIndex(0), read.birth, read.overrides, log);
        (replica.created, replica.copied) = (read.created, read.copied);
        replica.log_start.set(read.log_start);
        replica.revision.set(read.revision);
        replica.last_append.set(read.last_append);
        *replica.epochs.borrow_mut() = read.epochs;
        *replica.producers.borrow_mut() = read.producers;
        *replica.manifest.borrow_mut() = read.manifest;
        Ok(replica)
    }
}

fn are_ascending(epochs: &[(LeaderEpoch, Offset)]) -> bool {
    epochs.is_sorted_by(|(epoch, start), (next, after)| epoch < next && start <= after)
}

impl Decoded {
    fn take(body: &[u8]) -> Result<Self, CodecError> {
        let mut sections = Sections::new(WHAT, body);
        let (mut birth, mut bounds, mut epochs, mut manifest, mut producers) = (None, None, None, None, None);
        let (mut revision, mut copied) = (0, None);
        let known = [BIRTH, BOUNDS, EPOCHS, MANIFEST, PRODUCERS, REVISION, COPIED];
        while let Some((tag, mut body)) = sections.next(&known)? {
            match tag {
                BIRTH => {
                    let topic = TopicName::new(&body.text()?).map_err(|_| body.bad("topic name"))?;
                    let born = Birth { topic, epoch_base: body.signed32()? };
                    let created = body.option(Decoder::index)?;
                    let overrides = body.list(2, |body| Ok((body.text()?, body.text()?)))?;
                    birth = Some((born, created, overrides.into_iter().collect()));
                }
                BOUNDS => bounds = Some((body.offset()?, body.time()?)),
                EPOCHS => {
                    let epoch = |body: &mut Decoder<'_>| Ok((LeaderEpoch(body.signed32()?), body.offset()?));
                    epochs = Some(body.list(2, epoch)?);
                }
                MANIFEST => manifest = Some(PartitionManifest::decode(body.rest())?),
                REVISION => revision = body.var()?,
                COPIED => copied = Some(CopiedRange { start: body.offset()?, end: body.offset()? }),
                _ => producers = Some(ProducerTable::decode(&mut body)?),
            }
            body.end()?;
        }
        let (birth, created, overrides) = sections.required(BIRTH, birth)?;
        let (log_start, last_append) = sections.required(BOUNDS, bounds)?;
        Ok(Self {
            birth,
            copied,
            created,
            overrides,
            log_start,
            revision,
            last_append,
            epochs: sections.required(EPOCHS, epochs)?,
            manifest: sections.required(MANIFEST, manifest)?,
            producers: sections.required(PRODUCERS, producers)?,
        })
    }

    fn take_positional(mut from: LittleEndian<'_>, timed: bool) -> Result<Self, CodecError> {
        let head: OldHead = serde_json::from_slice(from.blob()?).map_err(|_| from.bad("birth"))?;
        let (log_start, last_append) = (Offset::new(from.u64()?), TimestampMs(from.i64()?));
        let mut epochs = Vec::new();
        for _ in 0..from.u32()? {
            epochs.push((LeaderEpoch(from.i32()?), Offset::new(from.u64()?)));
        }
        let manifest = PartitionManifest::decode(from.blob()?)?;
        let producers = ProducerTable::decode_positional(&mut from, timed)?;
        let (birth, overrides) = (head.birth, head.overrides);
        let (copied, created, revision) = (None, None, 0);
        Ok(Self { birth, copied, created, overrides, log_start, revision, last_append, epochs, manifest, producers })
    }
}

#[cfg(test)]
mod golden;
