//! Writing a partition of `__consumer_offsets`: intents in order, one append in flight, snapshots between them.
//!
//! Intents queued during an append go into the next one, so a thousand small commits cost a few appends.
//! An [`Intent`] takes effect in memory when its records are committed, never before, and in log order.
//!
//! A snapshot writes the state again, group by group, each piece captured while nothing is in flight; commits go on
//! between the pieces. A record written before a piece is older than the piece and a later record is newer, so the log
//! from the snapshot's first record on holds the whole state, and the prefix before it is trimmed.

use std::sync::Arc;

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{BatchHeader, Compression, Offset, Term, TimestampMs};

use super::error::GroupError;
use super::group_shard::{Clocks, GroupShard, HeldGroup};
use super::ids::GroupId;
use super::message::{Answer, Commit};
use super::offsets::Offsets;
use super::record::{GroupRecord, Pair};
use super::state::SaveCause;
use crate::partition::message::{CheckedBatch, Origin, PartitionAddress, ProduceError, ProducePart};
use crate::partition::router::Router;

/// One intent's records must fit into one batch of Kafka's default `max.message.bytes`.
pub(super) const INTENT_BYTES_MAX: usize = 1 << 20;
/// An append takes intents until it has this many bytes of records.
const APPEND_BYTES: usize = 512 << 10;
/// A snapshot begins once the log has grown to this many times the last one (and past the configured minimum), so
/// that snapshots cost at most half as much again as the commits themselves.
const SNAPSHOT_GROWTH: u64 = 3;

/// A change that must be written before it takes effect.
#[derive(Debug)]
pub(super) enum Intent {
    /// A group's metadata, encoded.
    Save { group: GroupId, cause: SaveCause, record: Pair },
    /// Offsets a client commits; the answers go out when they are committed.
    Commit { group: GroupId, commits: Vec<Placed>, bytes: usize, answer: Answers },
    /// Offsets to be removed.
    Remove { group: GroupId, keys: Vec<(Arc<str>, i32)>, answer: Option<Answers> },
    /// A group without members and all its offsets.
    Delete { group: GroupId, reply: Option<Answer<()>> },
    /// Remove a group's lapsed offsets: which, is decided when everything queued before has taken effect.
    Sweep { group: GroupId },
}

type Placed = (Arc<str>, i32, Commit);
type Answers = (Vec<Result<(), GroupError>>, Answer<Vec<Result<(), GroupError>>>);

impl Intent {
    pub(super) fn commit(
        group: GroupId,
        commits: Vec<Placed>,
        answers: Vec<Result<(), GroupError>>,
        reply: Answer<Vec<Result<(), GroupError>>>,
    ) -> Self {
        // Key and value of a commit take at most 60 bytes besides names and metadata.
        let names = commits.iter().map(|(topic, _, commit)| topic.len() + commit.metadata.len()).sum::<usize>();
        let bytes = names + commits.len() * (60 + group.as_str().len());
        Self::Commit { group, commits, bytes, answer: (answers, reply) }
    }

    /// Bytes it counts in the queue.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Save { record: (key, value), .. } => key.len() + value.as_ref().map_or(0, Bytes::len),
            Self::Commit { bytes, .. } => *bytes,
            Self::Remove { group, keys, .. } => keys.len() * (40 + group.as_str().len()),
            Self::Delete { group, .. } | Self::Sweep { group } => group.as_str().len(),
        }
    }

    pub(super) fn group(&self) -> &GroupId {
        match self {
            Self::Save { group, .. }
            | Self::Commit { group, .. }
            | Self::Remove { group, .. }
            | Self::Delete { group, .. }
            | Self::Sweep { group } => group,
        }
    }

    /// Answers with an error; nothing is done.
    pub(super) fn refuse(self, error: GroupError) {
        match self {
            Self::Save { .. } | Self::Remove { answer: None, .. } | Self::Sweep { .. } => {}
            Self::Commit { answer: (_, reply), .. } | Self::Remove { answer: Some((_, reply)), .. } => {
                reply.send(Err(error));
            }
            Self::Delete { reply, .. } => reply.into_iter().for_each(|reply| reply.send(Err(error.clone()))),
        }
    }
}

