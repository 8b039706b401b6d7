//! Coverage as a guide, on a stable compiler: `tests/fuzz/coverage.sh` has LLVM count edges in 8-bit counters and call
//! the function below with their place; an input that reaches a new edge, or one much more often, is kept.
//!
//! Without that script nothing calls it, there are no counters, and inputs are mutated blindly.
#![allow(unsafe_code, reason = "the counters are memory that instrumented code writes")]

use std::sync::Mutex;

static COUNTERS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

static ZEROES: [u8; 4096] = [0; 4096];

/// Called by every instrumented module before `main`.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let range = (start as usize, stop as usize);
    if let Ok(mut counters) = COUNTERS.lock()
        && range.0 < range.1
        && !counters.contains(&range)
    {
        counters.push(range);
    }
}

/// What was reached so far: per edge, the classes of counts seen.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    classes: Vec<u8>,
    pub(crate) edges: usize,
}

/// Is this an instrumented build?
pub(crate) fn is_on() -> bool {
    COUNTERS.lock().is_ok_and(|counters| !counters.is_empty())
}

/// Forgets what was counted.
pub(crate) fn clear() {
    each(|counters| counters.fill(0));
}

#[allow(clippy::significant_drop_tightening, reason = "the ranges are read under the lock")]
fn each(mut act: impl FnMut(&mut [u8])) {
    let Ok(ranges) = COUNTERS.lock() else { return };
    for (start, stop) in ranges.iter() {
        // SAFETY: the linker made this section for the whole run; bytes may change under us only by this thread's
        // own instrumented code, since an instrumented run has one thread.
        act(unsafe { std::slice::from_raw_parts_mut(*start as *mut u8, stop - start) });
    }
}

impl Reached {
    /// Takes what was counted since [`clear`]; true if it is new.
    pub(crate) fn take(&mut self) -> bool {
        let (mut new, mut base) = (false, 0);
        each(|counters| {
            self.classes.resize(self.classes.len().max(base + counters.len()), 0);
            // Most of a program is not reached by one input: it is passed over by the page, then by the line.
            for (seen, counts) in self.classes[base..].chunks_mut(ZEROES.len()).zip(counters.chunks(ZEROES.len())) {
                if counts == &ZEROES[..counts.len()] {
                    continue;
                }
                for (seen, counts) in seen.chunks_mut(64).zip(counts.chunks(64)) {
                    if counts != &ZEROES[..counts.len()] {
                        new |= note(seen, counts, &mut self.edges);
                    }
                }
            }
            base += counters.len();
        });
        new
    }
}

/// Notes classes of counts (1, 2 and 3, 4 to 7, … 128 and more); true if one is new.
fn note(seen: &mut [u8], counts: &[u8], edges: &mut usize) -> bool {
    let mut new = false;
    for (seen, count) in seen.iter_mut().zip(counts).filter(|(_, count)| **count > 0) {
        let class = 1 << (7 - count.leading_zeros());
        if *seen & class == 0 {
            *edges += usize::from(*seen == 0);
            *seen |= class;
            new = true;
        }
    }
    new
}
