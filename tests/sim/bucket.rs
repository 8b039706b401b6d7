//! A cluster's bucket through the cluster's lineage epochs: it is followed by a replica on another machine, its broker
//! is lost and restored from it, once or twice, while what is left of the broker before goes on or comes back.
//!
//! Built on the world of one broker: that one has a controller, groups and producers with a state, which a restore
//! brings back; what several voters add ends above the bucket and is the matter of [`crate::cluster`].
//!
//! Meanwhile the broker and an operator make cuts, and a restore may go back to one; an operator forks the topic.
//!
//! [`plan`] draws what happens; [`epochs`] holds the broker that clients ask now, those before, and what clients know;
//! [`clients`] write, read, commit and delete; [`copies`] are forks; [`cuts`] makes cuts, [`kept`] holds the bucket
//! against what they reach; [`follower`] is the replica; [`archived`] reads the bundles for itself; [`restorer`] is one
//! restore with its crashes, [`loss`] a loss from the end of the broker to the next one's start; [`run`] is a whole
//! run; [`defect`] has restores that are wrong on purpose. [`open`] opens a broker's place in the bucket, in every
//! simulated world.

mod archived;
mod clients;
mod copies;
mod cuts;
mod defect;
mod epochs;
mod follower;
mod kept;
mod loss;
mod open;
mod plan;
mod restorer;
mod run;

use std::collections::BTreeSet;

pub(crate) use cuts::without_cuts;
pub(crate) use open::open;
use plan::EpochsPlan;

use crate::seeds;

/// Seeds of an ordinary run.
const SEEDS: u64 = 120;

#[test]
fn followed_and_restored_it_is_what_was_archived() {
    let test = "bucket::followed_and_restored_it_is_what_was_archived";
    seeds::each(test, SEEDS, EpochsPlan::of, |plan, trace| {
        run::run(plan, trace);
    });
}

#[test]
fn a_seed_of_a_bucket_is_a_run() {
    let plan = || EpochsPlan::of(5, BTreeSet::new());
    assert_eq!(run::run(plan(), false), run::run(plan(), false));
}
