//! The sweeper: ages by the store's clock, pages read once, nothing deleted by a leader that was deposed.

use tidewater_storage::model::Term;

use super::*;
use crate::archive::steps::StepSeries;
use crate::fetch::Indexes;
use crate::manifest::{Row, Source, SpillPage, SpillRow, encode_spill};

fn stray(bench: &Bench, id: PartitionId, nonce: u64) -> ObjectKey {
    let kind = ObjectKind::Segment { partition: id, base: Offset::new(nonce), term: Term(1), nonce: Nonce(nonce) };
    bench.bucket.home.name(kind).key()
}

fn put(bench: &Bench, key: &ObjectKey) {
    let store = bench.sim.store();
    let put = store.put(key, Bytes::from_static(b"stray"), crate::store::PutMode::Overwrite);
    bench.world.block_on(put).expect("puts");
}

fn sweep(bench: &Bench, archiver: &Archiver<Rc<SimLane>>) -> u64 {
    let before = archiver.status().swept;
    bench.world.block_on(archiver.housekeeping.sweep(&mut StepSeries::default())).expect("sweeps");
    archiver.status().swept - before
}

#[test]
fn an_upload_is_no_older_because_the_stores_clock_is_behind() {
    let bench = Bench::new(94, Faults::default(), 1);
    bench.live_for(Duration::from_secs(3), 6);
    bench.sim.set_clock_ahead(-3_600_000);
    let key = stray(&bench, bench.partitions[0], 7);
    put(&bench, &key);
    let archiver = bench.archiver();
    bench.world.run_for(Duration::from_secs(15));
    assert_eq!(sweep(&bench, &archiver), 0, "15 of 20 seconds");
    assert!(bench.sim.objects().contains_key(key.as_str()));
    bench.world.run_for(Duration::from_secs(10));
    assert_eq!(sweep(&bench, &archiver), 1);
    assert!(!bench.sim.objects().contains_key(key.as_str()));
}

#[test]
fn garbage_goes_although_the_stores_clock_is_ahead() {
    let bench = Bench::new(95, Faults::default(), 1);
    bench.live_for(Duration::from_secs(3), 6);
    bench.sim.set_clock_ahead(3_600_000);
    put(&bench, &stray(&bench, bench.partitions[0], 7));
    let archiver = bench.archiver();
    bench.world.run_for(Duration::from_secs(25));
    assert_eq!(sweep(&bench, &archiver), 1);
}

/// Moves the partition's rows into a page of the bucket.
fn spill_all(bench: &Bench, id: PartitionId) -> ObjectKey {
    let rows = bench.lane.with_partition(id, |m| m.rows.clone()).expect("there");
    assert!(rows.iter().all(|row| matches!(row.source, Source::Object { .. })), "{rows:?}");
    let kind = ObjectKind::Spill { partition: id, start: rows[0].offsets.start, level: 0, nonce: Nonce(1) };
    let page = bench.bucket.home.name(kind);
    let (object, index) = encode_spill(id, &SpillPage::Rows(rows.clone()));
    bench.sim.tamper(page.key().as_str(), Some(object.clone()));
    bench.lane.alter(id, |manifest| {
        let offsets = OffsetRange::new(manifest.first_covered(), manifest.archived_end);
        let (bytes, max_timestamp) = (manifest.bytes(), manifest.max_timestamp());
        manifest.rows.clear();
        manifest.spilled =
            vec![SpillRow { offsets, bytes, max_timestamp, page, size: object.len() as u32, crc: index.crc }];
    });
    page.key()
}

#[test]
fn spill_pages_are_read_once_a_sweep_and_keep_what_they_name() {
    let bench = Bench::new(96, Faults::default(), 1);
    let id = bench.partitions[0];
    (0..8).for_each(|_| bench.lane.append(id, 1, 700));
    bench.settle();
    let held: Vec<ObjectKey> =
        bench.lane.with_partition(id, |m| m.rows.iter().map(Row::object).map(|o| o.key()).collect()).expect("there");
    let page = spill_all(&bench, id);
    (0..2_500).for_each(|n| bench.sim.tamper(stray(&bench, id, 1_000 + n).as_str(), Some(Bytes::from_static(b"x"))));
    bench.world.run_for(Duration::from_secs(60));
    let archiver = Archiver::new(ArchiverParts {
        env: bench.env.clone(),
        host: Rc::new(Rc::clone(&bench.lane)),
        bucket: bench.bucket.clone(),
        catalogue: Rc::new(CatalogueKeeper::new(bench.bucket.clone(), bench.env.clock.clone())),
        // Without a cache every read of a page is a request.
        indexes: Indexes::new(bench.sim.store(), 0),
        config: bench.config.clone(),
    });
    let _ = bench.sim.take_log();
    assert_eq!(sweep(&bench, &archiver), 2_500);
    let gets = bench.sim.take_log().into_iter().filter(|request| *request == format!("get {page}")).count();
    assert_eq!(gets, 1);
    let left = bench.sim.objects();
    assert!(held.iter().chain([&page]).all(|key| left.contains_key(key.as_str())));
}

