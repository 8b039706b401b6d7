//! A simulated world: machines with a disk and clocks each, one thread, one virtual time, one seed.
//!
//! Owns: the nodes' disks, and the incarnation of each node's process. [`World::kill_node`] is `kill -9`: tasks are
//! dropped, the disk is unchanged. [`World::crash_node`] is a power cut: tasks are dropped, then the disk loses what
//! its fault model says. [`World::wipe_node`] loses the whole disk. An [`Env`] made before any of them belongs to the
//! dead incarnation: make a new one. [`World::stop_node`] is SIGSTOP. A node's clock may drift, its wall clock may
//! step. The same seed gives the same run. The network between nodes is [`super::net_sim::SimNet`].
//!
//! Affinity: shard-local, a world lives on one thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

pub use super::disk_sim::{Counts, Fault, Operation, SimDisk, Twist, TwistKind};
use super::executor_sim::{Executor, Group};
use super::rng::Rng;
use super::{Env, Mono};

struct Node {
    disk: SimDisk,
    group: Group,
}

/// The world. Methods without a node's number act on node 0.
pub struct World {
    executor: Rc<Executor>,
    seeds: Rng,
    nodes: RefCell<BTreeMap<u32, Node>>,
}

impl World {
    /// A new, empty world.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let seeds = Rng::seeded(seed);
        Self { executor: Executor::new(seeds.next_u64()), seeds, nodes: RefCell::default() }
    }

    fn node<T>(&self, id: u32, act: impl FnOnce(&mut Node) -> T) -> T {
        let mut nodes = self.nodes.borrow_mut();
        let node = nodes.entry(id).or_insert_with(|| Node {
            disk: SimDisk::new(self.executor.clone(), self.seeds.next_u64()),
            group: Group { node: id, incarnation: 0 },
        });
        act(node)
    }

    /// Node 0's machine, current incarnation.
    #[must_use]
    pub fn env(&self) -> Env {
        self.env_of(0)
    }

    /// A node's machine, current incarnation. The node is made at first use.
    #[must_use]
    pub fn env_of(&self, node: u32) -> Env {
        let (group, disk) = self.node(node, |node| (node.group, node.disk.clone()));
        Env::sim(self.executor.clone(), group, disk, self.seeds.next_u64())
    }

    /// Node 0's disk.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.disk_of(0)
    }

    /// A node's disk.
    #[must_use]
    pub fn disk_of(&self, node: u32) -> SimDisk {
        self.node(node, |node| node.disk.clone())
    }

    /// Runs the world until `future` is done. The future itself belongs to no node and survives kills.
    ///
    /// # Panics
    /// When nothing can ever run again before `future` is done.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.executor.block_on(future)
    }

    /// Runs the world for a virtual time.
    pub fn run_for(&self, time: Duration) {
        let mut sleep = self.executor.sleep_until(self.now() + time);
        self.block_on(std::future::poll_fn(|cx| sleep.poll_sleep(cx)));
    }

    /// Virtual time.
    #[must_use]
    pub fn now(&self) -> Mono {
        self.executor.now()
    }

    /// Moves the wall clock of every node by `ms`; durations and timers are not affected.
    pub fn step_wall(&self, ms: i64) {
        self.executor.step_wall(ms);
    }

    /// Moves one node's wall clock by `ms`.
    pub fn step_wall_of(&self, node: u32, ms: i64) {
        self.executor.step_wall_of(node, ms);
    }

    /// From now on a node's clocks gain `ppm` microseconds a second on virtual time, or lose them if it is negative.
    pub fn set_drift(&self, node: u32, ppm: i32) {
        self.executor.set_drift(node, ppm);
    }

    /// Stops a node, as SIGSTOP does: none of its tasks runs until [`World::continue_node`] or a kill. Time passes for
    /// it.
    pub fn stop_node(&self, node: u32) {
        self.executor.stop(node);
    }

    /// Lets a stopped node continue.
    pub fn continue_node(&self, node: u32) {
        self.executor.proceed(node);
    }

    #[must_use]
    pub fn is_stopped(&self, node: u32) -> bool {
        self.executor.is_stopped(node)
    }

    /// Number of times a task of node 0 was run, in all incarnations. Each run ends at an await.
    #[must_use]
    pub fn awaits(&self) -> u64 {
        self.awaits_of(0)
    }

    /// As [`World::awaits`], of a node.
    #[must_use]
    pub fn awaits_of(&self, node: u32) -> u64 {
        self.executor.polls(node)
    }

    /// Halts node 0 at this await, counted as [`World::awaits`]: none of its tasks runs until it is killed or crashed.
    pub fn halt_at(&self, awaits: u64) {
        self.halt_node_at(0, awaits);
    }

    /// As [`World::halt_at`], of a node.
    pub fn halt_node_at(&self, node: u32, awaits: u64) {
        self.executor.halt_at(node, awaits);
    }

    /// Waits until node 0 has been halted.
    pub async fn halted(&self) {
        self.node_halted(0).await;
    }

    /// Waits until a node has been halted.
    pub async fn node_halted(&self, node: u32) {
        std::future::poll_fn(|cx| self.executor.poll_halted(node, cx)).await;
    }

    /// Kills node 0's process.
    pub fn kill(&self) {
        self.kill_node(0);
    }

    /// Kills a node's process: every task spawned through its `Env` is dropped.
    pub fn kill_node(&self, node: u32) {
        let group = self.node(node, |node| {
            let group = node.group;
            node.group.incarnation += 1;
            group
        });
        self.executor.kill(group);
        self.disk_of(node).process_died();
    }

    /// Cuts node 0's power.
    pub fn crash(&self) {
        self.crash_node(0);
    }

    /// Cuts a node's power: kills its process, then its disk forgets.
    pub fn crash_node(&self, node: u32) {
        self.kill_node(node);
        self.disk_of(node).crash();
    }

    /// Kills a node's process and takes its disk for an empty one.
    pub fn wipe_node(&self, node: u32) {
        self.kill_node(node);
        self.disk_of(node).wipe();
    }

    /// Kills node 0's process and returns the machine of its next incarnation.
    #[must_use]
    pub fn restart(&self) -> Env {
        self.kill();
        self.env()
    }

    /// Ends the world: drops the tasks of every node and the disks' content. A task may hold its world, which holds its
    /// tasks: without this call, a test of a thousand worlds would keep them all in memory.
    pub fn dissolve(&self) {
        self.executor.dissolve();
        let disks: Vec<SimDisk> = self.nodes.borrow().values().map(|node| node.disk.clone()).collect();
        disks.iter().for_each(SimDisk::wipe);
    }

    /// Tasks of a node's current incarnation.
    #[must_use]
    pub fn tasks_alive(&self, node: u32) -> usize {
        let group = self.node(node, |node| node.group);
        self.executor.alive(group)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("now", &self.now()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn trace(seed: u64) -> Vec<(u64, u64)> {
        let world = World::new(seed);
        let seen = Rc::new(RefCell::new(Vec::new()));
        let env = world.env();
        for n in 0..5 {
            let (task_env, seen) = (env.clone(), seen.clone());
            drop(env.tasks.spawn("worker", async move {
                for _ in 0..20 {
                    task_env.tasks.sleep(Duration::from_micros(task_env.rng.below(50))).await;
                    task_env.tasks.yield_now().await;
                    seen.borrow_mut().push((n, task_env.clock.now().nanos()));
                }
            }));
        }
        world.run_for(Duration::from_millis(10));
        seen.take()
    }

    #[test]
    fn a_seed_is_a_run() {
        assert_eq!(trace(3), trace(3));
        assert_ne!(trace(3), trace(4));
        assert_eq!(trace(3).len(), 100);
    }

    #[test]
    fn time_is_virtual_and_tasks_are_joined_cancelled_and_killed() {
        let world = World::new(1);
        let env = world.env();
        let day = Duration::from_secs(86_400);
        let long = env.tasks.spawn("long", {
            let env = env.clone();
            async move {
                env.tasks.sleep(day).await;
                5
            }
        });
        assert_eq!(world.block_on(long), Some(5));
        assert_eq!(env.clock.now().since(Mono::ZERO), day);
        let never = env.tasks.spawn("never", std::future::pending::<()>());
        never.cancel();
        assert_eq!(world.block_on(never), None);
        let other = world.env_of(1);
        let (mine, theirs) = (env.tasks.spawn("a", std::future::pending::<()>()), other.tasks.spawn("b", async { 1 }));
        world.kill();
        assert_eq!(world.block_on(mine), None);
        assert_eq!(world.block_on(theirs), Some(1));
        assert_eq!((world.tasks_alive(0), world.tasks_alive(1)), (0, 0));
    }

    #[test]
    fn a_stopped_node_continues_with_what_rang_meanwhile_and_the_others_run() {
        let world = World::new(2);
        let done = Rc::new(RefCell::new(Vec::new()));
        for node in [1, 2] {
            let (env, done, virtual_time) = (world.env_of(node), done.clone(), world.env_of(9).clock);
            drop(world.env_of(node).tasks.spawn("ticks", async move {
                for _ in 0..3 {
                    env.tasks.sleep(Duration::from_secs(1)).await;
                    done.borrow_mut().push((node, virtual_time.now().nanos() / 1_000_000_000));
                }
            }));
        }
        world.run_for(Duration::from_millis(500));
        world.stop_node(1);
        world.run_for(Duration::from_secs(10));
        assert_eq!(done.take(), [(2, 1), (2, 2), (2, 3)]);
        world.continue_node(1);
        world.run_for(Duration::from_secs(10));
        assert_eq!(done.take(), [(1, 10), (1, 11), (1, 12)]);
        world.stop_node(1);
        world.kill_node(1);
        assert!(!world.is_stopped(1), "a new process runs");
    }

    #[test]
    fn a_clock_that_drifts_keeps_its_own_time() {
        let world = World::new(2);
        let (fast, slow, exact) = (world.env_of(1), world.env_of(2), world.env_of(3));
        world.set_drift(1, 100_000);
        world.set_drift(2, -100_000);
        world.step_wall_of(2, 5_000);
        let second = Duration::from_secs(1);
        let begun = [&fast, &slow, &exact].map(|env| (env.clock.now(), env.clock.wall()));
        world.run_for(10 * second);
        let passed: Vec<_> =
            [&fast, &slow, &exact].iter().zip(begun).map(|(env, (now, _))| env.clock.now().since(now)).collect();
        assert_eq!(passed, [11 * second, 9 * second, 10 * second]);
        assert_eq!(slow.clock.wall().0 - begun[1].1.0, 9_000);
        assert_eq!(slow.clock.wall().0 - exact.clock.wall().0, 4_000);
        let deadline = fast.clock.now() + 11 * second;
        world.block_on(fast.tasks.sleep_until(deadline));
        assert!(fast.clock.now() >= deadline && fast.clock.now().since(deadline) < Duration::from_micros(1));
        let late = exact.clock.now().since(Mono::ZERO + 20 * second);
        assert!(late < Duration::from_micros(1), "{late:?}");
        world.set_drift(1, 0);
        let before = fast.clock.now();
        world.block_on(fast.tasks.sleep(second));
        assert!(fast.clock.now() >= before + second);
    }

    #[test]
    fn one_node_is_halted_or_wiped_and_the_others_are_not() {
        let world = World::new(2);
        for node in [1, 2] {
            let env = world.env_of(node);
            world.block_on(env.disk.create_dir_all(std::path::Path::new("/d"))).expect("is made");
            drop(world.env_of(node).tasks.spawn("busy", async move {
                loop {
                    env.tasks.sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        world.halt_node_at(1, world.awaits_of(1) + 5);
        world.block_on(world.node_halted(1));
        world.run_for(Duration::from_secs(1));
        assert!(world.awaits_of(1) < 10 && world.awaits_of(2) > 900);
        world.wipe_node(1);
        let there =
            |node| world.block_on(world.env_of(node).disk.exists(std::path::Path::new("/d"))).expect("is known");
        assert!(!there(1) && there(2));
    }

    #[test]
    #[should_panic(expected = "by node and task: {(3, \"restless\"): 10000}")]
    fn a_world_whose_time_stands_still_is_named() {
        let world = World::new(1);
        let env = world.env_of(3);
        drop(world.env_of(3).tasks.spawn("restless", async move {
            loop {
                env.tasks.yield_now().await;
            }
        }));
        world.run_for(Duration::from_secs(1));
    }

    #[test]
    #[should_panic(expected = "deadlocked")]
    fn a_deadlock_is_named() {
        World::new(1).block_on(std::future::pending::<()>());
    }
}
