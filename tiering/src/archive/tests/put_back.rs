//! A data directory from a backup under a bucket that went on: it is noticed, and what is newer stays.

use tidewater_storage::model::Term;

use super::*;

/// A bench whose lane is put back to where it was before all its later bundles were gathered and deleted.
fn put_back(seed: u64) -> Bench {
    let bench = Bench::new(seed, Faults::default(), 3);
    bench.live_for(Duration::from_secs(6), 6);
    bench.live_for(Duration::from_secs(6), 6);
    let backup = bench.lane.backup();
    for _ in 0..6 {
        bench.live_for(Duration::from_secs(8), 6);
    }
    bench.settle();
    let next = backup.with_lane(|lane| lane.next_bundle());
    assert!(!bench.sim.objects().contains_key(next.key().as_str()), "gathered and deleted");
    let published = PublishedLane::decode(&bench.sim.objects()[manifest(&bench).as_str()]).expect("decodes");
    assert!(published.follow_from > backup.with_lane(|lane| lane.last.next()));
    Bench { lane: backup, ..bench }
}

fn manifest(bench: &Bench) -> ObjectKey {
    bench.bucket.home.lane_manifest(bench.lane.lane()).key()
}

/// Runs the lane that was put back, with new records, and asserts that it leaves the bucket alone and says so.
fn stops(bench: &Bench, case: &str, reason: &str) {
    let before = bench.sim.objects();
    let (published, swept) = (bench.done.borrow().published, bench.done.borrow().swept);
    for _ in 0..4 {
        bench.live_for(Duration::from_secs(30), 6);
    }
    let stopped = bench.archiver().status().stopped;
    assert!(stopped.as_ref().is_some_and(|why| why.contains(reason)), "{case}: {stopped:?}");
    assert!(bench.sim.objects() == before, "{case}: the bucket is as it was");
    assert_eq!((bench.done.borrow().published, bench.done.borrow().swept), (published, swept), "{case}");
}

#[test]
fn a_data_directory_put_back_from_a_backup_stops_before_it_writes() {
    for (case, terms, entries) in [
        ("as it was", 0, 0),
        ("a higher term", 100, 0),
        ("more entries", 0, 1_000_000),
        ("a higher term and more entries", 100, 1_000_000),
    ] {
        let bench = put_back(70);
        bench.lane.advance(terms, entries);
        stops(&bench, case, "entries are lost here");
    }
}

/// A lane that is put back below a bundle that still lies there, of which nothing is published.
fn below_a_bundle(seed: u64) -> Bench {
    let bench = Bench::new(seed, Faults::default(), 3);
    bench.live_for(Duration::from_secs(6), 6);
    let bench = Bench { config: ArchiveConfig { publish_interval: Duration::from_secs(1000), ..quick() }, ..bench };
    let running = bench.archiver();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    // It publishes once, at its start.
    bench.world.run_for(Duration::from_secs(3));
    let backup = bench.lane.backup();
    bench.partitions.iter().for_each(|id| bench.lane.append(*id, 1, 100));
    bench.world.run_for(Duration::from_secs(3));
    task.cancel();
    let next = backup.with_lane(|lane| lane.next_bundle());
    assert!(bench.sim.objects().contains_key(next.key().as_str()));
    Bench { lane: backup, config: quick(), ..bench }
}

#[test]
fn bundles_that_still_lie_there_are_not_taken_for_the_lanes_own() {
    stops(&below_a_bundle(71), "as it was", "entries are lost here");
    let bench = below_a_bundle(71);
    bench.lane.advance(1, 1_000);
    stops(&bench, "more entries and no records", "other records");
    let bench = below_a_bundle(71);
    bench.lane.advance(1, 1_000);
    bench.partitions.iter().for_each(|id| bench.lane.append(*id, 1, 100));
    stops(&bench, "more entries and other records", "other records");
}

#[test]
fn a_manifest_of_a_later_term_stops_the_lane_that_meets_it() {
    let bench = Bench::new(72, Faults::default(), 2);
    bench.live_for(Duration::from_secs(6), 6);
    let archiver = bench.archiver();
    let running = archiver.clone();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    bench.world.run_for(Duration::from_secs(1));
    let key = manifest(&bench);
    let mut newer = PublishedLane::decode(&bench.sim.objects()[key.as_str()]).expect("decodes");
    newer.term = Term(newer.term.0 + 50);
    bench.sim.tamper(key.as_str(), Some(newer.encode()));
    let newer = bench.sim.objects()[key.as_str()].clone();
    for _ in 0..10 {
        bench.append_some(10);
        bench.world.run_for(Duration::from_secs(2));
    }
    let stopped = archiver.status().stopped;
    assert!(stopped.as_ref().is_some_and(|why| why.contains("entries are lost here")), "{stopped:?}");
    assert!(bench.sim.objects()[key.as_str()] == newer, "it was not overwritten");
    task.cancel();
}
