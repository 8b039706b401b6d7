//! Cuts made beside an archiver that gathers, trims and deletes: each one that is kept restores, byte for byte.

use std::cell::RefCell;
use std::collections::BTreeMap;

use tidewater_storage::env::Mono;

use super::restored::{archived, begin, of, reborn, to_the_end};
use super::*;
use crate::cuts::{CutDone, CutError, CutIndex, CutMaker, part_of, read_index};
use crate::restore::{Attempt, RestoreError};
use crate::store::Faults;

impl Bench {
    fn maker(&self) -> CutMaker {
        let within = part_of(self.config.delete_grace);
        CutMaker { store: self.sim.store(), home: self.bucket.home, indexes: self.reader.indexes(), within }
    }

    async fn cut(&self, maker: &CutMaker) -> Result<CutDone, CutError> {
        let clock = || (self.env.clock.wall(), self.env.clock.now().since(Mono::default()));
        maker.make(Nonce(self.env.rng.next_u64()), clock).await
    }

    fn index(&self) -> CutIndex {
        self.sim.set_faults(Faults::default());
        self.world.block_on(read_index(&*self.sim.store(), self.bucket.home)).expect("reads").0
    }

    /// Partitions trim what is beyond some 20 kB.
    fn forgetful(&self) {
        let policy = RetentionPolicy { retention_ms: None, retention_bytes: Some(20_000) };
        for id in &self.partitions {
            self.lane.logs.borrow_mut().get_mut(id).and_then(|log| log.facts.as_mut()).expect("there").retention =
                policy;
        }
    }
}

/// What was archived when the making of each cut began, by its number.
type Known = Rc<RefCell<BTreeMap<u64, Vec<(PartitionId, Offset)>>>>;

fn with_cuts(seed: u64) -> (Rc<Bench>, Known) {
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

#[test]
fn what_cuts_held_goes_once_they_are_released() {
    let (bench, _) = with_cuts(950);
    bench.settle();
    let kept = bench.index().cuts;
    assert!(bench.index().horizon(bench.lane.lane()).is_some());
    let pending = |bench: &Bench| {
        bench.lane.with_manifests(|lane, all| {
            lane.pending.len() + all.iter().map(|manifest| manifest.pending.len()).sum::<usize>()
        })
    };
    let held = pending(&bench);
    bench.world.block_on(bench.maker().release_all()).expect("released");
    assert_eq!(bench.index().cuts, []);
    bench.settle();
    assert!(held > 20 && pending(&bench) * 4 < held, "{held} objects were held, {} are left", pending(&bench));
    let orphans: Vec<String> = bench.orphans().into_iter().filter(|key| !key.contains("/cuts/")).collect();
    assert_eq!(orphans, Vec::<String>::new());
    let left = kept.iter().filter(|cut| bench.sim.objects().contains_key(cut.key(bench.bucket.home).as_str())).count();
    assert_eq!(left, 0, "released cuts are deleted");
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
