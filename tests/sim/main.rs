//! The broker below the socket in a simulated world: partitions, lanes, archive and table through kills, power cuts and
//! a bad bucket, by seed.
//!
//! One run is one seed: [`world`] composes a shard as `src/node/shard_main.rs` does, over a disk and a bucket that
//! outlive it; [`workload`] writes, reads and deletes; [`faults`] kills and disturbs; [`history`] notes what was asked
//! and answered; [`invariants`] says, one file each, what must hold during a run and after it.
//!
//! `TIDEWATER_SEEDS=n` runs that many, `TIDEWATER_SEED=s` one, with its trace; a seed that fails says how to repeat it.
#![allow(clippy::panic, reason = "a broken property ends the run")]
#![cfg(feature = "lakehouse")]

mod faults;
mod history;
mod invariants;
mod meta;
mod node;
mod run;
mod seeds;
mod table;
mod workload;
mod world;

/// Seeds of an ordinary run.
const SEEDS: u64 = 200;

#[test]
fn nothing_acknowledged_is_lost_doubled_or_moved() {
    seeds::each(SEEDS, |seed, trace| {
        run::run(seed, trace);
    });
}
