//! `/v1/iceberg`: the tables of topics. `GET` lists them or describes one, with its data files and their compaction;
//! `POST …/compact` and `POST …/expire` ask the broker that commits to a table for a run of either, `POST …/adopt` to
//! take on one that another program made, `POST …/detach` to give it up, `POST …/rewind` to take it back,
//! `POST …/backfill` to commit what there is now.
//!
//! A broker knows the files of the tables that it commits to; of others it says which broker does.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidewater_storage::model::TopicId;
use tokio::sync::oneshot;

use super::state::{AdminState, Services, refused};
use crate::config::topic::{IcebergMode, text_of};
use crate::controller::image::{ClusterImage, TopicImage};
use crate::lakehouse::{
    AdoptOrder, Compaction, DeadLettersState, OrderRefused, RewindOrder, SinkOrder, TableOrder, TableStates,
};

/// How long this broker may take to hear of a change that the controller has made.
const IMAGE_PATIENCE: Duration = Duration::from_secs(10);
/// A topic that has just got its table is looked at again so often, with this pause.
const NEW_TABLE_LOOKS: usize = 25;
const NEW_TABLE_PAUSE: Duration = Duration::from_millis(200);

/// A table of `GET /v1/iceberg`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    pub topic: String,
    /// `namespace.table`; none while it is not known.
    pub table: Option<String>,
    /// The broker that commits to it; none without a leader.
    pub broker: Option<i32>,
    /// `iceberg.mode`.
    #[serde(default)]
    pub mode: String,
    /// `iceberg.key.mode`.
    #[serde(default)]
    pub key_mode: String,
    /// `iceberg.compaction`.
    pub compaction: bool,
    /// Why the table is not brought up to date, if so.
    pub paused: Option<String>,
    pub lag_records: Option<u64>,
    /// Its sort order in the words of SQL, if it has one and this broker commits to it.
    #[serde(default)]
    pub sort_order: Option<String>,
    /// What it lacks of its partition spec or sort order, in words, if this broker commits to it.
    #[serde(default)]
    pub lacking: Vec<String>,
    /// Its table of dead letters, if this broker commits to it.
    #[serde(default)]
    pub dead_letters: Option<DeadLettersState>,
    /// How far it is, if this broker commits to it.
    #[serde(default)]
    pub partitions: Vec<TablePartition>,
    /// If this broker commits to it.
    pub files: Option<Compaction>,
}

/// One partition of a topic in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePartition {
    pub partition: i32,
    /// The next offset that the table takes.
    pub offset: u64,
    /// Records that it may take and has not.
    pub lag_records: u64,
}

fn status_of(services: &Services, topic: &TopicImage) -> TableStatus {
    let leaders = Arc::clone(&services.tier.leaders().borrow());
    let leader = topic.partition(0).and_then(|partition| leaders.of(partition.lane));
    let summary = services.tables.summary(topic.id);
    let (table, paused, lag_records) =
        summary.map_or((None, None, None), |(t, paused, lag)| (Some(t), paused, Some(lag)));
    let setting = |name: &str| text_of(name, &topic.overrides);
    let view = services.tables.fill(topic, &mut []).unwrap_or_default();
    TableStatus {
        topic: topic.name.to_string(),
        table,
        broker: leader.map(|leader| leader.node.0),
        mode: setting("iceberg.mode"),
        key_mode: setting("iceberg.key.mode"),
        compaction: topic.config.iceberg_compaction,
        paused,
        lag_records,
        sort_order: view.sort_order,
        lacking: view.partition_spec.into_iter().chain(view.sort_order_lacking).collect(),
        dead_letters: view.dead_letters,
        partitions: services
            .tables
            .partitions(topic.id)
            .into_iter()
            .map(|(partition, (offset, lag_records))| TablePartition { partition, offset, lag_records })
            .collect(),
        files: services.tables.compaction(topic.id),
    }
}

fn has_table(topic: &TopicImage) -> bool {
    topic.config.iceberg_mode != IcebergMode::Disabled
}

pub(super) async fn list(State(AdminState { services, .. }): State<AdminState>) -> Json<Vec<TableStatus>> {
    let image = services.images.borrow().clone();
    Json(image.topics.values().filter(|topic| has_table(topic)).map(|topic| status_of(&services, topic)).collect())
}

/// The topic with this name, or whose table has it; or the refusal.
fn find<'a>(image: &'a ClusterImage, name: &str) -> Result<&'a TopicImage, Response> {
    let missing = |why: String| Err(refused(StatusCode::NOT_FOUND, &why));
    let is_named = |topic: &&Arc<TopicImage>| topic.config.table_of(&topic.name).to_string() == name;
    let by_table = || image.topics.values().filter(|topic| has_table(topic)).find(is_named);
    let topic = image.topic(name).or_else(by_table);
    match topic.map(AsRef::as_ref) {
        Some(topic) if has_table(topic) => Ok(topic),
        Some(_) => missing(format!("topic {name} has no table; set iceberg.mode to make one")),
        None => missing(format!("topic {name} does not exist")),
    }
}

pub(super) async fn describe(
    State(AdminState { services, .. }): State<AdminState>,
    Path(name): Path<String>,
) -> Response {
    let image = services.images.borrow().clone();
    match find(&image, &name) {
        Ok(topic) => Json(status_of(&services, topic)).into_response(),
        Err(refusal) => refusal,
    }
}

