//! Kafka's bytes on the wire: frames with hard limits, headers, the guard, and hand-written codecs of the hot path.
//!
//! Everything here is a pure function over bytes from outside: lengths are checked against what remains before anything
//! is allocated, nothing indexes, nothing panics. Shard-local by use, free of I/O.

pub mod fetch;
pub mod frame;
pub mod guard;
pub mod header;
pub mod leader;
pub mod log_dirs;
pub mod produce;
pub mod reader;
pub mod request;
pub mod response;
pub mod schema;
pub mod writer;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
