//! What `verify` finds in a bucket that an archiver wrote: nothing while it is whole, and each damage by object and
//! offsets.

use super::*;
use crate::format::{DataIndex, DataKind, IndexRef, decode_index, encode_index, read_whole};
use crate::keys::{Home, LineageEpoch};
use crate::manifest::{
    Catalogue, PartitionManifest, PublishRequest, PublishedPartition, Root, Row, Source, decode_page, plan_publish,
};
use crate::verify::{DamageKind, DamagedRange, VerifyReport, VerifyRequest, verify, verify_within};

impl Bench {
    pub(super) fn verify(&self, quick: bool) -> VerifyReport {
        let request = VerifyRequest { name: self.bucket.root.name.clone(), quick };
        self.world.block_on(verify(self.sim.store(), &request, &|_| {})).expect("the root is there")
    }

    fn verify_in_passes(&self, quick: bool, held_max: usize) -> VerifyReport {
        let request = VerifyRequest { name: self.bucket.root.name.clone(), quick };
        self.world.block_on(verify_within(self.sim.store(), &request, &|_| {}, held_max)).expect("the root is there")
    }

    pub(super) fn object(&self, name: &ObjectName) -> Bytes {
        self.sim.objects()[name.key().as_str()].clone()
    }

    pub(super) fn flip(&self, name: &ObjectName, at: usize) {
        let mut body = BytesMut::from(&self.object(name)[..]);
        body[at] ^= 4;
        self.sim.tamper(name.key().as_str(), Some(body.freeze()));
    }

    pub(super) fn published(&self) -> PublishedLane {
        let name = self.bucket.home.lane_manifest(self.lane.lane());
        PublishedLane::decode(&self.object(&name)).expect("decodes")
    }

    pub(super) fn put_manifest(&self, published: &PublishedLane) {
        let key = self.bucket.home.lane_manifest(self.lane.lane()).key();
        self.sim.tamper(key.as_str(), Some(published.encode()));
    }

    pub(super) fn published_partitions(&self) -> Vec<PublishedPartition> {
        let pages = self.published().pages;
        pages.iter().flat_map(|page| decode_page(page, &self.object(&page.page)).expect("decodes")).collect()
    }

    /// A row of the published manifests whose object is of a kind, with its partition.
    fn row(&self, is: impl Fn(&ObjectKind) -> bool) -> (PartitionId, Row) {
        let found = self.published_partitions().into_iter().find_map(|PublishedPartition { manifest, .. }| {
            Some((manifest.id, *manifest.rows.iter().find(|row| is(&row.object().kind))?))
        });
        found.expect("the archive has such a row")
    }

    /// The bundle at or above `follow_from` that follows it by `n`.
    fn tail(&self, n: u64) -> ObjectName {
        let published = self.published();
        self.bucket.home.bundle(published.lane, Sequence(published.follow_from.0 + n))
    }
}

/// An archive with rows of every kind, and at least four bundles behind its manifest.
pub(super) fn archive(seed: u64) -> Bench {
    let mut bench = Bench::new(seed, Faults::default(), 5);
    for _ in 0..6 {
        (0..20).for_each(|_| bench.lane.append(bench.partitions[0], 3, 200));
        bench.partitions.iter().skip(1).for_each(|id| bench.lane.append(*id, 1, 60));
        bench.live_for(Duration::from_secs(4), 0);
    }
    bench.config.publish_interval = Duration::from_secs(3_600);
    let running = bench.archiver();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    for _ in 0..6 {
        bench.world.run_for(Duration::from_secs(2));
        bench.partitions.iter().for_each(|id| bench.lane.append(*id, 1, 90));
    }
    bench.world.run_for(Duration::from_secs(2));
    task.cancel();
    assert!(bench.lane.unarchived().is_empty());
    let last = bench.lane.with_lane(|lane| lane.last);
    assert!(last.0 >= bench.published().follow_from.0 + 3, "{last} {}", bench.published().follow_from);
    bench
}

