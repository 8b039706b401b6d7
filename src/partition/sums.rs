//! Sums over a topic's partitions on one shard, for metrics. Shards' sums add up, and so do brokers': of a partition
//! that this broker does not lead, only the local bytes count.

/// One topic's partitions of one shard at one moment. A message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicSums {
    pub partitions: u64,
    /// Records readable, in the bucket and here.
    pub records: u64,
    /// Sum of the high watermarks: records ever written.
    pub high_watermarks: u64,
    /// Bytes on local disk and in memory.
    pub local_bytes: u64,
    /// Bytes in the bucket.
    pub archived_bytes: u64,
    /// Records that are to be archived and are not.
    pub archive_lag_records: u64,
    /// Bytes of them; an estimate after a restart.
    pub archive_lag_bytes: u64,
    /// How long the oldest of them has waited here, in milliseconds; the greatest of the partitions.
    pub archive_lag_ms: u64,
    /// Partitions whose archiving has stopped.
    pub archive_stopped: u64,
    /// Ranges set aside after a failed check.
    pub quarantined: u64,
}

impl TopicSums {
    pub fn merge(&mut self, other: &Self) {
        self.partitions += other.partitions;
        self.records += other.records;
        self.high_watermarks += other.high_watermarks;
        self.local_bytes += other.local_bytes;
        self.archived_bytes += other.archived_bytes;
        self.archive_lag_records += other.archive_lag_records;
        self.archive_lag_bytes += other.archive_lag_bytes;
        self.archive_lag_ms = self.archive_lag_ms.max(other.archive_lag_ms);
        self.archive_stopped += other.archive_stopped;
        self.quarantined += other.quarantined;
    }
}
