//! A deterministic single-thread executor with virtual time.
//!
//! Owns: tasks in groups (a group is one incarnation of one simulated node), the order in which they run, the timers,
//! the clocks. The seed decides which ready task runs next; when none is ready, the clock jumps to the next timer;
//! without a timer the world is deadlocked, and it panics with the names of the waiting tasks. Does not own: the disk.
//! Only tests and the simulator run it.
//!
//! Affinity: shard-local (one thread is the whole world).
#![allow(clippy::panic, reason = "a deadlock in a simulation is a failed test")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use super::clock::Mono;
use super::rng::Rng;
use crate::model::TimestampMs;

/// Wall clock at virtual time zero: 2026-01-01T00:00:00Z.
const WALL_START_MS: i64 = 1_767_225_600_000;

/// Tasks that are killed together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group(pub(crate) u64);

impl Group {
    /// A group's number is the node's id, shifted, plus the incarnation.
    const fn is_of_node_0(self) -> bool {
        self.0 >> 32 == 0
    }
}

type TaskId = u64;
const MAIN: TaskId = 0;

type ReadyQueue = Arc<Mutex<Vec<TaskId>>>;

struct WakeTask {
    id: TaskId,
    ready: ReadyQueue,
}

impl Wake for WakeTask {
    fn wake(self: Arc<Self>) {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.contains(&self.id) {
            ready.push(self.id);
        }
    }
}

struct TaskSlot {
    group: Group,
    name: &'static str,
    waker: Waker,
    /// `None` while it is being polled.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// The executor: one per world.
pub(crate) struct Executor {
    rng: Rng,
    now: Cell<Mono>,
    next_id: Cell<u64>,
    ready: ReadyQueue,
    tasks: RefCell<BTreeMap<TaskId, TaskSlot>>,
    timers: RefCell<BTreeMap<(Mono, u64), Waker>>,
    wall_step_ms: Cell<i64>,
    /// Polls of tasks of node 0 so far.
    polls: Cell<u64>,
    /// The poll after which node 0 stops; 0: never.
    halt_at: Cell<u64>,
    /// Node 0 has stopped.
    halted: Cell<bool>,
    halt_waiter: RefCell<Option<Waker>>,
}

impl Executor {
    pub(crate) fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            rng: Rng::seeded(seed),
            now: Cell::new(Mono::ZERO),
            next_id: Cell::new(MAIN + 1),
            ready: ReadyQueue::default(),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            wall_step_ms: Cell::new(0),
            polls: Cell::new(0),
            halt_at: Cell::new(0),
            halted: Cell::new(false),
            halt_waiter: RefCell::default(),
        })
    }

    pub(crate) fn now(&self) -> Mono {
        self.now.get()
    }

    pub(crate) fn wall(&self) -> TimestampMs {
        let since = i64::try_from(self.now().nanos() / 1_000_000).unwrap_or(i64::MAX);
        TimestampMs(WALL_START_MS).plus_ms(since.saturating_add(self.wall_step_ms.get()))
    }

    pub(crate) fn step_wall(&self, ms: i64) {
        self.wall_step_ms.set(self.wall_step_ms.get().saturating_add(ms));
    }

    pub(crate) fn polls(&self) -> u64 {
        self.polls.get()
    }

    pub(crate) fn halt_at(&self, polls: u64) {
        self.halt_at.set(polls);
    }

    pub(crate) fn poll_halted(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.halted.get() {
            return Poll::Ready(());
        }
        *self.halt_waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Counts a poll of a task of node 0, and stops the node if it is the ordered one.
    fn count_poll(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() == self.halt_at.get() {
            self.halted.set(true);
            if let Some(waiter) = self.halt_waiter.borrow_mut().take() {
                waiter.wake();
            }
        }
    }

    fn fresh_id(&self) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        id
    }

    fn waker(&self, id: TaskId) -> Waker {
        Waker::from(Arc::new(WakeTask { id, ready: self.ready.clone() }))
    }

    pub(crate) fn spawn<T: 'static>(
        self: &Rc<Self>,
        group: Group,
        name: &'static str,
        future: impl Future<Output = T> + 'static,
    ) -> SimTask<T> {
        let id = self.fresh_id();
        let join = Rc::new(RefCell::new(JoinState { value: None, ended: false, waiter: None }));
        let ended = EndOnDrop(join.clone());
        let body = async move {
            let value = future.await;
            ended.0.borrow_mut().value = Some(value);
        };
        let waker = self.waker(id);
        waker.wake_by_ref();
        self.tasks.borrow_mut().insert(id, TaskSlot { group, name, waker, future: Some(Box::pin(body)) });
        SimTask { executor: self.clone(), id, join }
    }

    pub(crate) fn sleep_until(self: &Rc<Self>, deadline: Mono) -> SimSleep {
        SimSleep { executor: self.clone(), key: (deadline, self.fresh_id()), armed: false }
    }

    /// Runs everything until `main` is done.
    pub(crate) fn block_on<T>(&self, main: impl Future<Output = T>) -> T {
        let mut main = pin!(main);
        let main_waker = self.waker(MAIN);
        main_waker.wake_by_ref();
        loop {
            match self.next_ready() {
                Some(MAIN) => {
                    if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&main_waker)) {
                        return value;
                    }
                }
                Some(id) => self.run(id),
                None => self.advance(),
            }
        }
    }

    fn next_ready(&self) -> Option<TaskId> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let pick = usize::try_from(self.rng.below(ready.len() as u64)).unwrap_or(0);
        (!ready.is_empty()).then(|| ready.swap_remove(pick))
    }

    fn run(&self, id: TaskId) {
        let taken = self.tasks.borrow_mut().get_mut(&id).and_then(|slot| {
            let stands = self.halted.get() && slot.group.is_of_node_0();
            if stands { None } else { Some((slot.future.take()?, slot.waker.clone(), slot.group)) }
        });
        let Some((mut future, waker, group)) = taken else { return };
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if group.is_of_node_0() {
            self.count_poll();
        }
        if done {
            self.tasks.borrow_mut().remove(&id);
        }
        // Put it back unless it was cancelled meanwhile; a future is dropped while nothing is borrowed.
        let dropped = match self.tasks.borrow_mut().get_mut(&id) {
            Some(slot) => {
                slot.future = Some(future);
                None
            }
            None => Some(future),
        };
        drop(dropped);
    }

    fn advance(&self) {
        let Some(((at, _), waker)) = self.timers.borrow_mut().pop_first() else {
            let waiting: Vec<_> = self.tasks.borrow().values().map(|slot| slot.name).collect();
            panic!("simulated world is deadlocked: nothing is ready, no timer is set, tasks waiting: {waiting:?}");
        };
        self.now.set(self.now().max(at));
        waker.wake();
    }

    fn remove(&self, id: TaskId) {
        let slot = self.tasks.borrow_mut().remove(&id);
        drop(slot);
    }

    /// Drops every task of a group, as a killed process would.
    pub(crate) fn kill(&self, group: Group) {
        if group.is_of_node_0() {
            self.halted.set(false);
        }
        loop {
            let id = self.tasks.borrow().iter().find(|(_, slot)| slot.group == group).map(|(id, _)| *id);
            match id {
                Some(id) => self.remove(id),
                None => return,
            }
        }
    }

    /// Drops every task and timer.
    pub(crate) fn dissolve(&self) {
        loop {
            let id = self.tasks.borrow().keys().next().copied();
            match id {
                Some(id) => self.remove(id),
                None => break,
            }
        }
        drop(self.timers.take());
    }

    /// Number of tasks in a group.
    pub(crate) fn alive(&self, group: Group) -> usize {
        self.tasks.borrow().values().filter(|slot| slot.group == group).count()
    }
}

