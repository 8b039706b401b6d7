//! Does any licence to delete ever cover an object that someone may still read? Random histories of a lane, its
//! readers, a restore, and the old leader that goes on after it.
//!
//! At each DELETE the test computes from scratch what can be reached: from the state itself, from every manifest that a
//! reader may hold (the one that was current a grace ago, and all since) with the bundles behind it, and from what a
//! restore read, and from every kept cut (`cuts`): the manifest that its maker read with the bundles up to its last.
//! `TIDEWATER_HISTORIES` sets how many are tried; 100,000 were.

use super::*;
use crate::manifest::PageRef;
use crate::manifest::lane::is_manifest_page;

const GRACE_MS: i64 = 100;

/// A manifest as it lay in the bucket.
struct Snapshot {
    at: i64,
    follow_from: Sequence,
    names: BTreeSet<ObjectName>,
    as_of: LogIndex,
}

/// A cut, or one that is being made.
struct MadeCut {
    /// When its maker began.
    began: i64,
    as_of: LogIndex,
    reach: BTreeSet<ObjectName>,
    /// Whether the index names it.
    noted: bool,
}

/// A rule that is left out on purpose, to see that the test would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    None,
    /// Objects go as soon as a manifest forgot them.
    NoGrace,
    /// Objects go once the intent is applied, published or not.
    NoPublication,
    /// A restore seals the lane and does not close its manifest.
    NotClosed,
    /// Who deletes does not ask for cuts.
    NoHorizon,
    /// A cut is noted however long its making took.
    SlowCut,
    /// Who deletes goes by an index that was read long ago.
    StaleIndex,
    /// Who deletes does not ask which pages of manifests cuts name.
    PagesInCuts,
}

/// What the index of cuts and the cuts in it said to who deletes.
struct IndexRead {
    at: i64,
    horizon: Option<LogIndex>,
    /// Pages of manifests that cuts name.
    pages: BTreeSet<ObjectName>,
}

struct History {
    world: World,
    draws: u64,
    now: i64,
    snapshots: Vec<Snapshot>,
    /// What a restore goes on from.
    taken_over: Option<BTreeSet<ObjectName>>,
    defect: Defect,
    /// Objects deleted.
    deleted: usize,
    gone: BTreeSet<ObjectName>,
    cuts: Vec<MadeCut>,
    index_read: Option<IndexRead>,
    /// Deletions that cuts put off.
    held: usize,
}

impl History {
    fn new(seed: u64, defect: Defect) -> Self {
        let (snapshots, taken_over) = (Vec::new(), None);
        let (cuts, index_read) = (Vec::new(), None);
        let (now, deleted, held, gone) = (1_000, 0, 0, BTreeSet::new());
        let (world, draws) = (World::new(), seed);
        Self { world, draws, now, snapshots, taken_over, defect, deleted, gone, cuts, index_read, held }
    }

    /// SplitMix64.
    fn below(&mut self, n: u64) -> u64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.draws;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    /// Objects and pages that rows name, pages of all levels opened.
    fn named(&self) -> BTreeSet<ObjectName> {
        let mut names = BTreeSet::new();
        for partition in self.world.partitions.values() {
            names.extend(partition.rows.iter().map(Row::object));
            let mut left: Vec<ObjectName> = partition.spilled.iter().map(|row| row.page).collect();
            while let Some(page) = left.pop() {
                let content = &self.world.pages[&page];
                names.insert(page);
                match content {
                    SpillPage::Pages(pages) => left.extend(pages.iter().map(|row| row.page)),
                    SpillPage::Rows(rows) => names.extend(rows.iter().map(Row::object)),
                }
            }
        }
        names
    }

    /// What a reader of a manifest needs: what it names, and the bundles from its `follow_from` on.
    fn reach_of(&self, snapshot: &Snapshot) -> BTreeSet<ObjectName> {
        let bundles = (snapshot.follow_from.0..=self.world.lane.last.0).map(|n| home().bundle(LANE, Sequence(n)));
        snapshot.names.iter().copied().chain(bundles).collect()
    }

