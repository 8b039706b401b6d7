//! Batches for the tests of this crate.

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::model::record::{BatchBuilder, Record};
use crate::model::{
    Batch, Compression, Incarnation, LeaderEpoch, Offset, PartitionId, PartitionIndex, TimestampMs, TopicId, batch,
};

/// A partition with this number.
pub(crate) fn partition(n: i32) -> PartitionId {
    PartitionId { topic: TopicId(Uuid::from_u128(0xabc)), index: PartitionIndex(n), incarnation: Incarnation(1) }
}

/// A batch of `records` records at `base` with about `bytes` bytes of value in all, timestamps from `at` on.
pub(crate) fn batch(base: Offset, records: u64, bytes: usize, at: i64) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    for n in 0..records {
        let each = bytes / records as usize;
        let value: Vec<u8> = (0..each).map(|i| (i as u64 * 7 + base.get() * 31 + n) as u8).collect();
        builder.push(Record::new(TimestampMs(at + n as i64), None, Some(Bytes::from(value))));
    }
    let mut bytes = BytesMut::from(&builder.build()[..]);
    batch::patch(&mut bytes, base, LeaderEpoch(1));
    Batch::split_from(&mut bytes.freeze()).expect("a built batch parses")
}
