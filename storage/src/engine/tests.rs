//! The whole engine under a small state machine instead of the layers above, on a disk that loses what was not synced:
//! after any crash, everything acknowledged is there, byte for byte, and nothing else.
#![allow(clippy::panic)]

mod closing;
mod golden;
mod machine;
mod moving;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use machine::{Command, History, Machine, config};

use super::*;
use crate::budget::DiskBudget;
use crate::env::Env;
use crate::env::sim::{Fault, Operation, World};
use crate::model::LaneId;

fn dir() -> PathBuf {
    "/data/0".into()
}

/// One life of a process: open, apply again, check, then random work until the crash.
async fn live(env: Env, history: Rc<History>, seed: u64, life: u64) {
    let machine = Machine::open(&env, dir(), config(), &history).await;
    machine.check(&history, &format!("seed {seed} life {life}")).await;
    loop {
        let lane = LaneId(1 + env.rng.below(2) as u32);
        match env.rng.below(40) {
            0..=1 => machine.propose(&history, lane, Command::Create),
            2 if env.rng.below(4) == 0 => machine.propose(&history, lane, Command::Drop),
            3..=4 => machine.propose(&history, lane, Command::Trim),
            5 => machine.engine.checkpoint().await.expect("checkpoints"),
            6 => machine.check_one(&history).await,
            7..=12 => env.tasks.sleep(Duration::from_micros(env.rng.below(600))).await,
            13..=14 => machine.trim_locally(),
            _ => machine.propose(&history, lane, Command::Append),
        }
        machine.wait_for_room().await;
    }
}

