//! What following shows of itself, for metrics and `replica describe`. *Messages*.

use tidewater_storage::model::{LaneId, TimestampMs};
use tidewater_tiering::keys::{Home, LineageEpoch, Sequence};

/// A followed lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneStatus {
    /// The home whose records are served.
    pub home: Home,
    pub lane: LaneId,
    /// The last bundle that is served.
    pub sequence: Sequence,
    /// When it was written, by the source's clock; [`TimestampMs::NONE`] before the first.
    pub written: TimestampMs,
    /// How old what is served may be, in milliseconds, beside what the source has not archived yet: the time since the
    /// bucket last had nothing newer; while it has, the age of the last bundle. `None` before the first answer.
    pub lag_ms: Option<u64>,
    /// Had the bucket nothing newer at least once, in this home? Before, ends may lie below what another follower has
    /// served.
    pub has_caught_up: bool,
    /// Partitions known, dropped ones too.
    pub partitions: usize,
    /// Ranges and events since the lane manifest last taken over.
    pub tail_entries: usize,
    pub requests: Requests,
    pub waits_for: WaitsFor,
    /// Why the last request did not help.
    pub error: Option<String>,
}

/// What comes next in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Its first manifest.
    Manifest,
    /// This bundle.
    Bundle(Sequence),
    /// The lane ended in this home; a restore goes on with it in this epoch once it has switched.
    Switch(LineageEpoch),
}

/// Requests to the source's bucket since the start, answered or not. Reads of records are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Roots and catalogues.
    pub roots: u64,
    /// Lane manifests.
    pub manifests: u64,
    /// Pages of lane manifests.
    pub pages: u64,
    /// Bundles that were there.
    pub bundles: u64,
    /// Bundles that were not there (yet).
    pub missing: u64,
    /// Requests that failed.
    pub failed: u64,
}

impl Requests {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.roots + self.manifests + self.pages + self.bundles + self.missing + self.failed
    }
}
