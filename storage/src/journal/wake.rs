//! A flag that tasks of one shard wait for.
//!
//! Owns: the waiting side of the journal's two tasks. A wake while nobody waits is remembered once. Shard-local.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

#[derive(Default)]
pub(super) struct Wake {
    raised: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Wake {
    /// Raises the flag and wakes who waits.
    pub(super) fn raise(&self) {
        self.raised.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Waits for the flag and lowers it. One task at a time.
    pub(super) async fn wait(&self) {
        poll_fn(|cx| {
            if self.raised.replace(false) {
                return Poll::Ready(());
            }
            self.waiter.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
