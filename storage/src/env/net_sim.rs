//! A simulated network between the nodes of a [`World`]: messages, each of which travels on its own.
//!
//! **Fault model.** A message arrives after a random delay, so two messages may change places. By the odds of
//! [`NetFaults`] it is lost, arrives twice, or arrives long after. A way from one node to another may be cut: what is
//! sent over it, or would arrive over it, is lost; the way back works unless it is cut too. A node that is down has no
//! inbox: what arrives is lost. A stopped node receives, and reads when it continues. A message never changes its
//! content. Harsher than TCP, which keeps the order within a connection: what holds here holds there.
//!
//! Owns: messages on their way, ways that are cut, the inboxes. Does not own: what a message is (bytes of frames, in a
//! simulated cluster), requests and answers. Its tasks belong to a node of their own, so a kill of the sender does not
//! stop what is on its way. Affinity: shard-local.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::sim::World;
use super::{Env, Notify};

/// The node whose tasks carry the messages.
const CARRIER: u32 = u32::MAX;

/// How badly the network behaves; all odds per 1,000 messages.
#[derive(Clone, Copy, Debug)]
pub struct NetFaults {
    pub delay_min: Duration,
    pub delay_max: Duration,
    pub lost: u64,
    pub doubled: u64,
    /// Arrives up to `late_max` after the others.
    pub late: u64,
    pub late_max: Duration,
}

impl Default for NetFaults {
    /// A local network: under a millisecond, nothing is lost.
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(50),
            delay_max: Duration::from_micros(600),
            lost: 0,
            doubled: 0,
            late: 0,
            late_max: Duration::ZERO,
        }
    }
}

struct InboxState<M> {
    queue: RefCell<VecDeque<(u32, M)>>,
    arrived: Notify,
}

/// Where the messages to one incarnation of a node arrive. For one reading task.
pub struct NetInbox<M> {
    state: Rc<InboxState<M>>,
}

struct NetState<M> {
    env: Env,
    faults: Cell<NetFaults>,
    /// (from, to)
    cut: RefCell<BTreeSet<(u32, u32)>>,
    inboxes: RefCell<BTreeMap<u32, Rc<InboxState<M>>>>,
    sent: Cell<u64>,
}

/// The network. Clones are the same one.
pub struct SimNet<M> {
    state: Rc<NetState<M>>,
}

impl<M> Clone for SimNet<M> {
    fn clone(&self) -> Self {
        Self { state: Rc::clone(&self.state) }
    }
}

impl<M> fmt::Debug for SimNet<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNet({} sent)", self.state.sent.get())
    }
}

impl<M> fmt::Debug for NetInbox<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetInbox({} waiting)", self.state.queue.borrow().len())
    }
}

impl<M: Clone + 'static> SimNet<M> {
    /// A network without faults between the nodes of this world.
    #[must_use]
    pub fn new(world: &World) -> Self {
        let state = NetState {
            env: world.env_of(CARRIER),
            faults: Cell::default(),
            cut: RefCell::default(),
            inboxes: RefCell::default(),
            sent: Cell::new(0),
        };
        Self { state: Rc::new(state) }
    }

    /// From now on.
    pub fn set_faults(&self, faults: NetFaults) {
        self.state.faults.set(faults);
    }

    #[must_use]
    pub fn faults(&self) -> NetFaults {
        self.state.faults.get()
    }

    /// Cuts or mends the way from one node to another; the way back is another.
    pub fn cut(&self, from: u32, to: u32, cut: bool) {
        let mut ways = self.state.cut.borrow_mut();
        if cut {
            ways.insert((from, to));
        } else {
            ways.remove(&(from, to));
        }
    }

    /// Mends every way.
    pub fn mend(&self) {
        self.state.cut.borrow_mut().clear();
    }

    #[must_use]
    pub fn is_cut(&self, from: u32, to: u32) -> bool {
        self.state.cut.borrow().contains(&(from, to))
    }

    /// Messages sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.state.sent.get()
    }

    /// The inbox of a node's new incarnation; what waited in an earlier one is lost.
    #[must_use]
    pub fn attach(&self, node: u32) -> NetInbox<M> {
        let state = Rc::new(InboxState { queue: RefCell::default(), arrived: Notify::default() });
        let before = self.state.inboxes.borrow_mut().insert(node, Rc::clone(&state));
        drop(before);
        NetInbox { state }
    }

    /// The node is down: what arrives is lost.
    pub fn detach(&self, node: u32) {
        let before = self.state.inboxes.borrow_mut().remove(&node);
        drop(before);
    }

    /// Sends a message; what becomes of it is not reported.
    pub fn send(&self, from: u32, to: u32, message: M) {
        let state = &self.state;
        state.sent.set(state.sent.get() + 1);
        let faults = state.faults.get();
        let hit = |odds: u64| odds > 0 && state.env.rng.below(1000) < odds;
        if self.is_cut(from, to) || hit(faults.lost) {
            return;
        }
        if hit(faults.doubled) {
            self.carry(from, to, message.clone(), &faults);
        }
        self.carry(from, to, message, &faults);
    }

    fn carry(&self, from: u32, to: u32, message: M, faults: &NetFaults) {
        let env = &self.state.env;
        let below = |time: Duration| Duration::from_nanos(env.rng.below(u64::try_from(time.as_nanos()).unwrap_or(0)));
        let mut delay = faults.delay_min + below(faults.delay_max.saturating_sub(faults.delay_min));
        if faults.late > 0 && env.rng.below(1000) < faults.late {
            delay += below(faults.late_max);
        }
        let (state, sleep) = (Rc::clone(&self.state), env.tasks.sleep(delay));
        drop(env.tasks.spawn("message", async move {
            sleep.await;
            if state.cut.borrow().contains(&(from, to)) {
                return;
            }
            let inbox = state.inboxes.borrow().get(&to).cloned();
            if let Some(inbox) = inbox {
                inbox.queue.borrow_mut().push_back((from, message));
                inbox.arrived.notify();
            }
        }));
    }
}

