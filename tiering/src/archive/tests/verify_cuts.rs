//! What `verify` finds in the cuts of a bucket, and in the pages that list a lane's objects: nothing while they are
//! whole, and each damage with the cuts that it concerns.

use std::collections::BTreeSet;

use super::cuts::{quiet_bench, with_cuts};
use super::verify::{archive, only};
use super::*;
use crate::cuts::{Cut, CutEntry, CutIndex};
use crate::manifest::{PublishedLane, decode_page};
use crate::store::Faults;
use crate::verify::{Damage, DamageKind, VerifyReport, VerifyRequest, verify};

/// What a kept cut reaches in the only lane, beside the bundles after its manifest.
struct Reached {
    number: u64,
    cut: Cut,
    manifest: PublishedLane,
    pages: BTreeSet<ObjectName>,
    rows: Vec<(PartitionId, crate::manifest::Row)>,
}

impl Reached {
    fn names(&self, object: &ObjectName) -> bool {
        let is_followed = |sequence| (self.manifest.follow_from..=self.cut.lanes[0].last).contains(&sequence);
        let is_tail = matches!(object.kind, ObjectKind::Bundle { sequence, .. } if is_followed(sequence));
        is_tail || self.rows.iter().any(|(_, row)| row.object() == *object)
    }
}

/// The numbers of those that name an object.
fn naming(cuts: &[Reached], object: &ObjectName) -> Vec<u64> {
    cuts.iter().filter(|cut| cut.names(object)).map(|cut| cut.number).collect()
}

impl Bench {
    fn cut_of(&self, entry: &CutEntry) -> Cut {
        Cut::decode(&self.sim.objects()[entry.key(self.bucket.home).as_str()]).expect("decodes")
    }

    fn put_cut(&self, number: u64, cut: &Cut) {
        let key = self.bucket.home.name(ObjectKind::Cut { number }).key();
        self.sim.tamper(key.as_str(), Some(cut.encode().expect("small")));
    }

    fn put_index(&self, index: &CutIndex) {
        self.sim.tamper(&self.index_key(), Some(index.encode()));
    }

    /// `None` for a cut from before the first publication.
    fn reached(&self, entry: &CutEntry) -> Option<Reached> {
        let cut = self.cut_of(entry);
        let manifest = cut.lanes[0].manifest.as_ref()?;
        let manifest = PublishedLane::decode(manifest).expect("decodes");
        let pages = manifest.pages.iter().map(|page| page.page).collect();
        let published =
            manifest.pages.iter().flat_map(|page| decode_page(page, &self.object(&page.page)).expect("decodes"));
        let rows = published.flat_map(|found| {
            let id = found.manifest.id;
            found.manifest.rows.into_iter().map(move |row| (id, row)).collect::<Vec<_>>()
        });
        Some(Reached { number: entry.number, rows: rows.collect(), cut, manifest, pages })
    }

    fn all_reached(&self) -> Vec<Reached> {
        self.index().cuts.iter().filter_map(|entry| self.reached(entry)).collect()
    }

    /// What the lane names now.
    fn named_now(&self) -> BTreeSet<ObjectName> {
        let (published, rows) = (self.published(), self.published_partitions());
        let rows = rows.iter().flat_map(|found| found.manifest.rows.iter().map(|row| row.object()));
        let pages = published.pages.iter().map(|page| page.page);
        let last = self.lane.with_lane(|lane| lane.last);
        let tail = (published.follow_from.0..=last.0).map(|n| self.bucket.home.bundle(published.lane, Sequence(n)));
        let objects = published.objects.iter().flatten().map(|page| page.page);
        rows.chain(pages).chain(objects).chain(tail).collect()
    }
}

fn numbers(damage: &Damage) -> Vec<u64> {
    damage.cuts.iter().map(|cut| cut.number).collect()
}

/// A bench with cuts at rest, whole as far as `verify` sees.
fn with_whole_cuts(seed: u64) -> Rc<Bench> {
    let (bench, _) = with_cuts(seed);
    bench.settle();
    bench.sim.set_faults(Faults::default());
    for quick in [false, true] {
        let report = bench.verify(quick);
        assert!(report.is_whole(), "seed {seed}: {:#?}", report.findings);
        let index = bench.index();
        assert_eq!(report.cuts.kept, index.cuts.len() as u64);
        assert_eq!(report.cuts.newest, index.cuts.last().expect("some").at);
        assert!(report.cuts.kept > 2 && report.cuts.objects > 5, "{:?}", report.cuts);
    }
    bench
}

