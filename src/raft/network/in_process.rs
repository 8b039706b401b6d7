//! A transport between lanes of one process: for tests of several voters in one simulated world.
//!
//! Owns: the connected lanes, the pairs that are cut, the delay of a message. A message to a node that is killed while
//! it is under way is lost with it. Affinity: shard-local.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, NodeId, ReplicaId};

use super::{Calling, PeerError, PeerRequest, PeerTransport};
use crate::raft::Lane;

#[derive(Default)]
struct Wires {
    lanes: BTreeMap<(LaneId, NodeId), Lane>,
    cut: BTreeSet<(NodeId, NodeId)>,
}

/// Connects lanes. Clones are the same wires.
#[derive(Clone, Default)]
pub struct InProcess {
    wires: Rc<RefCell<Wires>>,
}

impl InProcess {
    /// A new set of wires.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a node's lane reachable, in place of an earlier incarnation.
    pub fn connect(&self, lane: LaneId, node: NodeId, handle: Lane) {
        let before = self.wires.borrow_mut().lanes.insert((lane, node), handle);
        drop(before);
    }

    /// Makes it unreachable, as a killed process is.
    pub fn disconnect(&self, lane: LaneId, node: NodeId) {
        let before = self.wires.borrow_mut().lanes.remove(&(lane, node));
        drop(before);
    }

    /// Cuts or mends the wire between two nodes, both ways.
    pub fn cut(&self, a: NodeId, b: NodeId, cut: bool) {
        let mut wires = self.wires.borrow_mut();
        for pair in [(a, b), (b, a)] {
            if cut {
                wires.cut.insert(pair);
            } else {
                wires.cut.remove(&pair);
            }
        }
    }

    /// The wires as the node `from` sees them; its messages take up to `delay_max` each way.
    #[must_use]
    pub fn transport(&self, env: Env, from: NodeId, delay_max: Duration) -> Rc<dyn PeerTransport> {
        Rc::new(Wire { wires: self.wires.clone(), env, from, delay_max })
    }
}

struct Wire {
    wires: Rc<RefCell<Wires>>,
    env: Env,
    from: NodeId,
    delay_max: Duration,
}

async fn travel(env: &Env, delay_max: Duration) {
    let most = u64::try_from(delay_max.as_nanos()).unwrap_or(u64::MAX);
    env.tasks.sleep(Duration::from_nanos(env.rng.below(most))).await;
}

impl PeerTransport for Wire {
    fn call(&self, lane: LaneId, to: ReplicaId, sender: ReplicaId, request: PeerRequest) -> Calling {
        let (wires, env, from, delay_max) = (self.wires.clone(), self.env.clone(), self.from, self.delay_max);
        Box::pin(async move {
            travel(&env, delay_max).await;
            let target = {
                let wires = wires.borrow();
                let cut = wires.cut.contains(&(from, to.node));
                if cut { None } else { wires.lanes.get(&(lane, to.node)).cloned() }
            };
            let target = target.ok_or(PeerError::Unreachable { replica: to, lane })?;
            let reply = target.handle_apart(to, sender, request).await;
            travel(&env, delay_max).await;
            if wires.borrow().cut.contains(&(to.node, from)) {
                return Err(PeerError::Unreachable { replica: to, lane });
            }
            reply
        })
    }
}
