//! What clients see of the cluster: the leader and the replicas of a partition, which are those of its lane, and the
//! leader beside an error that says that it is not here (KIP-951).
//!
//! Pure over an image and a table of leaders. A broker may know a leader that has been replaced since: clients learn it
//! from the error of the one they ask.

use std::collections::BTreeMap;

use tidewater_storage::model::{LaneId, LeaderEpoch, NodeId};

use super::error_code::ErrorCode;
use super::topic_ref::TopicRef;
use super::wire::leader::{CurrentLeader, NodeEndpoint};
use crate::controller::image::{BrokerImage, ClusterImage, PartitionImage};
use crate::controller::leaders::Leaders;

/// Kafka's "no broker".
pub const NO_BROKER: i32 = -1;

/// Kafka's "no epoch".
const NO_EPOCH: LeaderEpoch = LeaderEpoch(-1);

/// A partition as Metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    pub leader: Option<NodeId>,
    pub epoch: LeaderEpoch,
    /// The preferred leader first.
    pub replicas: Vec<NodeId>,
    /// Replicas that have all that is committed, as the leader reports them; none while there is no leader.
    pub in_sync: Vec<NodeId>,
    /// Replicas on brokers that are not registered.
    pub offline: Vec<NodeId>,
}

impl PartitionView {
    /// The partition as this broker knows it.
    #[must_use]
    pub fn of(image: &ClusterImage, leaders: &Leaders, partition: &PartitionImage) -> Self {
        if image.followed.topic(partition.id.topic).is_some() {
            return Self::of_followed(image, partition);
        }
        let replicas = image.replicas(partition.lane);
        let led = leaders.of(partition.lane).filter(|led| image.brokers.contains_key(&led.node));
        // The table is empty for a moment after a start; a lane with one replica can have no other leader.
        let only = || replicas.first().copied().filter(|_| replicas.len() == 1);
        let leader = led.map(|led| led.node).or_else(only);
        let mut in_sync = led.map_or_else(Vec::new, |led| led.in_sync.clone());
        if let Some(leader) = leader.filter(|leader| !in_sync.contains(leader)) {
            in_sync.insert(0, leader);
        }
        let offline = replicas.iter().copied().filter(|node| !image.brokers.contains_key(node)).collect();
        Self { leader, epoch: leaders.epoch(partition), replicas, in_sync, offline }
    }

    /// A partition of a source: the broker that follows its lane, and no epoch. The source's own is in its batches; a
    /// broker knows the current one only of lanes that it follows itself.
    fn of_followed(image: &ClusterImage, partition: &PartitionImage) -> Self {
        let leader = image.followed.leader(partition.id).filter(|node| image.brokers.contains_key(node));
        let replicas: Vec<NodeId> = leader.into_iter().collect();
        Self { leader, epoch: NO_EPOCH, in_sync: replicas.clone(), replicas, offline: Vec::new() }
    }

    /// `LEADER_NOT_AVAILABLE` while there is no leader, as in Kafka's Metadata.
    #[must_use]
    pub fn error(&self) -> ErrorCode {
        if self.leader.is_some() { ErrorCode::NONE } else { ErrorCode::LEADER_NOT_AVAILABLE }
    }

    #[must_use]
    pub fn leader_id(&self) -> i32 {
        self.leader.map_or(NO_BROKER, |leader| leader.0)
    }
}

/// The controller of the cluster: the leader of lane 0, or this broker while none is known. Every broker hands changes
/// on.
#[must_use]
pub fn controller(image: &ClusterImage, leaders: &Leaders) -> NodeId {
    let led = leaders.of(LaneId::CONTROLLER).map(|led| led.node);
    led.filter(|node| image.brokers.contains_key(node)).unwrap_or(image.here)
}

/// Kafka node ids as the generated codec has them.
#[must_use]
pub fn ids(nodes: &[NodeId]) -> Vec<kafka_protocol::messages::BrokerId> {
    nodes.iter().map(|node| node.0.into()).collect()
}

/// The leaders to name in one response, with the addresses of their brokers.
#[derive(Debug)]
pub struct Hints<'a> {
    image: &'a ClusterImage,
    leaders: &'a Leaders,
    nodes: BTreeMap<NodeId, NodeEndpoint>,
}

impl<'a> Hints<'a> {
    #[must_use]
    pub fn new(image: &'a ClusterImage, leaders: &'a Leaders) -> Self {
        Self { image, leaders, nodes: BTreeMap::new() }
    }

