//! Consumer groups: the coordinator of the classic group protocol and of committed offsets.
//!
//! A group belongs to the partition of `__consumer_offsets` its name hashes to, and so to the broker that leads that
//! partition and to its shard there; the [`GroupRouter`] finds the shard and asks by message. A [`Coordinator`] holds
//! the groups in memory, writes every change to that partition through `partition::Router` in Kafka's record layout,
//! answers once it is committed, and reads the partition back on first use, or when leadership comes to this broker.
//! What it holds is of one term of the partition's lane ([`Hosting`]): it is dropped when that ends, and nothing is
//! written in another. Which member gets what is decided by the pure machine in [`state`].
//!
//! Owns: membership, generations, committed offsets and their expiry. Does not own: the log, topics, the protocol's
//! wire form (`kafka/handlers`). Idle groups cost nothing: one deadline queue a shard, no timer of their own.
//!
//! `__consumer_offsets` keeps every record of its partition's state after its log start: when the log since the last
//! snapshot has grown past a bound, the state is written again as records and the prefix is cut off. That is what
//! compaction does for Kafka, with a bound on the log instead of a cleaner.

mod append;
mod coordinator;
mod deadlines;
pub mod error;
mod group_shard;
mod hosting;
pub mod ids;
mod load;
pub mod message;
mod offsets;
#[doc(hidden)]
pub mod outside;
mod record;
mod router;
pub mod state;
mod subscription;

pub use coordinator::{Coordinator, GroupSettings};
pub use error::GroupError;
pub use group_shard::QUEUE_BYTES_MAX;
pub use hosting::Hosting;
pub use ids::{GroupId, InstanceId, MemberId, ProtocolName};
pub use message::GroupRequest;
pub use router::GroupRouter;

/// The internal topic that holds groups and offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Partitions of [`OFFSETS_TOPIC`] when this broker makes it. Kafka takes 50 to spread coordinators over brokers; here
/// they spread over shards, and every partition in use is read at start and cut by snapshots of its own.
pub const OFFSETS_PARTITIONS: i32 = 16;
