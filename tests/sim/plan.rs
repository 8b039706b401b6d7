//! What a run will do, drawn from its seed before it begins: who is there and what goes wrong when. Every part has a
//! name, and a run may leave parts out: so a failing seed is made smaller.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tidewater_storage::env::Rng;
use tidewater_storage::env::sim::{Fault, Operation, Twist, TwistKind};
use tidewater_tiering::store::Faults;

use crate::defect::Defect;
use crate::seeds::number;

/// Virtual time under faults, least and spread.
const ROUGH_MS: (u64, u64) = (3_000, 8_000);

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shards: u16,
    pub(crate) partitions: i32,
    /// How long things go wrong.
    pub(crate) rough_ms: u64,
    /// What goes wrong, and when it begins.
    pub(crate) events: Vec<Event>,
    /// Names of the parts left out.
    pub(crate) without: BTreeSet<String>,
    /// What is wrong with the broker, on purpose.
    pub(crate) defect: Option<Defect>,
}

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) at_ms: u64,
    pub(crate) what: What,
}

/// See [`Event`].
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// The broker ends and starts after a while; and, while it recovers, again, so many microseconds after its start.
    End { power_cut: bool, down_ms: u64, again_us: Vec<u64> },
    /// The bucket changes its manners.
    Weather(Faults),
    /// The disk fails once.
    Disk(Fault),
    /// The disk writes less than it was given, once.
    Short(Twist),
    /// The disk is full but for so many bytes, for a while.
    Full { left: u64, ms: u64 },
    /// The wall clock jumps.
    Clock(i64),
}

/// Parts that are no events, by name.
pub(crate) const PARTS: &[&str] =
    &["table", "typed", "rivals", "groups", "topics", "trim", "plain", "readers", "second-shard", "tight-journal"];

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64, without: BTreeSet<String>) -> Self {
        let rng = Rng::seeded(seed ^ 0x0070_6c61_6e00);
        let second = rng.below(3) == 0;
        let shards = if second && !without.contains("second-shard") { 2 } else { 1 };
        let partitions = 1 + i32::try_from(rng.below(4)).expect("small");
        let rough_ms = ROUGH_MS.0 + rng.below(ROUGH_MS.1);
        let mut plan = Self { seed, shards, partitions, rough_ms, events: Vec::new(), without, defect: None };
        plan.events = events(&rng, rough_ms);
        plan.events.retain(|event| !plan.without.contains(&event.name));
        plan
    }

    /// Is that part in?
    pub(crate) fn has(&self, part: &str) -> bool {
        // Groups and topics cost more than they find in every run; a tight journal holds much of the rest up.
        let rare = match part {
            "groups" => self.seed.is_multiple_of(3),
            "topics" => self.seed % 3 == 1,
            "typed" => self.has("table") && (self.seed % 3 == 2 || number("TIDEWATER_TYPED").is_some()),
            "rivals" => self.has("typed") && (self.seed / 6).is_multiple_of(2),
            "tight-journal" => self.seed % 8 == 7 || number("TIDEWATER_TIGHT_JOURNAL").is_some(),
            _ => true,
        };
        rare && !self.without.contains(part)
    }

    /// Names of everything that is in and could be left out.
    pub(crate) fn parts(&self) -> Vec<String> {
        let parts = PARTS.iter().filter(|part| self.has(part)).map(|part| (*part).to_owned());
        parts.chain(self.events.iter().map(|event| event.name.clone())).collect()
    }
}

fn events(rng: &Rng, rough_ms: u64) -> Vec<Event> {
    let often = 100 + rng.below(2_500);
    let bad_disk = rng.below(3) == 0;
    let bad_clock = rng.below(3) == 0;
    let (mut events, mut at_ms) = (Vec::new(), 0);
    loop {
        at_ms += 1 + rng.below(often);
        if at_ms >= rough_ms {
            return events;
        }
        let what = match rng.below(10) {
            0..=4 => end(rng),
            5 | 6 => What::Weather(weather(rng)),
            7 if bad_disk => disk(rng),
            8 if bad_clock => {
                let most = [50, 2_000, 60_000, 600_000][usize::try_from(rng.below(4)).expect("small")];
                What::Clock(i64::try_from(rng.below(2 * most)).expect("small") - i64::try_from(most).expect("small"))
            }
            _ => continue,
        };
        events.push(Event { name: format!("e{}", events.len()), at_ms, what });
    }
}

fn end(rng: &Rng) -> What {
    let mut again_us = Vec::new();
    while rng.below(4) == 0 {
        again_us.push(rng.below(60_000));
    }
    What::End { power_cut: rng.below(3) > 0, down_ms: rng.below(200), again_us }
}

/// How bad the bucket is for a while.
fn weather(rng: &Rng) -> Faults {
    let mild =
        Faults { latency_min: Duration::from_millis(1), latency_max: Duration::from_millis(30), ..Faults::default() };
    match rng.below(6) {
        0 => Faults { down: true, ..mild },
        1 => Faults { throttled: 300, ..mild },
        2 => Faults { lost_answers: 300, ..mild },
        3 => Faults { late_writes: 150, late_max: Duration::from_secs(1), ..Faults::rough() },
        4 => Faults { late_max: Duration::from_millis(300), ..Faults::rough() },
        _ => mild,
    }
}

/// EIO of any operation on any kind of file, a short write, or no room.
fn disk(rng: &Rng) -> What {
    let paths = ["/journal/", "checkpoint.", ".log", ".idx", "/node/shard"];
    let path = paths[usize::try_from(rng.below(paths.len() as u64)).expect("small")].to_owned();
    let after = u32::try_from(rng.below(20)).expect("small");
    match rng.below(8) {
        0 => What::Full { left: rng.below(200_000), ms: rng.below(1_500) },
        1 => What::Short(Twist { path, after, kind: TwistKind::Short }),
        n => {
            let kinds = [
                Operation::Open,
                Operation::Read,
                Operation::Write,
                Operation::Write,
                Operation::Sync,
                Operation::SyncDir,
            ];
            let operation = kinds[usize::try_from(n - 2).expect("small")];
            What::Disk(Fault { operation, path, after, error: io::ErrorKind::Other })
        }
    }
}
