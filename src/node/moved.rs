//! Brokers that moved while nothing could be written about it: after a restart of a whole cluster under other addresses
//! no majority meets at the addresses that the brokers remember, and a new address is registered by a majority only. A
//! broker that misses another one for a while asks its seeds. Shard-local.
//!
//! A seed counts as the broker that it says it is if it names this cluster, and the data directory that is known for
//! that node id; the handshake of the connection that follows checks both again. What was found counts until the
//! controller registers another address.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tidewater_storage::model::NodeId;
use uuid::Uuid;

use super::forming::{Belonging, Hello};
use super::join;
use crate::rpc::{PeerAddress, PeerState, Rpc};

/// A broker that was away for this long may have moved.
pub(super) const MISSED_FOR: Duration = Duration::from_secs(2);
/// Between two rounds of asking the seeds.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(2);

/// Host and port.
type Address = (String, u16);

/// Other addresses than the known ones, by node id.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// The address that was known when another was found, and the one that was found.
    found: BTreeMap<NodeId, (Address, Address)>,
}

impl Moved {
    /// The peers, where they were found. Forgets those whose known address has changed.
    pub(super) fn apply(&mut self, known: &[PeerAddress]) -> Vec<PeerAddress> {
        let at = |peer: &PeerAddress| (peer.host.clone(), peer.port);
        self.found.retain(|node, (before, _)| known.iter().any(|peer| peer.node == *node && at(peer) == *before));
        let moved = |peer: &PeerAddress| match self.found.get(&peer.node) {
            Some((_, (host, port))) => PeerAddress { host: host.clone(), port: *port, ..peer.clone() },
            None => peer.clone(),
        };
        known.iter().map(moved).collect()
    }

    /// Takes the answers of seeds; true if a broker was found elsewhere.
    pub(super) fn take(&mut self, cluster: Uuid, known: &[PeerAddress], answers: &[Hello]) -> bool {
        let mut changed = false;
        for hello in answers {
            let Some((peer, address)) = recognised(cluster, known, hello) else { continue };
            let before = (peer.host.clone(), peer.port);
            let next = (before.clone(), address.clone());
            if address != before && self.found.get(&peer.node) != Some(&next) {
                tracing::info!(broker = %peer.node, was = %join::spelled(&before), is = %join::spelled(&address), "a broker is found at another address, by its seed");
                self.found.insert(peer.node, next);
                changed = true;
            }
        }
        changed
    }
}

/// The known broker that a seed is, and the address it names.
fn recognised<'a>(cluster: Uuid, known: &'a [PeerAddress], hello: &Hello) -> Option<(&'a PeerAddress, Address)> {
    let (theirs, node) = match &hello.state {
        Belonging::Member { cluster, node } => (*cluster, Some(*node)),
        Belonging::Founder { cluster, .. } => (*cluster, None),
        Belonging::Empty => return None,
    };
    let same = |peer: &&PeerAddress| {
        peer.birth.is_some_and(|(birth, _)| birth == hello.birth) && node.is_none_or(|node| node == peer.node)
    };
    let peer = known.iter().filter(|_| theirs == cluster).find(same)?;
    Some((peer, hello.address.rpc.clone()?))
}

/// Has a broker been away for long enough?
pub(super) fn misses(peers: &[PeerState]) -> bool {
    peers.iter().any(|peer| !peer.connected && u128::from(peer.since_ms) >= MISSED_FOR.as_millis())
}

/// The seeds that answer, of those that no connected broker has as its address.
pub(super) async fn ask(rpc: &Rpc, me: &Hello, seeds: &[String]) -> Vec<Hello> {
    let connected: Vec<String> =
        rpc.peers().into_iter().filter(|peer| peer.connected).map(|peer| peer.address).collect();
    let own = me.address.rpc.as_ref().map(join::spelled);
    let others = seeds.iter().filter(|seed| !connected.contains(seed) && own.as_ref() != Some(*seed));
    let asked = others.map(|seed| join::ask(rpc, me, seed));
    join_all(asked).await.into_iter().filter_map(Result::ok).collect()
}

#[cfg(test)]
mod tests {
    use tidewater_storage::model::ReplicaIncarnation;

    use super::*;
    use crate::controller::brokers::{BrokerAddress, Endpoint};

    const CLUSTER: Uuid = Uuid::from_u128(9);

    fn peer(node: i32, host: &str) -> PeerAddress {
        let birth = Some((Uuid::from_u128(node as u128), ReplicaIncarnation(0)));
        PeerAddress { node: NodeId(node), host: host.to_owned(), port: 1, birth }
    }

    fn hello(node: i32, birth: u128, cluster: Uuid, host: &str) -> Hello {
        let (endpoints, rpc) = (vec![Endpoint::plain("b", 9092)], Some((host.to_owned(), 1)));
        Hello {
            birth: Uuid::from_u128(birth),
            cluster_name: "tidewater".to_owned(),
            seeds: Vec::new(),
            version: 1,
            address: BrokerAddress { endpoints, rpc, rack: None, shards: 1, level: 1 },
            state: Belonging::Member { cluster, node: NodeId(node) },
        }
    }

    #[test]
    fn a_seed_shows_where_a_broker_is_now() {
        let known = [peer(2, "old-2"), peer(3, "old-3")];
        let mut moved = Moved::default();
        assert_eq!(moved.apply(&known), known);
        assert!(moved.take(CLUSTER, &known, &[hello(2, 2, CLUSTER, "new-2")]));
        assert!(!moved.take(CLUSTER, &known, &[hello(2, 2, CLUSTER, "new-2")]), "known already");
        assert_eq!(moved.apply(&known), [peer(2, "new-2"), peer(3, "old-3")]);
        let registered = [peer(2, "newest-2"), peer(3, "old-3")];
        assert_eq!(moved.apply(&registered), registered, "the controller knows better");
        assert_eq!(moved.apply(&known), known, "what was found is forgotten");
    }

    #[test]
    fn a_stranger_is_no_broker_of_this_cluster() {
        let known = [peer(2, "old-2")];
        let mut moved = Moved::default();
        for stranger in [
            hello(2, 2, Uuid::from_u128(8), "other-cluster"),
            hello(2, 7, CLUSTER, "other-directory"),
            hello(3, 2, CLUSTER, "other-node"),
            hello(2, 2, CLUSTER, "old-2"),
            Hello { state: Belonging::Empty, ..hello(2, 2, CLUSTER, "empty") },
        ] {
            assert!(!moved.take(CLUSTER, &known, &[stranger]));
        }
        assert_eq!(moved.apply(&known), known);
    }
}
