//! Bad input against a real broker: hostile bytes on the wire, damaged files on disk and in the bucket, a full disk, a
//! bucket that is away, clients in crowds and clients that do not read. Each time: a Kafka error, a closed connection or
//! a clear message, and the broker serves on.
#![allow(clippy::panic, unreachable_pub, missing_docs, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

mod bucket;
mod crowd;
mod disk;
mod full;
mod gone;
mod lost;
mod outage;
mod scrape;
mod steady;
mod wire;
