//! Which lanes of the lane table fall to a shard, and as which replica.
//!
//! A lane is permanent; the number of shards decides on which shard of this broker it runs
//! (`controller::state::shard_of`), so a broker with fewer shards than lanes runs several lanes on one. Pure.

use std::collections::BTreeMap;

use tidewater_storage::model::{LaneId, NodeId, ReplicaId, ReplicaIncarnation, ShardId};
use tidewater_tiering::keys::Home;

use crate::controller::image::LaneImage;
use crate::controller::state::shard_of;

/// A shard among the shards of its node. A *message*.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    pub here: ShardId,
    /// Shards of the node.
    pub shards: u16,
    /// Data lanes of a node that is a cluster of its own: the highest number of shards it has had.
    pub lanes: u32,
    pub node: NodeId,
    /// With which this data directory became the broker `node`.
    pub incarnation: ReplicaIncarnation,
    pub home: Home,
    /// `producer.id.expiration.ms`.
    pub forget_producers_after_ms: u64,
}

impl Seat {
    /// The data lanes of a cluster of one that run here.
    pub(super) fn data_lanes(self) -> impl Iterator<Item = LaneId> {
        (1..=self.lanes).map(LaneId).filter(move |lane| self.runs(*lane))
    }

    /// Whether this shard is the one that runs the lane, if this broker does.
    pub(super) fn runs(self, lane: LaneId) -> bool {
        shard_of(lane, self.shards) == self.here
    }

    /// This broker's replica of lanes that were never anywhere else.
    #[must_use]
    pub fn replica(self) -> ReplicaId {
        ReplicaId { node: self.node, incarnation: self.incarnation }
    }
}

/// A lane that this shard runs, and as which replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub lane: LaneId,
    pub me: ReplicaId,
    /// The voters the lane begins with.
    pub voters: Vec<ReplicaId>,
    /// This data directory has had the replica from the lane's beginning, so an empty log means a new lane.
    pub may_initialise: bool,
    /// Position among the lane's replicas; the preferred leader has 0.
    pub rank: usize,
}

/// The lanes of the lane table that run on this shard.
#[must_use]
pub fn assignments(seat: Seat, table: &BTreeMap<LaneId, LaneImage>) -> Vec<Assignment> {
    let here = table.iter().filter(|(lane, _)| **lane != LaneId::CONTROLLER && seat.runs(**lane));
    here.filter_map(|(lane, image)| {
        let rank = image.replicas.iter().position(|replica| replica.node == seat.node)?;
        let me = image.replicas[rank];
        // A replica of an earlier incarnation was on a disk that is lost, with the votes it gave. Only an image that is
        // older than the replacement names it.
        let on_this_disk = me.incarnation >= seat.incarnation;
        let may_initialise = image.initial.contains(&me);
        on_this_disk.then(|| Assignment { lane: *lane, me, voters: image.initial.clone(), may_initialise, rank })
    })
    .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use tidewater_tiering::keys::{ClusterId, LineageEpoch};
    use uuid::Uuid;

    use super::*;

    pub(in crate::node::lanes) fn seat(node: i32, incarnation: u32) -> Seat {
        Seat {
            here: ShardId(0),
            shards: 2,
            lanes: 2,
            node: NodeId(node),
            incarnation: ReplicaIncarnation(incarnation),
            home: Home { cluster: ClusterId(Uuid::from_u128(7)), epoch: LineageEpoch(1) },
            forget_producers_after_ms: 1000,
        }
    }

    pub(in crate::node::lanes) fn replica(node: i32, incarnation: u32) -> ReplicaId {
        ReplicaId { node: NodeId(node), incarnation: ReplicaIncarnation(incarnation) }
    }

    #[test]
    fn a_shard_runs_the_lanes_of_the_table_that_fall_to_it() {
        let first = vec![replica(1, 0), replica(2, 0), replica(3, 0)];
        let image = |replicas: Vec<ReplicaId>| LaneImage { factor: 3, replicas, initial: first.clone() };
        let table = BTreeMap::from([
            (LaneId(0), image(first.clone())),
            (LaneId(1), image(first.clone())),
            (LaneId(2), image(first.clone())),
            (LaneId(3), image(vec![replica(4, 0)])),
            (LaneId(5), image(vec![replica(3, 0), replica(1, 0)])),
        ]);
        let found = assignments(seat(1, 0), &table);
        let lanes: Vec<_> = found.iter().map(|a| (a.lane.0, a.rank, a.may_initialise)).collect();
        assert_eq!(lanes, [(1, 0, true), (5, 1, true)], "lane 2 is the other shard's, lane 3 another broker's");
    }

    #[test]
    fn a_lane_is_never_begun_again_on_an_empty_disk() {
        let first = vec![replica(1, 0), replica(2, 0), replica(3, 0)];
        let replicas = vec![replica(1, 0), replica(2, 0), replica(3, 4)];
        let table = BTreeMap::from([(LaneId(1), LaneImage { factor: 3, replicas, initial: first })]);
        let found = assignments(seat(3, 4), &table);
        assert_eq!((found[0].me, found[0].may_initialise), (replica(3, 4), false));
        // An image from before the replacement names the lost disk's replica, whose votes this one does not know.
        let first = vec![replica(1, 0), replica(3, 0)];
        let old = BTreeMap::from([(LaneId(1), LaneImage { factor: 2, replicas: first.clone(), initial: first })]);
        assert_eq!(assignments(seat(3, 4), &old), []);
        // A lane made after the disk was replaced begins on it.
        let first = vec![replica(1, 0), replica(3, 4)];
        let new = BTreeMap::from([(LaneId(1), LaneImage { factor: 2, replicas: first.clone(), initial: first })]);
        assert!(assignments(seat(3, 4), &new)[0].may_initialise);
    }
}
