//! Tables that are given up: nothing of ours comes after, no record is in neither of them, and they can be taken on
//! again.

use std::sync::Mutex;

use futures::FutureExt;

use super::*;
use crate::fixture::Fault;

/// An owner's change of properties, in an engine.
async fn set(world: &World, table: &TableIdent, properties: &[(&str, String)]) {
    let loaded = world.catalog().load(table).await.expect("loads");
    let updates = properties.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    let uuid = vec![TableRequirement::UuidMatch { uuid: loaded.metadata.uuid() }];
    world.catalog().commit(table, uuid, vec![TableUpdate::SetProperties { updates }]).await.expect("committed");
}

async fn owner(world: &World, table: &TableIdent) -> Option<TableOwner> {
    TableOwner::of(&world.catalog().load(table).await.expect("loads").metadata)
}

#[test]
fn a_table_that_was_given_up_is_not_written_until_its_owner_says_so() {
    block_on(async {
        let (mut world, mut produced) = begin(701);
        produced.append(&world, 0, &[1, 9, 2, 10], NOW);
        let mut sink = world.sink_with(SinkConfig { delete: true, ..world.config(1) });
        drain(&mut sink, NOW).await;
        produced.append(&world, 1, &[1, 9], NOW);
        let detached = sink.detach(NOW).await.expect("given up");
        let dead = dead_letter_table(&world.table());
        assert_eq!((detached.table, detached.dead_letters.as_ref()), (world.table(), Some(&dead)));
        let before = world.catalog().load(&world.table()).await.expect("loads");
        for table in [&world.table(), &dead] {
            assert_eq!(owner(&world, table).await, None, "{table}");
            let loaded = world.catalog().load(table).await.expect("loads");
            assert!(!identity::goes_with_topic(&loaded.metadata), "{table}");
        }
        // It writes nothing, and says what may be done.
        for mut sink in [sink, world.sink(2)] {
            match sink.run_once(NOW).await {
                Outcome::Paused(PauseReason::Foreign(foreign)) => {
                    let text = foreign.to_string();
                    assert!(text.contains("detach") && text.contains("iceberg.table"), "{text}");
                }
                outcome => panic!("{outcome:?}"),
            }
            sink.unmark().await.expect("it has no mark");
            sink.detach(NOW).await.expect("again");
        }
        let after = world.catalog().load(&world.table()).await.expect("loads");
        assert_eq!(before.location, after.location);
        // Its owner gives it back: the rows that came meanwhile follow, once.
        let ids = [(identity::CLUSTER, world.cluster.to_string()), (identity::TOPIC, world.topic.to_string())];
        for table in [&world.table(), &dead] {
            set(&world, table, &ids).await;
        }
        drain(&mut world.sink(3), NOW).await;
        produced.check(&world, "taken on again").await;
    });
}

#[test]
fn what_is_under_way_when_a_table_is_given_up_does_not_reach_it() {
    block_on(async {
        let mut world = World::new(702);
        world.log.append(0, 3, NOW);
        drain(&mut world.sink(1), NOW).await;
        world.log.append(0, 3, NOW);
        let mut other = world.sink(1);
        let detached = async move { other.detach(NOW).await.map(drop).expect("given up") };
        let fault = doubles::Fault::Before(Mutex::new(Some(detached.boxed())));
        let catalog = Arc::new(Faulty { inner: world.catalog(), fault });
        let mut sink = TableSink::new(world.config(1), catalog, world.log.clone(), Names::seeded(1));
        let outcome = sink.run_once(NOW).await;
        assert!(matches!(outcome, Outcome::Paused(PauseReason::Foreign(_))), "{outcome:?}");
        assert_eq!(world.rows().await.len(), 3);
        assert_eq!(owner(&world, &world.table()).await, None);
    });
}

#[test]
fn giving_up_can_be_cut_off_at_any_step_and_done_again() {
    block_on(async {
        let faults = [Fault::CrashBefore, Fault::CrashAfter, Fault::LostAnswer];
        for step in 1_u64.. {
            let mut is_past = true;
            for fault in faults {
                let (mut world, mut produced) = begin(703);
                produced.append(&world, 0, &[1, 9, 2, 10], NOW);
                let mut sink = world.sink(1);
                drain(&mut sink, NOW).await;
                produced.append(&world, 0, &[9, 1], NOW);
                // A turn whose dead letters are decided and not there yet.
                world.store.arm(world.store.steps() + 14, Fault::LostAnswer);
                let _ = sink.run_once(NOW).await;
                world.store.arm(world.store.steps() + step, fault);
                let done = sink.detach(NOW).await;
                is_past &= done.is_ok() && world.store.fault_is_ahead();
                world.store.calm();
                if done.is_err() {
                    world.sink(1).detach(NOW).await.unwrap_or_else(|error| panic!("{step} {fault:?}: {error}"));
                }
                let dead = dead_letter_table(&world.table());
                for table in [&world.table(), &dead] {
                    assert_eq!(owner(&world, table).await, None, "{step} {fault:?}: {table}");
                }
                produced.check_taken(&world, &format!("{step} {fault:?}")).await;
            }
            if is_past {
                assert!(step > 10, "{step} steps");
                return;
            }
        }
    });
}