/// Progress of the partition's log.
#[derive(Debug, Default)]
pub(super) struct LogState {
    /// First offset after what was read or appended.
    pub(super) end: Offset,
    /// Bytes of records since the log start or the last snapshot's beginning.
    pub(super) bytes: u64,
    /// Bytes of the last snapshot.
    pub(super) snapshot_bytes: u64,
    /// The log holds records of kinds that this version does not know: it is not cut, for a snapshot would lose them.
    pub(super) holds_unknown: bool,
    run: Option<SnapshotRun>,
    /// The snapshot has the next turn.
    snapshot_next: bool,
}

#[derive(Debug)]
struct SnapshotRun {
    /// Offset of its first record, once written; nothing before it is needed when the run ends.
    start: Option<Offset>,
    /// Up to which group it has come.
    cursor: Option<GroupId>,
    bytes: u64,
}

/// What the writer does next.
pub(super) enum Work {
    /// Append what these intents want.
    Intents(Vec<Intent>, Vec<Pair>),
    /// Append a piece of the snapshot.
    Piece(Vec<Pair>),
    /// The snapshot is through: cut the log here.
    Trim(Offset),
}

/// An append that is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Appended {
    first: Offset,
    /// A place for every record of it: later than all before, not later than any after.
    place: Offset,
    end: Offset,
    bytes: u64,
}

impl GroupShard {
    /// The next thing to write, if any.
    pub(super) fn next_work(&mut self, wall: TimestampMs) -> Option<Work> {
        let bound = self.settings.snapshot_bytes.max(SNAPSHOT_GROWTH * self.log.snapshot_bytes);
        if self.log.run.is_none() && self.log.bytes > bound && !self.log.holds_unknown {
            self.log.run = Some(SnapshotRun { start: None, cursor: None, bytes: 0 });
            self.log.bytes = 0;
        }
        if self.log.run.is_some() && (self.log.snapshot_next || self.queue.is_empty()) {
            self.log.snapshot_next = false;
            return Some(self.next_piece());
        }
        self.log.snapshot_next = true;
        if self.queue.is_empty() { None } else { Some(self.take_intents(wall)) }
    }

