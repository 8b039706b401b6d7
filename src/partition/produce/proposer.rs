//! The proposer of a lane: batches queued for many partitions become one entry.
//!
//! Owns: the queue of batches, the offsets they get, the idempotence check against applied *and* in-flight batches, and
//! the entries in flight. An entry is formed at once when the lane is idle, and otherwise from all batches that came
//! while the entry before was written, up to `ENTRY_BYTES_TARGET`. After a proposal fails, or when the term changes,
//! nothing is proposed until all entries in flight are settled; then a new round starts from applied state. While this
//! broker does not lead, nothing is queued; when no quorum answers it, what is queued and in flight is answered, so
//! that clients look for another leader. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Fuse, FusedFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use tidewater_storage::budget::Admission;
use tidewater_storage::engine::{Engine, Refused};
use tidewater_storage::env::{Env, Mono, Notify};
use tidewater_storage::metrics::{Histogram, HistogramCounts};
use tidewater_storage::model::batch::{patch, stamp_log_append_time};
use tidewater_storage::model::{BatchHeader, Offset, PartitionId, Term, TimestampMs, TimestampType};

use super::gather::AnswerSlot;
use super::producers::{self, Verdict};
use super::refusals::{Refusals, Sequenced};
use crate::limits;
use crate::partition::message::{Origin, ProduceDone, ProduceError, ProducePart};
use crate::partition::state::apply::Outcome;
use crate::partition::state::command::{LaneOp, PlacedBatch};
use crate::partition::state::lane::DataLane;
use crate::partition::state::replica::Replica;
use crate::raft::ProposeError;

/// The proposer's wait while journal or memory is full and nothing is in flight.
const BLOCKED_PAUSE: Duration = Duration::from_millis(2);
/// Producers of a leader that no quorum answers get an answer after this long. What is in flight may yet be committed.
const CUT_OFF_PATIENCE: Duration = Duration::from_secs(1);
/// How old the count of replicas that answer may be, for `min.insync.replicas`.
const REPLICAS_LOOK: Duration = Duration::from_millis(250);
/// Between two looks whether a quorum answers, while entries are in flight.
const CUT_OFF_LOOK: Duration = Duration::from_millis(250);

/// One batch of an entry in flight.
struct SentBatch {
    replica: Rc<Replica>,
    base_offset: Offset,
    /// `None` once its producer was answered because no quorum did.
    slot: Option<AnswerSlot>,
    sequenced: Option<Sequenced>,
    /// Set when the topic stamps append time.
    stamped: Option<TimestampMs>,
}

/// An entry in flight.
struct SentEntry {
    batches: RefCell<Vec<SentBatch>>,
    /// Room promised on disk until the entry is in the journal.
    _admission: Admission,
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

/// The proposer of one lane.
pub struct Proposer {
    env: Env,
    lane: Rc<DataLane>,
    engine: Engine,
    queue: RefCell<VecDeque<(ProducePart, AnswerSlot)>>,
    queued_bytes: Cell<usize>,
    in_flight: Cell<usize>,
    /// The entries in flight, in order.
    sent: RefCell<VecDeque<Rc<SentEntry>>>,
    /// Voters and how many of them answer, as of the last look.
    replicas_seen: Cell<Option<(Mono, usize, usize)>>,
    /// Since when no quorum has answered, as of the last look.
    cut_off: Cell<Option<Mono>>,
    /// Most bytes of several batches in one entry: the journal's limit less an eighth for the entry's other bytes.
    entry_bytes_max: usize,
    /// The term in which the entries in flight were formed.
    term: Cell<Option<Term>>,
    /// See [`InFlight`](super::in_flight::InFlight).
    round: Cell<u64>,
    /// Batches that came again while their first copy is in flight, by that copy: answered with its outcome.
    duplicates: RefCell<BTreeMap<(PartitionId, Offset), Vec<(AnswerSlot, ProduceDone)>>>,
    /// Batches that were refused for now and are expected again.
    refusals: RefCell<Refusals>,
    blocked: Cell<bool>,
    /// Batches were queued, or leadership changed.
    work: Rc<Notify>,
    /// When the oldest queued batch came.
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
        let work = Rc::new(Notify::default());
        lane.on_leadership(Rc::clone(&work));
        Self {
            env,
            lane,
            engine,
            entry_bytes_max,
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            in_flight: Cell::new(0),
            sent: RefCell::default(),
            replicas_seen: Cell::new(None),
            cut_off: Cell::new(None),
            term: Cell::new(None),
            round: Cell::new(0),
            duplicates: RefCell::default(),
            refusals: RefCell::default(),
            blocked: Cell::new(false),
            work,
            oldest: Cell::new(None),
            queued: Histogram::default(),
            committed: Histogram::default(),
        }
    }

