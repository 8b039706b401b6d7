//! What is damaged or gone for good in the bucket harms only what it belongs to, and only for as long as it is so.

use tidewater_storage::model::Term;

use super::*;
use crate::keys::Nonce;
use crate::manifest::SpillRow;

impl Bench {
    /// Runs an archiver for `time` over a local log that keeps everything.
    pub(super) fn live_untrimmed(&self, time: Duration) {
        let running = self.archiver();
        let task = self.env.tasks.spawn("archiver", async move { running.run().await });
        self.world.run_for(time);
        task.cancel();
        self.lane.new_term();
    }
}

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
        (0..2).for_each(|_| bench.live_for(Duration::from_secs(90), 0));
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

fn flip(bench: &Bench, key: &ObjectKey) -> Bytes {
    let good = bench.sim.objects()[key.as_str()].clone();
    let mut body = BytesMut::from(&good[..]);
    body[70] ^= 1;
    bench.sim.tamper(key.as_str(), Some(body.freeze()));
    good
}

fn bundle_of(bench: &Bench, id: PartitionId) -> ObjectKey {
    bench.lane.with_partition(id, |m| m.rows[0].object()).expect("there").key()
}

fn quarantined(bench: &Bench, id: PartitionId) -> Vec<OffsetRange> {
    bench.lane.with_partition(id, |m| m.quarantined.iter().map(|bad| bad.offsets).collect()).expect("there")
}

#[test]
fn what_the_store_does_not_give_is_gathered_later_and_never_quarantined() {
    let bench = Bench::new(63, Faults::default(), 2);
    for _ in 0..4 {
        bench.partitions.iter().for_each(|id| bench.lane.append(*id, 1, 300));
        bench.live_for(Duration::from_secs(1), 0);
    }
    let (first, second) = (bench.partitions[0], bench.partitions[1]);
    let key = bundle_of(&bench, first);
    let body = bench.sim.objects()[key.as_str()].clone();
    bench.sim.tamper(key.as_str(), None);
    let reader = bench.world.block_on(RemoteReader::open(
        bench.env.clone(),
        bench.sim.store(),
        FetchConfig { chunk_bytes: 4096, ..FetchConfig::new(PathBuf::from("/fresh"), 256 << 10) },
    ));
    let bench = Bench { reader: reader.expect("opens"), ..bench };
    bench.live_for(Duration::from_secs(30), 0);
    assert_eq!((quarantined(&bench, first), quarantined(&bench, second)), (vec![], vec![]));
    bench.sim.tamper(key.as_str(), Some(body));
    bench.live_for(Duration::from_secs(30), 0);
    let gathered = |id| {
        bench
            .lane
            .with_partition(id, |m| m.rows.iter().all(|row| matches!(row.object().kind, ObjectKind::Gathered { .. })))
    };
    assert_eq!((gathered(first), gathered(second)), (Some(true), Some(true)));
    bench.all_reads_back();
}

#[test]
fn a_damaged_bundle_is_written_anew_from_the_local_segment() {
    let bench = Bench::new(64, Faults::default(), 1);
    let id = bench.partitions[0];
    for _ in 0..3 {
        bench.lane.append(id, 1, 300);
        bench.live_untrimmed(Duration::from_secs(1));
    }
    flip(&bench, &bundle_of(&bench, id));
    let report = bench.world.block_on(bench.archiver().scrub(None, u64::MAX)).expect("scrubs");
    assert_eq!(report.quarantined.len(), 1, "{report:?}");
    assert_eq!(quarantined(&bench, id).len(), 1);
    // The segment closes only now.
    (0..10).for_each(|_| bench.lane.append(id, 2, 700));
    bench.live_untrimmed(Duration::from_secs(10));
    assert_eq!(quarantined(&bench, id), []);
    bench.all_reads_back();
}

#[test]
fn a_rotten_local_copy_of_what_is_archived_harms_nothing() {
    let bench = Bench::new(65, Faults::default(), 1);
    let id = bench.partitions[0];
    for _ in 0..3 {
        bench.lane.append(id, 1, 300);
        bench.live_untrimmed(Duration::from_secs(1));
    }
    bench.lane.logs.borrow_mut().get_mut(&id).expect("there").rotten = Some(Offset::new(1));
    (0..10).for_each(|_| bench.lane.append(id, 2, 700));
    bench.live_untrimmed(Duration::from_secs(20));
    assert_eq!(quarantined(&bench, id), []);
    let segments = |m: &crate::manifest::PartitionManifest| {
        m.rows.iter().filter(|row| matches!(row.object().kind, ObjectKind::Segment { .. })).count()
    };
    assert!(bench.lane.with_partition(id, segments).expect("there") > 0, "the rest of the segment is uploaded");
    bench.all_reads_back();
}

#[test]
fn quarantine_ends_when_the_object_reads_well_again() {
    let bench = Bench::new(66, Faults::default(), 1);
    let id = bench.partitions[0];
    bench.lane.append(id, 1, 300);
    bench.live_for(Duration::from_secs(1), 0);
    let key = bundle_of(&bench, id);
    let good = flip(&bench, &key);
    bench.live_for(Duration::from_secs(10), 0);
    assert_eq!(quarantined(&bench, id).len(), 1, "housekeeping scrubs");
    bench.sim.tamper(key.as_str(), Some(good));
    bench.live_for(Duration::from_secs(10), 0);
    assert_eq!(quarantined(&bench, id), []);
}

