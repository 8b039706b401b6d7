//! The broker: everything that speaks Kafka, Raft, HTTP or the command line.
//!
//! Layers, lowest first. A module uses only its own row and the rows above it here; `tests/tidy.rs` reads this list.
//!
//! - `config` `limits` `trace`: settings, caps, logging
//! - `schema`: the Schema Registry's rules, without I/O
//! - `shard` `net`: executors, messages between shards, sockets
//! - `raft`: the log of a lane, agreed on by openraft
//! - `rpc`: connections between brokers
//! - `partition`: offsets, entries, reads; what a lane's log does to its partitions
//! - `rebuild`: a lane's state copied to a replica that cannot catch up from the log
//! - `controller` `group` `archival` `replica` `copies` `lakehouse` `catalog_http` `schema_registry`: topics, consumer
//!   groups, the bucket, other clusters' buckets, copies of topics, tables, schemas
//! - `kafka` `admin` `schema_http`: the protocol, the admin port, the port of the Schema Registry
//! - `client`: a Kafka client, for commands and tests
//! - `node`: start and stop of a broker
//! - `console`: printing and errors of commands
//! - `demo` `inspect`
//! - `cli`

pub mod admin;
pub mod archival;
#[cfg(feature = "lakehouse")]
pub mod catalog_http;
pub mod cli;
pub mod client;
pub mod config;
pub mod console;
pub mod controller;
pub mod copies;
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
pub mod rebuild;
pub mod replica;
pub mod rpc;
pub mod schema;
pub mod schema_http;
pub mod schema_registry;
pub mod shard;
pub mod trace;
