//! `/v1/cluster/…`: health, brokers, lanes, partitions; the change of a leader, more replicas.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tidewater_storage::model::{LaneId, NodeId};

use super::documents::{BrokerRow, HeldReplica, LaneRow, PartitionRow, PartitionState};
use super::facts::ClusterFacts;
use super::gather::{ClusterOperator, TransferError};
use super::health::{self, judge};
use super::rebuilding;
use crate::admin::report::ReportRequest;
use crate::admin::state::{AdminState, refused};
use crate::admin::survey::soon;
use crate::controller::ask::TopicError;
use crate::controller::client::CONTROLLER_SHARD;
use crate::kafka::view::PartitionView;

#[derive(Debug, Deserialize)]
pub(in crate::admin) struct Of {
    topic: Option<String>,
}

/// The facts, or the refusal of a broker whose shard 0 does not answer.
async fn facts(state: &AdminState) -> Result<ClusterFacts, Response> {
    let _turn = state.surveys.acquire().await;
    let asked = soon(state.services.reports.call(CONTROLLER_SHARD, ReportRequest::Cluster)).await;
    asked.ok_or_else(|| refused(StatusCode::SERVICE_UNAVAILABLE, "shard 0 did not answer in time; ask again"))
}

pub(in crate::admin) async fn health(State(state): State<AdminState>) -> Response {
    match facts(&state).await {
        Ok(facts) => Json(judge(&facts)).into_response(),
        Err(refusal) => refusal,
    }
}

pub(in crate::admin) async fn brokers(State(state): State<AdminState>) -> Response {
    match facts(&state).await {
        Ok(facts) => Json(broker_rows(&facts)).into_response(),
        Err(refusal) => refusal,
    }
}

pub(in crate::admin) async fn lanes(State(state): State<AdminState>) -> Response {
    match facts(&state).await {
        Ok(facts) => Json(lane_rows(&facts)).into_response(),
        Err(refusal) => refusal,
    }
}

pub(in crate::admin) async fn partitions(State(state): State<AdminState>, Query(of): Query<Of>) -> Response {
    match facts(&state).await {
        Ok(facts) => match of.topic {
            Some(topic) if facts.image.topic(&topic).is_none() => {
                refused(StatusCode::NOT_FOUND, &format!("topic {topic} does not exist"))
            }
            topic => Json(partition_rows(&facts, topic.as_deref())).into_response(),
        },
        Err(refusal) => refusal,
    }
}

pub(in crate::admin) async fn transfer(
    State(state): State<AdminState>,
    Path((lane, to)): Path<(u32, i32)>,
) -> Response {
    let operator = ClusterOperator::new(state.services.reports.clone());
    match operator.transfer(LaneId(lane), NodeId(to)).await {
        Ok(()) => Json(serde_json::json!({ "lane": lane, "leader": to })).into_response(),
        Err(error) => {
            let status = match &error {
                TransferError::UnknownLane(_) => StatusCode::NOT_FOUND,
                TransferError::NotAReplica(..) | TransferError::Already(..) => StatusCode::CONFLICT,
                TransferError::NoLeader(_) | TransferError::Failed { .. } => StatusCode::SERVICE_UNAVAILABLE,
            };
            refused(status, &error.to_string())
        }
    }
}

pub(in crate::admin) async fn grow(State(state): State<AdminState>, Path(factor): Path<u16>) -> Response {
    let asked = state.services.reports.call(CONTROLLER_SHARD, |reply| ReportRequest::Grow(factor, reply)).await;
    match asked {
        Ok(Ok(lanes)) => Json(serde_json::json!({ "replication_factor": factor, "lanes": lanes })).into_response(),
        Ok(Err(error @ (TopicError::Unavailable | TopicError::TimedOut))) => {
            refused(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; try again"))
        }
        Ok(Err(error)) => refused(StatusCode::CONFLICT, &error.to_string()),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "the broker is stopping"),
    }
}

pub(in crate::admin) async fn end_hold(State(state): State<AdminState>) -> Response {
    match state.services.reports.call(CONTROLLER_SHARD, ReportRequest::EndHold).await {
        Ok(Ok(held)) => Json(serde_json::json!({ "held": held })).into_response(),
        Ok(Err(error)) => refused(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}; try again")),
        Err(_) => refused(StatusCode::SERVICE_UNAVAILABLE, "the broker is stopping"),
    }
}

