//! The scrubber reads a shared object once, however many rows name it.

use super::*;

#[test]
fn a_bundle_of_many_partitions_is_scrubbed_in_one_read() {
    let bench = Bench::new(98, Faults::default(), 40);
    bench.partitions.iter().for_each(|id| bench.lane.append(*id, 1, 100));
    bench.live_untrimmed(Duration::from_secs(2));
    let bundles = bench.lane.with_lane(|lane| lane.live.len());
    let archiver = bench.archiver();
    let _ = bench.sim.take_log();
    let report = bench.world.block_on(archiver.scrub(None, u64::MAX)).expect("scrubs");
    assert_eq!((report.objects, report.rows, report.failed, report.next), (bundles as u64, 0, None, None));
    let gets = bench.sim.take_log().into_iter().filter(|request| request.starts_with("get ")).count();
    assert!(gets <= 3 * bundles, "{gets} reads of {bundles} bundles");
}

#[test]
fn a_scrub_goes_on_where_the_last_one_ended_and_comes_to_an_end() {
    let bench = Bench::new(99, Faults::default(), 4);
    for _ in 0..4 {
        bench.live_for(Duration::from_secs(3), 12);
    }
    let archiver = bench.archiver();
    let whole = bench.world.block_on(archiver.scrub(None, u64::MAX)).expect("scrubs");
    let (mut from, mut bytes, mut runs) = (None, 0, 0);
    loop {
        let report = bench.world.block_on(archiver.scrub(from, 2_000)).expect("scrubs");
        assert_eq!(report.failed, None);
        (bytes, runs, from) = (bytes + report.bytes, runs + 1, report.next);
        if from.is_none() {
            break;
        }
        assert!(runs < 1_000, "it does not come to an end");
    }
    assert!(runs > 3 && bytes == whole.bytes, "{runs} runs, {bytes} of {} bytes", whole.bytes);
}

#[test]
fn damage_in_a_shared_object_is_found_where_it_is() {
    let bench = Bench::new(100, Faults::default(), 6);
    bench.partitions.iter().for_each(|id| bench.lane.append(*id, 1, 300));
    bench.live_untrimmed(Duration::from_secs(2));
    let bad = bench.partitions[3];
    let bundle = bench.lane.with_partition(bad, |m| m.rows[0].object()).expect("there");
    let index = bench.world.block_on(bench.reader.indexes().of_object(bundle)).expect("reads");
    let position = index.index.partition(bad).expect("there").extents[0].position as usize;
    let mut body = BytesMut::from(&bench.sim.objects()[bundle.key().as_str()][..]);
    body[position + 80] ^= 1;
    bench.sim.tamper(bundle.key().as_str(), Some(body.freeze()));
    let report = bench.world.block_on(bench.archiver().scrub(None, u64::MAX)).expect("scrubs");
    assert_eq!(report.quarantined.iter().map(|bad| bad.partition).collect::<Vec<_>>(), [bad], "{report:?}");
}
