//! The lane's manifest in the bucket: pages first, then the manifest by put-if-match, then the command.
//!
//! Owns: those puts and what a conflict means. Does not own: what is written (`manifest::plan_publish`). Shard-local.

use tidewater_storage::model::Term;

use super::host::LaneHost;
use super::housekeeping::Housekeeping;
use super::order::{Known, judge_published};
use super::status::Ended;
use super::steps::StepError;
use crate::keys::ObjectName;
use crate::manifest::{Command, PublishPlan, PublishRequest, PublishedLane, plan_publish};
use crate::store::{ETag, PutMode, StoreError};

/// How often a manifest is tried again after it met another version.
const CONFLICTS_MAX: usize = 4;

impl<H: LaneHost> Housekeeping<H> {
    /// Publishes the lane as it is now.
    pub(super) async fn publish(&self) -> Result<bool, StepError> {
        let term = self.shared.term()?;
        // What changes from here on is not in it and makes the next one due.
        self.unpublished.set(false);
        let published = self.publish_as(term).await;
        if published.is_err() {
            self.unpublished.set(true);
        }
        published
    }

    async fn publish_as(&self, term: Term) -> Result<bool, StepError> {
        let (as_of, now) = (self.shared.host.applied(), self.shared.now());
        let mut named = Vec::new();
        let plan = self.shared.host.with_manifests(|lane, partitions| {
            named.extend(partitions.iter().map(|partition| partition.id));
            let facts = |partition| self.shared.host.log_facts(partition);
            let request = PublishRequest { lane, partitions, facts: &facts, as_of, term, now };
            plan_publish(&request, || self.shared.nonce())
        });
        let PublishPlan { pages, name, manifest, mut mode, mut published } = plan;
        // After planning: a topic that comes while the catalogue is written is not in this publication.
        self.shared.ensure_catalogue(named.into_iter()).await?;
        self.shared.will_write();
        for (page, object) in pages {
            self.shared.bucket.store.put(&page.key(), object, PutMode::IfAbsent).await?;
        }
        for _ in 0..CONFLICTS_MAX {
            match self.shared.bucket.store.put(&name.key(), manifest.clone(), mode).await {
                Ok(done) => {
                    published.etag = done.etag.0.to_string();
                    // The grace counts from when readers could see it.
                    published.at = self.shared.now();
                    self.unnamed_to_find.set(true);
                    self.shared.propose(Command::Published(published)).await?;
                    self.publication_ages.borrow_mut().published(as_of, self.shared.env.clock.now());
                    self.shared.note(|status| status.published += 1);
                    return Ok(true);
                }
                Err(StoreError::Taken { .. }) => {
                    mode = self.shared.unless_stopped(async || self.reconcile(name, term).await).await?
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::Later(format!("{name} was written by others {CONFLICTS_MAX} times in a row")))
    }

    /// Another version lies there, or none. If its command was never applied (a lost answer, a predecessor that died),
    /// it is overwritten. Otherwise archiving of the lane stops: a version of a later term is a successor's, and then
    /// the command that stops it is not applied here; or it shows that entries are lost here.
    async fn reconcile(&self, name: ObjectName, term: Term) -> Result<PutMode, StepError> {
        if self.shared.host.leading() != Some(term) {
            return Err(StepError::End(Ended::Deposed));
        }
        let got = match self.shared.bucket.store.get(&name.key(), None).await {
            Err(StoreError::NotFound { .. }) if self.shared.host.with_lane(|lane| lane.etag.is_some()) => {
                return Err(self.shared.manifest_gone(name).await);
            }
            Err(StoreError::NotFound { .. }) => return Ok(PutMode::IfAbsent),
            other => other?,
        };
        let etag: ETag = got.etag;
        let Ok(found) = PublishedLane::decode(&got.body) else {
            tracing::error!(%name, "the lane manifest in the bucket is unreadable and is written again");
            return Ok(PutMode::IfMatch(etag));
        };
        let known = Known { term, applied: self.shared.host.applied() };
        self.shared.host.with_lane(|lane| judge_published(&found, lane, known)).map_err(StepError::Stop)?;
        Ok(PutMode::IfMatch(etag))
    }
}
