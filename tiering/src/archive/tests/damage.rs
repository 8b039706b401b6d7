//! What is damaged or gone for good in the bucket harms only what it belongs to, and only for as long as it is so.

use tidewater_storage::model::Term;

use super::*;
use crate::keys::Nonce;
use crate::manifest::SpillRow;

/// A spill page of `level` that the bucket does not hold, in the place of all the partition's rows.
fn lose_rows_to_a_page(bench: &Bench, id: PartitionId, level: u8) {
    bench.lane.alter(id, |manifest| {
        let kind = ObjectKind::Spill { partition: id, start: manifest.first_covered(), level, nonce: Nonce(1) };
        let offsets = OffsetRange::new(manifest.first_covered(), manifest.archived_end);
        let page = bench.bucket.home.name(kind);
        let (bytes, max_timestamp) = (manifest.bytes(), manifest.max_timestamp());
        manifest.rows.clear();
        manifest.spilled.push(SpillRow { offsets, bytes, max_timestamp, page, size: 100, crc: 1 });
    });
}

#[test]
fn a_lost_page_keeps_no_other_partition_from_retention() {
    let bench = Bench::new(60, Faults::default(), 3);
    for id in &bench.partitions {
        (0..20).for_each(|_| bench.lane.append(*id, 1, 400));
    }
    bench.live_for(Duration::from_secs(4), 0);
    lose_rows_to_a_page(&bench, bench.partitions[0], 0);
    let policy = RetentionPolicy { retention_ms: None, retention_bytes: Some(1_000) };
    for log in bench.lane.logs.borrow_mut().values_mut() {
        log.facts.as_mut().expect("there").retention = policy;
    }
    (0..2).for_each(|_| bench.live_for(Duration::from_secs(6), 0));
    let starts: Vec<Offset> =
        bench.partitions.iter().map(|id| bench.lane.with_partition(*id, |m| m.log_start).expect("there")).collect();
    assert_eq!(starts[0], Offset::ZERO, "what the page holds is not known");
    assert!(starts[1] > Offset::ZERO && starts[2] > Offset::ZERO, "{starts:?}");
}

#[test]
fn a_deleted_topic_goes_even_if_a_page_of_it_is_lost() {
    for level in [0, 1] {
        let bench = Bench::new(61, Faults::default(), 4);
        bench.live_for(Duration::from_secs(10), 12);
        lose_rows_to_a_page(&bench, bench.partitions[0], level);
        bench.partitions.iter().for_each(|id| bench.lane.drop_topic(id.topic));
        (0..3).for_each(|_| bench.live_for(Duration::from_secs(30), 0));
        assert_eq!(bench.lane.clean.borrow().len(), 4, "level {level}");
        let left: Vec<String> = bench.sim.objects().into_keys().filter(|key| key.contains("segment")).collect();
        assert_eq!(left, Vec::<String>::new(), "the sweeper took what the page named");
    }
}

#[test]
fn objects_are_swept_although_a_page_of_another_partition_is_lost() {
    let bench = Bench::new(62, Faults::default(), 2);
    bench.live_for(Duration::from_secs(10), 12);
    lose_rows_to_a_page(&bench, bench.partitions[0], 0);
    let stray = |id: PartitionId| {
        let kind = ObjectKind::Segment { partition: id, base: Offset::ZERO, term: Term(1), nonce: Nonce(77) };
        bench.bucket.home.name(kind).key()
    };
    let keys: Vec<ObjectKey> = bench.partitions.iter().map(|id| stray(*id)).collect();
    for key in &keys {
        bench.sim.tamper(key.as_str(), Some(Bytes::from_static(b"stray")));
    }
    (0..2).for_each(|_| bench.live_for(Duration::from_secs(40), 0));
    let left = bench.sim.objects();
    assert!(left.contains_key(keys[0].as_str()), "its page may name it");
    assert!(!left.contains_key(keys[1].as_str()));
}
