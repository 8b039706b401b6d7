//! Looks each minute at the bucket's root. If it names a later lineage epoch, the cluster was restored elsewhere. If it
//! is gone, or another cluster's, the bucket was emptied or is another one.
//!
//! Owns: that look, on each broker's controller shard. Does not own: what follows (`partition::superseded`, `root`);
//! seals and closed manifests, which the archiver of a lane meets (`tiering::archive`); a root at the start
//! (`Bucket::open`). A root that cannot be read says nothing. Two answers must agree: one may be damaged or misdirected
//! on its way.

use std::rc::Rc;
use std::time::Duration;

use tidewater_tiering::bucket::Bucket;
use tidewater_tiering::keys::LineageEpoch;
use tidewater_tiering::manifest::Root;
use tidewater_tiering::store::StoreError;

use super::run::ShardArchivers;

/// Time between two looks. What is acknowledged in between may be lost to the restored cluster.
const INTERVAL: Duration = Duration::from_mins(1);
/// The same while the root is gone.
const GONE_INTERVAL: Duration = Duration::from_secs(10);
/// Between an answer that changes something and the one that confirms it.
const AGAIN: Duration = Duration::from_secs(1);

/// What the root says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RootSeen {
    /// It is this cluster's, in this epoch.
    Own,
    /// The cluster goes on in this later epoch.
    Later(LineageEpoch),
    /// It is not this cluster's, or not there; why.
    Gone(String),
}

impl ShardArchivers {
    /// Ends when another epoch has taken over.
    pub(super) async fn watch_root(self: Rc<Self>, bucket: Bucket) {
        let root = &self.tier.root;
        while self.tier.superseded.by().is_none() {
            self.env.tasks.sleep(if root.is_gone() { GONE_INTERVAL } else { INTERVAL }).await;
            let Some(seen) = look(&bucket).await else { continue };
            if seen == RootSeen::Own && !root.is_gone() {
                continue;
            }
            self.env.tasks.sleep(AGAIN).await;
            if look(&bucket).await.as_ref() != Some(&seen) {
                continue;
            }
            match seen {
                RootSeen::Own => root.found(&self.tier.url),
                RootSeen::Later(next) => {
                    self.tier.superseded.note(bucket.home.epoch, next, "the bucket's root names it");
                }
                RootSeen::Gone(why) => root.lost(&self.tier.url, why),
            }
        }
    }
}

/// `None` if the root cannot be read now.
async fn look(bucket: &Bucket) -> Option<RootSeen> {
    let (home, key) = (bucket.home, bucket.root.name.root_key());
    let got = match bucket.store.get(&key, None).await {
        Ok(got) => got,
        Err(StoreError::NotFound { .. }) => {
            return Some(RootSeen::Gone(format!("the cluster's root {key} is gone from the bucket")));
        }
        Err(_) => return None,
    };
    let root = Root::decode(&got.body).ok()?;
    Some(match () {
        () if root.cluster != home.cluster => RootSeen::Gone(format!(
            "{key} is the root of another cluster ({}), this one is {}",
            root.cluster, home.cluster
        )),
        () if root.epoch > home.epoch => RootSeen::Later(root.epoch),
        () if root.epoch < home.epoch => RootSeen::Gone(format!(
            "the root {key} is of epoch {}, this cluster is in epoch {}",
            root.epoch, home.epoch
        )),
        () => RootSeen::Own,
    })
}
