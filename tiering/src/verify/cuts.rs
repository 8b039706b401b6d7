//! The cuts that are kept: can each be gone back to?
//!
//! Owns: the walk from the index of cuts to all that a cut reaches. Cuts have most pages, bundles and objects in
//! common: each page and each bundle's index is read once a pass, and each data object is listed once, however many
//! cuts reach it (their bytes are not read). Only if something is wrong each cut is walked again by itself, to say
//! which cuts it concerns. That second walk goes by the index of cuts as it is then: a cut that was released meanwhile,
//! with what only it reached, is no damage.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use futures::stream;
use serde::Serialize;
use tidewater_storage::model::{LaneId, OffsetRange, PartitionId, TimestampMs};

use super::Run;
use super::damage::{Damage, DamageKind, DamagedCut};
use super::doubt::Doubt;
use super::lanes::Lane;
use super::named::{At, Named, Wanted};
use super::object::is_settled;
use super::rows::{BadPage, Faults, Walk};
use crate::cuts::{Cut, CutEntry, CutIndex, CutLaneState};
use crate::fetch::indexes::{FoundIndex, IndexError};
use crate::format::{DataIndex, ExtentObject, FormatError};
use crate::keys::{Home, ObjectKey, ObjectKind, ObjectName, Sequence};
use crate::manifest::{Catalogue, PublishedLane};
use crate::store::StoreError;

/// Indexes of bundles of a lane that are read at once.
const BUNDLES_AT_ONCE: usize = 8;
/// Keys of a LIST.
const LIST_MAX: usize = 1000;

/// Of the cuts that were looked at. *Message*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CutsReport {
    /// How many the index names.
    pub kept: u64,
    /// Times of the first and the last of them; -1 without any.
    pub oldest: TimestampMs,
    pub newest: TimestampMs,
    /// Data objects that they reach, which were listed.
    pub objects: u64,
}

/// What was found so far, to be judged by the index of cuts as it is then.
#[derive(Default)]
struct Suspects {
    damage: Vec<Damage>,
    unread: Vec<(ObjectName, StoreError)>,
}

/// What a bundle's index says, as far as the next bundle and the cut must agree with it.
#[derive(Clone, Copy)]
struct Link {
    previous: u32,
    crc: u32,
}

impl Suspects {
    /// Adds what is wrong with one cut alone, or notes that it is wrong with this one, too.
    fn add_of(&mut self, damage: Damage, cut: DamagedCut) {
        let is_same = |known: &&mut Damage| {
            !known.cuts.is_empty()
                && (known.kind, &known.object, &known.reason) == (damage.kind, &damage.object, &damage.reason)
        };
        match self.damage.iter_mut().find(is_same) {
            Some(known) => known.cuts.push(cut),
            None => self.damage.push(Damage { cuts: vec![cut], ..damage }),
        }
    }
}

/// A walk over one cut after the other.
struct Reach<'a> {
    walk: Walk<'a>,
    /// Indexes of bundles that were read in this walk; `None`: it could not be read.
    links: BTreeMap<(LaneId, Sequence), Option<Link>>,
    /// Gets what is wrong, in the first pass.
    suspects: Option<&'a RefCell<Suspects>>,
}

impl Reach<'_> {
    fn knows(&self, lane: LaneId, sequence: Sequence) -> bool {
        self.links.contains_key(&(lane, sequence))
    }

    fn has(&self, lane: LaneId, sequence: Sequence) -> bool {
        self.links.get(&(lane, sequence)).is_some_and(Option::is_some)
    }

    fn is_lost(&self, lane: LaneId, sequence: Sequence) -> bool {
        self.links.get(&(lane, sequence)).is_some_and(Option::is_none)
    }
}

