//! The lane's manifest in the bucket: pages first, then the manifest by put-if-match, then the command.
//!
//! Owns: those puts and what a conflict means. Does not own: what is written (`manifest::plan_publish`). Shard-local.

use tidewater_storage::model::Term;

use super::order::{Known, judge_published};
use super::{Ended, Inner, LaneHost, StepError};
use crate::keys::ObjectName;
use crate::manifest::{Command, PublishPlan, PublishRequest, PublishedLane, plan_publish};
use crate::store::{ETag, PutMode, StoreError};

/// How often a manifest is tried again after it met another version.
const CONFLICTS_MAX: usize = 4;

impl<H: LaneHost> Inner<H> {
    /// Publishes the lane as it is now.
    pub(super) async fn publish(&self) -> Result<bool, StepError> {
        let Some(term) = self.host.leading() else { return Err(StepError::End(Ended::Deposed)) };
        self.ensure_catalogue(self.host.partitions().into_iter()).await?;
        // What changes from here on is not in it and makes the next one due.
        self.unpublished.set(false);
        let published = self.publish_as(term).await;
        if published.is_err() {
            self.unpublished.set(true);
        }
        published
    }

    async fn publish_as(&self, term: Term) -> Result<bool, StepError> {
        let (as_of, now) = (self.host.applied(), self.now());
        let plan = self.host.with_manifests(|lane, partitions| {
            let request = PublishRequest { lane, partitions, as_of, term, now };
            plan_publish(&request, || self.nonce())
        });
        let PublishPlan { pages, name, manifest, mut mode, mut published } = plan;
        self.wrote.set(true);
        for (page, object) in pages {
            self.bucket.store.put(&page.key(), object, PutMode::IfAbsent).await?;
        }
        for _ in 0..CONFLICTS_MAX {
            match self.bucket.store.put(&name.key(), manifest.clone(), mode).await {
                Ok(done) => {
                    published.etag = done.etag.0.to_string();
                    // The grace counts from when readers could see it.
                    published.at = self.now();
                    self.unlooked.set(true);
                    self.propose(Command::Published(published)).await?;
                    self.standing.borrow_mut().published(as_of, self.env.clock.now());
                    self.note(|status| status.published += 1);
                    return Ok(true);
                }
                Err(StoreError::Taken { .. }) => {
                    mode = self.unless_stopped(async || self.reconcile(name, term).await).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::Later(format!("{name} was written by others {CONFLICTS_MAX} times in a row")))
    }

    /// Another version lies there: one whose command was never applied (a lost answer, a predecessor that died), which is
    /// overwritten, or one that means this replica must not. One of a later term is a successor's, and then the command
    /// that stops the lane is not applied, or it shows that entries are lost here.
    async fn reconcile(&self, name: ObjectName, term: Term) -> Result<PutMode, StepError> {
        if self.host.leading() != Some(term) {
            return Err(StepError::End(Ended::Deposed));
        }
        let got = match self.bucket.store.get(&name.key(), None).await {
            Err(StoreError::NotFound { .. }) => return Ok(PutMode::IfAbsent),
            other => other?,
        };
        let etag: ETag = got.etag;
        let Ok(found) = PublishedLane::decode(&got.body) else {
            tracing::error!(%name, "the lane manifest in the bucket is unreadable and is written anew");
            return Ok(PutMode::IfMatch(etag));
        };
        let known = Known { term, applied: self.host.applied() };
        self.host.with_lane(|lane| judge_published(&found, lane, known)).map_err(StepError::Stop)?;
        Ok(PutMode::IfMatch(etag))
    }
}
