//! Keeps what the bucket's catalogue says of this shard's topics equal to the controller's state.
//!
//! Owns: noticing a changed topic. A setting that is changed while nothing is archived makes no bundle and no
//! publication, so without this a restore would apply the old one. Does not own: the catalogue (`tiering::bucket`),
//! topics that have nothing in the bucket yet (their first bundle names them). Shard-local.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tidewater_storage::model::TopicId;
use tidewater_tiering::bucket::CatalogueKeeper;
use tidewater_tiering::manifest::CatalogueTopic;

use super::host::Host;
use super::run::ShardArchivers;
use crate::controller::image::ClusterImage;

/// Changes of topics within this time reach the catalogue together.
const TOGETHER: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl ShardArchivers {
    /// Runs as long as the shard. Topics changed before the start are compared with the catalogue at the start.
    pub(super) async fn follow_topics(self: Rc<Self>, catalogue: Rc<CatalogueKeeper>) {
        let mut seen = None;
        let mut pause = BACKOFF.0;
        loop {
            let image = self.controller.image_after(seen.unwrap_or_default()).await;
            let changed = self.changed_topics(&image, seen);
            let lanes = self.shard.lanes();
            // A damaged catalogue is written again from all that this broker knows.
            let whole = || lanes.first().and_then(|lane| Host::whole_catalogue(&image, lane));
            match catalogue.refresh(changed, &whole).await {
                Ok(()) => {
                    (seen, pause) = (Some(image.revision), BACKOFF.0);
                    self.env.tasks.sleep(TOGETHER).await;
                }
                Err(error) => {
                    tracing::warn!(%error, ?pause, "a topic's change is not in the bucket's catalogue yet; trying again");
                    self.env.tasks.sleep(pause).await;
                    pause = (pause * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// This shard's topics that changed after revision `seen`; all of them if it is `None`.
    fn changed_topics(&self, image: &ClusterImage, seen: Option<u64>) -> BTreeMap<TopicId, CatalogueTopic> {
        let mut changed = BTreeMap::new();
        for topic in image.topics.values().filter(|topic| seen.is_none_or(|seen| topic.revision > seen)) {
            for lane in self.shard.lanes() {
                if topic.partitions.iter().any(|partition| partition.lane == lane.id) {
                    let here = Host::catalogue_topic(&lane, topic);
                    let merged = changed.get(&topic.id).map(|other| CatalogueTopic::newer(other, &here));
                    changed.insert(topic.id, merged.unwrap_or(here));
                }
            }
        }
        changed
    }
}
