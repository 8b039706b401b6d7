//! One shard's storage: journal, partition logs and checkpoint tied together, and the only task that works on them
//! unasked.
//!
//! Owns: opening and recovery, write-back, when a checkpoint is taken and in which order, what is removed and when,
//! admission. Does not own: what is committed, what the layers above keep of a lane or partition (they answer through
//! [`CheckpointSource`]), when a lane's log is purged (they are told what is durable and purge it). Shard-local.
//!
//! **Ordering.** A checkpoint takes all changed records at one instant, without an await; writes and syncs the segments
//! those records name; flushes the journal where something applied is ahead of what it has durable; commits the records; only then
//! tells what may be purged, and removes the files that the records before still named. **Recovery.** The checkpoint,
//! then the journal's lanes as they are; the layer above applies again from a lane's applied entry on, and skips what
//! a partition's as-of already covers. **Errors.** A full disk passes. Any other failed write, and every failed sync,
//! ends the engine: it says so through [`CheckpointSource::failed`] and the process must end and recover.
//!
//! Invariants: E1 no root names bytes that are not synced. E2 no root holds a lane applied beyond what the journal has
//! durable. E3 no file goes while a valid root names it: the root in the other slot may, but it is used only if this
//! one never was durable.
//!
//! One task a shard; idle partitions have no task, no timer, no open file.

mod checkpointing;
mod config;
mod error;
mod handle;
mod open;
pub(crate) mod records;
mod relocate;
mod removal;
mod source;
mod upkeep;

#[cfg(test)]
mod tests;

pub use config::EngineConfig;
pub use error::{EngineError, OpenError, Refused};
pub use handle::Engine;
pub use open::{Recovered, RecoveredLane, RecoveredPartition};
pub use relocate::{RelocateError, Relocated, relocate};
pub use source::{CheckpointSource, LaneCheckpoint, PartitionCheckpoint};