    pub fn push(&self, part: ProducePart, slot: AnswerSlot) {
        let bytes = part.batch.bytes.len();
        if self.lane.status.leading().is_none() {
            return self.refuse(part, slot);
        }
        if self.queued_bytes.get() + bytes > limits::LANE_QUEUE_BYTES_MAX && !self.queue.borrow().is_empty() {
            self.refused(part.address.id, Sequenced::of(&part.batch.header));
            slot.answer(Err(ProduceError::Busy));
            return;
        }
        self.queued_bytes.set(self.queued_bytes.get() + bytes);
        if self.oldest.get().is_none() {
            self.oldest.set(Some(self.env.clock.now()));
        }
        self.queue.borrow_mut().push_back((part, slot));
        if self.may_form() {
            self.work.notify();
        }
    }

    /// Answers that another broker leads.
    fn refuse(&self, part: ProducePart, slot: AnswerSlot) {
        let id = part.address.id;
        self.refused(id, Sequenced::of(&part.batch.header));
        slot.answer(Err(ProduceError::NotLeader(self.lane.leader_hint(id))));
    }

    fn refuse_queued(&self) {
        while let Some((part, slot)) = self.pop() {
            self.refuse(part, slot);
        }
        self.oldest.set(None);
    }

    /// Has no quorum answered this leader for a while? Then answers everything that waits: a producer that gets no
    /// answer does not look for another leader. Batches in flight are answered again, with their outcome, if they are
    /// sent again.
    fn look_for_quorum(&self) {
        let now = self.env.clock.now();
        if self.lane.status.leading().is_none() || self.lane.serving().is_some() {
            return self.cut_off.set(None);
        }
        let since = self.cut_off.get().unwrap_or(now);
        self.cut_off.set(Some(since));
        if now.since(since) < CUT_OFF_PATIENCE {
            return;
        }
        self.refuse_queued();
        for entry in self.sent.borrow().iter() {
            for batch in entry.batches.borrow_mut().iter_mut() {
                let again = self.duplicates.borrow_mut().remove(&(batch.replica.id, batch.base_offset));
                let slots = again.into_iter().flatten().map(|(slot, _)| slot).chain(batch.slot.take());
                slots.for_each(|slot| slot.answer(Err(ProduceError::Unconfirmed)));
            }
        }
    }