impl<M> NetInbox<M> {
    /// The next message and its sender.
    pub async fn recv(&self) -> (u32, M) {
        loop {
            let next = self.state.queue.borrow_mut().pop_front();
            match next {
                Some(next) => return next,
                None => self.state.arrived.notified().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(world: &World, inbox: NetInbox<u64>, node: u32) -> Rc<RefCell<Vec<u64>>> {
        let got = Rc::new(RefCell::new(Vec::new()));
        let into = Rc::clone(&got);
        drop(world.env_of(node).tasks.spawn("reader", async move {
            loop {
                let (_, message) = inbox.recv().await;
                into.borrow_mut().push(message);
            }
        }));
        got
    }

    #[test]
    fn messages_are_lost_doubled_and_change_places_as_ordered() {
        let world = World::new(5);
        let net = SimNet::new(&world);
        let got = received(&world, net.attach(2), 2);
        (0..100).for_each(|n| net.send(1, 2, n));
        world.run_for(Duration::from_secs(1));
        let mut all = got.take();
        assert_ne!(all, (0..100).collect::<Vec<_>>(), "some change places");
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        net.set_faults(NetFaults { lost: 300, ..NetFaults::default() });
        (0..1000).for_each(|n| net.send(1, 2, n));
        world.run_for(Duration::from_secs(1));
        let left = got.take().len();
        assert!((600..800).contains(&left), "{left}");
        net.set_faults(NetFaults { doubled: 300, ..NetFaults::default() });
        (0..1000).for_each(|n| net.send(1, 2, n));
        world.run_for(Duration::from_secs(1));
        let came = got.take().len();
        assert!((1200..1400).contains(&came), "{came}");
    }

    #[test]
    fn a_cut_is_one_way_and_a_node_that_is_down_gets_nothing() {
        let world = World::new(5);
        let net = SimNet::new(&world);
        let (one, two) = (received(&world, net.attach(1), 1), received(&world, net.attach(2), 2));
        net.cut(1, 2, true);
        net.send(1, 2, 7);
        net.send(2, 1, 8);
        world.run_for(Duration::from_secs(1));
        assert_eq!((one.take(), two.take()), (vec![8], vec![]));
        net.mend();
        net.send(1, 2, 9);
        net.cut(1, 2, true);
        world.run_for(Duration::from_secs(1));
        assert!(two.take().is_empty(), "a cut takes what is on its way");
        net.mend();
        net.detach(2);
        world.kill_node(2);
        net.send(1, 2, 10);
        world.run_for(Duration::from_secs(1));
        let again = received(&world, net.attach(2), 2);
        world.stop_node(2);
        net.send(1, 2, 11);
        world.run_for(Duration::from_secs(1));
        assert!(again.borrow().is_empty());
        world.continue_node(2);
        world.run_for(Duration::from_secs(1));
        assert_eq!(again.take(), [11]);
    }
}
