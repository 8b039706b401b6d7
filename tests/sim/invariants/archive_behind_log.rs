//! The archive never passes the log's end, no lane stops archiving by itself, manifests hold their own predicates.

use std::collections::BTreeMap;

use tidewater::partition::state::lane::DataLane;
use tidewater::partition::state::replica::Replica;
use tidewater_tiering::manifest::check_lane;

pub(crate) fn check(replica: &Replica) {
    let (partition, end, archived) = (replica.id, replica.high_watermark(), replica.manifest().archived_end);
    assert!(archived <= end, "{partition}: archived up to {archived}, the log ends at {end}");
}

pub(crate) fn check_lane_now(lane: &DataLane) {
    let manifests: BTreeMap<_, _> = lane.replicas().iter().map(|r| (r.id, r.manifest().clone())).collect();
    let held = lane.archive();
    assert!(held.stopped.is_none(), "the lane stopped archiving: {:?}", held.stopped);
    check_lane(&held, &manifests).unwrap_or_else(|violation| panic!("{violation}"));
}
