//! Cuts made beside an archiver that gathers, trims and deletes: each one that is kept restores, byte for byte.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use tidewater_storage::env::Mono;
use tidewater_storage::model::LeaderEpoch;

use super::restored::{archived, begin, of, reborn, to_the_end};
use super::*;
use crate::cuts::{Cut, CutDone, CutError, CutIndex, CutMaker, Unsettled, part_of, read_index};
use crate::manifest::{Catalogue, CataloguePartition, PublishedLane, is_manifest_page};
use crate::restore::{Attempt, RestoreError};
use crate::store::Faults;

impl Bench {
    pub(super) fn maker(&self) -> CutMaker {
        let within = part_of(self.config.delete_grace);
        let (home, indexes) = (self.bucket.home, self.reader.indexes());
        let unsettled = Unsettled::default();
        CutMaker { store: self.sim.store(), home, indexes, within, unsettled, in_use: BTreeSet::new() }
    }

    pub(super) async fn cut(&self, maker: &CutMaker) -> Result<CutDone, CutError> {
        let clock = || (self.env.clock.wall(), self.env.clock.now().since(Mono::default()));
        maker.make(Nonce(self.env.rng.next_u64()), clock).await
    }

    pub(super) fn index(&self) -> CutIndex {
        self.sim.set_faults(Faults::default());
        self.world.block_on(read_index(&*self.sim.store(), self.bucket.home)).expect("reads").0
    }

    /// Partitions trim what is beyond some 20 kB.
    fn forgetful(&self) {
        let policy = RetentionPolicy { retention_ms: None, retention_bytes: Some(20_000) };
        for id in &self.partitions {
            let mut logs = self.lane.logs.borrow_mut();
            let facts = logs.get_mut(id).and_then(|log| log.facts.as_mut()).expect("there");
            facts.retention = policy;
            // Two partitions a topic.
            let (lane, epoch_base) = (self.lane.lane(), LeaderEpoch(0));
            facts.catalogue.partitions = vec![CataloguePartition { incarnation: id.incarnation, lane, epoch_base }; 2];
        }
    }
}

/// What was archived when the making of each cut began, by its number.
pub(super) type Known = Rc<RefCell<BTreeMap<u64, Vec<(PartitionId, Offset)>>>>;

pub(super) fn with_cuts(seed: u64) -> (Rc<Bench>, Known) {
    let bench = Rc::new(Bench::new(seed, Faults::rough(), 4));
    bench.forgetful();
    let known = Known::default();
    let (making, noted) = (Rc::clone(&bench), Rc::clone(&known));
    let task = bench.env.tasks.spawn("cuts", async move {
        let maker = making.maker();
        loop {
            making.env.tasks.sleep(Duration::from_millis(making.env.rng.below(20_000))).await;
            let before = archived(&making);
            if let Ok(CutDone { newest: Some(cut), made: true, .. }) = making.cut(&maker).await {
                noted.borrow_mut().insert(cut.number, before);
            }
        }
    });
    for _ in 0..4 {
        bench.sim.set_faults(Faults::rough());
        bench.live_for(Duration::from_secs(50), 12);
    }
    task.cancel();
    (bench, known)
}

#[test]
fn every_cut_that_is_kept_restores_although_the_cluster_went_on_and_deleted() {
    let (mut went_back, mut restored) = (0, 0);
    for seed in 0..8 {
        let (bench, known) = with_cuts(900 + seed);
        bench.settle();
        let index = bench.index();
        let chosen = index.cuts[bench.env.rng.below(index.cuts.len() as u64) as usize].clone();
        let known = known.borrow().get(&chosen.number).cloned().unwrap_or_default();
        let last = archived(&bench);
        let env = bench.world.env_of(20);
        bench.sim.set_faults(Faults::rough());
        let attempt = bench.world.block_on(async {
            let attempt = begin(&of(&bench, &env), 1, false).await.expect("begins");
            let attempt = Attempt { cut: Some(chosen.number), ..attempt };
            to_the_end(&bench, &env, attempt).await.map(|()| attempt)
        });
        let attempt = attempt.unwrap_or_else(|error| unreachable!("seed {seed}, cut {}: {error}", chosen.number));
        let next = reborn(&bench, &attempt, &known);
        next.all_reads_back();
        went_back += usize::from(archived(&next) != last);
        restored += 1;
        assert_eq!(bench.index().closed_for, Some(attempt.epoch), "the cut stays");
        let late = bench.world.block_on(bench.cut(&bench.maker()));
        assert!(matches!(late, Err(CutError::Closed { .. })), "{late:?}");
        for _ in 0..2 {
            next.sim.set_faults(Faults::rough());
            next.live_for(Duration::from_secs(10), 6);
            next.named_objects_exist();
        }
        next.settle();
        next.all_reads_back();
    }
    assert!(went_back * 2 > restored, "{went_back} of {restored} restores went back to something older");
}

