//! Partitions: what a Kafka partition is on top of a lane's log.
//!
//! Owns the way of a batch from "checked" to "committed" (`proposer`, `lane`, `replica`), idempotence (`producers`),
//! the one place that decides where a read is served from (`read_path`), and the routing of requests to the shard that
//! owns a partition (`router`). Knows no Kafka request and no topic names beyond what a partition carries with it.

pub mod beginnings;
pub mod codec;
pub mod command;
pub mod event;
#[cfg(test)]
pub(crate) mod fixture;
pub mod lane;
pub mod message;
pub mod not_understood;
pub mod producers;
pub mod proposer;
pub mod read_path;
pub mod replica;
mod replicas;
pub mod router;
pub mod shard;
mod side_by_side;
pub mod sums;
pub mod touched;
mod trims;
pub mod watch;
