//! What the newest leader's manifests name is in the bucket.

use tidewater::partition::state::lane::DataLane;

use crate::cluster::world::Cluster;

pub(crate) fn check(cluster: &Cluster, lane: &DataLane) {
    let objects = cluster.bucket.objects();
    for replica in lane.replicas() {
        for row in &replica.manifest().rows {
            let key = row.object().key();
            assert!(objects.contains_key(key.as_str()), "{}: {key} is named by the leader and not there", replica.id);
        }
    }
}