/// Objects that wait for their deletion.
fn waiting(bench: &Bench) -> usize {
    bench.lane.with_manifests(|lane, all| {
        lane.pending.len() + all.iter().map(|manifest| manifest.pending.len()).sum::<usize>()
    })
}

#[test]
fn what_cuts_held_goes_once_they_are_released() {
    let (bench, _) = with_cuts(950);
    bench.settle();
    let kept = bench.index().cuts;
    assert!(bench.index().horizon(bench.lane.lane()).is_some());
    let held = waiting(&bench);
    bench.world.block_on(bench.maker().release_all(bench.env.clock.wall())).expect("released");
    assert_eq!(bench.index().cuts, []);
    bench.settle();
    assert!(held > 20 && waiting(&bench) * 4 < held, "{held} objects were held, {} are left", waiting(&bench));
    let orphans: Vec<String> = bench.orphans().into_iter().filter(|key| !key.contains("/cuts/")).collect();
    assert_eq!(orphans, Vec::<String>::new());
    let left = kept.iter().filter(|cut| bench.sim.objects().contains_key(cut.key(bench.bucket.home).as_str())).count();
    assert_eq!(left, 0, "released cuts are deleted");
}

#[test]
fn a_lane_that_lists_too_many_objects_releases_the_oldest_cut_and_not_the_newest() {
    let (bench, _) = with_cuts(951);
    bench.settle();
    let (before, waiting) = (bench.index().cuts, waiting(&bench));
    assert!(before.len() > 2 && waiting > 20, "{} cuts, {waiting} objects", before.len());
    let relieved = |max: (usize, usize)| {
        let mut config = bench.config.clone();
        config.pending_max = max;
        let archiver = bench.archiver_with(config);
        let task = bench.env.tasks.spawn("archiver", async move { archiver.run().await });
        bench.world.run_for(Duration::from_secs(120));
        task.cancel();
        bench.index().cuts
    };
    assert_eq!(relieved((waiting * 2, waiting * 2)), before, "there is room");
    let kept = relieved((waiting * 2, waiting / 2));
    assert!(kept.len() < before.len() && before.ends_with(&kept), "{kept:?} of {before:?}");
    let gone = before.iter().filter(|cut| !kept.contains(cut));
    assert!(gone.clone().all(|cut| !bench.sim.objects().contains_key(cut.key(bench.bucket.home).as_str())));
    assert_eq!(relieved((0, usize::MAX)), before[before.len() - 1..], "the newest stays");
}

#[test]
fn pages_that_publications_replaced_go_unless_a_kept_cut_names_them() {
    let (bench, _) = with_cuts(960);
    bench.settle();
    let (lane, objects) = (bench.lane.lane(), bench.sim.objects());
    let mut in_cuts = BTreeSet::new();
    for entry in bench.index().cuts {
        let cut = Cut::decode(&objects[entry.key(bench.bucket.home).as_str()]).expect("reads");
        for manifest in cut.lanes.iter().filter(|state| state.lane == lane).filter_map(|state| state.manifest.as_ref())
        {
            let published = PublishedLane::decode(manifest).expect("reads");
            in_cuts.extend(published.pages.iter().map(|page| page.page));
            in_cuts.extend(published.objects.iter().flatten().map(|page| page.page));
        }
    }
    assert!(in_cuts.len() > 3, "{in_cuts:?}");
    assert!(in_cuts.iter().all(|page| objects.contains_key(page.key().as_str())), "cuts hold their pages");
    // What the last publication replaced waits for the next.
    let waiting: BTreeSet<ObjectName> = bench.lane.with_lane(|lane| {
        let forgotten = lane.pending.iter().filter(|(_, pending)| lane.forgotten_since(pending.intended).is_some());
        forgotten.map(|(object, _)| *object).filter(is_manifest_page).collect()
    });
    assert!(!waiting.is_empty() && waiting.is_subset(&in_cuts), "{waiting:?} beside {in_cuts:?}");
}