    fn take_intents(&mut self, wall: TimestampMs) -> Work {
        let (mut intents, mut records, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(intent) = self.queue.pop_front() {
            // What is deleted is listed when nothing is in flight, so that no commit slips by.
            let alone = matches!(intent, Intent::Delete { .. } | Intent::Sweep { .. });
            if alone && !intents.is_empty() {
                self.queue.push_front(intent);
                break;
            }
            self.queue_bytes -= intent.bytes().min(self.queue_bytes);
            let Some(intent) = self.still_due(intent, wall) else { continue };
            bytes += intent.bytes();
            self.encode(&intent, &mut records);
            intents.push(intent);
            if alone || bytes >= APPEND_BYTES {
                break;
            }
        }
        Work::Intents(intents, records)
    }

    /// What an intent has come to while it waited: members may have joined and offsets may have been committed since a
    /// group was found to be deletable or lapsed.
    fn still_due(&self, intent: Intent, wall: TimestampMs) -> Option<Intent> {
        match intent {
            Intent::Sweep { group } => self.lapsed(&group, wall),
            Intent::Delete { group, reply } => match self.may_delete(&group) {
                Ok(()) => Some(Intent::Delete { group, reply }),
                Err(error) => {
                    reply.into_iter().for_each(|reply| reply.send(Err(error.clone())));
                    None
                }
            },
            // Of a topic's earlier life, forgotten here when that ended: what is held by now came later in the log.
            Intent::Remove { group, mut keys, answer: None } => {
                if let Some(slot) = self.groups.get(&group) {
                    keys.retain(|(topic, n)| slot.offsets.get(topic, *n).is_none());
                }
                (!keys.is_empty()).then_some(Intent::Remove { group, keys, answer: None })
            }
            intent @ (Intent::Save { .. } | Intent::Commit { .. } | Intent::Remove { .. }) => Some(intent),
        }
    }

    fn encode(&self, intent: &Intent, records: &mut Vec<Pair>) {
        match intent {
            Intent::Save { record, .. } => records.push(record.clone()),
            Intent::Commit { group, commits, .. } => {
                let written = commits.iter().map(|(topic, n, commit)| offset_record(group, topic, *n, Some(commit)));
                records.extend(written);
            }
            Intent::Remove { group, keys, .. } => {
                records.extend(keys.iter().map(|(topic, n)| offset_record(group, topic, *n, None)));
            }
            Intent::Delete { group, .. } => {
                let Some(slot) = self.groups.get(group) else { return };
                records.extend(slot.offsets.iter().map(|(topic, n, _)| offset_record(group, topic, n, None)));
                if slot.saved.is_some() {
                    records.push(GroupRecord::Group { group: group.to_string(), saved: None }.encode());
                }
            }
            // Taken from the queue it is one of the others.
            Intent::Sweep { .. } => {}
        }
    }

    fn next_piece(&mut self) -> Work {
        let Some(run) = &mut self.log.run else { return Work::Piece(Vec::new()) };
        let (mut records, mut bytes) = (Vec::new(), 0);
        let after = match &run.cursor {
            None => std::ops::Bound::Unbounded,
            Some(id) => std::ops::Bound::Excluded(id.clone()),
        };
        for (id, slot) in self.groups.range((after, std::ops::Bound::Unbounded)) {
            slot_records(id, slot, &mut records, &mut bytes);
            run.cursor = Some(id.clone());
            if bytes >= APPEND_BYTES {
                break;
            }
        }
        if !records.is_empty() {
            return Work::Piece(records);
        }
        let (start, bytes) = (run.start.unwrap_or(self.log.end), run.bytes);
        self.log.run = None;
        self.log.snapshot_bytes = bytes;
        Work::Trim(start)
    }

    /// An append of the writer is through.
    pub(super) fn note(&mut self, appended: &Appended, of_snapshot: bool) {
        self.log.end = appended.end;
        self.log.bytes += appended.bytes;
        if let Some(run) = self.log.run.as_mut().filter(|_| of_snapshot) {
            run.start.get_or_insert(appended.first);
            run.bytes += appended.bytes;
        }
    }

    /// A piece could not be written: the log stays as long as it is; another try comes when it has grown further.
    pub(super) fn abandon_snapshot(&mut self) {
        self.log.run = None;
    }

    /// The records of `intent` are committed, or could not be written.
    pub(super) fn finish(&mut self, at: Clocks, intent: Intent, outcome: &Result<Appended, GroupError>) {
        let id = intent.group().clone();
        match (intent, outcome) {
            (Intent::Save { cause, record, .. }, outcome) => {
                let Some(slot) = self.groups.get_mut(&id) else { return };
                if outcome.is_ok() {
                    slot.saved = record.1;
                }
                let mut effects = Vec::new();
                let outcome = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
                slot.group.saved(at.now, &cause, outcome, &mut effects);
                return self.act(at, &id, effects);
            }
            (intent, Err(error)) => intent.refuse(error.clone()),
            (Intent::Commit { commits, answer: (answers, reply), .. }, Ok(appended)) => {
                self.committed(&id, commits, at.wall, appended.place);
                reply.send(Ok(answers));
            }
            (Intent::Remove { keys, answer, .. }, Ok(appended)) => {
                if let Some(slot) = self.groups.get_mut(&id) {
                    keys.iter().for_each(|(topic, n)| slot.offsets.remove(topic, *n, appended.place));
                }
                answer.into_iter().for_each(|(answers, reply)| reply.send(Ok(answers)));
            }
            (Intent::Delete { reply, .. }, Ok(_)) => {
                if let Some(slot) = self.groups.get_mut(&id) {
                    // A member that joined during the write has to join again: the log has lost the group.
                    (slot.offsets, slot.saved) = (Offsets::default(), None);
                    if slot.group.is_vacant() {
                        self.groups.remove(&id);
                    }
                }
                reply.into_iter().for_each(|reply| reply.send(Ok(())));
            }
            (Intent::Sweep { .. }, Ok(_)) => {}
        }
        self.act(at, &id, Vec::new());
    }
}

fn offset_record(group: &GroupId, topic: &str, partition: i32, commit: Option<&Commit>) -> Pair {
    let (group, topic, commit) = (group.to_string(), topic.to_owned(), commit.cloned());
    GroupRecord::Offset { group, topic, partition, commit }.encode()
}

/// A group as records: its metadata as last written, and its offsets.
fn slot_records(id: &GroupId, slot: &HeldGroup, records: &mut Vec<Pair>, bytes: &mut usize) {
    let first = records.len();
    if let Some(saved) = &slot.saved {
        let (key, _) = GroupRecord::Group { group: id.to_string(), saved: None }.encode();
        records.push((key, Some(saved.clone())));
    }
    records.extend(slot.offsets.iter().map(|(topic, n, commit)| offset_record(id, topic, n, Some(commit))));
    *bytes += records.get(first..).into_iter().flatten().map(pair_bytes).sum::<usize>();
}

fn pair_bytes((key, value): &Pair) -> usize {
    key.len() + value.as_ref().map_or(0, Bytes::len)
}

/// Appends records to the partition in `term` of its lane and in no other, in batches of bounded size, and waits until
/// they are committed.
pub(super) async fn append(
    router: &Router,
    address: PartitionAddress,
    term: Term,
    end: Offset,
    records: Vec<Pair>,
    now: TimestampMs,
) -> Result<Appended, GroupError> {
    let mut appended = Appended { first: end, place: end, end, bytes: 0 };
    if records.is_empty() {
        return Ok(appended);
    }
    let mut parts = Vec::new();
    let mut builder = BatchBuilder::new(Compression::None);
    for (key, value) in records {
        builder.push(Record::new(now, Some(key), value));
        if builder.len() >= APPEND_BYTES {
            parts.push(part(address, term, std::mem::replace(&mut builder, BatchBuilder::new(Compression::None)))?);
        }
    }
    if !builder.is_empty() {
        parts.push(part(address, term, builder)?);
    }
    let counts = parts.iter().map(|part| u64::from(part.batch.header.record_count)).collect::<Vec<_>>();
    appended.bytes = parts.iter().map(|part| part.batch.bytes.len() as u64).sum();
    let done = router.produce(parts).await;
    for (n, (done, count)) in done.into_iter().zip(counts).enumerate() {
        let base = done.map_err(|error| refusal(&error))?.base_offset;
        if n == 0 {
            appended.first = base;
        }
        appended.place = base;
        appended.end = base.plus(count);
    }
    Ok(appended)
}

fn part(address: PartitionAddress, term: Term, builder: BatchBuilder) -> Result<ProducePart, GroupError> {
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes).map_err(|_| GroupError::NotAvailable)?;
    let bytes = bytes.try_into_mut().unwrap_or_else(|shared| shared.as_ref().into());
    Ok(ProducePart { address, batch: CheckedBatch { header, bytes }, origin: Origin::Coordinator(term) })
}

fn refusal(error: &ProduceError) -> GroupError {
    match error {
        ProduceError::UnknownPartition(_) | ProduceError::NotLeader(_) | ProduceError::Unconfirmed => {
            GroupError::NotCoordinator
        }
        ProduceError::TooLarge { size, max } => {
            GroupError::CommitTooLarge { found: *size as usize, max: *max as usize }
        }
        // The log has said so once, and clients find the cluster's end when they produce.
        ProduceError::Superseded(_) => GroupError::NotAvailable,
        error => {
            tracing::warn!(%error, "group state could not be written; clients get an error and try again");
            GroupError::NotAvailable
        }
    }
}
