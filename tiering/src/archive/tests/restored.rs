//! A lane restored from what its archivers left, by restores that are dropped anywhere and begin again, beside
//! archivers of the old epoch that go on: what the restored lane begins with reads back byte for byte, and stays.

use futures::future::{Either, select};
use tidewater_storage::env::Env;
use tidewater_storage::model::LaneId;

use super::*;
use crate::manifest::{Catalogue, Root, check_partition};
use crate::restore::{self, Attempt, LaneSeed, Restore, RestoreError, RestoreRefusal};

/// A restore of the bench's cluster, as run by another machine.
pub(super) fn of(bench: &Bench, env: &Env) -> Restore {
    let nonces = env.rng.next_u64();
    let count = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(nonces));
    Restore {
        store: bench.sim.store(),
        name: claim(7, false).name,
        accept_damage: false,
        now: env.clock.wall(),
        nonce: std::sync::Arc::new(move || Nonce(count.fetch_add(0x9e37_79b9, std::sync::atomic::Ordering::Relaxed))),
        progress: std::sync::Arc::new(|_| {}),
    }
}

/// Begins an attempt, however often the bucket fails.
pub(super) async fn begin(restore: &Restore, id: u128, take_over: bool) -> Result<Attempt, RestoreRefusal> {
    loop {
        match restore.root().await {
            Ok(root) => return restore::begin(&root, Uuid::from_u128(id), take_over),
            Err(error) => assert!(error.disposition().passes(), "{error}"),
        }
    }
}

/// Runs an attempt to its end. Each run is dropped after a time by the seed, the first ones early.
pub(super) async fn to_the_end(bench: &Bench, env: &Env, attempt: Attempt) -> Result<(), RestoreError> {
    let mut patience = Duration::from_millis(20);
    loop {
        let restore = of(bench, env);
        let patient = Duration::from_nanos(env.rng.below(u64::try_from(patience.as_nanos()).expect("short")));
        let (run, late) = (restore.run(&attempt), env.tasks.sleep(patient));
        let outcome = match select(std::pin::pin!(run), std::pin::pin!(late)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(_) => {
                patience = (patience * 2).min(Duration::from_secs(20));
                continue;
            }
        };
        match outcome {
            Ok(_) => return Ok(()),
            Err(error) if error.disposition().passes() => {}
            Err(error) => return Err(error),
        }
    }
}

fn root(bench: &Bench) -> Root {
    Root::decode(&bench.sim.objects()[claim(7, false).name.root_key().as_str()]).expect("decodes")
}

/// What the lane of a complete home begins with.
fn seed_of(bench: &Bench, attempt: &Attempt) -> LaneSeed {
    bench.sim.set_faults(Faults::default());
    let root = root(bench);
    assert_eq!((root.home(), root.attempt), (attempt.home(), Some(attempt.id)));
    let store = bench.sim.store();
    let seed = bench.world.block_on(restore::read_lane(&store, attempt.home(), LaneId(1))).expect("reads");
    seed.partitions.iter().for_each(|published| check_partition(&published.manifest).expect("holds"));
    seed
}

/// The bench of the restored cluster. What was archived when the old one was last looked at is in it.
pub(super) fn reborn(bench: &Bench, attempt: &Attempt, archived: &[(PartitionId, Offset)]) -> Bench {
    let seed = seed_of(bench, attempt);
    let env = bench.world.env_of(50);
    let lane = bench.lane.restored(&env, seed);
    for (id, end) in archived {
        let restored = lane.with_partition(*id, |manifest| manifest.archived_end);
        assert!(restored >= Some(*end), "{id} ends at {restored:?}, {end} was archived");
    }
    let root = Rc::new(root(bench));
    let bucket = Bucket { store: bench.sim.store(), home: root.home(), root: std::sync::Arc::new((*root).clone()) };
    Bench {
        world: Rc::clone(&bench.world),
        sim: bench.sim.clone(),
        reader: bench.reader.clone(),
        partitions: bench.partitions.clone(),
        config: bench.config.clone(),
        done: RefCell::default(),
        env,
        bucket,
        lane,
    }
}

pub(super) fn archived(bench: &Bench) -> Vec<(PartitionId, Offset)> {
    let end = |id: &PartitionId| bench.lane.with_partition(*id, |manifest| manifest.archived_end);
    bench.partitions.iter().filter_map(|id| Some((*id, end(id)?))).collect()
}

#[test]
fn a_restore_that_is_dropped_anywhere_ends_with_all_that_was_archived() {
    for seed in 0..20 {
        let bench = Bench::new(500 + seed, Faults::rough(), 4);
        for _ in 0..1 + bench.env.rng.below(4) {
            bench.live_for(Duration::from_millis(300 + bench.env.rng.below(9_000)), 6);
        }
        let before = archived(&bench);
        let env = bench.world.env_of(20);
        let restored = bench.world.block_on(async {
            let attempt = begin(&of(&bench, &env), 1, false).await.expect("begins");
            to_the_end(&bench, &env, attempt).await.map(|()| attempt)
        });
        let attempt = restored.expect("restored");
        let next = reborn(&bench, &attempt, &before);
        next.all_reads_back();
        for _ in 0..3 {
            next.sim.set_faults(Faults::rough());
            next.live_for(Duration::from_millis(500 + next.env.rng.below(9_000)), 6);
            next.named_objects_exist();
        }
        next.settle();
        next.all_reads_back();
        // Lost again, before anything of the second life was published or after it.
        let again = next.world.block_on(async {
            let attempt = begin(&of(&next, &env), 2, false).await.expect("begins");
            to_the_end(&next, &env, attempt).await.map(|()| attempt)
        });
        let again = again.expect("restored");
        assert_eq!((again.epoch, again.source), (LineageEpoch(3), attempt.home()));
        reborn(&next, &again, &archived(&next)).all_reads_back();
    }
}

