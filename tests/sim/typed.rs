//! The run's topic as a typed table: columns for the parts of its values, dead letters for what has none.
//!
//! Owns: which values a run has ([`TableKind`]), what outlives the broker beside the bucket ([`Typed`]): the registry,
//! the newest way to the log, odds and counts. [`values`] makes records and says what each becomes; [`registry`]
//! answers late or not at all; [`catalog`] loses answers; [`rival`] is a second committer; [`wrong`] has the defects;
//! `reach` shows that all of that reaches the sink. Does not own: the sink's settings (`table`), the check
//! (`invariants::typed_equals_log`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use tidewater::lakehouse::reader::MeshReader;

use crate::plan::Plan;

pub(crate) mod catalog;
#[cfg(test)]
mod reach;
pub(crate) mod registry;
pub(crate) mod rival;
pub(crate) mod values;
pub(crate) mod wrong;

/// How values name their schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableKind {
    /// JSON of one schema, which the topic's setting has.
    Json,
    /// Avro with the schema's id before it.
    IdPrefix,
}

impl TableKind {
    /// Of the run's topic; `None`: its table has keys and values as bytes.
    pub(crate) fn of(plan: &Plan) -> Option<Self> {
        let kind = if (plan.seed / 3).is_multiple_of(2) { Self::Json } else { Self::IdPrefix };
        plan.has("typed").then_some(kind)
    }
}

/// What a typed run has beside broker and bucket; it outlives the broker.
#[derive(Debug)]
pub(crate) struct Typed {
    pub(crate) dice: Dice,
    /// Catalog and registry behave from now on.
    calm: AtomicBool,
    /// The log as the broker of now has it.
    pub(crate) log: Mutex<Option<MeshReader>>,
    pub(crate) counts: Counts,
}

/// What happened to the sinks of a run.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Turns that began, and that came to their end: the others were killed.
    pub(crate) begun: AtomicU64,
    pub(crate) ended: AtomicU64,
    /// Turns that failed because bucket, catalog, registry or log did.
    pub(crate) failed: AtomicU64,
    /// Turns that another committer took the table from.
    pub(crate) moved: AtomicU64,
    pub(crate) catalog_away: AtomicU64,
    pub(crate) lost_answers: AtomicU64,
    pub(crate) registry_away: AtomicU64,
    /// Rivals that committed, and that a later sink fenced off.
    pub(crate) rival_commits: AtomicU64,
    pub(crate) fenced: AtomicU64,
    /// Of the tables in the end.
    pub(crate) rows: AtomicU64,
    pub(crate) dead_letters: AtomicU64,
    pub(crate) schema_changes: AtomicU64,
}

/// Counts one more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// A line with each of them.
    pub(crate) fn summary(&self) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let all = [
            ("killed turns", of(&self.begun) - of(&self.ended)),
            ("failed turns", of(&self.failed)),
            ("moved turns", of(&self.moved)),
            ("catalog away", of(&self.catalog_away)),
            ("lost answers", of(&self.lost_answers)),
            ("registry away", of(&self.registry_away)),
            ("rival commits", of(&self.rival_commits)),
            ("fenced rivals", of(&self.fenced)),
            ("rows", of(&self.rows)),
            ("dead letters", of(&self.dead_letters)),
            ("schema changes", of(&self.schema_changes)),
        ];
        format!("typed table: {}", all.map(|(name, count)| format!("{count} {name}")).join(", "))
    }
}

impl Typed {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            dice: Dice(Mutex::new(seed ^ 0x0074_7970_6564)),
            calm: AtomicBool::new(false),
            log: Mutex::default(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// The broker of now serves the log.
    pub(crate) fn serves(&self, log: MeshReader) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }
}

/// Random numbers for futures that any thread could run.
#[derive(Debug)]
pub(crate) struct Dice(Mutex<u64>);

impl Dice {
    /// Below `end`.
    pub(crate) fn below(&self, end: u64) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(*state) % end
    }

    /// Does something with these odds in 1,000 happen?
    pub(crate) fn chance(&self, odds: u64) -> bool {
        self.below(1_000) < odds
    }
}

/// The last steps of SplitMix64.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stretch in which something is away: it begins by chance, and lasts so many questions.
#[derive(Debug, Default)]
pub(crate) struct Stretch(AtomicU64);

impl Stretch {
    /// Is it away for this question?
    pub(crate) fn holds(&self, typed: &Typed, odds: u64, longest: u64) -> bool {
        if typed.is_calm() {
            return false;
        }
        let left = self.0.load(Ordering::Relaxed);
        if left > 0 {
            self.0.store(left - 1, Ordering::Relaxed);
            return true;
        }
        let begins = typed.dice.chance(odds);
        if begins {
            self.0.store(typed.dice.below(longest), Ordering::Relaxed);
        }
        begins
    }
}
