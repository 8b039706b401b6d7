//! What one broker says about the copies that it makes. JSON between brokers; fields may be added.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A partition of a copy that is under way. A message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CopyFacts {
    /// The id of the topic that is made.
    pub topic: Uuid,
    pub partition: i32,
    /// Offset after the last record that is copied.
    pub reached: u64,
    /// Why it makes no progress.
    pub reason: Option<String>,
    /// It waits until one of the topics that are being copied is complete or makes no progress.
    pub queued: bool,
    /// All of it is copied; it is complete once all of it is archived.
    pub archiving: bool,
}

/// What a shard has copied since it started. A message; several shards' add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCounts {
    pub records: u64,
    pub bytes: u64,
    /// Partitions that are being copied now.
    pub running: u64,
    /// Of these, those that do not get on.
    pub failing: u64,
}

impl CopyCounts {
    pub fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.running += other.running;
        self.failing += other.failing;
    }
}