/// The only damage found in a full run.
pub(super) fn only(report: &VerifyReport) -> (DamageKind, String, Vec<DamagedRange>) {
    assert_eq!((report.findings.damage.len(), report.findings.unread.len()), (1, 0), "{:#?}", report.findings);
    let damage = &report.findings.damage[0];
    (damage.kind, damage.object.clone(), damage.ranges.clone())
}

fn covers(ranges: &[DamagedRange], partition: PartitionId, offsets: OffsetRange) -> bool {
    ranges.iter().any(|range| range.partition == partition && range.offsets.intersect(&offsets) == offsets)
}

#[test]
fn what_an_archiver_wrote_is_whole_at_any_moment() {
    for seed in 0..20 {
        let bench = Bench::new(300 + seed, Faults::rough(), 4);
        for _ in 0..4 {
            bench.sim.set_faults(Faults::rough());
            bench.live_for(Duration::from_millis(300 + bench.env.rng.below(9_000)), 8);
            bench.sim.set_faults(Faults::default());
            for quick in [false, true] {
                let report = bench.verify(quick);
                assert!(report.is_whole(), "seed {seed} quick {quick}: {:#?}", report.findings);
            }
        }
    }
}

#[test]
fn a_cluster_that_goes_on_writing_and_deleting_is_whole() {
    let mut bench = Bench::new(330, Faults { latency_max: Duration::from_millis(60), ..Faults::default() }, 4);
    (bench.config.delete_grace, bench.config.publish_interval) = (Duration::from_secs(1), Duration::from_millis(300));
    let policy = RetentionPolicy { retention_ms: None, retention_bytes: Some(9_000) };
    for log in bench.lane.logs.borrow_mut().values_mut() {
        log.facts.as_mut().expect("there").retention = policy;
    }
    let running = bench.archiver();
    let task = bench.env.tasks.spawn("archiver", async move { running.run().await });
    let (lane, partitions) = (Rc::clone(&bench.lane), bench.partitions.clone());
    let env = bench.env.clone();
    let writer = bench.env.tasks.spawn("writer", async move {
        loop {
            partitions.iter().for_each(|id| lane.append(*id, 2, 300));
            env.tasks.sleep(Duration::from_millis(700)).await;
        }
    });
    bench.world.run_for(Duration::from_secs(60));
    for n in 0..8 {
        let report = bench.verify_in_passes(n % 2 == 0, 20);
        assert!(report.is_whole(), "{:#?}", report.findings);
        bench.world.run_for(Duration::from_secs(5));
    }
    task.cancel();
    writer.cancel();
}

#[test]
fn an_object_that_went_after_the_manifest_was_read_is_no_damage() {
    for quick in [false, true] {
        let bench = archive(331);
        let (partition, row) = bench.row(|kind| matches!(kind, ObjectKind::Segment { .. }));
        let done = std::cell::Cell::new(false);
        let tell = |progress: crate::verify::VerifyProgress| {
            if progress.bytes_total > 0 && !done.replace(true) {
                republish(&bench, |manifest| manifest.dropped |= manifest.id == partition);
                bench.sim.tamper(row.object().key().as_str(), None);
            }
        };
        let request = VerifyRequest { name: bench.bucket.root.name.clone(), quick };
        let report = bench.world.block_on(verify(bench.sim.store(), &request, &tell)).expect("the root is there");
        assert!(report.is_whole() && report.replaced == 1, "{report:#?}");
    }
}

#[test]
fn small_passes_find_the_same_as_one() {
    let bench = archive(340);
    let object = bench.row(|kind| matches!(kind, ObjectKind::Segment { .. })).1.object();
    bench.flip(&object, 100);
    for quick in [false, true] {
        let (one, many) = (bench.verify(quick), bench.verify_in_passes(quick, 5));
        assert_eq!((one.objects, one.bytes, one.rows), (many.objects, many.bytes, many.rows));
        assert_eq!(one.findings, many.findings);
        assert_eq!(one.is_whole(), quick, "a listing does not see a flipped bit");
    }
}

