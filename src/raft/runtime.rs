//! openraft's runtime over the shard's [`Env`](tidewater_storage::env::Env), real or simulated.
//!
//! Owns: nothing but the translation. Tasks, time and randomness come from the `Env` in [`scope`]; queues are tokio's.
//! [`watch`] is our own: tokio's wakes its waiters in an order drawn from its own random numbers, and a simulated run
//! would not repeat. A panic in a task ends the shard, so a join error is always a cancelled task.
//! Affinity: shard-local.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant as _, OptionalSend};
use tidewater_storage::env::sim::World;
use tidewater_storage::env::{Rng, Task};

pub(crate) mod mpsc;
pub(crate) mod oneshot;
pub(crate) mod scope;
#[cfg(test)]
mod tests;
pub(crate) mod time;
pub(crate) mod watch;

use time::{Elapsed, ShardInstant, ShardSleep, ShardTimeout};

/// The runtime. A value of it exists only in openraft's conformance suite, where it is a simulated world of its own.
pub(crate) struct ShardRuntime {
    runner: Runner,
}

enum Runner {
    World(World),
    #[cfg(test)]
    Machine,
}

impl Runner {
    fn new() -> Self {
        #[cfg(test)]
        if tests::on_the_machine() {
            return Self::Machine;
        }
        Self::World(World::new(0))
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        match self {
            Self::World(world) => world.block_on(scope::scoped(Rc::new(world.env()), future)),
            #[cfg(test)]
            Self::Machine => tests::run_on_the_machine(future),
        }
    }
}

impl std::fmt::Debug for ShardRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ShardRuntime")
    }
}

/// The task was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task was cancelled")]
pub(crate) struct Cancelled;

/// Waits for a task.
pub(crate) struct Joining<T>(Task<T>);

impl<T> Future for Joining<T> {
    type Output = Result<T, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|value| value.ok_or(Cancelled))
    }
}

/// The shard's random numbers under rand's trait.
pub(crate) struct ShardRng(Rng);

impl rand::TryRng for ShardRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.0.next_u64() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill(into);
        Ok(())
    }
}

/// The type of openraft that a task's future belongs to, without its parameters: a simulation's reports name tasks.
fn task_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    let name = name.strip_prefix("tracing::instrument::Instrumented<").unwrap_or(name);
    name.split('<').next().unwrap_or(name)
}

impl AsyncRuntime for ShardRuntime {
    type JoinError = Cancelled;
    type JoinHandle<T: OptionalSend + 'static> = Joining<T>;
    type Sleep = ShardSleep;
    type Instant = ShardInstant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = ShardTimeout<T>;
    type ThreadLocalRng = ShardRng;
    type Mpsc = mpsc::ShardMpsc;
    type Watch = watch::ShardWatch;
    type Oneshot = oneshot::ShardOneshot;
    type Mutex<T: OptionalSend + 'static> = ShardMutex<T>;

    fn spawn<T>(future: T) -> Joining<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let env = scope::current();
        let scoped = scope::scoped(env.clone(), future);
        Joining(env.tasks.spawn(task_name::<T>(), scoped))
    }

    fn sleep(duration: Duration) -> ShardSleep {
        ShardSleep::lasting(duration)
    }

    fn sleep_until(deadline: ShardInstant) -> ShardSleep {
        ShardSleep::until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> ShardTimeout<F> {
        ShardTimeout::new(ShardInstant::now() + duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: ShardInstant, future: F) -> ShardTimeout<F> {
        ShardTimeout::new(deadline, future)
    }

    fn is_panic(_: &Cancelled) -> bool {
        false
    }

    fn thread_rng() -> ShardRng {
        ShardRng(scope::current().rng.clone())
    }

    fn new(_threads: usize) -> Self {
        Self { runner: Runner::new() }
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.runner.block_on(future)
    }
}

pub(crate) struct ShardMutex<T>(futures::lock::Mutex<T>);

impl<T: OptionalSend + 'static> openraft_rt::Mutex<T> for ShardMutex<T> {
    type Guard<'a>
        = futures::lock::MutexGuard<'a, T>
    where
        Self: 'a;

    fn new(value: T) -> Self {
        Self(futures::lock::Mutex::new(value))
    }

    fn lock(&self) -> impl Future<Output = Self::Guard<'_>> {
        self.0.lock()
    }
}
