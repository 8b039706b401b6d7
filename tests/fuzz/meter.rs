//! What each thread allocates while a target runs, as the global allocator reports it.
//!
//! An allocation that the machine could not give would end the process without a word, so while armed a single one
//! beyond [`SINGLE_MAX`] ends it with one: target and input are written down first.

use std::cell::Cell;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Beyond this a single allocation is given up on.
const SINGLE_MAX: usize = 2 << 30;

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

/// For the allocator.
pub(crate) fn count(bytes: isize) {
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
