//! `ElectLeaders` (43, KIP-460): has the preferred replica of a partition lead it, by a transfer of its lane. All
//! partitions of the lane move with it. An unclean election is never made: a leader never lacks an acknowledged record.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures::future::{Either, join_all, select};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use tidewater_storage::model::{LaneId, NodeId};

use crate::admin::cluster::TransferError;
use crate::controller::image::ClusterImage;
use crate::controller::leaders::Leaders;
use crate::kafka::RequestContext;
use crate::kafka::error_code::ErrorCode;
use crate::kafka::patience;
use crate::kafka::view::PartitionView;
use crate::kafka::words::{message, topic_name};

/// Kafka's election type: the first replica in sync, even if it is not the preferred one.
const UNCLEAN: i8 = 1;

/// Hands each lane once to its preferred replica, side by side.
pub async fn handle(ctx: &RequestContext, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let patience = patience::of(request.timeout_ms);
    let plan = plan(&ctx.image(), &ctx.leaders(), request);
    let lanes: BTreeSet<(LaneId, NodeId)> = plan.iter().flat_map(|(_, of)| of).filter_map(Planned::transfer).collect();
    let done = lanes.into_iter().map(|(lane, to)| async move {
        let (transfer, late) = (ctx.broker.cluster.transfer(lane, to), ctx.broker.env.tasks.sleep(patience));
        match select(pin!(transfer), pin!(late)).await {
            Either::Left((done, _)) => (lane, Some(done)),
            Either::Right(_) => (lane, None),
        }
    });
    let done: BTreeMap<LaneId, Transferred> = join_all(done).await.into_iter().collect();
    let results = plan.into_iter().map(|(topic, partitions)| {
        let results = partitions.into_iter().map(|planned| planned.result(&done)).collect();
        ReplicaElectionResult::default().with_topic(topic).with_partition_result(results)
    });
    ElectLeadersResponse::default().with_replica_election_results(results.collect())
}

/// What became of a lane; `None`: the client's time is over, and the transfer goes on.
type Transferred = Option<Result<(), TransferError>>;

/// What is to be done for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Planned {
    Refused { partition: i32, error: ErrorCode, why: String },
    Transfer { partition: i32, lane: LaneId, to: NodeId },
}

impl Planned {
    fn transfer(&self) -> Option<(LaneId, NodeId)> {
        match self {
            Self::Refused { .. } => None,
            Self::Transfer { lane, to, .. } => Some((*lane, *to)),
        }
    }

    fn result(self, done: &BTreeMap<LaneId, Transferred>) -> PartitionResult {
        let (partition, error, why) = match self {
            Self::Refused { partition, error, why } => (partition, error, Some(why)),
            Self::Transfer { partition, lane, .. } => match done.get(&lane) {
                Some(None) => {
                    let why = "the lane was not handed over within the request's timeout; it may be later";
                    (partition, ErrorCode::REQUEST_TIMED_OUT, Some(why.to_owned()))
                }
                Some(Some(Err(TransferError::Already(..)))) => {
                    (partition, ErrorCode::ELECTION_NOT_NEEDED, Some("the preferred replica leads".to_owned()))
                }
                Some(Some(Err(error))) => {
                    (partition, ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE, Some(error.to_string()))
                }
                Some(Some(Ok(()))) | None => (partition, ErrorCode::NONE, None),
            },
        };
        PartitionResult::default()
            .with_partition_id(partition)
            .with_error_code(error.number())
            .with_error_message(why.and_then(|why| message(&why)))
    }
}

/// Every partition asked for; for a request of all partitions those that need an election, as by Kafka.
fn plan(image: &ClusterImage, leaders: &Leaders, request: ElectLeadersRequest) -> Vec<(TopicName, Vec<Planned>)> {
    let kind = request.election_type;
    let needed = |planned: &Planned| !matches!(planned, Planned::Refused { error: ErrorCode::ELECTION_NOT_NEEDED, .. });
    match request.topic_partitions {
        Some(asked) => asked
            .into_iter()
            .map(|topic| {
                let name = topic.topic.as_str();
                let planned = topic.partitions.iter().map(|n| one(image, leaders, kind, name, *n)).collect();
                (topic.topic, planned)
            })
            .collect(),
        None => image
            .topics
            .values()
            .map(|topic| {
                let planned = topic
                    .partitions
                    .iter()
                    .map(|partition| one(image, leaders, kind, topic.name.as_str(), partition.id.index.0));
                (topic_name(topic.name.as_str()), planned.filter(needed).collect::<Vec<_>>())
            })
            .filter(|(_, planned)| !planned.is_empty())
            .collect(),
    }
}

