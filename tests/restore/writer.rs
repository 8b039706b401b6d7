//! An idempotent producer that writes down what was acknowledged, one record a batch, round the partitions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, ProducerEpoch, ProducerId, TimestampMs};

use super::support::wire::Wire;

/// An acknowledged record.
#[derive(Clone)]
pub struct Told {
    pub partition: i32,
    pub offset: u64,
    pub value: String,
    /// Its batch, to be sent again.
    pub batch: Bytes,
}

pub struct Writer {
    topic: &'static str,
    partitions: i32,
    identity: (ProducerId, ProducerEpoch),
    sequences: Vec<i32>,
    next: u64,
    pub told: Vec<Told>,
}

impl Writer {
    pub fn new(addr: &str, topic: &'static str, partitions: i32) -> Self {
        let identity = Wire::connect(addr).expect("connects").producer().expect("a producer id");
        Self { topic, partitions, identity, sequences: vec![0; partitions as usize], next: 0, told: Vec::new() }
    }

    /// The producer id that the cluster gave it.
    pub fn id(&self) -> i64 {
        self.identity.0.0
    }

    /// Writes so many records.
    pub fn write(&mut self, addr: &str, count: usize) {
        let mut wire = Wire::connect(addr).expect("connects");
        (0..count).for_each(|_| assert!(self.one(&mut wire), "the record is acknowledged"));
    }

    /// Writes until stopped, or until the broker is gone.
    pub fn run(mut self, addr: &str, stop: &AtomicBool) -> Self {
        let mut wire = Wire::connect(addr).expect("connects");
        while !stop.load(Ordering::Relaxed) && self.one(&mut wire) {}
        self
    }

    fn one(&mut self, wire: &mut Wire) -> bool {
        let partition = (self.next % self.partitions as u64) as i32;
        let value = format!("{}-{}", self.identity.0.0, self.next);
        let sequence = &mut self.sequences[partition as usize];
        let mut builder = BatchBuilder::new(Compression::None).producer(self.identity.0, self.identity.1, *sequence);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
        builder.push(Record::new(TimestampMs(now), None, Some(Bytes::from(value.clone()))));
        let batch = builder.build();
        let Ok(answer) = wire.produce(self.topic, partition, batch.clone()) else { return false };
        let offset = answer.unwrap_or_else(|(code, why)| panic!("the record is refused: {code} {why}"));
        *sequence += 1;
        self.next += 1;
        self.told.push(Told { partition, offset, value, batch });
        true
    }
}