#[test]
fn an_idle_cluster_makes_no_second_cut_and_writes_nothing() {
    let bench = Bench::new(960, Faults::default(), 2);
    let maker = bench.maker();
    let nothing = bench.world.block_on(bench.cut(&maker)).expect("looks");
    assert_eq!((nothing.newest, nothing.made), (None, false), "nothing was archived");
    bench.live_for(Duration::from_secs(5), 6);
    bench.settle();
    let first = bench.world.block_on(bench.cut(&maker)).expect("makes one");
    assert!(first.made);
    let before: Vec<String> = bench.sim.objects().into_keys().collect();
    for _ in 0..100 {
        bench.world.run_for(Duration::from_secs(60));
        let done = bench.world.block_on(bench.cut(&maker)).expect("looks");
        assert_eq!((done.made, done.released, &done.newest), (false, 0, &first.newest));
    }
    assert_eq!(bench.sim.objects().into_keys().collect::<Vec<_>>(), before);
    bench.append_some(5);
    bench.settle();
    assert!(bench.world.block_on(bench.cut(&maker)).expect("makes one").made);
}

#[test]
fn makers_that_race_are_dropped_or_late_leave_an_index_that_names_what_is_there() {
    for seed in 0..10 {
        let bench = Rc::new(Bench::new(970 + seed, Faults::rough(), 2));
        let makers: Vec<_> = (0..3)
            .map(|_| {
                let bench = Rc::clone(&bench);
                bench.clone().env.tasks.spawn("cuts", async move {
                    let maker = bench.maker();
                    loop {
                        let patience = Duration::from_millis(bench.env.rng.below(3_000));
                        let (make, late) = (bench.cut(&maker), bench.env.tasks.sleep(patience));
                        select(std::pin::pin!(make), std::pin::pin!(late)).await;
                        bench.env.tasks.sleep(Duration::from_millis(bench.env.rng.below(500))).await;
                    }
                })
            })
            .collect();
        bench.live_for(Duration::from_secs(30), 12);
        makers.into_iter().for_each(|task| task.cancel());
        bench.world.run_for(Duration::from_secs(30));
        let (index, objects) = (bench.index(), bench.sim.objects());
        assert!(!index.cuts.is_empty());
        let env = bench.world.env_of(20);
        for cut in &index.cuts {
            assert!(objects.contains_key(cut.key(bench.bucket.home).as_str()), "seed {seed}: cut {}", cut.number);
            let report = bench.world.block_on(of(&bench, &env).survey_cut(cut.number)).expect("reads");
            assert!(!report.damaged, "{report:?}");
        }
        let gone = bench.world.block_on(of(&bench, &env).survey_cut(index.next));
        assert!(matches!(gone, Err(RestoreError::NoCut { .. })));
        let newest = bench.world.block_on(of(&bench, &env).cut_at(None)).expect("there is one");
        assert_eq!(Some(&newest), index.cuts.last());
    }
}

/// Two seconds of life, all of it archived and published.
pub(super) fn quiet_bench(seed: u64) -> Bench {
    let bench = Bench::new(seed, Faults::default(), 2);
    bench.live_for(Duration::from_secs(2), 6);
    bench.settle();
    bench.sim.set_faults(Faults::default());
    bench
}

/// A clock of which each reading is `times[n]` after `begin`, and later ones the last of them.
fn clock_of<const N: usize>(begin: TimestampMs, times: [Duration; N]) -> impl Fn() -> (TimestampMs, Duration) {
    let next = Cell::new(0);
    move || {
        let time = times[next.get().min(N - 1)];
        next.set(next.get() + 1);
        (TimestampMs(begin.0 + i64::try_from(time.as_millis()).expect("short")), time)
    }
}

impl Bench {
    pub(super) fn index_key(&self) -> String {
        self.bucket.home.cuts_key().as_str().to_owned()
    }

    fn manifest_key(&self) -> String {
        self.bucket.home.lane_manifest(self.lane.lane()).key().as_str().to_owned()
    }
}

