//! How many objects cuts may hold back: a lane whose state lists too many that wait for their deletion releases the
//! oldest cut.
//!
//! Owns: the count, and when it is made. Does not own: which cuts there are (`cuts`), what a horizon holds (`held`).
//! Shard-local. The names lie in the replicated states of lane and partitions, in memory and in every checkpoint. A
//! week of them is little for most lanes (`DESIGN.md` has figures); without a bound, partitions with small objects and
//! a short retention would make states that no checkpoint and no memory takes. The newest cut is never released here.

use super::host::LaneHost;
use super::housekeeping::Housekeeping;
use super::steps::StepError;
use crate::cuts::release_oldest;

impl<H: LaneHost> Housekeeping<H> {
    /// Releases the oldest cut if too many objects wait for their deletion, and says so.
    pub(super) async fn relieve(&self) -> Result<bool, StepError> {
        let shared = &*self.shared;
        // Without cuts nothing waits longer than the grace.
        if self.horizon_read().flatten().is_none() {
            return Ok(false);
        }
        let (of_partition, of_lane) = shared.config.pending_max;
        let mut names = shared.host.with_lane(|lane| lane.pending.len());
        let mut most = 0;
        for partition in shared.host.partitions() {
            let waiting = shared.host.with_partition(partition, |manifest| manifest.pending.len()).unwrap_or(0);
            names += waiting;
            most = most.max(waiting);
        }
        if most <= of_partition && names <= of_lane {
            return Ok(false);
        }
        let term = shared.term()?;
        shared.confirm_leadership(term).await?;
        let lane = shared.host.lane();
        let released = match release_oldest(&*shared.bucket.store, shared.bucket.home, lane).await {
            Ok(released) => released,
            Err(error) => return Err(StepError::Later(format!("the oldest cut is not released: {error}"))),
        };
        let Some(cut) = released else { return Ok(false) };
        // What it held may go as soon as the index is read again.
        self.cuts_read.set(None);
        tracing::warn!(
            %lane,
            cut = cut.number,
            at = cut.at.0,
            names,
            "cuts hold back more objects than a lane may list: the oldest cut is released"
        );
        Ok(true)
    }
}
