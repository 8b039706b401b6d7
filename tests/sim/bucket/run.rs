//! One run: each epoch under its faults, the losses between them, and a look at everything in the end.

use std::rc::Rc;
use std::time::Duration;

use tidewater_tiering::keys::ObjectKind;
use tidewater_tiering::manifest::Catalogue;

use super::epochs::{Epochs, mild};
use super::plan::EpochsPlan;
use super::{clients, copies, cuts, follower, loss};
use crate::world::World;
use crate::{faults, invariants};

/// A broker of an epoch that is over looks at the root each minute, and its requests may fail for a while.
pub(crate) const NOTICED_WITHIN_MS: u64 = 150_000;
/// Virtual time in which everything must have caught up.
const CALM_MS: u64 = 600_000;

/// Runs a plan; gives its trace.
pub(crate) fn run(plan: EpochsPlan, trace: bool) -> Vec<String> {
    let epochs = Epochs::new(plan);
    epochs.history.print(trace);
    let machines = Rc::clone(&epochs.now().machines);
    machines.block_on(whole(&epochs));
    for request in epochs.now().bucket.take_log() {
        epochs.history.keep(request);
    }
    let notes = epochs.history.trace();
    epochs.dissolve();
    notes
}

async fn whole(epochs: &Rc<Epochs>) {
    let first = epochs.now();
    first.watch_over();
    first.start();
    drop(first.serving().await);
    wait_for(epochs, "the catalogue names the topic", is_catalogued).await;
    drop(first);
    let replica = follower::keep(epochs);
    clients::start(epochs);
    if epochs.plan.has("cuts") {
        cuts::make_on_demand(epochs);
    }
    if epochs.plan.has("copies") {
        copies::make(epochs);
    }
    watch(epochs);
    live(epochs).await;
    for (n, loss) in epochs.plan.losses.clone().into_iter().enumerate() {
        loss::happen(epochs, n, loss).await;
        live(epochs).await;
    }
    finish(epochs).await;
    follower::fair(epochs);
    wait_for(epochs, "the replica runs", |_| replica.borrow().is_some()).await;
    let replica = replica.borrow().clone().expect("it runs");
    replica.equals_source(epochs).await;
    let world = epochs.now();
    crate::run::forget_local(&world).await;
    crate::run::everything_read(&world).await;
    world.end(true);
    world.start();
    drop(world.serving().await);
    crate::run::everything_read(&world).await;
    if epochs.plan.has("copies") {
        copies::check(epochs).await;
    }
    invariants::at_end(&world).await;
    if epochs.plan.has("group") {
        clients::check(epochs).await;
    }
    for partition in epochs.history.partitions() {
        let summary = epochs.history.with(partition, |past| past.summary());
        epochs.note(format!("p{partition}: {summary}"));
    }
    epochs.note(format!("{} reads of the replica", epochs.replica_reads.get()));
}

/// The broker of this epoch serves while things go wrong.
async fn live(epochs: &Rc<Epochs>) {
    let world = epochs.now();
    faults::disturb(&world).await;
    drop(world.serving().await);
}

/// Looks at the broker that clients ask, until the run ends.
fn watch(epochs: &Rc<Epochs>) {
    let (env, epochs) = (epochs.env.clone(), Rc::downgrade(epochs));
    let watcher = env.clone();
    drop(env.tasks.spawn("watch", async move {
        loop {
            watcher.tasks.sleep(Duration::from_millis(10 + watcher.rng.below(300))).await;
            let Some(epochs) = epochs.upgrade() else { return };
            let world = epochs.now();
            epochs.look_at_bucket();
            if !epochs.restoring.get() {
                invariants::look(&world);
            }
        }
    }));
}

/// Clients and archive finish. Then nothing changes any more, and everything is checked.
async fn finish(epochs: &Rc<Epochs>) {
    epochs.note("calm".to_owned());
    let world = epochs.now();
    world.bucket.set_faults(mild());
    let old = epochs.before.borrow().clone();
    old.iter().for_each(|old| world.bucket.set_faults_for(old.machine(), None));
    epochs.stopped.set(true);
    wait_for(epochs, "clients have their answers", |epochs| epochs.running.get() == 0).await;
    wait_for(epochs, "all is archived", |epochs| crate::run::archived(&epochs.now())).await;
    if old.iter().any(|old| old.is_alive()) {
        epochs.sleep_ms(NOTICED_WITHIN_MS + 10_000).await;
    }
    crate::run::everything_read(&world).await;
    invariants::at_rest(&world).await;
}

async fn wait_for(epochs: &Epochs, what: &str, done: impl Fn(&Epochs) -> bool) {
    let until = epochs.now_ms() + CALM_MS;
    while !done(epochs) {
        assert!(epochs.now_ms() < until, "never: {what}");
        epochs.sleep_ms(50).await;
    }
}

fn is_catalogued(epochs: &Epochs) -> bool {
    let world: Rc<World> = epochs.now();
    let key = world.home().name(ObjectKind::Catalogue).key();
    let Some(body) = world.bucket.objects().remove(key.as_str()) else { return false };
    let catalogue = Catalogue::decode(&body).expect("decodes");
    let (id, unarchived) = (world.topic().id, catalogue.unarchived.iter().flat_map(|known| &known.topics));
    catalogue.topics.iter().any(|topic| topic.id == id) || unarchived.into_iter().any(|topic| topic.id == id)
}
