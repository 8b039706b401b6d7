//! The proposer of a lane: what waits on many partitions becomes one entry.
//!
//! Owns: the queue of batches, the offsets they get, the idempotence check against applied *and* in-flight batches, and
//! the entries in flight. Entries are formed at once when the lane is idle and otherwise from all that came meanwhile,
//! up to `ENTRY_BYTES_TARGET`. After a proposal fails nothing is proposed until all in flight are settled; then it goes
//! on from applied state. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tidewater_storage::budget::Admission;
use tidewater_storage::engine::{Engine, Refused};
use tidewater_storage::env::{Env, Mono};
use tidewater_storage::metrics::{Histogram, HistogramCounts};
use tidewater_storage::model::batch::{patch, stamp_log_append_time};
use tidewater_storage::model::{BatchHeader, Offset, PartitionId, ProducerId, Term, TimestampMs, TimestampType};

use super::producer_starts::{Beginnings, Sequenced};
use super::producers::{self, ProducerEntry, Verdict};
use crate::limits;
use crate::partition::message::{Origin, ProduceDone, ProduceError, ProducePart};
use crate::partition::state::command::{LaneEntry, PlacedBatch};
use crate::partition::state::event::Bell;
use crate::partition::state::lane::{DataLane, Outcome};
use crate::partition::state::replica::Replica;
use crate::shard::mesh::Reply;

/// How long the proposer waits when journal or memory is behind and nothing is in flight.
const BLOCKED_PAUSE: Duration = Duration::from_millis(2);

/// Producers that a partition's overlay holds before it is looked through for those that it needs no more.
const AHEAD_PRODUCERS_KEPT: usize = 64;

/// Collects the answers of one produce request's parts on this shard.
struct Gather {
    answers: RefCell<Vec<Result<ProduceDone, ProduceError>>>,
    missing: Cell<usize>,
    reply: Cell<Option<Reply<Vec<Result<ProduceDone, ProduceError>>>>>,
}

/// Where the answer to one part goes.
pub struct Slot {
    gather: Rc<Gather>,
    n: usize,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({})", self.n)
    }
}

impl Slot {
    /// One slot per part; the reply goes out when the last is answered.
    #[must_use]
    pub fn of_request(parts: usize, reply: Reply<Vec<Result<ProduceDone, ProduceError>>>) -> Vec<Self> {
        let gather = Rc::new(Gather {
            answers: RefCell::new(vec![Err(ProduceError::Unavailable); parts]),
            missing: Cell::new(parts),
            reply: Cell::new(Some(reply)),
        });
        if parts == 0
            && let Some(reply) = gather.reply.take()
        {
            reply.send(Vec::new());
        }
        (0..parts).map(|n| Self { gather: Rc::clone(&gather), n }).collect()
    }

    /// Answers this part.
    pub fn answer(self, answer: Result<ProduceDone, ProduceError>) {
        if let Some(place) = self.gather.answers.borrow_mut().get_mut(self.n) {
            *place = answer;
        }
        self.gather.missing.set(self.gather.missing.get().saturating_sub(1));
        if self.gather.missing.get() == 0
            && let Some(reply) = self.gather.reply.take()
        {
            reply.send(self.gather.answers.take());
        }
    }
}

/// What a proposer knows of a partition beyond what is applied. Lies in the replica, so that a batch finds it without a
/// search; the proposer alone reads and changes it.
#[derive(Debug, Default)]
pub struct Ahead {
    /// Batches in flight; with none, nothing else here counts.
    batches: usize,
    /// The proposer's round it belongs to: after a failure a new round begins and what was ahead counts no more.
    round: u64,
    /// Where the partition will end once they are applied.
    next: Offset,
    /// Producers with batches in flight, as they will be by then; those whose batches are applied stay until they are
    /// looked through.
    producers: HashMap<ProducerId, ProducerEntry>,
    /// At so many they are looked through.
    sweep_at: usize,
}

