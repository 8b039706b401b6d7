//! One shard's storage: journal, partition logs and checkpoint together, and the one task that works on them.
//!
//! Owns: opening and recovery, write-back, when a checkpoint is taken and in which order, which files are removed and
//! when, admission. Does not own: what is committed; what the layers above keep for a lane or partition (they answer
//! through [`CheckpointSource`]); when a lane's log is purged (the layer above purges what a checkpoint made durable).
//! Shard-local.
//!
//! **Ordering.** A checkpoint (1) encodes all changed records at one instant, without an await; (2) writes and syncs
//! the segments that those records name; (3) flushes the journal if anything applied is not yet durable in it; (4)
//! commits the records; (5) only then reports what may be purged, and removes files that only older records name.
//! **Recovery.** The checkpoint, then the journal's lanes; the layer above applies again from a lane's applied entry
//! on, and skips what a partition's as-of already covers. **Errors.** After a full disk the work is tried again. Any
//! other failed write, and every failed sync, ends the engine: it calls [`CheckpointSource::failed`], and the process
//! must end and recover.
//!
//! Invariants: E1 no root names bytes that are not synced. E2 no root holds a lane applied beyond what is durable in
//! the journal. E3 no file is removed while the newest durable root names it; the root in the other slot may, but that
//! one is used only if the newest never was durable.
//!
//! One task a shard; an idle partition has no task, no timer, no open file.

mod checkpointing;
mod config;
mod error;
mod handle;
mod open;
mod rebuild;
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
pub use rebuild::{ChangeWatch, PartitionCopy};
pub use relocate::{RelocateError, Relocated, relocate};
pub use source::{CheckpointSource, LaneCheckpoint, PartitionCheckpoint};
