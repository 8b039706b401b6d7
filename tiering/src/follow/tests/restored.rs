//! What a restored lane begins with, in its simplest form.

use std::collections::BTreeMap;

use tidewater_storage::model::{LogIndex, PartitionId};

use crate::follow::FollowedLane;
use crate::keys::Home;
use crate::manifest::{LaneManifest, Live, PartitionManifest};

pub(super) fn restored(
    followed: &FollowedLane,
    home: Home,
) -> (LaneManifest, BTreeMap<PartitionId, PartitionManifest>) {
    let at = LogIndex(1);
    let state = followed.state().expect("it was followed for a restore");
    let live = state.live.iter().map(|(object, live)| (*object, Live { since: at, ..live.clone() }));
    let mut lane = LaneManifest::new(home, followed.lane());
    (lane.live, lane.changed) = (live.collect(), Some(at));
    let partition =
        |manifest: &PartitionManifest| PartitionManifest { changed: Some(at), pending: Vec::new(), ..manifest.clone() };
    let partitions = followed.partitions().values().map(|known| (known.id(), partition(known.manifest()))).collect();
    (lane, partitions)
}
