//! Every defect on purpose is caught, within so many seeds.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::defect::Defect;
use crate::plan::Plan;
use crate::run::run;
use crate::seeds::{quietly, threads};

/// Seeds within which a defect must be noticed.
const SEEDS: u64 = 60;

#[test]
fn every_defect_on_purpose_is_caught() {
    let escaped: Vec<_> = Defect::ALL.into_iter().filter(|defect| caught(*defect).is_none()).collect();
    assert!(escaped.is_empty(), "no check failed within {SEEDS} seeds: {escaped:?}");
}

/// The first seed that notices.
fn caught(defect: Defect) -> Option<u64> {
    let (next, seen, found) = (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while !seen.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let mut plan = Plan::of(seed, BTreeSet::new());
                    plan.defect = Some(defect);
                    let failed = quietly(|| {
                        run(plan, false);
                    });
                    if let Some(why) = failed
                        && !seen.swap(true, Ordering::Relaxed)
                    {
                        found.store(seed, Ordering::Relaxed);
                        eprintln!("{defect:?} is caught by seed {seed}: {}", why.lines().next().unwrap_or_default());
                    }
                }
            });
        }
    });
    seen.into_inner().then(|| found.into_inner())
}
