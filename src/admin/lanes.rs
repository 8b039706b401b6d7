//! `GET /v1/lanes` and `POST /v1/lanes/{lane}/resume`: how each lane's archiving is doing, and an operator's word that a
//! stopped one goes on.
//!
//! A lane that no shard archives (the bucket is not open yet) is not listed.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use serde::Serialize;
use tidewater_storage::model::{LaneId, ShardId};
use tidewater_tiering::archive::ArchiveStatus;

use super::report::ReportRequest;
use super::routes::{Desk, refused};
use super::survey::{self, soon};
use crate::archival::run::Resumed;

/// One lane of `GET /v1/lanes`.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct LaneStatus {
    lane: u32,
    /// Where it runs.
    shard: u16,
    state: LaneState,
    /// Of a state that an operator wants to know the reason of.
    reason: Option<String>,
    last_bundle: Option<u64>,
    /// Partitions whose local log cannot be read; topic describe says why.
    unreadable_partitions: usize,
}

/// What a lane's archiver is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum LaneState {
    /// At work, or at rest with nothing to do.
    Archiving,
    /// It looks at the bucket before it writes.
    Looking,
    /// The store or bucket fails; it tries again.
    Failing,
    /// It waits for an operator's word.
    Stopped,
}

impl LaneStatus {
    fn of(shard: ShardId, lane: LaneId, status: &ArchiveStatus) -> Self {
        let (state, reason) = match (&status.stopped, &status.failing) {
            (Some(reason), _) => (LaneState::Stopped, Some(reason)),
            (None, Some(reason)) => (LaneState::Failing, Some(reason)),
            (None, None) if status.probed => (LaneState::Archiving, None),
            (None, None) => (LaneState::Looking, None),
        };
        Self {
            lane: lane.0,
            shard: shard.0,
            state,
            reason: reason.cloned(),
            last_bundle: status.last_bundle.map(|sequence| sequence.0),
            unreadable_partitions: status.unread.len(),
        }
    }
}

pub(super) async fn list(State(desk): State<Desk>) -> Response {
    let reports = {
        let _turn = desk.surveys.acquire().await;
        survey::shards(&desk.services).await
    };
    let rows = reports
        .iter()
        .flat_map(|report| report.archives.iter().map(|(lane, status)| LaneStatus::of(report.shard, *lane, status)));
    let mut rows: Vec<LaneStatus> = rows.collect();
    rows.sort_unstable_by_key(|row| row.lane);
    Json(rows).into_response()
}

pub(super) async fn resume(State(desk): State<Desk>, Path(lane): Path<u32>) -> Response {
    let reports = &desk.services.reports;
    let ask = |shard| reports.call(ShardId(shard), |reply| ReportRequest::Resume(LaneId(lane), reply));
    let answers = join_all((0..reports.shards()).map(|shard| soon(ask(shard)))).await;
    let silent = answers.iter().any(Option::is_none);
    match answers.into_iter().flatten().find(|answer| *answer != Resumed::NotHere) {
        Some(Resumed::After(reason)) => {
            Json(serde_json::json!({ "lane": lane, "had_stopped": reason })).into_response()
        }
        Some(Resumed::WasNotStopped) => Json(serde_json::json!({ "lane": lane, "had_stopped": null })).into_response(),
        Some(Resumed::Failed(why)) => refused(StatusCode::SERVICE_UNAVAILABLE, &why),
        Some(Resumed::NotHere) | None if silent => {
            refused(StatusCode::SERVICE_UNAVAILABLE, "a shard did not answer in time; ask again")
        }
        Some(Resumed::NotHere) | None => {
            refused(StatusCode::NOT_FOUND, &format!("no lane {lane} archives here; /v1/lanes lists those that do"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_state_is_shown_with_its_reason() {
        let state = |status: &ArchiveStatus| {
            let row = LaneStatus::of(ShardId(1), LaneId(3), status);
            (row.state, row.reason)
        };
        let mut status = ArchiveStatus::default();
        assert_eq!(state(&status), (LaneState::Looking, None));
        status.probed = true;
        assert_eq!(state(&status), (LaneState::Archiving, None));
        status.failing = Some("503".to_owned());
        assert_eq!(state(&status), (LaneState::Failing, Some("503".to_owned())));
        status.stopped = Some("sealed".to_owned());
        assert_eq!(state(&status), (LaneState::Stopped, Some("sealed".to_owned())));
    }
}
