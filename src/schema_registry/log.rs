//! The partition of `_schemas`: read from its start to its end, and written by this broker alone.

use std::time::Duration;

use bytes::{Buf, Bytes};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::record::{BatchBuilder, Record as LogRecord, read_all};
use tidewater_storage::model::{BatchHeader, Compression, Offset, OffsetRange, Term};
use tokio::time::{Instant, sleep};

use crate::partition::message::{
    CheckedBatch, Isolation, Origin, PartitionAddress, PartitionRequest, ProduceError, ProducePart, ReadDone,
    ReadError, ReadPart,
};
use crate::schema::record::{Record, RecordError};
use crate::schema::{SchemaError, State};
use crate::shard::mesh::Mesh;

/// Bytes asked for at a time.
const READ_BYTES: usize = 1 << 20;
/// What a batch may unpack to: other writers' batches may be compressed.
const UNPACKED_MAX: usize = 64 << 20;
/// How long a leader may take until it serves in its term.
const SERVE_PATIENCE: Duration = Duration::from_secs(10);
const SERVE_PAUSE: Duration = Duration::from_millis(20);

/// The state that the log holds, and the log's end.
///
/// # Errors
/// The log cannot be read.
pub(super) async fn read(
    partitions: &Mesh<PartitionRequest>,
    address: PartitionAddress,
) -> Result<(State, Offset), SchemaError> {
    let mut loading = Loading { state: State::default(), end: Offset::ZERO, unknown: 0 };
    loop {
        let done = read_some(partitions, address, loading.end).await?;
        loading.end = loading.end.max(done.log_start);
        let before = loading.end;
        for batches in &done.batches {
            loading.take(batches.clone())?;
        }
        if loading.end >= done.high_watermark {
            if loading.unknown > 0 {
                tracing::warn!(records = loading.unknown, "_schemas holds records that this version does not know");
            }
            return Ok((loading.state, loading.end));
        }
        if loading.end == before {
            let why = format!("nothing can be read at offset {before} of _schemas, before its end");
            return Err(SchemaError::Store(why));
        }
    }
}

/// Asks again while the leader does not serve yet.
async fn read_some(
    partitions: &Mesh<PartitionRequest>,
    address: PartitionAddress,
    from: Offset,
) -> Result<ReadDone, SchemaError> {
    let begun = Instant::now();
    let mut from = from;
    loop {
        let part =
            ReadPart { address, from, max_bytes: READ_BYTES, isolation: Isolation::ReadUncommitted, epoch: None };
        let ask = |reply| PartitionRequest::Read { parts: vec![part], max_bytes: READ_BYTES, reply };
        let answers = partitions.call(address.shard, ask).await;
        let answer = answers.map_err(|error| SchemaError::Store(error.to_string()))?.into_iter().next();
        match answer.unwrap_or(Err(ReadError::Unavailable)) {
            Ok(done) => return Ok(done),
            Err(ReadError::OutOfRange { valid, .. }) if from < valid.start => from = valid.start,
            Err(ReadError::NotLeader(_) | ReadError::UnknownPartition(_)) if begun.elapsed() < SERVE_PATIENCE => {
                sleep(SERVE_PAUSE).await;
            }
            Err(ReadError::NotLeader(_)) => return Err(SchemaError::NoLeader),
            Err(error) => return Err(SchemaError::Store(format!("_schemas cannot be read: {error}"))),
        }
    }
}

struct Loading {
    state: State,
    end: Offset,
    unknown: u64,
}

impl Loading {
    /// Takes batches back to back.
    fn take(&mut self, mut batches: Bytes) -> Result<(), SchemaError> {
        while !batches.is_empty() {
            let bad = |at: Offset, why: String| SchemaError::Store(format!("batch at offset {at} of _schemas: {why}"));
            let header = BatchHeader::parse(&batches).map_err(|error| bad(self.end, error.to_string()))?;
            if header.next_offset() > self.end && !header.is_control() {
                let records = read_all(&header, &batches, UNPACKED_MAX);
                let records = records.map_err(|error| bad(header.base_offset, error.to_string()))?;
                let fresh = records.into_iter().filter(|record| record.offset >= self.end).collect::<Vec<_>>();
                fresh.iter().for_each(|record| self.apply(record));
            }
            self.end = self.end.max(header.next_offset());
            batches.advance((header.len as usize).min(batches.len()));
        }
        Ok(())
    }

    fn apply(&mut self, record: &LogRecord) {
        let Some(key) = &record.key else { return };
        match Record::decode(key, record.value.as_deref()) {
            Ok(record) => self.state.apply(record),
            Err(RecordError::Kind(kind)) => {
                tracing::debug!(offset = %record.offset, kind, "a record of _schemas is of another version");
                self.unknown += 1;
            }
            Err(error) => {
                tracing::warn!(offset = %record.offset, %error, "a record of _schemas is left out: it is malformed");
                self.unknown += 1;
            }
        }
    }
}

/// Appends records in `term` of the partition's lane and in no other, all or none; resolves when they are committed.
///
/// # Errors
/// They were refused, or it is not known whether they are in the log.
pub(super) async fn write(
    partitions: &Mesh<PartitionRequest>,
    address: PartitionAddress,
    term: Term,
    records: &[Record],
) -> Result<OffsetRange, SchemaError> {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in records {
        let (key, value) = record.encode();
        builder.push(LogRecord::new(wall(), Some(key), value));
    }
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes).map_err(|error| SchemaError::Store(error.to_string()))?;
    let count = u64::from(header.record_count);
    assert_eq!(count, records.len() as u64, "a batch holds the records that were pushed");
    let bytes = bytes.try_into_mut().unwrap_or_else(|shared| shared.as_ref().into());
    let part = ProducePart { address, batch: CheckedBatch { header, bytes }, origin: Origin::Coordinator(term) };
    let asked = partitions.call(address.shard, |reply| PartitionRequest::Produce(vec![part], reply)).await;
    let answer = asked.map_err(|error| SchemaError::Store(error.to_string()))?.into_iter().next();
    match answer.unwrap_or(Err(ProduceError::Unconfirmed)) {
        Ok(done) => Ok(OffsetRange::new(done.base_offset, done.base_offset.plus(count))),
        Err(ProduceError::NotLeader(_) | ProduceError::UnknownPartition(_)) => Err(SchemaError::NoLeader),
        Err(ProduceError::TooLarge { size, max }) => {
            Err(SchemaError::TooLarge { found: size as usize, max: max as usize })
        }
        Err(error) => Err(SchemaError::Store(error.to_string())),
    }
}
