//! The lane table: which brokers carry each lane. Controller state; a lane is never removed from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, NodeId, ReplicaId, ReplicaIncarnation};

/// Every lane with its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneTable {
    pub lanes: BTreeMap<LaneId, LaneRecord>,
    /// The incarnation of the next assignment. Never given twice: an earlier replica on the same broker may have left
    /// votes and acknowledgements.
    pub next_incarnation: u32,
}

/// A lane and the replicas it shall have. Its leader brings the Raft group's membership to these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaneRecord {
    /// Replicas it shall have.
    pub factor: u16,
    /// The one that shall lead comes first.
    pub replicas: Vec<ReplicaId>,
    /// The voters the lane begins with; never changes.
    pub initial: Vec<ReplicaId>,
    pub pool: Pool,
}

/// Which partitions a lane takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pool {
    /// None: the controller's lane.
    Controller,
    /// Partitions of any topic of its factor.
    Shared,
}

impl LaneTable {
    /// The highest lane id; 0 in an empty table.
    #[must_use]
    pub fn last(&self) -> LaneId {
        self.lanes.keys().next_back().copied().unwrap_or(LaneId::CONTROLLER)
    }

    /// The lanes that take partitions of topics with this replication factor, by id.
    pub fn pool(&self, factor: u16) -> impl Iterator<Item = (LaneId, &LaneRecord)> {
        self.shared().filter(move |(_, record)| record.factor == factor)
    }

    /// The lanes that take partitions, by id.
    pub fn shared(&self) -> impl Iterator<Item = (LaneId, &LaneRecord)> {
        self.lanes.iter().filter(|(_, record)| record.pool == Pool::Shared).map(|(lane, record)| (*lane, record))
    }

    /// An incarnation that no assignment had before.
    pub(super) fn take_incarnation(&mut self) -> ReplicaIncarnation {
        // Incarnation 0 is that of lanes that begin with their brokers.
        let next = self.next_incarnation.max(1);
        self.next_incarnation = next.checked_add(1).expect("a cluster makes no four billion assignments");
        ReplicaIncarnation(next)
    }
}

impl LaneRecord {
    /// A lane that begins with these replicas.
    #[must_use]
    pub fn new(pool: Pool, replicas: Vec<ReplicaId>) -> Self {
        let factor = u16::try_from(replicas.len()).unwrap_or(u16::MAX);
        Self { factor, initial: replicas.clone(), replicas, pool }
    }

    /// Brokers that shall carry the lane, the one that shall lead first.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.replicas.iter().map(|replica| replica.node)
    }

    /// The broker that shall lead it.
    #[must_use]
    pub fn preferred(&self) -> Option<NodeId> {
        self.nodes().next()
    }
}