impl Run<'_> {
    /// Verifies all cuts of a home that are kept.
    pub(super) async fn cuts(&self, home: Home, named_max: usize, notes: &mut Vec<String>) -> CutsReport {
        let Some(index) = self.cut_index(home, true).await else { return CutsReport::default() };
        let none = || TimestampMs::NONE;
        let mut report = CutsReport {
            kept: index.cuts.len() as u64,
            oldest: index.cuts.first().map_or_else(none, |cut| cut.at),
            newest: index.cuts.last().map_or_else(none, |cut| cut.at),
            objects: 0,
        };
        if index.next == 1 {
            self.without_index(home, notes).await;
        }
        let before = self.progress.get().objects;
        let suspects = RefCell::new(Suspects::default());
        let mut doubts = Vec::new();
        let mut from = None;
        loop {
            let is_first = from.is_none();
            let named = RefCell::new(Named::new(from, named_max, false));
            let (seen, bad) = (RefCell::default(), RefCell::default());
            let walk = Walk { named: &named, faults: Faults::Keep(&bad), seen: Some(&seen), names_pages: false };
            let mut reach = Reach { walk, links: BTreeMap::new(), suspects: is_first.then_some(&suspects) };
            for entry in &index.cuts {
                if let Some(cut) = self.cut(home, entry, is_first).await {
                    self.reach(&cut, &mut reach).await;
                }
            }
            if is_first {
                let bad: Vec<BadPage> = bad.into_inner();
                for page in bad {
                    match page {
                        BadPage::Damaged(damage) => suspects.borrow_mut().damage.push(damage),
                        BadPage::Unread(page, error) => suspects.borrow_mut().unread.push((page, error)),
                    }
                }
            }
            let named = named.into_inner();
            from = named.left_from();
            doubts.extend(self.list(named).await);
            if from.is_none() {
                break;
            }
        }
        report.objects = self.progress.get().objects - before;
        self.settle_cuts(home, doubts, suspects.into_inner()).await;
        report
    }

    /// The index; `None` if it cannot be used.
    async fn cut_index(&self, home: Home, report: bool) -> Option<CutIndex> {
        let key = home.cuts_key();
        let body = match self.store.get(&key, None).await {
            Ok(got) => got.body,
            Err(StoreError::NotFound { .. }) => return Some(CutIndex::new(home)),
            Err(error) => {
                if report {
                    self.findings.borrow_mut().unread(key.to_string(), error.to_string());
                }
                return None;
            }
        };
        let damage = match CutIndex::decode(&body) {
            Ok(index) if index.home == home => return Some(index),
            Ok(CutIndex { home: Home { cluster, epoch }, .. }) => {
                let reason = format!("it is the index of cuts of cluster {cluster}, epoch {epoch}");
                Damage::at(DamageKind::Foreign, key.as_str(), reason)
            }
            Err(error) => Damage::at(DamageKind::Unreadable, key.as_str(), error.to_string()),
        };
        if report {
            self.find(damage);
        }
        None
    }

    /// There is no index: are there cuts? One may be of a maker that was cut off before the first index.
    async fn without_index(&self, home: Home, notes: &mut Vec<String>) {
        let listed = match self.store.list(&format!("{}cuts/", home.prefix()), None, LIST_MAX).await {
            Ok(listed) => listed,
            Err(error) => return self.findings.borrow_mut().unread(home.cuts_key().to_string(), error.to_string()),
        };
        let is_cut = |key: &ObjectKey| {
            ObjectName::parse(key).is_some_and(|object| matches!(object.kind, ObjectKind::Cut { .. }))
        };
        let cuts = listed.iter().filter(|listed| is_cut(&listed.key)).count();
        // A maker may have put the first index meanwhile.
        if cuts == 0 || self.store.head(&home.cuts_key()).await.is_ok() {
            return;
        }
        if cuts == 1 {
            notes.push("there is an object of a cut and no index of cuts: the first cut was not finished".to_owned());
            return;
        }
        let reason = format!("{cuts} objects of cuts are there, and nothing says which of them are kept");
        self.find(Damage::at(DamageKind::Missing, home.cuts_key().as_str(), reason));
    }

    /// A cut as its object says; `None` if it cannot be used, which is a finding if the index still names it.
    async fn cut(&self, home: Home, entry: &CutEntry, report: bool) -> Option<Cut> {
        let name = home.name(ObjectKind::Cut { number: entry.number });
        let mut tries = 0;
        let found = loop {
            tries += 1;
            let found = match self.store.get(&name.key(), None).await {
                Ok(got) => Cut::decode(&got.body).map(|cut| (cut, got.size)).map_err(IndexError::Format),
                Err(error) => Err(IndexError::Store(error)),
            };
            if is_settled(&found, tries) {
                break found;
            }
        };
        let damaged = |kind, reason: String| Damage::new(kind, &name, reason);
        let damage = match found {
            Ok((cut, size)) => match fault_of(home, entry, &cut, size) {
                None => return Some(cut),
                Some((kind, reason)) => damaged(kind, reason),
            },
            Err(IndexError::Store(StoreError::NotFound { .. })) => {
                damaged(DamageKind::Missing, "the index of cuts names it".to_owned())
            }
            Err(IndexError::Format(error @ FormatError::Checksum { .. })) => {
                damaged(DamageKind::Checksum, error.to_string())
            }
            Err(IndexError::Format(error)) => damaged(DamageKind::Unreadable, error.to_string()),
            Err(IndexError::Store(error)) => {
                if report {
                    self.unread(&name, &error);
                }
                return None;
            }
        };
        if report && self.cut_index(home, false).await.is_none_or(|again| again.has(entry.number)) {
            self.find(Damage { cuts: vec![named_cut(entry.number, entry.at)], ..damage });
        }
        None
    }

    /// Notes all that a cut reaches.
    async fn reach(&self, cut: &Cut, reach: &mut Reach<'_>) {
        for state in &cut.lanes {
            let (home, lane) = (cut.home, state.lane);
            let published = state.manifest.as_ref().map(PublishedLane::decode).and_then(Result::ok);
            let from = published.as_ref().map_or(Sequence::NONE.next(), |published| published.follow_from);
            let crc = published.as_ref().map_or(0, |published| published.last_crc);
            let lane = Lane { home, lane, published };
            self.rows_of(&lane, reach.walk).await;
            self.object_pages_of(&lane, reach.walk).await;
            self.bundles_of_cut(cut, state, (&lane, from, crc), reach).await;
        }
    }

    /// The bundles from a lane's manifest up to the end of the cut: each is there and follows the one before it.
    async fn bundles_of_cut(
        &self,
        cut: &Cut,
        state: &CutLaneState,
        (lane, from, crc): (&Lane, Sequence, u32),
        reach: &mut Reach<'_>,
    ) {
        let mut next = from;
        // Up to the first that is not there: what a damaged cut says of its end is not to be believed.
        while next <= state.last && !reach.is_lost(lane.lane, next) {
            let sequences = (next.0..=state.last.0).map(Sequence).take(BUNDLES_AT_ONCE);
            let new = sequences.filter(|next| !reach.links.contains_key(&(lane.lane, *next))).collect::<Vec<_>>();
            let reads = stream::iter(new)
                .map(async |sequence| (sequence, self.index_at(lane.home.bundle(lane.lane, sequence)).await));
            let mut reads = std::pin::pin!(reads.buffered(BUNDLES_AT_ONCE));
            while let Some((sequence, answer)) = reads.next().await {
                let link = self.note_bundle(lane, sequence, answer, reach);
                reach.links.insert((lane.lane, sequence), link);
            }
            while next <= state.last && reach.has(lane.lane, next) {
                next = next.next();
            }
        }
        let looked_at = || (from.0..=state.last.0).map(Sequence).take_while(|next| reach.knows(lane.lane, *next));
        if reach.walk.names_pages {
            let mut named = reach.walk.named.borrow_mut();
            looked_at().for_each(|next| named.add(lane.lane, lane.home.bundle(lane.lane, next), At::Bundle, None));
        }
        let Some(suspects) = reach.suspects else { return };
        let mut last = Some(crc);
        for sequence in looked_at() {
            let link = reach.links.get(&(lane.lane, sequence)).copied().flatten();
            let is_end = sequence == state.last;
            let fault = link.and_then(|link| fault_of_link(link, last, is_end.then_some(state.last_crc)));
            if let Some(reason) = fault {
                let bundle = lane.home.bundle(lane.lane, sequence);
                let damage = Damage::new(DamageKind::Chain, &bundle, reason);
                suspects.borrow_mut().add_of(damage, named_cut(cut.number, cut.at));
            }
            last = link.map(|link| link.crc);
        }
    }

    /// Notes what a bundle's index names.
    fn note_bundle(
        &self,
        lane: &Lane,
        sequence: Sequence,
        answer: Result<FoundIndex, IndexError>,
        reach: &Reach<'_>,
    ) -> Option<Link> {
        let bundle = lane.home.bundle(lane.lane, sequence);
        let suspect = |kind, reason: String| {
            if let Some(suspects) = reach.suspects {
                suspects.borrow_mut().damage.push(Damage::new(kind, &bundle, reason));
            }
        };
        match answer {
            Ok(found) if (found.index.lane, found.index.sequence) == (lane.lane, sequence) => {
                let named = reach.walk.named;
                for (part, range) in parts_of(&found.index) {
                    named.borrow_mut().add(lane.lane, part, At::Part, range);
                }
                return Some(Link { previous: found.index.previous, crc: found.at.crc });
            }
            Ok(found) => {
                let DataIndex { lane, sequence, .. } = found.index;
                suspect(DamageKind::Foreign, format!("it says it is bundle {sequence} of lane {lane}"));
            }
            Err(IndexError::Store(StoreError::NotFound { .. })) => {
                suspect(DamageKind::Missing, "it is needed beside the lane's manifest in a cut".to_owned());
            }
            Err(IndexError::Format(error @ FormatError::Checksum { .. })) => {
                suspect(DamageKind::Checksum, error.to_string());
            }
            Err(IndexError::Format(error)) => suspect(DamageKind::Unreadable, error.to_string()),
            Err(IndexError::Store(error)) => {
                if let Some(suspects) = reach.suspects {
                    suspects.borrow_mut().unread.push((bundle, error));
                }
            }
        }
        None
    }

    /// Reports what is wrong with cuts that are still kept, and which of them reach what was found damaged before.
    async fn settle_cuts(&self, home: Home, doubts: Vec<Doubt>, suspects: Suspects) {
        let known: Vec<String> = self.findings.borrow().damage.iter().map(|damage| damage.object.clone()).collect();
        let mut left: Vec<Damage> = suspects.damage;
        left.extend(doubts.into_iter().map(|doubt| doubt.damage_of_cut()));
        let keys = known.iter().chain(left.iter().map(|damage| &damage.object));
        let mut objects: BTreeSet<ObjectName> = keys.filter_map(|key| name_of(key)).collect();
        objects.extend(suspects.unread.iter().map(|(object, _)| *object));
        if objects.is_empty() {
            return;
        }
        let Some(index) = self.cut_index(home, true).await else { return };
        let mut found: BTreeMap<ObjectName, (Vec<DamagedCut>, Vec<(PartitionId, OffsetRange)>)> = BTreeMap::new();
        for entry in &index.cuts {
            let Some(cut) = self.cut(home, entry, false).await else { continue };
            for (object, wanted) in self.reached_of(&cut, &objects).await {
                let (cuts, ranges) = found.entry(object).or_default();
                cuts.push(named_cut(entry.number, entry.at));
                ranges.extend(wanted.ranges);
            }
        }
        for (object, error) in &suspects.unread {
            if found.contains_key(object) {
                self.unread(object, error);
            }
        }
        for (object, (cuts, _)) in &found {
            self.findings.borrow_mut().concerns(&object.to_string(), cuts);
        }
        for damage in left {
            let is_kept = |cut: &DamagedCut| index.cuts.iter().any(|kept| kept.number == cut.number);
            let Some((cuts, ranges)) = name_of(&damage.object).and_then(|object| found.get(&object)) else { continue };
            // What a lane of now needs as well is reported already.
            if known.contains(&damage.object) || (!damage.cuts.is_empty() && !damage.cuts.iter().any(is_kept)) {
                continue;
            }
            let (mut cuts, mut ranges) = (cuts.clone(), ranges.clone());
            if !damage.cuts.is_empty() {
                cuts = damage.cuts.clone();
            }
            ranges.sort_unstable_by_key(|(partition, offsets)| (*partition, offsets.start, offsets.end));
            ranges.dedup();
            let damage = if damage.ranges.is_empty() { damage.of(ranges) } else { damage };
            self.find(Damage { cuts, ..damage });
        }
    }

    /// Which of some objects a cut reaches, with the ranges that its rows name in them.
    async fn reached_of(&self, cut: &Cut, objects: &BTreeSet<ObjectName>) -> BTreeMap<ObjectName, Wanted> {
        let named = RefCell::new(Named::only(objects.clone(), None, usize::MAX));
        let walk = Walk { named: &named, faults: Faults::Pass, seen: None, names_pages: true };
        self.reach(cut, &mut Reach { walk, links: BTreeMap::new(), suspects: None }).await;
        named.into_inner().into_objects()
    }
}

