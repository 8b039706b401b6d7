//! Brokers as the controller knows them, and the pure check of a registration.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{NodeId, ReplicaId, ReplicaIncarnation};
use uuid::Uuid;

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerRecord {
    /// The birth id of its data directory.
    pub birth: Uuid,
    pub address: BrokerAddress,
    /// The incarnation of the replicas that it gets; grows when it is replaced by one with an empty disk.
    pub incarnation: ReplicaIncarnation,
    /// The controller's revision after its first registration with this birth id.
    pub registered_at_revision: u64,
}

/// What a broker says of itself when it registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerAddress {
    /// Listeners for clients; the first is Kafka's.
    pub endpoints: Vec<Endpoint>,
    /// Host and port for other brokers; `None` for a broker that takes no other.
    pub rpc: Option<(String, u16)>,
    pub rack: Option<String>,
    pub shards: u16,
    /// The highest cluster level ([`super::features::CLUSTER`]) that its binary supports.
    pub level: u16,
}

/// A listener of a broker, as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The listener's name, as Kafka's `advertised.listeners` has it.
    pub listener: String,
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub security: Security,
}

/// Kafka's security protocol of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Security {
    #[default]
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

impl Endpoint {
    /// The listener of a broker that has one, without encryption.
    #[must_use]
    pub fn plain(host: &str, port: u16) -> Self {
        Self { listener: "PLAINTEXT".to_owned(), host: host.to_owned(), port, security: Security::Plaintext }
    }
}

impl BrokerRecord {
    /// The replica that a lane of broker `node` gets with its first assignment there.
    #[must_use]
    pub fn replica(&self, node: NodeId) -> ReplicaId {
        ReplicaId { node, incarnation: self.incarnation }
    }
}

/// A broker asks to be one of the cluster, or to be known under a new address. A message between brokers, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The birth id of its data directory.
    pub birth: Uuid,
    /// The node id that its data directory has; `None` for one that has none yet.
    pub node: Option<NodeId>,
    /// It takes the place of this broker, whose disk is lost.
    pub replaces: Option<NodeId>,
    pub address: BrokerAddress,
}

/// What a registration comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub node: NodeId,
    /// The broker that had this node id is lost, and its replicas with it.
    pub replaces: bool,
}

/// Why a broker may not register.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error(
        "node {node} belongs to another data directory of this cluster: if that one's disk is lost, start with an empty \
         data directory and --replace {node}; otherwise start with an empty data directory to join as a new broker"
    )]
    Taken { node: NodeId },
    #[error("this data directory is node {held} of the cluster, not node {asked}: start it without --replace")]
    Other { held: NodeId, asked: NodeId },
    #[error("there is no node {node} to replace; the cluster has {known:?}")]
    NothingToReplace { node: NodeId, known: Vec<i32> },
    #[error(
        "node {node} answers at {host}:{port}, and this broker runs on the same data directory or a copy of it: stop one of \
         them for good"
    )]
    Copy { node: NodeId, host: String, port: u16 },
    #[error("node {node} is running: stop it before another broker takes its place")]
    Alive { node: NodeId },
    #[error(
        "node {node} has the address {host}:{port}, with another data directory: if that one is lost, start this broker \
         with --replace {node}; otherwise give it an --advertised-rpc-addr of its own"
    )]
    SameAddress { node: NodeId, host: String, port: u16 },
    #[error("a broker without a listener for clients cannot register")]
    NoListener,
    #[error(
        "this broker supports cluster level {has}, the cluster is at level {needs}: start the version that the other \
         brokers run"
    )]
    TooOld { has: u16, needs: u16 },
}

/// Finds the node id of a broker that registers. The same birth id gets the same answer however often it asks. `alive`
/// are brokers that answer now.
///
/// # Errors
/// Why it may not register.
pub fn place(
    brokers: &BTreeMap<NodeId, BrokerRecord>,
    alive: &BTreeSet<NodeId>,
    level: u16,
    asked: &Registration,
) -> Result<Place, RegisterError> {
    if asked.address.endpoints.is_empty() {
        return Err(RegisterError::NoListener);
    }
    if asked.address.level < level {
        return Err(RegisterError::TooOld { has: asked.address.level, needs: level });
    }
    let held = brokers.iter().find(|(_, record)| record.birth == asked.birth).map(|(node, _)| *node);
    let place = match (held, asked.replaces.filter(|node| held != Some(*node)), asked.node) {
        (Some(held), Some(other), _) => return Err(RegisterError::Other { held, asked: other }),
        (Some(held), None, Some(other)) if other != held => return Err(RegisterError::Other { held, asked: other }),
        (Some(node), None, _) => {
            let known = brokers.get(&node).and_then(|record| record.address.rpc.clone());
            if let Some((host, port)) =
                known.filter(|known| alive.contains(&node) && asked.address.rpc.as_ref() != Some(known))
            {
                return Err(RegisterError::Copy { node, host, port });
            }
            Place { node, replaces: false }
        }
        (None, Some(node), _) if !brokers.contains_key(&node) => {
            return Err(RegisterError::NothingToReplace { node, known: brokers.keys().map(|node| node.0).collect() });
        }
        (None, Some(node), _) if alive.contains(&node) => return Err(RegisterError::Alive { node }),
        (None, Some(node), _) => Place { node, replaces: true },
        (None, None, Some(node)) if brokers.contains_key(&node) => return Err(RegisterError::Taken { node }),
        (None, None, Some(node)) => Place { node, replaces: false },
        (None, None, None) => Place { node: next_node(brokers), replaces: false },
    };
    let same = |record: &BrokerRecord| asked.address.rpc.is_some() && record.address.rpc == asked.address.rpc;
    match brokers.iter().find(|(node, record)| **node != place.node && same(record)) {
        None => Ok(place),
        Some((node, record)) => {
            let (host, port) = record.address.rpc.clone().expect("it is the same as one that is given");
            Err(RegisterError::SameAddress { node: *node, host, port })
        }
    }
}

