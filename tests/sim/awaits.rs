//! One short history, ended at each of its awaits: by a power cut, and by a kill. Then it recovers, and everything is
//! looked at as after any other run.
//!
//! A history has some ten thousand awaits; an ordinary run takes as many of them, evenly, as [`RUNS`] says.
//! `TIDEWATER_AWAITS=n` takes n, `TIDEWATER_AWAIT=k` one, with its trace.

use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tidewater_tiering::store::Faults;

use crate::plan::Plan;
use crate::run::{everything_read, finish, forget_local};
use crate::seeds::{number, quietly, threads};
use crate::workload::Clients;
use crate::world::World;
use crate::{faults, invariants};

/// Awaits at which an ordinary run ends the history.
const RUNS: u64 = 160;
/// The seed of the history: one with groups, one shard and two partitions.
const SEED: u64 = 6;

fn plan() -> Plan {
    let without = ["topics", "readers", "plain", "second-shard"].map(str::to_owned);
    let mut plan = Plan::of(SEED, without.into());
    plan.events.clear();
    (plan.rough_ms, plan.partitions) = (2_500, 2);
    plan
}

/// The history, ended at this await; 0 is never. Gives how many awaits it had.
fn run(at: u64, trace: bool) -> u64 {
    let world = Rc::new(World::new(plan()));
    world.history.print(trace);
    world.machines.halt_at(at);
    let (ender, ending) = (world.clients.clone(), Rc::downgrade(&world));
    drop(ender.tasks.spawn("end", async move {
        let Some(world) = ending.upgrade() else { return };
        world.machines.halted().await;
        world.end(at.is_multiple_of(2));
        world.sleep_ms(50).await;
        world.start();
    }));
    let awaits = world.machines.block_on(whole(&world));
    world.dissolve();
    awaits
}

async fn whole(world: &Rc<World>) -> u64 {
    world.watch_over();
    world.bucket.set_faults(Faults { latency_max: std::time::Duration::from_millis(5), ..Faults::default() });
    world.start();
    drop(world.serving().await);
    let clients = Clients::start(world);
    invariants::watch(world);
    faults::disturb(world).await;
    drop(world.serving().await);
    let awaits = world.machines.awaits();
    finish(world, &clients).await;
    forget_local(world).await;
    everything_read(world).await;
    invariants::at_end(world).await;
    clients.check(world).await;
    awaits
}

#[test]
fn it_may_end_at_any_await() {
    if let Some(at) = number("TIDEWATER_AWAIT") {
        run(at, true);
        return;
    }
    let all = run(0, false);
    let runs = number("TIDEWATER_AWAITS").unwrap_or(RUNS).min(all);
    let (next, failed) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= runs {
                        return;
                    }
                    let at = 1 + n * all / runs;
                    if let Some(why) = quietly(|| {
                        run(at, false);
                    }) {
                        let line = format!("ended at await {at}: {why}\n    repeat it: TIDEWATER_AWAIT={at} cargo test --release --test sim any_await");
                        failed.lock().expect("no thread panics").push(line);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panics");
    assert!(failed.is_empty(), "{} of {runs} runs failed ({all} awaits):\n{}", failed.len(), failed.join("\n"));
}