/// What is wrong with a cut beside its entry in the index.
fn fault_of(home: Home, entry: &CutEntry, cut: &Cut, size: u64) -> Option<(DamageKind, String)> {
    if (cut.home, cut.number) != (home, entry.number) {
        let Home { cluster, epoch } = cut.home;
        return Some((
            DamageKind::Foreign,
            format!("it says it is cut {} of cluster {cluster}, epoch {epoch}", cut.number),
        ));
    }
    if size != entry.size {
        return Some((DamageKind::Size, format!("it has {size} bytes, the index of cuts says {}", entry.size)));
    }
    if cut.at != entry.at {
        return Some((
            DamageKind::Contradiction,
            format!("it is of time {}, the index of cuts says {}", cut.at.0, entry.at.0),
        ));
    }
    if let Err(error) = Catalogue::decode(&cut.catalogue) {
        return Some((DamageKind::Unreadable, format!("the catalogue in it: {error}")));
    }
    let lanes: Vec<LaneId> = cut.lanes.iter().map(|state| state.lane).collect();
    if !entry.lanes.iter().map(|lane| lane.lane).eq(lanes.iter().copied()) {
        return Some((DamageKind::Contradiction, "the index of cuts names other lanes of it".to_owned()));
    }
    cut.lanes.iter().zip(&entry.lanes).find_map(|(state, noted)| {
        let published = match state.manifest.as_ref().map(PublishedLane::decode).transpose() {
            Ok(published) => published,
            Err(error) => {
                return Some((DamageKind::Unreadable, format!("the manifest of lane {} in it: {error}", state.lane)));
            }
        };
        if let Some(found) = published.as_ref().filter(|found| (found.home, found.lane) != (home, state.lane)) {
            let reason = format!("it has the manifest of lane {} in the place of lane {}'s", found.lane, state.lane);
            return Some((DamageKind::Foreign, reason));
        }
        // Lanes hold back deletes by the index: with a later log index there, what the cut reaches may be gone.
        let as_of = published.map_or(0, |published| published.as_of.0);
        ((as_of, state.last) != (noted.as_of.0, noted.last)).then(|| {
            let reason = format!(
                "lane {}: it is as of log index {as_of} and bundle {}, the index of cuts says {} and {}",
                state.lane, state.last, noted.as_of.0, noted.last
            );
            (DamageKind::Contradiction, reason)
        })
    })
}

