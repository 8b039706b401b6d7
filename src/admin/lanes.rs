//! `GET /v1/lanes`: the state of each lane's archiving, as [`LaneStatus`], which `tidewater lane` reads. `POST
//! /v1/lanes/{lane}/resume`: an operator resumes a stopped one.
//!
//! A lane that no shard archives, because the bucket is not open or its root is gone, is not listed.

use std::fmt;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tidewater_storage::model::{LaneId, ShardId};
use tidewater_tiering::archive::ArchiveStatus;

use super::report::ReportRequest;
use super::state::{AdminState, refused};
use super::survey::{self, soon};
use crate::archival::run::Resumed;

/// One lane of `GET /v1/lanes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    pub lane: u32,
    pub shard: u16,
    pub state: LaneState,
    /// Of the states failing and stopped.
    pub reason: Option<String>,
    pub last_bundle: Option<u64>,
    /// Partitions whose local log cannot be read; topic describe shows the reason.
    pub unreadable_partitions: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaneState {
    /// Working, or idle.
    Archiving,
    /// Looking at the bucket before the first write.
    Looking,
    /// The bucket fails; the archiver tries again by itself.
    Failing,
    /// Waiting for an operator.
    Stopped,
}

impl fmt::Display for LaneState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Archiving => "archiving",
            Self::Looking => "looking",
            Self::Failing => "failing",
            Self::Stopped => "stopped",
        })
    }
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

pub(super) async fn list(State(state): State<AdminState>) -> Response {
    let reports = {
        let _turn = state.surveys.acquire().await;
        survey::shards(&state.services).await
    };
    let rows = reports
        .iter()
        .flat_map(|report| report.archives.iter().map(|(lane, status)| LaneStatus::of(report.shard, *lane, status)));
    let mut rows: Vec<LaneStatus> = rows.collect();
    rows.sort_unstable_by_key(|row| row.lane);
    Json(rows).into_response()
}

pub(super) async fn resume(State(state): State<AdminState>, Path(lane): Path<u32>) -> Response {
    let reports = &state.services.reports;
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
        Some(Resumed::NotHere) | None => refused(
            StatusCode::NOT_FOUND,
            &format!(
                "this broker does not archive lane {lane}: ask the lane's leader, with --admin; GET /v1/cluster/lanes names \
                 it"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_state_is_shown_with_its_reason() {
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
