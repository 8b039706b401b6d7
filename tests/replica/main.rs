//! Two real clusters: a source under load, and one that follows the source's bucket and is read by confluent-kafka, the
//! Java client and groups. On a directory and on a real S3 server. Either side is killed; in the end every acknowledged
//! record was read once, in order, at its offset, from the cluster that follows, and no end that it showed was beyond
//! the source's. Tables of followed topics are read by engines through the replica's catalog.
//!
//! `TIDEWATER_FAULTS=n` asks for another number of faults (6), `TIDEWATER_SEED=n` for the same random choices.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

#[path = "../cluster/clients.rs"]
#[allow(dead_code, reason = "this test uses its share")]
mod clients;
#[path = "../cluster/history.rs"]
#[allow(dead_code, reason = "this test uses its share")]
mod history;

mod load;
mod offsets;
mod pair;
mod refusals;
#[cfg(feature = "lakehouse")]
mod tables;
mod topics;

/// Runs a client's call to its end.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}
