//! What a shard knows of each of its connections, to close it from outside. Shard-local.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use tidewater_storage::env::Mono;

/// Shared by the connection and its server.
#[derive(Debug)]
pub struct Handle {
    /// Last byte moved or answer made.
    pub active: Cell<Mono>,
    /// Is a request being worked on?
    pub working: Cell<bool>,
    /// Is a request half received or a response half sent? Not while the shard's memory keeps it from being received.
    pub half_way: Cell<bool>,
    /// Since when a request is awaited that was let past the shard's spent memory.
    pub let_past: Cell<Option<Mono>>,
    /// Finish what is in work, then close.
    pub(super) stop: Cell<bool>,
    /// Close now.
    pub(super) kill: Cell<Option<Kill>>,
    waker: RefCell<Option<Waker>>,
}

/// Why the server closes a connection.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// See [`super::CloseReason::Idle`].
    Idle,
    /// See [`super::CloseReason::Stalled`].
    Stalled,
    /// See [`super::CloseReason::Stopping`].
    Stopping,
}

impl Handle {
    /// Of a connection that begins now.
    #[must_use]
    pub fn new(now: Mono) -> Rc<Self> {
        Rc::new(Self {
            active: Cell::new(now),
            working: Cell::new(false),
            half_way: Cell::new(false),
            let_past: Cell::new(None),
            stop: Cell::new(false),
            kill: Cell::new(None),
            waker: RefCell::new(None),
        })
    }

    /// Lets it finish its requests and close.
    pub fn stop(&self) {
        self.stop.set(true);
        self.wake();
    }

    /// Closes it at once.
    pub fn kill(&self, why: Kill) {
        self.kill.set(Some(why));
        self.wake();
    }

    /// Has `cx` woken by [`Handle::stop`] and [`Handle::kill`].
    pub(super) fn wakes(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|held| held.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
