//! Two leaders of one lane at a time: one that is cut off from its peers but not from the bucket, and its successor.

use tidewater_storage::model::Term;

use super::*;
use crate::manifest::PartitionManifest;
use crate::store::PutMode;

/// Objects that the lane is going to delete.
fn pending(lane: &Rc<SimLane>) -> usize {
    lane.with_manifests(|lane, partitions| {
        lane.pending.len()
            + partitions.iter().map(|manifest: &&PartitionManifest| manifest.pending.len()).sum::<usize>()
    })
}

/// The leader is cut off while objects wait for their grace; the bench goes on with its successor.
fn cut_off(bench: Bench) -> (Bench, Rc<SimLane>) {
    let old = Rc::clone(&bench.lane);
    old.cut_off.set(true);
    let successor = old.backup();
    successor.new_term();
    (Bench { lane: successor, ..bench }, old)
}

#[test]
fn a_leader_that_is_cut_off_for_longer_than_the_grace_deletes_nothing() {
    let bench = Bench::new(100, Faults::default(), 2);
    bench.live_for(Duration::from_secs(6), 6);
    let archiver = bench.archiver();
    let running = archiver.clone();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    bench.append_some(12);
    // Until all is archived, replaced and published, and some of it waits for its grace.
    bench.world.run_for(Duration::from_secs(12));
    let stray =
        ObjectKind::Segment { partition: bench.partitions[0], base: Offset::ZERO, term: Term(1), nonce: Nonce(7) };
    let stray = bench.bucket.home.name(stray).key();
    bench
        .world
        .block_on(bench.sim.store().put(&stray, Bytes::from_static(b"stray"), PutMode::Overwrite))
        .expect("puts");
    assert!(pending(&bench.lane) > 0, "something is to be deleted");
    let (bench, old) = cut_off(bench);
    let before = bench.sim.objects();
    bench.world.run_for(Duration::from_secs(90));
    let after = bench.sim.objects();
    let gone: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    assert_eq!(gone, Vec::<&String>::new(), "another leader may need them");
    assert!(pending(&old) > 0);
    // Its successor goes on beside it, and cleans up.
    for _ in 0..4 {
        bench.live_for(Duration::from_secs(8), 6);
    }
    bench.settle();
    task.cancel();
    bench.all_reads_back();
    assert!(!bench.sim.objects().contains_key(stray.as_str()), "its successor removes it");
    assert_eq!(bench.orphans(), Vec::<String>::new());
}

#[test]
fn a_bundle_of_a_deposed_leader_that_arrives_late_is_adopted_or_garbage() {
    let bench = Bench::new(101, Faults::default(), 2);
    bench.live_for(Duration::from_secs(6), 6);
    bench.append_some(12);
    let next = bench.lane.with_lane(|lane| lane.next_bundle());
    // The old leader has applied these records. It puts its bundle and does not learn what became of it.
    let (bench, old) = cut_off(bench);
    let before = bench.sim.objects();
    let archiver = Archiver::new(ArchiverParts {
        env: bench.env.clone(),
        host: Rc::new(Rc::clone(&old)),
        bucket: bench.bucket.clone(),
        catalogue: Rc::new(CatalogueKeeper::new(bench.bucket.clone(), bench.env.clock.clone())),
        indexes: bench.reader.indexes(),
        config: bench.config.clone(),
    });
    let running = archiver.clone();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    bench.world.run_for(Duration::from_secs(5));
    let late = bench.sim.objects().get(next.key().as_str()).cloned().expect("the old leader put it");
    assert!(!before.contains_key(next.key().as_str()));
    let adopted = bench.done.borrow().adopted;
    bench.live_for(Duration::from_secs(3), 0);
    assert_eq!(bench.done.borrow().adopted, adopted + 1, "it continues what is archived");
    for _ in 0..5 {
        bench.live_for(Duration::from_secs(8), 6);
    }
    bench.settle();
    task.cancel();
    assert!(!bench.sim.objects().contains_key(next.key().as_str()), "gathered and deleted");
    // The same PUT again, as late as can be: the key is free once more.
    bench.sim.tamper(next.key().as_str(), Some(late));
    bench.live_for(Duration::from_secs(8), 6);
    bench.settle();
    assert!(!bench.sim.objects().contains_key(next.key().as_str()), "nothing names it");
    bench.all_reads_back();
    assert_eq!(bench.orphans(), Vec::<String>::new());
}
