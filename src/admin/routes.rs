//! The routes of the admin port.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::cluster::documents::ClusterStatus;
use super::cluster::gather::Reach;
use super::report::ReportRequest;
use super::stage::{Stage, StartStage};
use super::state::{AdminState, Services, refused};
use super::survey::{self, GroupLag};
use super::{cluster, copies, cuts, lanes, metrics, replicas, tables};
use crate::archival::run::{Opening, Tier};
use crate::controller::client::CONTROLLER_SHARD;
use crate::controller::image::TopicImage;
use crate::lakehouse::{DeadLettersState, TableView};
use crate::limits::SURVEYS_AT_ONCE;
use crate::net::http::HttpPort;
use crate::partition::message::{PartitionRequest, PartitionStatus};
use crate::partition::sums::TopicSums;

/// `GET /v1/topics/{topic}`.
#[derive(Debug, Serialize)]
struct TopicStatus {
    name: String,
    id: String,
    table: Option<String>,
    /// What holds up the table or a partition of it, in the words of `tidewater_topic_table_held_up`.
    table_held_by: Vec<&'static str>,
    /// Why the table is not partitioned by the whole spec that it was made for; null if it is.
    table_partition_spec: Option<String>,
    /// The table's sort order in the words of SQL; null if it has none.
    table_sort_order: Option<String>,
    /// Why its files are not sorted by all that was asked for; null if they are.
    table_sort_order_lacking: Option<String>,
    dead_letters: Option<DeadLettersState>,
    partitions: Vec<PartitionStatus>,
    groups: Vec<TopicGroup>,
}

/// The progress of a group that has offsets in a topic.
#[derive(Debug, Serialize)]
struct TopicGroup {
    group: String,
    state: &'static str,
    lag_records: u64,
}

/// An open admin port.
#[derive(Debug)]
pub struct AdminPort {
    stage: Stage,
}

impl AdminPort {
    /// Opens the port on the side runtime, until the runtime ends. It says for what the start waits, until
    /// [`AdminPort::serve`].
    #[must_use]
    pub fn open(start: StartStage, port: HttpPort, side: &Handle) -> Self {
        let stage = Stage::new(start);
        side.spawn(listen(stage.clone(), port));
        Self { stage }
    }

    /// The broker serves from now on.
    pub fn serve(self, services: Services) {
        self.stage.serve(AdminState { services, surveys: Arc::new(Semaphore::new(SURVEYS_AT_ONCE)) });
    }
}

async fn listen(stage: Stage, port: HttpPort) {
    let guard = stage.clone();
    let app = Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/v1/cluster", get(this_broker))
        .route("/v1/cluster/health", get(cluster::routes::health))
        .route("/v1/cluster/brokers", get(cluster::routes::brokers))
        .route("/v1/cluster/lanes", get(cluster::routes::lanes))
        .route("/v1/cluster/lanes/{lane}/leader/{broker}", post(cluster::routes::transfer))
        .route("/v1/cluster/partitions", get(cluster::routes::partitions))
        .route("/v1/cluster/grow/{factor}", post(cluster::routes::grow))
        .route("/v1/cluster/restore/lift", post(cluster::routes::end_hold))
        .route("/v1/cuts", get(cuts::list).post(cuts::make))
        .route("/v1/copies", get(copies::list).post(copies::create))
        .route("/v1/copies/{topic}", get(copies::describe))
        .route("/v1/topics", get(topics))
        .route("/v1/topics/{topic}", get(topic))
        .route("/v1/groups", get(groups))
        .route("/v1/groups/{group}", get(group))
        .route("/v1/replicas", get(replicas::list).post(replicas::create))
        .route("/v1/replicas/{source}", get(replicas::describe).delete(replicas::delete))
        .route("/v1/iceberg", get(tables::list))
        .route("/v1/iceberg/{topic}", get(tables::describe))
        .route("/v1/iceberg/{topic}/compact", post(tables::compact))
        .route("/v1/iceberg/{topic}/expire", post(tables::expire))
        .route("/v1/iceberg/{topic}/backfill", post(tables::backfill))
        .route("/v1/iceberg/{topic}/adopt", post(tables::adopt))
        .route("/v1/iceberg/{topic}/detach", post(tables::detach))
        .route("/v1/iceberg/{topic}/rewind", post(tables::rewind))
        .route("/v1/lanes", get(lanes::list))
        .route("/v1/lanes/{lane}/resume", post(lanes::resume))
        .layer(from_fn(move |request: Request, next: Next| guard.clone().guard(request, next)))
        .with_state(stage);
    let refusal = |why: String| refused(StatusCode::FORBIDDEN, &why);
    let served = match port.into_tokio() {
        Ok((listener, guard)) => axum::serve(listener, guard.protect(app, refusal)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin port has failed; restart the broker");
    }
}

/// Ready once a controller's image has arrived, so that topics are known, and while this broker reaches a majority of
/// the brokers: one that is cut off serves nothing, and a load balancer should send its clients to the others.
async fn ready(State(AdminState { services, .. }): State<AdminState>) -> Response {
    let not = |why: String| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if services.images.borrow().revision == 0 {
        return not("starting: the controller's lane is not recovered yet\n".to_owned());
    }
    if let Some(end) = services.tier.superseded.by() {
        return not(format!("superseded: {end}\n"));
    }
    match survey::soon(services.reports.call(CONTROLLER_SHARD, ReportRequest::Reach)).await {
        Some(Reach { brokers, reached, .. }) if reached * 2 > brokers => (StatusCode::OK, "ready\n").into_response(),
        Some(Reach { brokers, reached, away }) => {
            not(format!("cut off: this broker reaches {reached} of {brokers} brokers: {}\n", away.join("; ")))
        }
        None => not("shard 0 does not answer\n".to_owned()),
    }
}

async fn metrics_text(State(state): State<AdminState>) -> Response {
    let _turn = state.surveys.acquire().await;
    let survey = survey::survey(&state.services).await;
    let text = metrics::render(&state.services, &survey);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn this_broker(State(state): State<AdminState>) -> Response {
    let survey = {
        let _turn = state.surveys.acquire().await;
        survey::shards(&state.services).await
    };
    // Sums without a shard would be wrong numbers.
    let silent = usize::from(state.services.reports.shards()).saturating_sub(survey.len());
    let Some(disk) = survey.first().map(|report| report.disk).filter(|_| silent == 0) else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, &format!("{silent} shards did not answer in time; ask again"));
    };
    let image = Arc::clone(&state.services.images.borrow());
    let tier = &state.services.tier;
    let mut lag = TopicSums::default();
    survey.iter().flat_map(|report| report.topics.values()).for_each(|sums| lag.merge(sums));
    Json(ClusterStatus {
        id: image.cluster_id.clone(),
        name: image.cluster_name.clone(),
        broker: image.here.0,
        bucket: tier.url.clone(),
        bucket_state: bucket_state(tier),
        topics: image.topics.len(),
        partitions: image.topics.values().map(|topic| topic.partitions.len()).sum(),
        connections: survey.iter().map(|report| report.kafka.connections_open).sum(),
        disk_used_bytes: disk.total(),
        disk_limit_bytes: disk.limit,
        disk_admissible_bytes: disk.admissible(),
        archive_lag_bytes: lag.archive_lag_bytes,
        archive_lag_ms: lag.archive_lag_ms,
    })
    .into_response()
}

