//! What a turn may hold: hours, bytes, ranges left out, with any kind of log.

use bytes::Bytes;
use futures::executor::block_on;

use super::*;

const HOUR_MS: i64 = 3_600_000;

/// Runs turns until nothing is left and gives back rows and files of each.
async fn turns(sink: &mut TableSink) -> Vec<(u64, usize)> {
    let mut turns = Vec::new();
    loop {
        match sink.run_once(NOW).await {
            Outcome::Committed { rows, files, .. } => turns.push((rows, files)),
            Outcome::Idle => return turns,
            other => panic!("{other:?}"),
        }
        assert!(turns.len() < 5000, "never idle: {:?}", sink.status());
    }
}

/// A record's time and key.
fn keyed(bytes: usize) -> (TimestampMs, Bytes) {
    (NOW, Bytes::from(vec![0; bytes]))
}

/// The size of the table's metadata file.
async fn metadata_bytes(world: &World) -> usize {
    let catalog = world.catalog();
    let location = catalog.load(&world.table()).await.expect("loads").location.expect("has one");
    catalog.files().read(&location).await.expect("reads").len()
}

#[test]
fn a_batch_of_a_thousand_hours_is_taken_a_few_hours_at_a_time() {
    block_on(async {
        let mut world = World::new(20);
        world.log.append(0, 5, NOW);
        world.log.append_each(0, (0..1000).map(|n| (NOW.plus_ms(n * HOUR_MS), Bytes::new())));
        world.log.append(0, 5, NOW);
        let mut config = world.config(1);
        config.turn_files = 4;
        let mut sink = world.sink_with(config);
        let turns = turns(&mut sink).await;
        assert!(turns.len() >= 250 && turns.iter().all(|(_, files)| *files <= 4), "{turns:?}");
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn partitions_share_the_hours_of_a_turn() {
    block_on(async {
        let mut world = World::new(21);
        for partition in 0..3 {
            let hour = |n: i64| NOW.plus_ms((n * 3 + 1 + i64::from(partition)) * HOUR_MS);
            world.log.append_each(partition, (0..200).map(|n| (hour(n), Bytes::new())));
        }
        world.log.append(3, 5, NOW);
        let mut config = world.config(1);
        config.turn_files = 64;
        let mut sink = world.sink_with(config);
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { files: 1..=64, more: true, .. }));
        let next = |sink: &TableSink, partition| sink.status().partitions[&PartitionIndex(partition)].table.get();
        assert_eq!(next(&sink, 3), 5, "the others' hours leave room for its own");
        let taken: Vec<_> = (0..3).map(|partition| next(&sink, partition)).collect();
        assert!(taken.iter().all(|next| *next >= 16), "{taken:?}");
        turns(&mut sink).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

/// Records of each partition are of the same 40 hours: those that come first may not open all of them.
#[test]
fn partitions_of_the_same_hours_do_not_fall_behind_one_another() {
    block_on(async {
        let mut world = World::new(27);
        let mut config = world.config(1);
        config.turn_files = 64;
        let mut sink = world.sink_with(config);
        let hour = |n: i64| NOW.plus_ms((n % 40) * HOUR_MS);
        for _ in 0..30 {
            for partition in 0..16 {
                world.log.append_each(partition, (0..80).map(|n| (hour(n), Bytes::new())));
            }
            sink.run_once(NOW).await;
        }
        let lags: Vec<_> = sink.status().partitions.values().map(|partition| partition.lag).collect();
        assert!(lags.iter().all(|lag| *lag <= 3 * 80), "{lags:?}");
        turns(&mut sink).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn batches_that_unpack_to_much_are_taken_a_few_at_a_time() {
    block_on(async {
        let mut world = World::new(22);
        (0..50).for_each(|_| world.log.append_each(0, [keyed(2 << 20)]));
        let mut config = world.config(1);
        config.turn_bytes = 4 << 20;
        let mut sink = world.sink_with(config);
        let turns = turns(&mut sink).await;
        assert!(turns.len() >= 25 && turns.iter().all(|(rows, _)| *rows <= 2), "{turns:?}");
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn one_batch_larger_than_a_turn_takes_several() {
    block_on(async {
        let mut world = World::new(23);
        world.log.append_each(0, (0..40).map(|_| keyed(100_000)));
        let mut config = world.config(1);
        config.turn_bytes = 1 << 20;
        let mut sink = world.sink_with(config.clone());
        assert!(matches!(sink.run_once(NOW).await, Outcome::Committed { rows: 10, more: true, .. }));
        // Another process continues inside the batch.
        let mut sink = world.sink_with(config);
        let turns = turns(&mut sink).await;
        assert!(turns.iter().all(|(rows, _)| *rows <= 10), "{turns:?}");
        assert_eq!(world.rows().await, world.expected());
    });
}

/// Its record does not fit behind those of the other, which has more to give in each turn.
#[test]
fn a_partition_without_room_comes_first_in_the_next_turn() {
    block_on(async {
        let mut world = World::new(24);
        world.log.append_each(1, [keyed(900_000)]);
        let mut config = world.config(1);
        config.turn_bytes = 1 << 20;
        let mut sink = world.sink_with(config);
        for _ in 0..3 {
            (0..40).for_each(|_| world.log.append_each(0, [keyed(30_000)]));
            sink.run_once(NOW).await;
        }
        assert_eq!(sink.status().partitions[&PartitionIndex(1)].lag, 0);
        turns(&mut sink).await;
        assert_eq!(world.rows().await, world.expected());
    });
}

#[test]
fn damage_without_end_is_one_range_taken_in_bounded_turns() {
    block_on(async {
        let mut world = World::new(25);
        world.log.append(0, 1, NOW);
        for _ in 0..10_000 {
            world.log.append(0, 1, NOW);
            world.log.damage_last(0);
        }
        let mut config = world.config(1);
        config.turn_bytes = 100_000;
        let mut sink = world.sink_with(config);
        let turns = turns(&mut sink).await;
        assert!((5..30).contains(&turns.len()), "{} turns", turns.len());
        let skipped: Vec<_> = sink.status().skipped.iter().map(|range| (range.start, range.end)).collect();
        assert_eq!((skipped, sink.status().skipped_offsets), (vec![(1, 10_001)], 10_000));
        assert!(metadata_bytes(&world).await < 100_000);
        assert_eq!(world.rows().await.len(), 1);
    });
}

#[test]
fn a_thousand_ranges_do_not_swell_the_metadata() {
    block_on(async {
        let mut world = World::new(26);
        for _ in 0..1000 {
            world.log.append(0, 1, NOW);
            world.log.append(0, 1, NOW);
            world.log.damage_last(0);
        }
        let mut sink = world.sink(1);
        assert_eq!(turns(&mut sink).await, [(1000, 1)]);
        assert_eq!((sink.status().skipped.len(), sink.status().skipped_offsets), (offsets::SKIPPED_KEPT, 1000));
        let metadata = world.catalog().load(&world.table()).await.expect("loads").metadata;
        let summary = &metadata.current_snapshot().expect("one").summary().additional_properties;
        assert_eq!(summary.get(offsets::SKIPPED_COUNT).map(String::as_str), Some("1000"));
        assert!(metadata_bytes(&world).await < 100_000);
    });
}
