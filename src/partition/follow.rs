//! Room for what a leader sends: a follower whose journal, memory or disk is over its bound holds entries back, so that the
//! leader sends no more than this broker can store. Heartbeats and entries without data are never held: they elect
//! leaders, and free space. Shard-local.

use std::time::Duration;

use tidewater_storage::budget::Admission;
use tidewater_storage::engine::Engine;
use tidewater_storage::env::Env;
use tidewater_storage::model::{LaneId, ReplicaId};

use crate::raft::network::{PeerError, PeerRequest};

/// Entries are held this long, then refused for now: the leader sends them again after a pause of its own.
const HELD_MAX: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_millis(5);

/// Waits for room for the data of a peer's request to the replica `to`. The room is given back when the admission is
/// dropped; hold it until the request is answered.
///
/// # Errors
/// `Unreachable`: there was no room for a quarter of a second.
pub async fn room_for(
    env: &Env,
    engine: &Engine,
    lane: LaneId,
    to: ReplicaId,
    request: &PeerRequest,
) -> Result<Option<Admission>, PeerError> {
    let bytes = request.data_bytes();
    if bytes == 0 {
        return Ok(None);
    }
    let until = env.clock.now() + HELD_MAX;
    loop {
        match engine.admit(bytes) {
            Ok(admission) => return Ok(Some(admission)),
            Err(full) if env.clock.now() >= until => {
                tracing::debug!(%lane, %full, bytes, "entries of a leader are refused for now");
                return Err(PeerError::Unreachable { replica: to, lane });
            }
            Err(_) => env.tasks.sleep(LOOK).await,
        }
    }
}
