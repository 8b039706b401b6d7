//! Random commands, good and bad, in random order: every predicate holds after each, a refusal changes nothing it
//! should not, and applying again from any checkpoint gives the same state.

mod reach;

use proptest::prelude::*;
use tidewater_storage::model::{PartitionIndex, Term, TimestampMs};

use super::*;
use crate::format::IndexRef;
use crate::keys::Nonce;
use crate::manifest::codec::tests::home;
use crate::manifest::command::{BundledEnd, Published};
use crate::manifest::invariants::{check_lane, check_lane_step, check_partition_step};
use crate::manifest::lane::Grace;
use crate::manifest::partition::PartitionManifest;
use crate::manifest::spill::{decode_spill, encode_spill};

const LANE: LaneId = LaneId(1);
const PARTITIONS: i32 = 3;

fn id(index: i32) -> PartitionId {
    PartitionId { index: PartitionIndex(index), ..PartitionId::default() }
}

/// A drawn step; the command is made from the state it meets, sometimes wrong on purpose.
#[derive(Clone, Copy, Debug)]
struct Step {
    kind: u8,
    who: i32,
    a: u64,
    b: u64,
    wrong: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    (0..9u8, 0..PARTITIONS, 0..64u64, 1..64u64, prop::bool::weighted(0.15)).prop_map(|(kind, who, a, b, wrong)| Step {
        kind,
        who,
        a,
        b,
        wrong,
    })
}

struct World {
    lane: LaneManifest,
    partitions: BTreeMap<PartitionId, PartitionManifest>,
    at: LogIndex,
    /// Spill pages in the bucket.
    pages: BTreeMap<ObjectName, SpillPage>,
}

impl World {
    fn new() -> Self {
        let partitions = (0..PARTITIONS).map(|n| (id(n), PartitionManifest::new(id(n), Offset::ZERO, LogIndex(0))));
        Self {
            lane: LaneManifest::new(home(), LANE),
            partitions: partitions.collect(),
            at: LogIndex(0),
            pages: BTreeMap::new(),
        }
    }

    fn command(&mut self, step: Step) -> Command {
        let partition = self.partitions.get(&id(step.who)).expect("made above").clone();
        match step.kind {
            0..=2 => self.bundle(step),
            3 | 4 => self.replace(step, &partition),
            5 => self.trim(step, &partition),
            6 => self.spill(step, &partition),
            7 => Command::Forgotten {
                objects: match step.wrong {
                    true => vec![home().bundle(LANE, Sequence(9_999))],
                    false => self.lane.unnamed(self.partitions.values()),
                },
            },
            _ => Command::Published(Published {
                as_of: LogIndex(if step.wrong { self.at.0 + 9 } else { self.at.0 }),
                sequence: self.lane.last,
                etag: format!("e{}", step.a),
                pages: Vec::new(),
                objects: None,
                at: TimestampMs(self.at.0 as i64),
            }),
        }
    }

    fn bundle(&self, step: Step) -> Command {
        let ends = self.partitions.values().filter(|p| (step.a >> p.id.index.0) & 1 == 0).map(|p| {
            // Overlaps and gaps come when the step is wrong.
            let start = if step.wrong { p.archived_end.plus(step.b) } else { p.archived_end };
            let offsets = OffsetRange::new(start, start.plus(step.b));
            BundledEnd { partition: p.id, offsets, bytes: step.b * 10, max_timestamp: TimestampMs(step.a as i64) }
        });
        let skip = u64::from(step.wrong && step.b.is_multiple_of(2));
        Command::Bundled(Bundled {
            sequence: Sequence(self.lane.last.0 + 1 + skip),
            size: 100,
            index: IndexRef { offset: 1, len: 2, crc: step.a as u32 },
            ends: ends.collect(),
            parts: Vec::new(),
            events: Some(LogIndex(step.a)).filter(|_| step.wrong),
        })
    }

