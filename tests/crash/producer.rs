//! An idempotent producer that outlives its broker: what a kill leaves open is sent again with the same sequence
//! numbers, as the Java client does. Sometimes it gives up instead and starts with a new producer id, like a client
//! that was killed too.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId, TimestampMs};

use super::ledger::{Id, Ledger, value_of};
use super::support::dice::Dice;
use super::support::wire::{PRODUCE_VERSION, Wire, produce_request, produced};
use super::{PARTITIONS, TOPIC};

const IN_FLIGHT_MAX: usize = 5;
/// A broker without any answer for longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// Codes after which the batch is sent again: unknown topic or partition and leader while it starts, timeouts, no room
/// in a queue.
const RETRIABLE: &[i16] = &[3, 5, 6, 7, 19, 20, 100];
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

struct Flying {
    partition: i32,
    batch: Bytes,
    ids: Vec<Id>,
}

pub struct Producer {
    name: u64,
    addr: String,
    dice: Dice,
    identity: Option<(ProducerId, ProducerEpoch)>,
    sequences: HashMap<i32, i32>,
    next: u64,
    flying: VecDeque<Flying>,
    ledger: Ledger,
}

impl Producer {
    pub fn new(name: u64, addr: String, seed: u64) -> Self {
        Self {
            name,
            addr,
            dice: Dice::new(seed ^ (name + 1) << 40),
            identity: None,
            sequences: HashMap::new(),
            next: 0,
            flying: VecDeque::new(),
            ledger: Ledger::default(),
        }
    }

    /// Produces until stopped, then until nothing is in flight.
    pub fn run(mut self, stop: &AtomicBool) -> Ledger {
        let mut heard = Instant::now();
        while !stop.load(Ordering::Relaxed) || !self.flying.is_empty() {
            let before = self.ledger.acknowledged();
            // After a kill, unanswered batches are sent again.
            let _ = self.connection(stop);
            if self.ledger.acknowledged() > before {
                heard = Instant::now();
                if self.dice.below(6) == 0 && !stop.load(Ordering::Relaxed) {
                    self.give_up();
                }
            }
            assert!(heard.elapsed() < PATIENCE, "producer {} hears nothing for {PATIENCE:?}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        self.ledger
    }

    /// Uses one connection: sends unanswered batches again, then new ones.
    fn connection(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut wire = Wire::connect(&self.addr)?;
        if self.identity.is_none() {
            self.identity = Some(wire.producer()?);
        }
        for flying in &self.flying {
            send(&mut wire, flying)?;
        }
        loop {
            while self.flying.len() < IN_FLIGHT_MAX && !stop.load(Ordering::Relaxed) {
                let flying = self.make();
                let sent = send(&mut wire, &flying);
                self.flying.push_back(flying);
                sent?;
            }
            let Some(oldest) = self.flying.front() else { return Ok(()) };
            match produced(&wire.receive::<ProduceRequest>(PRODUCE_VERSION)?)? {
                Ok(base) => {
                    for (offset, id) in (base..).zip(&oldest.ids) {
                        self.ledger.acknowledge(*id, oldest.partition, Some(offset));
                    }
                }
                Err((DUPLICATE_SEQUENCE_NUMBER, _)) => {
                    oldest.ids.iter().for_each(|id| self.ledger.acknowledge(*id, oldest.partition, None));
                }
                // Batches behind it were refused too: all are sent again, in order, over a new connection.
                Err((code, _)) if RETRIABLE.contains(&code) => return Ok(()),
                Err((code, message)) => panic!("producer {}: the oldest batch is refused: {code} {message}", self.name),
            }
            self.flying.pop_front();
            std::thread::sleep(Duration::from_millis(self.dice.below(12)));
        }
    }

    fn make(&mut self) -> Flying {
        let (id, epoch) = self.identity.expect("asked for before");
        let partition = self.dice.below(PARTITIONS as u64) as i32;
        let count = 1 + self.dice.below(20);
        let ids: Vec<Id> = (self.next..self.next + count).map(|n| (self.name, n)).collect();
        self.next += count;
        let sequence = self.sequences.entry(partition).or_insert(0);
        let compression = [Compression::None, Compression::Lz4][self.dice.below(2) as usize];
        let mut builder = BatchBuilder::new(compression).producer(id, epoch, *sequence);
        *sequence += count as i32;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
        for id in &ids {
            let key = Bytes::from(format!("producer-{}", self.name));
            builder.push(Record::new(TimestampMs(now), Some(key), Some(Bytes::from(value_of(*id)))));
        }
        Flying { partition, batch: builder.build(), ids }
    }

    /// Forgets the batches in flight and the producer id.
    fn give_up(&mut self) {
        for flying in self.flying.drain(..) {
            flying.ids.iter().for_each(|id| self.ledger.leave_open(*id, flying.partition));
        }
        self.identity = None;
        self.sequences.clear();
    }
}

fn send(wire: &mut Wire, flying: &Flying) -> io::Result<()> {
    wire.send(&produce_request(TOPIC, flying.partition, flying.batch.clone()), PRODUCE_VERSION)
}
