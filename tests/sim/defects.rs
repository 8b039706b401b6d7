//! Every defect on purpose is caught, within so many seeds. `TIDEWATER_DEFECT` names one of them to be run alone.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::defect::Defect;
use crate::plan::Plan;
use crate::run::run;
use crate::seeds::{quietly, threads};

/// Seeds within which a defect must be noticed.
const SEEDS: u64 = 60;

#[test]
fn every_defect_on_purpose_is_caught() {
    let escapes = |defect: &Defect| {
        let run = |seed| {
            let mut plan = Plan::of(seed, BTreeSet::new());
            plan.defect = Some(*defect);
            run(plan, false);
        };
        caught(&format!("{defect:?}"), SEEDS, run).is_none()
    };
    let only = std::env::var("TIDEWATER_DEFECT").ok();
    let is_asked = |defect: &Defect| only.as_ref().is_none_or(|only| *only == format!("{defect:?}"));
    let escaped: Vec<_> = Defect::ALL.into_iter().filter(is_asked).filter(escapes).collect();
    assert!(escaped.is_empty(), "no check failed within {SEEDS} seeds: {escaped:?}");
}

/// What the first run that fails says, of so many seeds.
pub(crate) fn caught(defect: &str, seeds: u64, run: impl Fn(u64) + Sync) -> Option<String> {
    let (next, seen, found) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while !seen.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let failed = quietly(|| run(seed));
                    if let Some(why) = failed
                        && !seen.swap(true, Ordering::Relaxed)
                    {
                        eprintln!("{defect} is caught by seed {seed}: {}", why.lines().next().unwrap_or_default());
                        *found.lock().expect("no thread panics") = Some(why);
                    }
                }
            });
        }
    });
    found.into_inner().expect("no thread panics")
}