fn next_node(brokers: &BTreeMap<NodeId, BrokerRecord>) -> NodeId {
    NodeId(brokers.keys().next_back().map_or(1, |last| last.0.saturating_add(1)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A broker as tests need one: its birth id is its number, its address of the same number.
    pub(crate) fn record(n: i32, rack: Option<&str>, shards: u16) -> BrokerRecord {
        BrokerRecord {
            birth: Uuid::from_u128(n as u128),
            address: address(n, rack, shards),
            incarnation: ReplicaIncarnation(0),
            registered_at_revision: 1,
        }
    }

    pub(crate) fn address(n: i32, rack: Option<&str>, shards: u16) -> BrokerAddress {
        BrokerAddress {
            endpoints: vec![Endpoint::plain("broker", 9000 + n as u16)],
            rpc: Some(("broker".to_owned(), 33000 + n as u16)),
            rack: rack.map(str::to_owned),
            shards,
            level: 1,
        }
    }

    fn three() -> BTreeMap<NodeId, BrokerRecord> {
        (1..=3).map(|n| (NodeId(n), record(n, None, 2))).collect()
    }

    fn ask(birth: i32, node: Option<i32>, replaces: Option<i32>) -> Registration {
        let (node, replaces) = (node.map(NodeId), replaces.map(NodeId));
        Registration { birth: Uuid::from_u128(birth as u128), node, replaces, address: address(birth, None, 2) }
    }

    fn placed(asked: &Registration) -> Result<(i32, bool), RegisterError> {
        let alive = BTreeSet::from([NodeId(1), NodeId(2)]);
        place(&three(), &alive, 1, asked).map(|place| (place.node.0, place.replaces))
    }

    #[test]
    fn a_birth_id_gets_the_same_node_however_often_it_asks() {
        assert_eq!(placed(&ask(2, Some(2), None)), Ok((2, false)));
        assert_eq!(placed(&ask(2, None, None)), Ok((2, false)), "its answer was lost");
        assert_eq!(placed(&ask(2, None, Some(2))), Ok((2, false)), "it has replaced node 2 before");
        assert_eq!(placed(&ask(7, None, None)), Ok((4, false)));
    }

    #[test]
    fn a_wrong_id_is_refused() {
        assert_eq!(placed(&ask(7, Some(2), None)), Err(RegisterError::Taken { node: NodeId(2) }));
        let (held, asked) = (NodeId(2), NodeId(3));
        assert_eq!(placed(&ask(2, Some(3), None)), Err(RegisterError::Other { held, asked }));
        assert_eq!(placed(&ask(2, None, Some(3))), Err(RegisterError::Other { held, asked }));
    }

    #[test]
    fn only_a_broker_that_is_gone_is_replaced() {
        assert_eq!(placed(&ask(7, None, Some(3))), Ok((3, true)));
        assert_eq!(placed(&ask(7, None, Some(2))), Err(RegisterError::Alive { node: NodeId(2) }));
        assert!(matches!(placed(&ask(7, None, Some(9))), Err(RegisterError::NothingToReplace { .. })));
    }

    #[test]
    fn a_broker_that_answers_does_not_move() {
        let moved = |birth| Registration { address: address(9, None, 2), ..ask(birth, Some(birth), None) };
        assert_eq!(placed(&moved(3)), Ok((3, false)));
        assert!(matches!(placed(&moved(2)), Err(RegisterError::Copy { node: NodeId(2), .. })));
    }

    #[test]
    fn two_brokers_have_no_address_in_common() {
        let asked = Registration { address: address(3, None, 2), ..ask(7, None, None) };
        assert!(matches!(placed(&asked), Err(RegisterError::SameAddress { node: NodeId(3), .. })));
        let replaces = Registration { address: address(3, None, 2), ..ask(7, None, Some(3)) };
        assert_eq!(placed(&replaces), Ok((3, true)));
    }

    #[test]
    fn an_older_version_does_not_join_a_newer_cluster() {
        let refused = place(&three(), &BTreeSet::new(), 2, &ask(7, None, None));
        assert_eq!(refused, Err(RegisterError::TooOld { has: 1, needs: 2 }));
    }
}
