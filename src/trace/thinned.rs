//! Thins out warnings and errors said over and over from one place in the code, so that a fault that lasts neither fills
//! the disk with its log nor hides the next fault.
//!
//! A place may speak [`BURST`] times in [`WINDOW`]; what it would have said beyond that is counted and told with the next
//! line that comes through. INFO and below are not touched.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in a window.
const BURST: u32 = 20;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(30);

/// The layer. Node-wide; its lock is taken for warnings and errors alone.
#[derive(Debug, Default)]
pub(super) struct Thinned {
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    since: Instant,
    said: u32,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Say,
    /// Say it, after so many that were not said.
    SayAfter(u64),
    LeaveOut,
}

fn decide(place: &mut Place, now: Instant) -> Verdict {
    if now.duration_since(place.since) >= WINDOW {
        let left_out = place.left_out;
        *place = Place { since: now, said: 1, left_out: 0 };
        return if left_out > 0 { Verdict::SayAfter(left_out) } else { Verdict::Say };
    }
    if place.said < BURST {
        place.said += 1;
        return Verdict::Say;
    }
    place.left_out += 1;
    Verdict::LeaveOut
}

#[allow(clippy::disallowed_methods, reason = "logging belongs to the process, not to a shard: it has no `Env`")]
fn now() -> Instant {
    Instant::now()
}

impl<S: Subscriber> Layer<S> for Thinned {
    fn event_enabled(&self, event: &Event<'_>, _ctx: Context<'_, S>) -> bool {
        let meta = event.metadata();
        if *meta.level() > Level::WARN {
            return true;
        }
        let now = now();
        let verdict = {
            let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let place = places.entry(meta.callsite()).or_insert(Place { since: now, said: 0, left_out: 0 });
            decide(place, now)
        };
        if let Verdict::SayAfter(lines) = verdict {
            tracing::info!(lines, place = meta.target(), "lines like the next one were left out");
        }
        verdict != Verdict::LeaveOut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_repeats_itself_is_thinned() {
        let start = now();
        let mut place = Place { since: start, said: 0, left_out: 0 };
        let said = (0..100).filter(|_| decide(&mut place, start) == Verdict::Say).count();
        assert_eq!(said, BURST as usize);
        assert_eq!(decide(&mut place, start + WINDOW), Verdict::SayAfter(80));
        assert_eq!(decide(&mut place, start + WINDOW), Verdict::Say);
    }
}