    fn reach(&self) -> BTreeSet<ObjectName> {
        let held = self.snapshots.iter().rposition(|snapshot| snapshot.at <= self.now - GRACE_MS).unwrap_or(0);
        let mut reach = self.named();
        for snapshot in self.snapshots.iter().skip(held) {
            reach.extend(self.reach_of(snapshot));
        }
        reach.extend(self.taken_over.iter().flatten());
        reach.extend(self.cuts.iter().filter(|cut| cut.noted).flat_map(|cut| &cut.reach));
        reach
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += self.below(30) as i64;
        let (a, b, who) = (self.below(64), 1 + self.below(63), self.below(PARTITIONS as u64) as i32);
        let step = Step { kind: 0, who, a, b, wrong: self.below(12) == 0 };
        match self.below(28) {
            24 => self.begin_cut(),
            25..=26 => return self.note_cut(),
            27 if self.below(3) == 0 => self.release_cut(),
            0..=6 if self.taken_over.is_none() => self.apply(Step { kind: 0, ..step }),
            7..=11 => self.apply(Step { kind: 3 + (a % 2) as u8, ..step }),
            12 => self.apply(Step { kind: 5, ..step }),
            13..=14 => self.apply(Step { kind: 6, ..step }),
            15..=17 => self.forget(),
            18..=20 if self.taken_over.is_none() || self.defect == Defect::NotClosed => self.publish(),
            21..=22 => return self.delete(),
            23 if self.taken_over.is_none() && self.below(4) == 0 => self.take_over(),
            _ => {}
        }
        Ok(())
    }

    fn apply(&mut self, step: Step) {
        let command = self.world.command(step);
        let _ = self.world.apply(&command);
    }

    /// As housekeeping does: no bundle that followers may ask for.
    fn forget(&mut self) {
        let lane = &self.world.lane;
        let unnamed = lane.unnamed(self.world.partitions.values());
        let objects = unnamed.into_iter().filter(|object| !lane.must_follow(object)).collect();
        self.world.apply(&Command::Forgotten { objects }).expect("free");
    }

    /// The manifest is put with a new page beside pages of the last one; a leader that dies then never proposes the
    /// command.
    fn publish(&mut self) {
        let follow_from = self.world.lane.last.next();
        let as_of = self.world.at;
        let mut pages = self.world.lane.pages.clone();
        pages.retain(|_| self.below(3) > 0);
        let kind = ObjectKind::Page { lane: LANE, term: Term(1), nonce: Nonce(self.below(u64::MAX)) };
        let page = home().name(kind);
        pages.push(PageRef { page, first: id(0), last: id(0), count: 1, size: 1, crc: 0 });
        let names = self.named().into_iter().chain(pages.iter().map(|page| page.page)).collect();
        self.snapshots.push(Snapshot { at: self.now, follow_from, names, as_of });
        if self.below(4) > 0 {
            let (as_of, sequence, at) = (self.world.at, self.world.lane.last, TimestampMs(self.now));
            let (objects, etag) = (None, String::from("e"));
            let published = Published { as_of, sequence, etag, pages, objects, at };
            self.world.apply(&Command::Published(published)).expect("newer");
        }
    }

    /// From the last manifest and all bundles behind it.
    fn take_over(&mut self) {
        let nothing = nothing();
        self.taken_over = Some(self.reach_of(self.snapshots.last().unwrap_or(&nothing)));
    }

    /// A maker reads the manifest and the bundles behind it.
    fn begin_cut(&mut self) {
        let nothing = nothing();
        let snapshot = self.snapshots.last().unwrap_or(&nothing);
        let (began, as_of, reach) = (self.now, snapshot.as_of, self.reach_of(snapshot));
        self.cuts.push(MadeCut { began, as_of, reach, noted: false });
    }

    /// A maker puts the index, or gives up. A cut that is noted is there whole.
    fn note_cut(&mut self) -> Result<(), String> {
        let Some(at) = self.cuts.iter().position(|cut| !cut.noted) else { return Ok(()) };
        let mut cut = self.cuts.remove(at);
        if self.now - cut.began > GRACE_MS / 4 && self.defect != Defect::SlowCut {
            return Ok(());
        }
        if let Some(object) = cut.reach.intersection(&self.gone).next() {
            return Err(format!("{object} was deleted and a cut that is noted now reaches it"));
        }
        cut.noted = true;
        self.cuts.push(cut);
        Ok(())
    }

    fn release_cut(&mut self) {
        let noted = self.cuts.iter().filter(|cut| cut.noted).count();
        let chosen = self.below(noted.max(1) as u64) as usize;
        let at = self.cuts.iter().enumerate().filter(|(_, cut)| cut.noted).nth(chosen).map(|(at, _)| at);
        at.into_iter().for_each(|at| drop(self.cuts.remove(at)));
    }