    fn replace(&self, step: Step, partition: &PartitionManifest) -> Command {
        let gathered = step.kind == 4;
        let nonce = Nonce(self.at.0);
        let first = partition.rows.first().map_or(partition.archived_end, |row| row.offsets.start);
        let start = if step.wrong { Offset::new(step.a * 7) } else { first.plus(step.a) };
        let offsets = OffsetRange::new(start, start.plus(step.b));
        let kind = match gathered {
            true => ObjectKind::Gathered { lane: LANE, first: Sequence(1), term: Term(1), nonce },
            false => ObjectKind::Segment { partition: partition.id, base: start, term: Term(1), nonce },
        };
        let index = IndexRef { offset: 5, len: 6, crc: 7 };
        let max_timestamp = TimestampMs(1);
        Command::Replaced(Replaced {
            objects: vec![NewObject { object: home().name(kind), size: 50, index }],
            rows: vec![NewRow { partition: partition.id, offsets, object: 0, start: 0, len: 40, max_timestamp }],
        })
    }

    fn trim(&self, step: Step, partition: &PartitionManifest) -> Command {
        let log_start = partition.log_start.plus(step.b * 2);
        let below = partition.spilled.iter().take_while(|page| page.offsets.end <= log_start);
        let named = |page: &SpillRow| (page.page, self.pages.get(&page.page).map(SpillPage::named).unwrap_or_default());
        let pages = if step.wrong { Vec::new() } else { below.map(named).collect() };
        Command::Trimmed(Trimmed { partition: partition.id, log_start, pages })
    }

    fn spill(&mut self, step: Step, partition: &PartitionManifest) -> Command {
        if let Some(page) = partition.spilled.last().filter(|_| step.a.is_multiple_of(4)) {
            let content = self.pages.get(&page.page).cloned().expect("written before");
            return Command::Unfolded(Unfolded { partition: partition.id, page: page.page, content });
        }
        let count = (step.a as usize % 5) + 1;
        let deep =
            step.a.is_multiple_of(3) && partition.spilled.len() > 1 && partition.spilled.iter().all(|p| p.level() == 0);
        let page = match deep {
            true => SpillPage::Pages(partition.spilled.clone()),
            false => SpillPage::Rows(partition.rows.iter().take(count).copied().collect()),
        };
        let covered = page.covers().unwrap_or_default();
        let (object, index) = encode_spill(partition.id, &page);
        if page.covers().is_some() {
            assert_eq!(decode_spill(partition.id, index.crc, &object), Ok(page.clone()));
        }
        let (start, level, nonce) = (covered.start, u8::from(deep), Nonce(self.at.0));
        let name = home().name(ObjectKind::Spill { partition: partition.id, start, level, nonce });
        let shared = if deep { Vec::new() } else { page.named().into_iter().filter(is_shared).collect() };
        self.pages.insert(name, page);
        let wrong = if step.wrong { covered.end.plus(1 << 40) } else { covered.end };
        let offsets = OffsetRange::new(covered.start, wrong);
        let row = SpillRow { offsets, bytes: 1, max_timestamp: TimestampMs(1), page: name, size: 1, crc: index.crc };
        Command::Spilled(Spilled { partition: partition.id, page: row, shared })
    }

    /// No page names an object that the lane believes free.
    fn check_spilled(&self) {
        let mut counts: BTreeMap<ObjectName, u32> = BTreeMap::new();
        let mut waiting: Vec<SpillRow> = self.partitions.values().flat_map(|p| p.spilled.clone()).collect();
        while let Some(row) = waiting.pop() {
            match &self.pages[&row.page] {
                SpillPage::Pages(pages) => waiting.extend(pages),
                page => page
                    .named()
                    .into_iter()
                    .filter(is_shared)
                    .for_each(|object| *counts.entry(object).or_default() += 1),
            }
        }
        for (object, count) in counts {
            assert!(self.lane.live.get(&object).is_some_and(|live| live.spilled >= count), "{object}");
        }
    }

