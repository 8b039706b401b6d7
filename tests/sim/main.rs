//! The broker below the socket in a simulated world: controller, lanes, partitions, groups, archive and table through
//! kills, power cuts, bad disks, jumping clocks and a bad bucket, by seed.
//!
//! One run is one seed: [`plan`] draws who is there and what goes wrong; [`world`] holds a disk and a bucket that
//! outlive the broker; [`node`] composes shards as `src/node/shard_main.rs` does; [`workload`], [`groups`] and
//! [`topics`] are its clients; [`faults`] kills and disturbs; [`history`] notes what was asked and answered;
//! [`invariants`] says, one file each, what must hold during a run and after it. [`awaits`] ends one history at each of
//! its awaits, [`rot`] damages stored bytes, [`defects`] has brokers that are wrong on purpose and must be caught.
//! In one of three seeds the topic's table is typed: [`typed`].
//! [`cluster`] has several brokers with voters on each; [`bucket`] follows and restores one broker by its bucket.
//!
//! `TIDEWATER_SEEDS=n` runs that many, from `TIDEWATER_SEED_FROM`; `TIDEWATER_SEED=s` one, with its trace;
//! `TIDEWATER_TIGHT_JOURNAL=1` gives all of them the short journal that one in eight has, `TIDEWATER_TYPED=1` a typed
//! table. A seed that fails is
//! made smaller (`TIDEWATER_WITHOUT` leaves parts out) and says how to repeat it.
#![allow(clippy::panic, reason = "a broken property ends the run")]
#![cfg(feature = "lakehouse")]

mod awaits;
mod bucket;
mod cluster;
mod defect;
mod defects;
mod faults;
mod groups;
mod hasty;
mod history;
mod invariants;
mod lanes;
mod meta;
mod node;
mod plan;
mod rot;
mod run;
mod seeds;
mod table;
mod topics;
mod typed;
mod workload;
mod world;

/// Seeds of an ordinary run.
const SEEDS: u64 = 500;

#[test]
fn nothing_acknowledged_is_lost_doubled_or_moved() {
    seeds::each("nothing_acknowledged_is_lost_doubled_or_moved", SEEDS, plan::Plan::of, |plan, trace| {
        run::run(plan, trace);
    });
}
