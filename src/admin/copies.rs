//! `/v1/copies`: topics that are made as copies of archived topics. `POST` begins one, or only says what it would copy;
//! `GET` lists them or describes one.
//!
//! Shard 0 of the broker that is asked finds the topic in the bucket; the copy is made by the leaders of its lanes,
//! which are asked how far they are.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{TimestampMs, TopicName};
use tidewater_tiering::keys::ClusterName;
use tidewater_tiering::restore::{Report, TopicState};
use uuid::Uuid;

use super::cluster::facts::ClusterFacts;
use super::report::ReportRequest;
use super::state::{AdminState, refused};
use super::survey::soon;
use crate::controller::client::CONTROLLER_SHARD;
use crate::controller::copies::TopicCopy;
use crate::controller::image::TopicImage;
use crate::copies::error::CopyError;
use crate::copies::facts::CopyFacts;
use crate::copies::prepare::{CopyAsk, CopyPlan};

/// The body of `POST /v1/copies`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The bucket; absent: the cluster's own.
    from: Option<String>,
    #[serde(default = "usual_name")]
    cluster_name: String,
    topic: String,
    /// Absent: the same name.
    name: Option<String>,
    /// The newest cut at or before this time, in milliseconds since 1970.
    at_ms: Option<i64>,
    /// The newest cut of all.
    #[serde(default)]
    newest_cut: bool,
    /// Say what would be copied, and make nothing.
    #[serde(default)]
    plan: bool,
}

fn usual_name() -> String {
    "tidewater".to_owned()
}

/// A copy of `GET /v1/copies`.
#[derive(Debug, Serialize)]
struct CopyRow {
    topic: String,
    id: Uuid,
    /// `queued`, `copying`, `failing`, `archiving` (all is copied, not all is in the bucket yet) or `complete`.
    state: &'static str,
    /// Why it makes no progress.
    reason: Option<String>,
    /// The bucket it comes from; `None`: the cluster's own.
    from: Option<String>,
    cluster_name: String,
    cluster: Uuid,
    epoch: u32,
    origin_topic: String,
    origin_id: Uuid,
    cut: Option<u64>,
    /// Of the cut, or when the topic was looked at; milliseconds since 1970.
    at_ms: i64,
    began_ms: i64,
    finished_ms: Option<i64>,
    /// Offsets, which are as many as records where none are missing.
    records: u64,
    copied: u64,
    partitions: Vec<CopyPartitionRow>,
}

#[derive(Debug, Serialize)]
struct CopyPartitionRow {
    partition: i32,
    log_start: u64,
    end: u64,
    reached: u64,
    complete: bool,
    reason: Option<String>,
}

/// The answer to `POST /v1/copies` with `plan`: members of the whole cluster's plan, and what is of a copy alone.
#[derive(Debug, Serialize)]
struct Planned {
    cluster: Uuid,
    name: ClusterName,
    epoch: u32,
    /// Always false: nothing was made.
    restored: bool,
    /// The topic that would be made.
    topic: String,
    left_out: Vec<String>,
    report: Report,
}

/// The answer to `POST /v1/copies`.
#[derive(Debug, Serialize)]
struct Begun {
    /// It had begun before, and goes on.
    resumed: bool,
    /// Settings of the origin that the topic does not have.
    left_out: Vec<String>,
    #[serde(flatten)]
    copy: CopyRow,
}

pub(super) async fn create(State(state): State<AdminState>, Json(asked): Json<Asked>) -> Response {
    let plan = asked.plan;
    let ask = match read(asked) {
        Ok(ask) => ask,
        Err(why) => return refused(StatusCode::BAD_REQUEST, &why),
    };
    if plan {
        return planned(&state, ask).await;
    }
    let begun = state.services.reports.call(CONTROLLER_SHARD, |reply| ReportRequest::Copy(ask, reply)).await;
    match begun {
        Ok(Ok(begun)) => match row(&begun.topic, &BTreeMap::new()) {
            Some(copy) => Json(Begun { resumed: begun.resumed, left_out: begun.left_out, copy }).into_response(),
            None => refused(StatusCode::INTERNAL_SERVER_ERROR, "the topic was made, but not as a copy: delete it"),
        },
        Ok(Err(error)) => no_copy(&error),
        Err(_) => silent(),
    }
}

async fn planned(state: &AdminState, ask: CopyAsk) -> Response {
    let topic = ask.name.to_string();
    let planned = state.services.reports.call(CONTROLLER_SHARD, |reply| ReportRequest::PlanCopy(ask, reply)).await;
    match planned {
        Ok(Ok(CopyPlan { home, cluster_name: name, report, left_out })) => {
            let (cluster, epoch) = (home.cluster.0, home.epoch.0);
            Json(Planned { cluster, name, epoch, restored: false, topic, left_out, report }).into_response()
        }
        Ok(Err(error)) => no_copy(&error),
        Err(_) => silent(),
    }
}

fn no_copy(error: &CopyError) -> Response {
    let status = if error.is_conflict() { StatusCode::CONFLICT } else { StatusCode::UNPROCESSABLE_ENTITY };
    refused(status, &error.to_string())
}

