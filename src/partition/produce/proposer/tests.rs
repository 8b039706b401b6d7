//! A lane over the simulated disk: answers to idempotent producers when a batch is refused for a while, or comes twice.

use std::collections::BTreeMap;

use futures::future::join_all;
use tidewater_storage::env::sim::World;

use super::*;
use crate::partition::fixture::Fixture;

fn on_a_shard(act: impl AsyncFnOnce(&Fixture)) {
    let world = World::new(1);
    let env = world.env();
    world.block_on(async {
        let shard = Fixture::open(&env).await;
        act(&shard).await;
    });
}

fn base(done: Result<ProduceDone, ProduceError>) -> u64 {
    done.expect("is stored").base_offset.get()
}

#[test]
fn a_second_batch_is_not_stored_in_place_of_a_first_that_was_refused() {
    on_a_shard(async |shard| {
        shard.send_in_vain(7, 0, 0).await;
        for later in [1, 2] {
            let out = shard.send(7, 0, later).await;
            assert!(matches!(out, Err(ProduceError::Early { expected: 0, .. })), "{out:?}");
        }
        assert_eq!(base(shard.send(8, 0, 5).await), 0, "another producer may begin anywhere");
        for sequence in 0..3 {
            assert_eq!(base(shard.send(7, 0, sequence).await), 1 + sequence as u64, "sent again in order");
        }
    });
}

#[test]
fn a_producer_that_gave_its_first_batch_up_begins_a_new_epoch() {
    on_a_shard(async |shard| {
        shard.send_in_vain(7, 0, 0).await;
        assert_eq!(base(shard.send(7, 1, 0).await), 0);
        assert_eq!(base(shard.send(7, 1, 1).await), 1);
    });
}

#[test]
fn a_batch_that_comes_again_is_answered_with_its_offset_and_time() {
    on_a_shard(async |shard| {
        assert_eq!(base(shard.send(7, 0, 0).await), 0);
        let both = futures::future::join(shard.send(7, 0, 1), shard.send(7, 0, 1)).await;
        let again = shard.send(7, 0, 1).await;
        assert_eq!((base(both.0), again.clone().map(|done| done.base_offset.get())), (1, Ok(1)));
        assert_eq!(both.1, again, "in flight or applied");
        assert_eq!(again.map(|done| done.log_append_time), Ok(Some(TimestampMs(1001))));
    });
}

#[test]
fn a_producer_that_is_known_is_held_to_its_sequence() {
    on_a_shard(async |shard| {
        assert_eq!(base(shard.send(7, 0, 0).await), 0);
        shard.send_in_vain(7, 0, 1).await;
        // The gap is the broker's own doing. Called out of order, librdkafka would take a new producer id and send what
        // it has no answer for again, stored or not.
        let out = shard.send(7, 0, 2).await;
        assert!(matches!(out, Err(ProduceError::Early { expected: 1, .. })), "{out:?}");
        let out = shard.send(7, 0, 4).await;
        assert!(matches!(out, Err(ProduceError::Early { expected: 1, .. })), "{out:?}");
        for sequence in 1..3 {
            assert_eq!(base(shard.send(7, 0, sequence).await), sequence as u64);
        }
        let out = shard.send(7, 0, 4).await;
        assert!(matches!(out, Err(ProduceError::Early { expected: 3, .. })), "{out:?}");
        assert_eq!(base(shard.send(7, 0, 3).await), 3);
        assert_eq!(base(shard.send(7, 0, 4).await), 4);
        let out = shard.send(7, 0, 6).await;
        assert!(matches!(out, Err(ProduceError::OutOfOrder { expected: 5, .. })), "{out:?}");
    });
}

#[test]
fn a_producer_waits_while_the_lane_is_full() {
    on_a_shard(async |shard| {
        assert_eq!(base(shard.send(7, 0, 0).await), 0);
        let others = shard.fill();
        let (sent, others) = futures::future::join(shard.send(7, 0, 1), join_all(others)).await;
        assert_eq!(base(sent), 1);
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(base(shard.send(7, 0, 2).await), 2);
    });
}

#[test]
fn a_topic_of_many_partitions_is_cut_while_it_is_written_to() {
    const PARTITIONS: i32 = 700;
    on_a_shard(async |shard| {
        shard.create(PARTITIONS, BTreeMap::new()).await;
        let parts = || (0..PARTITIONS).map(|n| shard.record(n, TimestampMs(1000))).collect();
        assert!(shard.router.produce(parts()).await.iter().all(Result::is_ok));
        let before = shard.lane.status.applied().expect("has applied").index.0;
        let trims = join_all((0..PARTITIONS).map(|n| shard.router.trim(shard.address(n), Offset::new(1))));
        let again = join_all((0..PARTITIONS).map(|n| shard.router.trim(shard.address(n), Offset::new(1))));
        let sends = async {
            for sequence in 0..20 {
                assert_eq!(base(shard.send(7, 0, sequence).await), 1 + sequence as u64);
            }
        };
        let (trims, again, ()) = futures::join!(trims, again, sends);
        assert!(trims.iter().chain(&again).all(|done| *done == Ok(Offset::new(1))));
        let entries = shard.lane.status.applied().expect("has applied").index.0 - before;
        assert!(entries <= 20 + 6, "{entries} entries");
        assert!(shard.router.produce(parts()).await.iter().all(Result::is_ok));
    });
}

#[test]
fn a_coordinator_writes_in_its_own_term_alone() {
    on_a_shard(async |shard| {
        let term = shard.lane.status.leading().expect("leads");
        let of = |term| {
            let mut part = shard.record(0, TimestampMs(1000));
            part.origin = Origin::Coordinator(term);
            shard.router.produce(vec![part])
        };
        assert!(matches!(of(Term(term.0 - 1)).await.remove(0), Err(ProduceError::NotLeader(_))));
        assert_eq!(base(of(term).await.remove(0)), 0);
    });
}
