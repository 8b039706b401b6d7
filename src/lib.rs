//! The broker: everything that speaks Kafka, Raft, HTTP or the command line.
//!
//! Layers, each using only rows below its own (checked by `tests/tidy.rs`):
//! `main cli node demo` → `kafka admin catalog_http` → `controller group archival lakehouse` → `partition` → `raft` →
//! `shard net client` → `config limits metrics trace`.

pub mod config;
pub mod controller;
pub mod partition;
pub mod shard;
