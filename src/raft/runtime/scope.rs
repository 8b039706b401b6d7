//! Which [`Env`] openraft's code runs on.
//!
//! openraft asks its runtime for time, tasks and randomness through functions without a receiver, so this is the
//! tree's only thread-local. On a broker it holds the shard's `Env`; in a simulated world, where one thread is many
//! nodes, every task and every call into a group carries the `Env` of its node and puts it in place while it runs.
//! Nothing outside `raft` reads it.
//!
//! Affinity: shard-local.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tidewater_storage::env::Env;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Env>>> = const { RefCell::new(None) };
}

/// Sets the current `Env` and restores the one before when dropped, also after a panic.
struct Entered<'a> {
    place: &'a mut Option<Rc<Env>>,
    before: Option<Rc<Env>>,
}

impl<'a> Entered<'a> {
    fn new(place: &'a mut Option<Rc<Env>>) -> Self {
        let before = CURRENT.with_borrow_mut(|current| std::mem::replace(current, place.take()));
        Self { place, before }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.place = CURRENT.with_borrow_mut(|current| std::mem::replace(current, self.before.take()));
    }
}

/// The `Env` of the code that is running.
///
/// Outside a scope there is none: a bug of this module, not an outcome.
pub(crate) fn current() -> Rc<Env> {
    match CURRENT.with_borrow(Clone::clone) {
        Some(env) => env,
        None => unreachable!("raft code runs outside a scope: wrap the future in scope::scoped"),
    }
}

/// Runs `call` with `env` in place.
#[cfg(test)]
pub(crate) fn enter<T>(env: &Rc<Env>, call: impl FnOnce() -> T) -> T {
    let mut place = Some(env.clone());
    let entered = Entered::new(&mut place);
    let value = call();
    drop(entered);
    value
}

/// Polls `future` with `env` in place.
pub(crate) fn scoped<F: Future>(env: Rc<Env>, future: F) -> Scoped<F> {
    Scoped { env: Some(env), future }
}

pin_project! {
    /// A future that always runs on the same `Env`.
    pub(crate) struct Scoped<F> {
        env: Option<Rc<Env>>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _entered = Entered::new(this.env);
        this.future.poll(cx)
    }
}