/// Why a bundle does not follow the one before it, or is not the one at which the cut ends.
fn fault_of_link(link: Link, last: Option<u32>, end: Option<u32>) -> Option<String> {
    if let Some(last) = last.filter(|last| *last != link.previous) {
        let found = link.previous;
        return Some(format!("it names a predecessor with checksum {found:#010x}, the bundle before has {last:#010x}"));
    }
    let end = end.filter(|end| *end != link.crc)?;
    Some(format!("its index has checksum {:#010x}, the cut that ends with it says {end:#010x}", link.crc))
}

/// Parts that a bundle names, with what they hold.
fn parts_of(index: &DataIndex) -> impl Iterator<Item = (ObjectName, Option<(PartitionId, OffsetRange)>)> {
    index.partitions.iter().flat_map(|entry| {
        entry.extents.iter().filter_map(|extent| match extent.object {
            ExtentObject::Part(part) => Some((part, extent.offsets().map(|offsets| (entry.partition, offsets)))),
            ExtentObject::Here => None,
        })
    })
}

fn named_cut(number: u64, at: TimestampMs) -> DamagedCut {
    DamagedCut { number, at }
}

fn name_of(key: &str) -> Option<ObjectName> {
    ObjectName::parse(&ObjectKey::new(key).ok()?)
}
