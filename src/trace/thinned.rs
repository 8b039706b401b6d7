//! Limits repeated warnings and errors from one place in the code, so that a lasting fault neither fills the disk with
//! its log nor hides the next fault.
//!
//! A place may log [`BURST`] lines in [`WINDOW`]; further lines are counted, and the next line that passes has their
//! number. INFO and below are not limited.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one place in a [`WINDOW`].
const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(30);

/// Node-wide; its lock is taken for warnings and errors only.
#[derive(Debug, Default)]
pub(super) struct Thinned {
    callsites: Mutex<HashMap<Identifier, Callsite>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Callsite {
    since: Instant,
    said: u32,
    left_out: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Say,
    /// Log it; before it, this number of lines was left out.
    SayAfter(u64),
    LeaveOut,
}

fn decide(site: &mut Callsite, now: Instant) -> Verdict {
    if now.duration_since(site.since) >= WINDOW {
        let left_out = site.left_out;
        *site = Callsite { since: now, said: 1, left_out: 0 };
        return if left_out > 0 { Verdict::SayAfter(left_out) } else { Verdict::Say };
    }
    if site.said < BURST {
        site.said += 1;
        return Verdict::Say;
    }
    site.left_out += 1;
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
            let mut sites = self.callsites.lock().unwrap_or_else(PoisonError::into_inner);
            let site = sites.entry(meta.callsite()).or_insert(Callsite { since: now, said: 0, left_out: 0 });
            decide(site, now)
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
    fn a_callsite_that_repeats_itself_is_limited() {
        let start = now();
        let mut site = Callsite { since: start, said: 0, left_out: 0 };
        let said = (0..100).filter(|_| decide(&mut site, start) == Verdict::Say).count();
        assert_eq!(said, BURST as usize);
        assert_eq!(decide(&mut site, start + WINDOW), Verdict::SayAfter(80));
        assert_eq!(decide(&mut site, start + WINDOW), Verdict::Say);
    }
}
