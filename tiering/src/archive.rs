//! The archiver of one led lane: [`Archiver`].
//!
//! Two loops in one future, each plan → run → commit → apply: [`bundle_loop`] makes bundles of new bytes,
//! [`housekeeping`] does everything else, in order of urgency: topics deleted, parts given rows, log starts moved,
//! segment objects, gathering, spilling, publishing, forgetting, deleting. What must precede what is [`order`].
//! Owns: the two loops and what they share ([`context`]). Does not own: state (the lane does, through [`LaneHost`]),
//! the store. Shard-local. **Cancellation**: the future may be dropped at any await; a new archiver on any replica goes
//! on from replicated state. One command is in flight at a time.

mod adopt;
mod bundle;
mod bundle_loop;
mod collect;
mod config;
mod context;
mod gather;
mod grace;
mod held;
pub mod host;
mod housekeeping;
pub mod order;
mod parts;
pub mod plan;
mod publish;
mod relieve;
pub mod scrub;
mod segment;
/// A lane in memory, for simulations here and in other crates.
#[doc(hidden)]
#[path = "archive/tests/lane.rs"]
pub mod sim;
mod status;
mod steps;
mod sweep;
mod unread;
pub mod verify;

#[cfg(test)]
mod tests;

use std::pin::pin;
use std::rc::Rc;

use futures::future::{Either, select};
use tidewater_storage::env::Env;

use crate::bucket::{Bucket, CatalogueKeeper};
use crate::fetch::Indexes;
use crate::manifest::Command;
use bundle_loop::BundleLoop;
pub use config::ArchiveConfig;
use context::LaneContext;
pub use host::{
    LaneHost, LaneState, LocalLog, LocalRead, LocalReadError, LocalSegment, Loop, Propose, ProposeError, TopicFacts,
    Whereabouts,
};
use housekeeping::Housekeeping;
pub use order::StopReason;
pub use plan::Unarchived;
pub use scrub::{ScrubPosition, ScrubReport};
pub use status::{ArchiveStatus, Ended};
use steps::StepError;

/// What an archiver is made of.
pub struct ArchiverParts<H> {
    pub env: Env,
    pub host: Rc<H>,
    pub bucket: Bucket,
    /// The shard's keeper of the catalogue.
    pub catalogue: Rc<CatalogueKeeper>,
    /// The shard's index cache ([`crate::fetch::RemoteReader::indexes`]).
    pub indexes: Indexes,
    pub config: ArchiveConfig,
}

/// Archives one led lane for as long as [`Archiver::run`] is polled. *Shard-local*, cheap to clone.
pub struct Archiver<H> {
    shared: Rc<LaneContext<H>>,
    bundles: Rc<BundleLoop<H>>,
    housekeeping: Rc<Housekeeping<H>>,
}

impl<H> Clone for Archiver<H> {
    fn clone(&self) -> Self {
        Self {
            shared: Rc::clone(&self.shared),
            bundles: Rc::clone(&self.bundles),
            housekeeping: Rc::clone(&self.housekeeping),
        }
    }
}

impl<H: LaneHost> Archiver<H> {
    /// For a lane that this replica leads. Nothing happens before [`Archiver::run`].
    #[must_use]
    pub fn new(parts: ArchiverParts<H>) -> Self {
        let ArchiverParts { env, host, bucket, catalogue, indexes, config } = parts;
        let shared = Rc::new(LaneContext::new(env, host, bucket, catalogue, indexes, config));
        let bundles = Rc::new(BundleLoop::new(Rc::clone(&shared)));
        let housekeeping = Rc::new(Housekeeping::new(Rc::clone(&shared)));
        Self { shared, bundles, housekeeping }
    }

    #[must_use]
    pub fn status(&self) -> ArchiveStatus {
        let mut status = self.shared.status.borrow().clone();
        status.stopped = self.shared.host.with_lane(|lane| lane.stopped.clone());
        status.unread = self.bundles.unread_reasons();
        status
    }

    /// Archives until the replica is deposed or a command's outcome is unknown.
    pub async fn run(&self) -> Ended {
        let bundles = pin!(self.bundles.run());
        let housekeeping = pin!(self.housekeeping.run());
        match select(bundles, housekeeping).await {
            Either::Left((ended, _)) | Either::Right((ended, _)) => ended,
        }
    }

    /// Resumes the lane's archiving, for an operator. Returns the reason that had stopped it, `None` if it was not
    /// stopped. The next key is looked at before anything is written: a reason that is still there stops archiving
    /// again.
    ///
    /// # Errors
    /// The command was not applied here, and why.
    pub async fn resume(&self) -> Result<Option<String>, ProposeError> {
        let shared = &self.shared;
        let _one = shared.proposing.lock().await;
        let Some(reason) = shared.host.with_lane(|lane| lane.stopped.clone()) else { return Ok(None) };
        shared.note(|status| status.probed = false);
        shared.host.propose(Command::Stopped { reason: None }).await?;
        tracing::info!(lane = %shared.host.lane(), reason, "archiving of the lane goes on by an operator's word");
        Ok(Some(reason))
    }

    /// Reads and checks about `bytes_max` of what the lane has in the bucket, from `from` on (the beginning if `None`);
    /// what fails is quarantined, or repaired where the local log still holds it. Housekeeping does so by itself.
    ///
    /// # Errors
    /// Why the archiver must end, as from [`Archiver::run`].
    pub async fn scrub(&self, from: Option<ScrubPosition>, bytes_max: u64) -> Result<ScrubReport, Ended> {
        match self.housekeeping.scrub(from, bytes_max).await {
            Ok(report) => Ok(report),
            Err(StepError::End(ended)) => Err(ended),
            Err(StepError::Later(reason)) => Ok(ScrubReport { failed: Some(reason), ..ScrubReport::default() }),
            Err(StepError::Stop(reason)) => {
                Ok(ScrubReport { failed: Some(reason.to_string()), ..ScrubReport::default() })
            }
        }
    }
}
