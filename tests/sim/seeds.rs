//! Which seeds run, and how a failing one says how to repeat it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not {text:?}")))
}

/// Runs `act` for `TIDEWATER_SEED` alone (with its trace), or for `TIDEWATER_SEEDS`, or for `usual` seeds.
pub(crate) fn each(usual: u64, act: impl Fn(u64, bool)) {
    if let Some(seed) = number("TIDEWATER_SEED") {
        act(seed, true);
        return;
    }
    let first = number("TIDEWATER_SEED_FROM").unwrap_or(0);
    let mut failed = Vec::new();
    for seed in first..first + number("TIDEWATER_SEEDS").unwrap_or(usual) {
        let Err(broken) = catch_unwind(AssertUnwindSafe(|| act(seed, false))) else { continue };
        eprintln!("seed {seed} failed; repeat it with TIDEWATER_SEED={seed} cargo test --release --test sim");
        failed.push(seed);
        if number("TIDEWATER_KEEP_GOING").is_none() {
            resume_unwind(broken);
        }
    }
    assert!(failed.is_empty(), "{} seeds failed: {failed:?}", failed.len());
}
