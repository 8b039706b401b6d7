//! Short histories, one with a typed table, ended at each of their awaits: by a power cut, and by a kill. Then it
//! recovers, and everything is looked at as after any other run.
//!
//! A history has some ten thousand awaits; an ordinary run takes as many of them, evenly, as [`History`] says.
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

/// A history with one shard and two partitions.
#[derive(Clone, Copy)]
struct History {
    /// The test that has it.
    test: &'static str,
    seed: u64,
    /// Awaits at which an ordinary run ends it.
    runs: u64,
}

/// With groups.
const GROUPS: History = History { test: "it_may_end_at_any_await", seed: 6, runs: 160 };
/// With a table whose values have schemas by their ids, and with rivals.
const TYPED: History = History { test: "with_a_typed_table_it_may_end_at_any_await", seed: 17, runs: 60 };

fn plan(seed: u64) -> Plan {
    let without = ["topics", "readers", "plain", "second-shard"].map(str::to_owned);
    let mut plan = Plan::of(seed, without.into());
    plan.events.clear();
    (plan.rough_ms, plan.partitions) = (2_500, 2);
    plan
}

/// The history, ended at this await; 0 is never. Gives how many awaits it had.
fn run(seed: u64, at: u64, trace: bool) -> u64 {
    let world = Rc::new(World::new(plan(seed)));
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
    end_at_awaits(GROUPS);
}

#[test]
fn with_a_typed_table_it_may_end_at_any_await() {
    end_at_awaits(TYPED);
}

fn end_at_awaits(History { test, seed, runs }: History) {
    if let Some(at) = number("TIDEWATER_AWAIT") {
        run(seed, at, true);
        return;
    }
    let all = run(seed, 0, false);
    let runs = number("TIDEWATER_AWAITS").unwrap_or(runs).min(all);
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
                        run(seed, at, false);
                    }) {
                        let line = format!("ended at await {at}: {why}\n    repeat it: TIDEWATER_AWAIT={at} cargo test --release --test sim awaits::{test} -- --exact");
                        failed.lock().expect("no thread panics").push(line);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panics");
    assert!(failed.is_empty(), "{} of {runs} runs failed ({all} awaits):\n{}", failed.len(), failed.join("\n"));
}
