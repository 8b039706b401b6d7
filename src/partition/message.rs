//! Requests to a partition's shard and its answers. All are *messages*: owned, `Send`.

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tidewater_storage::model::{
    BatchHeader, LaneId, LeaderEpoch, NodeId, Offset, OffsetRange, PartitionId, ProducerEpoch, ProducerId, ShardId,
    Term, TimestampMs,
};

use super::read::internal::InternalRequest;
use super::read::watch::{Alarm, Watched};
use super::superseded::SupersededBy;
use crate::shard::mesh::Reply;

/// A partition's address: identity, lane, and the shard that runs the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionAddress {
    pub id: PartitionId,
    pub lane: LaneId,
    /// The shard that runs the lane.
    pub shard: ShardId,
}

/// The leader of a partition as far as the shard that answers knows: clients go there at once (KIP-951).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    pub node: NodeId,
    /// The epoch in which it leads.
    pub epoch: LeaderEpoch,
}

/// One batch whose header was parsed from exactly these bytes and whose CRC was verified.
#[derive(Debug)]
pub struct CheckedBatch {
    pub header: BatchHeader,
    /// The batch, still mutable: base offset and leader epoch are patched in place.
    pub bytes: BytesMut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A Kafka client; the topic's limits apply, with acks=all also its `min.insync.replicas`.
    Client { acks_all: bool },
    /// A copy of another topic's records, which keeps their offsets and leader epochs.
    Copy,
    /// The broker's group coordinator, whose state is of this term of the lane: stored in no other.
    Coordinator(Term),
}

/// One partition's share of a produce request.
#[derive(Debug)]
pub struct ProducePart {
    pub address: PartitionAddress,
    pub batch: CheckedBatch,
    pub origin: Origin,
}

/// A batch is durable and committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProduceDone {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Set when the topic stamps append time; of a batch that was there already always its greatest timestamp, as by
    /// Kafka.
    pub log_append_time: Option<TimestampMs>,
    /// The partition's log start.
    pub log_start: Offset,
}

/// Why a batch was not appended (or is not known to be).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProduceError {
    /// The partition is not here (any more).
    #[error("partition {0} is not on this broker")]
    UnknownPartition(PartitionId),
    /// Not leading. Nothing was written: retry, at the leader if it is known.
    #[error("this broker does not lead the partition")]
    NotLeader(Option<LeaderHint>),
    /// Leadership or the quorum was lost while the batch was in flight: it may be stored. Retry the same batch; a
    /// producer that made another one of its records would store them twice.
    #[error("the batch is written, and it is not known whether a majority of the replicas holds it")]
    Unconfirmed,
    /// Fewer voters answer than `min.insync.replicas` asks for. Nothing was written: retry.
    #[error("{live} replicas of the partition answer, min.insync.replicas asks for {wanted}")]
    NotEnoughReplicas { live: usize, wanted: usize },
    /// Sequence numbers leave a gap.
    #[error("producer {producer} epoch {epoch}: sequence {found} does not follow {expected}")]
    OutOfOrder {
        producer: i64,
        epoch: i16,
        /// The next expected sequence.
        expected: i32,
        found: i32,
    },
    /// As [`ProduceError::OutOfOrder`], but the batch that is missing was refused here a short time ago. Nothing was
    /// written: send that one again, then this one.
    #[error(
        "producer {producer} epoch {epoch}: the batch with sequence {expected} was refused for now, so this one, with \
         sequence {found}, is refused too; send both again in order"
    )]
    Early { producer: i64, epoch: i16, expected: i32, found: i32 },
    /// A newer instance of the producer exists.
    #[error("producer {producer}: epoch {found} is older than {current}")]
    Fenced { producer: i64, current: i16, found: i16 },
    /// Larger than `max.message.bytes`.
    #[error("batch of {size} bytes exceeds max.message.bytes {max}")]
    TooLarge { size: u32, max: u32 },
    /// A field the broker does not accept.
    #[error("{0}")]
    Invalid(&'static str),
    /// The disk budget or the journal has no room; freed by retention, archiving or the operator.
    #[error("no space for more data: {0}")]
    NoSpace(String),
    /// Records of another topic are being copied into the partition. Nothing was written: retry.
    #[error(
        "another topic's records are being copied into the partition, up to offset {until}; retry when that is done"
    )]
    Copying { until: Offset },
    /// The lane's queue is full: retry later.
    #[error("too many requests wait for this partition's lane")]
    Busy,
    /// The cluster was restored elsewhere. Nothing was written, and nothing will be: no retry helps.
    #[error("{0}")]
    Superseded(SupersededBy),
}