/// A copy begins where its origin begins.
#[test]
fn a_partition_that_begins_above_offset_0_and_has_no_records_is_no_damage() {
    let bench = Bench::new(530, Faults::default(), 1);
    bench.live_for(Duration::from_secs(3), 6);
    let new = partition(71, 0);
    bench.lane.create(new, RetentionPolicy::default());
    bench
        .lane
        .alter(new, |manifest| (manifest.log_start, manifest.archived_end) = (Offset::new(142), Offset::new(142)));
    bench.settle();
    // The catalogue need not name a topic of which nothing is in the bucket.
    let key = bench.bucket.catalogue_key();
    let mut catalogue = Catalogue::decode(&bench.sim.objects()[key.as_str()]).expect("decodes");
    catalogue.topics.retain(|topic| topic.id != new.topic);
    bench.sim.tamper(key.as_str(), Some(catalogue.encode()));
    let report = bench.world.block_on(of(&bench, &bench.env).survey()).expect("surveyed");
    assert_eq!((report.damaged, report.strays), (false, Vec::new()));
}

#[test]
fn records_of_a_topic_that_this_node_does_not_know_yet_wait_for_it() {
    let bench = Bench::new(531, Faults::default(), 1);
    bench.live_for(Duration::from_secs(3), 6);
    let new = partition(71, 0);
    bench.lane.create(new, RetentionPolicy::default());
    bench.lane.without_topic.borrow_mut().insert(new);
    (0..4).for_each(|_| bench.lane.append(new, 1, 700));
    bench.live_for(Duration::from_secs(20), 6);
    assert_eq!(bench.lane.with_partition(new, |manifest| manifest.archived_end), Some(Offset::ZERO));
    let report = bench.world.block_on(of(&bench, &bench.env).survey()).expect("surveyed");
    assert_eq!((report.damaged, report.strays), (false, Vec::new()));
    bench.lane.without_topic.borrow_mut().clear();
    bench.settle();
    assert_eq!(bench.lane.with_partition(new, |manifest| manifest.archived_end), Some(Offset::new(4)));
    bench.all_reads_back();
}

#[test]
fn archivers_of_the_old_epoch_that_go_on_harm_nothing_and_stop() {
    for seed in 0..20 {
        let bench = Bench::new(600 + seed, Faults::rough(), 4);
        bench.live_for(Duration::from_millis(300 + bench.env.rng.below(9_000)), 6);
        let zombie = bench.archiver();
        let running = zombie.clone();
        let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
        bench.append_some(10);
        bench.world.run_for(Duration::from_millis(bench.env.rng.below(4_000)));
        let before = archived(&bench);
        let env = bench.world.env_of(20);
        let restored = bench.world.block_on(async {
            let attempt = begin(&of(&bench, &env), 1, false).await.expect("begins");
            to_the_end(&bench, &env, attempt).await.map(|()| attempt)
        });
        let attempt = restored.expect("restored");
        let next = reborn(&bench, &attempt, &before);
        for _ in 0..3 {
            bench.append_some(8);
            next.sim.set_faults(Faults::rough());
            next.live_for(Duration::from_millis(500 + next.env.rng.below(20_000)), 6);
            next.named_objects_exist();
        }
        bench.append_some(8);
        next.settle();
        next.all_reads_back();
        next.named_objects_exist();
        assert!(
            zombie.status().stopped.is_some() || bench.lane.with_lane(|lane| lane.stopped.is_some()),
            "seed {seed}"
        );
        task.cancel();
    }
}

#[test]
fn of_two_restores_one_makes_the_switch() {
    let mut won = [0, 0];
    for seed in 0..20 {
        let bench = Bench::new(700 + seed, Faults::rough(), 3);
        bench.live_for(Duration::from_millis(2_000 + bench.env.rng.below(4_000)), 6);
        let before = archived(&bench);
        let (one, two) = (bench.world.env_of(20), bench.world.env_of(21));
        let (a, b) = bench.world.block_on(async {
            let race = async |env: &Env, id: u128, take_over: bool| {
                let attempt = begin(&of(&bench, env), id, take_over).await?;
                Ok::<_, RestoreRefusal>((attempt, to_the_end(&bench, env, attempt).await))
            };
            let take_over = seed % 2 == 0;
            let late = async {
                two.tasks.sleep(Duration::from_millis(two.rng.below(400))).await;
                race(&two, 2, take_over).await
            };
            futures::join!(race(&one, 1, false), late)
        });
        let ended = [a, b].map(|outcome| outcome.ok().filter(|(_, ended)| ended.is_ok()).map(|(attempt, _)| attempt));
        let root = root(&bench);
        let winner = ended.iter().flatten().find(|attempt| root.attempt == Some(attempt.id));
        let winner = *winner.expect("one of them has made the switch, and knows it");
        won[usize::from(winner.id == Uuid::from_u128(2))] += 1;
        reborn(&bench, &winner, &before).all_reads_back();
    }
    assert!(won.iter().all(|won| *won > 0), "each wins now and then: {won:?}");
}