struct JoinState<T> {
    value: Option<T>,
    ended: bool,
    waiter: Option<Waker>,
}

/// Part of the task's future: dropped with it, whether it finished or was killed.
struct EndOnDrop<T>(Rc<RefCell<JoinState<T>>>);

impl<T> Drop for EndOnDrop<T> {
    fn drop(&mut self) {
        let waiter = {
            let mut join = self.0.borrow_mut();
            join.ended = true;
            join.waiter.take()
        };
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

/// The join side of a simulated task.
pub(crate) struct SimTask<T> {
    executor: Rc<Executor>,
    id: TaskId,
    join: Rc<RefCell<JoinState<T>>>,
}

impl<T> SimTask<T> {
    pub(crate) fn cancel(&self) {
        self.executor.remove(self.id);
    }

    pub(crate) fn poll_join(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut join = self.join.borrow_mut();
        if join.ended {
            return Poll::Ready(join.value.take());
        }
        join.waiter = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A virtual timer.
pub(crate) struct SimSleep {
    executor: Rc<Executor>,
    key: (Mono, u64),
    armed: bool,
}

impl SimSleep {
    pub(crate) fn poll_sleep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.executor.now() >= self.key.0 {
            self.disarm();
            return Poll::Ready(());
        }
        self.executor.timers.borrow_mut().insert(self.key, cx.waker().clone());
        self.armed = true;
        Poll::Pending
    }

    fn disarm(&mut self) {
        if self.armed {
            self.executor.timers.borrow_mut().remove(&self.key);
            self.armed = false;
        }
    }
}

impl Drop for SimSleep {
    fn drop(&mut self) {
        self.disarm();
    }
}