impl ProduceError {
    /// Nothing was written, and the same batch may be taken when it comes again.
    #[must_use]
    pub fn is_for_now(&self) -> bool {
        match self {
            Self::NotLeader(_)
            | Self::NotEnoughReplicas { .. }
            | Self::NoSpace(_)
            | Self::Busy
            | Self::Copying { .. }
            | Self::Early { .. } => true,
            Self::UnknownPartition(_)
            | Self::Unconfirmed
            | Self::OutOfOrder { .. }
            | Self::Fenced { .. }
            | Self::TooLarge { .. }
            | Self::Invalid(_)
            | Self::Superseded(_) => false,
        }
    }
}

/// Which records a reader may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// One partition's share of a fetch.
#[derive(Clone, Copy, Debug)]
pub struct ReadPart {
    pub address: PartitionAddress,
    pub from: Offset,
    /// Bytes at most (the first batch comes whole).
    pub max_bytes: usize,
    pub isolation: Isolation,
    /// The leader epoch that the reader knows; the shard refuses any but the leader's.
    pub epoch: Option<LeaderEpoch>,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct ReadDone {
    /// Whole batches, back to back, as stored; possibly starting before `from`.
    pub batches: Vec<Bytes>,
    /// First offset not visible to `read_uncommitted`.
    pub high_watermark: Offset,
    /// First offset not visible to `read_committed`.
    pub last_stable_offset: Offset,
    /// First offset of the partition.
    pub log_start: Offset,
}

impl ReadDone {
    /// Bytes of the batches.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }

    /// Takes its bytes out of `left`. The first answer with bytes keeps all of them (KIP-74); a later one that is
    /// larger than `left` loses its batches, and must be read again.
    #[must_use]
    pub fn within(mut self, left: &mut usize, first: &mut bool) -> Self {
        let bytes = self.bytes();
        if bytes > *left && !*first {
            self.batches.clear();
            return self;
        }
        *first &= bytes == 0;
        *left = left.saturating_sub(bytes);
        self
    }
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The partition is not here (any more).
    #[error("partition {0} is not on this broker")]
    UnknownPartition(PartitionId),
    /// Not leading, not yet ready to serve in its term, or not certain any more that no other broker leads: retry, at
    /// the leader if it is known.
    #[error("this broker does not lead the partition")]
    NotLeader(Option<LeaderHint>),
    /// The reader knows an earlier leader epoch than the leader's.
    #[error("the partition's leader is in a later epoch than the request")]
    FencedEpoch(Option<LeaderHint>),
    /// The reader knows a later leader epoch than this leader's.
    #[error("the request is of a later leader epoch than this broker knows")]
    UnknownEpoch,
    /// Before the log start or after the end.
    #[error("offset {offset} is outside {valid}")]
    OutOfRange { offset: Offset, valid: OffsetRange },
    /// The bucket does not answer: retry.
    #[error("the bucket cannot be read now: {0}")]
    BucketUnavailable(String),
    /// Bytes on disk or in the bucket are damaged.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// The disk or the node failed.
    #[error("the partition's log is not available")]
    Unavailable,
}

/// Which offset is asked for (KIP-79, 734, 405, 1005, 1023).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// -2: the log start.
    Earliest,
    /// -1: the high watermark.
    Latest,
    /// -1 with `read_committed`: the last stable offset.
    LatestStable,
    /// -3: the record with the greatest timestamp.
    MaxTimestamp,
    /// -4: the first offset on local disk.
    EarliestLocal,
    /// -5: the last offset in the bucket.
    LatestTiered,
    /// -6: the first offset that is still to be put into the bucket.
    EarliestPendingUpload,
    /// The first record at or after a time.
    AtTime(TimestampMs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    pub offset: Offset,
    /// Its timestamp; `None` for a boundary (log start, high watermark …).
    pub timestamp: Option<TimestampMs>,
    /// The leader epoch of the record there, if known.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// The greatest leader epoch not above one asked for, and where it ends (KIP-101, KIP-279).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    pub epoch: LeaderEpoch,
    /// First offset that is not of it: where the next begins, or the partition's end.
    pub end: Offset,
}

/// The state of a partition from log to bucket, as `GET /v1/topics/{topic}` shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PartitionStatus {
    pub partition: i32,
    pub lane: u32,
    pub shard: u16,
    pub leader_epoch: i32,
    /// First offset readable, in the bucket or here.
    pub log_start_offset: u64,
    /// First offset on local disk.
    pub local_start_offset: u64,
    /// First offset not in the bucket.
    pub archived_end_offset: u64,
    /// First offset after the last committed record.
    pub high_watermark: u64,
    /// First offset that `read_committed` does not see.
    pub last_stable_offset: u64,
    /// Bytes on local disk and in memory.
    pub local_bytes: u64,
    /// Bytes in the bucket.
    pub archived_bytes: u64,
    /// Rows of the partition's manifest that are resident.
    pub manifest_rows: u64,
    /// Records not in the bucket yet.
    pub archive_lag_records: u64,
    /// How long the oldest record not in the bucket has waited here, in milliseconds.
    pub archive_lag_ms: u64,
    /// Why archiving has stopped, if it has.
    pub archive_stopped: Option<String>,
    /// Ranges set aside after a failed check.
    pub quarantined: Vec<String>,
    /// First offset not in the table; `None` without a table.
    pub table_offset: Option<u64>,
    /// Records in the bucket but not in the table.
    pub table_lag_records: Option<u64>,
    /// Ranges left out of the table because they could not be decoded.
    pub table_skipped: Vec<String>,
    /// Why the table is paused, if it is.
    pub table_paused: Option<String>,
}

