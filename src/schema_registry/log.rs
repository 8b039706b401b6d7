//! The partition of `_schemas` as bytes: reads, the records in them, and writes by its leader alone.

use std::time::Duration;

use bytes::{Buf, Bytes};
use tidewater_storage::env::clock::wall;
use tidewater_storage::model::record::{BatchBuilder, Record as LogRecord, read_all};
use tidewater_storage::model::{BatchHeader, Compression, Offset, OffsetRange, Term};

use crate::partition::message::{
    CheckedBatch, Isolation, Origin, PartitionAddress, PartitionRequest, ProduceError, ProducePart, ReadDone,
    ReadError, ReadPart,
};
use crate::partition::read::internal::{InternalRequest, Reach};
use crate::schema::SchemaError;
use crate::schema::record::{Record, RecordError};
use crate::shard::mesh::Mesh;

/// Bytes asked for at a time.
const READ_BYTES: usize = 1 << 20;
/// What a batch may unpack to: other writers' batches may be compressed.
const UNPACKED_MAX: usize = 64 << 20;
/// How long a leader may take until it serves in its term.
pub(super) const SERVE_PATIENCE: Duration = Duration::from_secs(10);
pub(super) const SERVE_PAUSE: Duration = Duration::from_millis(20);

/// What the leader has from an offset on, and the high watermark.
///
/// # Errors
/// This broker does not lead, or does not serve yet; or the log cannot be read.
pub(super) async fn read_leading(
    partitions: &Mesh<PartitionRequest>,
    address: PartitionAddress,
    from: Offset,
) -> Result<ReadDone, ReadError> {
    let part = ReadPart { address, from, max_bytes: READ_BYTES, isolation: Isolation::ReadUncommitted, epoch: None };
    let ask = |reply| PartitionRequest::Read { parts: vec![part], max_bytes: READ_BYTES, reply };
    let answers = partitions.call(address.shard, ask).await.map_err(|_| ReadError::Unavailable)?;
    answers.into_iter().next().unwrap_or(Err(ReadError::Unavailable))
}

/// What any replica has of a range: some batches from its start on, or none. They are committed.
///
/// # Errors
/// No replica that has any of it answers, or it is damaged.
pub(super) async fn read_anywhere(
    partitions: &Mesh<PartitionRequest>,
    address: PartitionAddress,
    from: Offset,
    end: Offset,
) -> Result<Vec<Bytes>, ReadError> {
    let offsets = OffsetRange::new(from, end);
    let ask = |reply| {
        let read = InternalRequest::Read { address, offsets, max_bytes: READ_BYTES, reach: Reach::Cluster, reply };
        PartitionRequest::Internal(read)
    };
    partitions.call(address.shard, ask).await.unwrap_or(Err(ReadError::Unavailable))
}

/// The records of some batches.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) records: Vec<(Offset, Record)>,
    /// Behind the last batch.
    pub(super) end: Offset,
}

/// Reads batches back to back; records below `from` are left out, and so are those that this version does not know.
///
/// # Errors
/// The bytes are no batches.
pub(super) fn records(batches: &Bytes, from: Offset) -> Result<Read, SchemaError> {
    let mut left = batches.clone();
    let mut read = Read { records: Vec::new(), end: from };
    while !left.is_empty() {
        let bad = |at: Offset, why: String| SchemaError::Store(format!("batch at offset {at} of _schemas: {why}"));
        let header = BatchHeader::parse(&left).map_err(|error| bad(read.end, error.to_string()))?;
        if header.next_offset() > read.end && !header.is_control() {
            let records = read_all(&header, &left, UNPACKED_MAX);
            let records = records.map_err(|error| bad(header.base_offset, error.to_string()))?;
            let fresh = records.iter().filter(|record| record.offset >= from);
            read.records.extend(fresh.filter_map(|record| Some((record.offset, decoded(record)?))));
        }
        read.end = read.end.max(header.next_offset());
        left.advance((header.len as usize).min(left.len()));
    }
    Ok(read)
}

fn decoded(record: &LogRecord) -> Option<Record> {
    match Record::decode(record.key.as_deref()?, record.value.as_deref()) {
        Ok(record) => Some(record),
        Err(RecordError::Kind(kind)) => {
            tracing::info!(offset = %record.offset, kind, "a record of _schemas is of a kind that this version does not know");
            None
        }
        Err(error) => {
            tracing::warn!(offset = %record.offset, %error, "a record of _schemas is left out: it is malformed");
            None
        }
    }
}

/// Why records were not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// Nothing was written: this broker does not lead in that term.
    NotLeader,
    /// Nothing was written.
    Refused(SchemaError),
    /// They may be in the log, or come into it later in the term.
    Unknown(SchemaError),
}

/// Appends records in `term` of the partition's lane and in no other, all or none; resolves when they are committed.
///
/// # Errors
/// [`WriteError`].
pub(super) async fn write(
    partitions: &Mesh<PartitionRequest>,
    address: PartitionAddress,
    term: Term,
    records: &[Record],
) -> Result<OffsetRange, WriteError> {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in records {
        let (key, value) = record.encode();
        builder.push(LogRecord::new(wall(), Some(key), value));
    }
    let bytes = builder.build();
    let header = BatchHeader::parse(&bytes).expect("a batch that was built here has a header");
    let count = u64::from(header.record_count);
    assert_eq!(count, records.len() as u64, "a batch holds the records that were pushed");
    let bytes = bytes.try_into_mut().unwrap_or_else(|shared| shared.as_ref().into());
    let part = ProducePart { address, batch: CheckedBatch { header, bytes }, origin: Origin::Coordinator(term) };
    let asked = partitions.call(address.shard, |reply| PartitionRequest::Produce(vec![part], reply)).await;
    let answer = asked.ok().and_then(|answers| answers.into_iter().next()).unwrap_or(Err(ProduceError::Unconfirmed));
    match answer {
        Ok(done) => Ok(OffsetRange::new(done.base_offset, done.base_offset.plus(count))),
        Err(ProduceError::NotLeader(_) | ProduceError::UnknownPartition(_)) => Err(WriteError::NotLeader),
        Err(ProduceError::TooLarge { size, max }) => {
            Err(WriteError::Refused(SchemaError::TooLarge { found: size as usize, max: max as usize }))
        }
        Err(error @ ProduceError::Unconfirmed) => Err(WriteError::Unknown(SchemaError::Store(error.to_string()))),
        Err(error) => Err(WriteError::Refused(SchemaError::Store(error.to_string()))),
    }
}
