//! Snapshots: for openraft a marker that lets the log be purged, for a lagging replica the lane's state.
//!
//! A lane's state is durable in the engine's checkpoint, so nothing is written when openraft "builds" a snapshot: it
//! gets the applied id and membership, and [`super::Lane::purge`] may purge up to what the checkpoint holds. The bytes
//! are made by the layer above only when a follower needs them. Rule: a snapshot's last id never passes data that the
//! installing replica would not hold; that is the layer above's to keep in `snapshot` and `install`.

use std::io;

use bytes::Bytes;
use openraft::RaftSnapshotBuilder;
use openraft::storage::Snapshot;

use super::leadership::Standing;
use super::type_config::{CommittedLeader, SnapshotMeta, Types, log_id};

/// What is applied now, as openraft's snapshot meta.
pub(crate) fn meta_of(standing: &Standing) -> SnapshotMeta {
    SnapshotMeta { last_log_id: standing.applied().map(log_id), last_membership: standing.membership() }
}

/// "Builds" a snapshot: the marker, without bytes. openraft keeps only its meta.
pub(crate) struct Marker {
    meta: SnapshotMeta,
}

impl Marker {
    pub(crate) fn new(meta: SnapshotMeta) -> Self {
        Self { meta }
    }
}

impl RaftSnapshotBuilder<Types> for Marker {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot<CommittedLeader, u64, (), Bytes>, io::Error> {
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Bytes::new() })
    }
}