#[test]
fn every_object_is_read_once() {
    let bench = archive(341);
    let _ = bench.sim.take_log();
    let report = bench.verify(false);
    assert!(report.is_whole(), "{:#?}", report.findings);
    let mut gets = bench.sim.take_log().into_iter().filter(|request| request.starts_with("get ")).collect::<Vec<_>>();
    gets.sort();
    let of = |folder: &str| gets.iter().filter(|get| get.contains(folder)).count();
    let distinct = gets.iter().collect::<BTreeSet<_>>().len();
    // Bundles that are followed are read once for their index, which shows whether they continue, and once whole.
    assert!(gets.len() <= distinct + of("/lanes/") / 2 + 1, "{gets:#?}");
    assert!(of("/segments/") > 0 && of("/gathered/") > 0 && of("/pages/") > 0);
}

#[test]
fn a_missing_object_is_named_with_the_offsets_that_are_lost() {
    let kinds: [fn(&ObjectKind) -> bool; 4] = [
        |kind| matches!(kind, ObjectKind::Segment { .. }),
        |kind| matches!(kind, ObjectKind::Gathered { .. }),
        |kind| matches!(kind, ObjectKind::Bundle { .. }),
        |kind| matches!(kind, ObjectKind::Part { .. }),
    ];
    for is in kinds {
        for quick in [false, true] {
            let bench = archive(342);
            let (partition, row) = bench.row(is);
            bench.sim.tamper(row.object().key().as_str(), None);
            let (kind, object, ranges) = only(&bench.verify(quick));
            assert_eq!((kind, object), (DamageKind::Missing, row.object().to_string()));
            assert!(covers(&ranges, partition, row.offsets), "{ranges:?}");
        }
    }
}

#[test]
fn a_truncated_object_is_found() {
    for quick in [false, true] {
        let bench = archive(343);
        let (partition, row) = bench.row(|kind| matches!(kind, ObjectKind::Segment { .. }));
        let body = bench.object(&row.object());
        bench.sim.tamper(row.object().key().as_str(), Some(body.slice(..body.len() / 2)));
        let (kind, object, ranges) = only(&bench.verify(quick));
        let expected = if quick { DamageKind::Size } else { DamageKind::Unreadable };
        assert_eq!((kind, object), (expected, row.object().to_string()));
        assert!(covers(&ranges, partition, row.offsets), "{ranges:?}");
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    for (n, is) in
        [(|kind: &ObjectKind| matches!(kind, ObjectKind::Segment { .. })) as fn(&ObjectKind) -> bool, |kind| {
            matches!(kind, ObjectKind::Gathered { .. })
        }]
        .into_iter()
        .enumerate()
    {
        let bench = archive(344);
        let name = bench.row(is).1.object();
        let size = bench.object(&name).len();
        let step = size / 40 + n;
        for at in (0..size).step_by(step) {
            bench.flip(&name, at);
            let report = bench.verify(false);
            assert!(!report.is_whole(), "byte {at} of {size} of {name}");
            assert!(report.findings.damage.iter().all(|damage| damage.object == name.to_string()));
            bench.flip(&name, at);
        }
        assert!(bench.verify(false).is_whole());
    }
}

#[test]
fn a_flipped_bit_in_a_run_is_that_runs_offsets() {
    let bench = archive(345);
    let (partition, row) = bench.row(|kind| matches!(kind, ObjectKind::Segment { .. }));
    bench.flip(&row.object(), 70);
    let (kind, _, ranges) = only(&bench.verify(false));
    assert_eq!(kind, DamageKind::Checksum);
    assert!(ranges.len() == 1 && ranges[0].partition == partition);
    assert_eq!(ranges[0].offsets.start, row.offsets.start);
}

#[test]
fn answers_that_are_spoiled_on_their_way_are_no_damage() {
    let bench = archive(346);
    bench.sim.set_faults(Faults { corrupt: 30, ..Faults::default() });
    let report = bench.verify(false);
    assert!(report.is_whole(), "{:#?}", report.findings);
}

#[test]
fn what_the_store_does_not_give_is_no_damage_and_not_whole_either() {
    let bench = archive(347);
    let request = VerifyRequest { name: bench.bucket.root.name.clone(), quick: false };
    let store = bench.sim.store_for(1);
    let sim = bench.sim.clone();
    // Once the manifests are read, nothing is answered any more.
    let tell = move |progress: crate::verify::VerifyProgress| {
        if progress.objects > 0 {
            sim.set_faults_for(1, Some(Faults { down: true, ..Faults::default() }));
        }
    };
    let report = bench.world.block_on(verify(store, &request, &tell)).expect("the root was there");
    assert!(report.findings.damage.is_empty() && !report.findings.unread.is_empty(), "{:#?}", report.findings);
    assert!(!report.is_whole());
}

#[test]
fn a_hole_in_the_bundles_is_found_by_the_one_behind_it() {
    for quick in [false, true] {
        let bench = archive(348);
        let lost = bench.tail(1);
        bench.sim.tamper(lost.key().as_str(), None);
        let report = bench.verify(quick);
        let missing = &report.findings.damage[0];
        assert_eq!((missing.kind, &missing.object), (DamageKind::Missing, &lost.to_string()));
        // What was in it is missing in each of its partitions.
        let gaps: Vec<_> = report.findings.damage.iter().filter(|damage| damage.kind == DamageKind::Gap).collect();
        assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap.object == bench.tail(2).to_string()), "{gaps:#?}");
        assert_eq!(gaps.len() + 1, report.findings.damage.len());
    }
}

