//! The image of the applied state, shown on every shard.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select};
use tidewater_storage::model::ShardId;

use super::Controller;
use crate::controller::ask::{Answered, Ask};
use crate::controller::image::ClusterImage;
use crate::controller::leaders::LeaderReport;
use crate::controller::reconcile::Reconcile;
use crate::limits::FOLLOWED_PATIENCE;

/// Requests that are written together are shown together, unless they take longer than this.
const WRITTEN_PATIENCE: Duration = Duration::from_millis(50);

/// After a start, the state as the last checkpoint and the journal have it is shown after this time.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(2);

impl Controller {
    /// Shows the state whenever it has moved. A broker alone shows none before it leads and has done its duties:
    /// clients would see what the log's end changes.
    pub(super) async fn show_images(self: Rc<Self>) {
        loop {
            let moved = self.lane.changed.notified();
            let is_born = !self.lane.state().cluster.is_nil();
            if is_born && (!self.is_alone() || self.settled.get()) {
                break;
            }
            select(pin!(moved), pin!(self.settled_moved.notified())).await;
        }
        if !self.is_alone() {
            self.catch_up().await;
        }
        loop {
            let moved = self.lane.changed.notified();
            self.until_written().await;
            if self.lane.state().revision > self.last.borrow().as_ref().map_or(0, |last| last.revision) {
                let image = self.current();
                self.show(image).await;
            } else {
                moved.await;
            }
        }
    }

    /// Waits until this broker's copy of the state is as new as the leader's was, or for a while: without a quorum
    /// there is no newer one, and the lanes that have one serve what this copy names.
    async fn catch_up(&self) {
        let caught_up = async {
            let Ok(Answered::Quorum(quorum)) = self.ask(Ask::Quorum, CATCH_UP_PATIENCE).await else { return };
            loop {
                let moved = self.lane.changed.notified();
                if self.lane.state().revision >= quorum.revision {
                    return;
                }
                moved.await;
            }
        };
        let pause = self.env.tasks.sleep(CATCH_UP_PATIENCE);
        select(pin!(caught_up), pin!(pause)).await;
    }

    async fn until_written(&self) {
        let written = async {
            loop {
                let written = self.written.notified();
                if !self.writing.get() {
                    return;
                }
                written.await;
            }
        };
        let pause = self.env.tasks.sleep(WRITTEN_PATIENCE);
        if self.writing.get() {
            select(pin!(written), pin!(pause)).await;
        }
    }

    fn current(&self) -> Arc<ClusterImage> {
        let mut last = self.last.borrow_mut();
        let image = Arc::new(self.lane.state().image(&self.options.around, last.as_deref()));
        *last = Some(Arc::clone(&image));
        image
    }

    /// Sends an image to every shard and waits until all show it.
    async fn show(&self, image: Arc<ClusterImage>) {
        let asked = (0..self.shards.shards()).map(|shard| {
            let image = Arc::clone(&image);
            let ask = self.shards.call(ShardId(shard), move |reply| Reconcile::Image { image, reply });
            async move { (ShardId(shard), ask.await) }
        });
        for (shard, lanes) in join_all(asked).await {
            if let Ok(lanes) = lanes {
                self.own.borrow_mut().insert(shard, lanes);
            }
        }
        self.own_moved();
        let lanes = self.own.borrow().values().flatten().cloned().collect();
        self.take(&LeaderReport { from: image.here, lanes, full: None }).await;
        self.shown.set(image.revision);
        if let Some(images) = &self.images {
            images.send_replace(image);
        }
        self.shown_moved.notify_waiters();
    }

    /// Waits until every shard shows an image of this revision, or for a while.
    pub(super) async fn until_shown(&self, revision: u64) {
        let shown = async {
            loop {
                let moved = self.shown_moved.notified();
                if self.shown.get() >= revision {
                    return;
                }
                moved.await;
            }
        };
        let pause = self.env.tasks.sleep(FOLLOWED_PATIENCE);
        select(pin!(shown), pin!(pause)).await;
    }
}
