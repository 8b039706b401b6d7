//! New shards made from others, with a crash at any point: the old shards are complete, or the new ones.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::machine::{Command, History, Machine, config};
use crate::checkpoint::{CheckpointStore, Key};
use crate::engine::*;
use crate::env::Env;
use crate::env::sim::World;
use crate::model::LaneId;

const LAYOUT: &str = "/data/layout";

fn shard(layout: u64, n: usize) -> PathBuf {
    format!("/data/{layout}-{n}").into()
}

/// Segments beside the shards, as in a broker.
fn beside() -> EngineConfig {
    EngineConfig { segments: Some("/data".into()), ..config() }
}

/// The number of the current layout.
async fn current(env: &Env) -> u64 {
    match env.disk.read_all(Path::new(LAYOUT)).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim_end_matches('\0').parse().expect("a number"),
        Err(_) => 0,
    }
}

/// In a loop: some work, all of it applied and in a checkpoint, then new shards and the switch to them.
async fn live(env: Env, history: Rc<History>, switched: Rc<Cell<u64>>, when: String) {
    loop {
        let layout = current(&env).await;
        let machine = Machine::open(&env, shard(layout, 0), beside(), &history).await;
        machine.check(&history, &when).await;
        for n in 0..10 + env.rng.below(40) {
            let command = if n % 10 == 0 { Command::Create } else { Command::Append };
            machine.propose(&history, LaneId(1 + env.rng.below(2) as u32), command);
            machine.wait_for_room().await;
        }
        machine.settle().await;
        machine.engine.close().await;
        let to = [shard(layout + 1, 0)];
        relocate(&env, &[shard(layout, 0)], &to, &beside().journal, |_| 0).await.expect("drained");
        env.disk.write_atomic(Path::new(LAYOUT), (layout + 1).to_string().as_bytes()).await.expect("switches");
        switched.set(switched.get() + 1);
        env.disk.remove_dir_all(&shard(layout, 0)).await.expect("removes");
    }
}

#[test]
fn a_crash_anywhere_leaves_the_old_shards_or_the_new() {
    let switched = Rc::new(Cell::new(0));
    for seed in 0..25 {
        let world = World::new(seed);
        let history = Rc::new(History::default());
        for life in 0..5 {
            let env = world.env();
            let rng = env.rng.clone();
            let life = live(env.clone(), history.clone(), switched.clone(), format!("seed {seed} life {life}"));
            drop(env.tasks.spawn("life", life));
            world.run_for(Duration::from_micros(200 + rng.below(60_000)));
            if rng.below(3) == 0 { world.kill() } else { world.crash() }
        }
        let env = world.env();
        world.block_on(async {
            let machine = Machine::open(&env, shard(current(&env).await, 0), beside(), &history).await;
            machine.check(&history, &format!("seed {seed} end")).await;
            machine.engine.close().await;
        });
    }
    assert!(switched.get() > 25, "{} switches: too few to show anything", switched.get());
}

/// The lanes and the number of partitions of a shard, and whether its segments can be read.
async fn held(env: &Env, dir: &Path) -> (Vec<LaneId>, usize) {
    let (engine, recovered) = Engine::open(env.clone(), dir.into(), beside()).await.expect("opens");
    for id in engine.partitions() {
        let (log, bounds) = (engine.partition(id).expect("is there"), engine.partition(id).expect("is there").bounds());
        if bounds.start < bounds.end {
            log.read(bounds.start, bounds.end, 1 << 20).await.expect("reads");
        }
    }
    for lane in &recovered.lanes {
        let state = engine.lane(lane.lane).state();
        assert_eq!((state.last, state.purged), (lane.applied, lane.applied), "the log goes on where it ended");
    }
    let lanes = recovered.lanes.iter().map(|lane| lane.lane).collect();
    engine.close().await;
    (lanes, recovered.partitions.len())
}

#[test]
fn lanes_part_and_meet_again_without_their_segments_moving() {
    let world = World::new(7);
    let (env, history) = (world.env(), Rc::new(History::default()));
    world.block_on(async {
        let machine = Machine::open(&env, shard(0, 0), beside(), &history).await;
        for n in 0..300 {
            let command = if n < 6 { Command::Create } else { Command::Append };
            machine.propose(&history, LaneId(1 + n % 2), command);
            machine.wait_for_room().await;
        }
        machine.settle().await;
        machine.engine.close().await;
        let journal = beside().journal;
        let two = [shard(1, 0), shard(1, 1)];
        let by_lane = |lane: LaneId| (lane.0 as usize - 1) % 2;
        let moved = relocate(&env, &[shard(0, 0)], &two, &journal, by_lane).await.expect("drained");
        assert_eq!(moved, Relocated { lanes: 2, partitions: 6 });
        assert_eq!(held(&env, &two[0]).await, (vec![LaneId(1)], 3));
        assert_eq!(held(&env, &two[1]).await, (vec![LaneId(2)], 3));
        // An unfinished new shard is made again from nothing.
        let one = [shard(2, 0)];
        relocate(&env, &two[..1], &one, &journal, |_| 0).await.expect("drained");
        relocate(&env, &two, &one, &journal, |_| 0).await.expect("drained");
        assert_eq!(held(&env, &one[0]).await, (vec![LaneId(1), LaneId(2)], 6));
        let machine = Machine::open(&env, shard(2, 0), beside(), &history).await;
        machine.check(&history, "back in one").await;
        machine.engine.close().await;
    });
}

#[test]
fn a_shard_that_was_not_drained_is_refused() {
    let world = World::new(8);
    let (env, history) = (world.env(), Rc::new(History::default()));
    world.block_on(async {
        let slow = EngineConfig { checkpoint_interval: Duration::from_secs(3600), ..beside() };
        let machine = Machine::open(&env, shard(0, 0), slow, &history).await;
        machine.propose(&history, LaneId(1), Command::Create);
        machine.settle().await;
    });
    let env = world.restart();
    world.block_on(async {
        let refused = relocate(&env, &[shard(0, 0)], &[shard(1, 0)], &beside().journal, |_| 0).await;
        assert!(matches!(refused, Err(RelocateError::NotDrained { lane: LaneId(1), .. })), "{refused:?}");
        let (_, records) = CheckpointStore::open(env.disk.clone(), &shard(0, 0)).await.expect("as it was");
        assert!(!records.keys().any(|key| matches!(key, Key::Lane(_))));
    });
}

#[test]
#[should_panic(expected = "placed in one of the new shards")]
fn a_lane_without_a_new_shard_is_not_dropped_in_silence() {
    let world = World::new(9);
    let (env, history) = (world.env(), Rc::new(History::default()));
    world.block_on(async {
        let machine = Machine::open(&env, shard(0, 0), beside(), &history).await;
        machine.propose(&history, LaneId(1), Command::Create);
        machine.settle().await;
        machine.engine.close().await;
        relocate(&env, &[shard(0, 0)], &[shard(1, 0)], &beside().journal, |_| 1).await.expect("drained");
    });
}