    /// As `archive::held`.
    fn read_index(&mut self) -> &IndexRead {
        let is_new = |read: &IndexRead| self.now - read.at < GRACE_MS / 4 || self.defect == Defect::StaleIndex;
        let read = self.index_read.take().filter(is_new).unwrap_or_else(|| {
            let noted = || self.cuts.iter().filter(|cut| cut.noted);
            let reach = noted().flat_map(|cut| &cut.reach);
            let pages = reach.filter(|object| is_manifest_page(object)).copied().collect();
            IndexRead { at: self.now, horizon: noted().map(|cut| cut.as_of).min(), pages }
        });
        self.index_read.insert(read)
    }

    fn delete(&mut self) -> Result<(), String> {
        let (ms, stood) = match self.defect {
            Defect::NoGrace => (0, LogIndex(u64::MAX)),
            _ => (GRACE_MS, LogIndex(u64::MAX)),
        };
        let defect = self.defect;
        let index = self.read_index();
        let horizon = index.horizon.filter(|_| defect != Defect::NoHorizon);
        let in_cuts = if defect == Defect::PagesInCuts { BTreeSet::new() } else { index.pages.clone() };
        let grace = Grace { now: TimestampMs(self.now), ms, stood: Some(stood), horizon };
        let free = self.world.lane.deletable(Grace { horizon: None, ..grace }).len();
        let lane = &self.world.lane;
        let mut of_lane: Vec<ObjectName> = lane.deletable(grace).into_iter().map(|(object, _)| object).collect();
        of_lane.retain(|object| !in_cuts.contains(object));
        self.held += free - of_lane.len();
        let deletable = |partition: &PartitionManifest| match self.defect {
            Defect::NoPublication => partition.pending.iter().map(|(object, _)| *object).collect(),
            _ => partition.deletable(lane, grace),
        };
        let of_partitions: Vec<(PartitionId, Vec<ObjectName>)> =
            self.world.partitions.values().map(|partition| (partition.id, deletable(partition))).collect();
        let reach = self.reach();
        let all = of_lane.iter().chain(of_partitions.iter().flat_map(|(_, objects)| objects));
        if let Some(object) = all.clone().find(|object| reach.contains(object)) {
            return Err(format!("{object} is deleted and can be reached"));
        }
        self.deleted += all.clone().count();
        self.gone.extend(all.copied());
        let deleted = Deleted { lane: of_lane, partitions: of_partitions };
        self.world.apply(&Command::Deleted(deleted)).expect("always");
        Ok(())
    }
}

/// What a lane has published before it published anything.
fn nothing() -> Snapshot {
    Snapshot { at: 0, follow_from: Sequence(1), names: BTreeSet::new(), as_of: LogIndex(0) }
}

/// The first seed whose history deletes what can be reached; how many objects all of them deleted, and how many
/// deletions cuts put off.
fn first_violation(histories: u64, defect: Defect) -> (Option<(u64, String)>, usize, usize) {
    let (mut deleted, mut held) = (0, 0);
    for seed in 0..histories {
        let mut history = History::new(seed, defect);
        for _ in 0..120 {
            if let Err(violation) = history.step() {
                return (Some((seed, violation)), deleted, held);
            }
        }
        deleted += history.deleted;
        held += history.held;
    }
    (None, deleted, held)
}

#[test]
fn nothing_that_can_be_reached_is_deleted() {
    let histories = std::env::var("TIDEWATER_HISTORIES").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let (violation, deleted, held) = first_violation(histories, Defect::None);
    assert_eq!(violation, None);
    assert!(held > 0, "cuts put off {held} deletions in {histories} histories");
    assert!(deleted as u64 > histories, "{deleted} objects deleted in {histories} histories");
}

#[test]
fn each_rule_that_is_left_out_is_noticed() {
    use Defect::{NoGrace, NoHorizon, NoPublication, NotClosed, PagesInCuts, SlowCut, StaleIndex};
    for defect in [NoGrace, NoPublication, NotClosed, NoHorizon, SlowCut, StaleIndex, PagesInCuts] {
        assert!(first_violation(3_000, defect).0.is_some(), "{defect:?}");
    }
}