    fn apply(&mut self, command: &Command) -> Result<(), Rejected> {
        self.at = self.at.next();
        apply(&mut self.lane, &mut self.partitions, self.at, command)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_predicate_holds_after_every_command(steps in proptest::collection::vec(any_step(), 1..120), cut in 0..120usize) {
        let mut world = World::new();
        let mut log: Vec<(LogIndex, Command)> = Vec::new();
        // Lane and partitions are checkpointed apart, partitions later than the lane.
        let mut saved_lane = world.lane.encode();
        let mut saved = world.partitions.clone();
        for (nth, step) in steps.into_iter().enumerate() {
            if nth == cut {
                saved_lane = world.lane.encode();
                log.clear();
            }
            let command = world.command(step);
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command.clone()));
            let before = (world.lane.clone(), world.partitions.clone());
            let result = world.apply(&command);
            log.push((world.at, command.clone()));
            if nth == cut + 10 {
                saved = world.partitions.clone();
            } else if nth < cut + 10 && nth >= cut {
                saved = before.1.clone();
            }
            check_lane(&world.lane, &world.partitions).map_err(|e| TestCaseError::fail(format!("{e} after {command:?}: {result:?}")))?;
            world.check_spilled();
            prop_assert_eq!(check_lane_step(&before.0, &world.lane), Ok(()));
            for (id, partition) in &world.partitions {
                prop_assert_eq!(check_partition_step(&before.1[id], partition), Ok(()));
                prop_assert_eq!(PartitionManifest::decode(&partition.encode()), Ok(partition.clone()));
            }
        }
        prop_assert_eq!(LaneManifest::decode(&world.lane.encode()), Ok(world.lane.clone()));
        if cut < world.at.0 as usize {
            let mut lane = LaneManifest::decode(&saved_lane).expect("encoded above");
            for (at, command) in &log {
                let _ = apply(&mut lane, &mut saved, *at, command);
            }
            prop_assert_eq!(&lane, &world.lane);
            prop_assert_eq!(&saved, &world.partitions);
        }
    }
}

fn bundle(world: &mut World, end: u64) {
    let start = world.partitions[&id(0)].archived_end;
    let offsets = OffsetRange::new(start, Offset::new(end));
    let end = BundledEnd { partition: id(0), offsets, bytes: 10, max_timestamp: TimestampMs(1) };
    let index = IndexRef::default();
    let sequence = world.lane.last.next();
    let bundled = Bundled { sequence, size: 1, index, ends: vec![end], parts: Vec::new(), events: None };
    world.apply(&Command::Bundled(bundled)).expect("it continues");
}

/// By a process that has waited long enough for everything.
fn grace(now: i64, ms: i64) -> Grace {
    Grace { now: TimestampMs(now), ms, stood: Some(LogIndex(u64::MAX)), horizon: None }
}

#[test]
fn an_object_goes_only_after_a_published_manifest_forgot_it_and_a_grace() {
    let mut world = World::new();
    bundle(&mut world, 10);
    bundle(&mut world, 20);
    let first = home().bundle(LANE, Sequence(1));
    assert!(world.apply(&Command::Forgotten { objects: world.lane.unnamed(world.partitions.values()) }).is_ok());
    assert!(world.lane.pending.is_empty(), "named by rows");

    let object =
        home().name(ObjectKind::Segment { partition: id(0), base: Offset::ZERO, term: Term(1), nonce: Nonce(1) });
    let new = NewObject { object, size: 9, index: IndexRef::default() };
    let offsets = OffsetRange::new(Offset::ZERO, Offset::new(10));
    let row = NewRow { partition: id(0), offsets, object: 0, start: 0, len: 9, max_timestamp: TimestampMs(1) };
    world.apply(&Command::Replaced(Replaced { objects: vec![new], rows: vec![row] })).expect("archived");
    let unnamed = world.lane.unnamed(world.partitions.values());
    assert_eq!(unnamed, vec![first]);
    world.apply(&Command::Forgotten { objects: unnamed }).expect("free");
    assert!(world.lane.deletable(grace(i64::MAX, 0)).is_empty(), "not published yet");

    let publish = |world: &mut World, at| {
        let (as_of, sequence, pages) = (world.at, world.lane.last, Vec::new());
        let published = Published { as_of, sequence, etag: "e".into(), pages, objects: None, at: TimestampMs(at) };
        world.apply(&Command::Published(published)).expect("newer");
    };
    publish(&mut world, 1_000);
    assert_eq!(world.lane.follow_from, Sequence(3));
    assert!(world.lane.deletable(grace(1_500, 1_000)).is_empty(), "within the grace");
    publish(&mut world, 1_900);
    assert_eq!(world.lane.deletable(grace(2_000, 1_000)), vec![(first, Vec::new())]);
    let jumped = Grace { stood: None, ..grace(i64::MAX, 1_000) };
    assert!(world.lane.deletable(jumped).is_empty(), "only the wall clock says so");
    assert_eq!(world.lane.deletable(grace(0, 1_000)).len(), 1, "the wall clock was put back");
    world.apply(&Command::Deleted(Deleted { lane: vec![first], partitions: Vec::new() })).expect("always");
    assert!(world.lane.pending.is_empty());
}

