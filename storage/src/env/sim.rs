//! A simulated world: machines with a disk each, one thread, one clock, one seed.
//!
//! Owns: the nodes' disks, and the incarnation of each node's process. [`World::kill_node`] is `kill -9`: tasks are
//! dropped, the disk is unchanged. [`World::crash_node`] is a power cut: tasks are dropped, then the disk loses what
//! its fault model says. An [`Env`] made before either belongs to the dead incarnation: make a new one. The same seed
//! gives the same run.
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
            group: Group(u64::from(id) << 32),
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

    /// Number of times a task of node 0 was run, in all incarnations. Each run ends at an await.
    #[must_use]
    pub fn awaits(&self) -> u64 {
        self.executor.polls()
    }

    /// Stops node 0 at this await, counted as [`World::awaits`]: none of its tasks runs until it is killed or crashed.
    pub fn halt_at(&self, awaits: u64) {
        self.executor.halt_at(awaits);
    }

    /// Waits until node 0 has been stopped.
    pub async fn halted(&self) {
        std::future::poll_fn(|cx| self.executor.poll_halted(cx)).await;
    }

    /// Kills node 0's process.
    pub fn kill(&self) {
        self.kill_node(0);
    }

    /// Kills a node's process: every task spawned through its `Env` is dropped.
    pub fn kill_node(&self, node: u32) {
        let group = self.node(node, |node| {
            let group = node.group;
            node.group = Group(group.0 + 1);
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
    #[should_panic(expected = "deadlocked")]
    fn a_deadlock_is_named() {
        World::new(1).block_on(std::future::pending::<()>());
    }
}
