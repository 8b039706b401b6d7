//! Wake-ups within a shard: one-shot signals for readers that wait, a bell for a task that works. Shard-local.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use tidewater_storage::model::Offset;

/// Rung any number of times, heard once by the one task that listens.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    /// Wakes the listener, or lets its next wait return at once.
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits for a ring since the last wait.
    pub async fn heard(&self) {
        poll_fn(|cx| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Readers that stand at a partition's end. A reader that went away is forgotten at the next look.
#[derive(Debug, Default)]
pub struct Waiters {
    waiting: RefCell<Vec<(Offset, Weak<Bell>)>>,
}

impl Waiters {
    /// Rings `bell` when there is data at or past `offset`.
    pub fn register(&self, offset: Offset, bell: &Rc<Bell>) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() % 64 == 63 {
            waiting.retain(|(_, bell)| bell.strong_count() > 0);
        }
        waiting.push((offset, Rc::downgrade(bell)));
    }

    /// The partition now ends at `end`.
    pub fn reached(&self, end: Offset) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        waiting.retain(|(offset, bell)| match bell.upgrade() {
            None => false,
            Some(bell) if *offset < end => {
                bell.ring();
                false
            }
            Some(_) => true,
        });
    }

    /// The partition is gone: everyone looks again.
    pub fn gone(&self) {
        for (_, bell) in self.waiting.borrow_mut().drain(..) {
            if let Some(bell) = bell.upgrade() {
                bell.ring();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_heard() {
        let bell = Bell::default();
        bell.ring();
        assert!(bell.heard().now_or_never().is_some());
        assert!(bell.heard().now_or_never().is_none());
    }

    #[test]
    fn waiters_hear_only_of_their_offset() {
        let (waiters, near, far) = (Waiters::default(), Rc::new(Bell::default()), Rc::new(Bell::default()));
        waiters.register(Offset::new(5), &near);
        waiters.register(Offset::new(9), &far);
        waiters.reached(Offset::new(6));
        assert!(near.heard().now_or_never().is_some());
        assert!(far.heard().now_or_never().is_none());
        drop(far);
        waiters.reached(Offset::new(6));
        assert!(waiters.waiting.borrow().is_empty());
    }
}
