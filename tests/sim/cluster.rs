//! Three or five brokers below the socket in a simulated world: lanes with a voter on each, one bucket, clients that
//! follow the leader, through crashes, stops, cuts, a bad network, bad disks, drifting clocks and a bucket that is
//! away, by seed.
//!
//! [`plan`] draws what goes wrong; [`world`] holds machines, network and bucket; [`broker`] is one life of a broker,
//! [`wire`] its connection to the others, [`images`] the topics that it knows of; [`clients`] write and read,
//! [`groups`] commit offsets; [`controllers`] decide on other topics over lane 0;
//! [`record`] notes what every replica does; [`invariants`] says, one file each, what must hold; [`defects`] has
//! brokers that are wrong on purpose and must be caught.

mod broker;
mod clients;
mod controllers;
mod defect;
mod faults;
mod groups;
mod images;
mod invariants;
mod plan;
mod record;
mod run;
mod wire;
mod world;

use plan::{ClusterPlan, Event, Ways, What, Whom};
use tidewater_storage::model::LaneId;

use crate::seeds;

/// Seeds of an ordinary run.
const SEEDS_OF_THREE: u64 = 500;
const SEEDS_OF_FIVE: u64 = 200;
const SEEDS_OF_REPLACEMENTS: u64 = 100;
const SEEDS_OF_CONTROLLERS: u64 = 200;

#[test]
fn three_brokers_lose_double_and_move_nothing() {
    let test = "cluster::three_brokers_lose_double_and_move_nothing";
    seeds::each(
        test,
        SEEDS_OF_THREE,
        |seed, out| ClusterPlan::of(3, seed, out),
        |plan, trace| {
            run::run(plan, trace);
        },
    );
}

#[test]
fn five_brokers_lose_double_and_move_nothing() {
    let test = "cluster::five_brokers_lose_double_and_move_nothing";
    seeds::each(
        test,
        SEEDS_OF_FIVE,
        |seed, out| ClusterPlan::of(5, seed, out),
        |plan, trace| {
            run::run(plan, trace);
        },
    );
}

#[test]
fn a_seed_of_a_cluster_is_a_run() {
    let plan = || ClusterPlan::of(3, 5, std::collections::BTreeSet::new());
    assert_eq!(run::run(plan(), false), run::run(plan(), false));
}

fn event(name: &str, at_ms: u64, what: What) -> Event {
    Event { name: name.to_owned(), at_ms, what }
}

/// Hazard 1 of a cluster: a broker that has not learned of a topic comes to lead its lane.
#[test]
fn a_leader_with_an_old_image_drops_nothing() {
    for seed in 0..8 {
        let mut plan = ClusterPlan::of(3, 2 * seed, ["trim".to_owned()].into());
        let leader = Whom::Leader(LaneId(1));
        (plan.lanes, plan.rough_ms) = (1, 9_000);
        plan.events = vec![
            event("lag 2", 300, What::Lag { node: 2, ms: 6_000 }),
            event("lag 3", 300, What::Lag { node: 3, ms: 6_000 }),
            event("end", 3_000, What::End { whom: leader, power_cut: true, down_ms: 1_500 }),
            event("end again", 6_000, What::End { whom: leader, power_cut: true, down_ms: 1_500 }),
        ];
        run::run(plan, false);
    }
}

/// Hazard 2: a leader is cut off from its peers, and not from the bucket and the clients, for longer than deleted
/// objects are kept.
#[test]
fn a_deposed_leader_deletes_nothing_and_shows_no_old_end() {
    for seed in 0..8 {
        let mut plan = ClusterPlan::of(3, 2 * seed + 1, std::collections::BTreeSet::new());
        (plan.lanes, plan.rough_ms) = (1, 40_000);
        let whom = Whom::Leader(LaneId(1));
        plan.events = vec![event("cut", 4_000, What::Isolate { whom, ways: Ways::Both, ms: 30_000 })];
        run::run(plan, false);
    }
}

/// What the controllers answered is what all of them have in the end, under every fault.
#[test]
fn controllers_decide_once_and_forget_nothing() {
    let test = "cluster::controllers_decide_once_and_forget_nothing";
    seeds::each(test, SEEDS_OF_CONTROLLERS, ClusterPlan::with_controllers, |plan, trace| {
        run::run(plan, trace);
    });
}

/// Two of three brokers lose their disks and are replaced by empty ones, one after the other, under every other fault.
#[test]
fn brokers_that_lost_their_disks_are_replaced() {
    let test = "cluster::brokers_that_lost_their_disks_are_replaced";
    seeds::each(test, SEEDS_OF_REPLACEMENTS, ClusterPlan::with_replacements, |plan, trace| {
        run::run(plan, trace);
    });
}

/// Its connections break, and the followers do not wait for their election timeouts.
#[test]
fn a_killed_leader_is_followed_soon_after_the_lease() {
    for seed in 0..16 {
        let mut plan = ClusterPlan::of(3, seed, ["trim".to_owned()].into());
        (plan.lanes, plan.rough_ms, plan.keepers) = (1, 16_000, true);
        let lose = |at_ms| (at_ms, What::LoseLeader { lane: LaneId(1), within_ms: 800, down_ms: 1_000 });
        let events = [2_000, 6_000, 10_000].map(lose).into_iter().enumerate();
        plan.events = events.map(|(n, (at_ms, what))| event(&format!("kill {n}"), at_ms, what)).collect();
        run::run(plan, false);
    }
}