#[test]
fn a_time_before_the_last_read_does_not_find_the_cut() {
    let bench = quiet_bench(980);
    let (begin, ms) = (bench.env.clock.wall(), Duration::from_millis);
    let clock = clock_of(begin, [ms(0), ms(700)]);
    let made = bench.world.block_on(bench.maker().make(Nonce(1), clock)).expect("made");
    let index = bench.index();
    assert_eq!(made.newest.as_ref(), index.cuts.last());
    let found = |after: i64| index.find(Some(TimestampMs(begin.0 + after))).map(|cut| cut.number);
    assert_eq!((found(699), found(700)), (None, Some(1)));
    let env = bench.world.env_of(20);
    bench.world.block_on(of(&bench, &env).survey_cut(1)).expect("the cut says the same time");
}

#[test]
fn what_is_too_old_is_released_although_no_cut_can_be_made() {
    let (day, bench) = (Duration::from_secs(24 * 3600), quiet_bench(981));
    let maker = bench.maker();
    let cut = bench.world.block_on(bench.cut(&maker)).expect("made").newest.expect("one");
    // A hole: a bundle after the next one.
    let bundle = |sequence: Sequence| bench.bucket.home.bundle(bench.lane.lane(), sequence).key();
    let last = cut.lanes[0].last;
    let body = bench.sim.objects()[bundle(last).as_str()].clone();
    bench.sim.tamper(bundle(last.next().next()).as_str(), Some(body));
    for (days, kept) in [(6, 1), (8, 0)] {
        let clock = clock_of(bench.env.clock.wall(), [day * days]);
        let failed = bench.world.block_on(maker.make(Nonce(2), clock));
        assert!(matches!(failed, Err(CutError::Damaged { .. })), "{failed:?}");
        assert_eq!(bench.index().cuts.len(), kept, "after {days} days");
    }
    assert!(!bench.sim.objects().contains_key(cut.key(bench.bucket.home).as_str()));
}

#[test]
fn a_cut_that_is_noted_too_late_is_taken_out_again_although_the_answer_was_lost() {
    let bench = quiet_bench(982);
    let (maker, begin) = (bench.maker(), bench.env.clock.wall());
    let in_time = clock_of(begin, [Duration::ZERO]);
    bench.world.block_on(maker.make(Nonce(3), in_time)).expect("made");
    let (noted, cut) = (bench.index().encode(), bench.index().cuts[0].clone());
    bench.sim.tamper(&bench.index_key(), None);
    bench.sim.tamper(cut.key(bench.bucket.home).as_str(), None);
    // The same maker's put arrives before the one that is answered; then time passes.
    let readings = Cell::new(0);
    let clock = || {
        readings.set(readings.get() + 1);
        if readings.get() == 3 {
            bench.sim.tamper(&bench.index_key(), Some(noted.clone()));
        }
        if readings.get() > 3 { (begin, maker.within * 3 + Duration::from_secs(1)) } else { (begin, Duration::ZERO) }
    };
    let late = bench.world.block_on(maker.make(Nonce(3), clock));
    assert!(matches!(late, Err(CutError::Slow { .. })), "{late:?}");
    assert_eq!(bench.index().cuts, []);
    assert!(!bench.sim.objects().contains_key(cut.key(bench.bucket.home).as_str()));
}

#[test]
fn lanes_are_read_again_if_a_topic_is_gone_by_the_last_read_of_the_catalogue() {
    let bench = Rc::new(quiet_bench(983));
    let latency = Duration::from_millis(10);
    bench.sim.set_faults(Faults { latency_min: latency, latency_max: latency, ..Faults::default() });
    let catalogue = bench.bucket.home.name(ObjectKind::Catalogue).key();
    let _ = bench.sim.take_log();
    let making = Rc::clone(&bench);
    let made = Rc::new(RefCell::new(None));
    let noted = Rc::clone(&made);
    let task = bench.env.tasks.spawn("cut", async move {
        let done = making.cut(&making.maker()).await;
        *noted.borrow_mut() = Some(done);
    });
    let mut log: Vec<String> = Vec::new();
    let reads = |log: &[String], key: &str| log.iter().filter(|line| **line == format!("get {key}")).count();
    while reads(&log, catalogue.as_str()) == 0 {
        bench.world.run_for(Duration::from_millis(1));
        log.extend(bench.sim.take_log());
    }
    let mut without = Catalogue::decode(&bench.sim.objects()[catalogue.as_str()]).expect("reads");
    let gone = without.topics.remove(0);
    without.revision += 1;
    bench.sim.tamper(catalogue.as_str(), Some(without.encode()));
    bench.world.run_for(Duration::from_secs(2));
    log.extend(bench.sim.take_log());
    drop(task);
    let done = made.borrow_mut().take().expect("ended").expect("made");
    assert_eq!(done.newest.expect("one").catalogue, without.revision, "without {}", gone.name);
    assert_eq!(reads(&log, &bench.manifest_key()), 2, "{log:#?}");
}