#[test]
fn cuts_that_are_kept_are_whole() {
    (0..4).for_each(|seed| drop(with_whole_cuts(1_200 + seed)));
}

#[test]
fn an_object_that_only_cuts_reach_is_missed_with_its_offsets_and_the_cuts() {
    let bench = with_whole_cuts(1_219);
    let (now, cuts) = (bench.named_now(), bench.all_reached());
    let mut tried = BTreeSet::new();
    for (partition, row) in cuts.iter().flat_map(|cut| &cut.rows) {
        let object = row.object();
        let kind = std::mem::discriminant(&object.kind);
        if now.contains(&object) || tried.len() > 5 || !tried.insert((format!("{kind:?}"), object)) {
            continue;
        }
        let wanted = naming(&cuts, &object);
        let body = bench.object(&object);
        bench.sim.tamper(object.key().as_str(), None);
        for quick in [false, true] {
            let report = bench.verify(quick);
            let (kind, found, ranges) = only(&report);
            assert_eq!((kind, found), (DamageKind::Missing, object.to_string()));
            assert_eq!(numbers(&report.findings.damage[0]), wanted);
            let covered = ranges
                .iter()
                .any(|range| range.partition == *partition && range.offsets.intersect(&row.offsets) == row.offsets);
            assert!(covered, "{ranges:?} {row:?}");
        }
        bench.sim.tamper(object.key().as_str(), Some(body.slice(..body.len() - 1)));
        if !matches!(object.kind, ObjectKind::Bundle { .. }) {
            let report = bench.verify(true);
            assert_eq!((only(&report).0, numbers(&report.findings.damage[0])), (DamageKind::Size, wanted));
        }
        bench.sim.tamper(object.key().as_str(), Some(body));
    }
    assert!(tried.len() > 2, "objects that only cuts reach: {tried:?}");
}

#[test]
fn an_object_that_the_lane_needs_too_is_reported_once_with_the_cuts() {
    let bench = with_whole_cuts(1_211);
    let (now, cuts) = (bench.named_now(), bench.all_reached());
    let rows = cuts.iter().flat_map(|cut| &cut.rows);
    let (_, row) = rows.clone().find(|(_, row)| now.contains(&row.object())).expect("a row of both");
    let object = row.object();
    bench.sim.tamper(object.key().as_str(), None);
    let report = bench.verify(true);
    let wanted = naming(&cuts, &object);
    assert_eq!(only(&report).1, object.to_string());
    assert_eq!(numbers(&report.findings.damage[0]), wanted);
}

#[test]
fn a_damaged_page_of_a_cut_is_found_with_the_cuts_that_have_it() {
    let bench = with_whole_cuts(1_212);
    let (now, cuts) = (bench.named_now(), bench.all_reached());
    let page = *cuts.iter().flat_map(|cut| &cut.pages).find(|page| !now.contains(page)).expect("of a cut alone");
    let wanted: Vec<u64> = cuts.iter().filter(|cut| cut.pages.contains(&page)).map(|cut| cut.number).collect();
    let body = bench.object(&page);
    bench.flip(&page, 30);
    for quick in [false, true] {
        let report = bench.verify(quick);
        let (kind, object, _) = only(&report);
        assert_eq!((object, numbers(&report.findings.damage[0])), (page.to_string(), wanted.clone()));
        assert!(matches!(kind, DamageKind::Checksum | DamageKind::Unreadable), "{kind:?}");
    }
    bench.sim.tamper(page.key().as_str(), None);
    assert_eq!(only(&bench.verify(true)).0, DamageKind::Missing);
    bench.sim.tamper(page.key().as_str(), Some(body));
    assert!(bench.verify(true).is_whole());
    // The same of a page that lists objects.
    let of_objects = |cut: &Reached| cut.manifest.objects.iter().flatten().map(|page| page.page).collect::<Vec<_>>();
    let page = cuts.iter().flat_map(of_objects).find(|page| !now.contains(page)).expect("of a cut alone");
    let wanted: Vec<u64> = cuts.iter().filter(|cut| of_objects(cut).contains(&page)).map(|cut| cut.number).collect();
    bench.sim.tamper(page.key().as_str(), None);
    let report = bench.verify(true);
    assert_eq!((only(&report).1, numbers(&report.findings.damage[0])), (page.to_string(), wanted));
    assert!(report.findings.damage[0].reason.contains("of lane"), "{:?}", report.findings);
}