fn broker_rows(facts: &ClusterFacts) -> Vec<BrokerRow> {
    let controller = facts.leaders.of(LaneId::CONTROLLER).map(|led| led.node);
    let here = facts.brokers.get(&facts.image.here).and_then(|here| here.as_ref().ok());
    let rtt = |id: NodeId| here.and_then(|here| here.peers.iter().find(|peer| peer.node == id.0)?.rtt_us);
    let rebuilds = rebuilding::of(facts);
    let rows = facts.image.brokers.values().map(|broker| {
        let id = broker.id;
        let answer = facts.brokers.get(&id).map(Result::as_ref);
        let found = answer.and_then(Result::ok);
        let replicas = facts.image.lanes.values().filter(|lane| lane.replicas.iter().any(|replica| replica.node == id));
        BrokerRow {
            id: id.0,
            here: id == facts.image.here,
            controller: controller == Some(id),
            kafka: format!("{}:{}", broker.kafka().host, broker.kafka().port),
            rpc: broker.rpc.as_ref().map(|(host, port)| format!("{host}:{port}")),
            rack: broker.rack.clone(),
            reachable: found.is_some(),
            reason: answer.and_then(Result::err).cloned(),
            version: found.map(|found| found.version.clone()),
            lanes_led: facts.leaders.iter().filter(|(_, led)| led.node == id && found.is_some()).count(),
            replicas: replicas.count(),
            connections: found.map(|found| found.connections),
            disk_used_bytes: found.map(|found| found.disk_used_bytes),
            disk_limit_bytes: found.map(|found| found.disk_limit_bytes),
            disk_admissible_bytes: found.map(|found| found.disk_admissible_bytes),
            rtt_us: rtt(id),
            rebuild: rebuilds.iter().find(|rebuilding| rebuilding.broker == id.0).cloned(),
        }
    });
    rows.collect()
}

fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|node| node.0).collect()
}

fn lane_rows(facts: &ClusterFacts) -> Vec<LaneRow> {
    let rows = facts.image.lanes.iter().map(|(lane, image)| {
        let (led, own) = (facts.leaders.of(*lane), health::of_leader(facts, *lane));
        LaneRow {
            lane: lane.0,
            factor: image.factor,
            replicas: image.replicas.iter().map(|replica| replica.node.0).collect(),
            leader: led.map(|led| led.node.0),
            term: led.map(|led| led.term.0),
            in_sync: health::in_sync(facts, *lane).map_or_else(Vec::new, |nodes| ids(&nodes)),
            voters: own.map_or_else(Vec::new, |own| own.voters.clone()),
            learners: own.map_or_else(Vec::new, |own| own.learners.clone()),
            followers: own.map_or_else(Vec::new, |own| own.followers.clone()),
            held: held_replicas(facts, *lane),
        }
    });
    rows.collect()
}

fn held_replicas(facts: &ClusterFacts, lane: LaneId) -> Vec<HeldReplica> {
    let answers = facts.brokers.iter().filter_map(|(node, answer)| Some((node, answer.as_ref().ok()?)));
    let held = answers.flat_map(|(node, broker)| {
        broker.lanes.iter().filter(|own| own.lane == lane.0).map(|own| HeldReplica {
            node: node.0,
            shard: own.shard,
            term: own.term,
            leader: own.leader,
            heard_ms: own.heard_ms.filter(|_| !own.leads),
            applied: own.applied,
        })
    });
    held.collect()
}

fn partition_rows(facts: &ClusterFacts, of: Option<&str>) -> Vec<PartitionRow> {
    let topics = facts.image.topics.values().filter(|topic| of.is_none_or(|name| topic.name.as_str() == name));
    let rows = topics.flat_map(|topic| {
        topic.partitions.iter().map(|partition| {
            let view = PartitionView::of(&facts.image, &facts.leaders, partition);
            let preferred = view.replicas.first() == view.leader.as_ref();
            let state = match () {
                () if view.leader.is_none() || !health::is_led(facts, partition.lane) => PartitionState::Leaderless,
                () if view.in_sync.len() < view.replicas.len() => PartitionState::UnderReplicated,
                () if !preferred => PartitionState::NotPreferred,
                () => PartitionState::Healthy,
            };
            PartitionRow {
                topic: topic.name.to_string(),
                partition: partition.id.index.0,
                lane: partition.lane.0,
                leader: view.leader.map(|leader| leader.0),
                leader_epoch: view.epoch.0,
                replicas: ids(&view.replicas),
                in_sync: ids(&view.in_sync),
                state,
            }
        })
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::admin::cluster::facts::BrokerFacts;
    use crate::kafka::handlers::fixture::{cluster, leaders_of};

    #[test]
    fn brokers_lanes_and_partitions_are_listed_as_they_are() {
        let answers = [(NodeId(1), Ok(BrokerFacts::default())), (NodeId(2), Err("away".to_owned()))];
        let image = Arc::new(cluster(&[("orders", 1), ("users", 2)]));
        let facts = ClusterFacts { image, leaders: Arc::new(leaders_of(2, 5)), brokers: answers.into() };
        let rows = broker_rows(&facts);
        let of = |row: &BrokerRow| (row.id, row.here, row.controller, row.reachable, row.lanes_led, row.replicas);
        let expected = [(1, true, false, true, 0, 2), (2, false, true, false, 0, 2), (3, false, false, false, 0, 2)];
        assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected);
        assert_eq!(rows[1].reason.as_deref(), Some("away"));
        let lanes = lane_rows(&facts);
        assert_eq!((lanes.len(), lanes[1].leader, &lanes[1].replicas), (2, Some(2), &vec![2, 3, 1]));
        let rows = partition_rows(&facts, None);
        assert_eq!(
            (rows.len(), rows[0].state, rows[0].leader),
            (3, PartitionState::Leaderless, Some(2)),
            "its leader is away"
        );
        assert_eq!(partition_rows(&facts, Some("users")).len(), 2);
    }
}
