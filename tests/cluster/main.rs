//! Three brokers as real processes, under load by confluent-kafka and the Java client, with faults one after the other:
//! kill -9, SIGSTOP, cuts of the network in one direction or both, a slow network, a stop, a full, a slow and a wiped
//! disk. In the end: every acknowledged record once, in order, at its offset, none invented; offsets of groups only
//! move forward; what members read is the log; bucket and table equal the log.
//!
//! `TIDEWATER_FAULTS=n` asks for another number of faults (40), `TIDEWATER_SEED=n` for the same random choices.
#![allow(clippy::panic, clippy::disallowed_methods, unreachable_pub, reason = "a test binary")]

#[path = "../support/support.rs"]
mod support;

mod clients;
mod disks;
mod faults;
mod forming;
mod history;
mod redirects;
mod steady;
mod strangers;
mod tools;

use std::time::{SystemTime, UNIX_EPOCH};

use tidewater_storage::model::TimestampMs;

/// WARN and ERROR lines that a fault of another broker may cause, with the reason why each is no fault of this one.
const EXPECTED: &[&str] = &[
    // Connections with peers that are away, frozen, cut off or killed in the middle of a frame.
    "lost the connection to a broker",
    "cannot connect to a broker",
    "no connection with a broker",
    "a broker refuses the connection",
    "cut off a broker's connection",
    // What openraft says of the same peers.
    "HeartbeatWorker",
    "update progress error",
    "while requesting",
    "RPCError",
    "error sending transfer_leader",
    // A broker that stops ends its Raft groups while peers still ask them.
    "raft stopped",
    "RaftCore: ",
    // Work that needs a leader, a quorum or the other brokers; each line says that it is tried again.
    "tried again",
    "tries again",
    "try again",
    "asked again",
    "looking again",
    "the controller could not commit a change",
    "it is not known whether the controller committed a change",
    "groups of a partition cannot be loaded",
    "archiving of a lane starts again",
    // A disk or a machine that is too slow for it; another one is made later.
    "no cut is made now",
    // A table's committer met the commits of its successor in a later term, and stops.
    "a table is not brought up to date",
];

fn now() -> TimestampMs {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    TimestampMs(i64::try_from(since_1970.as_millis()).expect("fits"))
}

/// Runs a client's call to its end.
fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}
