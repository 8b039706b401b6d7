//! A deterministic single-thread executor with virtual time.
//!
//! Owns: tasks in groups (a group is one incarnation of one simulated node), the order in which they run, the timers,
//! the clocks: one virtual time, and for each node a clock that drifts from it and a wall clock that steps. A node that
//! is stopped runs no task until it continues; its timers ring meanwhile, as under SIGSTOP. The seed decides which
//! ready task runs next; when none is ready, the clock jumps to the next timer; without a timer the world is
//! deadlocked, and it panics with the names of the waiting tasks. Time passes: tasks that wake each other for ever at
//! one moment are a fault, and it panics with their names. Does not own: the disk. Only tests and the simulator run it.
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
use std::time::Duration;

use super::clock::Mono;
use super::rng::Rng;
use crate::model::TimestampMs;

/// Wall clock at virtual time zero: 2026-01-01T00:00:00Z.
const WALL_START_MS: i64 = 1_767_225_600_000;

/// Polls at one moment of virtual time after which the world is stuck. A start of a broker takes some thousands.
const POLLS_AT_A_MOMENT_MAX: u64 = 1_000_000;
/// The last of them, whose tasks the panic names.
const POLLS_NAMED: u64 = 10_000;

/// Tasks that are killed together: one incarnation of a node's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) node: u32,
    pub(crate) incarnation: u32,
}

const MILLION: i128 = 1_000_000;

/// A node's clocks, relative to virtual time.
#[derive(Clone, Copy, Debug, Default)]
struct NodeClock {
    /// Virtual time at which the drift was set, and the node's time then.
    set_at: Mono,
    local_then: Mono,
    /// Nanoseconds by which the node's clock gains on virtual time, per million.
    drift_ppm: i32,
    wall_step_ms: i64,
}

impl NodeClock {
    fn local(&self, now: Mono) -> Mono {
        if self.drift_ppm == 0 && self.set_at == self.local_then {
            return now;
        }
        let passed = i128::from(now.nanos()) - i128::from(self.set_at.nanos());
        let local = i128::from(self.local_then.nanos()) + passed + passed * i128::from(self.drift_ppm) / MILLION;
        Mono::from_nanos(u64::try_from(local).unwrap_or_default())
    }

    /// The first virtual time at which the node's clock has reached `local`.
    fn reaches(&self, local: Mono) -> Mono {
        if self.drift_ppm == 0 && self.set_at == self.local_then {
            return local;
        }
        let ahead = i128::from(local.nanos()) - i128::from(self.local_then.nanos());
        let rate = MILLION + i128::from(self.drift_ppm);
        let at = i128::from(self.set_at.nanos()) + (ahead * MILLION).div_euclid(rate) + 2;
        Mono::from_nanos(u64::try_from(at.max(0)).unwrap_or(u64::MAX))
    }
}

/// What the executor knows of one simulated node.
#[derive(Default)]
struct NodeState {
    clock: Cell<NodeClock>,
    /// Polls of its tasks so far, in all incarnations.
    polls: Cell<u64>,
    /// The poll after which it halts; 0: never.
    halt_at: Cell<u64>,
    halted: Cell<bool>,
    halt_waiter: RefCell<Option<Waker>>,
    stopped: Cell<bool>,
    /// Tasks that became ready while the node was stopped.
    deferred: RefCell<Vec<TaskId>>,
}

impl NodeState {
    /// Counts a poll of one of its tasks, and halts the node if it is the ordered one.
    fn count_poll(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() == self.halt_at.get() {
            self.halted.set(true);
            if let Some(waiter) = self.halt_waiter.borrow_mut().take() {
                waiter.wake();
            }
        }
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
    node: Rc<NodeState>,
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
    /// Steps of every node's wall clock.
    wall_step_ms: Cell<i64>,
    nodes: RefCell<BTreeMap<u32, Rc<NodeState>>>,
    moment: Moment,
}

/// Polls since the clock last moved.
#[derive(Default)]
struct Moment {
    polls: Cell<u64>,
    /// Of the last of them, by node and name of the task.
    named: RefCell<BTreeMap<(u32, &'static str), u64>>,
}

impl Moment {
    fn ends(&self) {
        self.polls.set(0);
    }