impl Ahead {
    fn counts(&self, round: u64) -> bool {
        self.batches > 0 && self.round == round
    }

    /// What a producer will be. On a partition that is never without a batch in flight every producer would stay for ever:
    /// those of which all is applied, below `high_watermark`, are told by the applied table and are let go.
    fn note(&mut self, producer: ProducerId, entry: ProducerEntry, high_watermark: Offset) {
        if self.producers.len() >= self.sweep_at {
            let in_flight =
                |entry: &ProducerEntry| entry.recent.back().is_some_and(|b| b.base_offset >= high_watermark);
            self.producers.retain(|_, entry| in_flight(entry));
            self.sweep_at = (2 * self.producers.len()).max(AHEAD_PRODUCERS_KEPT);
            self.producers.shrink_to(self.sweep_at);
        }
        self.producers.insert(producer, entry);
    }

    /// Nothing is in flight: nothing is ahead.
    fn forget(&mut self) {
        self.producers.clear();
        self.producers.shrink_to(AHEAD_PRODUCERS_KEPT);
    }
}

/// Who waits for one batch of an entry.
struct Waiting {
    replica: Rc<Replica>,
    slot: Slot,
    sequenced: Option<Sequenced>,
    /// Set when the topic stamps append time.
    stamped: Option<TimestampMs>,
}

/// An entry in flight and who waits for it.
struct Sent {
    waiting: Vec<Waiting>,
    /// Room promised on disk until the entry is in the journal.
    _admission: Option<Admission>,
    /// When it was formed.
    formed: Mono,
}

/// How long entries took on their way. A message; several lanes' add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProposerTimings {
    /// From the oldest batch of an entry in the queue to the entry.
    pub queued: HistogramCounts,
    /// From the entry to its application: journal, agreement, apply.
    pub committed: HistogramCounts,
}

/// A batch sent again while the first is in flight: answered once the first is applied.
struct Duplicate {
    replica: Rc<Replica>,
    slot: Slot,
    done: ProduceDone,
}

/// The proposer of one lane.
pub struct Proposer {
    env: Env,
    lane: Rc<DataLane>,
    engine: Engine,
    queue: RefCell<VecDeque<(ProducePart, Slot)>>,
    queued_bytes: Cell<usize>,
    in_flight: Cell<usize>,
    /// Bytes of several batches in one entry: what the journal takes, less an eighth for what stands beside them.
    entry_bytes_max: usize,
    /// See [`Ahead`].
    round: Cell<u64>,
    duplicates: RefCell<Vec<Duplicate>>,
    /// First batches that were refused and are still to come.
    beginnings: RefCell<Beginnings>,
    blocked: Cell<bool>,
    bell: Bell,
    /// Since when the oldest batch waits, while one does.
    oldest: Cell<Option<Mono>>,
    queued: Histogram,
    committed: Histogram,
}

impl fmt::Debug for Proposer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposer(lane {}, {} queued)", self.lane.id, self.queue.borrow().len())
    }
}

impl Proposer {
    /// A proposer; start it with [`Proposer::run`].
    #[must_use]
    pub fn new(env: Env, lane: Rc<DataLane>, engine: Engine) -> Self {
        let entry_bytes_max = usize::try_from(engine.journal().entry_bytes_max() / 8 * 7).unwrap_or(usize::MAX);
        Self {
            env,
            lane,
            engine,
            entry_bytes_max,
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            in_flight: Cell::new(0),
            round: Cell::new(0),
            duplicates: RefCell::default(),
            beginnings: RefCell::default(),
            blocked: Cell::new(false),
            bell: Bell::default(),
            oldest: Cell::new(None),
            queued: Histogram::default(),
            committed: Histogram::default(),
        }
    }

