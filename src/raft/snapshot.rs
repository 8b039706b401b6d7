//! Snapshots as openraft sees them: markers without bytes.
//!
//! A lane's state is durable in the engine's checkpoint, so nothing is written when openraft "builds" a snapshot: it
//! gets the applied id and membership, and [`super::Lane::purge`] may purge up to what the checkpoint holds. A replica
//! that lacks purged entries is not sent a snapshot: see [`super::network`].

use std::io;

use openraft::RaftSnapshotBuilder;
use openraft::storage::Snapshot;

use super::leadership::Standing;
use super::type_config::{CommittedLeader, SnapshotMeta, Types, log_id};

/// What is applied now, as openraft's snapshot meta.
pub(crate) fn meta_of(standing: &Standing) -> SnapshotMeta {
    SnapshotMeta { last_log_id: standing.applied().map(log_id), last_membership: standing.membership() }
}

/// "Builds" a snapshot: the marker. openraft keeps its meta.
pub(crate) struct Marker {
    meta: SnapshotMeta,
}

impl Marker {
    pub(crate) fn new(meta: SnapshotMeta) -> Self {
        Self { meta }
    }
}

impl RaftSnapshotBuilder<Types> for Marker {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Snapshot<CommittedLeader, u64, (), ()>, io::Error> {
        Ok(Snapshot { meta: self.meta.clone(), snapshot: () })
    }
}