#[test]
fn a_bundle_that_names_another_predecessor_is_a_broken_chain() {
    let bench = archive(349);
    rewrite(&bench, bench.tail(1), |index| index.previous ^= 1);
    let report = bench.verify(true);
    let found: Vec<_> = report.findings.damage.iter().map(|damage| (damage.kind, damage.object.clone())).collect();
    // Its own index has another checksum now, so the one behind it does not continue either.
    assert_eq!(found, [1, 2].map(|n| (DamageKind::Chain, bench.tail(n).to_string())));
}

#[test]
fn a_bundle_of_another_epoch_is_found() {
    let bench = archive(350);
    rewrite(&bench, bench.tail(0), |index| index.home.epoch = LineageEpoch(9));
    let report = bench.verify(true);
    let foreign = &report.findings.damage[0];
    assert_eq!((foreign.kind, &foreign.object), (DamageKind::Foreign, &bench.tail(0).to_string()));
    assert!(foreign.reason.contains("epoch 9"), "{}", foreign.reason);
}

#[test]
fn a_manifest_or_catalogue_of_another_epoch_is_found() {
    let bench = archive(351);
    let other = Home { epoch: LineageEpoch(9), ..bench.bucket.home };
    let published = bench.published();
    bench.put_manifest(&PublishedLane { home: other, ..published.clone() });
    let (kind, object, _) = only(&bench.verify(true));
    assert_eq!((kind, object), (DamageKind::Foreign, bench.bucket.home.lane_manifest(published.lane).to_string()));
    bench.put_manifest(&published);
    let key = bench.bucket.catalogue_key();
    let catalogue = Catalogue::decode(&bench.sim.objects()[key.as_str()]).expect("decodes");
    bench.sim.tamper(key.as_str(), Some(Catalogue { home: other, ..catalogue }.encode()));
    assert_eq!(only(&bench.verify(true)).0, DamageKind::Foreign);
}

