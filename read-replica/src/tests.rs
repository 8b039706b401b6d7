//! Following a source in a simulated world, while its archiver bundles, gathers, publishes, trims and deletes, over a
//! bucket that answers late, not at all, or badly.

#![allow(clippy::panic)]

mod bench;
mod faults;

use std::time::Duration;

use tidewater_storage::model::Offset;
use tidewater_tiering::store::Faults;

use bench::Bench;

#[test]
fn what_is_followed_is_what_the_source_archived_whatever_happens() {
    let seeds = std::env::var("TIDEWATER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let (mut read, mut rebased) = (0, 0);
    for seed in 0..seeds {
        let bench = Bench::new(seed, Faults::rough(), 4);
        bench.retain(0, 20_000);
        for _ in 0..4 {
            let down = bench.env.rng.below(5) == 0;
            bench.sim.set_faults(Faults { down, ..Faults::rough() });
            read += bench.live_for(Duration::from_millis(2_000 + bench.env.rng.below(9_000)), 6);
        }
        bench.settle();
        bench.equals_source();
        let status = bench.follower.status();
        rebased += status.requests.pages;
        assert_eq!(status.error, None);
    }
    assert!(read > 0 && rebased > 0, "{read} reads, {rebased} pages");
}

#[test]
fn objects_that_are_deleted_under_a_reader_are_found_where_they_went() {
    // The manifest is looked at only because a reader asks.
    let bench = Bench::with_manifests_every(31, Faults::default(), 2, Duration::from_secs(100_000));
    for _ in 0..3 {
        (0..30).for_each(|_| bench.lane.append(bench.partitions[0], 3, 200));
        bench.lane.append(bench.partitions[1], 1, 50);
        bench.live_for(Duration::from_secs(4), 0);
    }
    bench.settle();
    let before = bench.follower.status().requests;
    assert!(bench.rows_are_gone(), "the rows that are known name objects that were deleted");
    bench.equals_source();
    let after = bench.follower.status().requests;
    assert!(after.manifests > before.manifests && after.pages > before.pages, "{before:?} {after:?}");
}

#[test]
fn an_idle_lane_costs_a_look_every_five_seconds_and_a_manifest_a_minute() {
    let bench = Bench::with_manifests_every(32, Faults::default(), 2, Duration::from_secs(60));
    bench.lane.append(bench.partitions[0], 3, 200);
    bench.live_for(Duration::from_secs(30), 0);
    bench.world.run_for(Duration::from_secs(120));
    let before = bench.follower.status();
    bench.world.run_for(Duration::from_secs(3600));
    let after = bench.follower.status();
    let looks = after.requests.missing - before.requests.missing;
    let manifests = after.requests.manifests - before.requests.manifests;
    assert!((3600 / 5 - 30..=3600 / 5).contains(&looks), "{looks} looks an hour");
    assert!((55..=60).contains(&manifests), "{manifests} manifests an hour");
    assert_eq!(after.requests.total() - before.requests.total(), looks + manifests);
    assert!(after.lag_ms.is_some_and(|lag| lag <= 5_100), "{after:?}");
}

#[test]
fn a_reader_at_the_end_has_what_is_archived_within_a_poll() {
    let bench = Bench::new(33, Faults::default(), 1);
    bench.lane.append(bench.partitions[0], 3, 200);
    bench.live_for(Duration::from_secs(10), 2);
    let end = || bench.follower.partition(bench.partitions[0]).high_watermark();
    bench.settle();
    let before = end();
    let task = bench.archive();
    bench.lane.append(bench.partitions[0], 3, 200);
    let mut waited = 0;
    while end() == before {
        bench.world.run_for(Duration::from_millis(10));
        waited += 10;
    }
    task.cancel();
    assert_eq!(end(), Offset::new(before.get() + 3));
    // The lag of the lane is 200 ms, a poll at most 500, and the archiver looks first at what is there.
    assert!(waited <= 1000, "{waited} ms");
    assert!(bench.changes.borrow().contains(&bench.partitions[0]), "its readers are woken");
}
