//! Memory for requests and responses of one shard, as a number that is taken and given back. Shard-local.
//!
//! Charged by bytes really received or read, never by bytes announced. A connection that finds the budget spent stops
//! reading its socket, so that TCP pushes back on the client; nothing is refused.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The budget of a shard. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    state: Rc<State>,
}

#[derive(Debug)]
struct State {
    used: Cell<usize>,
    max: usize,
    waiters: RefCell<Vec<Waker>>,
    scratch: RefCell<Vec<u8>>,
}

/// Bytes taken; dropping gives them back and wakes who waits.
#[derive(Debug)]
pub struct Lease {
    state: Rc<State>,
    bytes: usize,
}

impl Budget {
    /// Of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let (waiters, scratch) = (RefCell::default(), RefCell::default());
        Self { state: Rc::new(State { used: Cell::new(0), max, waiters, scratch }) }
    }

    /// Memory of `len` bytes that the shard's connections read through, one after the other: it stays in the cache.
    #[must_use]
    pub fn scratch(&self, len: usize) -> RefMut<'_, [u8]> {
        RefMut::map(self.state.scratch.borrow_mut(), |scratch| {
            if scratch.len() < len {
                scratch.resize(len, 0);
            }
            scratch.get_mut(..len).unwrap_or_default()
        })
    }

    /// Bytes taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state.used.get()
    }

    /// An empty lease, to be grown.
    #[must_use]
    pub fn empty(&self) -> Lease {
        Lease { state: Rc::clone(&self.state), bytes: 0 }
    }

    /// Takes `want` bytes or what is left of three quarters of the budget, but at least `floor`, even beyond it: everyone
    /// makes progress, and readers never take what producers need to send.
    #[must_use]
    pub fn up_to(&self, want: usize, floor: usize) -> Lease {
        let left = (self.state.max - self.state.max / 4).saturating_sub(self.used());
        let mut lease = self.empty();
        lease.set(want.min(left).max(floor.min(want)));
        lease
    }
}

impl Lease {
    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is the budget it belongs to used up?
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.state.used.get() >= self.state.max
    }

    /// Holds exactly `bytes` from now on, whatever the budget says.
    pub fn set(&mut self, bytes: usize) {
        let state = &self.state;
        state.used.set(state.used.get().saturating_sub(self.bytes).saturating_add(bytes));
        let shrunk = bytes < self.bytes;
        self.bytes = bytes;
        if shrunk {
            state.wake();
        }
    }

    /// Holds `bytes` from now on if that is no more than now or the budget has room; else waits for room.
    pub fn poll_set(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && self.state.used.get().saturating_add(more) > self.state.max {
            let mut waiters = self.state.waiters.borrow_mut();
            if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
                waiters.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        self.set(bytes);
        Poll::Ready(())
    }

    /// Takes all of it out, leaving this lease empty.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { state: Rc::clone(&self.state), bytes: std::mem::take(&mut self.bytes) }
    }
}

impl State {
    fn wake(&self) {
        if self.used.get() < self.max {
            let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
            waiters.into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    #[test]
    fn taken_is_given_back() {
        let mut cx = Context::from_waker(noop_waker_ref());
        let budget = Budget::new(100);
        let mut one = budget.empty();
        assert!(one.poll_set(&mut cx, 80).is_ready());
        let mut two = budget.empty();
        assert!(two.poll_set(&mut cx, 30).is_pending());
        assert_eq!(budget.up_to(50, 10).bytes(), 10, "a quarter is for requests");
        assert!(two.poll_set(&mut cx, 20).is_ready());
        two.set(0);
        let moved = one.take();
        drop(one);
        assert_eq!(budget.used(), 80);
        drop(moved);
        assert!(two.poll_set(&mut cx, 30).is_ready());
        assert_eq!(budget.used(), 30);
    }
}
