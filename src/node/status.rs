//! What shards tell the thread that started them.

use std::fmt;

use tidewater_storage::model::ShardId;

/// A step a shard has reached. A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardStatus {
    /// Its lanes lead and its partitions are open.
    Recovered(ShardId),
    /// It serves Kafka.
    Serving(ShardId),
    /// It could not start.
    Failed(ShardFailure),
}

/// Why a shard could not start. A message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard}: {why}")]
pub struct ShardFailure {
    /// Which.
    pub shard: ShardId,
    /// What is wrong and what to do.
    pub why: String,
}

impl ShardFailure {
    /// From what a step of the start said.
    pub fn new(shard: ShardId, why: &impl fmt::Display) -> Self {
        Self { shard, why: why.to_string() }
    }
}
