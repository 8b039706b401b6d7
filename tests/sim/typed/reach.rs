//! That the faults of typed runs reach the sink at all: of some seeds together, each thing that [`Counts`] counts has
//! happened.
//!
//! [`Counts`]: super::Counts

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Plan;
use crate::run::run;

/// Typed seeds of both kinds, with rivals and without.
const SEEDS: [u64; 6] = [2, 5, 8, 11, 14, 17];

#[test]
fn kills_rivals_and_lost_answers_reach_the_sink() {
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for seed in SEEDS {
        let notes = run(Plan::of(seed, BTreeSet::new()), false);
        let counts = notes.iter().find_map(|note| note.strip_prefix("typed table: ")).expect("a typed seed");
        for (name, count) in counts.split(", ").filter_map(|part| part.split_once(' ')).map(|(n, name)| (name, n)) {
            *all.entry(name.to_owned()).or_default() += count.parse::<u64>().expect("a number");
        }
    }
    eprintln!("{all:?}");
    let never: Vec<_> = all.iter().filter(|(_, count)| **count == 0).collect();
    assert!(!all.is_empty() && never.is_empty(), "seeds {SEEDS:?} never have {never:?}; all together: {all:?}");
}