#[test]
fn a_damaged_manifest_of_now_does_not_hold_up_a_restore_to_a_cut_that_has_a_good_one() {
    let bench = quiet_bench(984);
    let known = archived(&bench);
    bench.world.block_on(bench.cut(&bench.maker())).expect("made");
    bench.append_some(5);
    bench.settle();
    bench.sim.tamper(&bench.manifest_key(), Some(Bytes::from_static(b"damaged")));
    let env = bench.world.env_of(20);
    let report = bench.world.block_on(of(&bench, &env).survey_cut(1)).expect("surveyed");
    assert!(!report.damaged, "{report:?}");
    let attempt = bench.world.block_on(async {
        let attempt = begin(&of(&bench, &env), 1, false).await.expect("begins");
        let attempt = Attempt { cut: Some(1), ..attempt };
        to_the_end(&bench, &env, attempt).await.map(|()| attempt)
    });
    let attempt = attempt.expect("restored");
    let closed = PublishedLane::decode(&bench.sim.objects()[&bench.manifest_key()]).expect("reads again");
    assert_eq!(closed.closed_for, Some(attempt.epoch));
    reborn(&bench, &attempt, &known).all_reads_back();
}

#[test]
fn what_ending_the_source_needs_is_looked_at_before_anything_is_changed() {
    let bench = quiet_bench(985);
    bench.world.block_on(bench.cut(&bench.maker())).expect("made");
    let catalogue = bench.bucket.home.name(ObjectKind::Catalogue).key();
    bench.sim.tamper(catalogue.as_str(), Some(Bytes::from_static(b"damaged")));
    let env = bench.world.env_of(20);
    let refused = bench.world.block_on(of(&bench, &env).survey_cut(1));
    assert!(matches!(&refused, Err(RestoreError::Unreadable { key, .. }) if *key == catalogue), "{refused:?}");
}

#[test]
fn a_restore_to_a_cut_that_was_released_meanwhile_ends_no_lane() {
    let bench = quiet_bench(986);
    bench.world.block_on(bench.cut(&bench.maker())).expect("made");
    let env = bench.world.env_of(20);
    let outcome = bench.world.block_on(async {
        let attempt = begin(&of(&bench, &env), 1, false).await.expect("begins");
        bench.maker().release_all(bench.env.clock.wall()).await.expect("released");
        to_the_end(&bench, &env, Attempt { cut: Some(1), ..attempt }).await
    });
    assert!(matches!(outcome, Err(RestoreError::NoCut { .. })), "{outcome:?}");
    let manifest = PublishedLane::decode(&bench.sim.objects()[&bench.manifest_key()]).expect("reads");
    assert_eq!(manifest.closed_for, None);
}

#[test]
fn nothing_is_deleted_while_an_index_that_held_something_is_not_found() {
    let bench = quiet_bench(987);
    bench.forgetful();
    bench.world.block_on(bench.cut(&bench.maker())).expect("made");
    let index = bench.index().encode();
    let archiver = bench.archiver();
    let task = bench.env.tasks.spawn("archiver", async move { archiver.run().await });
    let live = || {
        for _ in 0..20 {
            bench.append_some(6);
            bench.world.run_for(Duration::from_secs(5));
        }
    };
    live();
    bench.sim.tamper(&bench.index_key(), None);
    live();
    task.cancel();
    bench.sim.tamper(&bench.index_key(), Some(index));
    let env = bench.world.env_of(20);
    let report = bench.world.block_on(of(&bench, &env).survey_cut(1));
    assert!(report.as_ref().is_ok_and(|report| !report.damaged), "{report:?}");
}
