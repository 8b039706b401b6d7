//! Runs targets: every seed, every prefix of a small one, then mutations until the time is up. A failing input is made
//! smaller while it still fails, printed, and kept under the target directory.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tidewater_storage::env::Rng;

use super::target::Target;
use super::{corpus, coverage, meter, mutate};

/// Seeds shorter than this are also tried at every length below their own.
const PREFIXES_MAX: usize = 3 << 10;
/// One input may take this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// One input that takes this long will never end.
const HANGS: Duration = Duration::from_secs(60);
/// Inputs that reached something new are kept in the tree up to this length,
const KEPT_MAX: usize = 2 << 10;
/// and so many bytes of them for a target: about a second's worth, and all targets stay below a megabyte.
const CORPUS_MAX: usize = 8 << 10;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn number(name: &str) -> Option<f64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Counts a thread that has ended, however it ended.
struct Over<'a>(&'a AtomicUsize);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs all targets, on all cores.
pub(crate) fn all(targets: &[Target]) {
    let only = std::env::var("TIDEWATER_FUZZ_TARGET").unwrap_or_default();
    let chosen: Vec<&Target> = targets.iter().filter(|target| target.name.contains(&only)).collect();
    assert!(!chosen.is_empty(), "no target is called {only}");
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !QUIET.get() {
            usual(info);
        }
    }));
    let (next, failures, over) = (AtomicUsize::new(0), Mutex::new(Vec::new()), AtomicUsize::new(0));
    let threads =
        if coverage::is_on() { 1 } else { std::thread::available_parallelism().map_or(2, usize::from).min(8) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while over.load(Ordering::Relaxed) < threads {
                std::thread::sleep(Duration::from_millis(50));
                meter::watch(HANGS);
            }
        });
        for _ in 0..threads {
            scope.spawn(|| {
                let _over = Over(&over);
                while let Some(target) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(failure) = one(target) {
                        failures.lock().expect("no thread panics").push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no thread panics");
    assert!(failures.is_empty(), "{} targets fell:\n{}", failures.len(), failures.join("\n"));
}

/// What is wrong with what an input does, if anything.
fn judge(target: &Target, input: &[u8]) -> Option<String> {
    QUIET.set(true);
    let start = Instant::now();
    let (done, peak) = meter::measured(target.name, input, || catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    QUIET.set(false);
    let took = start.elapsed();
    if let Err(panic) = done {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        return Some(format!("panics: {text}"));
    }
    if peak > target.allowed(input.len()) {
        return Some(format!("allocates {peak} bytes, allowed are {}", target.allowed(input.len())));
    }
    (took > PATIENCE).then(|| format!("takes {took:?}"))
}

struct Pool {
    inputs: Vec<Vec<u8>>,
    found: Vec<Vec<u8>>,
    reached: coverage::Reached,
    guided: bool,
}

impl Pool {
    /// Runs an input; keeps it if it reaches something new.
    fn run(&mut self, target: &Target, input: &[u8], keep: bool) -> Option<String> {
        if self.guided {
            coverage::clear();
        }
        let wrong = judge(target, input);
        if self.guided && self.reached.take() && keep {
            self.inputs.push(input.to_vec());
            self.found.push(input.to_vec());
        }
        wrong.map(|wrong| report(target, input, &wrong))
    }
}

/// Runs a target; says how it failed.
fn one(target: &Target) -> Option<String> {
    let seconds = number("TIDEWATER_FUZZ_SECONDS").unwrap_or(1.0);
    let mut inputs = (target.seeds)();
    assert!(!inputs.is_empty(), "{} has no seeds", target.name);
    inputs.extend(corpus::inputs(target.name));
    let mut pool = Pool { inputs, found: Vec::new(), reached: coverage::Reached::default(), guided: coverage::is_on() };
    let start = Instant::now();
    let mut runs = 0_u64;
    // Guided, what was found is more worth than what can be cut off.
    let prefixes_until = if pool.guided { seconds / 8.0 } else { seconds.max(1.0) };
    for input in pool.inputs.clone() {
        let prefixes = if input.len() < PREFIXES_MAX { 0 } else { input.len() };
        for len in (prefixes..=input.len()).rev() {
            runs += 1;
            let failed = pool.run(target, input.get(..len).unwrap_or_default(), false);
            if failed.is_some() {
                return failed;
            }
            // Each prefix mended has its sums right and its lengths wrong.
            let mut mended = input.get(..len).unwrap_or_default().to_vec();
            (target.mend)(&mut mended);
            let failed = pool.run(target, &mended, false);
            if failed.is_some() {
                return failed;
            }
            if start.elapsed().as_secs_f64() > prefixes_until {
                break;
            }
        }
    }
    let rng = Rng::seeded(number("TIDEWATER_SEED").map_or(7, f64::to_bits));
    while start.elapsed().as_secs_f64() < seconds {
        for _ in 0..16 {
            let pick = |rng: &Rng| usize::try_from(rng.below(pool.inputs.len() as u64)).unwrap_or(0);
            let (mut input, other) = (pool.inputs[pick(&rng)].clone(), pick(&rng));
            mutate::mutate(&rng, &mut input, &pool.inputs[other]);
            if rng.below(4) > 0 {
                (target.mend)(&mut input);
            }
            runs += 1;
            let failed = pool.run(target, &input, true);
            if failed.is_some() {
                return failed;
            }
        }
    }
    let edges = pool.reached.edges;
    eprintln!("{:>28} {runs:>9} runs, {} inputs, {edges} edges", target.name, pool.inputs.len());
    keep_best(target, &pool.found);
    None
}

/// Adds the shortest inputs that together reach what seeds and corpus do not.
fn keep_best(target: &Target, found: &[Vec<u8>]) {
    let mut reached = coverage::Reached::default();
    let mut reaches_more = |input: &[u8]| {
        coverage::clear();
        judge(target, input);
        reached.take()
    };
    let known = corpus::inputs(target.name);
    for input in (target.seeds)().iter().chain(&known) {
        reaches_more(input);
    }
    let mut short: Vec<_> = found.iter().filter(|input| input.len() <= KEPT_MAX).collect();
    short.sort_by_key(|input| (input.len(), *input));
    let mut room = CORPUS_MAX.saturating_sub(known.iter().map(Vec::len).sum());
    let mut best = Vec::new();
    for input in short {
        if input.len() <= room && reaches_more(input) {
            room -= input.len();
            best.push(input.clone());
        }
    }
    if !best.is_empty() {
        corpus::add(target.name, &best);
    }
}

/// Makes the input smaller while it still fails; keeps and describes it.
fn report(target: &Target, input: &[u8], wrong: &str) -> String {
    let mut small = input.to_vec();
    let until = Instant::now() + Duration::from_secs(3);
    let mut piece = (small.len() / 2).max(1);
    while Instant::now() < until {
        let mut at = 0;
        while at < small.len() && Instant::now() < until {
            let mut shorter = small.clone();
            drop(shorter.drain(at..(at + piece).min(small.len())));
            if judge(target, &shorter).is_some() {
                small = shorter;
            } else {
                at += piece;
            }
        }
        if piece == 1 {
            break;
        }
        piece /= 2;
    }
    let wrong = judge(target, &small).unwrap_or_else(|| wrong.to_owned());
    let path = keep(target.name, &small);
    let shown = corpus::hex(small.get(..200).unwrap_or(&small));
    format!("{}: {wrong}; {} bytes in {}: {shown}", target.name, small.len(), path.display())
}

/// Writes an input where it can be found.
pub(crate) fn keep(name: &str, input: &[u8]) -> PathBuf {
    let dir = std::env::var_os("CARGO_TARGET_TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let path = dir.join(format!("fuzz-{name}-{:08x}.hex", crc32c::crc32c(input)));
    let _ = std::fs::write(&path, corpus::hex(input) + "\n");
    path
}
