//! Elections soon after the broker of a leader was lost. Owns when a follower stands; who may win is Raft's to decide.
//! Shard-local.
//!
//! A connection that broke is no proof that a leader is gone, so nothing is taken from its lease: a replica that heard
//! the leader within the lease does not stand, voters that did refuse, and both before any term changes (pre-vote).
//! What is spared is the time that a follower waits after the lease, so that followers do not stand at the same time:
//! here they stand in the order of the lane's replicas. The first tries at short intervals from the moment it notices,
//! since the kernel closes the connections of a killed process late; the others wait for a whole lease and [`APART`]
//! each.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, NodeId, ReplicaId};

use super::lanes::Lanes;
use crate::controller::client::ControllerHandle;
use crate::controller::image::ClusterImage;
use crate::raft::{LEASE, Lane};
use crate::rpc::Rpc;

/// Between tries. One within the lease costs nothing.
const TRY_EVERY: Duration = Duration::from_millis(40);
/// A leader that was not replaced by then is left to the replicas' own timeouts.
const TRIES: u32 = 25;
/// After the lease, between the first follower and the second, which stands only if the first has not won.
const APART: Duration = Duration::from_millis(120);

/// The connections of this shard with other brokers.
pub trait Connections {
    fn connected(&self) -> BTreeSet<NodeId>;
    /// Resolves at the first change after this call.
    fn changed(&self) -> LocalBoxFuture<'_, ()>;
}

impl Connections for Rpc {
    fn connected(&self) -> BTreeSet<NodeId> {
        Rpc::connected(self)
    }

    fn changed(&self) -> LocalBoxFuture<'_, ()> {
        Rpc::changed(self).boxed_local()
    }
}

/// Watches the connections of this shard.
pub fn watch(env: &Env, lanes: &Rc<Lanes>, controller: &ControllerHandle, peers: Rc<dyn Connections>) {
    let (env, lanes, controller) = (env.clone(), Rc::clone(lanes), controller.clone());
    let tasks = env.tasks.clone();
    tasks.spawn("lost leaders", async move {
        let mut before = BTreeSet::new();
        loop {
            let changed = peers.changed();
            let connected = peers.connected();
            let lost: BTreeSet<NodeId> = before.difference(&connected).copied().collect();
            before = connected;
            for (lane, me, raft) in lanes.groups() {
                let Some(leader) = raft.leadership().leader.filter(|leader| lost.contains(leader)) else {
                    continue;
                };
                let turn = turn(&controller.image(), lane, me, leader);
                let (env, peers) = (env.clone(), Rc::clone(&peers));
                env.tasks.clone().spawn("stand", async move {
                    if turn > 0 {
                        env.tasks.sleep(LEASE + APART * turn).await;
                    }
                    for _ in 0..TRIES {
                        if !stand(lane, leader, &raft, &*peers).await {
                            return;
                        }
                        env.tasks.sleep(TRY_EVERY).await;
                    }
                });
            }
            changed.await;
        }
    });
}

/// Stands if the leader is still the one that was lost; false if not.
async fn stand(lane: LaneId, lost: NodeId, raft: &Lane, peers: &dyn Connections) -> bool {
    let is_lost = raft.leadership().leader == Some(lost) && !peers.connected().contains(&lost);
    if is_lost {
        tracing::debug!(%lane, leader = %lost, "the leader's broker was lost: this replica stands for election");
        raft.stand().await;
    }
    is_lost
}

/// How many followers of a lost leader stand before this one.
fn turn(image: &ClusterImage, lane: LaneId, me: ReplicaId, lost: NodeId) -> u32 {
    let replicas = image.replicas(lane).into_iter().filter(|node| *node != lost);
    replicas.take_while(|node| *node != me.node).map(|_| 1).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::handlers::fixture::cluster;

    #[test]
    fn followers_stand_in_the_order_of_the_replicas() {
        let image = cluster(&[]);
        let lane = LaneId(1);
        let order = image.replicas(lane);
        assert_eq!(order, [2, 3, 1].map(NodeId));
        let turn = |me: i32, lost: i32| turn(&image, lane, ReplicaId::first(NodeId(me)), NodeId(lost));
        assert_eq!((turn(3, 2), turn(1, 2)), (0, 1));
        assert_eq!((turn(2, 3), turn(1, 3)), (0, 1));
        assert_eq!((turn(2, 1), turn(3, 1)), (0, 1));
    }
}
