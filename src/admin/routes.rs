//! The routes of the admin port.

use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::watch;

use super::metrics;
use crate::archival::run::{Opening, Tier};
use crate::controller::image::{ClusterImage, TopicImage};
use crate::lakehouse::TableStates;
use crate::partition::message::{PartitionRequest, PartitionStatus};
use crate::shard::mesh::Mesh;

/// What the routes ask. Node-wide, cheap to clone.
#[derive(Clone, Debug)]
pub struct Services {
    /// The shards.
    pub partitions: Mesh<PartitionRequest>,
    /// The newest image.
    pub images: watch::Receiver<Arc<ClusterImage>>,
    /// The bucket.
    pub tier: Tier,
    /// How far the tables are.
    pub tables: TableStates,
}

/// `GET /v1/topics/{topic}`.
#[derive(Debug, Serialize)]
struct TopicStatus {
    name: String,
    id: String,
    table: Option<String>,
    partitions: Vec<PartitionStatus>,
}

/// `GET /v1/cluster`.
#[derive(Debug, Serialize)]
struct ClusterStatus {
    id: String,
    name: String,
    broker: i32,
    bucket: String,
    bucket_state: String,
    topics: usize,
    partitions: usize,
}

/// Serves the admin port until the runtime ends.
pub async fn serve(services: Services, socket: TcpListener) {
    let app = Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/v1/cluster", get(cluster))
        .route("/v1/topics", get(topics))
        .route("/v1/topics/{topic}", get(topic))
        .with_state(services);
    let listener = socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket));
    let served = match listener {
        Ok(listener) => axum::serve(listener, app).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        tracing::error!(%error, "the admin port is not served any more");
    }
}

/// Ready once a controller's image has arrived: topics are known and their partitions serve.
async fn ready(State(services): State<Services>) -> Response {
    if services.images.borrow().revision > 0 {
        (StatusCode::OK, "ready\n").into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting: the controller's lane is not recovered yet\n").into_response()
    }
}

async fn metrics_text(State(services): State<Services>) -> Response {
    let topics = all(&services).await;
    let text = metrics::render(&services, &topics);
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}

async fn cluster(State(services): State<Services>) -> Json<ClusterStatus> {
    let image = Arc::clone(&services.images.borrow());
    Json(ClusterStatus {
        id: image.cluster_id.clone(),
        name: image.cluster_name.clone(),
        broker: image.broker.id.0,
        bucket: services.tier.url.clone(),
        bucket_state: match services.tier.opening() {
            Opening::Open(_) => "open".into(),
            Opening::Waiting(None) => "being opened".into(),
            Opening::Waiting(Some(why)) => format!("does not answer: {why}"),
            Opening::Refused(why) => format!("refused: {why}"),
        },
        topics: image.topics.len(),
        partitions: image.topics.values().map(|topic| topic.partitions.len()).sum(),
    })
}

async fn topics(State(services): State<Services>) -> Json<Vec<String>> {
    let image = Arc::clone(&services.images.borrow());
    Json(image.topics.keys().map(ToString::to_string).collect())
}

async fn topic(State(services): State<Services>, Path(name): Path<String>) -> Response {
    let image = Arc::clone(&services.images.borrow());
    let Some(topic) = image.topic(&name) else {
        let why = serde_json::json!({ "error": format!("topic {name} does not exist") });
        return (StatusCode::NOT_FOUND, Json(why)).into_response();
    };
    Json(status_of(&services, topic).await).into_response()
}

async fn status_of(services: &Services, topic: &TopicImage) -> TopicStatus {
    let asked = topic.partitions.iter().map(|partition| {
        services.partitions.call(partition.shard, |reply| PartitionRequest::Describe(partition.id, reply))
    });
    let answers = futures::future::join_all(asked).await;
    let mut partitions: Vec<PartitionStatus> = answers.into_iter().filter_map(|a| a.ok().flatten()).collect();
    let table = services.tables.fill(topic, &mut partitions);
    TopicStatus { name: topic.name.to_string(), id: topic.id.to_string(), table, partitions }
}

/// Every topic's state, for metrics.
async fn all(services: &Services) -> Vec<(String, Vec<PartitionStatus>)> {
    let image = Arc::clone(&services.images.borrow());
    let mut out = Vec::with_capacity(image.topics.len());
    for topic in image.topics.values() {
        out.push((topic.name.to_string(), status_of(services, topic).await.partitions));
    }
    out
}