/// An idempotent producer that a partition remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    /// Sequence of the last record it wrote.
    pub last_sequence: i32,
    /// When it last wrote, in the log's time.
    pub last_timestamp: TimestampMs,
}

/// Requests over the mesh to the shard that owns the partitions. Every variant carries the reply for its answer.
#[derive(Debug)]
pub enum PartitionRequest {
    /// Append batches; answers in the order of the parts.
    Produce(Vec<ProducePart>, Reply<Vec<Result<ProduceDone, ProduceError>>>),
    /// Read, sharing `max_bytes` among the parts in order.
    Read {
        parts: Vec<ReadPart>,
        /// Bytes at most over all parts.
        max_bytes: usize,
        reply: Reply<Vec<Result<ReadDone, ReadError>>>,
    },
    /// Ring the alarm, once each, when these partitions are no longer as the reader knows them.
    Watch(Vec<Watched>, Alarm),
    /// Where leader epoch `epoch` ends; `current` is the leader's epoch as the client knows it.
    EpochEnd {
        address: PartitionAddress,
        current: Option<LeaderEpoch>,
        epoch: LeaderEpoch,
        reply: Reply<Result<Option<EpochEnd>, ReadError>>,
    },
    /// Find an offset; `current` as in `EpochEnd`.
    ListOffset {
        address: PartitionAddress,
        current: Option<LeaderEpoch>,
        spec: OffsetSpec,
        reply: Reply<Result<Option<ListedOffset>, ReadError>>,
    },
    /// Move the log start forward.
    Trim(PartitionAddress, Offset, Reply<Result<Offset, TrimError>>),
    /// The state of this broker's replica, whether it leads or not.
    Describe(PartitionId, Reply<Option<PartitionStatus>>),
    /// List the idempotent producers.
    Producers(PartitionAddress, Reply<Result<Vec<ActiveProducer>, ReadError>>),
    /// A read for a broker itself.
    Internal(InternalRequest),
    /// Log start and high watermark of each; `None` for one that is not here.
    Ends(Vec<PartitionId>, Reply<Vec<Option<OffsetRange>>>),
}

/// Why the log start did not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrimError {
    /// The partition is not here (any more).
    #[error("partition {0} is not on this broker")]
    UnknownPartition(PartitionId),
    /// Beyond the high watermark.
    #[error("offset {to} is beyond the high watermark {high_watermark}")]
    OutOfRange { to: Offset, high_watermark: Offset },
    /// Retry, at the leader if it is known.
    #[error("this broker does not lead the partition")]
    NotLeader(Option<LeaderHint>),
    /// Not committed, or the log failed: retry.
    #[error("the partition's log is not available")]
    Unavailable,
}