    fn count_poll(&self, node: u32, task: &'static str) {
        let polls = self.polls.get() + 1;
        self.polls.set(polls);
        if polls > POLLS_AT_A_MOMENT_MAX - POLLS_NAMED {
            *self.named.borrow_mut().entry((node, task)).or_default() += 1;
        }
        if polls >= POLLS_AT_A_MOMENT_MAX {
            let named = self.named.take();
            panic!(
                "simulated time stands still after {polls} polls; the last {POLLS_NAMED}, by node and task: {named:?}"
            );
        }
    }
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
            nodes: RefCell::default(),
            moment: Moment::default(),
        })
    }

    pub(crate) fn now(&self) -> Mono {
        self.now.get()
    }

    fn node(&self, node: u32) -> Rc<NodeState> {
        Rc::clone(self.nodes.borrow_mut().entry(node).or_default())
    }

    /// A node's clock for durations.
    pub(crate) fn now_of(&self, node: u32) -> Mono {
        self.node(node).clock.get().local(self.now())
    }

    /// A node's wall clock.
    pub(crate) fn wall_of(&self, node: u32) -> TimestampMs {
        let clock = self.node(node).clock.get();
        let since = i64::try_from(clock.local(self.now()).nanos() / 1_000_000).unwrap_or(i64::MAX);
        let stepped = self.wall_step_ms.get().saturating_add(clock.wall_step_ms);
        TimestampMs(WALL_START_MS).plus_ms(since.saturating_add(stepped))
    }

    pub(crate) fn step_wall(&self, ms: i64) {
        self.wall_step_ms.set(self.wall_step_ms.get().saturating_add(ms));
    }

    pub(crate) fn step_wall_of(&self, node: u32, ms: i64) {
        let node = self.node(node);
        let clock = node.clock.get();
        node.clock.set(NodeClock { wall_step_ms: clock.wall_step_ms.saturating_add(ms), ..clock });
    }

    /// From now on the node's clock gains `ppm` nanoseconds per million on virtual time. Timers that are set already
    /// stay where they are.
    pub(crate) fn set_drift(&self, node: u32, ppm: i32) {
        assert!(ppm.abs() < 500_000, "a clock that drifts by half is not modelled");
        let (node, now) = (self.node(node), self.now());
        let clock = node.clock.get();
        node.clock.set(NodeClock { set_at: now, local_then: clock.local(now), drift_ppm: ppm, ..clock });
    }

    /// Stops a node: none of its tasks runs until it continues or is killed.
    pub(crate) fn stop(&self, node: u32) {
        self.node(node).stopped.set(true);
    }

    /// Lets a stopped node continue.
    pub(crate) fn proceed(&self, node: u32) {
        let node = self.node(node);
        node.stopped.set(false);
        let deferred = node.deferred.take();
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        for id in deferred {
            if !ready.contains(&id) {
                ready.push(id);
            }
        }
    }

    pub(crate) fn is_stopped(&self, node: u32) -> bool {
        self.node(node).stopped.get()
    }

    pub(crate) fn polls(&self, node: u32) -> u64 {
        self.node(node).polls.get()
    }

    pub(crate) fn halt_at(&self, node: u32, polls: u64) {
        self.node(node).halt_at.set(polls);
    }

    pub(crate) fn poll_halted(&self, node: u32, cx: &mut Context<'_>) -> Poll<()> {
        let node = self.node(node);
        if node.halted.get() {
            return Poll::Ready(());
        }
        *node.halt_waiter.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
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
        let node = self.node(group.node);
        self.tasks.borrow_mut().insert(id, TaskSlot { group, node, name, waker, future: Some(Box::pin(body)) });
        SimTask { executor: self.clone(), id, join }
    }

    /// Until virtual time `deadline`.
    pub(crate) fn sleep_until(self: &Rc<Self>, deadline: Mono) -> SimSleep {
        SimSleep { executor: self.clone(), key: (deadline, self.fresh_id()), armed: false }
    }

    /// Until the node's clock has reached `deadline`.
    pub(crate) fn sleep_until_of(self: &Rc<Self>, node: u32, deadline: Mono) -> SimSleep {
        self.sleep_until(self.node(node).clock.get().reaches(deadline))
    }

    /// For `time` of the node's clock.
    pub(crate) fn sleep_of(self: &Rc<Self>, node: u32, time: Duration) -> SimSleep {
        let clock = self.node(node).clock.get();
        self.sleep_until(clock.reaches(clock.local(self.now()) + time))
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
            if slot.node.halted.get() {
                return None;
            }
            if slot.node.stopped.get() {
                let mut deferred = slot.node.deferred.borrow_mut();
                if !deferred.contains(&id) {
                    deferred.push(id);
                }
                return None;
            }
            self.moment.count_poll(slot.group.node, slot.name);
            Some((slot.future.take()?, slot.waker.clone(), Rc::clone(&slot.node)))
        });
        let Some((mut future, waker, node)) = taken else { return };
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        node.count_poll();
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
        if at > self.now() {
            self.now.set(at);
            self.moment.ends();
        }
        waker.wake();
    }

    fn remove(&self, id: TaskId) {
        let slot = self.tasks.borrow_mut().remove(&id);
        drop(slot);
    }

    /// Drops every task of a group, as a killed process would.
    pub(crate) fn kill(&self, group: Group) {
        let node = self.node(group.node);
        node.halted.set(false);
        node.stopped.set(false);
        drop(node.deferred.take());
        loop {
            let tasks = self.tasks.borrow();
            let ids: Vec<TaskId> = tasks.iter().filter(|(_, slot)| slot.group == group).map(|(id, _)| *id).collect();
            drop(tasks);
            if ids.is_empty() {
                return;
            }
            ids.into_iter().for_each(|id| self.remove(id));
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
