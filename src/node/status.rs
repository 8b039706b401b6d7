//! Reports of the shards to the thread that started them.

use std::fmt;

use tidewater_storage::model::ShardId;

/// How far the start of a shard is. A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardStatus {
    /// Its lanes lead and its partitions are open.
    Recovered(ShardId),
    Serving(ShardId),
    Failed(ShardFailure),
}

/// Why a shard could not start. A message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {shard}: {why}")]
pub struct ShardFailure {
    pub shard: ShardId,
    /// What is wrong and what to do.
    pub why: String,
}

impl ShardFailure {
    pub fn new(shard: ShardId, why: &impl fmt::Display) -> Self {
        Self { shard, why: why.to_string() }
    }
}