#[test]
fn a_log_start_beyond_the_archive_moves_its_end_and_a_late_bundle_is_clipped() {
    let mut world = World::new();
    bundle(&mut world, 10);
    let late = BundledEnd {
        partition: id(0),
        offsets: OffsetRange::new(Offset::new(10), Offset::new(30)),
        bytes: 20,
        max_timestamp: TimestampMs(1),
    };
    let trimmed = Trimmed { partition: id(0), log_start: Offset::new(20), pages: Vec::new() };
    world.apply(&Command::Trimmed(trimmed)).expect("forward");
    assert_eq!(world.partitions[&id(0)].archived_end, Offset::new(20));
    let sequence = world.lane.last.next();
    let bundled =
        Bundled { sequence, size: 1, index: IndexRef::default(), ends: vec![late], parts: Vec::new(), events: None };
    world.apply(&Command::Bundled(bundled)).expect("overlap is clipped");
    let manifest = &world.partitions[&id(0)];
    assert_eq!(manifest.rows.len(), 1);
    assert_eq!(manifest.rows[0].offsets, OffsetRange::new(Offset::new(20), Offset::new(30)));
    assert_eq!(manifest.rows[0].bytes, 10);
}

#[test]
fn many_publications_are_thinned_but_never_lie() {
    let mut world = World::new();
    for round in 0..500i64 {
        let (as_of, sequence, pages) = (world.at, world.lane.last, Vec::new());
        let published = Published { as_of, sequence, etag: "e".into(), pages, objects: None, at: TimestampMs(round) };
        world.apply(&Command::Published(published)).expect("newer");
        assert!(world.lane.publications.len() <= PUBLICATIONS_MAX);
        assert_eq!(world.lane.published_as_of(), Some(LogIndex(world.at.0 - 1)));
    }
    // What was intended at index 100 was forgotten by round 100; thinning may only say later.
    assert!(world.lane.forgotten_since(LogIndex(100)).is_some_and(|at| at.0 >= 100));
}

#[test]
fn what_is_deleted_leaves_the_pending_objects_and_the_rest_stays_in_order() {
    let (mut world, of_others) = (World::new(), id(1));
    let segment = |partition, n: u64| {
        home().name(ObjectKind::Segment { partition, base: Offset::new(n), term: Term(1), nonce: Nonce(n) })
    };
    let manifest = world.partitions.get_mut(&id(0)).expect("made above");
    // Intended in the order of draws, not of names.
    manifest.pending = (0..50).map(|n| (segment(id(0), n * 37 % 50), LogIndex(0))).collect();
    let before = manifest.pending.clone();
    let gone: Vec<ObjectName> = (10..30).map(|n| segment(id(0), n)).collect();
    let partitions = vec![(id(0), gone[..5].to_vec()), (of_others, gone.clone()), (id(0), gone[5..].to_vec())];
    world.apply(&Command::Deleted(Deleted { lane: Vec::new(), partitions })).expect("always");
    let left: Vec<(ObjectName, LogIndex)> = before.into_iter().filter(|(object, _)| !gone.contains(object)).collect();
    assert_eq!(world.partitions[&id(0)].pending, left);

    // Released again: what is pending already, what a row names and what is another's are not intended.
    bundle(&mut world, 10);
    let manifest = world.partitions.get_mut(&id(0)).expect("made above");
    let (named, bundle) = (segment(id(0), 90), manifest.rows[0].object());
    let source = Source::Object { object: named, start: 0, len: 1, index: IndexRef::default() };
    manifest.rows[0].source = source;
    let new = segment(id(0), 12);
    manifest.release(LogIndex(9), [left[0].0, named, bundle, segment(of_others, 12), new]);
    assert_eq!(manifest.pending.last(), Some(&(new, LogIndex(9))));
    assert_eq!(manifest.pending.len(), left.len() + 1);
    let all = BTreeSet::from([named, new, left[0].0, gone[0]]);
    assert_eq!(manifest.unnamed(all), BTreeSet::from([gone[0]]), "what the sweeper may take");
}
