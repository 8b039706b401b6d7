//! A channel for one value within a shard: one allocation, no atomics.
//!
//! Affinity: shard-local.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The sender was dropped without sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sender of a one-shot channel was dropped without a value")]
pub(crate) struct SenderGone;

struct Shared<T> {
    value: RefCell<Option<T>>,
    waiter: RefCell<Option<Waker>>,
    sender_alive: Cell<bool>,
    receiver_alive: Cell<bool>,
}

/// Sends the value.
pub(crate) struct Sender<T> {
    shared: Rc<Shared<T>>,
}

/// Resolves to the value.
pub(crate) struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

/// A new channel.
pub(super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(None),
        waiter: RefCell::new(None),
        sender_alive: Cell::new(true),
        receiver_alive: Cell::new(true),
    });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

impl<T> Sender<T> {
    /// Gives the value to the receiver, or back when there is none.
    pub(super) fn give(self, value: T) -> Result<(), T> {
        if !self.shared.receiver_alive.get() {
            return Err(value);
        }
        self.shared.value.replace(Some(value));
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_alive.set(false);
        if let Some(waiter) = self.shared.waiter.take() {
            waiter.wake();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_alive.set(false);
        let unread = self.shared.value.take();
        drop(unread);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, SenderGone>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(value) = self.shared.value.take() {
            return Poll::Ready(Ok(value));
        }
        if !self.shared.sender_alive.get() {
            return Poll::Ready(Err(SenderGone));
        }
        self.shared.waiter.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// openraft's view of it.
#[derive(Debug)]
pub(crate) struct ShardOneshot;

impl openraft_rt::Oneshot for ShardOneshot {
    type Sender<T: openraft_rt::OptionalSend> = Sender<T>;
    type Receiver<T: openraft_rt::OptionalSend> = Receiver<T>;
    type ReceiverError = SenderGone;

    fn channel<T: openraft_rt::OptionalSend>() -> (Sender<T>, Receiver<T>) {
        channel()
    }
}

impl<T: openraft_rt::OptionalSend> openraft_rt::OneshotSender<T> for Sender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.give(value)
    }
}