/// Gives an order to a task of the topic's table, by `give`; returns the table as it was before.
fn order(
    services: &Services,
    name: &str,
    give: impl FnOnce(&TableStates, TopicId) -> Result<(), OrderRefused>,
) -> Result<TableStatus, Response> {
    let image = services.images.borrow().clone();
    let topic = find(&image, name)?;
    let status = status_of(services, topic);
    match give(&services.tables, topic.id) {
        Ok(()) => Ok(status),
        Err(OrderRefused::Full) => {
            let why = "other requests for this table are waiting; ask again when they are done";
            Err(refused(StatusCode::TOO_MANY_REQUESTS, why))
        }
        Err(OrderRefused::NotHere) => {
            let by = status.broker.map_or("no broker commits to it now".to_owned(), |id| format!("broker {id} does"));
            let why =
                format!("this broker does not commit to the table of topic {name}; {by}: ask that one's admin port");
            Err(refused(StatusCode::CONFLICT, &why))
        }
    }
}

/// Answers at once.
pub(super) async fn compact(
    State(AdminState { services, .. }): State<AdminState>,
    Path(name): Path<String>,
) -> Response {
    match order(&services, &name, |tables, topic| tables.order(topic, TableOrder::Compact)) {
        Ok(status) => Json(status).into_response(),
        Err(refusal) => refusal,
    }
}

/// Answers when it is done.
pub(super) async fn expire(
    State(AdminState { services, .. }): State<AdminState>,
    Path(name): Path<String>,
) -> Response {
    let (reply, done) = oneshot::channel();
    let status = match order(&services, &name, |tables, topic| tables.order(topic, TableOrder::Expire(reply))) {
        Ok(status) => status,
        Err(refusal) => return refusal,
    };
    match done.await {
        Ok(Ok(expired)) => {
            let (topic, table) = (status.topic, status.table);
            Json(serde_json::json!({ "topic": topic, "table": table, "expired_snapshots": expired })).into_response()
        }
        Ok(Err(why)) => refused(StatusCode::SERVICE_UNAVAILABLE, &why),
        Err(_) => gone(),
    }
}

/// The task that was asked has ended.
fn gone() -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, "another broker commits to the table now, or none does; ask again")
}

/// Answers when the table is given up and this broker knows that its topic has none.
pub(super) async fn detach(
    State(AdminState { mut services, .. }): State<AdminState>,
    Path(name): Path<String>,
) -> Response {
    let (reply, done) = oneshot::channel();
    let asked = order(&services, &name, |tables, topic| tables.order_of_sink(topic, SinkOrder::Detach(reply)));
    let topic = match asked {
        Ok(status) => status.topic,
        Err(refusal) => return refusal,
    };
    match done.await {
        Ok(Ok(detached)) => {
            let is_known = |image: &Arc<ClusterImage>| image.topic(&topic).is_none_or(|topic| !has_table(topic));
            // If it is late, the change is made all the same.
            let _ = tokio::time::timeout(IMAGE_PATIENCE, services.images.wait_for(is_known)).await;
            let (table, dead) = (detached.table, detached.dead_letters);
            Json(serde_json::json!({ "topic": topic, "table": table, "dead_letters": dead })).into_response()
        }
        Ok(Err(why)) => refused(StatusCode::SERVICE_UNAVAILABLE, &why),
        Err(_) => gone(),
    }
}

/// Answers when the table was taken back, before it is filled again.
pub(super) async fn rewind(
    State(AdminState { services, .. }): State<AdminState>,
    Path(name): Path<String>,
    Json(asked): Json<RewindOrder>,
) -> Response {
    let words = [asked.at_ms.is_some(), !asked.offsets.is_empty(), asked.to_log];
    if words.iter().filter(|is_there| **is_there).count() != 1 {
        return refused(StatusCode::BAD_REQUEST, "name one of at_ms, offsets and to_log");
    }
    let (reply, done) = oneshot::channel();
    let asked = order(&services, &name, |tables, topic| tables.order_of_sink(topic, SinkOrder::Rewind(asked, reply)));
    if let Err(refusal) = asked {
        return refusal;
    }
    match done.await {
        Ok(Ok(rewound)) => Json(rewound).into_response(),
        Ok(Err(why)) => refused(StatusCode::CONFLICT, &why),
        Err(_) => gone(),
    }
}

/// Answers when the topic has the table.
pub(super) async fn adopt(
    State(AdminState { services, .. }): State<AdminState>,
    Path(name): Path<String>,
    Json(asked): Json<AdoptOrder>,
) -> Response {
    let (reply, done) = oneshot::channel();
    let asked = order(&services, &name, |tables, topic| tables.order_of_sink(topic, SinkOrder::Adopt(asked, reply)));
    if let Err(refusal) = asked {
        return refusal;
    }
    match done.await {
        Ok(Ok(adopted)) => Json(adopted).into_response(),
        Ok(Err(why)) => refused(StatusCode::CONFLICT, &why),
        Err(_) => gone(),
    }
}

/// Answers at once, with the table as it is; of a topic that has just got one, when it is begun.
pub(super) async fn backfill(
    State(AdminState { services, .. }): State<AdminState>,
    Path(name): Path<String>,
) -> Response {
    let hurry = |tables: &TableStates, topic| match tables.order_of_sink(topic, SinkOrder::Hurry) {
        // The others that wait begin a turn as well.
        Err(OrderRefused::Full) => Ok(()),
        taken => taken,
    };
    let mut looks = 0;
    loop {
        match order(&services, &name, hurry) {
            Ok(status) => return Json(status).into_response(),
            Err(refusal) if looks >= NEW_TABLE_LOOKS || !commits_here(&services, &name) => return refusal,
            Err(_) => looks += 1,
        }
        tokio::time::sleep(NEW_TABLE_PAUSE).await;
    }
}

/// Whether this broker is the one that should commit to the topic's table.
fn commits_here(services: &Services, name: &str) -> bool {
    let image = services.images.borrow().clone();
    find(&image, name).is_ok_and(|topic| status_of(services, topic).broker == Some(image.here.0))
}