fn read(asked: Asked) -> Result<CopyAsk, String> {
    let topic_name = |name: &str| TopicName::new(name).map_err(|error| format!("topic {name:?}: {error}"));
    let topic = topic_name(&asked.topic)?;
    let name = asked.name.as_deref().map_or_else(|| Ok(topic.clone()), topic_name)?;
    let from = match asked.from {
        None => None,
        Some(url) => {
            let bad = format!("a cluster's name is 1 to 64 of a-z, 0-9, '.', '_', '-', not {:?}", asked.cluster_name);
            Some((url, ClusterName::new(&asked.cluster_name).map_err(|_| bad)?))
        }
    };
    let state = match (asked.at_ms, asked.newest_cut) {
        (Some(_), true) => return Err("at_ms and newest_cut exclude each other".to_owned()),
        (Some(at), false) => TopicState::Cut(Some(TimestampMs(at))),
        (None, true) => TopicState::Cut(None),
        (None, false) => TopicState::Newest,
    };
    Ok(CopyAsk { from, topic, name, state })
}

pub(super) async fn list(State(state): State<AdminState>) -> Response {
    let Some(facts) = gather(&state).await else { return silent() };
    let known = by_partition(&facts);
    let rows: Vec<CopyRow> = facts.image.topics.values().filter_map(|topic| row(topic, &known)).collect();
    Json(rows).into_response()
}

pub(super) async fn describe(State(state): State<AdminState>, Path(name): Path<String>) -> Response {
    let Some(facts) = gather(&state).await else { return silent() };
    let known = by_partition(&facts);
    match facts.image.topic(&name).and_then(|topic| row(topic, &known)) {
        Some(row) => Json(row).into_response(),
        None => refused(StatusCode::NOT_FOUND, &format!("no topic {name} was made as a copy")),
    }
}

async fn gather(state: &AdminState) -> Option<ClusterFacts> {
    let _turn = state.surveys.acquire().await;
    soon(state.services.reports.call(CONTROLLER_SHARD, ReportRequest::Cluster)).await
}

fn silent() -> Response {
    refused(StatusCode::SERVICE_UNAVAILABLE, "shard 0 does not answer; ask again")
}

/// What brokers say of partitions that are being copied.
fn by_partition(facts: &ClusterFacts) -> BTreeMap<(Uuid, i32), CopyFacts> {
    let all = facts.brokers.values().flatten().flat_map(|broker| &broker.copies);
    all.map(|fact| ((fact.topic, fact.partition), fact.clone())).collect()
}

/// `None` of a topic that is no copy. Pure.
fn row(topic: &TopicImage, known: &BTreeMap<(Uuid, i32), CopyFacts>) -> Option<CopyRow> {
    let copy: &TopicCopy = topic.copy.as_deref()?;
    let partition = |(n, of): (i32, &crate::controller::copies::CopyPartition)| {
        let (complete, fact) = (copy.done.contains(&n), known.get(&(topic.id.0, n)));
        let reached = match fact {
            _ if complete => of.end.get(),
            Some(fact) => fact.reached.clamp(of.start.get(), of.end.get()),
            None => of.start.get(),
        };
        let reason = fact.filter(|_| !complete).and_then(|fact| fact.reason.clone());
        CopyPartitionRow {
            partition: n,
            log_start: of.log_start.get(),
            end: of.end.get(),
            reached: reached.max(of.log_start.get()),
            complete,
            reason,
        }
    };
    let partitions: Vec<CopyPartitionRow> = (0..).zip(&copy.partitions).map(partition).collect();
    let reason = partitions.iter().find_map(|found| found.reason.clone());
    let facts = || (0..).zip(&copy.partitions).filter_map(|(n, _)| known.get(&(topic.id.0, n)));
    let waits = facts().any(|fact| fact.queued) && facts().all(|fact| fact.queued);
    let archives = facts().any(|fact| fact.archiving) && facts().all(|fact| fact.archiving);
    let state = match (&copy.finished, &reason) {
        (Some(_), _) => "complete",
        (None, Some(_)) => "failing",
        (None, None) if waits => "queued",
        (None, None) if archives => "archiving",
        (None, None) => "copying",
    };
    let origin = &copy.origin;
    Some(CopyRow {
        topic: topic.name.to_string(),
        id: topic.id.0,
        state,
        reason,
        from: origin.url.clone(),
        cluster_name: origin.cluster_name.to_string(),
        cluster: origin.cluster,
        epoch: origin.epoch,
        origin_topic: origin.topic.to_string(),
        origin_id: origin.topic_id.0,
        cut: origin.cut,
        at_ms: origin.at.0,
        began_ms: copy.began.0,
        finished_ms: copy.finished.map(|finished| finished.0),
        records: partitions.iter().map(|found| found.end - found.log_start).sum(),
        copied: partitions.iter().map(|found| found.reached - found.log_start).sum(),
        partitions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: serde_json::Value) -> Result<CopyAsk, String> {
        read(serde_json::from_value(json).expect("the body of a request"))
    }

    #[test]
    fn a_request_names_a_topic_and_perhaps_a_bucket_and_a_time() {
        let fork = asked(serde_json::json!({ "topic": "orders", "name": "test", "at_ms": 5 })).expect("is one");
        assert!(fork.from.is_none() && fork.name.as_str() == "test");
        assert_eq!(fork.state, TopicState::Cut(Some(TimestampMs(5))));
        let restored = asked(serde_json::json!({ "topic": "orders", "from": "file:///b" })).expect("is one");
        assert_eq!((restored.name.as_str(), restored.state), ("orders", TopicState::Newest));
        assert_eq!(restored.from.map(|(_, name)| name.to_string()), Some("tidewater".to_owned()));
        assert!(asked(serde_json::json!({ "topic": "a b" })).is_err());
        assert!(asked(serde_json::json!({ "topic": "a", "at_ms": 1, "newest_cut": true })).is_err());
        assert!(asked(serde_json::json!({ "topic": "a", "from": "file:///b", "cluster_name": "A B" })).is_err());
    }
}