#[test]
fn objects_of_a_topic_that_this_node_does_not_know_yet_stay() {
    let bench = Bench::new(99, Faults::default(), 1);
    bench.live_for(Duration::from_secs(3), 6);
    let [deleted, new] = [partition(70, 0), partition(71, 0)];
    let keys = [deleted, new].map(|id| stray(&bench, id, 7));
    keys.iter().for_each(|key| put(&bench, key));
    bench.lane.not_known_yet.borrow_mut().insert(new);
    bench.world.run_for(Duration::from_secs(30));
    let archiver = bench.archiver();
    // Missed for as long as any lane may take to clean it up.
    assert_eq!(sweep(&bench, &archiver), 0);
    bench.world.run_for(Duration::from_secs(60));
    assert_eq!(sweep(&bench, &archiver), 1);
    let left = keys.map(|key| bench.sim.objects().contains_key(key.as_str()));
    assert_eq!(left, [false, true]);
}

#[test]
fn an_object_whose_row_is_spilled_between_two_listings_stays() {
    let bench = Bench::new(98, Faults::default(), 1);
    let id = bench.partitions[0];
    (0..60).for_each(|_| bench.lane.append(id, 1, 700));
    bench.settle();
    let held: Vec<ObjectKey> =
        bench.lane.with_partition(id, |m| m.rows.iter().map(Row::object).map(|o| o.key()).collect()).expect("there");
    // The first listing is full of garbage of the same partition: its pages, none yet, are read for that.
    let garbage = |nonce| {
        let (lane, sequence, term, nonce) = (bench.lane.lane(), Sequence::NONE, Term(0), Nonce(nonce));
        bench.bucket.home.name(ObjectKind::Part { partition: id, lane, sequence, term, nonce }).key()
    };
    (0..1_000).for_each(|n| bench.sim.tamper(garbage(n).as_str(), Some(Bytes::from_static(b"x"))));
    assert!(held.iter().any(|key| key > &garbage(999)), "the second listing has objects with rows");
    bench.world.run_for(Duration::from_secs(60));
    let archiver = bench.archiver();
    let running = archiver.clone();
    bench.sim.set_faults(Faults {
        latency_min: Duration::from_secs(1),
        latency_max: Duration::from_secs(2),
        ..Faults::default()
    });
    let task = bench.env.tasks.spawn("sweep", async move {
        let _ = running.housekeeping.sweep(&mut StepSeries::default()).await;
    });
    let _ = bench.sim.take_log();
    let first_is_judged = || bench.sim.take_log().iter().any(|request| request.starts_with("delete"));
    while !first_is_judged() {
        bench.world.run_for(Duration::from_millis(100));
    }
    let page = spill_all(&bench, id);
    bench.world.run_for(Duration::from_secs(30));
    drop(task);
    assert!(archiver.status().swept >= 1_000, "{}", archiver.status().swept);
    let left = bench.sim.objects();
    assert!(held.iter().chain([&page]).all(|key| left.contains_key(key.as_str())));
}

#[test]
fn a_leader_that_is_deposed_while_it_lists_deletes_nothing() {
    let bench = Bench::new(97, Faults::default(), 1);
    bench.live_for(Duration::from_secs(3), 6);
    let key = stray(&bench, bench.partitions[0], 7);
    put(&bench, &key);
    bench.world.run_for(Duration::from_secs(25));
    let later =
        ObjectKind::Segment { partition: bench.partitions[0], base: Offset::ZERO, term: Term(1_000), nonce: Nonce(8) };
    let later = bench.bucket.home.name(later).key();
    put(&bench, &later);
    bench.world.run_for(Duration::from_secs(25));
    let archiver = bench.archiver();
    let running = archiver.clone();
    let slow = Faults { latency_min: Duration::from_secs(1), latency_max: Duration::from_secs(2), ..Faults::default() };
    bench.sim.set_faults(slow);
    let task = bench.env.tasks.spawn("sweep", async move {
        let _ = running.housekeeping.sweep(&mut StepSeries::default()).await;
    });
    bench.world.run_for(Duration::from_secs(3));
    bench.lane.new_term();
    bench.world.run_for(Duration::from_secs(30));
    drop(task);
    assert!(bench.sim.objects().contains_key(key.as_str()), "another may lead");
    bench.sim.set_faults(Faults::default());
    assert_eq!(sweep(&bench, &bench.archiver()), 1);
    assert!(bench.sim.objects().contains_key(later.as_str()), "a later term wrote it");
}
