//! A global allocator that counts, per thread, what is allocated while a target runs.
//!
//! An allocation that the machine could not give would end the process without a word, so while armed a single one
//! beyond [`SINGLE_MAX`] ends it with one: target and input are written down first.
#![allow(unsafe_code, reason = "an allocator is an unsafe trait; everything goes to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Beyond this a single allocation is given up on.
const SINGLE_MAX: usize = 2 << 30;

pub(crate) struct Meter;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static RUNNING: Arc<Mutex<Running>> = {
        let mine = Arc::<Mutex<Running>>::default();
        ALL.lock().expect("no thread panics with it").push(Arc::clone(&mine));
        mine
    };
}

/// What every thread runs.
static ALL: Mutex<Vec<Arc<Mutex<Running>>>> = Mutex::new(Vec::new());

/// What a thread runs.
#[derive(Default)]
struct Running {
    name: String,
    input: Vec<u8>,
    since: Option<Instant>,
}

fn count(bytes: isize) {
    if ARMED.get() {
        let live = LIVE.get() + bytes;
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
        if bytes > SINGLE_MAX.cast_signed() {
            give_up(bytes);
        }
    }
}

fn give_up(bytes: isize) {
    ARMED.set(false);
    RUNNING.with(|running| running.lock().expect("not poisoned").end(&format!("asks for {bytes} bytes at once")));
}

impl Running {
    /// Ends the process, which cannot go on, and leaves the input behind.
    fn end(&self, what: &str) -> ! {
        let path = super::drive::keep(&self.name, &self.input);
        eprintln!("{}: an input of {} bytes {what}: {}", self.name, self.input.len(), path.display());
        std::process::abort();
    }
}

/// Ends the process if an input is not done after `patience`.
pub(crate) fn watch(patience: Duration) {
    for running in ALL.lock().expect("no thread panics with it").iter() {
        let running = running.lock().expect("no thread panics with it");
        if running.since.is_some_and(|since| since.elapsed() > patience) {
            running.end("hangs");
        }
    }
}

// SAFETY: every call is the system allocator's, with its arguments as they came.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        count(new.cast_signed() - layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Runs `act` on `input`; gives its result and the most bytes that were allocated at once meanwhile on this thread.
pub(crate) fn measured<T>(name: &str, input: &[u8], act: impl FnOnce() -> T) -> (T, usize) {
    RUNNING.with(|running| {
        let mut running = running.lock().expect("not poisoned");
        running.name.replace_range(.., name);
        running.input.clear();
        running.input.extend_from_slice(input);
        running.since = Some(Instant::now());
    });
    LIVE.set(0);
    PEAK.set(0);
    ARMED.set(true);
    let done = act();
    ARMED.set(false);
    RUNNING.with(|running| running.lock().expect("not poisoned").since = None);
    (done, usize::try_from(PEAK.get()).unwrap_or(0))
}