    /// The leader to name beside an error; `None` for other errors, and while no other broker is known to lead.
    pub fn beside(&mut self, error: ErrorCode, topic: &TopicRef, index: i32) -> Option<CurrentLeader> {
        if ![ErrorCode::NOT_LEADER_OR_FOLLOWER, ErrorCode::FENCED_LEADER_EPOCH].contains(&error) {
            return None;
        }
        let (_, partition) = topic.partition(self.image, index).ok()?;
        let led = self.leaders.of(partition.lane)?;
        // A broker that says it does not lead, and finds itself in the table, knows nothing newer.
        let broker = self.image.brokers.get(&led.node).filter(|broker| broker.id != self.image.here)?;
        self.nodes.entry(broker.id).or_insert_with(|| endpoint(broker));
        Some(CurrentLeader { leader: broker.id.0, epoch: partition.epoch_in(led.term).0 })
    }

    /// The brokers named.
    #[must_use]
    pub fn nodes(self) -> Vec<NodeEndpoint> {
        self.nodes.into_values().collect()
    }
}

fn endpoint(broker: &BrokerImage) -> NodeEndpoint {
    let kafka = broker.kafka();
    NodeEndpoint { id: broker.id.0, host: kafka.host.clone(), port: kafka.port, rack: broker.rack.clone() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use tidewater_storage::model::{PartitionIndex, Term};

    use super::*;
    use crate::controller::followed::Followed;
    use crate::controller::followed::tests::{following, topic};
    use crate::kafka::handlers::fixture::{cluster, leaders_of};

    #[test]
    fn a_partition_has_the_leader_and_the_replicas_of_its_lane() {
        let image = cluster(&[("orders", 1)]);
        let partition = *image.topic("orders").expect("there").partition(0).expect("there");
        let view = PartitionView::of(&image, &leaders_of(2, 5), &partition);
        assert_eq!((view.leader_id(), view.epoch, view.error()), (2, LeaderEpoch(5), ErrorCode::NONE));
        assert_eq!((view.replicas.len(), &view.in_sync, view.offline.len()), (3, &vec![NodeId(2), NodeId(3)], 0));
        let view = PartitionView::of(&image, &Leaders::default(), &partition);
        assert_eq!((view.leader_id(), view.error()), (NO_BROKER, ErrorCode::LEADER_NOT_AVAILABLE));
        assert!(view.in_sync.is_empty());
        assert_eq!(partition.epoch_in(Term(5)), LeaderEpoch(5));
    }

    #[test]
    fn a_followed_partition_is_led_by_the_broker_that_follows_its_lane() {
        let image = following();
        let live = BTreeSet::from([NodeId(1), NodeId(2)]);
        let followed = Followed::new([topic(1, 101, "their", &[1, 2])], BTreeSet::new(), live);
        let view = Arc::new(followed).view(&image);
        let of =
            |n| PartitionView::of(&view, &Leaders::default(), view.topic("their").expect("there").at(n).expect("is"));
        for n in [0, 1].map(PartitionIndex) {
            let found = of(n);
            assert_eq!(found.epoch.0, -1);
            let expected = view.followed.leader(view.topic("their").expect("there").at(n).expect("is").id);
            // Broker 2 has left and is not registered any more.
            let expected = expected.filter(|node| *node == NodeId(1));
            assert_eq!((found.leader, found.replicas), (expected, expected.into_iter().collect()));
        }
    }

    #[test]
    fn only_another_broker_is_named_as_leader() {
        let image = cluster(&[("orders", 1)]);
        let topic = TopicRef::Name("orders".into());
        let hint = |leader, error| {
            let leaders = leaders_of(leader, 5);
            let mut hints = Hints::new(&image, &leaders);
            let hint = hints.beside(error, &topic, 0);
            (hint.map(|hint| (hint.leader, hint.epoch)), hints.nodes().len())
        };
        assert_eq!(hint(2, ErrorCode::NOT_LEADER_OR_FOLLOWER), (Some((2, 5)), 1));
        assert_eq!(hint(2, ErrorCode::FENCED_LEADER_EPOCH), (Some((2, 5)), 1));
        assert_eq!(hint(1, ErrorCode::NOT_LEADER_OR_FOLLOWER), (None, 0), "this broker itself");
        assert_eq!(hint(2, ErrorCode::MESSAGE_TOO_LARGE), (None, 0));
    }

    #[test]
    fn the_controller_is_the_leader_of_its_lane() {
        let image = cluster(&[]);
        assert_eq!(controller(&image, &Leaders::default()), NodeId(1));
        assert_eq!(controller(&image, &leaders_of(3, 2)), NodeId(3));
    }
}