#[test]
fn the_object_of_a_cut_is_there_decodes_and_agrees_with_the_index() {
    let bench = with_whole_cuts(1_213);
    let index = bench.index();
    let (first, second) = (&index.cuts[0], &index.cuts[1]);
    let key = |entry: &CutEntry| entry.key(bench.bucket.home).as_str().to_owned();
    let (one, two) = (bench.sim.objects()[&key(first)].clone(), bench.sim.objects()[&key(second)].clone());
    let mut flipped = BytesMut::from(&one[..]);
    flipped[one.len() / 2] ^= 1;
    let cut = bench.cut_of(first);
    let mut later = cut.clone();
    later.at.0 += 1;
    for (object, expected) in [
        (None, DamageKind::Missing),
        (Some(one.slice(..one.len() / 2)), DamageKind::Unreadable),
        (Some(flipped.freeze()), DamageKind::Checksum),
        (Some(two), DamageKind::Foreign),
        (later.encode(), DamageKind::Contradiction),
    ] {
        bench.sim.tamper(&key(first), object);
        let report = bench.verify(true);
        assert_eq!((only(&report).0, only(&report).1), (expected, key(first)), "{:#?}", report.findings);
        assert_eq!(numbers(&report.findings.damage[0]), [first.number]);
        assert_eq!(report.findings.damage[0].cuts[0].at, first.at);
    }
    bench.sim.tamper(&key(first), Some(one));
    let changed = |change: fn(&mut CutEntry)| {
        let mut index = bench.index();
        change(&mut index.cuts[0]);
        bench.put_index(&index);
        only(&bench.verify(true)).0
    };
    assert_eq!(changed(|entry| entry.size += 1), DamageKind::Size);
    // Deletes go by the index: they would take what the cut reaches.
    bench.put_index(&index);
    assert_eq!(changed(|entry| entry.lanes[0].as_of.0 += 1), DamageKind::Contradiction);
    bench.put_index(&index);
    assert!(bench.verify(true).is_whole());
}

#[test]
fn a_bundle_of_a_cut_is_there_and_follows_the_one_before_it() {
    let bench = quiet_bench(1_214);
    // A cut with bundles after its manifest, which the lane goes past afterwards.
    let mut config = bench.config.clone();
    config.publish_interval = Duration::from_secs(3_600);
    let quiet = Bench { config, ..bench };
    let archiver = quiet.archiver();
    let task = quiet.env.tasks.spawn("archiver", async move { archiver.run().await });
    for _ in 0..4 {
        quiet.append_some(3);
        quiet.world.run_for(Duration::from_secs(3));
    }
    task.cancel();
    quiet.world.block_on(quiet.cut(&quiet.maker())).expect("made");
    let entry = quiet.index().cuts[0].clone();
    let Reached { cut, manifest, .. } = quiet.reached(&entry).expect("published");
    assert!(cut.lanes[0].last >= manifest.follow_from, "{cut:?}");
    assert!(quiet.verify(true).is_whole());
    let last = quiet.bucket.home.bundle(manifest.lane, cut.lanes[0].last);
    let mut other = cut.clone();
    other.lanes[0].last_crc ^= 1;
    quiet.put_cut(entry.number, &other);
    let report = quiet.verify(true);
    assert_eq!((only(&report).0, only(&report).1), (DamageKind::Chain, last.to_string()), "{:#?}", report.findings);
    assert_eq!(numbers(&report.findings.damage[0]), [entry.number]);
    quiet.put_cut(entry.number, &cut);
    // What the lane follows is reported already; the cut is noted with it.
    let first = quiet.bucket.home.bundle(manifest.lane, manifest.follow_from);
    quiet.flip(&first, 60);
    let report = quiet.verify(false);
    assert!(report.findings.damage.iter().all(|damage| damage.object == first.to_string()), "{report:#?}");
    assert_eq!(numbers(&report.findings.damage[0]), [entry.number]);
}