    /// Queues a batch.
    pub fn push(&self, part: ProducePart, slot: Slot) {
        let bytes = part.batch.bytes.len();
        if self.queued_bytes.get() + bytes > limits::LANE_QUEUE_BYTES_MAX && !self.queue.borrow().is_empty() {
            self.refused(part.place.id, Sequenced::of(&part.batch.header));
            slot.answer(Err(ProduceError::Busy));
            return;
        }
        self.queued_bytes.set(self.queued_bytes.get() + bytes);
        if self.oldest.get().is_none() {
            self.oldest.set(Some(self.env.clock.now()));
        }
        self.queue.borrow_mut().push_back((part, slot));
        if self.may_form() {
            self.bell.ring();
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    /// How long entries took so far.
    #[must_use]
    pub fn timings(&self) -> ProposerTimings {
        ProposerTimings { queued: self.queued.counts(), committed: self.committed.counts() }
    }

    /// Batches that wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Proposes what is queued, for ever.
    pub async fn run(self: Rc<Self>) {
        let mut in_flight = FuturesUnordered::new();
        let mut broken = false;
        loop {
            self.settle_duplicates(in_flight.is_empty());
            if in_flight.is_empty() && broken {
                self.round.set(self.round.get() + 1);
                broken = false;
            }
            self.in_flight.set(in_flight.len());
            while !broken && self.may_form() {
                if !self.lane.has_room() {
                    // Others fill the lane: nothing is formed that could not be sent.
                    self.blocked.set(!self.queue.borrow().is_empty());
                    break;
                }
                let Some((entry, sent)) = self.form() else { break };
                let proposed = self.lane.propose(entry);
                in_flight.push(async move { (proposed.await, sent) });
                self.in_flight.set(in_flight.len());
            }
            if in_flight.is_empty() {
                if self.blocked.replace(false) {
                    self.env.tasks.sleep(BLOCKED_PAUSE).await;
                } else {
                    self.bell.heard().await;
                }
                continue;
            }
            futures::select_biased! {
                settled = in_flight.next() => if let Some((result, sent)) = settled {
                    broken |= !self.settle(result.ok().map(|(_, outcome)| outcome), sent);
                },
                () = self.bell.heard().fuse() => {}
            }
        }
    }

    /// With nothing in flight whatever waits goes at once. Behind an entry that is being written, what comes meanwhile
    /// is gathered: every entry costs its way through the group and the journal, however little is in it, and until the
    /// write is over it would wait there as it waits here. Only what makes an entry worth its way goes before.
    fn may_form(&self) -> bool {
        let in_flight = self.in_flight.get();
        in_flight == 0
            || in_flight < limits::ENTRIES_IN_FLIGHT_MAX && self.queued_bytes.get() >= limits::ENTRY_BYTES_AHEAD
    }

    /// The next entry from the queue; `None` when nothing in it can be proposed now.
    fn form(&self) -> Option<(LaneEntry, Sent)> {
        let term = self.lane.leading();
        let at = self.env.clock.wall();
        loop {
            let Some((mut room, admission)) = self.admitted() else {
                if self.queue.borrow().is_empty() {
                    self.oldest.set(None);
                }
                return None;
            };
            let (mut batches, mut waiting) = (Vec::with_capacity(room), Vec::with_capacity(room));
            // A batch that cannot be placed is answered at once.
            while let Some((part, slot)) = (room > 0).then(|| self.pop()).flatten() {
                room -= 1;
                let (id, sequenced) = (part.place.id, Sequenced::of(&part.batch.header));
                match self.place(part, term, at) {
                    Ok(Placed::Append(batch, replica, stamped)) => {
                        waiting.push(Waiting { replica, slot, sequenced, stamped });
                        batches.push(batch);
                    }
                    Ok(Placed::Applied(done)) => slot.answer(Ok(done)),
                    Ok(Placed::InFlight(replica, done)) => {
                        self.duplicates.borrow_mut().push(Duplicate { replica, slot, done });
                    }
                    Err(error) => {
                        if error == ProduceError::NotLeader {
                            self.refused(id, sequenced);
                        }
                        slot.answer(Err(error));
                    }
                }
            }
            let formed = self.env.clock.now();
            let left = (!self.queue.borrow().is_empty()).then_some(formed);
            let since = self.oldest.replace(left);
            if !batches.is_empty() {
                self.queued.note(formed.since(since.unwrap_or(formed)));
                let sent = Sent { waiting, _admission: Some(admission), formed };
                return Some((LaneEntry::Batches { at, batches }, sent));
            }
        }
    }

    fn pop(&self) -> Option<(ProducePart, Slot)> {
        let (part, slot) = self.queue.borrow_mut().pop_front()?;
        self.queued_bytes.set(self.queued_bytes.get() - part.batch.bytes.len());
        Some((part, slot))
    }

    /// How many batches of the queue the next entry takes, and the room they were promised; at least one. A first batch
    /// that the disk has no room for is refused; when only journal or memory is behind, nothing is taken and producers
    /// wait.
    fn admitted(&self) -> Option<(usize, Admission)> {
        let (mut bytes, mut count, mut first) = (0, 0, 0);
        for (part, _) in self.queue.borrow().iter() {
            let len = part.batch.bytes.len();
            if count > 0 && bytes + len > self.entry_bytes_max {
                break;
            }
            bytes += len;
            count += 1;
            if count == 1 {
                first = bytes;
            }
            if bytes >= limits::ENTRY_BYTES_TARGET {
                break;
            }
        }
        while count > 0 {
            match self.engine.admit(bytes as u64) {
                Ok(admission) => return Some((count, admission)),
                Err(Refused::Journal { .. } | Refused::Memory { .. }) => {
                    self.blocked.set(true);
                    return None;
                }
                Err(_) if count > 1 => (bytes, count) = (first, 1),
                Err(full) => {
                    let (part, slot) = self.pop()?;
                    self.refused(part.place.id, Sequenced::of(&part.batch.header));
                    slot.answer(Err(ProduceError::NoSpace(full.to_string())));
                    first = self.queue.borrow().front().map_or(0, |(part, _)| part.batch.bytes.len());
                    (bytes, count) = (first, usize::from(first > 0));
                }
            }
        }
        None
    }

    /// Answers the duplicates whose first copy is applied by now; with nothing in flight any more, the others' first
    /// copy failed and their producers send again.
    fn settle_duplicates(&self, idle: bool) {
        let mut waiting = Vec::new();
        for duplicate in self.duplicates.take() {
            if duplicate.done.base_offset < duplicate.replica.high_watermark() {
                duplicate.slot.answer(Ok(duplicate.done));
            } else if idle {
                duplicate.slot.answer(Err(ProduceError::NotLeader));
            } else {
                waiting.push(duplicate);
            }
        }
        self.duplicates.borrow_mut().append(&mut waiting);
    }

    fn place(&self, part: ProducePart, term: Option<Term>, at: TimestampMs) -> Result<Placed, ProduceError> {
        let id = part.place.id;
        let term = term.ok_or(ProduceError::NotLeader)?;
        let replica = self.lane.replica(id).ok_or(ProduceError::UnknownPartition(id))?;
        let config = replica.config();
        let mut header = part.batch.header;
        let max = match part.origin {
            Origin::Client => config.max_message_bytes.min(limits::BATCH_BYTES_MAX),
            Origin::Internal => limits::BATCH_BYTES_MAX,
        };
        if header.len > max {
            return Err(ProduceError::TooLarge { size: header.len, max });
        }
        if let Some(verdict) = self.known(&replica, &header)? {
            return Ok(verdict);
        }
        let mut ahead = replica.ahead.borrow_mut();
        let round = self.round.get();
        if !ahead.counts(round) {
            ahead.forget();
            (ahead.round, ahead.batches, ahead.next) = (round, 0, replica.high_watermark());
        }
        let base_offset = ahead.next;
        let mut bytes = part.batch.bytes;
        let stamped = (config.timestamp_type == TimestampType::LogAppend).then(|| {
            stamp_log_append_time(&mut bytes, at);
            at
        });
        header.max_timestamp = stamped.unwrap_or(header.max_timestamp);
        let epoch = replica.leader_epoch(term);
        patch(&mut bytes, base_offset, epoch);
        header.base_offset = base_offset;
        if let Some(producer) = header.producer_id {
            let applied = replica.producers();
            let before = ahead.producers.get(&producer).or_else(|| applied.get(producer));
            let after = producers::noted(before, &header, base_offset, at);
            ahead.note(producer, after, replica.high_watermark());
        }
        ahead.next = header.next_offset();
        ahead.batches += 1;
        drop(ahead);
        Ok(Placed::Append(PlacedBatch { partition: id, base_offset, epoch, bytes: bytes.freeze() }, replica, stamped))
    }

    /// Is the batch there already, applied or in flight?
    fn known(&self, replica: &Rc<Replica>, header: &BatchHeader) -> Result<Option<Placed>, ProduceError> {
        let Some(producer) = header.producer_id else { return Ok(None) };
        let applied = replica.producers();
        let ahead = replica.ahead.borrow();
        let overlay = if ahead.counts(self.round.get()) { ahead.producers.get(&producer) } else { None };
        let entry = overlay.or_else(|| applied.get(producer));
        if let (None, Some(batch)) = (entry, Sequenced::of(header)) {
            let mut beginnings = self.beginnings.borrow_mut();
            beginnings.check(replica.id, &batch, self.env.clock.now())?;
            beginnings.taken(replica.id, producer);
        }
        let Verdict::Duplicate(known) = producers::check(entry, header)? else { return Ok(None) };
        let log_append_time = Some(known.timestamp);
        let done = ProduceDone { base_offset: known.base_offset, log_append_time, log_start: replica.log_start() };
        let applied = known.base_offset < replica.high_watermark();
        Ok(Some(if applied { Placed::Applied(done) } else { Placed::InFlight(Rc::clone(replica), done) }))
    }

    /// A batch was refused for now: unless its partition knows the producer, none after it may begin.
    fn refused(&self, id: PartitionId, batch: Option<Sequenced>) {
        let (Some(batch), Some(replica)) = (batch, self.lane.replica(id)) else { return };
        if replica.producers().get(batch.producer()).is_none() {
            self.beginnings.borrow_mut().note(id, batch, self.env.clock.now());
        }
    }

    /// Tells everyone what became of an entry; false when it failed and proposing must pause.
    fn settle(&self, outcome: Option<Outcome>, sent: Sent) -> bool {
        let mut fine = true;
        self.committed.note(self.env.clock.now().since(sent.formed));
        let answers = match outcome {
            Some(Outcome::Batches(answers)) => answers,
            _ => vec![Err(ProduceError::NotLeader); sent.waiting.len()],
        };
        for (Waiting { replica, slot, sequenced, stamped }, answer) in sent.waiting.into_iter().zip(answers) {
            fine &= answer.is_ok();
            self.landed(&replica);
            if answer.is_err() {
                self.refused(replica.id, sequenced);
            }
            slot.answer(answer.map(|done| ProduceDone { log_append_time: stamped, ..done }));
        }
        fine
    }

    fn landed(&self, replica: &Replica) {
        let mut ahead = replica.ahead.borrow_mut();
        if ahead.counts(self.round.get()) {
            ahead.batches -= 1;
            if ahead.batches == 0 {
                ahead.forget();
            }
        }
    }
}

enum Placed {
    Append(PlacedBatch, Rc<Replica>, Option<TimestampMs>),
    Applied(ProduceDone),
    InFlight(Rc<Replica>, ProduceDone),
}

#[cfg(test)]
mod tests;
