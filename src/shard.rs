//! One pinned executor for each shard, and the typed messages between shards.

pub mod executor;
mod memory;
pub mod mesh;
