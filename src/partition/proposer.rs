//! The proposer of a lane: what waits on many partitions becomes one entry.
//!
//! Owns: the queue of batches, the offsets they get, the idempotence check against applied *and* in-flight batches, and
//! the entries in flight. Entries are formed at once when the lane is idle and otherwise from all that came meanwhile,
//! up to `ENTRY_BYTES_TARGET`. After a proposal fails nothing is proposed until all in flight are settled; then it goes
//! on from applied state. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
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

use super::command::{LaneEntry, PlacedBatch};
use super::event::Bell;
use super::lane::{DataLane, Outcome};
use super::message::{Origin, ProduceDone, ProduceError, ProducePart};
use super::producers::{self, ProducerEntry, Verdict};
use super::replica::Replica;
use crate::limits;
use crate::shard::mesh::Reply;

/// How long the proposer waits when journal or memory is behind and nothing is in flight.
const BLOCKED_PAUSE: Duration = Duration::from_millis(2);

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

/// A partition with batches in flight: where it will end, and its producers, once they are applied.
#[derive(Debug)]
struct Ahead {
    next: Offset,
    batches: usize,
    producers: HashMap<ProducerId, ProducerEntry>,
}

/// An entry in flight and who waits for it.
struct Sent {
    waiting: Vec<(PartitionId, Slot, Option<TimestampMs>)>,
    /// Room promised on disk until the entry is in the journal.
    admissions: Vec<Admission>,
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
    ahead: RefCell<BTreeMap<PartitionId, Ahead>>,
    duplicates: RefCell<Vec<Duplicate>>,
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
        Self {
            env,
            lane,
            engine,
            queue: RefCell::default(),
            queued_bytes: Cell::new(0),
            ahead: RefCell::default(),
            duplicates: RefCell::default(),
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
            slot.answer(Err(ProduceError::Busy));
            return;
        }
        self.queued_bytes.set(self.queued_bytes.get() + bytes);
        if self.oldest.get().is_none() {
            self.oldest.set(Some(self.env.clock.now()));
        }
        self.queue.borrow_mut().push_back((part, slot));
        self.bell.ring();
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
                self.ahead.borrow_mut().clear();
                broken = false;
            }
            while !broken && in_flight.len() < limits::ENTRIES_IN_FLIGHT_MAX {
                let Some((entry, sent)) = self.form() else { break };
                let proposed = self.lane.propose(entry);
                in_flight.push(async move { (proposed.await, sent) });
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

    /// The next entry from the queue; `None` when nothing in it can be proposed now.
    fn form(&self) -> Option<(LaneEntry, Sent)> {
        let term = self.lane.leading();
        let at = self.env.clock.wall();
        let mut bytes = 0;
        let mut batches = Vec::new();
        let mut sent = Sent { waiting: Vec::new(), admissions: Vec::new(), formed: Mono::ZERO };
        // A batch that cannot be placed is answered at once; the loop ends with the queue or a full entry.
        while bytes < limits::ENTRY_BYTES_TARGET {
            let Some((part, slot, admission)) = self.take_admitted() else { break };
            let len = part.batch.bytes.len();
            match self.place(part, term, at) {
                Ok(Placed::Append(batch, stamped)) => {
                    bytes += len;
                    sent.waiting.push((batch.partition, slot, stamped));
                    sent.admissions.push(admission);
                    batches.push(batch);
                }
                Ok(Placed::Applied(done)) => slot.answer(Ok(done)),
                Ok(Placed::InFlight(replica, done)) => {
                    self.duplicates.borrow_mut().push(Duplicate { replica, slot, done });
                }
                Err(error) => slot.answer(Err(error)),
            }
        }
        if batches.is_empty() {
            if self.queue.borrow().is_empty() {
                self.oldest.set(None);
            }
            return None;
        }
        sent.formed = self.env.clock.now();
        let left = (!self.queue.borrow().is_empty()).then_some(sent.formed);
        if let Some(since) = self.oldest.replace(left) {
            self.queued.note(sent.formed.since(since));
        }
        Some((LaneEntry::Batches { at, batches }, sent))
    }

    /// The oldest batch of the queue with room for it. One that the disk has no room for is refused; when only the
    /// journal or memory is behind, nothing is taken and producers wait.
    fn take_admitted(&self) -> Option<(ProducePart, Slot, Admission)> {
        loop {
            let len = self.queue.borrow().front().map(|(part, _)| part.batch.bytes.len())?;
            let admitted = self.engine.admit(len as u64);
            if let Err(Refused::Journal { .. } | Refused::Memory { .. }) = admitted {
                self.blocked.set(true);
                return None;
            }
            let (part, slot) = self.queue.borrow_mut().pop_front()?;
            self.queued_bytes.set(self.queued_bytes.get() - len);
            match admitted {
                Ok(admission) => return Some((part, slot, admission)),
                Err(full) => slot.answer(Err(ProduceError::NoSpace(full.to_string()))),
            }
        }
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
        let mut ahead = self.ahead.borrow_mut();
        let ahead = ahead.entry(id).or_insert_with(|| Ahead {
            next: replica.high_watermark(),
            batches: 0,
            producers: HashMap::new(),
        });
        let base_offset = ahead.next;
        let mut bytes = part.batch.bytes;
        let stamped = (config.timestamp_type == TimestampType::LogAppend).then(|| {
            stamp_log_append_time(&mut bytes, at);
            at
        });
        let epoch = replica.leader_epoch(term);
        patch(&mut bytes, base_offset, epoch);
        header.base_offset = base_offset;
        if let Some(producer) = header.producer_id {
            let applied = replica.producers();
            let before = ahead.producers.get(&producer).or_else(|| applied.get(producer));
            let after = producers::noted(before, &header, base_offset, at);
            ahead.producers.insert(producer, after);
        }
        ahead.next = header.next_offset();
        ahead.batches += 1;
        Ok(Placed::Append(PlacedBatch { partition: id, base_offset, epoch, bytes: bytes.freeze() }, stamped))
    }

    /// Is the batch there already, applied or in flight?
    fn known(&self, replica: &Rc<Replica>, header: &BatchHeader) -> Result<Option<Placed>, ProduceError> {
        let Some(producer) = header.producer_id else { return Ok(None) };
        let applied = replica.producers();
        let ahead = self.ahead.borrow();
        let entry = ahead.get(&replica.id).and_then(|a| a.producers.get(&producer)).or_else(|| applied.get(producer));
        let Verdict::Duplicate(base_offset) = producers::check(entry, header)? else { return Ok(None) };
        let done = ProduceDone { base_offset, log_append_time: None, log_start: replica.log_start() };
        let applied = base_offset < replica.high_watermark();
        Ok(Some(if applied { Placed::Applied(done) } else { Placed::InFlight(Rc::clone(replica), done) }))
    }

    /// Tells everyone what became of an entry; false when it failed and proposing must pause.
    fn settle(&self, outcome: Option<Outcome>, sent: Sent) -> bool {
        let mut fine = true;
        self.committed.note(self.env.clock.now().since(sent.formed));
        let answers = match outcome {
            Some(Outcome::Batches(answers)) => answers,
            _ => vec![Err(ProduceError::NotLeader); sent.waiting.len()],
        };
        for ((partition, slot, stamped), answer) in sent.waiting.into_iter().zip(answers) {
            fine &= answer.is_ok();
            self.landed(partition);
            slot.answer(answer.map(|done| ProduceDone { log_append_time: stamped, ..done }));
        }
        fine
    }

    fn landed(&self, partition: PartitionId) {
        let mut ahead = self.ahead.borrow_mut();
        if let Some(entry) = ahead.get_mut(&partition) {
            entry.batches -= 1;
            if entry.batches == 0 {
                ahead.remove(&partition);
            }
        }
    }
}

enum Placed {
    Append(PlacedBatch, Option<TimestampMs>),
    Applied(ProduceDone),
    InFlight(Rc<Replica>, ProduceDone),
}
