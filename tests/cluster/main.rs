//! Three brokers as real processes, under load by confluent-kafka and the Java client, with faults one after the other:
//! kill -9, SIGSTOP, cuts of the network in one direction or both, a slow network, a stop, a wiped disk. In the end: every
//! acknowledged record once, in order, at its offset, none invented; offsets of groups only move forward; what members read
//! is the log; bucket and table equal the log.
//!
//! `TIDEWATER_FAULTS=n` asks for another number of faults (100), `TIDEWATER_SEED=n` for the same random choices.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

mod clients;
mod faults;
mod forming;
mod history;
mod tools;

use std::time::{SystemTime, UNIX_EPOCH};

/// WARN and ERROR lines that a fault of another broker may cause, with the reason why each is no fault of this one.
const EXPECTED: &[&str] = &[
    // Peers that are away, frozen or cut off.
    "peer",
    "broker ",
    "lane",
    "leader",
    "election",
    // `__consumer_offsets` is read while its partitions are still being made, or their lane has no leader.
    "groups of a partition cannot be loaded",
    // A topic's table is looked at while its partitions are led elsewhere.
    "the sink tries again",
    "controller",
    "archiving of a lane starts again",
    // A table's committer met the commits of its successor in a later term, and stops.
    "a table is not brought up to date",
    // A broker that stops ends its Raft groups while peers still ask them.
    "raft stopped",
    "failed to receive from RaftCore",
    // Another broker closed a connection in the middle of a frame: it was killed, or the network was reset.
    "connection",
];

/// xorshift: the same choices for the same seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").subsec_nanos();
    number("TIDEWATER_SEED").unwrap_or_else(|| now.into())
}

/// Runs a client's call to its end.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}
