//! Parts: a busy partition's bytes go to the bucket once; parts go with their bundle until a row names them.

use super::*;
use crate::manifest::Row;

/// Sizes near enough to real ones that indexes and trailers weigh as little as they do there.
fn larger(lag: Duration) -> Bench {
    let mut bench = Bench::new(90, Faults::default(), 2);
    bench.config.bundle_bytes_max = 512 << 10;
    bench.config.part_bytes_min = 64 << 10;
    bench.config.part_bytes_eager = 128 << 10;
    bench.config.waiting_bytes_max = 4 << 20;
    bench.config.object_bytes_max = 1 << 20;
    bench.config.gather_row_bytes_max = 64 << 10;
    bench.lane.lag.set(lag);
    bench
}

/// Appends `records` of `size` bytes to a partition, one every `pause`; bytes put over bytes appended.
fn uploads_per_byte(bench: &Bench, id: PartitionId, records: u64, size: usize, pause: Duration) -> f64 {
    let archiver = bench.archiver();
    let running = archiver.clone();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    for _ in 0..records {
        bench.lane.append(id, 1, size);
        bench.world.run_for(pause);
    }
    bench.world.run_for(Duration::from_secs(60));
    assert!(bench.lane.unarchived().is_empty());
    task.cancel();
    let status = archiver.status();
    let put = status.bundle_bytes + status.part_bytes + status.segment_bytes + status.gathered_bytes;
    let appended: usize = bench.lane.logs.borrow()[&id].batches.iter().map(|batch| batch.bytes.len()).sum();
    put as f64 / appended as f64
}

fn rows(bench: &Bench, id: PartitionId) -> Vec<Row> {
    bench.lane.with_partition(id, |m| m.rows.clone()).expect("there")
}

#[test]
fn a_busy_partition_is_uploaded_once() {
    let bench = larger(Duration::from_secs(2));
    let id = bench.partitions[0];
    let ratio = uploads_per_byte(&bench, id, 600, 8 << 10, Duration::from_millis(10));
    assert!(ratio <= 1.1, "each byte was put {ratio:.2} times");
    let held = rows(&bench, id);
    let of_parts = held.iter().filter(|row| matches!(row.object().kind, ObjectKind::Part { .. })).count();
    assert!(of_parts > 20 && held.len() <= 2 * of_parts + 1, "{of_parts} of {} rows are parts", held.len());
    bench.all_reads_back();
    assert_eq!(bench.orphans(), Vec::<String>::new());
}

#[test]
fn a_trickle_is_uploaded_twice() {
    let bench = larger(Duration::from_secs(2));
    let ratio = uploads_per_byte(&bench, bench.partitions[0], 200, 1 << 10, Duration::from_millis(300));
    assert!((1.9..2.6).contains(&ratio), "each byte was put {ratio:.2} times");
    assert!(rows(&bench, bench.partitions[0]).iter().all(|row| !matches!(row.object().kind, ObjectKind::Part { .. })));
}

#[test]
fn a_part_is_kept_while_its_bundle_may_still_be_settled() {
    let bench = Bench::new(91, Faults::default(), 1);
    let id = bench.partitions[0];
    (0..8).for_each(|_| bench.lane.append(id, 1, 700));
    bench.settle();
    let part = |sequence: Sequence, nonce| {
        let (lane, term) = (bench.lane.lane(), tidewater_storage::model::Term(1));
        let kind = ObjectKind::Part { partition: id, lane, sequence, term, nonce: Nonce(nonce) };
        bench.bucket.home.name(kind).key()
    };
    let last = bench.lane.with_lane(|lane| lane.last);
    let (settled, open) = (part(last, 1), part(last.next(), 2));
    [&settled, &open].iter().for_each(|key| bench.sim.tamper(key.as_str(), Some(Bytes::from_static(b"part"))));
    bench.live_for(Duration::from_secs(60), 0);
    assert_eq!(bench.lane.with_lane(|lane| lane.last), last, "nothing new");
    assert!(!bench.sim.objects().contains_key(settled.as_str()), "its bundle is settled and does not name it");
    assert!(bench.sim.objects().contains_key(open.as_str()), "a bundle that names it may be found at the next key");
}

#[test]
fn parts_of_a_bundle_that_is_found_get_rows_of_their_own() {
    let bench = Bench::new(92, Faults::default(), 1);
    let id = bench.partitions[0];
    (0..8).for_each(|_| bench.lane.append(id, 1, 700));
    let backup = bench.lane.backup();
    // A predecessor whose bundle was put and whose command never came.
    let running = bench.archiver();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    while !bench.sim.objects().keys().any(|key| key.contains("/lanes/")) {
        bench.world.run_for(Duration::from_millis(1));
    }
    task.cancel();
    let bench = Bench { lane: backup, ..bench };
    assert!(bench.sim.objects().keys().any(|key| key.contains("/parts/")));
    bench.lane.new_term();
    bench.settle();
    assert!(bench.done.borrow().adopted > 0 && bench.done.borrow().parts_adopted > 0);
    assert!(rows(&bench, id).iter().any(|row| matches!(row.object().kind, ObjectKind::Part { .. })));
    bench.all_reads_back();
    assert_eq!(bench.orphans(), Vec::<String>::new());
}

#[test]
fn a_part_over_the_border_of_two_segments_is_repaired_from_the_local_log() {
    let mut bench = Bench::new(93, Faults::default(), 1);
    bench.config.bundle_bytes_max = 20_000;
    bench.config.part_bytes_eager = 18_000;
    bench.config.object_bytes_max = 30_000;
    let id = bench.partitions[0];
    (0..34).for_each(|_| bench.lane.append(id, 1, 700));
    bench.live_untrimmed(Duration::from_secs(3));
    let part = rows(&bench, id)[0];
    assert!(matches!(part.object().kind, ObjectKind::Part { .. }), "{part:?}");
    let segments = bench.lane.closed_segments(id);
    assert!(segments[0].offsets.end < part.offsets.end && segments[1].offsets.end >= part.offsets.end);
    let mut body = BytesMut::from(&bench.sim.objects()[part.object().key().as_str()][..]);
    body[70] ^= 1;
    bench.sim.tamper(part.object().key().as_str(), Some(body.freeze()));
    let report = bench.world.block_on(bench.archiver().scrub(None, u64::MAX)).expect("scrubs");
    assert_eq!(report.repaired, [(id, part.offsets)], "{report:?}");
    bench.all_reads_back();
}
