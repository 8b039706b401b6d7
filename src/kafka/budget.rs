//! Memory for requests and responses of one shard, as a number that is taken and given back. Shard-local.
//!
//! Charged by bytes really received or read, never by bytes announced. A connection that finds the budget spent stops
//! reading its socket, so that TCP pushes back on the client; nothing is refused.
//!
//! What is half received is no use to anyone, and only what is whole is worked on and given back: if the halves alone
//! spend the budget, those who ask first may go on past it, as many as fit in a room of their own, until they are done.

use std::cell::{Cell, RefCell, RefMut};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::limits::{DECODING_BYTES_MAX, FRAME_BYTES_MAX};

/// What may go on although the budget is spent. Each has a room of its own: one waits for the other, never both in
/// turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Past {
    /// A frame until it is whole: [`FRAME_BYTES_MAX`] together.
    Frame,
    /// A whole request that is decoded and answered: [`DECODING_BYTES_MAX`] together.
    Decoding,
}

impl Past {
    const fn room(self) -> usize {
        match self {
            Self::Frame => FRAME_BYTES_MAX,
            Self::Decoding => DECODING_BYTES_MAX,
        }
    }
}

/// The budget of a shard. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Budget {
    state: Rc<Spending>,
}

#[derive(Debug)]
struct Spending {
    used: Cell<usize>,
    max: usize,
    /// Taken of the rooms past a spent budget.
    past: [Cell<usize>; 2],
    waiters: RefCell<Vec<Waker>>,
    scratch: RefCell<Vec<u8>>,
}

/// Bytes taken; dropping gives them back and wakes who waits.
#[derive(Debug)]
pub struct Lease {
    state: Rc<Spending>,
    bytes: usize,
    pass: Option<Pass>,
}

/// A lease may hold up to `upto` bytes even beyond the budget; `taken` of the room for it is its own.
#[derive(Clone, Copy, Debug)]
struct Pass {
    past: Past,
    upto: usize,
    taken: usize,
}

impl Budget {
    /// Of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        let (waiters, scratch) = (RefCell::default(), RefCell::default());
        Self { state: Rc::new(Spending { used: Cell::new(0), max, past: Default::default(), waiters, scratch }) }
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
        Lease { state: Rc::clone(&self.state), bytes: 0, pass: None }
    }

    /// Takes `want` bytes or what is left of three quarters of the budget, but at least `floor`, even beyond it:
    /// everyone makes progress, and readers never take what producers need to send.
    #[must_use]
    pub fn up_to(&self, want: usize, floor: usize) -> Lease {
        let left = (self.state.max - self.state.max / 4).saturating_sub(self.used());
        let mut lease = self.empty();
        lease.set(want.min(left).max(floor.min(want)));
        lease
    }
}

impl Lease {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is the budget it belongs to used up?
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.state.used.get() >= self.state.max
    }

    /// Holds exactly `bytes` from now on, even beyond the budget.
    pub fn set(&mut self, bytes: usize) {
        let state = &self.state;
        state.used.set(state.used.get().saturating_sub(self.bytes).saturating_add(bytes));
        let shrunk = bytes < self.bytes;
        self.bytes = bytes;
        if shrunk && state.used.get() < state.max {
            state.wake();
        }
    }

    /// Does it go on past a spent budget?
    #[must_use]
    pub fn passes(&self) -> bool {
        self.pass.is_some()
    }

    /// Holds `bytes` from now on if that is no more than now or there is room, in the budget or `past` it; else waits
    /// for room. `whole` is what it will hold in the end.
    pub fn poll_set(&mut self, cx: &mut Context<'_>, bytes: usize, past: Past, whole: usize) -> Poll<()> {
        let more = bytes.saturating_sub(self.bytes);
        let spent = more > 0 && self.state.used.get().saturating_add(more) > self.state.max;
        if spent && !self.goes_past(past, whole.max(bytes)) {
            let mut waiters = self.state.waiters.borrow_mut();
            if !waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
                waiters.push(cx.waker().clone());
            }
            return Poll::Pending;
        }
        self.set(bytes);
        Poll::Ready(())
    }

    /// May it grow to `upto` bytes past a spent budget? The first may, and who comes while there is room.
    fn goes_past(&mut self, past: Past, upto: usize) -> bool {
        if let Some(pass) = self.pass {
            return upto <= pass.upto;
        }
        let (room, wanted) = (self.state.taken(past), upto.saturating_sub(self.bytes));
        if room.get() > 0 && room.get().saturating_add(wanted) > past.room() {
            return false;
        }
        room.set(room.get().saturating_add(wanted));
        self.pass = Some(Pass { past, upto, taken: wanted });
        true
    }

    /// Takes all of it out, leaving this lease empty.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { state: Rc::clone(&self.state), bytes: std::mem::take(&mut self.bytes), pass: self.pass.take() }
    }
}

