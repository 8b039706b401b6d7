//! Room for what a leader sends: a follower whose journal, memory or disk is over its bound holds entries back, so that
//! the leader sends no more than this broker can store. Heartbeats and entries without data are never held: they elect
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use futures::FutureExt;
    use tidewater_storage::budget::{DiskBudget, DiskUse};
    use tidewater_storage::engine::EngineConfig;
    use tidewater_storage::env::sim::World;
    use tidewater_storage::journal::{JournalEntry, Payload};
    use tidewater_storage::model::{EntryId, NodeId, Term};

    use super::*;
    use crate::raft::network::PeerVote;

    const LANE: LaneId = LaneId(1);
    const DISK: u64 = 1 << 30;

    fn append(blobs: Vec<Bytes>) -> PeerRequest {
        let payload = Payload { meta: Bytes::from_static(b"meta"), blobs, verified: false };
        let vote = PeerVote { term: Term(1), replica: ReplicaId::first(NodeId(2)), committed: true };
        let entries = vec![JournalEntry { id: EntryId::default(), payload }];
        PeerRequest::Append { vote, previous: None, entries, committed: None }
    }

    #[test]
    fn data_waits_for_room_and_nothing_else_does() {
        let world = World::new(1);
        let env = world.env();
        world.block_on(async {
            let budget = DiskBudget::new(DISK);
            let config = EngineConfig { budget: budget.clone(), ..EngineConfig::default() };
            let (engine, _) = Engine::open(env.clone(), PathBuf::from("/shard"), config).await.expect("opens");
            let to = ReplicaId::first(NodeId(1));
            let (data, command) = (append(vec![Bytes::from_static(b"batch")]), append(Vec::new()));
            let room = async |request| room_for(&env, &engine, LANE, to, request).await;
            let held = room(&data).await.expect("there is room").expect("is kept until it is dropped");
            drop(held);
            let other = budget.account(DiskUse::Cache);
            other.add(DISK);
            assert!(room(&command).now_or_never().expect("at once").expect("is not held").is_none());
            let begun = env.clock.now();
            assert!(matches!(room(&data).await, Err(PeerError::Unreachable { .. })));
            assert!(env.clock.now().since(begun) >= HELD_MAX);
            let frees = async {
                env.tasks.sleep(Duration::from_millis(100)).await;
                other.remove(DISK);
            };
            let (held, ()) = futures::join!(room(&data), frees);
            assert!(held.expect("there is room again").is_some());
        });
    }
}
