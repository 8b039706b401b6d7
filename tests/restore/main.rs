//! A lost cluster restored from its bucket, with real processes: load with a group and a table, kill -9, the disks
//! gone, `tidewater restore`, and a comparison with what was acknowledged. Once with one broker, once with three.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

mod copies;
mod cuts;
mod drill;
mod killed;
mod permissions;
mod refusals;
mod tools;
mod writer;
mod zombie;

/// Runs a client's call to its end.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}