#[test]
fn a_damaged_or_lost_index_of_cuts_is_found() {
    let bench = with_whole_cuts(1_215);
    let index = bench.index().encode();
    bench.sim.tamper(&bench.index_key(), Some(index.slice(..index.len() / 2)));
    assert_eq!(only(&bench.verify(true)).0, DamageKind::Unreadable);
    bench.sim.tamper(&bench.index_key(), None);
    let report = bench.verify(true);
    assert_eq!((only(&report).0, only(&report).1), (DamageKind::Missing, bench.index_key()));
    let quiet = quiet_bench(1_216);
    quiet.world.block_on(quiet.cut(&quiet.maker())).expect("made");
    quiet.sim.tamper(&quiet.index_key(), None);
    let report = quiet.verify(true);
    assert!(report.is_whole() && report.notes[0].contains("was not finished"), "{report:#?}");
}

#[test]
fn what_only_a_cut_reached_that_was_released_meanwhile_is_no_damage() {
    let bench = with_whole_cuts(1_217);
    let (now, cuts) = (bench.named_now(), bench.all_reached());
    let of_one = |object: &ObjectName| match naming(&cuts, object)[..] {
        [number] => Some(number),
        _ => None,
    };
    let objects = cuts.iter().flat_map(|cut| cut.rows.iter().map(|(_, row)| row.object()));
    let found = objects.filter(|object| !now.contains(object)).find_map(|object| Some((object, of_one(&object)?)));
    let (object, number) = found.expect("an object that one cut alone reaches");
    for released in [true, false] {
        let latency = Duration::from_millis(5);
        bench.sim.set_faults(Faults { latency_min: latency, latency_max: latency, ..Faults::default() });
        let (looking, index) = (Rc::clone(&bench), bench.sim.objects()[&bench.index_key()].clone());
        let done: Rc<RefCell<Option<VerifyReport>>> = Rc::default();
        let noted = Rc::clone(&done);
        let _ = bench.sim.take_log();
        let task = bench.env.tasks.spawn("verify", async move {
            let request = VerifyRequest { name: looking.bucket.root.name.clone(), quick: true };
            let report = verify(looking.sim.store(), &request, &|_| {}).await.expect("the root is there");
            *noted.borrow_mut() = Some(report);
        });
        let get = format!("get {}", bench.index_key());
        while !bench.sim.take_log().contains(&get) {
            bench.world.run_for(Duration::from_millis(1));
        }
        bench.world.run_for(latency);
        if released {
            let mut without = CutIndex::decode(&index).expect("decodes");
            without.cuts.retain(|cut| cut.number != number);
            bench.put_index(&without);
        }
        let body = bench.object(&object);
        bench.sim.tamper(object.key().as_str(), None);
        bench.world.run_for(Duration::from_secs(60));
        drop(task);
        let report = done.borrow_mut().take().expect("it ended");
        assert_eq!(report.is_whole(), released, "{report:#?}");
        bench.sim.tamper(object.key().as_str(), Some(body));
        bench.sim.tamper(&bench.index_key(), Some(index));
    }
}

#[test]
fn a_damaged_page_that_lists_objects_is_found() {
    let bench = archive(1_218);
    let pages: Vec<_> = bench.published().objects.into_iter().flatten().collect();
    assert!(!pages.is_empty());
    for page in pages {
        bench.flip(&page.page, 40);
        for quick in [false, true] {
            let report = bench.verify(quick);
            let (kind, object, ranges) = only(&report);
            assert_eq!((object, ranges.len()), (page.page.to_string(), 0));
            assert!(matches!(kind, DamageKind::Checksum | DamageKind::Unreadable), "{kind:?}");
            assert!(report.findings.damage[0].reason.contains(&page.first.to_string()), "{:?}", report.findings);
        }
        bench.flip(&page.page, 40);
        let published = bench.published();
        let mut other = published.clone();
        other.objects.as_mut().expect("pages")[0].crc ^= 1;
        bench.put_manifest(&other);
        assert_eq!(only(&bench.verify(true)).0, DamageKind::Checksum);
        bench.put_manifest(&published);
    }
    assert!(bench.verify(true).is_whole());
}
