//! `GET /v1/cuts`: the cuts that the cluster keeps. `POST /v1/cuts`: makes one now.
//!
//! Any broker answers: cuts are in the bucket, and makers may race.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidewater_storage::env::clock::wall;
use tidewater_tiering::archive::ArchiveConfig;
use tidewater_tiering::bucket::Bucket;
use tidewater_tiering::cuts::{CutEntry, CutMaker, Unsettled, read_index};
use tidewater_tiering::fetch::Indexes;
use tidewater_tiering::keys::Nonce;
use uuid::Uuid;

use super::state::{AdminState, refused};
use crate::archival::cuts::{cuts_in_use, may_make_cuts};
use crate::archival::run::Opening;

/// Memory for indexes of bundles; none is read twice.
const INDEX_BYTES: u64 = 4 << 20;

/// A cut, for programs.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct CutRow {
    pub number: u64,
    /// Nothing that was archived after this time is in it; milliseconds since 1970.
    pub at_ms: i64,
    pub lanes: usize,
    /// Bytes of the cut's object; the data it reaches are not counted.
    pub bytes: u64,
}

impl CutRow {
    #[must_use]
    pub fn of(cut: &CutEntry) -> Self {
        Self { number: cut.number, at_ms: cut.at.0, lanes: cut.lanes.len(), bytes: cut.size }
    }
}

#[derive(Debug, Serialize)]
struct Made {
    /// False: nothing had changed since the newest.
    made: bool,
    /// The newest; `None` if nothing was ever archived.
    cut: Option<CutRow>,
    kept: usize,
}

fn opened(state: &AdminState) -> Result<Bucket, Box<Response>> {
    let not = |why: &str| Box::new(refused(StatusCode::SERVICE_UNAVAILABLE, why));
    match state.services.tier.opening() {
        Opening::Open(bucket) => Ok(bucket),
        Opening::Waiting(None) => Err(not("the bucket is being opened; ask again")),
        Opening::Waiting(Some(why)) => Err(not(&format!("the bucket cannot be opened now: {why}"))),
        Opening::Refused(why) => Err(not(&why)),
    }
}

pub(super) async fn list(State(state): State<AdminState>) -> Response {
    let bucket = match opened(&state) {
        Ok(bucket) => bucket,
        Err(response) => return *response,
    };
    match read_index(&*bucket.store, bucket.home).await {
        Ok((index, _)) => Json(index.cuts.iter().rev().map(CutRow::of).collect::<Vec<_>>()).into_response(),
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

pub(super) async fn make(State(state): State<AdminState>) -> Response {
    if !may_make_cuts(&state.services.images.borrow()) {
        let why = "cuts are made once every broker of the cluster is of this version: update the others first";
        return refused(StatusCode::CONFLICT, why);
    }
    let bucket = match opened(&state) {
        Ok(bucket) => bucket,
        Err(response) => return *response,
    };
    let side = state.services.replicas.side.clone();
    let within = state.services.tier.cut_within(&ArchiveConfig::default());
    let in_use = cuts_in_use(&state.services.images.borrow(), bucket.home);
    let made = side.clone().spawn_blocking(move || side.block_on(make_one(bucket, within, in_use))).await;
    made.unwrap_or_else(|_| refused(StatusCode::SERVICE_UNAVAILABLE, "the broker is stopping"))
}

async fn make_one(bucket: Bucket, within: Duration, in_use: BTreeSet<u64>) -> Response {
    let maker = CutMaker {
        indexes: Indexes::new(Arc::clone(&bucket.store), INDEX_BYTES),
        store: bucket.store,
        home: bucket.home,
        within,
        unsettled: Unsettled::default(),
        in_use,
    };
    let began = tokio::time::Instant::now();
    match maker.make(Nonce(Uuid::new_v4().as_u64_pair().0), || (wall(), began.elapsed())).await {
        Ok(done) => {
            let cut = done.newest.as_ref().map(CutRow::of);
            Json(Made { made: done.made, cut, kept: done.kept }).into_response()
        }
        Err(error) => refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}
