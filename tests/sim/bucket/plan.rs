//! What a run will do, drawn from its seed before it begins: what goes wrong in each epoch, how the cluster is lost and
//! restored between two of them. Every part has a name, and a run may leave parts out: so a failing seed is made
//! smaller.

use std::collections::BTreeSet;

use tidewater_storage::env::Rng;

use super::defect::Defect;
use crate::plan::Plan;
use crate::seeds::Drawn;

/// Parts of the world of one broker that are not in this one.
const NEVER: [&str; 4] = ["table", "groups", "topics", "plain"];
/// Parts that are no events, by name.
const PARTS: &[&str] = &[
    "trim",
    "readers",
    "group",
    "second-shard",
    "second-loss",
    "zombie",
    "late",
    "idle",
    "kills",
    "rival",
    "retention",
    "replica-dies",
    "replica-weather",
    "cuts",
    "back",
    "copies",
];

#[derive(Clone, Debug)]
pub(crate) struct EpochsPlan {
    pub(crate) seed: u64,
    /// What goes wrong while the broker of each epoch serves.
    pub(crate) lives: Vec<Plan>,
    /// What comes between two lives.
    pub(crate) losses: Vec<Loss>,
    /// Names of the parts left out.
    pub(crate) without: BTreeSet<String>,
    /// What is wrong with restore or replica, on purpose.
    pub(crate) defect: Option<Defect>,
}

/// How a cluster is lost and restored.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    pub(crate) old: Old,
    /// Of the old broker's PUTs, some reach the bucket seconds later.
    pub(crate) late: bool,
    /// An old broker that stays has archived everything by then, and gets no more records: it has no bundle to write,
    /// and does not meet the seal.
    pub(crate) idle: bool,
    /// Until the restore begins.
    pub(crate) pause_ms: u64,
    /// The restore's process ends after so many awaits, once for each.
    pub(crate) kills: Vec<u64>,
    pub(crate) rival: Option<Rival>,
    /// An operator lets retention delete again.
    pub(crate) end_hold: bool,
    /// The restore goes back to a cut; which one of those that there are.
    pub(crate) back: Option<u64>,
}

/// What becomes of the broker that was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Old {
    /// It never comes back.
    Gone,
    /// It was killed and starts again so long after the restore began.
    Back { after_ms: u64 },
    /// It runs on: only the operator who restores believes that it is lost.
    Stays,
}

/// Another restore of the same cluster.
#[derive(Clone, Debug)]
pub(crate) struct Rival {
    pub(crate) after_ms: u64,
    pub(crate) take_over: bool,
    pub(crate) kills: Vec<u64>,
}

impl EpochsPlan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64, without: BTreeSet<String>) -> Self {
        let rng = Rng::seeded(seed ^ 0x6570_6f63_6873);
        let losses = if rng.below(3) == 0 && !without.contains("second-loss") { 2 } else { 1 };
        let left_out: BTreeSet<String> =
            without.iter().cloned().chain(NEVER.iter().map(|part| (*part).to_owned())).collect();
        let mut lives: Vec<Plan> = Vec::new();
        for n in 0..=losses {
            let mut life = Plan::of(seed.wrapping_add(n << 40), left_out.clone());
            life.events.iter_mut().for_each(|event| event.name = format!("{n}{}", event.name));
            life.events.retain(|event| !without.contains(&event.name));
            if let Some(first) = lives.first() {
                (life.shards, life.partitions) = (first.shards, first.partitions);
            }
            lives.push(life);
        }
        let losses = (0..losses).map(|_| Loss::draw(&rng, &without)).collect();
        Self { seed, lives, losses, without, defect: None }
    }

    /// Is that part in?
    pub(crate) fn has(&self, part: &str) -> bool {
        let rare = match part {
            "trim" => self.seed.is_multiple_of(2),
            "replica-dies" => self.seed.is_multiple_of(4),
            "replica-weather" => self.seed % 4 == 1,
            // Cuts hold back deletes: half of the seeds have none.
            "cuts" => self.seed % 4 < 2 || self.defect.is_some(),
            "copies" => self.seed.is_multiple_of(3) && self.defect.is_none(),
            _ => true,
        };
        rare && !self.without.contains(part)
    }
}

impl Loss {
    fn draw(rng: &Rng, without: &BTreeSet<String>) -> Self {
        let below = |n: u64| rng.below(n);
        let old = match below(4) {
            0 => Old::Gone,
            1 | 2 => Old::Back { after_ms: below(4_000) },
            _ => Old::Stays,
        };
        let (late, pause_ms) = (below(2) == 0, below(2) * below(3_000));
        let kills = kills(rng);
        let rival = Rival { after_ms: below(400), take_over: below(2) == 0, kills: self::kills(rng) };
        let (races, end_hold, idle) = (below(3) == 0, below(2) == 0, below(2) == 0);
        let back = (below(2) == 0).then(|| below(1 << 20));
        let has = |part: &str| !without.contains(part);
        let old = if has("zombie") { old } else { Old::Gone };
        Self {
            old,
            late: late && has("late"),
            idle: old == Old::Stays && idle && has("idle"),
            pause_ms,
            kills: if has("kills") { kills } else { Vec::new() },
            rival: (races && has("rival")).then_some(rival),
            end_hold: end_hold && has("retention"),
            back: back.filter(|_| has("back") && has("cuts")),
        }
    }
}

/// Few awaits and many: a restore of a short history has some hundreds.
fn kills(rng: &Rng) -> Vec<u64> {
    (0..rng.below(5)).map(|_| 1 + rng.below([20, 120, 500][usize::try_from(rng.below(3)).expect("small")])).collect()
}

impl Drawn for EpochsPlan {
    fn parts(&self) -> Vec<String> {
        let parts = PARTS.iter().filter(|part| self.has(part)).map(|part| (*part).to_owned());
        let events = self.lives.iter().flat_map(|life| &life.events).map(|event| event.name.clone());
        parts.chain(events).collect()
    }
}
