//! Cuts of a run: made by the broker on its schedule and by an operator on demand, and which of them a restore may
//! choose.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidewater::archival::cuts::cuts_in_use;
use tidewater_storage::env::{Env, Mono};
use tidewater_tiering::cuts::{Cut, CutMaker, Unsettled, part_of};
use tidewater_tiering::fetch::Indexes;
use tidewater_tiering::keys::{Nonce, ObjectKey};
use tidewater_tiering::manifest::Catalogue;
use tidewater_tiering::store::meddler::Meddler;
use tidewater_tiering::store::{Got, ObjectStore, PutDone, PutMode, RetryPolicy, Retrying, SimSleeper, StoreError};

use super::defect::Defect;
use super::epochs::Epochs;
use crate::node::cadence;

/// The operator's machine.
const MACHINE: u32 = 30;
/// Between two cuts of the broker.
pub(crate) const INTERVAL: Duration = Duration::from_millis(1_500);
/// Between two on demand, at most.
const PAUSE_MS: u64 = 5_000;

/// Makes cuts on demand until the run ends, of the cluster that clients ask.
pub(crate) fn make_on_demand(epochs: &Rc<Epochs>) {
    let (env, of) = (epochs.env.clone(), Rc::downgrade(epochs));
    let env_of_maker = epochs.now().machines.env_of(MACHINE);
    drop(env.tasks.spawn("cuts on demand", async move {
        loop {
            let Some(epochs) = of.upgrade() else { return };
            epochs.sleep_ms(1 + epochs.below(PAUSE_MS)).await;
            if epochs.stopped.get() {
                return;
            }
            if !epochs.restoring.get() {
                make(&epochs, &env_of_maker).await;
            }
        }
    }));
}

async fn make(epochs: &Epochs, env: &Env) {
    let world = epochs.now();
    let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
    let store: Arc<dyn ObjectStore> =
        Arc::new(Retrying::new(world.bucket.store_for(MACHINE), policy, Arc::new(SimSleeper::new(env))));
    let (store, within) = match epochs.plan.defect {
        Some(Defect::NotedTooLate) => (slow_index(env, store), Duration::from_secs(3_600)),
        _ => (store, part_of(cadence().archive.delete_grace)),
    };
    // As the broker that is asked does it: the cut that a copy needs is not released.
    let in_use = world.way().node().map(|node| cuts_in_use(&node.controller.image(), world.home())).unwrap_or_default();
    let indexes = Indexes::new(Arc::clone(&store), 1 << 20);
    let maker = CutMaker { store, home: world.home(), indexes, within, unsettled: Unsettled::default(), in_use };
    let clock = || (env.clock.wall(), env.clock.now().since(Mono::default()));
    match maker.make(Nonce(env.rng.next_u64()), clock).await {
        Ok(done) if done.made => {
            let number = done.newest.map_or(0, |cut| cut.number);
            epochs.note(format!("cut {number} on demand, {} kept, {} released", done.kept, done.released));
        }
        Ok(_) => {}
        Err(error) => epochs.note(format!("no cut on demand: {error}")),
    }
}

/// The cuts that a restore may go back to: those that were noted in time and have the topic.
pub(crate) fn eligible(epochs: &Epochs) -> Vec<Cut> {
    let topic = epochs.now().topic().id;
    let has_topic = |cut: &Cut| {
        let Ok(catalogue) = Catalogue::decode(&cut.catalogue) else { return false };
        catalogue.topics.iter().any(|found| found.id == topic)
    };
    epochs.kept.in_time(epochs).into_iter().filter(has_topic).collect()
}

/// A bucket in which a put of the index of cuts takes longer than the grace.
fn slow_index(env: &Env, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    Arc::new(OddIndex { store, how: How::Slow(SimSleeper::new(env)) }).over()
}

/// A bucket whose index of cuts always says that there is none.
pub(crate) fn without_cuts(store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
    Arc::new(OddIndex { store, how: How::Empty }).over()
}

#[derive(Debug)]
enum How {
    Slow(SimSleeper),
    Empty,
}

/// A bucket that is wrong about the index of cuts.
#[derive(Debug)]
struct OddIndex {
    store: Arc<dyn ObjectStore>,
    how: How,
}

fn is_index(key: &ObjectKey) -> bool {
    key.as_str().ends_with("/cuts/index")
}

#[async_trait]
impl Meddler for OddIndex {
    fn below(&self) -> &dyn ObjectStore {
        &*self.store
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, mode: PutMode) -> Result<PutDone, StoreError> {
        if let How::Slow(sleeper) = &self.how
            && is_index(key)
        {
            tidewater_tiering::store::Sleeper::sleep(sleeper, cadence().archive.delete_grace * 3 / 2).await;
        }
        self.store.put(key, body, mode).await
    }

    async fn get(&self, key: &ObjectKey, range: Option<Range<u64>>) -> Result<Got, StoreError> {
        let mut got = self.store.get(key, range).await?;
        if matches!(self.how, How::Empty) && is_index(key) {
            let mut index = tidewater_tiering::cuts::CutIndex::decode(&got.body).expect("decodes");
            index.cuts.clear();
            got.body = index.encode();
        }
        Ok(got)
    }
}
