//! What one fetch session remembers (KIP-227): its partitions, which of them are to be read, and what the client knows
//! of each.
//!
//! Pure. A partition is *queued* when it is to be read at the next look: it is new, its offset changed, it had data or
//! an error the last time, or it moved since. All others are *idle*: the client stands at their end, and an alarm is
//! registered there (`crate::partition::read::watch`), so a fetch costs what changed, not what there is. The queue is
//! the rotation: a partition that brought data goes to its end, one that was not reached stays in front. A fetch
//! without a session is a session that lives for one request.

mod answers;

use std::collections::{HashMap, VecDeque};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use tidewater_storage::model::{Offset, TopicId, TopicName};
use uuid::Uuid;

use super::claimed_epoch;
use crate::controller::image::{ClusterImage, PartitionImage};
use crate::kafka::error_code::ErrorCode;
use crate::kafka::topic_ref::TopicRef;
use crate::kafka::wire::fetch::PartitionAnswer;
use crate::partition::message::{EpochEnd, Isolation, PartitionAddress, ReadDone, ReadPart};
use crate::partition::read::watch::Watched;
use answers::{Answers, answer};

/// A partition within its session; also the token of its alarm. Not used again while an alarm of it may ring.
pub(super) type SlotId = u32;

/// What the client wants of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    offset: i64,
    max_bytes: i32,
    current_epoch: i32,
    last_epoch: i32,
}

/// Where a partition's bounds were when last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// First offset not committed.
    pub high_watermark: Offset,
    /// First offset not stable.
    pub last_stable: Offset,
    pub log_start: Offset,
}

impl Seen {
    fn of(done: &ReadDone) -> Self {
        Self { high_watermark: done.high_watermark, last_stable: done.last_stable_offset, log_start: done.log_start }
    }
}

#[derive(Debug)]
struct SessionPartition {
    topic: u32,
    index: i32,
    asked: Asked,
    /// Where it was last found; none while the client is refused it.
    address: Option<PartitionAddress>,
    seen: Option<Seen>,
    /// High watermark and log start as the client knows them.
    sent: Option<(Offset, Offset)>,
    queued: bool,
    /// An alarm is registered that has not been heard.
    armed: bool,
    /// Forgotten by the client; kept until its alarm rings.
    forgotten: bool,
}

impl SessionPartition {
    /// Does the client stand where there is nothing for it yet?
    fn is_at_end(&self, done: &ReadDone, isolation: Isolation) -> bool {
        let end = match isolation {
            Isolation::ReadCommitted => done.last_stable_offset,
            Isolation::ReadUncommitted => done.high_watermark,
        };
        Offset::from_wire(self.asked.offset).is_some_and(|from| from >= end)
    }
}

#[derive(Debug)]
struct Topic {
    asked: TopicRef,
    /// By which name and id it was first found.
    known: Option<(TopicName, TopicId)>,
    partitions: HashMap<i32, SlotId>,
}

/// What a request wants answered, and whether anything of it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Every partition; nothing is remembered.
    Once,
    /// Every partition; a session begins.
    Full,
    /// What changed in a session.
    Incremental,
}

impl Kind {
    /// Is every partition answered, so that none may be left unread?
    pub(super) fn is_whole(self) -> bool {
        self != Self::Incremental
    }

    /// Does a later request of the same session ask only for what moved since?
    fn is_remembered(self) -> bool {
        self != Self::Once
    }
}

/// What became of one partition at one look.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Read; perhaps nothing.
    Read(ReadDone),
    /// Read, and the client's log is not a prefix of the partition's: no batches, but where they part.
    Diverges(ReadDone, EpochEnd),
    Refused(ErrorCode),
    /// Not reached: the answer was full.
    Unread,
}

/// What to do to look at a partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub part: ReadPart,
    /// The epoch of the client's last record, if it says so.
    pub last_epoch: Option<i32>,
}

#[derive(Debug)]
pub(super) struct Session {
    by_id: bool,
    isolation: Isolation,
    topics: Vec<Topic>,
    by_topic: HashMap<TopicRef, u32>,
    slots: Vec<Option<SessionPartition>>,
    free: Vec<SlotId>,
    queue: VecDeque<SlotId>,
}

