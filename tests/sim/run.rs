//! One run: start, work under faults, calm down, and look at everything.

use std::rc::Rc;

use crate::faults;
use crate::history::History;
use crate::invariants;
use crate::plan::Plan;
use crate::workload::{self, Clients};
use crate::world::World;

/// Virtual time in which everything must have caught up.
const CALM_MS: u64 = 600_000;

/// Runs a plan; gives its trace.
pub(crate) fn run(plan: Plan, trace: bool) -> Vec<String> {
    run_with(plan, trace, |_| {})
}

/// As [`run`], and damages the world once all is archived.
pub(crate) fn run_with(plan: Plan, trace: bool, sabotage: impl Fn(&World)) -> Vec<String> {
    let world = Rc::new(World::new(plan));
    world.history.print(trace);
    world.machines.block_on(whole(&world, sabotage));
    for request in world.bucket.take_log() {
        world.history.keep(request);
    }
    let notes = world.history.trace();
    world.dissolve();
    notes
}

async fn whole(world: &Rc<World>, sabotage: impl Fn(&World)) {
    world.watch_over();
    world.start();
    drop(world.serving().await);
    let clients = Clients::start(world);
    invariants::watch(world);
    faults::disturb(world).await;
    drop(world.serving().await);
    finish(world, &clients).await;
    // Checked again from the bucket alone, and again after a power cut.
    forget_local(world).await;
    sabotage(world);
    everything_read(world).await;
    world.end(true);
    world.start();
    drop(world.serving().await);
    everything_read(world).await;
    invariants::at_end(world).await;
    clients.check(world).await;
    if world.plan.has("typed") {
        world.history.note(world.typed.counts.summary());
    }
    for partition in world.history.partitions() {
        let summary = world.history.with(partition, |past| past.summary());
        world.history.note(format!("p{partition}: {summary}"));
    }
}

/// Clients, archive and table finish. Then nothing changes any more, and everything is checked.
pub(crate) async fn finish(world: &Rc<World>, clients: &Clients) {
    world.history.note(format!("{} calm", world.machines.now().nanos()));
    clients.stop();
    world.typed.calm_down();
    wait_for(world, "clients have their answers", |_| clients.running() == 0).await;
    wait_for(world, "all is archived", archived).await;
    everything_read(world).await;
    invariants::at_rest(world).await;
}

pub(crate) async fn wait_for(world: &World, what: &str, done: impl Fn(&World) -> bool) {
    let until = world.machines.now().nanos() / 1_000_000 + CALM_MS;
    while !done(world) {
        assert!(world.machines.now().nanos() / 1_000_000 < until, "never: {what}; {}", state(world));
        world.sleep_ms(50).await;
    }
}

fn state(world: &World) -> String {
    let Some(node) = world.way().node() else { return "the broker is down".into() };
    let of = |p: &tidewater::controller::image::PartitionImage| format!("{:?}", node.describe(p.id));
    world.topic().partitions.iter().map(of).collect::<Vec<_>>().join("\n")
}

pub(crate) fn archived(world: &World) -> bool {
    let Some(node) = world.way().node() else { return false };
    world.topic().partitions.iter().all(|partition| {
        node.describe(partition.id).is_some_and(|status| status.archived_end_offset == status.high_watermark)
    })
}

/// Lets every local byte go that may go.
pub(crate) async fn forget_local(world: &World) {
    let node = world.serving().await;
    for shard in &node.shards {
        for replica in shard.partitions.lanes().iter().flat_map(|lane| lane.replicas()) {
            let archived = replica.manifest().archived_end;
            replica.log.trim(archived);
            shard.engine.touch_partition(replica.id);
        }
    }
}

/// Reads every partition from its start to its end.
pub(crate) async fn everything_read(world: &World) {
    let topic = world.topic();
    for partition in &topic.partitions {
        let index = partition.id.index.0;
        let node = world.serving().await;
        let status = node.describe(partition.id).expect("is there");
        let (mut from, end) = (status.log_start_offset, status.high_watermark);
        let mut tries = 0;
        while from < end {
            let at = tidewater_storage::model::Offset::new(from);
            let history: &History = &world.history;
            let max_bytes = 1 + usize::try_from(world.clients.rng.below(100_000)).expect("small");
            let next = workload::read(&world.clients, &world.way(), history, &topic, index, at, max_bytes).await;
            match next {
                Some(next) if next > at => from = next.get(),
                _ => {
                    // Retention may have moved on.
                    let start = node.describe(partition.id).map_or(0, |status| status.log_start_offset);
                    from = from.max(start);
                    tries += 1;
                    assert!(tries < 50, "p{index}: cannot read at {from} of {end}; {}", state(world));
                    world.sleep_ms(100).await;
                }
            }
        }
    }
}
