//! Ranges set aside because they failed a check: each keeps only its own partition back.
//!
//! Owns: setting aside, what is left to archive beside it, letting go of a range into which the log start was moved. Does
//! not own: the checks (`verify`, `gather`, `scrub`), the end of a quarantine by a repair (`segment`, `scrub`). Shard-local.

use std::time::Duration;

use super::{Inner, LaneHost, Pending, Rest, StepError};
use crate::manifest::{Command, Quarantine};

impl<H: LaneHost> Inner<H> {
    /// What waits, cut off before quarantined ranges: one bad range keeps only its own partition back. Beside it the
    /// ranges into which a log start was moved since.
    pub(super) fn pending(&self) -> (Vec<Pending>, Vec<Quarantine>) {
        let (mut pending, mut passed) = (self.host.pending(), Vec::new());
        for piece in &mut pending {
            let partition = piece.partition;
            let bad = self.host.with_partition(partition, |manifest| {
                manifest
                    .quarantine_in(piece.offsets)
                    .map(|range| (range.offsets, range.offsets.start < manifest.log_start))
            });
            let Some(Some((offsets, moved))) = bad else { continue };
            piece.offsets.end = offsets.start.max(piece.offsets.start);
            if moved {
                passed.push(Quarantine { partition, offsets, reason: String::new() });
            }
        }
        pending.retain(|piece| !piece.offsets.is_empty());
        (pending, passed)
    }

    /// A log start in the middle of a range has perhaps passed what was bad in it: the range is let go, and what is left
    /// of it read again. A command of its own, so that an old log is applied as it always was.
    pub(super) async fn judge_afresh(&self, passed: Vec<Quarantine>) -> Result<Rest, StepError> {
        for range in passed {
            tracing::info!(partition = %range.partition, offsets = %range.offsets, "log start moved into a quarantined range: the rest is read again");
            self.propose(Command::Repaired(range)).await?;
        }
        Ok(Rest::For(Duration::ZERO))
    }

    /// Sets a range aside, once.
    pub(super) async fn quarantine(&self, bad: Quarantine) -> Result<(), StepError> {
        let Quarantine { partition, offsets, reason } = &bad;
        let known = self.host.with_partition(*partition, |manifest| {
            manifest.quarantined.iter().any(|range| range.offsets.intersect(offsets) == *offsets)
        });
        if known != Some(false) {
            return Ok(());
        }
        tracing::error!(%partition, %offsets, reason, "range quarantined: if it is not in the bucket yet its partition waits for it, if it is the scrubber looks at it again");
        self.propose(Command::Quarantined(bad)).await
    }
}
