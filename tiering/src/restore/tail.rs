//! A lane's manifest and how far its bundles go, without its pages: what a cut keeps of a lane, and all that ending a
//! lane takes.
//!
//! Owns: reading that. Does not own: the requests (`freeze`).

use tidewater_storage::model::{LaneId, TimestampMs};

use super::error::RestoreError;
use super::freeze::{LaneEnd, Lanes};
use crate::cuts::CutLaneState;
use crate::keys::Sequence;
use crate::manifest::PublishedLane;

/// See the header.
#[derive(Clone, Debug)]
pub(crate) struct LaneTail {
    pub(crate) lane: LaneId,
    /// `None` if nothing was published yet.
    pub(crate) manifest: Option<PublishedLane>,
    /// The last bundle.
    pub(crate) last: Sequence,
    /// The checksum of its index; 0 if there is no bundle.
    pub(crate) last_crc: u32,
    /// When it was written; -1 if there is none.
    pub(crate) written: TimestampMs,
    pub(crate) end: LaneEnd,
}

impl Lanes {
    /// Reads a lane's tail; ends the lane, if there is an attempt. A damaged manifest is replaced by the one in `cut`.
    pub(crate) async fn tail(&self, lane: LaneId, cut: Option<&CutLaneState>) -> Result<LaneTail, RestoreError> {
        let manifest = self.manifest(lane, cut).await?.map(|(published, _)| published);
        let base = manifest.as_ref().map(|found| (found.follow_from, found.last_crc, found.written));
        let (from, crc, mut written) = base.unwrap_or((Sequence::NONE.next(), 0, TimestampMs::NONE));
        let (mut last, mut last_crc) = (Sequence(from.0.saturating_sub(1)), crc);
        if last == Sequence::NONE {
            written = TimestampMs::NONE;
        }
        let end = self
            .walk(lane, from, crc, |found| {
                if found.index.previous != last_crc {
                    return Err(format!("it does not follow bundle {last}"));
                }
                (last, last_crc, written) = (found.index.sequence, found.at.crc, found.index.written);
                Ok(())
            })
            .await?;
        Ok(LaneTail { lane, manifest, last, last_crc, written, end })
    }
}
