//! A bell for one sleeper: rung from synchronous code, remembered until heard. Shard-local.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

#[derive(Debug, Default)]
pub(crate) struct Wake {
    rung: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
}

impl Wake {
    pub(crate) fn notify(&self) {
        if !self.rung.replace(true) {
            let sleeper = self.sleeper.borrow_mut().take();
            if let Some(sleeper) = sleeper {
                sleeper.wake();
            }
        }
    }

    /// Returns at once if it was rung since it was last heard.
    pub(crate) async fn heard(&self) {
        poll_fn(|cx| {
            if self.rung.replace(false) {
                return Poll::Ready(());
            }
            *self.sleeper.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