fn crash_run(seed: u64) {
    let world = World::new(seed);
    let history = Rc::new(History::default());
    for life in 0..6 {
        let env = world.env();
        let rng = env.rng.clone();
        drop(env.tasks.spawn("life", live(env.clone(), history.clone(), seed, life)));
        world.run_for(Duration::from_micros(200 + rng.below(25_000)));
        if rng.below(3) == 0 { world.kill() } else { world.crash() }
    }
    let env = world.env();
    world.block_on(async {
        let machine = Machine::open(&env, dir(), config(), &history).await;
        machine.check(&history, &format!("seed {seed} end")).await;
        machine.engine.close().await;
    });
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_invented() {
    let seeds = std::env::var("TIDEWATER_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    for seed in 0..seeds {
        crash_run(seed);
    }
}

/// A closed store with three partitions, none of them empty.
fn filled(world: &World, config: EngineConfig) -> Rc<History> {
    let history = Rc::new(History::default());
    let env = world.env();
    world.block_on(async {
        let machine = Machine::open(&env, dir(), config, &history).await;
        (0..3).for_each(|_| machine.propose(&history, LaneId(1), Command::Create));
        for _ in 0..200 {
            machine.propose(&history, LaneId(1), Command::Append);
            machine.wait_for_room().await;
        }
        machine.settle().await;
        machine.engine.checkpoint().await.expect("checkpoints");
        machine.engine.close().await;
    });
    history
}

#[test]
fn after_a_clean_close_the_journal_is_not_needed_for_what_was_applied() {
    let world = World::new(5);
    let history = filled(&world, config());
    let env = world.restart();
    world.block_on(async {
        let (engine, recovered) = Engine::open(env.clone(), dir(), config()).await.expect("opens");
        let applied = recovered.lanes.iter().find(|lane| lane.lane == LaneId(1)).and_then(|lane| lane.applied);
        let state = engine.lane(LaneId(1)).state();
        assert_eq!((applied, state.purged), (state.last, state.last));
        assert_eq!(recovered.partitions.len(), 3);
        engine.close().await;
        let machine = Machine::open(&env, dir(), config(), &history).await;
        machine.check(&history, "reopened").await;
    });
}

#[test]
fn an_idle_engine_does_nothing() {
    let world = World::new(5);
    let history = filled(&world, config());
    let env = world.restart();
    world.block_on(async {
        let machine = Machine::open(&env, dir(), config(), &history).await;
        env.tasks.sleep(Duration::from_secs(3)).await;
        let before = (world.disk().counts(), machine.engine.counts());
        env.tasks.sleep(Duration::from_secs(3_600)).await;
        assert_eq!((world.disk().counts(), machine.engine.counts()), before);
    });
}

#[test]
fn files_go_only_after_the_checkpoint_and_leave_their_room() {
    let world = World::new(5);
    let budget = DiskBudget::new(1 << 30);
    let config = EngineConfig { budget: budget.clone(), ..config() };
    let history = filled(&world, config.clone());
    let env = world.restart();
    world.block_on(async {
        let budget = DiskBudget::new(1 << 30);
        let machine = Machine::open(&env, dir(), EngineConfig { budget, ..config }, &history).await;
        let id = machine.engine.partitions()[0];
        let log = machine.engine.partition(id).expect("is there");
        let (dir, before) = (log.inner.dir.clone(), machine.engine.usage().segments);
        let count = env.disk.list(&dir).await.expect("lists").len();
        assert!(count > 2, "{count} files");
        log.trim(log.bounds().end);
        assert_eq!(env.disk.list(&dir).await.expect("lists").len(), count);
        machine.engine.checkpoint().await.expect("checkpoints");
        assert_eq!(env.disk.list(&dir).await.expect("lists").len(), 0);
        assert!(machine.engine.usage().segments < before);
        let rest = machine.engine.partitions();
        rest.iter().for_each(|id| machine.drop_now(*id));
        machine.engine.checkpoint().await.expect("checkpoints");
        assert!(!env.disk.exists(&dir).await.expect("looks"));
        assert_eq!(machine.engine.usage().segments, 0);
    });
}

#[test]
fn a_checkpoint_during_the_removal_of_files_forgets_none() {
    let world = World::new(5);
    let env = world.env();
    let history = Rc::new(History::default());
    let config = EngineConfig { checkpoint_interval: Duration::from_secs(3_600), ..config() };
    let dropped = world.block_on(async {
        let machine = Machine::open(&env, dir(), config.clone(), &history).await;
        (0..80).for_each(|_| machine.propose(&history, LaneId(1), Command::Create));
        for _ in 0..800 {
            machine.propose(&history, LaneId(1), Command::Append);
            machine.wait_for_room().await;
        }
        machine.settle().await;
        machine.engine.checkpoint().await.expect("checkpoints");
        let of = |id| machine.engine.partition(id).expect("is there").inner.dir.clone();
        let dropped: Vec<_> = machine.engine.partitions().iter().skip(1).map(|id| (*id, of(*id))).collect();
        dropped.iter().for_each(|(id, _)| machine.drop_now(*id));
        let (engine, before) = (machine.engine.clone(), machine.engine.counts());
        drop(env.tasks.spawn("first", async move { engine.checkpoint().await.expect("checkpoints") }));
        while machine.engine.counts().checkpoints == before.checkpoints {
            env.tasks.sleep(Duration::from_micros(1)).await;
        }
        machine.engine.checkpoint().await.expect("checkpoints");
        let mut left = 0;
        for (_, dir) in &dropped {
            left += u32::from(env.disk.exists(dir).await.expect("looks"));
        }
        assert!(left > 0, "the first still removes");
        dropped
    });
    world.kill();
    let env = world.restart();
    world.block_on(async {
        let (engine, _) = Engine::open(env.clone(), dir(), config).await.expect("opens");
        for (_, dir) in &dropped {
            assert!(!env.disk.exists(dir).await.expect("looks"), "{} stays for ever", dir.display());
        }
        engine.close().await;
    });
}

#[test]
fn a_budget_refuses_before_the_disk_is_full_and_deleting_helps() {
    let world = World::new(5);
    let env = world.env();
    let history = Rc::new(History::default());
    let journal = config().journal.capacity_bytes;
    let config = EngineConfig { budget: DiskBudget::new(journal * 2), ..config() };
    world.block_on(async {
        let machine = Machine::open(&env, dir(), config, &history).await;
        machine.propose(&history, LaneId(1), Command::Create);
        let mut refused = None;
        for _ in 0..2_000 {
            match machine.engine.admit(20_000) {
                Ok(_room) => machine.propose(&history, LaneId(1), Command::Append),
                Err(error @ Refused::Disk(_)) => {
                    refused = Some(error);
                    break;
                }
                Err(_) => {}
            }
            machine.settle().await;
        }
        let refused = refused.expect("the budget is small").to_string();
        assert!(refused.contains("--disk-bytes"), "{refused}");
        for id in machine.engine.partitions() {
            let log = machine.engine.partition(id).expect("is there");
            log.trim(log.bounds().end);
        }
        machine.engine.checkpoint().await.expect("the reserve is enough for a checkpoint");
        assert!(machine.engine.admit(20_000).is_ok());
    });
}

#[test]
fn a_failed_sync_ends_the_engine_and_a_full_disk_does_not() {
    for (operation, kind, ends) in [
        (Operation::Sync, std::io::ErrorKind::Other, true),
        (Operation::Write, std::io::ErrorKind::StorageFull, false),
        (Operation::Write, std::io::ErrorKind::Other, true),
    ] {
        let world = World::new(5);
        let env = world.env();
        let history = Rc::new(History::default());
        world.block_on(async {
            let machine = Machine::open(&env, dir(), config(), &history).await;
            machine.propose(&history, LaneId(1), Command::Create);
            machine.settle().await;
            world.disk().inject(Fault { operation, path: ".log".into(), after: 0, error: kind });
            (0..10).for_each(|_| machine.propose(&history, LaneId(1), Command::Append));
            machine.settle().await;
            let failed = machine.engine.checkpoint().await;
            world.disk().clear_faults();
            // Upkeep may have had the fault first.
            assert!(failed.is_err() || !ends || machine.engine.has_ended());
            assert_eq!((machine.engine.has_ended(), machine.failed()), (ends, ends), "{operation:?} {kind:?}");
            if !ends {
                machine.engine.checkpoint().await.expect("space came free");
            }
            machine.check(&history, "after the fault").await;
        });
    }
}

#[test]
fn a_page_that_rots_under_a_running_engine_costs_nothing() {
    let world = World::new(5);
    let history = filled(&world, config());
    let env = world.restart();
    world.block_on(async {
        let machine = Machine::open(&env, dir(), config(), &history).await;
        (0..40).for_each(|_| machine.propose(&history, LaneId(2), Command::Create));
        machine.settle().await;
        for round in 0..6 {
            machine.engine.checkpoint().await.expect("checkpoints");
            let pages = machine.engine.inner.store.lock().await.newest_pages().to_vec();
            for page in pages.iter().filter(|page| page.len > 0) {
                let at = page.block * 4096 + u64::from(page.len) / 2;
                assert!(world.disk().flip_bit(&dir().join("checkpoint.pages"), at, 1), "round {round}");
            }
            machine.propose(&history, LaneId(1), Command::Append);
            machine.propose(&history, LaneId(2), Command::Append);
            machine.settle().await;
            machine.engine.checkpoint().await.expect("goes on without what was lost");
            assert!(!machine.engine.has_ended());
        }
        machine.engine.close().await;
        let machine = Machine::open(&env, dir(), config(), &history).await;
        machine.check(&history, "reopened").await;
    });
}

#[test]
fn a_checkpoint_older_than_its_journal_is_refused() {
    let world = World::new(5);
    let history = filled(&world, config());
    drop(history);
    let env = world.restart();
    world.block_on(async {
        // Both slots are lost: what the journal has purged is lost.
        for slot in ["checkpoint.0", "checkpoint.1"] {
            env.disk.remove_file(&dir().join(slot)).await.expect("removes");
        }
        let error = Engine::open(env.clone(), dir(), config()).await.expect_err("must not open");
        assert!(matches!(error, OpenError::Gap { .. }), "{error}");
    });
}

#[test]
fn a_journal_older_than_its_checkpoint_is_refused() {
    let world = World::new(5);
    filled(&world, config());
    let env = world.restart();
    world.block_on(async {
        env.disk.remove_dir_all(&dir().join("journal")).await.expect("removes");
        let error = Engine::open(env.clone(), dir(), config()).await.expect_err("must not open");
        assert!(matches!(error, OpenError::JournalBehind { .. }), "{error}");
    });
}

#[test]
fn a_thousand_partitions_cost_a_few_pages() {
    let world = World::new(5);
    let env = world.env();
    let history = Rc::new(History::default());
    world.block_on(async {
        let machine = Machine::open(&env, dir(), config(), &history).await;
        for _ in 0..1_000 {
            machine.propose(&history, LaneId(1), Command::Create);
        }
        machine.settle().await;
        machine.engine.checkpoint().await.expect("checkpoints");
        let before = machine.engine.counts();
        machine.propose(&history, LaneId(1), Command::Append);
        machine.settle().await;
        machine.engine.checkpoint().await.expect("checkpoints");
        let after = machine.engine.counts();
        assert!(after.checkpoint_pages - before.checkpoint_pages <= 3);
        assert!(after.checkpoint_bytes - before.checkpoint_bytes < 200_000);
    });
}
