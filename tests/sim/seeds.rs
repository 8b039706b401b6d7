//! Which seeds run, on all cores, and how a failing one is made smaller and says how to repeat it.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::plan::Plan;

/// Making a failing seed smaller takes no longer than this.
const SHRINK: Duration = Duration::from_secs(60);

/// Seeds of one process. A broker that is killed leaves some MiB behind, since its parts know each other; in a process
/// that ends they are no matter, and any number of seeds can run.
const SEEDS_A_PROCESS: u64 = 125;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a whole number, not {text:?}")))
}

/// What to leave out of a run that is repeated.
fn without() -> BTreeSet<String> {
    let text = std::env::var("TIDEWATER_WITHOUT").unwrap_or_default();
    text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// What a run said when it failed; nothing is printed meanwhile.
pub(crate) fn quietly(act: impl FnOnce()) -> Option<String> {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(act));
    QUIET.set(before);
    let panic = done.err()?;
    let text = panic.downcast_ref::<String>().cloned();
    Some(text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

/// Threads that run at once.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// What a seed decides before its run begins.
pub(crate) trait Drawn {
    /// Names of everything that is in and could be left out.
    fn parts(&self) -> Vec<String>;
}

impl Drawn for Plan {
    fn parts(&self) -> Vec<String> {
        Self::parts(self)
    }
}

/// Runs `act` for `TIDEWATER_SEED` alone (with its trace), or for `TIDEWATER_SEEDS`, or for `usual` seeds; many of them
/// in processes of their own, each of which runs the test called `test`. `draw` makes a seed's plan without the parts
/// named.
pub(crate) fn each<P: Drawn>(
    test: &str,
    usual: u64,
    draw: impl Fn(u64, BTreeSet<String>) -> P + Sync,
    act: impl Fn(P, bool) + Sync,
) {
    if let Some(seed) = number("TIDEWATER_SEED") {
        act(draw(seed, without()), true);
        return;
    }
    let first = number("TIDEWATER_SEED_FROM").unwrap_or(0);
    let end = first + number("TIDEWATER_SEEDS").unwrap_or(usual);
    if end - first > SEEDS_A_PROCESS {
        return in_processes(test, first..end);
    }
    let (next, stop, failed) = (AtomicU64::new(first), AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let run = |out: BTreeSet<String>| quietly(|| act(draw(seed, out), false));
                    let Some(why) = run(without()) else { continue };
                    stop.store(number("TIDEWATER_KEEP_GOING").is_none(), Ordering::Relaxed);
                    eprintln!("seed {seed} failed: {why}");
                    let parts = |out: BTreeSet<String>| draw(seed, out).parts();
                    let (left_out, why) = shrink(why, &parts, &run);
                    let left_out: Vec<_> = left_out.into_iter().collect();
                    let left_out = left_out.join(",");
                    let repeat = format!("TIDEWATER_SEED={seed} TIDEWATER_WITHOUT={left_out}");
                    let line =
                        format!("{why}\n    repeat it: {repeat} cargo test --release --test sim {test} -- --exact");
                    eprintln!("seed {seed}, made smaller: {line}");
                    failed.lock().expect("no thread panics").push(line);
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no thread panics");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
}

/// Runs `test` of this program for all `seeds`, one process after the other.
fn in_processes(test: &str, seeds: Range<u64>) {
    let program = std::env::current_exe().expect("a program");
    let mut failed = Vec::new();
    for first in seeds.clone().step_by(usize::try_from(SEEDS_A_PROCESS).expect("few")) {
        let count = SEEDS_A_PROCESS.min(seeds.end - first);
        let mut process = std::process::Command::new(&program);
        process.args([test, "--exact", "--nocapture"]);
        process.env("TIDEWATER_SEED_FROM", first.to_string()).env("TIDEWATER_SEEDS", count.to_string());
        if !process.status().expect("this program runs again").success() {
            failed.push(first);
            if number("TIDEWATER_KEEP_GOING").is_none() {
                break;
            }
        }
    }
    assert!(failed.is_empty(), "seeds failed, printed above, in the processes that began at {failed:?}");
}

/// Leaves out what can be left out while the seed still fails: halves first, then one by one.
#[allow(clippy::disallowed_methods, reason = "bounds the search, which runs outside the simulation")]
pub(crate) fn shrink(
    why: String,
    parts_without: &dyn Fn(BTreeSet<String>) -> Vec<String>,
    run: &dyn Fn(BTreeSet<String>) -> Option<String>,
) -> (BTreeSet<String>, String) {
    let until = Instant::now() + Duration::from_secs(number("TIDEWATER_SHRINK_SECONDS").unwrap_or(SHRINK.as_secs()));
    let (mut out, mut why) = (without(), why);
    let mut piece = parts_without(out.clone()).len().div_ceil(2).max(1);
    loop {
        let parts = parts_without(out.clone());
        for some in parts.chunks(piece) {
            if Instant::now() >= until {
                return (out, why);
            }
            let mut tried = out.clone();
            tried.extend(some.iter().cloned());
            if let Some(again) = run(tried.clone()) {
                (out, why) = (tried, again);
            }
        }
        if piece == 1 {
            return (out, why);
        }
        piece /= 2;
    }
}
