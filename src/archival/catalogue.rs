//! Keeps what the bucket's catalogue says of topics equal to the controller's state.
//!
//! Owns: noticing a changed topic. A setting that is changed while nothing is archived makes no bundle and no
//! publication, so without this a restore would apply the old one. Only the broker that leads the controller's lane
//! does so, and only it writes a damaged catalogue again, and the list of topics that are not archived: its image is
//! the newest there is. Does not own: the catalogue
//! (`tiering::bucket`), topics that have nothing in the bucket yet (the leader of their lane names them before their
//! first bundle). On the controller's shard.

use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures::future::{Either, select};
use tidewater_storage::model::TopicId;
use tidewater_tiering::bucket::CatalogueKeeper;
use tidewater_tiering::manifest::CatalogueTopic;

use super::host::Host;
use super::leads_controller;
use super::run::ShardArchivers;
use crate::controller::image::ClusterImage;

/// Changes of topics within this time reach the catalogue together.
const TOGETHER: Duration = Duration::from_secs(1);
/// First and longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// With several brokers the catalogue is read again after this long, in case another met a damaged one.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl ShardArchivers {
    pub(super) fn leads_controller(&self) -> bool {
        leads_controller(&self.controller.image(), &self.controller.leaders())
    }

    /// Runs as long as the shard. Topics changed before this broker led are compared with the catalogue once it leads.
    pub(super) async fn follow_topics(self: Rc<Self>, catalogue: Rc<CatalogueKeeper>) {
        let mut seen = None;
        let mut pause = BACKOFF.0;
        loop {
            // A catalogue that is written into an emptied bucket would name only what changes from now on.
            self.tier.root.until_found().await;
            let led = self.controller.leaders_changed();
            if !self.leads_controller() {
                seen = None;
                select(pin!(led), pin!(self.env.tasks.sleep(LOOK_AGAIN))).await;
                continue;
            }
            let image = self.controller.image();
            // A damaged catalogue is written again from the image.
            let whole = || self.leads_controller().then(|| Host::whole_catalogue(&image, None)).flatten();
            let changed = if seen == Some(image.revision) || image.revision == 0 {
                let (next, led) = (pin!(self.controller.image_after(image.revision)), pin!(led));
                let news = select(next, led);
                if image.brokers.len() <= 1 {
                    news.await;
                    continue;
                }
                let Either::Right(_) = select(news, pin!(self.env.tasks.sleep(LOOK_AGAIN))).await else { continue };
                catalogue.look_again();
                BTreeMap::new()
            } else {
                changed_topics(&image, seen)
            };
            match catalogue.refresh(changed, Host::unarchived_topics(&image), &whole).await {
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
}

/// Topics that changed after revision `seen`; all of them if it is `None`.
fn changed_topics(image: &ClusterImage, seen: Option<u64>) -> BTreeMap<TopicId, CatalogueTopic> {
    let changed = image.topics.values().filter(|topic| seen.is_none_or(|seen| topic.revision > seen));
    changed.map(|topic| (topic.id, Host::catalogue_topic(topic, None))).collect()
}
