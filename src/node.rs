//! The process: from settings to a serving broker and back.
//!
//! Owns: the order of start (`start`) and stop, the data directory's identity and lock (`identity`), which shard
//! directories count in it (`layout`) and its share of the disk (`budgets`), the shards' executors (`shard_main`) and
//! lanes (`lanes`), another number of shards (`reshard`), a restore (`restore`, `seed`), the side runtime for
//! everything whose crate wants tokio (`side`), the preflight. Contains no logic of what is served.

pub mod balance;
pub mod bounds;
mod budgets;
mod cores;
mod error;
pub mod forming;
pub mod identity;
pub mod join;
pub mod lanes;
mod layout;
pub mod lost_leaders;
pub mod membership;
mod moved;
mod on_executor;
mod peers;
pub mod preflight;
mod rebuilds;
pub mod replicas;
mod reshard;
pub mod restore;
pub mod seed;
mod shard_main;
mod side;
mod sockets;
pub mod source;
mod start;
pub mod status;
mod waiting;

pub use error::StartError;
pub use start::{Running, serve, start};
