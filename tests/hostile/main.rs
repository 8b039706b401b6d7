//! Bad input against a real broker: hostile bytes on the wire, damaged files on disk and in the bucket, a full disk, a
//! bucket that is away, clients in crowds, clients that do not read, and web pages. Each time: a Kafka error, a
//! refusal, a closed connection or a clear message, and the broker serves on.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

mod at_length;
mod bucket;
mod crowd;
mod directories;
mod disk;
mod full;
mod gone;
mod lost;
mod outage;
mod scrape;
mod steady;
mod tables;
mod verify;
mod web;
mod wire;