impl Session {
    /// Of a full request.
    pub(super) fn new(by_id: bool, isolation: Isolation, topics: &[FetchTopic]) -> Self {
        let mut session = Self {
            by_id,
            isolation,
            topics: Vec::with_capacity(topics.len()),
            by_topic: HashMap::with_capacity(topics.len()),
            slots: Vec::with_capacity(topics.iter().map(|topic| topic.partitions.len()).sum()),
            free: Vec::new(),
            queue: VecDeque::new(),
        };
        session.take(topics);
        session
    }

    /// Are topics named by id?
    pub(super) fn by_id(&self) -> bool {
        self.by_id
    }

    /// Partitions and topics it keeps in memory.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len() + self.topics.len()
    }

    /// Has the client forgotten everything?
    pub(super) fn is_empty(&self) -> bool {
        !self.slots.iter().flatten().any(|slot| !slot.forgotten)
    }

    /// An incremental request: added and changed partitions, then forgotten ones (in this order, as Kafka does).
    pub(super) fn update(&mut self, isolation: Isolation, topics: &[FetchTopic], forgotten: &[ForgottenTopic]) {
        if isolation != self.isolation {
            self.isolation = isolation;
            self.queue_all();
        }
        self.take(topics);
        for gone in forgotten {
            let topic = self.name(&gone.topic, gone.topic_id);
            let Some(topic) = self.by_topic.get(&topic).and_then(|n| self.topics.get(*n as usize)) else { continue };
            let ids: Vec<SlotId> = gone.partitions.iter().filter_map(|n| topic.partitions.get(n).copied()).collect();
            ids.into_iter().for_each(|id| self.forget(id));
        }
    }

    fn name(&self, name: &kafka_protocol::messages::TopicName, id: Uuid) -> TopicRef {
        TopicRef::either(self.by_id, name.as_str(), id)
    }

    fn take(&mut self, topics: &[FetchTopic]) {
        for asked in topics {
            let topic = self.name(&asked.topic, asked.topic_id);
            let n = self.topic(topic);
            asked.partitions.iter().for_each(|partition| self.ask(n, partition));
        }
    }

    fn topic(&mut self, asked: TopicRef) -> u32 {
        if let Some(n) = self.by_topic.get(&asked) {
            return *n;
        }
        let n = u32::try_from(self.topics.len()).unwrap_or(u32::MAX);
        self.by_topic.insert(asked.clone(), n);
        self.topics.push(Topic { asked, known: None, partitions: HashMap::new() });
        n
    }

    fn ask(&mut self, topic: u32, partition: &FetchPartition) {
        let asked = Asked {
            offset: partition.fetch_offset,
            max_bytes: partition.partition_max_bytes,
            current_epoch: partition.current_leader_epoch,
            last_epoch: partition.last_fetched_epoch,
        };
        let index = partition.partition;
        let known = self.topics.get(topic as usize).and_then(|topic| topic.partitions.get(&index)).copied();
        let id = known.unwrap_or_else(|| self.new_slot(topic, index, asked));
        if let Some(slot) = self.slot_mut(id) {
            if std::mem::take(&mut slot.forgotten) {
                slot.sent = None;
            }
            slot.asked = asked;
        }
        self.enqueue(id);
    }

    fn new_slot(&mut self, topic: u32, index: i32, asked: Asked) -> SlotId {
        let slot = SessionPartition {
            topic,
            index,
            asked,
            address: None,
            seen: None,
            sent: None,
            queued: false,
            armed: false,
            forgotten: false,
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(place) = self.slots.get_mut(id as usize) {
            *place = Some(slot);
        }
        if let Some(topic) = self.topics.get_mut(topic as usize) {
            topic.partitions.insert(index, id);
        }
        id
    }

    fn slot(&self, id: SlotId) -> Option<&SessionPartition> {
        self.slots.get(id as usize)?.as_ref()
    }

    fn slot_mut(&mut self, id: SlotId) -> Option<&mut SessionPartition> {
        self.slots.get_mut(id as usize)?.as_mut()
    }

    fn enqueue(&mut self, id: SlotId) {
        let Some(slot) = self.slot_mut(id) else { return };
        if !std::mem::replace(&mut slot.queued, true) {
            self.queue.push_back(id);
        }
    }

    fn queue_all(&mut self) {
        for id in 0..u32::try_from(self.slots.len()).unwrap_or(u32::MAX) {
            if self.slot(id).is_some_and(|slot| !slot.forgotten) {
                self.enqueue(id);
            }
        }
    }

    fn forget(&mut self, id: SlotId) {
        if let Some(slot) = self.slot_mut(id) {
            slot.forgotten = true;
        }
        self.free_if_done(id);
    }

    /// Frees a slot that nothing refers to any more.
    fn free_if_done(&mut self, id: SlotId) {
        let Some(slot) = self.slot(id).filter(|slot| slot.forgotten && !slot.armed && !slot.queued) else { return };
        let (topic, index) = (slot.topic, slot.index);
        if let Some(topic) = self.topics.get_mut(topic as usize) {
            topic.partitions.remove(&index);
        }
        if let Some(place) = self.slots.get_mut(id as usize) {
            *place = None;
            self.free.push(id);
        }
    }

    /// An alarm rang; true when it concerns a partition that the client wants.
    pub(super) fn rang(&mut self, id: SlotId) -> bool {
        let Some(slot) = self.slot_mut(id) else { return false };
        slot.armed = false;
        if slot.forgotten {
            self.free_if_done(id);
            return false;
        }
        self.enqueue(id);
        true
    }

    /// Bytes that the partitions to be looked at may bring, up to `max`.
    pub(super) fn wanted(&self, max: usize) -> usize {
        let of =
            |id: &SlotId| self.slot(*id).map_or(0, |slot| usize::try_from(slot.asked.max_bytes).unwrap_or(0).max(1));
        let mut sum = 1;
        for id in &self.queue {
            sum += of(id);
            if sum >= max {
                return max;
            }
        }
        sum
    }

    /// Takes what is to be looked at, in order; [`Session::settle`] must follow.
    pub(super) fn take_queue(&mut self) -> Vec<SlotId> {
        let taken = std::mem::take(&mut self.queue);
        let mut live = Vec::with_capacity(taken.len());
        for id in taken {
            let Some(slot) = self.slot_mut(id) else { continue };
            slot.queued = false;
            if slot.forgotten {
                self.free_if_done(id);
            } else {
                live.push(id);
            }
        }
        live
    }

    /// Finds a partition in the image.
    ///
    /// # Errors
    /// The answer without records.
    pub(super) fn look(&mut self, id: SlotId, image: &ClusterImage) -> Result<Look, ErrorCode> {
        let isolation = self.isolation;
        let slot = self.slots.get_mut(id as usize).and_then(Option::as_mut).ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        slot.address = None;
        let topic = self.topics.get_mut(slot.topic as usize).ok_or(ErrorCode::UNKNOWN_SERVER_ERROR)?;
        let found = find(topic, slot.index, image)?;
        let from = Offset::from_wire(slot.asked.offset).ok_or(ErrorCode::OFFSET_OUT_OF_RANGE)?;
        slot.address = Some(found.address());
        let max_bytes = usize::try_from(slot.asked.max_bytes).unwrap_or(0);
        let epoch = claimed_epoch(slot.asked.current_epoch);
        let part = ReadPart { address: found.address(), from, max_bytes, isolation, epoch };
        Ok(Look { part, last_epoch: Some(slot.asked.last_epoch).filter(|epoch| *epoch >= 0) })
    }

    /// Is there more than the answer takes? Then nothing is waited for.
    pub(super) fn is_full(&self, found: &[(SlotId, Outcome)]) -> bool {
        found.iter().any(|(id, outcome)| match outcome {
            Outcome::Unread => true,
            Outcome::Read(done) if done.batches.is_empty() => {
                self.slot(*id).is_some_and(|slot| !slot.is_at_end(done, self.isolation))
            }
            _ => false,
        })
    }

    /// Puts what was looked at where it belongs: unread partitions to the front, those with data or an error to the
    /// end, the rest idle. Answers the alarms to register, which count as registered from here on: those of the idle
    /// partitions if anybody will ask what moved, now (`waits`) or in a later request; while waiting those with data
    /// too.
    #[must_use = "what is answered counts as watched"]
    pub(super) fn settle(
        &mut self,
        found: &[(SlotId, Outcome)],
        kind: Kind,
        waits: bool,
    ) -> Vec<(PartitionAddress, Watched)> {
        let (mut front, mut watch) = (Vec::new(), Vec::new());
        for (id, outcome) in found {
            let isolation = self.isolation;
            let Some(slot) = self.slot_mut(*id) else { continue };
            let idle = match outcome {
                Outcome::Read(done) => {
                    slot.seen = Some(Seen::of(done));
                    let at_end = slot.is_at_end(done, isolation);
                    if done.batches.is_empty() && !at_end {
                        front.push(*id);
                    } else if !done.batches.is_empty() {
                        self.enqueue(*id);
                    }
                    at_end
                }
                Outcome::Diverges(..) | Outcome::Refused(_) => {
                    slot.sent = None;
                    self.enqueue(*id);
                    false
                }
                Outcome::Unread => {
                    front.push(*id);
                    false
                }
            };
            if waits || (idle && kind.is_remembered()) {
                watch.extend(self.arm(*id));
            }
        }
        for id in front.into_iter().rev() {
            let Some(slot) = self.slot_mut(id) else { continue };
            if !std::mem::replace(&mut slot.queued, true) {
                self.queue.push_front(id);
            }
        }
        watch
    }

    /// The alarm of a partition; none when one is registered already or its shard is not known.
    fn arm(&mut self, id: SlotId) -> Option<(PartitionAddress, Watched)> {
        let slot = self.slot_mut(id).filter(|slot| !slot.armed)?;
        let (address, seen) = (slot.address?, slot.seen?);
        slot.armed = true;
        let watched = Watched { token: id, id: address.id, end: seen.high_watermark, log_start: seen.log_start };
        Some((address, watched))
    }

    /// The answer of an incremental request: what has data, an error, or bounds that the client does not know.
    pub(super) fn changed(&mut self, found: Vec<(SlotId, Outcome)>) -> Vec<(TopicRef, Vec<PartitionAnswer>)> {
        let mut answers = Answers::default();
        for (id, outcome) in found {
            let lists_aborted = self.isolation == Isolation::ReadCommitted;
            let Some(slot) = self.slot_mut(id) else { continue };
            let news = match &outcome {
                Outcome::Unread => false,
                Outcome::Refused(_) | Outcome::Diverges(..) => true,
                Outcome::Read(done) => {
                    let bounds = Some((done.high_watermark, done.log_start));
                    let moved = std::mem::replace(&mut slot.sent, bounds) != bounds;
                    moved || !done.batches.is_empty()
                }
            };
            if news {
                let (topic, answer) = (slot.topic, answer(slot, Some(outcome), lists_aborted));
                answers.push(topic, answer);
            }
        }
        answers.named(&self.topics)
    }

    /// The answer of a full request: every partition that the client wants, in the request's order.
    pub(super) fn whole(&mut self, found: Vec<(SlotId, Outcome)>) -> Vec<(TopicRef, Vec<PartitionAnswer>)> {
        let mut found: HashMap<SlotId, Outcome> = found.into_iter().collect();
        let lists_aborted = self.isolation == Isolation::ReadCommitted;
        let mut answers = Answers::default();
        for (id, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot.as_mut().filter(|slot| !slot.forgotten) else { continue };
            let outcome = u32::try_from(id).ok().and_then(|id| found.remove(&id));
            let answer = answer(slot, outcome, lists_aborted);
            slot.sent = slot.seen.filter(|_| answer.error.is_none()).map(|seen| (seen.high_watermark, seen.log_start));
            answers.push(slot.topic, answer);
        }
        answers.named(&self.topics)
    }
}

/// The partition of a topic as the session first found it (KIP-516): a name that has come to mean another topic is not
/// followed by a session that goes by ids.
fn find<'a>(topic: &mut Topic, index: i32, image: &'a ClusterImage) -> Result<&'a PartitionImage, ErrorCode> {
    let found = topic.asked.topic(image);
    match (&topic.known, &found) {
        (None, Ok(found)) => topic.known = Some((found.name.clone(), found.id)),
        (Some((name, _)), Err(ErrorCode::UNKNOWN_TOPIC_ID)) => {
            let renamed = image.topic(name.as_str()).is_some();
            return Err(if renamed { ErrorCode::INCONSISTENT_TOPIC_ID } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION });
        }
        _ => {}
    }
    found?.partition(index).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
}

#[cfg(test)]
mod tests;