    /// Bytes of queued batches.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    #[must_use]
    pub fn timings(&self) -> ProposerTimings {
        ProposerTimings { queued: self.queued.counts(), committed: self.committed.counts() }
    }

    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.borrow().len()
    }

    /// Proposes what is queued, for ever.
    pub async fn run(self: Rc<Self>) {
        let mut in_flight = FuturesUnordered::new();
        let mut broken = false;
        let mut look = Fuse::terminated();
        loop {
            if self.lane.status.leading().is_none() {
                self.refuse_queued();
            }
            if in_flight.is_empty() {
                assert!(self.duplicates.borrow().is_empty(), "duplicates wait for a batch that is not in flight");
                if broken {
                    self.round.set(self.round.get() + 1);
                    broken = false;
                }
                self.term.set(self.lane.status.leading());
            }
            // Offsets of another term's entries in flight may go to another leader's batches.
            broken |= self.term.get() != self.lane.status.leading();
            self.in_flight.set(in_flight.len());
            while !broken && self.may_form() {
                if !self.lane.status.has_room() {
                    // Other proposals fill the lane: an entry formed now could not be sent.
                    self.blocked.set(!self.queue.borrow().is_empty());
                    break;
                }
                let Some((entry, sent)) = self.form() else { break };
                let proposed = self.lane.propose(entry);
                let sent = Rc::new(sent);
                self.sent.borrow_mut().push_back(Rc::clone(&sent));
                in_flight.push(async move { (proposed.await, sent) });
                self.in_flight.set(in_flight.len());
            }
            if in_flight.is_empty() {
                if self.blocked.replace(false) {
                    self.env.tasks.sleep(BLOCKED_PAUSE).await;
                } else {
                    self.work.notified().await;
                }
                continue;
            }
            if look.is_terminated() && self.lane.has_several_voters() {
                look = Box::pin(self.env.tasks.sleep(CUT_OFF_LOOK)).fuse();
            }
            futures::select_biased! {
                settled = in_flight.next() => if let Some((result, sent)) = settled {
                    broken |= !self.settle(result.map(|(_, outcome)| outcome), &sent);
                },
                () = self.work.notified().fuse() => {}
                () = look => self.look_for_quorum(),
            }
        }
    }

    /// With nothing in flight, queued batches are proposed at once. While an entry is written, batches are gathered up
    /// to `ENTRY_BYTES_AHEAD` first: every entry has a cost of its own in the group and the journal, and a small one
    /// would only wait there for the same write.
    fn may_form(&self) -> bool {
        let in_flight = self.in_flight.get();
        in_flight == 0
            || in_flight < limits::ENTRIES_IN_FLIGHT_MAX && self.queued_bytes.get() >= limits::ENTRY_BYTES_AHEAD
    }

    /// The next entry from the queue; `None` when nothing in it can be proposed now.
    fn form(&self) -> Option<(LaneOp, SentEntry)> {
        let term = self.term.get();
        let at = self.env.clock.wall();
        loop {
            let Some((mut room, admission)) = self.admitted() else {
                if self.queue.borrow().is_empty() {
                    self.oldest.set(None);
                }
                return None;
            };
            let (mut batches, mut sent) = (Vec::with_capacity(room), Vec::with_capacity(room));
            // A batch that cannot be placed is answered at once.
            while let Some((part, slot)) = (room > 0).then(|| self.pop()).flatten() {
                room -= 1;
                let (id, sequenced) = (part.address.id, Sequenced::of(&part.batch.header));
                match self.place(part, term, at) {
                    Ok(Placing::Append(batch, replica, stamped)) => {
                        let base_offset = batch.base_offset;
                        sent.push(SentBatch { replica, base_offset, slot: Some(slot), sequenced, stamped });
                        batches.push(batch);
                    }
                    Ok(Placing::Applied(done)) => slot.answer(Ok(done)),
                    Ok(Placing::InFlight(done)) => {
                        let mut duplicates = self.duplicates.borrow_mut();
                        duplicates.entry((id, done.base_offset)).or_default().push((slot, done));
                    }
                    Err(error) => {
                        if error.is_for_now() {
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
                let sent = SentEntry { batches: RefCell::new(sent), _admission: admission, formed };
                let producers_after_ms = self.lane.producers_after_ms.get();
                return Some((LaneOp::Batches { at, producers_after_ms, batches }, sent));
            }
        }
    }

    fn pop(&self) -> Option<(ProducePart, AnswerSlot)> {
        let (part, slot) = self.queue.borrow_mut().pop_front()?;
        self.queued_bytes.set(self.queued_bytes.get() - part.batch.bytes.len());
        Some((part, slot))
    }

    /// How many batches of the queue the next entry takes, at least one, and the room promised to them. If the disk has
    /// no room for the first batch, it is refused; if only journal or memory is full, nothing is taken and producers
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
                    self.refused(part.address.id, Sequenced::of(&part.batch.header));
                    slot.answer(Err(ProduceError::NoSpace(full.to_string())));
                    first = self.queue.borrow().front().map_or(0, |(part, _)| part.batch.bytes.len());
                    (bytes, count) = (first, usize::from(first > 0));
                }
            }
        }
        None
    }

    fn place(&self, part: ProducePart, term: Option<Term>, at: TimestampMs) -> Result<Placing, ProduceError> {
        let id = part.address.id;
        let term = term.ok_or_else(|| ProduceError::NotLeader(self.lane.leader_hint(id)))?;
        let replica = self.lane.replica(id).ok_or(ProduceError::UnknownPartition(id))?;
        let config = replica.config();
        let mut header = part.batch.header;
        let max = match part.origin {
            Origin::Client { .. } => config.max_message_bytes.min(limits::BATCH_BYTES_MAX),
            Origin::Coordinator(formed_in) if formed_in != term => {
                return Err(ProduceError::NotLeader(self.lane.leader_hint(id)));
            }
            Origin::Coordinator(_) | Origin::Copy => limits::BATCH_BYTES_MAX,
        };
        let is_copy = part.origin == Origin::Copy;
        match replica.copying_until() {
            Some(until) if !is_copy => return Err(ProduceError::Copying { until }),
            None if is_copy => return Err(ProduceError::Invalid("the copy of the partition is complete")),
            _ => {}
        }
        if header.len > max {
            return Err(ProduceError::TooLarge { size: header.len, max });
        }
        if let Some(placing) = self.known(&replica, &header).map_err(|error| self.unless_replaced(id, error))? {
            return Ok(placing);
        }
        if part.origin == (Origin::Client { acks_all: true }) && config.min_insync > 1 {
            self.check_replicas(config.min_insync)?;
        }
        let round = self.round.get();
        let mut in_flight = replica.in_flight.borrow_mut();
        let base_offset = in_flight.end(round, replica.high_watermark());
        let mut epoch = replica.leader_epoch(term);
        if is_copy {
            if header.base_offset != base_offset || header.leader_epoch > epoch {
                return Err(ProduceError::Invalid("a batch of a copy does not continue the partition"));
            }
            epoch = header.leader_epoch;
        }
        debug_assert!(base_offset >= replica.log_start(), "{id}: a batch at {base_offset} below the log start");
        debug_assert!(
            replica.epochs().last().is_none_or(|(last, _)| *last <= epoch),
            "{id}: epoch {epoch:?} goes back"
        );
        let mut bytes = part.batch.bytes;
        let stamped = (config.timestamp_type == TimestampType::LogAppend && !is_copy).then(|| {
            stamp_log_append_time(&mut bytes, at);
            at
        });
        header.max_timestamp = stamped.unwrap_or(header.max_timestamp);
        patch(&mut bytes, base_offset, epoch);
        header.base_offset = base_offset;
        let noted = header.producer_id.map(|producer| {
            let applied = replica.producers();
            let before = in_flight.producer(round, producer).or_else(|| applied.get(producer));
            (producer, producers::noted(before, &header, base_offset, at))
        });
        in_flight.add(round, base_offset, header.next_offset(), noted, replica.high_watermark());
        drop(in_flight);
        Ok(Placing::Append(PlacedBatch { partition: id, base_offset, epoch, bytes: bytes.freeze() }, replica, stamped))
    }

    /// Does `min.insync.replicas` allow a write? A majority stores it in any case; only a greater number can refuse it.
    fn check_replicas(&self, wanted: usize) -> Result<(), ProduceError> {
        let now = self.env.clock.now();
        let mut seen = self.replicas_seen.get();
        if seen.is_none_or(|(at, ..)| now.since(at) > REPLICAS_LOOK) {
            let (voters, live) = self.lane.live_voters();
            seen = Some((now, voters, live));
            self.replicas_seen.set(seen);
        }
        let Some((_, voters, live)) = seen else { return Ok(()) };
        if voters <= 1 || wanted <= voters / 2 + 1 || live >= wanted {
            return Ok(());
        }
        Err(ProduceError::NotEnoughReplicas { live, wanted })
    }

    /// Is the batch there already, applied or in flight?
    fn known(&self, replica: &Replica, header: &BatchHeader) -> Result<Option<Placing>, ProduceError> {
        let Some(producer) = header.producer_id else { return Ok(None) };
        let (applied, in_flight, round) = (replica.producers(), replica.in_flight.borrow(), self.round.get());
        let entry = in_flight.producer(round, producer).or_else(|| applied.get(producer));
        let verdict = match (producers::check(entry, header), Sequenced::of(header)) {
            (Ok(Verdict::Append), Some(batch)) => {
                let mut refusals = self.refusals.borrow_mut();
                if entry.is_none() {
                    refusals.check_first(replica.id, &batch, self.env.clock.now())?;
                }
                refusals.taken(replica.id, &batch);
                Verdict::Append
            }
            (Err(error @ ProduceError::OutOfOrder { expected, .. }), Some(batch)) => {
                let refusals = self.refusals.borrow();
                let explained = refusals.explain_gap(replica.id, &batch, expected, self.env.clock.now());
                return Err(explained.unwrap_or(error));
            }
            (verdict, _) => verdict?,
        };
        let Verdict::Duplicate(known) = verdict else { return Ok(None) };
        let (base_offset, log_append_time) = (known.base_offset, Some(known.timestamp));
        let done = ProduceDone { base_offset, log_append_time, log_start: replica.log_start() };
        // All that landed in this round is applied: a failure ends the round.
        let in_flight = in_flight.holds(round, base_offset);
        Ok(Some(if in_flight { Placing::InFlight(done) } else { Placing::Applied(done) }))
    }

    /// A leader without a lease may have a successor and lack what that one has stored: that a sequence leaves a gap
    /// here proves nothing, and a producer with that answer begins a new epoch.
    fn unless_replaced(&self, id: PartitionId, error: ProduceError) -> ProduceError {
        match error {
            ProduceError::OutOfOrder { .. } if self.lane.serving().is_none() => {
                ProduceError::NotLeader(self.lane.leader_hint(id))
            }
            error => error,
        }
    }

    /// A batch was refused for now: no later one of its producer is taken in its place, or called out of order.
    fn refused(&self, id: PartitionId, batch: Option<Sequenced>) {
        if let Some(batch) = batch {
            self.refusals.borrow_mut().note(id, batch, self.env.clock.now());
        }
    }

    /// Answers the batches of an entry; false when it failed and proposing must pause.
    fn settle(&self, outcome: Result<Outcome, ProposeError>, sent: &Rc<SentEntry>) -> bool {
        let mut fine = true;
        self.committed.note(self.env.clock.now().since(sent.formed));
        self.sent.borrow_mut().retain(|held| !Rc::ptr_eq(held, sent));
        let batches = sent.batches.take();
        let answers = match outcome {
            Ok(Outcome::Batches(answers)) => answers,
            Err(error) if !error.disposition().outcome_is_known() => {
                vec![Err(ProduceError::Unconfirmed); batches.len()]
            }
            Ok(Outcome::Refused(_)) | Err(_) => {
                let hint = batches.first().and_then(|batch| self.lane.leader_hint(batch.replica.id));
                vec![Err(ProduceError::NotLeader(hint)); batches.len()]
            }
            Ok(other) => unreachable!("an entry of batches was applied as {other:?}"),
        };
        assert_eq!(answers.len(), batches.len(), "{}: an entry's batches and its answers differ", self.lane.id);
        for (SentBatch { replica, base_offset, slot, sequenced, stamped }, answer) in batches.into_iter().zip(answers) {
            let stored_at = answer.as_ref().map_or(base_offset, |done| done.base_offset);
            assert_eq!(stored_at, base_offset, "{}: a batch is not stored where it was placed", replica.id);
            fine &= answer.is_ok();
            replica.in_flight.borrow_mut().landed(self.round.get(), base_offset);
            if answer.is_err() {
                self.refused(replica.id, sequenced);
            }
            for (slot, done) in self.duplicates.borrow_mut().remove(&(replica.id, base_offset)).into_iter().flatten() {
                slot.answer(answer.clone().map(|_| done));
            }
            if let Some(slot) = slot {
                slot.answer(answer.map(|done| ProduceDone { log_append_time: stamped, ..done }));
            }
        }
        fine
    }
}

/// What becomes of a batch.
enum Placing {
    Append(PlacedBatch, Rc<Replica>, Option<TimestampMs>),
    /// It came before and is applied.
    Applied(ProduceDone),
    /// It came before and is in flight at this offset.
    InFlight(ProduceDone),
}

#[cfg(test)]
mod tests;
