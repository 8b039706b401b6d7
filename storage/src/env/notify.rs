//! A wake-up for one waiting task. Shard-local.
//!
//! A notification that arrives while no task waits is remembered; several are remembered as one. So a task that takes
//! all queued work after each [`Notify::notified`] misses none of it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Any number of notifiers, one waiting task at a time.
#[derive(Debug, Default)]
pub struct Notify {
    pending: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Notify {
    /// Wakes the waiting task, or lets the next wait return at once.
    pub fn notify(&self) {
        self.pending.set(true);
        let waiter = self.waiter.borrow_mut().take();
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }

    /// Returns once there was a notification since the last return.
    pub async fn notified(&self) {
        poll_fn(|cx| {
            if self.pending.replace(false) {
                return Poll::Ready(());
            }
            self.waiter.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_notification_before_the_wait_counts_once() {
        let notify = Notify::default();
        assert!(notify.notified().now_or_never().is_none());
        notify.notify();
        notify.notify();
        assert!(notify.notified().now_or_never().is_some());
        assert!(notify.notified().now_or_never().is_none());
    }
}