#[test]
fn a_page_with_another_checksum_than_the_manifest_says_is_found() {
    let bench = archive(352);
    let published = bench.published();
    let mut pages = published.pages.clone();
    pages[0].crc ^= 1;
    let page = pages[0].page;
    bench.put_manifest(&PublishedLane { pages, ..published.clone() });
    let report = bench.verify(true);
    let damage = &report.findings.damage[0];
    assert_eq!((damage.kind, &damage.object), (DamageKind::Checksum, &page.to_string()));
    bench.put_manifest(&published);
    bench.flip(&page, 30);
    assert_eq!(bench.verify(true).findings.damage[0].object, page.to_string());
    bench.flip(&page, 30);
    bench.sim.tamper(page.key().as_str(), None);
    assert_eq!(bench.verify(true).findings.damage[0].kind, DamageKind::Missing);
}

#[test]
fn gaps_and_overlaps_of_rows_are_found_with_their_offsets() {
    for overlap in [false, true] {
        let bench = archive(353);
        let mut changed = None;
        republish(&bench, |manifest| {
            if changed.is_none() && manifest.rows.len() > 2 {
                let (first, second) = (manifest.rows[0], &mut manifest.rows[1]);
                changed = Some(if overlap {
                    let twice = OffsetRange::new(first.offsets.start, first.offsets.end);
                    second.offsets.start = first.offsets.start;
                    (manifest.id, twice, DamageKind::Overlap)
                } else {
                    let lost = second.offsets;
                    manifest.rows.remove(1);
                    (manifest.id, lost, DamageKind::Gap)
                });
            }
        });
        let (partition, offsets, kind) = changed.expect("a partition has three rows");
        let report = bench.verify(true);
        let found = report.findings.damage.iter().find(|damage| damage.kind == kind).expect("found");
        assert_eq!(found.ranges, [DamagedRange { partition, offsets }], "{:#?}", report.findings);
    }
}

#[test]
fn an_overlap_of_bundles_is_found() {
    let bench = archive(354);
    // The manifest says that the bundle which is to be followed next is in it already.
    let published = bench.published();
    let first = bench.tail(0);
    let index = index_of(&bench.object(&first)).0;
    let entry = index.partitions.iter().find(|entry| !entry.offsets.is_empty()).expect("there").clone();
    republish(&bench, |manifest| {
        if manifest.id == entry.partition {
            let end = manifest.rows.last_mut().expect("rows");
            end.offsets.end = entry.offsets.end;
            manifest.archived_end = entry.offsets.end;
        }
    });
    assert_eq!(bench.published().follow_from, published.follow_from);
    let report = bench.verify(true);
    let (kind, object, ranges) = only(&report);
    assert_eq!((kind, object), (DamageKind::Overlap, first.to_string()));
    assert_eq!(ranges, [DamagedRange { partition: entry.partition, offsets: entry.offsets }]);
}

#[test]
fn a_row_beyond_what_its_object_holds_is_found() {
    let bench = archive(355);
    let mut changed = None;
    republish(&bench, |manifest| {
        if changed.is_none() && manifest.rows.len() > 2 {
            let end = manifest.rows[1].offsets.start;
            let first = manifest.rows[0];
            let object = Source::Bundle(bench.tail(0));
            // It names an object that has other offsets of the partition.
            manifest.rows[0] = Row { source: object, ..first };
            changed = Some((manifest.id, OffsetRange::new(first.offsets.start, end)));
        }
    });
    let (partition, offsets) = changed.expect("changed");
    let (kind, object, ranges) = only(&bench.verify(false));
    assert_eq!((kind, object), (DamageKind::Contradiction, bench.tail(0).to_string()));
    assert!(covers(&ranges, partition, offsets), "{ranges:?}");
}

#[test]
fn a_topic_that_the_catalogue_lacks_is_found() {
    let bench = archive(356);
    let key = bench.bucket.catalogue_key();
    let mut catalogue = Catalogue::decode(&bench.sim.objects()[key.as_str()]).expect("decodes");
    let gone = catalogue.topics.remove(0);
    bench.sim.tamper(key.as_str(), Some(catalogue.encode()));
    let report = bench.verify(true);
    assert_eq!(only(&report).0, DamageKind::Unlisted);
    assert!(report.findings.damage[0].reason.contains(&gone.id.to_string()));
    bench.sim.tamper(key.as_str(), None);
    assert_eq!(only(&bench.verify(true)).0, DamageKind::Missing, "and without any catalogue the lanes are listed");
}

