//! A wall clock that jumps: what was forgotten stays for the grace, and no longer than that.

use super::*;

/// Runs an archiver until something forgotten was published; it has not been deleted yet then.
fn until_forgotten(bench: &Bench) -> Archiver<Rc<SimLane>> {
    let archiver = bench.archiver();
    let running = archiver.clone();
    drop(bench.env.tasks.spawn("archiver", async move { running.run().await }));
    let is_forgotten = || {
        let pending =
            |lane: &LaneManifest| lane.pending.values().any(|pending| lane.forgotten_since(pending.intended).is_some());
        bench.lane.with_lane(pending)
    };
    for _ in 0..100 {
        bench.append_some(2);
        bench.world.run_for(Duration::from_millis(500));
        if is_forgotten() {
            assert_eq!(archiver.status().deleted, 0);
            return archiver;
        }
    }
    panic!("nothing was forgotten: {:?}", archiver.status());
}

#[test]
fn an_hour_forward_deletes_nothing_before_the_grace_has_passed() {
    let bench = Bench::new(80, Faults::default(), 2);
    let archiver = until_forgotten(&bench);
    bench.world.step_wall(3_600_000);
    bench.world.run_for(Duration::from_secs(15));
    assert_eq!(archiver.status().deleted, 0, "15 of 20 seconds");
    bench.world.run_for(Duration::from_secs(15));
    assert!(archiver.status().deleted > 0);
}

#[test]
fn an_hour_back_keeps_nothing_for_an_hour() {
    let bench = Bench::new(81, Faults::default(), 2);
    let archiver = until_forgotten(&bench);
    bench.world.step_wall(-3_600_000);
    bench.world.run_for(Duration::from_secs(15));
    assert_eq!(archiver.status().deleted, 0, "15 of 20 seconds");
    bench.world.run_for(Duration::from_secs(30));
    assert!(archiver.status().deleted > 0);
}
