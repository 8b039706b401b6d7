//! Looks each minute whether the bucket's root names a later lineage epoch: then the cluster was restored elsewhere.
//!
//! Owns: that look, on each broker's controller shard. Does not own: what follows (`partition::superseded`); seals and
//! closed manifests, which the archiver of a lane meets (`tiering::archive`); a root at the start (`Bucket::open`). A
//! root that cannot be read, or is gone, says nothing. Two answers must agree: one may be damaged or misdirected on its
//! way.

use std::rc::Rc;
use std::time::Duration;

use tidewater_tiering::bucket::Bucket;
use tidewater_tiering::keys::LineageEpoch;
use tidewater_tiering::manifest::Root;

use super::run::ShardArchivers;

/// Time between two looks. What is acknowledged in between may be lost to the restored cluster.
const INTERVAL: Duration = Duration::from_mins(1);

impl ShardArchivers {
    /// Ends when another epoch has taken over.
    pub(super) async fn watch_root(self: Rc<Self>, bucket: Bucket) {
        while self.tier.superseded.by().is_none() {
            self.env.tasks.sleep(INTERVAL).await;
            let Some(next) = successor(&bucket).await else { continue };
            if successor(&bucket).await == Some(next) {
                self.tier.superseded.note(bucket.home.epoch, next, "the bucket's root names it");
            }
        }
    }
}

/// The later epoch of this cluster that the root names.
async fn successor(bucket: &Bucket) -> Option<LineageEpoch> {
    let got = bucket.store.get(&bucket.root.name.root_key(), None).await.ok()?;
    let root = Root::decode(&got.body).ok()?;
    (root.cluster == bucket.home.cluster && root.epoch > bucket.home.epoch).then_some(root.epoch)
}
