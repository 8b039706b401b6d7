//! A bound on bytes that several tasks share: those that do not fit wait, first come, first served. Shard-local.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use futures::channel::oneshot;

/// See the header. One that is larger than the bound fits when nothing else is there.
#[derive(Debug)]
pub(super) struct Room {
    max: usize,
    used: Cell<usize>,
    waiting: RefCell<VecDeque<(usize, oneshot::Sender<Share>)>>,
}

/// A part of the bound, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Rc<Room>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { max, used: Cell::new(0), waiting: RefCell::default() })
    }

    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    fn fits(&self, bytes: usize) -> bool {
        self.used.get() == 0 || self.used.get().saturating_add(bytes) <= self.max
    }

    fn share(self: &Rc<Self>, bytes: usize) -> Share {
        self.used.set(self.used.get() + bytes);
        Share { room: Rc::clone(self), bytes }
    }

    /// At once, or `None` if it would have to wait.
    pub(super) fn try_take(self: &Rc<Self>, bytes: usize) -> Option<Share> {
        (self.waiting.borrow().is_empty() && self.fits(bytes)).then(|| self.share(bytes))
    }

    /// Waits until `bytes` fit.
    pub(super) async fn take(self: &Rc<Self>, bytes: usize) -> Share {
        if let Some(share) = self.try_take(bytes) {
            return share;
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back((bytes, sender));
        match receiver.await {
            Ok(share) => share,
            // The sender is dropped only with the room, which this future holds.
            Err(oneshot::Canceled) => std::future::pending().await,
        }
    }

    fn grant(self: &Rc<Self>) {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            match waiting.front() {
                Some((_, sender)) if sender.is_canceled() => drop(waiting.pop_front()),
                Some((bytes, _)) if self.fits(*bytes) => {
                    let Some((bytes, sender)) = waiting.pop_front() else { return };
                    drop(waiting);
                    // A share that is not received comes back by its drop.
                    drop(sender.send(self.share(bytes)));
                }
                _ => return,
            }
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let left = self.room.used.get().checked_sub(self.bytes);
        debug_assert!(left.is_some(), "more is given back than was taken");
        self.room.used.set(left.unwrap_or_default());
        self.room.grant();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn those_that_do_not_fit_wait_in_order_and_leave_no_trace_when_they_give_up() {
        let room = Room::new(10);
        let first = room.try_take(25).expect("alone");
        assert!(room.try_take(1).is_none());
        let (mut second, mut third) = (Box::pin(room.take(8)), Box::pin(room.take(3)));
        let mut fourth = Box::pin(room.take(1));
        for waits in [&mut second, &mut third, &mut fourth] {
            assert!(waits.now_or_never().is_none());
        }
        drop(first);
        let held = second.now_or_never().expect("fits");
        assert!(fourth.as_mut().now_or_never().is_none(), "behind the third");
        drop(third);
        assert!(fourth.as_mut().now_or_never().is_none(), "looked at when something is given back");
        drop(held);
        assert!(fourth.now_or_never().is_some());
        // A share that was granted to a task that has gone comes back.
        let all = room.try_take(10).expect("empty");
        let mut gone = Box::pin(room.take(10));
        assert!(gone.as_mut().now_or_never().is_none());
        drop(all);
        drop(gone);
        assert_eq!(room.used(), 0);
        assert!(room.try_take(10).is_some());
    }
}