#[test]
fn one_wrong_answer_does_not_stop_the_lane() {
    let bench = Bench::new(67, Faults::default(), 1);
    bench.live_for(Duration::from_secs(2), 6);
    let next = bench.lane.with_lane(|lane| lane.next_bundle()).key();
    bench.sim.tamper(next.as_str(), Some(Bytes::from_static(b"something else")));
    let archiver = bench.archiver();
    let running = archiver.clone();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    let _ = bench.sim.take_log();
    while !bench.sim.take_log().iter().any(|request| *request == format!("get {next}")) {
        bench.world.run_for(Duration::from_millis(1));
    }
    bench.sim.tamper(next.as_str(), None);
    bench.append_some(5);
    bench.world.run_for(Duration::from_secs(5));
    assert_eq!(archiver.status().stopped, None);
    assert!(bench.lane.unarchived().is_empty() && archiver.status().bundles > 0);
    task.cancel();
}

#[test]
fn objects_of_a_partition_that_nobody_carries_stay_while_another_lane_may_publish_them() {
    let bench = Bench::new(68, Faults::default(), 1);
    let kind = ObjectKind::Segment { partition: partition(99, 0), base: Offset::ZERO, term: Term(1), nonce: Nonce(5) };
    let key = bench.bucket.home.name(kind).key();
    bench.sim.tamper(key.as_str(), Some(Bytes::from_static(b"of another lane")));
    bench.live_for(Duration::from_secs(40), 0);
    assert!(bench.sim.objects().contains_key(key.as_str()), "seen old and missed once");
    bench.live_for(Duration::from_secs(100), 0);
    assert!(!bench.sim.objects().contains_key(key.as_str()));
}

#[test]
fn a_row_that_cannot_be_repaired_is_set_aside_and_keeps_the_scrubber_from_nothing() {
    let mut bench = Bench::new(69, Faults::default(), 2);
    bench.config.part_bytes_min = u64::MAX;
    for id in &bench.partitions {
        (0..20).for_each(|_| bench.lane.append(*id, 1, 700));
    }
    bench.live_untrimmed(Duration::from_secs(10));
    let of_segment = |id| {
        let row = |m: &crate::manifest::PartitionManifest| m.rows.iter().map(crate::manifest::Row::object).next();
        bench.lane.with_partition(id, row).flatten().expect("archived")
    };
    for id in &bench.partitions {
        assert!(matches!(of_segment(*id).kind, ObjectKind::Segment { .. }));
        flip(&bench, &of_segment(*id).key());
    }
    // The first partition's local copy is bad as well, somewhere in the middle.
    bench.lane.logs.borrow_mut().get_mut(&bench.partitions[0]).expect("there").rotten = Some(Offset::new(7));
    let archiver = bench.archiver();
    let report = bench.world.block_on(archiver.scrub(None, u64::MAX)).expect("scrubs");
    assert_eq!(report.quarantined.len(), 1, "{report:?}");
    assert_eq!(report.repaired.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [bench.partitions[1]], "{report:?}");
    assert_eq!(quarantined(&bench, bench.partitions[0]).len(), 1);
    let _ = bench.sim.take_log();
    let again = bench.world.block_on(archiver.scrub(None, u64::MAX)).expect("scrubs");
    assert_eq!((again.repaired.len(), again.quarantined.len()), (0, 1), "{again:?}");
    assert!(bench.sim.take_log().iter().all(|request| !request.starts_with("put ")), "it uploads for nothing");
}

const ROOT: &str = "tidewater/root";

#[test]
fn an_object_is_missing_only_while_the_root_is_there() {
    let bench = Bench::new(71, Faults::default(), 1);
    let id = bench.partitions[0];
    bench.lane.append(id, 1, 300);
    bench.live_untrimmed(Duration::from_secs(2));
    let (before, key) = (bench.sim.objects(), bundle_of(&bench, id));
    let read = || {
        let view = bench.lane.with_partition(id, |m| RemoteReader::view(m, Offset::ZERO)).expect("there");
        bench.world.block_on(bench.reader.read_batches(view, Offset::ZERO, Offset::new(1), 1000))
    };
    // The index is cached, the bytes are not.
    bench.sim.wipe();
    let away = read().expect_err("nothing is there");
    assert!(away.disposition().passes() && away.to_string().contains("away"), "{away}");
    bench.sim.tamper(ROOT, Some(before[ROOT].clone()));
    assert!(matches!(read(), Err(RemoteError::Missing { .. })));
    bench.sim.tamper(key.as_str(), Some(before[key.as_str()].clone()));
    assert!(read().is_ok());
}

#[test]
fn a_page_is_not_lost_while_the_whole_bucket_is_away() {
    let bench = Bench::new(61, Faults::default(), 4);
    bench.live_for(Duration::from_secs(10), 12);
    lose_rows_to_a_page(&bench, bench.partitions[0], 0);
    bench.partitions.iter().for_each(|id| bench.lane.drop_topic(id.topic));
    let root = bench.sim.objects()[ROOT].clone();
    bench.sim.tamper(ROOT, None);
    bench.live_for(Duration::from_secs(90), 0);
    assert!(!bench.lane.clean.borrow().contains(&bench.partitions[0]), "its page may come back");
    bench.sim.tamper(ROOT, Some(root));
    (0..2).for_each(|_| bench.live_for(Duration::from_secs(90), 0));
    assert_eq!(bench.lane.clean.borrow().len(), 4);
}
