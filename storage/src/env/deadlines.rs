//! A queue of deadlines with one timer, for many waits of one kind on a shard. Shard-local.
//!
//! A timer per fetch would cost a kernel operation each and leak about 96 bytes when dropped early, as most are
//! (glommio 0.9). Here a wait that ends early only leaves the queue. Deadlines are rounded up to [`GRID`], so that many
//! consumers with the same wait cost one wake-up.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{Env, Mono};

/// The greatest delay after a deadline.
const GRID: Duration = Duration::from_millis(5);

/// See the header. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Deadlines {
    inner: Rc<DeadlineQueue>,
}

#[derive(Debug)]
struct DeadlineQueue {
    env: Env,
    /// By deadline (in [`GRID`]s, rounded up) and a number.
    waiting: RefCell<BTreeMap<(u64, u64), Option<Waker>>>,
    next: Cell<u64>,
    /// Deadlines (in [`GRID`]s) for which a timer runs; the nearest is the last.
    timers: RefCell<Vec<u64>>,
}

/// Resolves at its deadline.
#[derive(Debug)]
pub struct Until {
    inner: Rc<DeadlineQueue>,
    key: (u64, u64),
}

impl Deadlines {
    /// An empty queue.
    #[must_use]
    pub fn new(env: Env) -> Self {
        let inner = DeadlineQueue { env, waiting: RefCell::default(), next: Cell::new(0), timers: RefCell::default() };
        Self { inner: Rc::new(inner) }
    }

    /// Waits until `deadline`, and at most [`GRID`] longer.
    #[must_use]
    pub fn until(&self, deadline: Mono) -> Until {
        let inner = &self.inner;
        let cell = u64::try_from(deadline.since(Mono::ZERO).as_nanos().div_ceil(GRID.as_nanos())).unwrap_or(u64::MAX);
        let key = (cell, inner.next.replace(inner.next.get() + 1));
        inner.waiting.borrow_mut().insert(key, None);
        let mut timers = inner.timers.borrow_mut();
        if timers.last().is_none_or(|nearest| cell < *nearest) {
            timers.push(cell);
            drop(inner.env.tasks.spawn("deadlines", Rc::clone(inner).keep_time(cell)));
        }
        Until { inner: Rc::clone(inner), key }
    }
}

impl DeadlineQueue {
    /// Wakes the waits that are due, then continues with the next deadline unless a nearer timer runs.
    async fn keep_time(self: Rc<Self>, mut cell: u64) {
        loop {
            let nanos = cell.saturating_mul(u64::try_from(GRID.as_nanos()).unwrap_or(1));
            self.env.tasks.sleep_until(Mono::from_nanos(nanos)).await;
            self.timers.borrow_mut().retain(|timer| *timer != cell);
            let mut waiting = self.waiting.borrow_mut();
            let later = waiting.split_off(&(cell + 1, 0));
            let due = std::mem::replace(&mut *waiting, later);
            let after = waiting.first_key_value().map(|((next, _), _)| *next);
            drop(waiting);
            due.into_values().flatten().for_each(Waker::wake);
            let mut timers = self.timers.borrow_mut();
            match after {
                Some(next) if timers.last().is_none_or(|nearest| next < *nearest) => {
                    timers.push(next);
                    cell = next;
                }
                _ => return,
            }
        }
    }
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.inner.waiting.borrow_mut().get_mut(&self.key) {
            // Removed from the queue: the deadline has passed.
            None => Poll::Ready(()),
            Some(Some(waker)) if waker.will_wake(cx.waker()) => Poll::Pending,
            Some(place) => {
                *place = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        self.inner.waiting.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use crate::env::sim::World;
    use futures::FutureExt;
    use futures::future::join_all;

    use super::*;

    #[test]
    fn each_is_woken_at_its_deadline_in_any_order() {
        let world = World::new(1);
        let env = world.env();
        let deadlines = Deadlines::new(env.clone());
        let (start, clock) = (env.clock.now(), env.clock.clone());
        let late = world.block_on(async move {
            let waits = [40u64, 500, 7, 300, 500, 20].map(|ms| {
                let deadline = start + Duration::from_millis(ms);
                let (until, clock) = (deadlines.until(deadline), clock.clone());
                until.map(move |()| clock.now().since(deadline))
            });
            // Dropped ones leave nothing behind.
            drop(deadlines.until(start + Duration::from_millis(1)));
            let late = join_all(waits).await;
            assert!(deadlines.inner.waiting.borrow().is_empty());
            deadlines.until(clock.now()).await;
            late
        });
        assert!(late.iter().all(|late| *late <= GRID), "{late:?}");
    }
}
