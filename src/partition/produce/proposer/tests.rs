//! A lane over the simulated disk: answers to idempotent producers when a batch is refused for a while, or comes twice.

use std::collections::BTreeMap;

use futures::future::join_all;
use tidewater_storage::env::sim::World;
use tidewater_storage::model::{LeaderEpoch, TopicName};

use super::*;
use crate::partition::fixture::Fixture;
use crate::partition::state::command::{CopiedRange, LaneCommand};

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

#[test]
fn a_copy_is_written_before_anything_else_and_keeps_offsets_and_leader_epochs() {
    on_a_shard(async |shard| {
        let partition = shard.address(1).id;
        let create = LaneCommand::Create {
            partition,
            topic: TopicName::new("orders").expect("legal"),
            overrides: BTreeMap::new(),
            epoch_base: 1 << 20,
            copied: Some(CopiedRange { start: Offset::new(40), end: Offset::new(42) }),
            revision: 0,
        };
        shard.lane.propose(LaneOp::Command(create)).await.expect("is made");
        let copy = |offset: u64| {
            let mut part = shard.record(1, TimestampMs(1000));
            patch(&mut part.batch.bytes, Offset::new(offset), LeaderEpoch(7));
            part.batch.header = BatchHeader::parse(&part.batch.bytes).expect("a batch");
            ProducePart { origin: Origin::Copy, ..part }
        };
        let produce = async |part| shard.router.produce(vec![part]).await.remove(0);
        let client = async || produce(shard.record(1, TimestampMs(1000))).await;
        assert_eq!(client().await, Err(ProduceError::Copying { until: Offset::new(42) }));
        assert!(matches!(produce(copy(41)).await, Err(ProduceError::Invalid(_))), "a gap");
        assert_eq!(base(produce(copy(40)).await), 40);
        assert!(matches!(produce(copy(40)).await, Err(ProduceError::Invalid(_))), "it is there already");
        assert!(client().await.is_err());
        assert_eq!(base(produce(copy(41)).await), 41);
        assert!(matches!(produce(copy(42)).await, Err(ProduceError::Invalid(_))), "it is complete");
        assert_eq!(base(client().await), 42);
        let replica = shard.lane.replica(partition).expect("is there");
        let epoch = replica.leader_epoch(shard.lane.status.leading().expect("leads"));
        let epochs = [(LeaderEpoch(7), Offset::new(40)), (epoch, Offset::new(42))];
        assert_eq!((replica.epochs().as_slice(), replica.log_start()), (&epochs[..], Offset::new(40)));
        assert_eq!(replica.manifest().archived_end, Offset::new(40));
        let again = Replica::decode(partition, replica.lane, &replica.encode(), replica.log.clone()).expect("is read");
        assert_eq!(again.encode(), replica.encode());
    });
}
