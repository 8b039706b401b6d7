//! The broker: everything that speaks Kafka, Raft, HTTP or the command line.
//!
//! Layers, each using only rows below its own (checked by `tests/tidy.rs`):
//! `main cli node demo` → `client` → `kafka admin catalog_http` → `controller group archival lakehouse` → `partition` →
//! `raft` → `shard net` → `config limits metrics trace`.

pub mod admin;
pub mod archival;
#[cfg(feature = "lakehouse")]
pub mod catalog_http;
pub mod cli;
pub mod client;
pub mod config;
pub mod controller;
pub mod demo;
pub mod group;
pub mod inspect;
pub mod kafka;
pub mod lakehouse;
pub mod limits;
pub mod net;
pub mod node;
pub mod partition;
pub mod raft;
pub mod shard;
pub mod trace;
