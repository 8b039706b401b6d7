//! A put of the index of cuts that has no answer and arrives late: no cut that is noted too late is kept.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use super::cuts::quiet_bench;
use super::*;
use crate::cuts::{CutError, CutMaker, part_of};
use crate::store::meddler::Meddler;
use crate::store::{ObjectStore, PutDone, PutMode, StoreError};

/// Keeps one put of a key back: the caller gets no answer.
#[derive(Debug)]
struct Late {
    store: Arc<dyn ObjectStore>,
    key: ObjectKey,
    is_armed: Mutex<bool>,
    kept: Mutex<Option<(Bytes, PutMode)>>,
}

impl Late {
    /// The put arrives; was it taken?
    async fn land(&self) -> bool {
        let (body, mode) = self.kept.lock().expect("no panic").take().expect("one is on its way");
        match self.store.put(&self.key, body, mode).await {
            Ok(_) => true,
            Err(StoreError::Taken { .. }) => false,
            Err(error) => unreachable!("{error}"),
        }
    }
}

#[async_trait]
impl Meddler for Late {
    fn below(&self) -> &dyn ObjectStore {
        &*self.store
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        if *key == self.key && std::mem::take(&mut *self.is_armed.lock().expect("no panic")) {
            *self.kept.lock().expect("no panic") = Some((body, mode));
            return Err(StoreError::Unavailable { key: key.to_string(), detail: "no answer".to_owned() });
        }
        self.store.put(key, body, mode).await
    }
}

/// A bench at rest with one cut, and a maker whose second cut has been put and whose index is on its way.
fn without_answer(seed: u64) -> (Bench, Arc<Late>, CutMaker) {
    let bench = quiet_bench(seed);
    let store = bench.sim.store();
    let key = bench.bucket.home.cuts_key();
    let late = Arc::new(Late { store, key, is_armed: Mutex::new(false), kept: Mutex::default() });
    let maker = CutMaker { store: late.clone().over(), ..bench.maker() };
    make(&bench, &maker, Duration::ZERO).expect("made");
    bench.append_some(5);
    bench.settle();
    bench.sim.set_faults(Faults::default());
    *late.is_armed.lock().expect("no panic") = true;
    let failed = make(&bench, &maker, Duration::ZERO);
    assert!(matches!(&failed, Err(error) if error.disposition().passes()), "{failed:?}");
    assert_eq!(numbers(&bench), [1], "the second is not noted");
    (bench, late, maker)
}

/// Makes a cut by clocks that are so late.
fn make(bench: &Bench, maker: &CutMaker, late: Duration) -> Result<Option<u64>, CutError> {
    let wall = TimestampMs(bench.env.clock.wall().0 + i64::try_from(late.as_millis()).expect("short"));
    let done = bench.world.block_on(maker.make(Nonce(bench.env.rng.next_u64()), || (wall, late)))?;
    Ok(done.made.then(|| done.newest.map(|cut| cut.number)).flatten())
}

fn numbers(bench: &Bench) -> Vec<u64> {
    bench.index().cuts.iter().map(|cut| cut.number).collect()
}

fn has_object(bench: &Bench, number: u64) -> bool {
    let key = bench.bucket.home.name(ObjectKind::Cut { number }).key();
    bench.sim.objects().contains_key(key.as_str())
}

#[test]
fn the_precondition_refuses_a_put_that_arrives_after_any_other() {
    let (bench, late, maker) = without_answer(1_300);
    // Another broker's maker knows nothing of it: its own put is enough.
    let other = bench.maker();
    assert_eq!(make(&bench, &other, Duration::ZERO).expect("made"), Some(3), "number 2 is taken");
    assert!(!bench.world.block_on(late.land()));
    assert_eq!(numbers(&bench), [1, 3]);
    // And the maker itself has nothing left to do.
    assert_eq!(make(&bench, &maker, Duration::ZERO), Ok(None));
    assert!(!bench.world.block_on(async { late.store.head(&late.key).await.is_err() }) && !has_object(&bench, 2));
}

#[test]
fn the_next_call_keeps_a_late_put_out_although_nothing_has_changed() {
    let (bench, late, maker) = without_answer(1_301);
    let made = make(&bench, &maker, Duration::from_secs(1)).expect("made");
    assert!(made.is_some_and(|number| number > 2), "{made:?}");
    assert!(!bench.world.block_on(late.land()));
    assert!(!numbers(&bench).contains(&2) && !has_object(&bench, 2));
}

#[test]
fn a_put_that_arrived_in_time_counts() {
    let (bench, late, maker) = without_answer(1_302);
    assert!(bench.world.block_on(late.land()));
    assert_eq!(make(&bench, &maker, Duration::from_secs(1)), Ok(None), "nothing has changed since");
    assert_eq!(numbers(&bench), [1, 2]);
}

#[test]
fn a_put_that_may_have_arrived_too_late_is_taken_out() {
    let (bench, late, maker) = without_answer(1_303);
    assert!(bench.world.block_on(late.land()));
    let too_late = part_of(bench.config.delete_grace) * 3 + Duration::from_secs(1);
    let made = make(&bench, &maker, too_late).expect("made");
    assert!(made.is_some_and(|number| number > 2), "a new one takes its place: {made:?}");
    assert!(!numbers(&bench).contains(&2) && !has_object(&bench, 2));
}
