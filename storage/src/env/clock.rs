//! Time: a monotonic clock for durations and deadlines, a wall clock for Kafka's timestamps.
//!
//! Owns: the only calls to the system's clocks. Affinity: shard-local.

use std::fmt;
use std::ops::Add;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::executor_sim::Executor;
use crate::model::TimestampMs;

/// A point in time: nanoseconds since this executor started. Not comparable across executors or restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(u64);

impl Mono {
    pub const ZERO: Self = Self(0);

    /// From nanoseconds since the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The shard's clock. Shard-local.
#[derive(Clone)]
pub struct Clock {
    source: ClockSource,
}

#[derive(Clone)]
enum ClockSource {
    Real(Instant),
    Sim { executor: Rc<Executor>, node: u32 },
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "this is the real clock")]
    pub(super) fn real() -> Self {
        Self { source: ClockSource::Real(Instant::now()) }
    }

    pub(super) fn sim(executor: Rc<Executor>, node: u32) -> Self {
        Self { source: ClockSource::Sim { executor, node } }
    }

    /// The current time, for durations and deadlines.
    #[must_use]
    pub fn now(&self) -> Mono {
        match &self.source {
            ClockSource::Real(start) => Mono::ZERO + start.elapsed(),
            ClockSource::Sim { executor, node } => executor.now_of(*node),
        }
    }

    /// The current wall-clock time. May step backwards on a real machine.
    #[must_use]
    pub fn wall(&self) -> TimestampMs {
        match &self.source {
            ClockSource::Real(_) => wall(),
            ClockSource::Sim { executor, node } => executor.wall_of(*node),
        }
    }
}

/// The machine's wall clock, for code without an `Env`: clients and the side runtime.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the real clock")]
pub fn wall() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("now", &self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_add_and_subtract_without_wrapping() {
        let later = Mono::ZERO + Duration::from_millis(3);
        assert_eq!(later.since(Mono::ZERO), Duration::from_millis(3));
        assert_eq!(Mono::ZERO.since(later), Duration::ZERO);
        assert_eq!(Mono::from_nanos(u64::MAX) + Duration::from_secs(1), Mono::from_nanos(u64::MAX));
    }
}
