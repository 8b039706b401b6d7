//! Concurrency: spawn, sleep, yield.
//!
//! Owns: tasks and timers of one executor. A task continues when its [`Task`] is dropped; only [`Task::cancel`] ends it
//! early. On the real executor a cancelled task leaks about 64 bytes (glommio 0.9), so no request's task is cancelled.
//! Affinity: shard-local.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::clock::Mono;
use super::executor_sim::{Executor, Group, SimSleep, SimTask};

/// Starts tasks and timers. Shard-local.
#[derive(Clone)]
pub struct Tasks {
    on: Backend,
}

#[derive(Clone)]
enum Backend {
    Glommio { started: std::time::Instant },
    Sim { executor: Rc<Executor>, group: Group },
}

impl Tasks {
    #[allow(clippy::disallowed_methods, reason = "the clock of the real executor")]
    pub(super) fn real() -> Self {
        Self { on: Backend::Glommio { started: std::time::Instant::now() } }
    }

    pub(super) fn sim(executor: Rc<Executor>, group: Group) -> Self {
        Self { on: Backend::Sim { executor, group } }
    }

    /// Starts `future` on this executor. `name` identifies it in a simulation's report of a deadlock.
    pub fn spawn<T: 'static>(&self, name: &'static str, future: impl Future<Output = T> + 'static) -> Task<T> {
        match &self.on {
            Backend::Glommio { .. } => {
                // glommio 0.9 polls a spawned task at once, while the caller may hold borrows; the simulation does not.
                // With the pause, both poll it later.
                let later = async move {
                    pause().await;
                    future.await
                };
                Task { kind: TaskKind::Glommio(glommio::spawn_local(later).detach()) }
            }
            Backend::Sim { executor, group } => Task { kind: TaskKind::Sim(executor.spawn(*group, name, future)) },
        }
    }

    /// Waits for `time`. A dropped real timer leaks about 96 bytes (glommio 0.9): do not make one per request.
    #[must_use]
    pub fn sleep(&self, time: Duration) -> Sleep {
        match &self.on {
            Backend::Glommio { .. } => Sleep { kind: SleepKind::Glommio(glommio::timer::Timer::new(time)) },
            Backend::Sim { executor, group } => Sleep { kind: SleepKind::Sim(executor.sleep_of(group.node, time)) },
        }
    }

    /// Waits until the clock of the same `Env` reaches `deadline`.
    #[must_use]
    pub fn sleep_until(&self, deadline: Mono) -> Sleep {
        match &self.on {
            Backend::Glommio { started } => self.sleep(deadline.since(Mono::ZERO + started.elapsed())),
            Backend::Sim { executor, group } => {
                Sleep { kind: SleepKind::Sim(executor.sleep_until_of(group.node, deadline)) }
            }
        }
    }

    /// Lets other ready tasks run first.
    pub async fn yield_now(&self) {
        pause().await;
    }
}

/// Pending once.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|cx| {
        if paused {
            return Poll::Ready(());
        }
        paused = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

/// A started task: awaiting it returns its result, or `None` if it was cancelled. If dropped, the task continues.
pub struct Task<T> {
    kind: TaskKind<T>,
}

enum TaskKind<T> {
    Glommio(glommio::task::JoinHandle<T>),
    Sim(SimTask<T>),
}

impl<T> Task<T> {
    /// Ends the task at its next await; no effect if it has finished.
    pub fn cancel(&self) {
        match &self.kind {
            TaskKind::Glommio(handle) => handle.cancel(),
            TaskKind::Sim(task) => task.cancel(),
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match &mut self.kind {
            TaskKind::Glommio(handle) => Pin::new(handle).poll(cx),
            TaskKind::Sim(task) => task.poll_join(cx),
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

/// A timer that resolves once.
pub struct Sleep {
    kind: SleepKind,
}

enum SleepKind {
    Glommio(glommio::timer::Timer),
    Sim(SimSleep),
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            SleepKind::Glommio(timer) => Pin::new(timer).poll(cx).map(|_| ()),
            SleepKind::Sim(sleep) => sleep.poll_sleep(cx),
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sleep")
    }
}