#[test]
fn a_lost_manifest_is_found_and_a_bucket_without_the_cluster_is_an_error() {
    let bench = archive(357);
    let manifest = bench.bucket.home.lane_manifest(bench.lane.lane());
    bench.sim.tamper(manifest.key().as_str(), None);
    let (kind, object, _) = only(&bench.verify(true));
    assert_eq!((kind, object), (DamageKind::Missing, manifest.to_string()));
    bench.sim.tamper(bench.bucket.root.name.root_key().as_str(), None);
    let request = VerifyRequest { name: bench.bucket.root.name.clone(), quick: false };
    let error = bench.world.block_on(verify(bench.sim.store(), &request, &|_| {})).expect_err("no root");
    assert!(error.to_string().contains("no cluster named"), "{error}");
}

#[test]
fn a_restore_that_has_begun_is_noted_and_the_old_epoch_verified() {
    let bench = archive(358);
    let root = Root { epoch: LineageEpoch(2), from: Some(bench.bucket.home), ..(*bench.bucket.root).clone() };
    bench.sim.tamper(root.name.root_key().as_str(), Some(root.encode()));
    let report = bench.verify(true);
    assert!(report.is_whole() && report.epoch == LineageEpoch::FIRST, "{report:#?}");
    assert!(report.notes[0].contains("restore into epoch 2"), "{:?}", report.notes);
}

/// Where an object's index is, and what it says.
fn index_of(object: &Bytes) -> (DataIndex, IndexRef) {
    let (body, at) = read_whole(object, crate::format::Body::Index).expect("whole");
    (decode_index(&body).expect("decodes"), at)
}

/// Writes a bundle with a changed index in the place of a bundle.
fn rewrite(bench: &Bench, name: ObjectName, change: impl FnOnce(&mut DataIndex)) {
    let object = bench.object(&name);
    let (mut index, at) = index_of(&object);
    assert_eq!(index.kind, DataKind::Bundle);
    change(&mut index);
    let body = encode_index(&index);
    let index = IndexRef { offset: at.offset, len: body.len() as u32, crc: crc32c::crc32c(&body) };
    let trailer = crate::format::Trailer { index, body: crate::format::Body::Index }.encode();
    let data = object.slice(..at.offset as usize);
    bench.sim.tamper(name.key().as_str(), Some([&data[..], &body[..], &trailer[..]].concat().into()));
}

/// Publishes the manifests that are published with a change.
fn republish(bench: &Bench, mut change: impl FnMut(&mut PartitionManifest)) {
    let published = bench.published();
    let mut partitions: Vec<PartitionManifest> =
        bench.published_partitions().into_iter().map(|published| published.manifest).collect();
    partitions.iter_mut().for_each(&mut change);
    let mut lane = LaneManifest::new(bench.bucket.home, published.lane);
    (lane.last, lane.last_crc) = (Sequence(published.follow_from.0 - 1), published.last_crc);
    let refs: Vec<&PartitionManifest> = partitions.iter().collect();
    let request = PublishRequest {
        lane: &lane,
        partitions: &refs,
        facts: &|_| Default::default(),
        as_of: published.as_of,
        term: published.term,
        now: published.written,
    };
    let mut nonce = 1_000_000;
    let plan = plan_publish(&request, || {
        nonce += 1;
        Nonce(nonce)
    });
    for (page, object) in plan.pages {
        bench.sim.tamper(page.key().as_str(), Some(object));
    }
    bench.sim.tamper(plan.name.key().as_str(), Some(plan.manifest));
}

#[test]
fn lanes_that_wrote_nothing_are_whole() {
    let bench = Bench::new(359, Faults::default(), 1);
    let report = bench.verify(false);
    assert!(report.is_whole() && report.lanes.is_empty());
    assert_eq!(report.notes, ["nothing is archived yet"]);
}
