//! Following a cluster through its bucket: which object to read next, and what its content changes. Pure: no I/O, no
//! clock.
//!
//! Owns: the steps from a root to the records of its partitions, and what of them is refused. Does not own: requests,
//! pauses and retries (`tidewater-read-replica` for a replica cluster, `restore` for a restore); formats (`format`,
//! `manifest`). A *source* is the cluster whose bucket is followed.
//!
//! 1. [`FollowedRoot`] takes root after root and answers which home is served.
//! 2. [`FollowedLane`] is one lane of a home: its *base* (the lane manifest last taken over, with its pages) and its
//!    *tail* (the bundles after it). [`FollowedLane::next`] says what to read; the answer goes to one of the `on_`
//!    functions.
//! 3. [`FollowedPartition`] is one partition of it: where each offset lies, its ends, its leader epochs.
//!
//! ```text
//!   next() =        answer →
//!   Manifest        on_manifest: nothing new → Bundle; a new base → Pages, or Bundle if no page has to be read
//!                   on_no_manifest: a lane that never published begins at bundle 1
//!   Pages           on_pages → Bundle; a page that is missing or damaged: forget_pages → Bundle
//!   Bundle          on_bundle: taken → Bundle (the next); an error → Manifest; a seal → Root
//!                   nothing there: not yet. Ask again later, and after a minute look_at_manifest → Manifest
//!   Root            the lane ended in this home: FollowedRoot says which home goes on; a new FollowedLane begins there
//! ```
//!
//! Rules (R3 and R6 of `DESIGN.md`):
//! - A bundle counts only if it names the checksum of the one before. Overlap with what is known is clipped. A gap is
//!   never accepted; a bundle may begin above the end that is known only up to the log start that it reports (a trim
//!   passed the archived end).
//! - An error changes nothing of what is served.
//! - A new base replaces the tail below its `follow_from`, so the tail is no longer than what the source has bundled
//!   since its last publication; [`TAIL_ENTRIES_MAX`] bounds it while the source publishes nothing.
//! - Within one home no end and no log start that was answered once falls.

mod bundle;
mod error;
mod lane;
mod partition;
mod rebase;
mod root;
mod tail;

pub use error::FollowError;
pub use lane::{Changes, FollowedLane, Next, Purpose, TAIL_ENTRIES_MAX};
pub use partition::FollowedPartition;
pub use rebase::ReadPages;
pub use root::{FollowedRoot, RootError, RootStep, served_home};

#[cfg(test)]
mod tests;
