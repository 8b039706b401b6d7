//! Time as openraft sees it: an instant over the shard's clock, sleeps on a grid, timeouts.
//!
//! Every wake-up of an idle executor costs about 20 µs, so deadlines are rounded up to a common 20 ms grid: the ticks
//! of many groups then share one. openraft's I/O forwarder sleeps for one *microsecond* to batch completions; a sleep
//! that short gives way once to the other tasks and arms no timer. A wait for a moment never ends before that moment,
//! however near it is: openraft's ticks compute the next moment from the clock, and would otherwise wait again for the
//! one that is still to come. Affinity: shard-local.

use std::cell::Cell;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tidewater_storage::env::{self, Mono};

use super::scope;

/// Deadlines are rounded up to multiples of this many nanoseconds.
pub(super) const GRID_NS: u64 = 20_000_000;
/// Sleeps shorter than this only give way.
const GIVE_WAY_BELOW: Duration = Duration::from_micros(10);
/// What the clock's start counts as here, so that subtracting from an early instant does not reach below zero: a year.
const START_NS: u64 = 365 * 24 * 3600 * 1_000_000_000;

/// A moment of the shard's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShardInstant(u64);

impl ShardInstant {
    pub(crate) fn mono(self) -> Mono {
        Mono::from_nanos(self.0.saturating_sub(START_NS))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for ShardInstant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

impl Sub<Duration> for ShardInstant {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(by)))
    }
}

impl Sub for ShardInstant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl AddAssign<Duration> for ShardInstant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl SubAssign<Duration> for ShardInstant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl openraft_rt::Instant for ShardInstant {
    fn now() -> Self {
        Self(START_NS.saturating_add(scope::current().clock.now().nanos()))
    }
}

/// The grid point at or after a moment.
fn on_grid(at: Mono) -> Mono {
    Mono::from_nanos(at.nanos().div_ceil(GRID_NS).saturating_mul(GRID_NS))
}

/// A sleep of openraft's.
pub(crate) struct ShardSleep {
    wait: Wait,
}

enum Wait {
    GiveWay,
    Done,
    Timer(env::Sleep),
}

impl ShardSleep {
    /// Ends at or after `deadline`; gives way once if it has passed.
    pub(super) fn until(deadline: ShardInstant) -> Self {
        let env = scope::current();
        let deadline = deadline.mono();
        let wait = if deadline <= env.clock.now() {
            Wait::GiveWay
        } else {
            Wait::Timer(env.tasks.sleep_until(on_grid(deadline)))
        };
        Self { wait }
    }

    pub(super) fn lasting(duration: Duration) -> Self {
        if duration < GIVE_WAY_BELOW {
            return Self { wait: Wait::GiveWay };
        }
        Self::until(<ShardInstant as openraft_rt::Instant>::now() + duration)
    }
}

impl Future for ShardSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.wait {
            Wait::GiveWay => {
                self.wait = Wait::Done;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Wait::Done => Poll::Ready(()),
            Wait::Timer(sleep) => Pin::new(sleep).poll(cx),
        }
    }
}

thread_local! {
    /// What the future that is being polled asked for with [`hold_timeout`].
    static HELD_UNTIL: Cell<Option<ShardInstant>> = const { Cell::new(None) };
}

/// Moves the deadline of the [`ShardTimeout`] that polls the caller: it ends no earlier than this long from now.
/// openraft gives a vote the shortest election timeout, and that is no measure for the voter's disk.
pub(crate) fn hold_timeout(time: Duration) {
    HELD_UNTIL.set(Some(<ShardInstant as openraft_rt::Instant>::now() + time));
}

/// The deadline passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline has elapsed")]
pub(crate) struct Elapsed;

pin_project! {
    /// A future with a deadline. The timer is armed only when the future is not ready at once.
    pub(crate) struct ShardTimeout<F> {
        #[pin]
        future: F,
        deadline: ShardInstant,
        sleep: Option<ShardSleep>,
    }
}

impl<F> ShardTimeout<F> {
    pub(super) fn new(deadline: ShardInstant, future: F) -> Self {
        Self { future, deadline, sleep: None }
    }
}

impl<F: Future> Future for ShardTimeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let outer = HELD_UNTIL.take();
        let polled = this.future.poll(cx);
        let held = HELD_UNTIL.replace(outer);
        if let Poll::Ready(value) = polled {
            return Poll::Ready(Ok(value));
        }
        if let Some(held) = held.filter(|held| held > this.deadline) {
            *this.deadline = held;
            *this.sleep = None;
        }
        let deadline = *this.deadline;
        let sleep = this.sleep.get_or_insert_with(|| ShardSleep::until(deadline));
        Pin::new(sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_rounded_up_to_the_grid() {
        assert_eq!(on_grid(Mono::from_nanos(0)), Mono::from_nanos(0));
        assert_eq!(on_grid(Mono::from_nanos(1)), Mono::from_nanos(GRID_NS));
        assert_eq!(on_grid(Mono::from_nanos(GRID_NS)), Mono::from_nanos(GRID_NS));
        assert_eq!(on_grid(Mono::from_nanos(GRID_NS + 1)), Mono::from_nanos(2 * GRID_NS));
    }
}