fn one(image: &ClusterImage, leaders: &Leaders, kind: i8, name: &str, partition: i32) -> Planned {
    let refused = |error, why: String| Planned::Refused { partition, error, why };
    let Some(topic) = image.topic(name) else {
        return refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("No such topic as {name}"));
    };
    let Some(found) = topic.partition(partition) else {
        return refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, format!("No such partition as {name}-{partition}"));
    };
    let view = PartitionView::of(image, leaders, found);
    match (view.leader, view.replicas.first()) {
        (Some(_), _) if kind == UNCLEAN => {
            refused(ErrorCode::ELECTION_NOT_NEEDED, "the partition has a leader".to_owned())
        }
        (None, _) if kind == UNCLEAN => {
            let why = "no replica that has every acknowledged record can be elected now, and no other ever is";
            refused(ErrorCode::ELIGIBLE_LEADERS_NOT_AVAILABLE, why.to_owned())
        }
        (Some(leader), Some(preferred)) if leader == *preferred => {
            refused(ErrorCode::ELECTION_NOT_NEEDED, "the preferred replica leads".to_owned())
        }
        (Some(_), Some(preferred)) if view.in_sync.contains(preferred) => {
            Planned::Transfer { partition, lane: found.lane, to: *preferred }
        }
        _ => {
            let why = "the preferred replica is not in sync, or the partition has no leader that could hand it over";
            refused(ErrorCode::PREFERRED_LEADER_NOT_AVAILABLE, why.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::ApiKey;
    use kafka_protocol::messages::elect_leaders_request::TopicPartitions;

    use super::*;
    use crate::kafka::handlers::fixture::{cluster, encodes_in_every_version, image, leaders, leaders_of};

    fn asked(names: &[&str]) -> ElectLeadersRequest {
        let of = |name: &&str| TopicPartitions::default().with_topic(topic_name(name)).with_partitions(vec![1, 2]);
        ElectLeadersRequest::default().with_topic_partitions(Some(names.iter().map(of).collect()))
    }

    fn answered(plan: Vec<(TopicName, Vec<Planned>)>, done: &BTreeMap<LaneId, Transferred>) -> Vec<i16> {
        let results = plan.into_iter().flat_map(|(_, of)| of).map(|planned| planned.result(done)).collect::<Vec<_>>();
        let codes = results.iter().map(|result| result.error_code).collect();
        let topic = ReplicaElectionResult::default().with_partition_result(results);
        let response = ElectLeadersResponse::default().with_replica_election_results(vec![topic]);
        encodes_in_every_version(ApiKey::ElectLeaders, &response);
        codes
    }

    #[test]
    fn one_broker_needs_no_election() {
        let image = image(&[("a", 2)]);
        let codes = answered(plan(&image, &leaders(), asked(&["a", "b"])), &BTreeMap::new());
        assert_eq!(codes, [84, 3, 3, 3]);
        let all = plan(&image, &leaders(), ElectLeadersRequest::default().with_topic_partitions(None));
        assert!(all.is_empty());
    }

    #[test]
    fn a_lane_is_handed_to_its_preferred_replica_if_that_is_in_sync() {
        let image = cluster(&[("a", 3)]);
        let all =
            |leader| plan(&image, &leaders_of(leader, 5), ElectLeadersRequest::default().with_topic_partitions(None));
        assert!(all(2).is_empty(), "the preferred one leads");
        let mut in_sync = leaders_of(3, 5);
        let planned = plan(&image, &in_sync, asked(&["a"]));
        assert_eq!(answered(planned, &BTreeMap::new()), [80, 80], "2 is not in sync");
        let mut report = crate::controller::leaders::LeaderReport { from: NodeId(3), lanes: Vec::new(), full: None };
        report.lanes.push(crate::controller::leaders::LaneReport {
            lane: LaneId(1),
            term: tidewater_storage::model::Term(6),
            leader: Some(NodeId(3)),
            in_sync: vec![NodeId(3), NodeId(2)],
            followed: 1,
        });
        assert!(in_sync.see(&report));
        let planned = plan(&image, &in_sync, asked(&["a"]));
        let transfers: BTreeSet<_> = planned[0].1.iter().filter_map(Planned::transfer).collect();
        assert_eq!(transfers, BTreeSet::from([(LaneId(1), NodeId(2))]), "once for both partitions");
        let failed = TransferError::NoLeader(LaneId(1));
        assert_eq!(answered(planned.clone(), &BTreeMap::from([(LaneId(1), Some(Ok(())))])), [0, 0]);
        assert_eq!(answered(planned.clone(), &BTreeMap::from([(LaneId(1), None)])), [7, 7], "in the client's time");
        assert_eq!(answered(planned, &BTreeMap::from([(LaneId(1), Some(Err(failed)))])), [80, 80]);
    }

    #[test]
    fn an_unclean_election_is_never_made() {
        let image = cluster(&[("a", 3)]);
        let ask = |leaders: &Leaders| {
            answered(plan(&image, leaders, asked(&["a"]).with_election_type(UNCLEAN)), &BTreeMap::new())
        };
        assert_eq!(ask(&leaders_of(3, 5)), [84, 84]);
        assert_eq!(ask(&Leaders::default()), [83, 83]);
    }
}