impl Spending {
    fn taken(&self, past: Past) -> &Cell<usize> {
        let [frames, decoding] = &self.past;
        match past {
            Past::Frame => frames,
            Past::Decoding => decoding,
        }
    }

    fn wake(&self) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        waiters.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pass = self.pass.take();
        if let Some(pass) = pass {
            let room = self.state.taken(pass.past);
            room.set(room.get().saturating_sub(pass.taken));
        }
        self.set(0);
        if pass.is_some() {
            self.state.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker_ref;

    use super::*;

    fn cx() -> Context<'static> {
        Context::from_waker(noop_waker_ref())
    }

    fn takes(lease: &mut Lease, bytes: usize) -> bool {
        lease.poll_set(&mut cx(), bytes, Past::Frame, bytes).is_ready()
    }

    /// A lease that has the room past the budget to itself.
    fn ahead(budget: &Budget) -> Lease {
        let mut lease = budget.empty();
        assert!(lease.poll_set(&mut cx(), budget.state.max + 1, Past::Frame, FRAME_BYTES_MAX).is_ready());
        assert!(lease.passes());
        lease.set(0);
        lease
    }

    #[test]
    fn taken_is_given_back() {
        let budget = Budget::new(100);
        let _ahead = ahead(&budget);
        let mut one = budget.empty();
        assert!(takes(&mut one, 80));
        let mut two = budget.empty();
        assert!(!takes(&mut two, 30));
        assert_eq!(budget.up_to(50, 10).bytes(), 10, "a quarter is for requests");
        assert!(takes(&mut two, 20));
        two.set(0);
        let moved = one.take();
        drop(one);
        assert_eq!(budget.used(), 80);
        drop(moved);
        assert!(takes(&mut two, 30));
        assert_eq!(budget.used(), 30);
    }

    #[test]
    fn halves_that_spend_the_budget_become_whole_one_after_the_other() {
        const MIB: usize = 1 << 20;
        let budget = Budget::new(256 * MIB);
        let mut halves: Vec<Lease> = (0..3).map(|_| budget.empty()).collect();
        for half in &mut halves {
            assert!(half.poll_set(&mut cx(), 85 * MIB, Past::Frame, 100 * MIB).is_ready());
        }
        let grow = |half: &mut Lease, to: usize| half.poll_set(&mut cx(), to * MIB, Past::Frame, 100 * MIB).is_ready();
        let mut most = 0;
        while let Some(mut first) = halves.pop() {
            for to in 86..=100 {
                assert!(grow(&mut first, to), "{} others wait", halves.len());
                most = most.max(budget.used());
            }
            // It is whole, and what it holds goes with the request.
            let request = first.take();
            assert!(!first.passes());
            drop(first);
            drop(request);
        }
        assert!(most <= 256 * MIB + FRAME_BYTES_MAX, "{most} bytes");
        assert_eq!((budget.used(), budget.state.past[0].get()), (0, 0));
    }

    #[test]
    fn the_room_past_a_spent_budget_has_an_end_and_who_waits_for_it_is_woken() {
        let budget = Budget::new(100);
        let mut others = budget.empty();
        others.set(100);
        let mut first = budget.empty();
        assert!(first.poll_set(&mut cx(), 1, Past::Frame, FRAME_BYTES_MAX - 10).is_ready());
        let mut small = budget.empty();
        assert!(small.poll_set(&mut cx(), 1, Past::Frame, 10).is_ready(), "it fits beside the first");
        let mut next = budget.empty();
        assert!(next.poll_set(&mut cx(), 1, Past::Frame, 11).is_pending());
        let mut decoding = budget.empty();
        assert!(decoding.poll_set(&mut cx(), 1, Past::Decoding, 1).is_ready(), "a room of its own");
        drop(first.take());
        assert!(budget.state.waiters.borrow().is_empty(), "woken, although the budget is as spent as before");
        assert!(next.poll_set(&mut cx(), 1, Past::Frame, 11).is_ready());
    }
}
