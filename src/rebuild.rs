//! Copies a lane's state from its leader to a replica that cannot catch up from the log: a new learner, a broker that
//! lost its disk, one that was away for too long.
//!
//! What is in the bucket is not copied: of each partition its state (with the manifest that says where the archived
//! offsets are) and the local bytes from the archived end on. The lane goes on meanwhile. The replica pulls, in rounds:
//! each partition is taken as of one instant, and the next round brings what changed since. When a round was small, the
//! last one fixes `at`, the entry after which the log continues: the lane's own state and the list of its partitions
//! are as of `at`, its partitions as of `at` or later; from there on the leader holds its log. Entries after `at` that
//! a partition's state covers are skipped when they are applied, as after a start from a checkpoint.
//!
//! **The leader's side** is [`RebuildSource`]: one for each shard, which answers the bodies of `Service::Rebuild`. The
//! caller brings a request to the shard of its lane ([`lane_of`]).
//! **The replica's side**, on the shard of the lane, in this order:
//!   1. The lane's Raft group has ended (`Lane::shutdown`). `Engine::mark_rebuild`, and in the same step no layer above
//!      answers for the lane any more.
//!   2. [`copy`]: marks the lane in the checkpoint (`Engine::begin_rebuild`: its partitions are dropped, its vote
//!      stays; a start finds it marked and begins here again), then pulls. On an error the caller waits and calls it
//!      again; the leader may be another by then.
//!   3. The caller makes the lane from [`Copied`], as from a checkpoint, and answers for it as the engine's source.
//!   4. [`settle`]: removes the mark, takes a checkpoint with applied = `at`, then purges the journal's old entries.
//!   5. `Lane::start` with `from_checkpoint(Some(at), membership)`, `may_initialise: false`. The leader finds that the
//!      replica holds what is purged, and continues with the log. Only now does the replica vote and acknowledge.
//!
//! Wiping the replica's own log is safe because `at` is applied, so committed, and lies above everything that the
//! replica ever stored: nothing that it acknowledged is given up. [`copy`] waits until the other side is that far.
//! Where a lane has no leader, any replica with its state gives it: if the disk of the third is lost meanwhile, the two
//! become a quorum again only by the rebuild.
//!
//! Does not own: when a replica is rebuilt (`Lane::needs_rebuild`, the membership's keeper), the connection. Messages:
//! [`message`]; figures for operators: [`RebuildProgress`]. Affinity: shard-local. Memory: at the leader two chunks and
//! a partition's state; at the replica the states of all partitions of the lane until the lane is made from them (about
//! 5 KiB each), and a few chunks.

pub mod message;
mod progress;
mod replica;
mod source;
#[cfg(test)]
mod tests;

pub use message::lane_of;
pub use progress::{CopyProgress, Forecast, LaneRebuild, RebuildCounts, RebuildFacts, RebuildProgress};
pub use replica::{Copied, CopiedPartition, CopyError, CopyOptions, RebuildCalls, copy, settle, survey};
pub use source::{LaneSource, RebuildSource};
