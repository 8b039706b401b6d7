//! [`LogReader`]: where committed batches come from. Declared here, implemented by the broker over local log and tier.

use async_trait::async_trait;
use bytes::Bytes;
use tidewater_storage::model::{Offset, OffsetRange, PartitionIndex, TopicId};

/// What a table may take of one partition right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionBounds {
    pub index: PartitionIndex,
    /// `[log start, archived end)`; without an archive the end is the last stable offset. Never moves back, except
    /// when a restore begins a new fencing epoch.
    pub offsets: OffsetRange,
}

/// Why the log could not be read now.
#[derive(Debug, thiserror::Error)]
pub enum LogReadError {
    /// The topic is gone.
    #[error("topic {0} does not exist any more")]
    NoTopic(TopicId),
    /// What was asked for begins below the log start.
    #[error("partition {partition} begins at {start}, offset {asked} was asked for; retention has moved on")]
    BelowStart { partition: PartitionIndex, asked: Offset, start: Offset },
    /// Not now: not the leader, the bucket is down, a timeout. Try again later.
    #[error("partition {partition} cannot be read now ({reason}); the sink tries again")]
    Unavailable { partition: PartitionIndex, reason: String },
}

/// Batches read.
#[derive(Clone, Debug)]
pub struct LogRead {
    /// Whole batches, or runs of whole batches back to back, in order, without a hole.
    pub batches: Vec<Bytes>,
    /// Offsets they cover. The start may lie below what was asked for (inside a batch); never above.
    pub offsets: OffsetRange,
}

/// Committed batches of a topic, hot or cold.
///
/// Consistency: what was once returned for a range is returned again. Ordering: by offset, no holes. Retries: the
/// caller's, on [`LogReadError::Unavailable`]. Cancellation: any call may be dropped. Called on the side runtime.
#[async_trait]
pub trait LogReader: Send + Sync {
    /// The topic's partitions with what may be taken of each, as far as a replica knows: one that lags answers too low
    /// an end. A partition of which nothing can be said now is left out.
    ///
    /// # Errors
    /// If the topic is gone or nothing can be said of any partition.
    async fn partitions(&self, topic: TopicId) -> Result<Vec<PartitionBounds>, LogReadError>;

    /// What may be taken of a partition, by its leader.
    ///
    /// # Errors
    /// If the topic or partition is gone, or its leader cannot be asked.
    async fn leader_bounds(&self, topic: TopicId, partition: PartitionIndex) -> Result<PartitionBounds, LogReadError>;

    /// Batches from the one that holds `range.start` on, at least one and then about `max_bytes`, none beginning at
    /// or after `range.end`.
    ///
    /// # Errors
    /// As the error says.
    async fn read(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        range: OffsetRange,
        max_bytes: usize,
    ) -> Result<LogRead, LogReadError>;
}
