//! A bucket that loses objects while its cluster runs: what the broker still has stays, and nothing new hides the loss.

use super::*;

/// A bench whose lane has published, with an archiver that runs.
struct Running {
    bench: Bench,
    archiver: Archiver<Rc<SimLane>>,
}

impl Running {
    fn new(seed: u64) -> Self {
        let bench = Bench::new(seed, Faults::default(), 3);
        bench.live_for(Duration::from_secs(6), 6);
        let archiver = bench.archiver();
        let running = archiver.clone();
        drop(bench.env.tasks.spawn("archiver", async move { running.run().await }));
        let found = Self { bench, archiver };
        found.go_on(Duration::from_secs(6));
        assert!(found.archiver.status().probed && found.bench.lane.unarchived().is_empty());
        assert!(found.bench.sim.objects().contains_key(found.manifest().as_str()), "it has published");
        found
    }

    fn manifest(&self) -> ObjectKey {
        self.bench.bucket.home.lane_manifest(self.bench.lane.lane()).key()
    }

    fn go_on(&self, time: Duration) {
        self.bench.append_some(9);
        self.bench.world.run_for(time);
    }
}

#[test]
fn a_lane_manifest_that_is_gone_stops_the_lane_until_it_is_put_back() {
    let running = Running::new(81);
    let (bench, key) = (&running.bench, running.manifest());
    let held = bench.sim.objects()[key.as_str()].clone();
    bench.sim.tamper(key.as_str(), None);
    running.go_on(Duration::from_secs(10));
    let status = running.archiver.status();
    assert!(status.stopped.as_ref().is_some_and(|why| why.contains("is gone from the bucket")), "{status:?}");
    assert!(!status.probed, "nothing is trimmed here");
    assert!(!bench.sim.objects().contains_key(key.as_str()), "a new manifest would hide what is lost");
    let bundles = status.bundles;
    running.go_on(Duration::from_secs(10));
    assert_eq!(running.archiver.status().bundles, bundles);

    assert!(bench.world.block_on(running.archiver.resume()).expect("resumes").is_some());
    bench.world.run_for(Duration::from_secs(10));
    assert!(running.archiver.status().stopped.is_some(), "it is gone still");
    bench.sim.tamper(key.as_str(), Some(held));
    assert!(bench.world.block_on(running.archiver.resume()).expect("resumes").is_some());
    bench.world.run_for(Duration::from_secs(20));
    assert!(bench.lane.unarchived().is_empty(), "{:?}", running.archiver.status());
    assert!(running.archiver.status().probed && running.archiver.status().stopped.is_none());
    bench.all_reads_back();
}

#[test]
fn the_next_archiver_does_not_take_an_emptied_lane_for_a_new_one() {
    let running = Running::new(82);
    let (bench, key) = (&running.bench, running.manifest());
    bench.lane.new_term();
    bench.world.run_for(Duration::from_secs(1));
    bench.sim.tamper(key.as_str(), None);
    bench.live_for(Duration::from_secs(10), 6);
    let stopped = bench.archiver().status().stopped;
    assert!(stopped.as_ref().is_some_and(|why| why.contains("is gone from the bucket")), "{stopped:?}");
}

#[test]
fn while_the_root_is_gone_too_the_lane_waits_and_goes_on_by_itself() {
    let running = Running::new(83);
    let (bench, key) = (&running.bench, running.manifest());
    let held = bench.sim.objects();
    bench.sim.wipe();
    running.go_on(Duration::from_secs(20));
    let status = running.archiver.status();
    assert_eq!(status.stopped, None, "the bucket is away");
    assert!(!status.probed, "nothing is trimmed here");
    assert!(status.failing.as_ref().is_some_and(|why| why.contains("the bucket is away")), "{status:?}");
    assert!(!bench.sim.objects().contains_key(key.as_str()));
    held.into_iter().for_each(|(key, body)| bench.sim.tamper(&key, Some(body)));
    bench.world.run_for(Duration::from_secs(20));
    assert!(bench.lane.unarchived().is_empty(), "{:?}", running.archiver.status());
    assert!(running.archiver.status().probed);
    bench.all_reads_back();
}
