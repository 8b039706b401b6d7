//! Ids, each its own type. An id is never reused, also not after a restore.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A broker: Kafka's node id.
    NodeId(i32)
);
number!(
    /// A shard of this broker: the executor of one core.
    ShardId(u16)
);
number!(
    /// A Raft group and the partitions it carries. Lane 0 is the controller's.
    LaneId(u32)
);
number!(
    /// Raft's term of a lane.
    Term(u64)
);
number!(
    /// Kafka's leader epoch of a partition: a base of the partition plus the lane's term. Never decreases.
    LeaderEpoch(i32)
);
number!(
    /// A partition's number within its topic.
    PartitionIndex(i32)
);
number!(
    /// Grows each time a partition is created again under the same topic id.
    Incarnation(u32)
);
number!(
    /// The number of the assignment that put a replica of a lane on a broker. A broker that comes back without its disk
    /// gets another one, so that its former votes and acknowledgements bind nothing that has forgotten them.
    ReplicaIncarnation(u32)
);
number!(
    /// Kafka's id of an idempotent producer.
    ProducerId(i64)
);
number!(
    /// Kafka's epoch of an idempotent producer.
    ProducerEpoch(i16)
);

impl LaneId {
    /// The lane with the cluster's own state: topics, ids, settings, placement.
    pub const CONTROLLER: Self = Self(0);
}

/// One replica of a lane, and its id in the lane's Raft group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicaId {
    pub node: NodeId,
    pub incarnation: ReplicaIncarnation,
}

impl ReplicaId {
    /// The replica of a broker's first assignment.
    #[must_use]
    pub const fn first(node: NodeId) -> Self {
        Self { node, incarnation: ReplicaIncarnation(0) }
    }

    /// The incarnation in the high half, the broker in the low half: as long as there was one incarnation, stored ids
    /// were the broker's alone.
    ///
    /// # Panics
    /// For a negative node id, which no broker has.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        assert!(self.node.0 >= 0, "replica {self} has a negative node id");
        u64::from(self.incarnation.0) << 32 | u64::from(self.node.0.unsigned_abs())
    }

    /// The inverse of [`ReplicaId::to_u64`]; `None` if the low half is no node id.
    #[must_use]
    pub fn from_u64(id: u64) -> Option<Self> {
        let node = i32::try_from(id & u64::from(u32::MAX)).ok()?;
        Some(Self { node: NodeId(node), incarnation: ReplicaIncarnation((id >> 32) as u32) })
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation.0 {
            0 => self.node.fmt(f),
            incarnation => write!(f, "{}.{incarnation}", self.node),
        }
    }
}

/// A topic's id (KIP-516): survives restarts and restores, never reused for another topic of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One incarnation of one partition: the key under which everything about it is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    pub topic: TopicId,
    pub index: PartitionIndex,
    pub incarnation: Incarnation,
}

impl PartitionId {
    /// Bytes of [`PartitionId::to_bytes`].
    pub const ENCODED_LEN: usize = 24;

    /// 16 bytes topic id, then index and incarnation, big-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        out[..16].copy_from_slice(self.topic.0.as_bytes());
        out[16..20].copy_from_slice(&self.index.0.to_be_bytes());
        out[20..].copy_from_slice(&self.incarnation.0.to_be_bytes());
        out
    }

    /// The inverse of [`PartitionId::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::ENCODED_LEN]) -> Self {
        let [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb, tc, td, te, tf, p0, p1, p2, p3, i0, i1, i2, i3] = *bytes;
        Self {
            topic: TopicId(Uuid::from_bytes([t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, ta, tb, tc, td, te, tf])),
            index: PartitionIndex(i32::from_be_bytes([p0, p1, p2, p3])),
            incarnation: Incarnation(u32::from_be_bytes([i0, i1, i2, i3])),
        }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.topic, self.index, self.incarnation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_of_the_first_incarnation_has_its_brokers_number() {
        assert_eq!(ReplicaId::first(NodeId(7)).to_u64(), 7);
        for replica in
            [ReplicaId::first(NodeId(0)), ReplicaId { node: NodeId(i32::MAX), incarnation: ReplicaIncarnation(3) }]
        {
            assert_eq!(ReplicaId::from_u64(replica.to_u64()), Some(replica));
        }
        assert_eq!(ReplicaId::from_u64(u64::MAX), None);
    }

    #[test]
    fn partition_id_round_trips() {
        let id = PartitionId {
            topic: TopicId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10)),
            index: PartitionIndex(7),
            incarnation: Incarnation(3),
        };
        assert_eq!(PartitionId::from_bytes(&id.to_bytes()), id);
    }
}
