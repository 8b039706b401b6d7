//! `/v1/replicas`: the sources of the cluster. `GET` lists them or describes one, `POST` follows one (after its bucket
//! was proved), `DELETE` follows one no longer.
//!
//! What a source holds is known to the broker that is asked; its lanes are followed by all brokers, which are asked
//! too.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidewater_tiering::keys::ClusterName;
use uuid::Uuid;

use super::cluster::facts::ClusterFacts;
use super::report::ReportRequest;
use super::state::{AdminState, refused};
use super::survey::soon;
use crate::controller::ask::TopicError;
use crate::controller::client::CONTROLLER_SHARD;
use crate::controller::image::ClusterImage;
use crate::controller::sources::{SourceId, SourceRecord, SourceSpec};
use crate::replica::facts::{FollowedLaneFacts, FollowedTopicFacts};
use crate::replica::prove::{self, Proof};
use crate::replica::published::{Published, SourceState};

/// The body of `POST /v1/replicas`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    name: String,
    from: String,
    cluster_name: String,
    #[serde(default = "all_topics")]
    topics: String,
}

fn all_topics() -> String {
    "*".to_owned()
}

/// A source of `GET /v1/replicas`.
#[derive(Debug, Serialize)]
struct SourceRow {
    name: String,
    id: Uuid,
    from: String,
    cluster_name: String,
    cluster: Uuid,
    pattern: String,
    state: &'static str,
    /// Why it is not followed, or not now.
    reason: Option<String>,
    /// Its lineage epoch.
    epoch: Option<u32>,
    /// Topics that match the pattern, those that another topic of the same name hides among them.
    topics: usize,
    partitions: usize,
    /// That clients can read.
    records: u64,
    /// Of the lane that lags most; `None` before all lanes are read.
    lag_ms: Option<u64>,
    requests_per_hour: u64,
}

/// `GET /v1/replicas/{source}`.
#[derive(Debug, Serialize)]
struct SourceStatus {
    source: SourceRow,
    topics: Vec<TopicRow>,
    lanes: Vec<LaneRow>,
}

#[derive(Debug, Serialize)]
struct TopicRow {
    name: String,
    id: Uuid,
    partitions: usize,
    records: Option<u64>,
    bytes: Option<u64>,
    /// Why clients do not see it.
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct LaneRow {
    lane: u32,
    /// The broker that follows it.
    broker: i32,
    shard: Option<u16>,
    bundle: Option<u64>,
    lag_ms: Option<u64>,
    state: String,
    reason: Option<String>,
}

/// The cluster as far as its sources are concerned.
struct Sources {
    facts: ClusterFacts,
    published: Arc<Published>,
}

async fn gather(state: &AdminState) -> Option<Sources> {
    let _turn = state.surveys.acquire().await;
    let facts = soon(state.services.reports.call(CONTROLLER_SHARD, ReportRequest::Cluster)).await?;
    Some(Sources { facts, published: Arc::clone(&state.services.replicas.published.borrow()) })
}

fn silent() -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, "shard 0 does not answer; ask again")
}

pub(super) async fn list(State(state): State<AdminState>) -> Response {
    let Some(sources) = gather(&state).await else { return silent() };
    let image = &sources.facts.image;
    let rows: Vec<SourceRow> = image.sources.iter().map(|(id, record)| sources.row(*id, record)).collect();
    Json(rows).into_response()
}

pub(super) async fn describe(State(state): State<AdminState>, Path(name): Path<String>) -> Response {
    let Some(sources) = gather(&state).await else { return silent() };
    let image = &sources.facts.image;
    let Some((id, record)) = named(image, &name) else { return unknown(&name) };
    let status = SourceStatus { source: sources.row(id, record), topics: sources.topics(id), lanes: sources.lanes(id) };
    Json(status).into_response()
}

pub(super) async fn create(State(state): State<AdminState>, Json(asked): Json<Asked>) -> Response {
    let wrong = |why: String| refused(StatusCode::BAD_REQUEST, &why);
    let (Ok(name), Ok(cluster_name)) = (ClusterName::new(&asked.name), ClusterName::new(&asked.cluster_name)) else {
        return wrong(format!(
            "a source's name and its cluster's are 1 to 64 of a-z, 0-9, '.', '_', '-', not {:?} and {:?}",
            asked.name, asked.cluster_name
        ));
    };
    let Proof { cluster, topics, partitions } =
        match prove::prove(&state.services.replicas.side, &asked.from, &cluster_name, &asked.topics).await {
            Ok(proof) => proof,
            Err(error) => return refused(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        };
    let spec = SourceSpec { name, url: asked.from, cluster_name, cluster, topics: asked.topics };
    let shown = serde_json::json!({
        "name": spec.name, "from": spec.url, "cluster_name": spec.cluster_name, "cluster": cluster,
        "pattern": spec.topics, "topics": topics, "partitions": partitions,
    });
    let id = SourceId(Uuid::new_v4());
    let ask = |reply| ReportRequest::Follow(id, spec, reply);
    match state.services.reports.call(CONTROLLER_SHARD, ask).await {
        Ok(done) => done.map_or_else(|error| not_changed(&error), |()| Json(shown).into_response()),
        Err(_) => silent(),
    }
}

pub(super) async fn delete(State(state): State<AdminState>, Path(name): Path<String>) -> Response {
    let image = Arc::clone(&state.services.images.borrow());
    let Some((id, _)) = named(&image, &name) else { return unknown(&name) };
    match state.services.reports.call(CONTROLLER_SHARD, |reply| ReportRequest::Unfollow(id, reply)).await {
        Ok(Ok(())) => Json(serde_json::json!({ "name": name, "id": id })).into_response(),
        Ok(Err(error)) => not_changed(&error),
        Err(_) => silent(),
    }
}

fn not_changed(error: &TopicError) -> Response {
    match error {
        TopicError::Unavailable => {
            refused(StatusCode::SERVICE_UNAVAILABLE, "the controller's lane has no leader at the moment; try again")
        }
        error => refused(StatusCode::CONFLICT, &error.to_string()),
    }
}

fn unknown(name: &str) -> Response {
    refused(StatusCode::NOT_FOUND, &format!("no source is named {name}"))
}

fn named<'a>(image: &'a ClusterImage, name: &str) -> Option<(SourceId, &'a SourceRecord)> {
    image.sources.iter().find(|(_, record)| record.spec.name.as_str() == name).map(|(id, record)| (*id, record))
}