fn bucket_state(tier: &Tier) -> String {
    if let Some(end) = tier.superseded.by() {
        return format!("superseded: {end}");
    }
    if let Some(why) = tier.root.gone() {
        return format!("gone: {why}");
    }
    match tier.opening() {
        Opening::Open(_) => "open".into(),
        Opening::Waiting(None) => "being opened".into(),
        Opening::Waiting(Some(why)) => format!("cannot be opened now: {why}"),
        Opening::Refused(why) => format!("refused: {why}"),
    }
}

async fn topics(State(AdminState { services, .. }): State<AdminState>) -> Json<Vec<String>> {
    let image = services.view();
    Json(image.topics.keys().map(ToString::to_string).collect())
}

async fn topic(State(state): State<AdminState>, Path(name): Path<String>) -> Response {
    let image = state.services.view();
    let Some(topic) = image.topic(&name) else { return missing(&format!("topic {name} does not exist")) };
    let groups = {
        let _turn = state.surveys.acquire().await;
        survey::groups(&state.services, &image).await
    };
    Json(status_of(&state.services, topic, &groups).await).into_response()
}

async fn groups(State(state): State<AdminState>) -> Json<Vec<GroupLag>> {
    let image = state.services.view();
    let _turn = state.surveys.acquire().await;
    Json(survey::groups(&state.services, &image).await)
}

async fn group(State(state): State<AdminState>, Path(name): Path<String>) -> Response {
    let Json(groups) = groups(State(state)).await;
    match groups.into_iter().find(|group| group.group == name) {
        Some(group) => Json(group).into_response(),
        None => missing(&format!("group {name} does not exist")),
    }
}

fn missing(why: &str) -> Response {
    refused(StatusCode::NOT_FOUND, why)
}

async fn status_of(services: &Services, topic: &TopicImage, groups: &[GroupLag]) -> TopicStatus {
    let asked = topic.partitions.iter().map(|partition| {
        services.partitions.call(partition.shard, |reply| PartitionRequest::Describe(partition.id, reply))
    });
    let answers = futures::future::join_all(asked).await;
    let mut partitions: Vec<PartitionStatus> = answers.into_iter().filter_map(|a| a.ok().flatten()).collect();
    let table = services.tables.fill(topic, &mut partitions);
    let name = topic.name.to_string();
    let groups = groups.iter().filter_map(|group| {
        let mut rows = group.partitions.iter().filter(|row| row.topic == name).peekable();
        rows.peek()?;
        let lag_records = rows.filter_map(|row| row.lag).sum();
        Some(TopicGroup { group: group.group.clone(), state: group.state, lag_records })
    });
    let groups = groups.collect();
    let is_there = table.is_some();
    let TableView {
        table,
        held_by: table_held_by,
        partition_spec: table_partition_spec,
        sort_order: table_sort_order,
        sort_order_lacking: table_sort_order_lacking,
        dead_letters,
    } = table.unwrap_or_default();
    TopicStatus {
        name,
        id: topic.id.to_string(),
        table: is_there.then_some(table),
        table_held_by,
        table_partition_spec,
        table_sort_order,
        table_sort_order_lacking,
        dead_letters,
        partitions,
        groups,
    }
}
