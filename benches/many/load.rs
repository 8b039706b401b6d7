//! Fills a broker: batches encoded beforehand, sent without waiting for each answer.

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use tidewater_storage::model::record::{BatchBuilder, Record};
use tidewater_storage::model::{Compression, TimestampMs};

use crate::support::wire::{PRODUCE_VERSION, Wire, produce_request, produced};

/// Unanswered requests at most.
const AHEAD: u64 = 4;

/// A batch of one record with `bytes` bytes of noise and the current time.
pub fn batch(bytes: usize) -> Bytes {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
    let value: Vec<u8> = (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let mut builder = BatchBuilder::new(Compression::None);
    builder.push(Record::new(now, None, Some(value.into())));
    builder.build()
}

/// Sends a batch `times` times, to the partitions in turn; all must be acknowledged. Returns their bytes.
pub fn send(wire: &mut Wire, topic: &str, partitions: i32, batch: &Bytes, times: u64) -> u64 {
    for n in 0..times + AHEAD {
        if n < times {
            let partition = i32::try_from(n % u64::from(partitions.unsigned_abs())).expect("small");
            wire.send(&produce_request(topic, partition, batch.clone()), PRODUCE_VERSION).expect("sent");
        }
        if n >= AHEAD {
            let answer = wire.receive::<ProduceRequest>(PRODUCE_VERSION).expect("an answer");
            produced(&answer).expect("a partition").expect("acknowledged");
        }
    }
    times * batch.len() as u64
}