impl Sources {
    fn row(&self, id: SourceId, record: &SourceRecord) -> SourceRow {
        let lanes = self.lanes(id);
        let now = self.published.sources.get(&id);
        let (state, reason) = now.map_or((SourceState::Opening, None), |now| (now.state, now.reason.clone()));
        let behind = lanes.iter().find_map(|lane| {
            let why = lane.reason.as_ref()?;
            Some(format!("lane {} on broker {}: {why}", lane.lane, lane.broker))
        });
        let topics = self.topics(id);
        let asked = self.facts.brokers.values().flatten();
        let requests = asked.flat_map(|broker| &broker.replicas.sources).filter(|source| source.source == id.0);
        let spec = &record.spec;
        SourceRow {
            name: spec.name.to_string(),
            id: id.0,
            from: spec.url.clone(),
            cluster_name: spec.cluster_name.to_string(),
            cluster: spec.cluster,
            pattern: spec.topics.clone(),
            state: if behind.is_some() && state == SourceState::Following { "lagging" } else { state.name() },
            reason: reason.or(behind),
            epoch: now.and_then(|now| now.open.as_ref()).map(|open| open.home.epoch.0),
            topics: topics.len(),
            partitions: topics.iter().map(|topic| topic.partitions).sum(),
            records: topics.iter().filter_map(|topic| topic.records).sum(),
            lag_ms: lanes.iter().map(|lane| lane.lag_ms).max_by_key(|lag| lag.unwrap_or(u64::MAX)).flatten(),
            requests_per_hour: requests.map(|source| source.requests_per_hour).sum(),
        }
    }

    fn topics(&self, id: SourceId) -> Vec<TopicRow> {
        let followed = &self.published.followed;
        let view = followed.view(&self.facts.image);
        let mut counted: BTreeMap<Uuid, (u64, u64)> = BTreeMap::new();
        for FollowedTopicFacts { topic, records, bytes } in
            self.facts.brokers.values().flatten().flat_map(|broker| &broker.replicas.topics)
        {
            let sums = counted.entry(*topic).or_default();
            *sums = (sums.0 + records, sums.1 + bytes);
        }
        let mut rows: Vec<TopicRow> = followed
            .topics_of(id)
            .map(|topic| {
                let sums = counted.get(&topic.id.0);
                let hides = view.topic(topic.name.as_str()).filter(|shown| shown.id != topic.id);
                let note = hides.map(|shown| match view.source_of(shown.id) {
                    Some(source) => format!("hidden by the topic of that name of source {source}"),
                    None => "hidden by a topic of that name of this cluster".to_owned(),
                });
                TopicRow {
                    name: topic.name.to_string(),
                    id: topic.id.0,
                    partitions: topic.partitions.len(),
                    records: sums.map(|sums| sums.0),
                    bytes: sums.map(|sums| sums.1),
                    note,
                }
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    /// Each lane of the source, as the broker describes it that shall follow it.
    fn lanes(&self, id: SourceId) -> Vec<LaneRow> {
        let followed = &self.published.followed;
        let rows = followed.lanes_of(id).into_iter().filter_map(|(lane, broker)| {
            let broker = broker?;
            let of = |facts: &FollowedLaneFacts| facts.source == id.0 && facts.lane == lane.0;
            let found = self.facts.brokers.get(&broker);
            let lane_facts = found.and_then(|found| found.as_ref().ok()?.replicas.lanes.iter().find(|facts| of(facts)));
            let row = match lane_facts {
                Some(facts) => LaneRow {
                    lane: lane.0,
                    broker: broker.0,
                    shard: Some(facts.shard),
                    bundle: Some(facts.bundle),
                    lag_ms: facts.lag_ms,
                    state: facts.state.clone(),
                    reason: facts.reason.clone(),
                },
                None => LaneRow {
                    lane: lane.0,
                    broker: broker.0,
                    shard: None,
                    bundle: None,
                    lag_ms: None,
                    state: "starting".to_owned(),
                    reason: found.and_then(|found| found.as_ref().err().cloned()),
                },
            };
            Some(row)
        });
        rows.collect()
    }
}
